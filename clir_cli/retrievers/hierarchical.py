"""One vector per document, made of its segments' vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from clir_cli.errors import ConfigError, MissingModel
from clir_cli.models import encoding
from clir_cli.retrievers.single_vector import SingleVector, Task
from clir_cli.text.passages import Passages, tokens_of
from clir_cli.types import LanguageAware, Text, content

if TYPE_CHECKING:
    import numpy as np
    import torch

BLOCK = 2048  # documents whose segments are encoded at once; fixed, or the bytes would change
DOC = "doc.safetensors"  # in the document transformer's folder: `doc` (hidden_size,), the learned vector put first


@dataclass(frozen=True, kw_only=True)
class Hierarchical(SingleVector):
    """Segments are encoded alone and their vectors combined into the document's (HMDE, Galoğlu et al. 2023).

    mean, max: of the segments' vectors, number by number · first: the first segment's · transformer: a small encoder
    over the segments' vectors. Its folder holds config.json and model.safetensors of a transformers encoder that takes
    `inputs_embeds` (BERT and its kin) with hidden_size = the encoder's dimensions, and may hold doc.safetensors. With
    it, [DOC] stands before the segments; the document's vector is its output (`pooling=doc`) or the mean of all outputs.

    A query is one segment, and passes through the transformer as well. Ranked as `SingleVector` says.
    """

    engines: ClassVar[tuple[str, ...]] = ("transformers",)  # whose versions decide the result

    encoder: Any  # a retriever with one vector per text; only how it encodes counts
    unit: Literal["sentences", "words", "tokens"] = "sentences"  # tokens: of the encoder
    window: int = 1  # units in a segment; sentences stay whole, as in retrieve.passages
    stride: int | None = None  # null: the window
    max_segments: int = 64  # of a document; later ones are left out and counted
    combine: Literal["mean", "max", "first", "transformer"] = "mean"
    transformer: str | None = content(None)  # the folder
    pooling: Literal["doc", "mean"] = "doc"  # of the transformer's outputs

    def __post_init__(self) -> None:
        super().__post_init__()
        self._cut  # noqa: B018 - refuses a window or stride that makes no sense
        single = isinstance(self.encoder, SingleVector)
        if not single:
            raise ValueError(f"encoder gives no single vector per text: {type(self.encoder).__name__}")
        if self.encoder.dims or self.encoder.post:
            raise ValueError("encoder: dims and post are for the documents' vectors: say them of the retriever itself")
        if (self.combine == "transformer") != (self.transformer is not None):
            raise ValueError(
                "combine=transformer needs `transformer`, the folder of a document transformer, and only it"
            )
        if self.unit == "tokens" and tokens_of(self.encoder) is None:
            raise ValueError(
                f"unit=tokens: {type(self.encoder).__name__} has no tokens of its own; choose sentences or words"
            )
        if self.max_segments < 1:
            raise ValueError(f"max_segments must be at least 1, got {self.max_segments}")

    @property
    def _cut(self) -> Passages:
        return Passages(self.unit, self.window, self.stride)

    @property
    def name(self) -> str:
        return str(self.encoder.name)

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for what the encoder does not read."""
        if isinstance(self.encoder, LanguageAware):
            self.encoder.check_languages(query_langs, doc_langs)

    def encode(self, texts: Sequence[Text], task: Task) -> tuple[np.ndarray, Mapping[str, float]]:
        """Vectors (texts, dimensions) float32, and counts: texts, segments, left_out and what the encoder counts."""
        import numpy as np

        found, counts = [], Counter[str]()
        for begin in range(0, len(texts), BLOCK):
            some = texts[begin : begin + BLOCK]
            segments = [self._segments(text) for text in some] if task == "document" else [[text] for text in some]
            counts["left_out"] += sum(max(0, len(of) - self.max_segments) for of in segments)
            segments = [of[: 1 if self.combine == "first" else self.max_segments] for of in segments]
            vectors, report = self.encoder.encode([segment for of in segments for segment in of], task)
            counts.update(report)
            found.append(self._combined(vectors, [len(of) for of in segments]))
        whole = np.concatenate(found) if found else np.empty((0, 0), np.float32)
        if self.normalize:
            whole /= np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-12)
        return whole, {**counts, "segments": counts["texts"], "texts": len(texts)}

    def _segments(self, text: Text) -> list[Text]:
        """A text shown in several languages has the segments of each."""
        found = []
        for lang, part in text.parts:
            (spans,) = self._cut.cut([part], tokens_of(self.encoder))
            found += [Text(f"{text.id} segment {i}", ((lang, part[a:b]),)) for i, (a, b) in enumerate(spans)]
        return found

    def _combined(self, vectors: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        """(documents, dimensions) of (segments, dimensions); `sizes`: segments of each document."""
        import numpy as np

        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        if self.combine == "first":
            return vectors[starts]
        if self.combine == "mean":
            total: np.ndarray = np.add.reduceat(vectors, starts, axis=0)
            return total / np.asarray(sizes, np.float32)[:, None]
        if self.combine == "max":
            highest: np.ndarray = np.maximum.reduceat(vectors, starts, axis=0)
            return highest
        return self._transformed(vectors, starts, sizes)

    def _transformed(self, vectors: np.ndarray, starts: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        import numpy as np
        import torch

        net, doc = document_transformer(Path(str(self.transformer)).expanduser(), encoding.device(self.device))
        if net.config.hidden_size != vectors.shape[1]:
            raise ConfigError(
                f"retriever.transformer={self.transformer} reads vectors of {net.config.hidden_size} numbers, "
                f"and {self.name} gives {vectors.shape[1]}"
            )
        if self.pooling == "doc" and doc is None:
            raise ConfigError(f"retriever.pooling=doc: {self.transformer} has no {DOC}; choose pooling=mean")
        most = net.config.max_position_embeddings - (0 if doc is None else 1)
        if max(sizes, default=0) > most:
            raise ConfigError(
                f"retriever.max_segments={self.max_segments}: {self.transformer} has positions for {most}"
            )
        out = np.empty((len(sizes), vectors.shape[1]), np.float32)
        for at in _alike(sizes):
            rows = np.stack(
                [vectors[starts[i] : starts[i] + sizes[i]] for i in at]
            )  # (documents, segments, dimensions)
            given = torch.from_numpy(rows).to(net.device)
            if doc is not None:
                given = torch.cat([doc.to(net.device).expand(len(at), 1, -1), given], dim=1)
            with torch.inference_mode():
                states = net(inputs_embeds=given).last_hidden_state
            out[at] = (states[:, 0] if self.pooling == "doc" else states.mean(dim=1)).float().cpu().numpy()
        return out


def _alike(sizes: Sequence[int], most: int = 256) -> Iterator[list[int]]:
    """Documents with equally many segments, up to `most` together: nothing is padded."""
    groups: dict[int, list[int]] = {}
    for i, size in enumerate(sizes):
        groups.setdefault(size, []).append(i)
    for _, at in sorted(groups.items()):
        yield from (at[begin : begin + most] for begin in range(0, len(at), most))


@lru_cache(maxsize=1)
def document_transformer(folder: Path, on: str) -> tuple[Any, torch.Tensor | None]:
    """The document transformer in `folder`, float32 in evaluation mode, and its [DOC] vector if it has one."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        net = AutoModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32, local_files_only=True)
        doc = load_file(folder / DOC)["doc"].float() if (folder / DOC).exists() else None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise MissingModel(
            f"{folder} does not load as a document transformer: {error}\n"
            f"  it needs config.json and model.safetensors of an encoder such as BERT, and may hold {DOC} with `doc`"
        ) from error
    return net.eval().to(on), doc
