"""The vector that a text would have if another hidden layer were pooled: all layers in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clir_cli.models import assembly, encoding
from clir_cli.retrievers.dense import Dense
from clir_cli.retrievers.single_vector import Task
from clir_cli.types import Text

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class _Layered:
    """A loaded encoder whose output is every layer's pooled vector; `encoding.batches` takes it as it takes the encoder."""

    model: Any
    pool: Any

    @property
    def device(self) -> torch.device:
        return self.model.device  # type: ignore[no-any-return]

    @property
    def tokenizer(self) -> Any:
        return self.model.tokenizer

    def preprocess(self, texts: Sequence[Any], **options: Any) -> Any:
        return self.model.preprocess(texts, **options)

    def __call__(self, features: Mapping[str, Any], **_: Any) -> dict[str, torch.Tensor]:
        """`layers` (texts, layers, dimensions)."""
        import torch

        read = self.model[0](dict(features), output_hidden_states=True)
        states = read["all_layer_embeddings"]
        pooled = [self.pool({**read, "token_embeddings": state})["sentence_embedding"] for state in states]
        return {"layers": torch.stack(pooled, dim=1)}


@contextmanager
def _telling_all(body: Any) -> Iterator[None]:
    """sentence-transformers hands hidden states on only where the model's configuration asks for them."""
    before = body.config.output_hidden_states
    body.config.output_hidden_states = True
    try:
        yield
    finally:
        body.config.output_hidden_states = before


def without_layers(retriever: Any, lang: str) -> str | None:
    """Why an encoder's layers cannot be looked at; None if they can."""
    if not isinstance(retriever, Dense):
        return f"{type(retriever).__name__} shows its vectors only"
    loaded = retriever.reader_of(lang).load()
    if assembly.body(loaded) is None or not hasattr(loaded[0], "modality_config"):
        return f"{type(loaded[0]).__name__} has no layers"
    if sum(hasattr(part, "pooling_mode") for part in loaded) != 1:
        return "the model's own code pools its vectors"
    return None


def encode(dense: Dense, texts: Sequence[Text], task: Task) -> np.ndarray:
    """(layers + 1, texts, dimensions) float32: the token vectors of the embeddings and of every hidden layer, pooled as the model
    pools its last; what stands behind the pooling (Dense, Normalize) is left out. All texts in one language."""
    import numpy as np

    lang = texts[0].lang
    reader = dense.reader_of(lang)
    loaded = reader.load(task)
    limit, options = reader.limit(loaded, task), reader.prepare(loaded, task, lang)
    shown, suffix = [text.text for text in texts], reader.suffix(task)
    if suffix:
        shown = [encoding.closed(loaded, text, options["prompt"], suffix, limit)[0] for text in shown]
    model = _Layered(loaded, next(part for part in loaded if hasattr(part, "pooling_mode")))
    found: np.ndarray | None = None
    with _telling_all(assembly.body(loaded)):  # around all batches: threads share the model
        for batch in encoding.batches(model, shown, "layers", reader.batch_tokens, limit, **options):
            values = batch.values.numpy()  # (texts, layers, dimensions)
            if found is None:
                found = np.empty((values.shape[1], len(shown), values.shape[2]), np.float32)
            found[:, batch.at] = values.transpose(1, 0, 2)
    assert found is not None
    return found
