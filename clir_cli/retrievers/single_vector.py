"""Retrieval with one vector per text, wherever the vectors come from: what is stored and how it is searched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clir_cli import encoding
from clir_cli.errors import RunError
from clir_cli.retrievers import vectors
from clir_cli.types import Run, Text, neutral, searched

if TYPE_CHECKING:
    import numpy as np

Task = Literal["query", "document"]


@dataclass(frozen=True, kw_only=True)
class SingleVector:
    """Rank documents by the inner product of their vector with the query's, exactly, over 16-bit copies of the vectors.

    A base: subclasses say in `encode` where vectors come from, and in `name` who gives them, for errors.
    """

    normalize: bool = True  # vectors of length 1: inner product is cosine
    similarity: Literal["dot", "cosine"] = searched("dot")  # cosine differs only where normalize is false
    search_with: Literal["exact", "faiss"] = searched("exact")  # exact is the right choice up to some 10 M documents
    faiss_factory: str | None = searched(None)  # as in faiss.index_factory, e.g. HNSW32,Flat; null: Flat
    device: str = neutral("auto")  # auto: the GPU if there is one; cpu, cuda, cuda:1, mps

    def __post_init__(self) -> None:
        if self.faiss_factory is not None and self.search_with != "faiss":
            raise ValueError(f"faiss_factory {self.faiss_factory!r} needs search_with=faiss")

    @property
    def name(self) -> str:
        """Who gives the vectors, for errors."""
        raise NotImplementedError

    @property
    def shard_docs(self) -> int:
        """Documents per shard; fixed, because batches are formed inside a shard and the bytes depend on them."""
        return 50_000

    def encode(self, texts: Sequence[Text], task: Task) -> tuple[np.ndarray, Mapping[str, float]]:
        """Vectors (texts, dimensions) float32, normalised if `normalize`, and counts: texts, tokens, cut."""
        raise NotImplementedError

    def index_shard(self, docs: Sequence[Text], folder: Path) -> None:
        """Write `vectors.npy` (documents, dimensions) float16, `ids.txt` and `report.json` {texts, tokens, cut}.

        Raises RunError naming a document whose vector has a number that is NaN or too large for 16 bits.
        """
        import torch

        encoded, report = self.encode(docs, "document")
        halves = torch.from_numpy(encoded).half().numpy()
        _check_finite(halves, docs, self.name)
        folder.mkdir(parents=True, exist_ok=True)
        vectors.write_shard(folder, [doc.id for doc in docs], halves)
        (folder / "report.json").write_text(json.dumps(report) + "\n", encoding="utf-8")

    def search(self, folder: Path, queries: Sequence[Text], depth: int) -> Run:
        """The `depth` best documents of every query; equal scores by doc_id descending."""
        import numpy as np

        encoded, _ = self.encode(queries, "query")
        _check_finite(encoded, queries, self.name)
        cosine = self.similarity == "cosine" and not self.normalize
        if cosine:
            encoded /= np.maximum(np.linalg.norm(encoded, axis=1, keepdims=True), 1e-12)
        ids = [query.id for query in queries]
        if self.search_with == "faiss":
            return vectors.search_faiss(
                folder, ids, encoded, depth, factory=self.faiss_factory or "Flat", cosine=cosine
            )
        return vectors.search_exact(folder, ids, encoded, depth, cosine=cosine, device=encoding.device(self.device))


def _check_finite(encoded: np.ndarray, texts: Sequence[Text], name: str) -> None:
    import numpy as np

    bad = np.flatnonzero(~np.isfinite(encoded).all(axis=1))
    if len(bad):
        text = texts[int(bad[0])]
        raise RunError(
            f"{name} gives {text.id} ({len(bad)} of {len(texts)} texts) a vector with NaN or infinity: {text.text[:80]!r}\n"
            "  try retriever.dtype=float32 and retriever.normalize=true; an empty text has no last token to pool"
        )
