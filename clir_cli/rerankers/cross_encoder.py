"""Cross-encoders: query and document are read together by a trained classifier."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from clir_cli import progress
from clir_cli.errors import ConfigError, RunError
from clir_cli.models import encoding, hub
from clir_cli.text import truncation
from clir_cli.types import Candidates, Journal, Run, model, neutral


@dataclass(frozen=True)
class CrossEncoder:
    """Order candidates by the score that a sequence classifier with one label gives to (query, document).

    The score is the raw logit: a sigmoid orders alike but makes ties of the best documents (float32 ends at 1 - 6e-8).
    """

    engines: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers")  # whose versions decide the result

    model: str = model()  # hub id, local folder or package:NAME
    revision: str | None = None  # of a hub model; null: what models.lock or the hub's main says
    max_tokens: int = 512  # query and document together; only the document is cut, and the cut ones are counted
    languages: tuple[str, ...] | None = neutral(None)  # that the model reads; null: many, nothing is refused
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the weights; scores are float32
    trust_remote_code: bool = False  # run the Python files of the model's repository; only with a commit as revision
    device: str = neutral("auto")  # auto: the GPU if there is one
    batch_tokens: int | None = neutral(None)  # padded tokens a batch; null: 1024 on a CPU, 32768 on a GPU

    def __post_init__(self) -> None:
        encoding.check_source(self.model, self.revision, self.trust_remote_code)
        for name in ("max_tokens", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for a language that is not in `languages`."""
        encoding.check_languages("reranker", self.model, self.languages, [*query_langs, *doc_langs])

    def rerank(self, candidates: Sequence[Candidates], journal: Journal) -> Run:
        """The candidates of every query by falling score, equal scores by doc_id descending.

        The journal gets calls (pairs), texts, texts_cut and prompt_tokens of each query. Raises ConfigError for a query
        that leaves a document no room, RunError for a score that is no number.
        """
        import pandas as pd

        from clir_cli import runs

        loaded = encoding.cross_encoder(
            hub.folder(self.model, self.revision),
            dtype=self.dtype,
            on=encoding.device(self.device),
            trust_remote_code=self.trust_remote_code,
        )
        limit = encoding.limit(loaded, self.max_tokens, "reranker.max_tokens")
        self._check_queries(loaded, candidates)
        pairs = [(asked.query, doc) for asked in candidates for doc in asked.docs]
        scores = [0.0] * len(pairs)

        def done() -> Iterator[int]:
            found = encoding.batches(
                loaded, [(query.text, doc.text) for query, doc in pairs], "scores", self.batch_tokens, limit,
                processing_kwargs={"text": {"max_length": limit, "truncation": "only_second"}},
            )  # fmt: skip
            for batch in found:
                for at, score, tokens, cut in zip(
                    batch.at, batch.values.flatten().tolist(), batch.tokens, batch.cut, strict=True
                ):
                    scores[at] = score
                    query, doc = pairs[at]
                    languages = truncation.by_language([(doc.lang, cut)])
                    journal.add(query.id, calls=1, texts=1, texts_cut=cut, prompt_tokens=tokens, **languages)
                    yield at

        for _ in progress.track(done(), len(pairs), "rerank", "documents"):
            pass
        for (query, doc), score in zip(pairs, scores, strict=True):
            if not math.isfinite(score):
                raise RunError(
                    f"{self.model} scores document {doc.id} {score} for query {query.id}; try reranker.dtype=float32"
                )
        rows = [(query.id, doc.id, score) for (query, doc), score in zip(pairs, scores, strict=True)]
        return runs.ranked(pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]))

    def _check_queries(self, loaded: Any, candidates: Sequence[Candidates]) -> None:
        room = self.max_tokens - loaded.tokenizer.num_special_tokens_to_add(pair=True)
        queries = [asked.query for asked in candidates]
        counts = (
            loaded.tokenizer([query.text for query in queries], add_special_tokens=False)["input_ids"]
            if queries
            else []
        )
        for query, ids in zip(queries, counts, strict=True):
            if len(ids) >= room:
                raise ConfigError(
                    f"query {query.id} has {len(ids)} tokens and reranker.max_tokens={self.max_tokens} leaves no room for a document\n"
                    "  choose shorter topics (rerank.query_fields=[title]) or raise reranker.max_tokens, if the model has the positions"
                )
