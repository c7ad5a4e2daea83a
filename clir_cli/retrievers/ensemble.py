"""Several encoders as one: their vectors side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clir_cli.retrievers.single_vector import SingleVector, Task
from clir_cli.search.postprocess import unit
from clir_cli.types import LanguageAware, Text

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Ensemble(SingleVector):
    """The weighted mean of several encoders' cosines, ranked as `SingleVector` says.

    Each encoder's vector has length sqrt(weight), and they are concatenated: the inner product of two such vectors is the
    weighted mean of the cosines, so everything that works for one encoder (index, post, faiss, margin) works here. Unlike
    a hybrid it scores every document by all of them, and needs the memory of their dimensions together.
    """

    encoders: Mapping[str, Any]  # name -> a retriever with one vector per text; only how it encodes counts
    weights: Mapping[str, float] | None = None  # name -> weight, made to sum to 1; null: equal

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.normalize:
            raise ValueError("an ensemble's score is a mean of cosines: normalize=true")
        if len(self.encoders) < 2:
            raise ValueError(f"encoders must name at least two encoders, got {', '.join(self.encoders) or 'none'}")
        for name, part in self.encoders.items():
            if not isinstance(part, SingleVector):
                raise TypeError(f"encoders.{name} gives no single vector per text: {type(part).__name__}")
            if part.dims or part.post or part.quantize != "none" or part.faiss_factory:
                raise ValueError(
                    f"encoders.{name}: dims, post, quantize and faiss_factory are for the ensemble as a whole"
                )
        if self.weights is not None and (set(self.weights) != set(self.encoders) or min(self.weights.values()) <= 0):
            raise ValueError(
                f"weights must be positive numbers for {', '.join(self.encoders)}, got {dict(self.weights)}"
            )

    @property
    def name(self) -> str:
        return " + ".join(part.name for part in self.encoders.values())

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for what one of the encoders does not read."""
        for part in self.encoders.values():
            if isinstance(part, LanguageAware):
                part.check_languages(query_langs, doc_langs)

    def encode(self, texts: Sequence[Text], task: Task) -> tuple[np.ndarray, Mapping[str, float]]:
        import numpy as np

        given = self.weights or dict.fromkeys(self.encoders, 1.0)
        found, counts = [], {"texts": float(len(texts))}
        for name, part in self.encoders.items():
            vectors, report = part.encode(texts, task)
            found.append(unit(vectors) * np.sqrt(np.float32(given[name] / sum(given.values()))))
            counts |= {k: counts.get(k, 0) + v for k, v in report.items() if k != "texts"}
        return np.concatenate(found, axis=1), counts
