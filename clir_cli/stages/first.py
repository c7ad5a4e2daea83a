"""The first stage: index, derive, retrieve, fuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clir_cli.config import Config
from clir_cli.docstore import Docstore
from clir_cli.errors import DataError, RunError, many
from clir_cli.files import read_json
from clir_cli.progress import track
from clir_cli.retrievers.expanded import Expanded
from clir_cli.retrievers.hybrid import Hybrid
from clir_cli.retrievers.run_file import RunFile
from clir_cli.retrievers.single_vector import SingleVector
from clir_cli.stages.common import (
    fields_meaning,
    needs,
    pair_label,
    parts_of,
    tell,
    tie_break,
    unchanged,
)
from clir_cli.stages.units import Units
from clir_cli.steps import Counts, Ranking, Shards, Step, derives, identity
from clir_cli.store import At
from clir_cli.text import passages, truncation
from clir_cli.text.passages import Passages
from clir_cli.types import DerivingRetriever, LanguageAware, Run, ShardedRetriever, Text
from clir_cli.views import ExpandedView, PassageView, read_queries

ZEROS = "with a vector of zeros, which is alike to nothing"


@dataclass(frozen=True)
class FirstStages(Units):
    """Ranks a collection for every topic."""

    # First stage --------------------------------------------------------------------------------------------------------

    def first_stage(self, cfg: Config) -> Ranking:
        """The ranking that the reranker gets: of one retriever, of a pool's parts, or of a hybrid's."""
        if isinstance(cfg.retriever, Hybrid):
            parts = [self.first_stage(part).step for part in cfg.parts]
            fusion = cfg.retriever
            meaning = {
                "method": fusion.method,
                "k": fusion.k if fusion.method == "rrf" else None,
                "weights": fusion.weights,
                **({} if fusion.decimals is None else {"decimals": fusion.decimals}),
            }
            return Ranking(self._fused(cfg, parts, meaning, lambda runs: fusion.fuse(runs, tie_break(cfg))))
        if cfg.retrieve.pool == "per_language" and len(cfg.dataset.doc_langs) > 1:
            parts = [self.retrieve(cfg.for_doc_lang(lang), whole=cfg) for lang in cfg.dataset.doc_langs]
            return Ranking(
                self._fused(cfg, parts, {"method": f"pool {cfg.retrieve.merge}"}, lambda runs: _merged(runs, cfg))
            )
        return Ranking(self.retrieve(cfg))

    def index(self, cfg: Config) -> Step:
        """The collection made searchable: by the retriever's fields that are not `searched`, and the documents' view alone."""
        retriever, docs, seen = cfg.retriever, self._indexed(cfg), self.doc_view(cfg, "retrieve")
        component = identity(retriever, self.store.prints, "index")
        shown = [[lang for lang, _ in part] for part in seen.parts]
        meaning = {"component": component, "shown": shown, **fields_meaning(seen.fields)}
        expansion = cfg.retrieve.expansion
        if expansion is not None:
            meaning["expansion"] = expansion.combination
        if files := [self.store.prints.fingerprint(f) for f in _index_files(retriever, docs.langs)]:
            meaning["files"] = files
        label = f"{cfg.labels['retriever']}.{cfg.labels['dataset']}{cfg.dataset.selection}.{'+'.join(docs.langs)}"
        if isinstance(retriever, ShardedRetriever):
            size = retriever.shard_docs

            def shard(at: At, i: int, folder: Path) -> Counts:
                texts, encoder = list(docs.read(at, i * size, (i + 1) * size)), retriever
                if isinstance(docs, ExpandedView) and not docs.shown:
                    alpha = expansion.alpha if expansion.aggregate == "weighted" else None
                    assert isinstance(retriever, SingleVector)
                    encoder = Expanded.over(retriever, docs.queries(at, [text.id for text in texts]), alpha)
                encoder.index_shard(texts, folder)
                report = folder / "report.json"
                return {
                    "documents": min(size, docs.count(at) - i * size),
                    **(read_json(report) if report.exists() else {}),
                }

            shards = Shards(docs.count, shard, "documents", size)

            def finish(at: At) -> Counts:
                cut_at = getattr(retriever, "doc_tokens", None)
                truncation.warn(cfg.labels["retriever"], "documents", truncation.of_shards(at.shards()), cut_at)
                zeros = sum(read_json(shard / "counts.json").get("zeros", 0) for shard in at.shards())
                tell({"zeros": zeros}, label, {"zeros": (f"document {ZEROS}", f"documents {ZEROS}")})
                return {}

            return self._step(
                Step(
                    "index",
                    label,
                    cfg.plain,
                    meaning,
                    finish,
                    docs.steps,
                    shards=shards,
                    needs=needs(retriever),
                )
            )

        def make(at: At) -> Counts:
            count = docs.count(at)
            retriever.index(track(docs.read(at), count, f"index {label}", "documents"), at.draft)
            return {"documents": count}

        return self._step(Step("index", label, cfg.plain, meaning, make, docs.steps, needs=needs(retriever)))

    def derived(self, cfg: Config, indexed: Step, query_langs: Sequence[str], doc_langs: Sequence[str]) -> Step | None:
        """What the retriever makes of its finished index before it searches; None if nothing."""
        retriever = cfg.retriever
        if not (isinstance(retriever, DerivingRetriever) and derives(retriever)):
            return None
        files = [self.store.prints.fingerprint(f) for f in _own_files(retriever, query_langs, doc_langs)]
        meaning = {
            "component": identity(retriever, self.store.prints, "derive"),
            **({"langs": [list(query_langs), list(doc_langs)]} if retriever.derives_per_language else {}),
            **({"files": files} if files else {}),
        }
        label = f"{cfg.labels['retriever']}.{pair_label(cfg)}"

        def make(at: At) -> Counts:
            return retriever.derive(at[indexed], at.draft, query_langs, doc_langs)

        return self._step(Step("derive", label, cfg.plain, meaning, make, (indexed,), needs=needs(retriever)))

    def retrieve(self, cfg: Config, whole: Config | None = None) -> Step:
        """The collection ranked for every query, `retrieve.depth` documents deep."""
        if isinstance(cfg.retriever, RunFile):
            return self._run_file(cfg)
        queries, docs, how = self.query_view(cfg, "retrieve", whole), self._indexed(cfg), cfg.retrieve.passages
        units = docs.units if isinstance(docs, ExpandedView) else docs
        if isinstance(cfg.retriever, LanguageAware):
            cfg.retriever.check_languages(queries.langs, docs.langs)
        indexed, depth = self.index(cfg), cfg.retrieve.depth
        derived = self.derived(cfg, indexed, queries.langs, docs.langs)
        files = [self.store.prints.fingerprint(f) for f in _own_files(cfg.retriever, queries.langs, docs.langs)]
        meaning = {
            "component": identity(cfg.retriever, self.store.prints),
            "depth": depth,
            "langs": queries.langs,
            **fields_meaning(queries.fields),
            **({"files": files} if files else {}),
        }
        if how is not None:
            # rule 2: what a passage that the search did not reach counts
            more_than_most = {"k": how.k, "rule": 2} if how.aggregate == "topk_mean" else {}
            meaning["passages"] = {"aggregate": how.aggregate, "tie_break": tie_break(cfg), **more_than_most}

        def make(at: At) -> Counts:
            from clir_cli import runs

            texts = queries.read(at)
            more = {} if derived is None else {"derived": at[derived]}
            counts: dict[str, float] = {}

            def search(asked: Sequence[Text], deep: int) -> Run:
                run: Run = cfg.retriever.search(at[indexed], asked, deep, **more)
                _check_queries(run, asked)
                for name, amount in run.attrs.get("counts", {}).items():  # passages may be searched several times
                    ratio = name.startswith("recall")  # that of the first search, of all queries
                    counts[name] = counts.get(name, amount) if ratio else counts.get(name, 0) + amount
                return run

            if isinstance(units, PassageView) and how is not None:
                run = _documents_by_passages(cfg, at, units, how, search, texts)
            else:
                run = runs.cut(search(texts, depth), depth)
            runs.write_trec(run, at.draft / "run.trec")
            tell(counts, label, {"zeros": (f"query {ZEROS}", f"queries {ZEROS}")})
            return {"queries": len(texts), **counts}

        label = f"{cfg.labels['retriever']}.{pair_label(cfg)}"
        return self._step(
            Step(
                "retrieve",
                label,
                cfg.plain,
                meaning,
                make,
                (indexed, *((derived,) if derived else ()), *queries.steps),
                needs=needs(cfg.retriever),
                check=getattr(cfg.retriever, "check", None),
            )
        )

    def _run_file(self, cfg: Config) -> Step:
        """Somebody else's ranking, checked against the collection and the topics."""
        retriever, dataset = cfg.retriever, cfg.dataset
        path = retriever.file(dataset.query_lang, dataset.doc_label)
        topics, docs = self.topics(cfg), [self.docs(cfg, lang) for lang in dataset.doc_langs]
        meaning = {
            "component": identity(retriever, self.store.prints), "file": self.store.prints.fingerprint(path),
            "depth": cfg.retrieve.depth, "tie_break": tie_break(cfg),
        }  # fmt: skip

        def make(at: At) -> Counts:
            from clir_cli import runs

            with unchanged((path,)):
                run = retriever.read(path, tie_break(cfg))
            wanted = [q.query_id for q in read_queries(at[topics])]
            others = sorted(set(run["query_id"]) - set(wanted))
            run = runs.cut(run[run["query_id"].isin(wanted)].reset_index(drop=True), cfg.retrieve.depth)
            ids = run["doc_id"].unique().tolist()
            unknown = set(ids).difference(*(Docstore(at[step]).find(ids) for step in docs))
            if unknown:
                raise DataError(
                    f"{path}: {many(len(unknown), 'document is', 'documents are')} not in the collection, for example {min(unknown)!r}"
                )
            found = set(run["query_id"])
            missing = [q for q in wanted if q not in found]
            if not found:
                raise DataError(
                    f"{path} has none of the {many(len(wanted), 'selected topic')} ({', '.join(wanted[:3])}{', ...' if wanted[3:] else ''}), "
                    f"but {', '.join(others[:3])}{', ...' if others[3:] else ''}: their query_ids must be the same, letter by letter"
                )
            without = f"without results ({', '.join(missing[:5])}{', ...' if missing[5:] else ''})"
            tell(
                {"missing": len(missing), "others": len(others)},
                str(path),
                {
                    "missing": (f"topic {without}", f"topics {without}"),
                    "others": (
                        "query that is no selected topic: left out",
                        "queries that are no selected topics: left out",
                    ),
                },
            )
            runs.write_trec(run, at.draft / "run.trec")
            return {"queries": len(wanted), "topics_without_results": len(missing), "other_queries": len(others)}

        return self._step(
            Step("retrieve", f"{cfg.labels['retriever']}.{pair_label(cfg)}", cfg.plain, meaning, make, (topics, *docs))
        )

    def _fused(self, cfg: Config, parts: Sequence[Step], how: Mapping[str, Any], fuse: Any) -> Step:
        meaning = {**how, "depth": cfg.retrieve.depth, "tie_break": tie_break(cfg)}

        def make(at: At) -> Counts:
            from clir_cli import runs

            read = [runs.read_made(at[step] / "run.trec") for step in parts]
            run = runs.cut(fuse(read), cfg.retrieve.depth)
            found = [passages.read_best(at[step]) for step in parts]
            if (best := passages.fused_best(list(zip(read, found, strict=True)), run)) is not None:
                passages.write_best(best, at.draft)
            runs.write_trec(run, at.draft / "run.trec")
            return {"queries": run["query_id"].nunique()}

        return self._step(
            Step("fuse", f"{cfg.labels['retriever']}.{pair_label(cfg)}", cfg.plain, meaning, make, tuple(parts))
        )


def _index_files(component: Any, doc_langs: Sequence[str]) -> list[Path]:
    """The files that a component, and those in it, make an index of besides the documents."""
    return [f for part in parts_of(component) if hasattr(part, "index_files") for f in part.index_files(doc_langs)]


def _own_files(component: Any, query_langs: Sequence[str], doc_langs: Sequence[str]) -> list[Path]:
    """The files behind the paths of a component, and of those in it, for these languages; they count by their bytes."""
    return [f for part in parts_of(component) if hasattr(part, "files") for f in part.files(query_langs, doc_langs)]


def _documents_by_passages(
    cfg: Config,
    at: At,
    view: PassageView,
    how: Passages,
    search: Callable[[Sequence[Text], int], Run],
    texts: Sequence[Text],
) -> Run:
    """Documents ranked by their passages, `retrieve.depth` deep; leaves the best passages in the draft."""
    from clir_cli import runs

    rows, seen = passages.search_documents(search, texts, cfg.retrieve.depth, view.count(at))
    counts: dict[str, int] = {}
    if how.aggregate in {"mean", "topk_mean"}:
        ids = sorted({passages.split_id(i)[0] for i in rows["doc_id"]})
        counts = {doc_id: len(cut.places) for doc_id, cut in view.find(at, ids).items()}
    run, best = passages.aggregated(rows, how, counts, seen, tie_break(cfg))
    run = runs.cut(run, cfg.retrieve.depth)
    best = run[["query_id", "doc_id"]].merge(best, on=["query_id", "doc_id"])
    cuts = view.find(at, sorted(set(best["doc_id"])))
    found = [(cuts[d], n) for d, n in zip(best["doc_id"], best["passage"], strict=True)]
    spans = [next(iter(cut.spans.values()))[n] for cut, n in found]  # of the language shown first
    best = best.assign(start=[a for a, _ in spans], end=[b for _, b in spans], original=[c.places[n] for c, n in found])
    passages.write_best(best, at.draft)
    return run


def _check_queries(run: Any, texts: Sequence[Any]) -> None:
    if strange := set(run["query_id"]) - {t.id for t in texts}:
        raise RunError(f"the retriever answered a query that was not asked: {min(strange)!r}")


def _merged(runs: Sequence[Any], cfg: Config) -> Any:
    from clir_cli import runs as table

    how, ties = cfg.retrieve.merge, tie_break(cfg)
    if how == "rrf":
        return table.reciprocal_rank_fusion(runs, tie_break=ties)
    if how == "zscore":
        return table.score_fusion(runs, "zscore", tie_break=ties)
    return table.interleaved(runs, how, ties)
