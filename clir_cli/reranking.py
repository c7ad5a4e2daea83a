"""Around a reranker: the memory of its LLM, the check of its answer, and the files of a shard."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clir_cli.errors import RunError
from clir_cli.files import read_json, write_json
from clir_cli.text.passages import Passages, Spans, passage_id, read_place, split_id
from clir_cli.types import Candidates, Journal, Run, Text

if TYPE_CHECKING:
    from clir_cli.steps import Ranking, Step
    from clir_cli.store import At
    from clir_cli.views import DocView


@dataclass(frozen=True)
class Shown:
    """What a reranker is shown of a candidate: its best passage, or with `how` every passage."""

    docs: DocView
    originals: tuple[Step, ...]  # the documents as they are, one step per part of the pool
    how: Passages | None = None
    tokens: Spans | None = None  # whose tokens `how` counts
    tokenizer: Any = None  # which that is, for the identity

    @property
    def meaning(self) -> dict[str, Any]:
        if self.how is None:
            return {"best_passage": 1}
        said: dict[str, Any] = {"passages": self.how.meaning, "aggregate": self.how.aggregate}
        if self.how.aggregate == "topk_mean":
            said["k"] = self.how.k
        return said if self.tokenizer is None else {**said, "tokenizer": self.tokenizer}

    def read(self, at: At, ids: Sequence[str]) -> dict[str, list[Text]]:
        """Of every candidate (a doc_id, or with a place behind it) what is shown: its best passage, or all in order.

        A best passage has the document's id, other passages have their own.
        """
        if self.how is None:
            split = {i: split_id(i) for i in ids}
            known = self.docs.versions(at, sorted({d for d, _ in split.values()}), self.originals)
            return {i: [known[d].passage(read_place(place))] for i, (d, place) in split.items() if d in known}
        known = self.docs.versions(at, ids, self.originals)
        texts = {doc_id: version.text() for doc_id, version in known.items()}
        found = {}
        cuts = self.how.cut([text.parts[0][1] for text in texts.values()], self.tokens)
        for (doc_id, text), spans in zip(texts.items(), cuts, strict=True):
            spans = spans[:1] if self.how.aggregate == "first" else spans
            cut = known[doc_id].cut(text.parts[0][0], spans)
            found[doc_id] = [
                Text(passage_id(doc_id, n), tuple((lang, t[slice(*cut.spans[lang][n])]) for lang, t in text.parts))
                for n in range(len(spans))
            ]
        return found


def write_shard(run: Any, candidates: Sequence[Candidates], journal: Journal, folder: Path) -> None:
    """A shard's ranking, costs and answers; every candidate must be there exactly once."""
    ranked = run.sort_values(["query_id", "rank"], kind="stable").groupby("query_id", sort=False)
    order = {query: list(zip(rows["doc_id"], rows["score"].astype(float), strict=True)) for query, rows in ranked}
    for query, docs in candidates:
        given = sorted(d for d, _ in order.get(query.id, []))
        if given != sorted(d.id for d in docs):
            raise RunError(
                f"the reranker was given {len(docs)} documents for query {query.id!r} and returned {len(given)}, not each exactly once"
            )
    write_json(folder / "ranking.json", {c.query.id: order.get(c.query.id, []) for c in candidates})
    write_json(folder / "queries.json", {c.query.id: journal.queries.get(c.query.id, {}) for c in candidates})
    with (folder / "answers.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(_strict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in journal.answers)


def _strict(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer as strict JSON: a label that a server did not score is null, not -Infinity."""
    scores = row.get("scores")
    return {**row, "scores": [s if math.isfinite(s) else None for s in scores]} if scores else row


def totals(journal: Journal) -> dict[str, float]:
    """What all queries of a shard cost together; their rounds, which run side by side, add up to nothing (`join_shards`)."""
    total: dict[str, float] = {}
    for amounts in journal.queries.values():
        for name, amount in amounts.items():
            total[name] = total.get(name, 0) + amount
    total.pop("rounds", None)
    served = {(answer["model"], answer.get("fingerprint")) for answer in journal.answers if answer.get("model")}
    if len(served) > 1:  # an alias that came to mean another model on the way; llms/openai.py has warned of it
        total["model_changes"] = len(served) - 1
    return total


def csv_quoted(text: Text) -> Text:
    """The text as a field of a CSV file: one with a quotation mark stands between two, and its own are doubled."""
    return text._replace(
        parts=tuple((lang, '"' + t.replace('"', '""') + '"' if '"' in t else t) for lang, t in text.parts)
    )


def read_ranking(at: Callable[[Step], Path], ranking: Ranking) -> Run:
    """A finished ranking with its tail; `at` says where a step lies."""
    from clir_cli import runs

    run = runs.read_made(at(ranking.step) / "run.trec")
    if ranking.under is None:
        return run
    under = read_ranking(at, ranking.under)
    return runs.with_tail(run, under[(under["rank"] > ranking.gone) | ~under["query_id"].isin(run["query_id"])])


def join_shards(shards: Sequence[Path], folder: Path, prior: Run | None = None) -> dict[str, float]:
    """One ranking of all shards; `prior`: the candidates, whose scores stay in their places.

    Gives the rounds, of which a step has as many as the query with the most, in however many shards its queries are.
    """
    from clir_cli import runs

    ranking: dict[str, Any] = {}
    queries: dict[str, Any] = {}
    with gzip.GzipFile(folder / "answers.jsonl.gz", "wb", mtime=0) as out:  # no time stamp: the same bytes every time
        for shard in shards:
            ranking |= read_json(shard / "ranking.json")
            queries |= read_json(shard / "queries.json")
            out.write((shard / "answers.jsonl").read_bytes())
    run = runs.from_hits(ranking)
    runs.write_trec(run if prior is None else runs.in_slots(run, prior), folder / "run.trec")
    write_json(folder / "queries.json", queries)
    rounds = [amounts["rounds"] for amounts in queries.values() if "rounds" in amounts]
    return {"rounds": max(rounds)} if rounds else {}
