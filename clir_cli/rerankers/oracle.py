"""The best that any reranker can do with the candidates: an upper bound, and a test of everything around a reranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from clir_cli.types import Candidates, Qrel, Run


@runtime_checkable
class JudgedReranker(Protocol):
    """A reranker that is shown the judgments; stages.py hands them over, and its step depends on them."""

    def rerank_judged(self, candidates: Sequence[Candidates], qrels: Sequence[Qrel]) -> Run: ...


@dataclass(frozen=True)
class Oracle:
    """Rank candidates by their judged relevance; unjudged ones count 0, equal ones keep their order."""

    def rerank_judged(self, candidates: Sequence[Candidates], qrels: Sequence[Qrel]) -> Run:
        """The ideal order, with scores n, n - 1, ..., 1."""
        from clir_cli.runs import from_hits

        grades = {(qrel.query_id, qrel.doc_id): qrel.relevance for qrel in qrels}
        hits = {}
        for query, docs in candidates:
            ideal = sorted(docs, key=lambda doc: -max(0, grades.get((query.id, doc.id), 0)))
            hits[query.id] = [(doc.id, float(len(docs) - at)) for at, doc in enumerate(ideal)]
        return from_hits(hits)
