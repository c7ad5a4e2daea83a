"""Several rerankers, one after another: a plan made of ordinary rerank steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cascade:
    """Each of `parts` orders the first `depths[i]` documents of what the one before it left."""

    parts: tuple[str, ...]
    depths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.parts or len(self.parts) != len(self.depths):
            raise ValueError(f"parts and depths must be as many, got {len(self.parts)} and {len(self.depths)}")
        if len(set(self.parts)) != len(self.parts) or any(d < 1 for d in self.depths):
            raise ValueError(f"parts must differ and depths be at least 1, got {self.parts} and {self.depths}")
