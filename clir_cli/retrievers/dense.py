"""Dense retrieval: one vector per text, documents ranked by inner product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from clir_cli import encoding, hub, progress
from clir_cli.retrievers.single_vector import SingleVector, Task
from clir_cli.types import Text, model, neutral, searched

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Dense(SingleVector):
    """Vectors by a sentence encoder, ranked as `SingleVector` says.

    Any model that sentence-transformers loads, or a plain transformers encoder with `pooling`; it must be on this machine
    or on the hub.
    """

    engines: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers")  # whose versions decide the result

    model: str = model()  # hub id, local folder or package:NAME
    revision: str | None = None  # of a hub model: commit, tag or branch; null: what models.lock or the hub's main says
    pooling: Literal["model", "mean", "cls", "last"] = (
        "model"  # model: what its folder says; last: of the closing token
    )
    query_prefix: str | None = searched(None)  # null: what the model's folder declares, mostly nothing; "": nothing
    doc_prefix: str | None = None  # put before the text byte by byte
    query_tokens: int | None = searched(None)  # longer texts are cut; null: the model's own limit
    doc_tokens: int | None = None
    languages: tuple[str, ...] | None = neutral(None)  # that the model reads; null: many, nothing is refused
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the weights
    compile: bool = False  # some 1.3 x faster on a CPU after half a minute of compiling; changes the last digits
    trust_remote_code: bool = False  # run the Python files of the model's repository; only with a commit as revision
    batch_tokens: int | None = neutral(None)  # padded tokens a batch; null: 1024 on a CPU, 32768 on a GPU

    def __post_init__(self) -> None:
        super().__post_init__()
        encoding.check_source(self.model, self.revision, self.trust_remote_code)
        for name in ("query_tokens", "doc_tokens", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def name(self) -> str:
        return self.model

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for a language that is not in `languages`."""
        encoding.check_languages("retriever", self.model, self.languages, [*query_langs, *doc_langs])

    def encode(self, texts: Sequence[Text], task: Task) -> tuple[np.ndarray, dict[str, int]]:
        """Vectors (texts, dimensions) float32 and how many texts, tokens and cut texts there were."""
        import numpy as np
        import torch

        loaded = self.load()
        limit = self._limit(loaded, task)
        prompt = self._prefix(loaded, task)
        options = {} if limit is None else {"processing_kwargs": {"text": {"max_length": limit}}}
        width = loaded.truncate_dim or loaded.get_embedding_dimension()
        encoded = np.empty((len(texts), width), np.float32)
        report = {"texts": len(texts), "tokens": 0, "cut": 0}

        def done() -> Any:
            found = encoding.batches(
                loaded, [text.text for text in texts], "sentence_embedding", self.batch_tokens, limit,
                prompt=prompt, task=task, **options,
            )  # fmt: skip
            for batch in found:
                values = batch.values[:, :width]
                encoded[batch.at] = torch.nn.functional.normalize(values, dim=1) if self.normalize else values
                report["tokens"] += sum(batch.tokens)
                report["cut"] += sum(batch.cut)
                yield from batch.at

        for _ in progress.track(done(), len(texts), "encode", "documents" if task == "document" else "queries"):
            pass
        return encoded, report

    def load(self) -> Any:
        """The sentence-transformers model, loaded once while no other is asked for."""
        folder = hub.folder(self.model, self.revision)
        return encoding.encoder(
            folder,
            pooling=self.pooling,
            dtype=self.dtype,
            compiled=self.compile,
            on=encoding.device(self.device),
            trust_remote_code=self.trust_remote_code,
        )

    def _limit(self, loaded: Any, task: str) -> int | None:
        """Tokens per text. Raises ConfigError for more than the model has positions for."""
        asked = self.query_tokens if task == "query" else self.doc_tokens
        name = "retriever.query_tokens" if task == "query" else "retriever.doc_tokens"
        return encoding.limit(loaded, asked, name, getattr(loaded[0], f"{task}_length", None))

    def _prefix(self, loaded: Any, task: str) -> str:
        given = self.query_prefix if task == "query" else self.doc_prefix
        if given is not None:
            return given
        names = (
            ["query"] if task == "query" else ["document", "passage", "corpus"]
        )  # as sentence-transformers calls them
        return next((loaded.prompts[name] for name in names if loaded.prompts.get(name)), "")
