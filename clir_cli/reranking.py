"""Around a reranker: the memory of its LLM, the check of its answer, and the files of a shard."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clir_cli.errors import RunError
from clir_cli.files import read_json, write_json
from clir_cli.types import Candidates, Journal


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
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in journal.answers)


def totals(journal: Journal) -> dict[str, float]:
    """What all queries of a shard cost together; rounds are those of the query with the most."""
    total: dict[str, float] = {}
    for amounts in journal.queries.values():
        for name, amount in amounts.items():
            total[name] = total.get(name, 0) + amount
    if "rounds" in total:
        total["rounds"] = max(row.get("rounds", 0) for row in journal.queries.values())
    served = {answer["model"] for answer in journal.answers if answer.get("model")}
    if len(served) > 1:  # an alias that came to mean another model on the way; llms/openai.py has warned of it
        total["model_changes"] = len(served) - 1
    return total


def join_shards(shards: Sequence[Path], folder: Path) -> None:
    from clir_cli import runs

    ranking: dict[str, Any] = {}
    queries: dict[str, Any] = {}
    with gzip.GzipFile(folder / "answers.jsonl.gz", "wb", mtime=0) as out:  # no time stamp: the same bytes every time
        for shard in shards:
            ranking |= read_json(shard / "ranking.json")
            queries |= read_json(shard / "queries.json")
            out.write((shard / "answers.jsonl").read_bytes())
    runs.write_trec(runs.from_hits(ranking), folder / "run.trec")
    write_json(folder / "queries.json", queries)
