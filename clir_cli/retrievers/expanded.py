"""One vector per document, made of its own and of those of the queries that were written for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from clir_cli.retrievers.single_vector import SingleVector, Task
from clir_cli.types import Text

if TYPE_CHECKING:
    import numpy as np

BLOCK = 1024  # documents whose queries are encoded at once: a batch of another size changes the last digits


@dataclass(frozen=True, kw_only=True)
class Expanded(SingleVector):
    """The vectors of `part`, a document's moved towards its queries' (Zhuang et al. 2023).

    `alpha`: (1 - alpha) * document + alpha * sum of queries; None: the mean of all. Made by `over`, not by a yaml.
    """

    part: Any
    queries: Mapping[str, Mapping[str, Sequence[str]]]  # doc_id -> language -> queries
    alpha: float | None

    @classmethod
    def over(
        cls, part: SingleVector, queries: Mapping[str, Mapping[str, Sequence[str]]], alpha: float | None
    ) -> Expanded:
        """`part` with its own settings for what is stored and how it is searched."""
        own = {f.name: getattr(part, f.name) for f in fields(SingleVector)}
        return cls(part=part, queries=queries, alpha=alpha, **own)

    @property
    def name(self) -> str:
        return str(self.part.name)

    def encode(self, texts: Sequence[Text], task: Task) -> tuple[np.ndarray, Mapping[str, float]]:
        """As `part` encodes; documents with their queries, of length 1 again if `normalize`."""
        import numpy as np

        vectors, report = self.part.encode(texts, task)
        if task == "query":
            return vectors, report
        counts = {**report, "queries_encoded": 0}
        for begin in range(0, len(texts), BLOCK):
            asked = [
                (i, Text(f"{text.id} query {at}", ((lang, query),)))
                for i, text in enumerate(texts[begin : begin + BLOCK], begin)
                for lang, given in self.queries.get(text.id, {}).items()
                for at, query in enumerate(given)
            ]
            if not asked:
                continue
            own, _ = self.part.encode([query for _, query in asked], "query")
            rows = np.array([i for i, _ in asked])
            total, many = np.zeros_like(vectors[begin : begin + BLOCK]), np.bincount(rows - begin, minlength=BLOCK)
            np.add.at(total, rows - begin, own)
            block = vectors[begin : begin + BLOCK]
            many = many[: len(block), None].astype(np.float32)
            if self.alpha is None:
                mixed = (block + total) / (1 + many)
            else:
                mixed = np.where(many > 0, (1 - self.alpha) * block + self.alpha * total, block)
            if self.normalize:
                mixed /= np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
            vectors[begin : begin + BLOCK] = mixed
            counts["queries_encoded"] += len(asked)
        return vectors, counts
