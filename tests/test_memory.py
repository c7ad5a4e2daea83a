"""Memory does not grow with the collection: twenty times the documents, about the same peak."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from conftest import STATIC, Clir, needs_shared

GROWTH_MB = 150  # ids and offsets cost 24 bytes a document, Lucene's heap and the page cache breathe; texts are 10 MB


def collection(folder: Path, documents: int) -> list[str]:
    words = [f"w{i}" for i in range(5_000)]
    chooser = random.Random(7)
    docs = folder / f"docs{documents}.tsv"
    with docs.open("w") as out:
        out.writelines(f"d{i}\t{' '.join(chooser.choices(words, k=6))}\n" for i in range(documents))
    (folder / "topics.tsv").write_text("q1\tw1 w2\n")
    return [
        "dataset=files",
        f"dataset.docs={docs}",
        "dataset.topics=topics.tsv",
        "dataset.query_lang=en",
        "dataset.doc_lang=en",
    ]


def peak(clir: Clir, *overrides: str) -> int:
    """MB that the run needed at most, as its index step recorded it."""
    folder = clir.experiment(*overrides)
    (index,) = [s for s in json.loads((folder / "manifest.json").read_text())["steps"] if s["stage"] == "index"]
    return int(json.loads((clir.runs / index["folder"] / "step.json").read_text())["peak_memory_mb"])


@pytest.mark.parametrize(
    "retriever",
    [["retriever=bm25"], pytest.param(["retriever=dense", f"retriever.model={STATIC}"], marks=needs_shared(STATIC))],
)
def test_indexing_and_encoding_200_thousand_documents_takes_no_more_memory_than_10_thousand(
    clir: Clir, retriever: list[str]
) -> None:
    small, large = (peak(clir, *collection(clir.folder, n), *retriever) for n in (10_000, 200_000))
    assert large - small < GROWTH_MB, f"{small} MB for 10,000 documents, {large} MB for 200,000"
