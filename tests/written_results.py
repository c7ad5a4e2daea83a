"""Experiment and sweep folders as clir leaves them, with the scores that a test wants."""

from __future__ import annotations

import csv
import statistics

from clir_cli.tables import COLUMNS, PER_QUERY

COMMON = {
    "dataset": "toy", "split": "test", "judgments": "pool", "query_lang": "en", "doc_lang": "de", "query_fields": "title",
    "retriever": "bm25", "retrieve_query": "original", "retrieve_doc": "original", "reranker": "none", "llm": "none",
    "rerank_query": "", "rerank_doc": "", "depth": "1000", "rerank_depth": "", "repeat": "0",
}  # fmt: skip
RERANKED = {"rerank_query": "original", "rerank_doc": "original", "rerank_depth": "100"}


def write(path, columns, rows):
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)


class Runs:
    """A root folder that is filled with experiments as clir leaves them."""

    def __init__(self, root):
        self.root = root
        self.lines = {"metrics.csv": [], "per_query.csv": []}

    def add(self, scores, first=None, config="retriever: {k1: 0.9}\n", measure="AP", more=(), **columns):
        """An experiment whose topics score `scores`, and `first` before reranking; `more` are other measures' scores."""
        row = {**COMMON, **(RERANKED if columns.get("reranker", "none") != "none" else {}), **columns}
        name = f"{row['dataset']}.{row['query_lang']}-{row['doc_lang']}/e{len(self.lines['metrics.csv'])}"
        metrics, per_query = [], []
        before = {
            "reranker": "none",
            "llm": "none",
            "rerank_query": "",
            "rerank_doc": "",
            "rerank_depth": "",
            "repeat": "0",
        }
        for stage, values in (("first_stage", first if first is not None else scores), ("final", scores)):
            other = {
                called: found if stage == "final" or first is None else first for called, found in dict(more).items()
            }
            for called, found in {measure: values, **other}.items():
                mean = statistics.fmean(found.values())
                stage_row = {**row, **(before if stage == "first_stage" else {})}
                counts = {"value": repr(mean), "topics": str(len(found)), "topics_without_relevant": "0"}
                metrics.append({**stage_row, "experiment": name, "stage": stage, "measure": called, **counts})
                keys = {"experiment": name, "judgments": row["judgments"], "stage": stage, "measure": called}
                per_query += [{**keys, "query_id": q, "value": repr(v)} for q, v in found.items()]
        folder = self.root / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(config)
        write(folder / "metrics.csv", COLUMNS, metrics)
        write(folder / "per_query.csv", PER_QUERY, per_query)
        self.lines["metrics.csv"] += metrics
        self.lines["per_query.csv"] += per_query
        return folder

    def sweep(self):
        folder = self.root / "sweeps" / "all-1234"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "metrics.csv", COLUMNS, self.lines["metrics.csv"])
        write(folder / "per_query.csv", PER_QUERY, self.lines["per_query.csv"])
        return folder


def topics(*values, start=1):
    return {str(i): value for i, value in enumerate(values, start)}


def cells(text: str) -> dict[tuple[str, str], str]:
    """A markdown table with one row key as (row, column) -> cell."""
    head, _, *lines = [
        [c.strip() for c in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]
    return {(line[0], column): cell for line in lines for column, cell in zip(head[1:], line[1:], strict=True)}


LOW = topics(*[0.1 + 0.01 * (i % 3) for i in range(20)])
HIGH = topics(*[0.5 + 0.01 * (i % 5) for i in range(20)])
NOISY = topics(*[0.1 + 0.01 * (i % 3) + (0.05 if i % 2 else -0.049) for i in range(20)])
