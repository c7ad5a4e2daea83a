"""A retriever whose texts say their vectors, and how the tests index, derive and search with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clir_cli import runs
from clir_cli.retrievers.single_vector import SingleVector, Task
from clir_cli.search import postprocess
from clir_cli.steps import derives
from clir_cli.types import Run, Text


@dataclass(frozen=True, kw_only=True)
class Given(SingleVector):
    """A retriever whose vectors stand in its texts."""

    device: str = "cpu"

    @property
    def name(self) -> str:
        return "given"

    def encode(self, texts: Sequence[Text], task: Task) -> tuple[np.ndarray, Mapping[str, float]]:
        found = np.array([json.loads(text.text) for text in texts], np.float32).reshape(len(texts), -1)
        return postprocess.unit(found) if self.normalize else found, {"texts": len(texts)}


def texts(rows: np.ndarray, prefix: str = "d", lang: str = "en") -> list[Text]:
    return [Text(f"{prefix}{i}", ((lang, json.dumps(row.tolist())),)) for i, row in enumerate(rows)]


def index(retriever: SingleVector, docs: Sequence[Text], folder: Path, shard: int = 400) -> Path:
    for number, start in enumerate(range(0, len(docs), shard)):
        retriever.index_shard(docs[start : start + shard], folder / "index" / "shards" / f"{number:05}")
    return folder / "index"


def search(
    retriever: SingleVector, docs: Sequence[Text], queries: Sequence[Text], depth: int, folder: Path
) -> tuple[Run, dict[str, float]]:
    """The run, and what deriving said."""
    where = index(retriever, docs, folder)
    if not derives(retriever):
        return retriever.search(where, queries, depth), {}
    (folder / "derived").mkdir()
    langs = [list(dict.fromkeys(text.lang for text in found)) for found in (queries, docs)]
    counts = retriever.derive(where, folder / "derived", *langs)
    return retriever.search(where, queries, depth, folder / "derived"), dict(counts)


def top(run: Run, depth: int) -> dict[str, list[str]]:
    return {query: list(rows["doc_id"]) for query, rows in runs.cut(run, depth).groupby("query_id", sort=False)}


def cloud(seed: int, rows: int, width: int = 32) -> np.ndarray:
    """Vectors in a few clouds, as sentence vectors lie."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((12, width))
    return (centres[draw.integers(0, 12, rows)] + 0.5 * draw.standard_normal((rows, width))).astype(np.float32)
