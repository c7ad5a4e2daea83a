"""The experiment folder: what a finished configuration leaves for people and other tools (CONTRACT.md section 3)."""

from __future__ import annotations

import csv
import io
import shutil
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from clir_cli import config, ir_metadata, provenance, reranking
from clir_cli.config import Config
from clir_cli.docstore import Docstore
from clir_cli.errors import DataError, many
from clir_cli.files import again, read_json, write_json, write_text
from clir_cli.progress import say
from clir_cli.selection import select
from clir_cli.stages import Stages, pair_label
from clir_cli.steps import KEY, Ranking, Step, digest, ordered
from clir_cli.store import Store, read_lists
from clir_cli.types import Qrel

if TYPE_CHECKING:
    from clir_cli.types import Run

METRICS = [
    "experiment",
    "dataset",
    "split",
    "judgments",
    "query_lang",
    "doc_lang",
    "query_fields",
    "retriever",
    "retrieve_query",
    "retrieve_doc",
    "reranker",
    "llm",
    "rerank_query",
    "rerank_doc",
    "depth",
    "rerank_depth",
    "repeat",
    "stage",
    "measure",
    "value",
    "topics",
    "topics_without_relevant",
]
PER_QUERY = ["experiment", "judgments", "stage", "query_id", "measure", "value"]
QUERIES = [
    "experiment",
    "query_id",
    "calls",
    "rounds",
    "prompt_tokens",
    "output_tokens",
    "seconds",
    "repaired",
    "failed",
    "cut_share",
]
COSTS = [
    "experiment",
    "step",
    "cached",
    "seconds",
    "documents",
    "queries",
    "calls_asked",
    "calls_answered_from_cache",
    "rounds",
    "prompt_tokens",
    "cached_prefix_tokens",
    "output_tokens",
    "repaired",
    "failed",
    "usd",
]
RUNS = ("first_stage.trec", "rerank_*.trec", "run.trec")  # the rankings of an experiment folder
TABLES = {"metrics.csv": METRICS, "per_query.csv": PER_QUERY, "costs.csv": COSTS}  # what a sweep concatenates


@dataclass
class Experiment:
    """One configuration, its steps, and the folder that its final ranking gets."""

    cfg: Config
    stages: Stages
    made: set[str] = field(default_factory=set)  # keys of the steps that this process made rather than found

    def __post_init__(self) -> None:
        self.store.pins.update(self.cfg.plain.get("models", {}))

    @property
    def store(self) -> Store:
        return self.stages.store

    @cached_property
    def first(self) -> Ranking:
        return self.stages.first_stage(self.cfg)

    @cached_property
    def second(self) -> list[Ranking]:
        return self.stages.second_stages(self.cfg, self.first)

    @cached_property
    def rankings(self) -> dict[str, Ranking]:
        """stage -> ranking: first_stage, then rerank_1, ... where there are several rerankers, and final."""
        between = {f"rerank_{i}": r for i, r in enumerate(self.second, 1)} if len(self.second) > 1 else {}
        return {"first_stage": self.first, **between, "final": [self.first, *self.second][-1]}

    @cached_property
    def steps(self) -> list[Step]:
        """Every step, in an order in which they can be made, with the collection itself for checking the judgments."""
        collection = [self.stages.docs(self.cfg, lang) for lang in self.cfg.dataset.doc_langs]
        return ordered([*collection, self.stages.topics(self.cfg), *(r.step for r in self.rankings.values())])

    @property
    def name(self) -> str:
        """`bm25_dt+listwise`: retriever and reranker, as the folder is called."""
        labels = self.cfg.labels
        return labels["retriever"] + (f"+{labels['reranker']}" if self.second else "")

    def key(self) -> str | None:
        """The identity of the final ranking and of the topics that are averaged; None until what it ranks is known."""
        chain = [self.store.key(step) for step in self.rankings["final"].steps]
        if None in chain or self.store.key(self.first.step) is None:
            return None
        said = {"chain": chain, "first": self.store.key(self.first.step), "pair": pair_label(self.cfg)}
        if (policy := self.cfg.evaluate.topics) != "judged":  # a folder's CSVs hold one policy
            said["topics"] = policy
        return digest(said)

    @property
    def place(self) -> Path:
        """runs/<dataset>[-<split>].<query_lang>-<doc_lang>/"""
        return self.store.root / pair_label(self.cfg)

    def folder(self) -> Path | None:
        """The finished folder, whatever its label."""
        key = self.key()
        if key is None or not self.place.is_dir():
            return None
        return next(
            (p for p in self.place.iterdir() if p.name.endswith(f"-{key}") and not p.name.startswith(".")), None
        )

    # Evaluation: what is asked, and whether the folder has it

    @property
    def judgments(self) -> tuple[str, ...]:
        return self.cfg.evaluate.judgments or self.cfg.dataset.judgment_names

    @property
    def measures(self) -> tuple[str, ...]:
        return self.cfg.evaluate.measures or self.cfg.dataset.measures

    def asked(self) -> list[dict[str, Any]]:
        """What an evaluation of this configuration consists of, as the manifest lists it."""
        prints, source = self.store.prints, self.cfg.dataset.source
        return [
            {
                "judgments": name,
                "qrels": [prints.fingerprint(f) for f in source("qrels", "", name).files],
                "topics": self.cfg.evaluate.topics,
                "measures": list(self.measures),
            }
            for name in self.judgments
        ]

    def finished(self) -> Path | None:
        """The folder if it is there and holds every measure that is asked."""
        folder = self.folder()
        if folder is None:
            return None
        have = evaluated(folder)
        covered = all(any(_covers(h, a) for h in have) for a in self.asked())
        return folder if covered and not _gone(folder) else None

    # Writing

    def export(self) -> Path:
        """Leave the complete folder: made beside its place and renamed, or an existing one completed with what it lacks."""
        if (done := self.finished()) is not None:
            return done
        folder = self.folder()
        if folder is not None:
            if gone := _gone(folder):
                raise DataError(f"{folder} has lost {', '.join(gone)}\n  {again(folder)}")
            add_evaluation(folder, self.store, self.cfg, self.asked())
            return folder
        self.place.mkdir(parents=True, exist_ok=True)
        key = self.key()
        assert key is not None
        final = self.place / f"{_safe(self.name)}-{key}"
        draft = self.place / f".{key}.{time.time_ns()}"
        draft.mkdir()
        try:
            self._write(draft, final)
            draft.rename(final)
        except OSError:
            if not final.is_dir():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return final

    def _write(self, draft: Path, final: Path) -> None:
        name = f"{final.parent.name}/{final.name}"
        pins = dict(self._pins())
        config.dump({**self.cfg.plain, **({"models": pins} if pins else {})}, draft / "config.yaml")
        for stage, ranking in self.rankings.items():
            second = stage != "first_stage" and bool(self.second)
            path = draft / ("run.trec" if stage == "final" else f"{stage}.trec")
            if stage == "final" and not second:
                shutil.copyfile(draft / "first_stage.trec", path)
            else:
                self._write_run(ranking, path, tag_of(self.cfg.labels, second))
        write_rows(draft / "queries.csv", QUERIES, self._query_rows(name))
        write_rows(draft / "costs.csv", COSTS, self._cost_rows(name))
        self._join_answers(draft / "answers.jsonl.gz")
        steps = [
            {"stage": s.stage, "label": s.label, "key": self.store.key(s), "folder": str(self.store.folder(s))}
            for s in self.steps
        ]
        steps = [{**s, "folder": str(Path(s["folder"] or "").relative_to(self.store.root))} for s in steps]
        manifest = {
            "experiment": name, "key": self.key(), "made": provenance.now(), **provenance.environment(),
            "steps": steps, "evaluated": [], "notes": [],
            "files": {p.name: provenance.checksum(p) for p in sorted(draft.iterdir())},
        }  # fmt: skip
        write_json(draft / "manifest.json", manifest)
        evaluate_into(draft, name, self.store, self.cfg, self.asked())

    def _pins(self) -> Iterator[tuple[str, str]]:
        """The commits of hub models that the configuration names by a pattern only: `opus-mt-{source}-{target}`."""
        named = str(self.cfg.plain)
        for step in self.steps:
            for name, revision in _hub_models(step.meaning):
                if repr(name) not in named:
                    yield name, revision

    def _write_run(self, ranking: Ranking, path: Path, tag: str) -> None:
        from clir_cli import runs

        runs.write_trec(self._run(ranking), path, tag)

    def _run(self, ranking: Ranking) -> Run:
        def folder(step: Step) -> Path:
            found = self.store.folder(step)
            assert found is not None
            return found

        return reranking.read_ranking(folder, ranking)

    def _query_rows(self, name: str) -> Iterator[dict[str, Any]]:
        """What each query cost over all rerankers."""
        total: dict[str, dict[str, float]] = {}
        for ranking in self.second:
            folder = self.store.folder(ranking.step)
            assert folder is not None
            for query, amounts in read_json(folder / "queries.json").items():
                row = total.setdefault(query, {})
                for key, amount in amounts.items():
                    row[key] = row.get(key, 0) + amount
        first = self.store.folder(self.first.step)
        assert first is not None
        for query in total or read_lists(first / "run.trec"):
            row = total.get(query, {})
            share = row.get("texts_cut", 0) / row["texts"] if row.get("texts") else 0
            counts = {k: row.get(k, 0) for k in QUERIES[2:9]}
            yield {"experiment": name, "query_id": query, **counts, "cut_share": share}

    def _cost_rows(self, name: str) -> Iterator[dict[str, Any]]:
        for step in self.steps:
            record = self.store.record(step)
            counts = record["counts"]
            from_cache = counts.get("calls_from_cache", 0)
            yield {
                "experiment": name, "step": f"{step.stage}/{record['label']}-{record['key']}",
                "cached": str(record["key"] not in self.made).lower(), "seconds": record["seconds"],
                "calls_asked": counts.get("calls", 0) - from_cache, "calls_answered_from_cache": from_cache,
                **{k: int(counts.get(k, 0)) for k in ("documents", "queries", "rounds", "prompt_tokens", "cached_prefix_tokens", "output_tokens", "repaired", "failed")},
                "usd": counts.get("usd", ""),
            }  # fmt: skip

    def _join_answers(self, path: Path) -> None:
        """The answers of all LLM rerankers; gzip members may stand one after another."""
        parts = [folder / "answers.jsonl.gz" for r in self.second if (folder := self.store.folder(r.step)) is not None]
        if any(self._asks_llm(part) for part in (self.cfg, *self.cfg.cascade)):
            with path.open("wb") as out:
                for part in parts:
                    with part.open("rb") as read:
                        shutil.copyfileobj(read, out)

    @staticmethod
    def _asks_llm(cfg: Config) -> bool:
        return hasattr(cfg.reranker, "llm")


def _hub_models(meaning: Any) -> Iterator[tuple[str, str]]:
    """(id, commit) of every hub model in an identity."""
    if isinstance(meaning, Mapping):
        if set(meaning) == {"id", "revision"}:
            yield meaning["id"], meaning["revision"]
        meaning = list(meaning.values())
    if isinstance(meaning, list | tuple):
        for inside in meaning:
            yield from _hub_models(inside)


def tag_of(labels: Mapping[str, str], second: bool = True) -> str:
    """A run's tag, at most 24 characters of [A-Za-z0-9_.-]; `second`: after reranking, where there is any."""
    reranker = labels["reranker"] if second and labels["reranker"] != "none" else ""
    name = "-".join(label for label in (labels["retriever"], reranker) if label)
    return "".join(c if (c.isascii() and c.isalnum()) or c in "_.-" else "_" for c in name)[:24]


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._~+=-[]," else "_" for c in name)[:100]


# Evaluation of finished experiments -----------------------------------------------------------------------------------


def evaluated(folder: Path) -> list[dict[str, Any]]:
    """What an experiment's CSVs hold, by judgments; nothing if one of them was removed: they are then made again."""
    if not all((folder / name).exists() for name in ("metrics.csv", "per_query.csv")):
        return []
    found: list[dict[str, Any]] = read_json(folder / "manifest.json")["evaluated"]
    return found


def _gone(folder: Path) -> list[str]:
    """The files that an experiment was written with and that are not there."""
    return [name for name in read_json(folder / "manifest.json")["files"] if not (folder / name).exists()]


def _covers(have: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    same = all(have[k] == asked[k] for k in ("judgments", "qrels", "topics"))
    return same and set(asked["measures"]) <= set(have["measures"])


def add_evaluation(folder: Path, store: Store, cfg: Config, asked: Sequence[Mapping[str, Any]]) -> None:
    """Add measures or judgments to a finished experiment: nothing is ranked again, the CSVs become the union atomically."""
    with store.alone(f"{folder.name[-KEY:]}.evaluate"):
        have = {h["judgments"]: h for h in evaluated(folder)}
        wider = [_wider(have.get(a["judgments"]), a) for a in asked]
        if missing := [a for a in wider if have.get(a["judgments"]) != a]:
            evaluate_into(folder, f"{folder.parent.name}/{folder.name}", store, cfg, missing)


def _wider(have: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, with the measures that are there already: a CSV holds one policy and one state of the judgments."""
    known = have["measures"] if have else []
    return {**asked, "measures": list(dict.fromkeys([*known, *asked["measures"]]))}


def evaluate_into(folder: Path, name: str, store: Store, cfg: Config, asked: Sequence[Mapping[str, Any]]) -> None:
    """Score every stage's run in `folder` and rewrite metrics.csv and per_query.csv as the union with what they hold."""
    metrics, per_query = read_rows(folder / "metrics.csv"), read_rows(folder / "per_query.csv")
    notes: list[str] = []
    between = {p.stem: p.name for p in sorted(folder.glob("rerank_*.trec"))}
    stages = {"first_stage": "first_stage.trec", **between, "final": "run.trec"}
    for request in asked:
        qrels = _counted_qrels(cfg, store, cfg.dataset.read_qrels(request["judgments"]), request["judgments"], notes)
        scored: dict[str, tuple[Any, Any]] = {}  # by content: without a reranker both stages hold the same ranking
        for stage, file in stages.items():
            if (content := provenance.checksum(folder / file)) not in scored:
                with _answers(cfg, store):
                    scored[content] = _scored(folder / file, qrels, request)
            summary, counted = scored[content]
            base = {"experiment": name, "judgments": request["judgments"], "stage": stage}
            metrics += [{**columns_of(cfg, stage), **base, **_measured(row)} for row in summary]
            per_query += [{**base, "query_id": q, "measure": m, "value": v} for q, m, v in counted]
        notes += [_policy_note(row, request) for row in summary if row.other is not None]
    write_rows(folder / "per_query.csv", PER_QUERY, _union(per_query, ("judgments", "stage", "query_id", "measure")))
    write_rows(folder / "metrics.csv", METRICS, _union(metrics, ("judgments", "stage", "measure")))
    manifest = read_json(folder / "manifest.json")
    done = {e["judgments"]: e for e in [*manifest["evaluated"], *asked]}
    manifest |= {"evaluated": list(done.values()), "notes": list(dict.fromkeys([*manifest["notes"], *notes]))}
    write_json(folder / "manifest.json", manifest)
    ir_metadata.write(ir_metadata.of(folder, tag_of(cfg.labels)), folder / ir_metadata.FILE)
    for note in dict.fromkeys(notes):
        say(f"note: {note}")


@contextmanager
def _answers(cfg: Config, store: Store) -> Iterator[None]:
    """Lets measures that read the passages (R@2kt) find them, where the dataset knows the questions' answers."""
    if not hasattr(cfg.dataset, "read_answers"):
        yield
        return
    from clir_cli import answers

    folders = [store.folder(Stages(store).docs(cfg, lang)) for lang in cfg.dataset.doc_langs]
    stores = [Docstore(folder) for folder in folders if folder is not None]

    def passages(ids: Sequence[str]) -> Iterator[str]:
        for at in range(0, len(ids), 50):
            found = {i: doc for docs in stores for i, doc in docs.find(ids[at : at + 50]).items()}
            yield from (found[i].fields.get("text", "") for i in ids[at : at + 50] if i in found)

    with answers.known(cfg.dataset.read_answers(), passages):
        yield


def _scored(run: Path, qrels: list[Qrel], request: Mapping[str, Any]) -> tuple[list[Any], list[tuple[str, str, str]]]:
    """Each measure's mean, and (query_id, measure, value) of every topic that counts."""
    from clir_cli import evaluation, runs

    scores = evaluation.evaluate(runs.read_made(run), qrels, evaluation.parse_measures(request["measures"]))
    counted = evaluation.counted(scores, qrels, request["topics"])
    rows = zip(counted["query_id"], counted["measure"], counted["value"].tolist(), strict=True)
    return evaluation.summary(scores, qrels, request["topics"]), [(q, m, repr(v)) for q, m, v in rows]


def _measured(row: Any) -> dict[str, Any]:
    return {
        "measure": row.measure, "value": repr(row.value), "topics": row.topics,
        "topics_without_relevant": row.topics_without_relevant,
    }  # fmt: skip


def _policy_note(row: Any, request: Mapping[str, Any]) -> str:
    other = "relevant" if request["topics"] == "judged" else "judged"
    counted = (
        row.topics - row.topics_without_relevant if other == "relevant" else row.topics + row.topics_without_relevant
    )
    would_be = f"{row.other:.4f} over {counted}" if counted else "nothing, over none,"
    return (
        f"{row.measure} ({request['judgments']}) is {row.value:.4f} over {many(row.topics, 'topic')} (evaluate.topics={request['topics']}); "
        f"it would be {would_be} with evaluate.topics={other}"
    )


def _counted_qrels(cfg: Config, store: Store, qrels: list[Qrel], name: str, notes: list[str]) -> list[Qrel]:
    """The judgments that count: of all judged topics, or of the chosen ones where only some were asked for."""
    dataset, topics = cfg.dataset, cfg.dataset.read_topics(cfg.dataset.query_lang)
    if dataset.queries not in {"judged", "all"} or dataset.limit_queries:
        chosen = {q.query_id for q in select(cfg, topics)}
        qrels = [row for row in qrels if row.query_id in chosen]
    judged = dict.fromkeys(row.query_id for row in qrels)
    if strangers := [q for q in judged if q not in {topic.query_id for topic in topics}]:
        notes.append(
            f"{len(strangers)} of {many(len(judged), 'judged topic')} ({name}) {'is' if len(strangers) == 1 else 'are'} in no "
            f"topics file, for example {strangers[0]!r}; {'it counts' if len(strangers) == 1 else 'they count'} 0"
        )
    stages = Stages(store)
    ids = sorted({row.doc_id for row in qrels})
    known, spelled = set[str](), set[str]()
    for lang in dataset.doc_langs:
        if (folder := store.folder(stages.docs(cfg, lang))) is not None:
            known |= set(Docstore(folder).find(ids))
            if odd := [i for i in ids if i not in known and not i.isascii()]:
                spelled |= set(
                    Docstore(folder).find([unicodedata.normalize(f, i) for i in odd for f in ("NFC", "NFD")])
                )
    if unknown := [i for i in ids if i not in known]:
        what = many(len(unknown), "judged document") if known else "all judged documents"
        is_not = "is not" if known and len(unknown) == 1 else "are not"
        text = f"{what} ({name}) {is_not} in the collection, for example {unknown[0]!r}"
        if alike := next(
            (a for form in ("NFC", "NFD") if (a := unicodedata.normalize(form, unknown[0])) in spelled), None
        ):
            text += f", which is there with other bytes for the same characters ({alike.encode()!r}): normalise the ids"
        if dataset.on_unknown == "error":
            raise DataError(f"{text}; dataset.on_unknown=warn counts them as never found")
        notes.append(text)
    return qrels


def columns_of(cfg: Config, stage: str) -> dict[str, Any]:
    """The columns of metrics.csv that come from the configuration; first_stage rows carry no reranker, so that equal rows merge."""
    dataset, labels, llm = cfg.dataset, cfg.labels, hasattr(cfg.reranker, "llm")
    second = stage != "first_stage" and labels["reranker"] != "none"
    fields = cfg.retrieve.query_fields or dataset.query_fields
    return {
        "dataset": f"{labels['dataset']}{dataset.selection}", "split": dataset.split or "", "query_lang": dataset.query_lang, "doc_lang": dataset.doc_label,
        "query_fields": "+".join(fields) if fields else "all", "retriever": labels["retriever"], "retrieve_query": _view(cfg.retrieve.query),
        "retrieve_doc": _view(cfg.retrieve.doc), "reranker": labels["reranker"] if second else "none", "llm": labels["llm"] if second and llm else "none",
        "rerank_query": _view(cfg.rerank.query) if second else "", "rerank_doc": _view(cfg.rerank.doc) if second else "",
        "depth": cfg.retrieve.depth, "rerank_depth": cfg.rerank.depth if second else "", "repeat": cfg.rerank.repeat if second else 0,
    }  # fmt: skip


def _view(view: str | Sequence[str]) -> str:
    return view if isinstance(view, str) else "+".join(view)


def _union(rows: Sequence[Mapping[str, Any]], key: Sequence[str]) -> list[Mapping[str, Any]]:
    """Each key once, the last row of it, in the order of the first."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        found[tuple(row[k] for k in key)] = row
    return list(found.values())


# CSV ------------------------------------------------------------------------------------------------------------------


def write_rows(path: Path, columns: Sequence[str], rows: Any) -> None:
    def write(out: IO[str]) -> None:
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    write_text(path, write)


def read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as lines:
        text = lines.read()
    if not text.endswith("\n"):
        raise DataError(f"{path} is damaged: its end is missing\n  {again(path)}")
    return list(csv.DictReader(io.StringIO(text, newline="")))
