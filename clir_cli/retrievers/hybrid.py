"""Several first stages, fused: a plan made of ordinary retrieve steps, not an engine of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clir_cli.types import Run, added


@dataclass(frozen=True)
class Hybrid:
    """Fuse the rankings of `parts`, each composed by its name with its own views and translator."""

    parts: tuple[str, ...]
    method: Literal["rrf", "minmax", "zscore", "interpolation"] = "rrf"
    # reciprocal ranks (Cormack et al. 2009), or summed scores: normalised per query, or as they are (interpolation)
    k: int = 60  # rrf: the constant of Cormack et al. 2009
    weights: tuple[float, ...] | None = None  # one per part; None: equal
    decimals: int | None = added(None, None)  # of the fused scores, which may be equal then; None: all

    def __post_init__(self) -> None:
        if len(self.parts) < 2 or len(set(self.parts)) != len(self.parts):
            raise ValueError(
                f"parts must name at least two different retrievers, got {', '.join(self.parts) or 'none'}"
            )
        if self.weights is not None and len(self.weights) != len(self.parts):
            raise ValueError(f"{len(self.weights)} weights for {len(self.parts)} parts")

    def fuse(self, runs: Sequence[Run], tie_break: Literal["doc_id", "hash"]) -> Run:
        from clir_cli.runs import interpolation, ranked, reciprocal_rank_fusion, score_fusion

        if self.method == "rrf":
            run = reciprocal_rank_fusion(runs, self.k, self.weights, tie_break)
        elif self.method == "interpolation":
            run = interpolation(runs, self.weights, tie_break)
        else:
            run = score_fusion(runs, self.method, self.weights, tie_break)
        return run if self.decimals is None else ranked(run.assign(score=run["score"].round(self.decimals)), tie_break)
