"""Late interaction as a reranker: candidates by MaxSim of their token vectors with the query's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from clir_cli.models import encoding, multi_vector
from clir_cli.models.multi_vector import MultiVectorModel, TokenVectors
from clir_cli.text import truncation
from clir_cli.types import Candidates, Journal, Run, Text

CHARACTERS = 1 << 21  # of documents encoded before they are scored: some 0.3 GB of vectors of 128 numbers


@dataclass(frozen=True, kw_only=True)
class LateInteraction(MultiVectorModel):
    """Order candidates by MaxSim (Khattab & Zaharia 2020); a document that several queries ask for is encoded once.

    As the retriever with the same model and `search_with=exact`, but for the 16 bits in which that keeps its vectors.
    """

    node: ClassVar[str] = "reranker"

    def rerank(self, candidates: Sequence[Candidates], journal: Journal) -> Run:
        """The candidates of every query by falling score, equal scores by doc_id descending.

        The journal gets calls (pairs), texts, texts_cut and prompt_tokens (the document's) of each query.
        """
        import numpy as np
        import pandas as pd

        from clir_cli import runs

        asked = [one for one in candidates if one.docs]
        rows: list[tuple[str, str, float]] = []
        queries = self.encode_queries([one.query for one in asked])
        ends = np.cumsum(queries.lengths, dtype=np.int64)
        wanted: dict[Text, list[int]] = {}  # which queries ask for a document, as its view shows it
        for number, one in enumerate(asked):
            for doc in one.docs:
                wanted.setdefault(doc, []).append(number)
        on = encoding.device(self.device)
        for docs in _portions(list(wanted)):
            encoded = sorted(self.encode(docs, "document"), key=lambda found: found.at)
            for number, one in enumerate(asked):
                at = [i for i, doc in enumerate(docs) if number in wanted[doc]]
                if not at:
                    continue
                length = queries.lengths[number]
                query = TokenVectors(
                    queries.vectors[ends[number] - length : ends[number]], queries.lengths[number:][:1]
                )
                scores = multi_vector.maxsim(query, multi_vector.packed([encoded[i] for i in at]), on)[0]
                rows += [(one.query.id, docs[i].id, float(score)) for i, score in zip(at, scores, strict=True)]
                for i in at:
                    cut, tokens = encoded[i].cut, encoded[i].tokens
                    languages = truncation.by_language([(docs[i].lang, cut)])
                    journal.add(one.query.id, calls=1, texts=1, texts_cut=cut, prompt_tokens=tokens, **languages)
        order = {one.query.id: number for number, one in enumerate(asked)}
        rows.sort(key=lambda row: order[row[0]])
        return runs.ranked(pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]))


def _portions(docs: Sequence[Text]) -> Iterator[list[Text]]:
    """The documents in order, CHARACTERS at a time, so that not all their vectors are in memory at once."""
    portion: list[Text] = []
    size = 0
    for doc in docs:
        portion.append(doc)
        size += len(doc.text)
        if size >= CHARACTERS:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
