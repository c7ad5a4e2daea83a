"""What `clir show` finds out about one experiment, and about one of its topics."""

from __future__ import annotations

import difflib
import gzip
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from clir_cli import config
from clir_cli.diagnosis.finished import Finished, opened
from clir_cli.diagnosis.kept import DocTexts, Kept
from clir_cli.errors import ClirError, ConfigError, many
from clir_cli.experiment import read_rows
from clir_cli.files import read_json
from clir_cli.steps import KEY
from clir_cli.types import Query

Json = dict[str, Any]


def named(name: str, root: Path) -> Path:
    """The experiment that is meant by a folder, or by the beginning of its key or name."""
    for path in (Path(name), root / name):
        if (path / "manifest.json").is_file() and (path / "run.trec").is_file():
            return path.resolve()
        if (path / "cells.csv").is_file():
            cells = [row["experiment"] for row in read_rows(path / "cells.csv") if row["experiment"]]
            raise ConfigError(
                f"{path} is a sweep of {many(len(cells), 'experiment')}; name one: {_some(list(dict.fromkeys(cells)))}"
            )
        if path.is_dir() and "/" in name.rstrip("/"):
            raise ConfigError(f"{path} is no experiment's folder: one holds config.yaml, run.trec and manifest.json")
    every = sorted(p.parent for p in root.glob("*.*/[!.]*/manifest.json"))
    keys = [p for p in every if p.name[-KEY:].startswith(name)]
    exact = [p for p in every if name in (p.name[: -KEY - 1], f"{p.parent.name}/{p.name[: -KEY - 1]}")]
    begun = [p for p in every if p.name.startswith(name) or f"{p.parent.name}/{p.name}".startswith(name)]
    found = keys or exact or begun
    if len(found) == 1:
        return found[0].resolve()
    if found:
        said = f"may mean {len(found)} experiments: {_some([f'{p.parent.name}/{p.name}' for p in found])}"
        raise ConfigError(f"{name!r} {said}\n  give more of the name, or the beginning of the key that ends it")
    near = difflib.get_close_matches(name, {p.name[: -KEY - 1] for p in every}, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(
        f"{name!r} is no experiment under {root}, nor the beginning of a key or name; {hint}clir list shows what there is"
    )


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


class Told:
    """One experiment, as it is told: what cannot be read any more stands in `notes`, with what to do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, list[str]()
        self.name = f"{folder.parent.name}/{folder.name}"
        self.manifest: Json = read_json(folder / "manifest.json")
        self.plain = config.load(folder / "config.yaml")

    @cached_property
    def finished(self) -> Finished | None:
        """None where the configuration does not build here: a component of another package, an older clir."""
        try:
            return opened([self.folder])[0]
        except ClirError as error:
            self.notes.append(f"neither texts nor grades: the configuration does not build here: {_first(error)}")
            return None

    @cached_property
    def kept(self) -> Kept | None:
        if self.finished is None:
            return None
        kept = Kept(self.folder, self.finished.cfg)
        if gone := [f"{s.stage} {s.label}" for s in kept.gone]:
            self.notes.append(
                f"texts are missing: these steps were removed, or not imported: {_some(gone)}; they are made again by\n"
                f"clir run --config {shlex.quote(str(self.folder / 'config.yaml'))}"
            )
        if twice := kept.translated_twice:
            self.notes.append(
                f"documents were translated twice, {', '.join(twice)}: shown is what the reranker was given"
            )
        return kept

    @cached_property
    def grades(self) -> dict[str, dict[str, dict[str, int]]]:
        """judgments -> query_id -> doc_id -> grade."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for name in self.finished.experiment.judgments if self.finished else ():
            try:
                rows = self.finished.qrels(name) if self.finished else []
            except (ClirError, OSError) as error:
                self.notes.append(f"no grades: the judgments {name} cannot be read: {_first(error)}")
                continue
            found[name] = {}
            for query, doc, grade in rows:
                found[name].setdefault(query, {})[doc] = grade
        return found

    @cached_property
    def rankings(self) -> dict[str, Path]:
        """stage -> its run file; without a reranker the final one alone."""
        between = {p.stem: p for p in sorted(self.folder.glob("rerank_*.trec"))[:-1]}  # the last is the final one
        stages = {"first_stage": self.folder / "first_stage.trec", **between} if self.reranked else {}
        return {**stages, "final": self.folder / "run.trec"}

    @property
    def reranked(self) -> bool:
        return bool(self.plain["labels"]["reranker"] != "none")

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "metrics.csv")

    @property
    def main(self) -> dict[str, Any] | None:
        """The row of the dataset's main measure."""
        return next((row for row in self.metrics if row["stage"] == "final"), None)

    @cached_property
    def per_query(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "per_query.csv")

    @cached_property
    def costs(self) -> dict[str, dict[str, str]]:
        """query_id -> what it cost: calls, rounds, prompt_tokens, ..."""
        return {row["query_id"]: row for row in read_rows(self.folder / "queries.csv")}

    def text(self, query_id: str) -> str:
        """A topic as the first reader's fields show it; empty where its step was removed."""
        if self.kept is None or not (columns := list(self.kept.topics.values())) or query_id not in columns[0]:
            return ""
        topic, readers = columns[0][query_id], self.kept.readers
        if not readers:
            return " ".join(filter(None, topic.fields.values()))
        return readers[0].query_fields.join(query_id, topic.fields, "query_fields")


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]


# The experiment -------------------------------------------------------------------------------------------------------


def overview(told: Told) -> Json:
    """What an experiment is, what it reached and cost, its topics by the main measure, and where its files are."""
    main, whole = told.main, told.kept
    topics = _topics(told, main) if main else []
    steps = [{"step": f"{s['stage']}/{Path(s['folder']).name}", "there": there} for s, there in _there(told)]
    return {
        "experiment": told.name, "folder": str(told.folder), "labels": told.plain["labels"],
        "query_lang": _of(told, "query_lang"), "doc_lang": _of(told, "doc_label"),
        "readers": [_reader(r) for r in whole.readers] if whole else [],
        "depth": told.plain["retrieve"]["depth"], "rerank_depth": told.plain["rerank"]["depth"] if told.reranked else None,
        "judgments": [{k: e[k] for k in ("judgments", "topics")} for e in told.manifest["evaluated"]],
        "made": told.manifest["made"], "command": _command(told.manifest.get("command", "")),
        "metrics": [{**row, "value": _number(row["value"])} for row in told.metrics], "main": main["measure"] if main else None, "topics": topics,
        "costs": read_rows(told.folder / "costs.csv"), "steps": steps,
        "files": sorted(p.name for p in told.folder.iterdir()), "notes": [*told.manifest["notes"], *told.notes],
    }  # fmt: skip


def _of(told: Told, name: str) -> str:
    return str(getattr(told.finished.cfg.dataset, name)) if told.finished else ""


def _there(told: Told) -> Iterator[tuple[Json, bool]]:
    for step in told.manifest["steps"]:
        yield step, (told.folder.parents[1] / step["folder"] / "step.json").is_file()


def _command(line: str) -> str:
    """The command as it would be typed: the path of the program is that of another day."""
    words = shlex.split(line)
    return shlex.join(["clir", *words[1:]])


def _reader(reader: Any) -> Json:
    names = {"query_fields": reader.query_fields.names, "doc_fields": reader.doc_fields.names}
    return {
        "name": reader.name, "unit": reader.unit, "query_langs": reader.query_langs, "doc_views": dict(reader.doc_views),
        **names,
    }  # fmt: skip


def _topics(told: Told, main: Json) -> list[Json]:
    """Every topic that counts, the worst first: its values of the main measure after the first stage and at the end."""
    values: dict[str, dict[str, float | None]] = {}
    for row in told.per_query:
        if row["measure"] == main["measure"] and row["judgments"] == main["judgments"]:
            values.setdefault(row["query_id"], {})[row["stage"]] = _number(row["value"])
    found = [
        {
            "query_id": query, "final": of.get("final"), "text": told.text(query),
            **({"first_stage": of.get("first_stage")} if told.reranked else {}),
        }
        for query, of in values.items()
    ]  # fmt: skip
    return sorted(found, key=lambda row: (row["final"] is None, row["final"], row["query_id"]))


def _number(text: str) -> float | None:
    """None where a measure says nothing about a topic, as nDCG(judged_only=True) without judged documents."""
    return None if math.isnan(value := float(text)) else value


# One topic ------------------------------------------------------------------------------------------------------------


def topic(told: Told, query_id: str, depth: int) -> Json:
    """A topic, its ranking down to `depth` with the texts, what the reranker answered, and what was relevant and not found."""
    known = _known(told)
    if query_id not in known:
        folded = {known_id.casefold(): known_id for known_id in known}
        close = difflib.get_close_matches(query_id.casefold(), folded, 5, 0.4)
        near = [folded[name] for name in close] or list(known)[:5]
        raise ConfigError(f"{told.name} has no topic {query_id!r}; near ones among its {len(known)}: {', '.join(near)}")
    asked = _texts_of(told, query_id)
    if told.kept and told.kept.topics and not asked:
        told.notes.append(f"{query_id} is judged, but was not asked: no topic has this id")
    ranks = {stage: _ranked(path, query_id) for stage, path in told.rankings.items()}
    grades = {name: of.get(query_id, {}) for name, of in told.grades.items()}
    final = ranks["final"]
    relevant = sorted(
        {d for of in grades.values() for d, grade in of.items() if grade > 0},
        key=lambda d: (-max(of.get(d, 0) for of in grades.values()), d),
    )
    shown = list(final)[:depth]
    below = sorted((d for d in relevant if d in final and final[d][0] > depth), key=lambda d: final[d][0])
    missed = [d for d in relevant if d not in final]
    texts = told.kept.docs(query_id, [*shown, *below, *missed]) if told.kept else {}

    def row(doc_id: str) -> Json:
        found: DocTexts | None = texts.get(doc_id)
        return {
            "doc_id": doc_id, "rank": final.get(doc_id, (None,))[0], "score": final.get(doc_id, (None, None))[1],
            "ranks": {stage: of[doc_id][0] if doc_id in of else None for stage, of in ranks.items() if stage != "final"},
            "first_stage_score": ranks.get("first_stage", final).get(doc_id, (None, None))[1],
            "grades": {name: of.get(doc_id) for name, of in grades.items()},
            "lang": found.lang if found else None, "texts": dict(found.texts) if found else {},
            "passage": dict(found.passage) if found else {},
        }  # fmt: skip

    return {
        "experiment": told.name, "query_id": query_id, "topic": asked,
        "readers": [_reader(r) for r in told.kept.readers] if told.kept else [], "values": _values(told, query_id),
        "cost": {k: float(v) for k, v in told.costs.get(query_id, {}).items() if k not in ("experiment", "query_id")},
        "ranked": len(final), "documents": [row(d) for d in shown], "below": [row(d) for d in below],
        "missed": [row(d) for d in missed], "answers": answers(told.folder / "answers.jsonl.gz", query_id),
        "judgments": list(grades), "notes": list(told.notes),
    }  # fmt: skip


def _known(told: Told) -> dict[str, None]:
    """Every topic that was asked, ranked or judged."""
    asked = next(iter(told.kept.topics.values()), {}) if told.kept else {}
    counted = (row["query_id"] for row in told.per_query)
    return dict.fromkeys([*asked, *told.costs, *counted])


def _ranked(path: Path, query_id: str) -> dict[str, tuple[int, float]]:
    """doc_id -> rank and score, best first, of one query of a run that clir wrote."""
    found: dict[str, tuple[int, float]] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(f"{query_id} "):
                _, _, doc, rank, score, _ = line.split()
                found[doc] = int(rank), float(score)
    return found


def _texts_of(told: Told, query_id: str) -> Json:
    """language -> field -> text of the topic."""
    columns: dict[str, dict[str, Query]] = told.kept.topics if told.kept else {}
    return {lang: dict(of[query_id].fields) for lang, of in columns.items() if query_id in of}


def _values(told: Told, query_id: str) -> list[Json]:
    rows = [row for row in told.per_query if row["query_id"] == query_id and row["stage"] in told.rankings]
    return [{k: _number(row[k]) if k == "value" else row[k] for k in ("judgments", "stage", "measure", "value")} for row in rows]  # fmt: skip


def answers(path: Path, query_id: str) -> list[Json]:
    """The raw answers about one query, in the order in which they came; none where no LLM reranked."""
    if not path.is_file():
        return []
    begin = json.dumps({"query_id": query_id}, ensure_ascii=False)[:-1] + ","
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.startswith(begin)]
