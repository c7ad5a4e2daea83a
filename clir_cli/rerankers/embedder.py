"""An embedder as reranker: candidates by the inner product of their vector with the query's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from clir_cli import progress
from clir_cli.errors import RunError
from clir_cli.models import encoding, hub
from clir_cli.text import truncation
from clir_cli.types import Candidates, Journal, Run, Text, model, neutral

if TYPE_CHECKING:
    import numpy as np

Task = Literal["query", "document"]
PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}  # as sentence-transformers calls them


class Encoded(NamedTuple):
    """The vectors of some texts, (texts, dimensions) float32, and the tokens that each had."""

    vectors: np.ndarray
    tokens: list[int]
    cut: list[bool]


@dataclass(frozen=True)
class Embedder:
    """Order candidates by the vectors of a sentence encoder, in float32; equal texts of one task are encoded once.

    As the retriever with the same model, but for the 16 bits in which that keeps its vectors; only the candidates are
    encoded. Encoders that are told a language, have adapters or closing tokens are retrievers only.
    """

    engines: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers")  # whose versions decide the result

    model: str = model()  # hub id, local folder or package:NAME
    revision: str | None = None  # of a hub model; null: what models.lock or the hub's main says
    pooling: Literal["model", "mean", "cls", "last", "max"] = "model"  # model: what its folder says
    query_prefix: str | None = None  # null: what the model's folder declares, mostly nothing; "": nothing
    doc_prefix: str | None = None
    query_tokens: int | None = None  # longer texts are cut; null: the model's own limit
    doc_tokens: int | None = None
    normalize: bool = True  # vectors of length 1: inner product is cosine
    languages: tuple[str, ...] | None = neutral(None)  # that the model reads; null: many, nothing is refused
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"  # of the weights
    trust_remote_code: bool = False  # run the Python files of the model's repository; only with a commit as revision
    device: str = neutral("auto")  # auto: the GPU if there is one
    batch_tokens: int | None = neutral(None)  # padded tokens a batch; null: 1024 on a CPU, 32768 on a GPU

    def __post_init__(self) -> None:
        encoding.check_source(self.model, self.revision, self.trust_remote_code)
        for name in ("query_tokens", "doc_tokens", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for a language that is not in `languages`."""
        encoding.check_languages("reranker", self.model, self.languages, [*query_langs, *doc_langs])

    def rerank(self, candidates: Sequence[Candidates], journal: Journal) -> Run:
        """The candidates of every query by falling score, equal scores by doc_id descending.

        The journal gets calls (pairs), texts, texts_cut and prompt_tokens (the document's) of each query. Raises RunError
        for a vector with NaN or infinity.
        """
        import numpy as np
        import pandas as pd

        from clir_cli import runs

        loaded = encoding.encoder(
            hub.folder(self.model, self.revision),
            pooling=self.pooling,
            dtype=self.dtype,
            compiled=False,
            on=encoding.device(self.device),
            trust_remote_code=self.trust_remote_code,
        )
        asked = [one for one in candidates if one.docs]
        docs = list(dict.fromkeys(doc for one in asked for doc in one.docs))
        queries, found = (
            self._encode(loaded, [one.query for one in asked], "query"),
            self._encode(loaded, docs, "document"),
        )
        truncation.warn(
            self.model,
            "queries",
            truncation.by_language((one.query.lang, cut) for one, cut in zip(asked, queries.cut, strict=True)),
            self.query_tokens,
        )
        places = {doc: at for at, doc in enumerate(docs)}
        rows: list[tuple[str, str, float]] = []
        for one, vector in zip(asked, queries.vectors, strict=True):
            at = [places[doc] for doc in one.docs]
            # row by row: a matrix product may give equal vectors different last digits
            scores = [float(np.dot(found.vectors[i], vector)) for i in at]
            rows += [(one.query.id, doc.id, score) for doc, score in zip(one.docs, scores, strict=True)]
            for i in at:
                cut = found.cut[i]
                languages = truncation.by_language([(docs[i].lang, cut)])
                journal.add(one.query.id, calls=1, texts=1, texts_cut=cut, prompt_tokens=found.tokens[i], **languages)
        return runs.ranked(pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]))

    def _encode(self, loaded: Any, texts: Sequence[Text], task: Task) -> Encoded:
        import numpy as np
        import torch

        asked, field = (
            (self.query_tokens, "reranker.query_tokens")
            if task == "query"
            else (self.doc_tokens, "reranker.doc_tokens")
        )
        limit = encoding.limit(loaded, asked, field, getattr(loaded[0], f"{task}_length", None))
        options = {} if limit is None else {"processing_kwargs": {"text": {"max_length": limit}}}
        width = int(loaded.truncate_dim or loaded.get_embedding_dimension())
        made = Encoded(np.empty((len(texts), width), np.float32), [0] * len(texts), [False] * len(texts))
        found = encoding.batches(
            loaded, [text.text for text in texts], "sentence_embedding", self.batch_tokens, limit,
            prompt=self._prefix(loaded, task), task=task, **options,
        )  # fmt: skip
        unit = "documents" if task == "document" else "queries"
        for batch in progress.track(found, None, f"encode {unit}", "batches"):
            values = batch.values[:, :width]
            made.vectors[batch.at] = torch.nn.functional.normalize(values, dim=1) if self.normalize else values
            for i, tokens, cut in zip(batch.at, batch.tokens, batch.cut, strict=True):
                made.tokens[i], made.cut[i] = tokens, cut
        bad = np.flatnonzero(~np.isfinite(made.vectors).all(axis=1))
        if len(bad):
            raise RunError(
                f"{self.model} gives {texts[int(bad[0])].id} a vector with NaN or infinity; try reranker.dtype=float32"
            )
        return made

    def _prefix(self, loaded: Any, task: Task) -> str:
        given = self.query_prefix if task == "query" else self.doc_prefix
        if given is not None:
            return given
        return next((loaded.prompts[name] for name in PROMPTS[task] if loaded.prompts.get(name)), "")
