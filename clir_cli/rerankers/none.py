"""No second stage: `reranker=none`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clir_cli.types import Candidates, Journal, Run


@dataclass(frozen=True)
class Keep:
    """Keep the first stage's ranking; stages.py makes no rerank step of it."""

    def rerank(self, candidates: Sequence[Candidates], journal: Journal) -> Run:
        """The candidates in their order, with scores n, n - 1, ..., 1."""
        from clir_cli.runs import from_hits

        return from_hits(
            {query.id: [(doc.id, float(len(docs) - at)) for at, doc in enumerate(docs)] for query, docs in candidates}
        )
