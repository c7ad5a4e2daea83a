"""Scores that count how near everything else is: a sentence that is close to all others is no translation of yours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clir_cli.search import vectors
from clir_cli.types import Run

if TYPE_CHECKING:
    import numpy as np


def by_margin(
    run: Run,
    folder: Path,
    ids: Sequence[str],
    queries: np.ndarray,
    kind: Literal["ratio", "distance"],
    neighbours: int,
    *,
    cosine: bool,
) -> Run:
    """Each query's documents ordered by the margin of their cosine (Artetxe & Schwenk 2019):

        b     = (mean cosine of q with its k nearest documents + mean cosine of d with its k nearest queries) / 2
        ratio = cos(q, d) / b        distance = cos(q, d) - b

    with k = `neighbours`, or all where there are fewer. `run` holds cosines, at least k documents a query if there are.
    The neighbours of a document are all the queries of this search. A run of depth k has LASER's xsim candidates.
    """
    import numpy as np

    from clir_cli import runs

    near = runs.cut(run, neighbours).groupby("query_id")["score"].mean()
    backward: dict[str, float] = {}
    k = min(neighbours, len(ids))
    for docs, found in vectors.read_rows(folder, set(run["doc_id"])):
        if cosine:
            found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        scores = found @ queries.T  # (documents, queries)
        best = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]
        backward.update(zip(docs, best.mean(axis=1).tolist(), strict=True))
    b = (run["query_id"].map(near).to_numpy() + run["doc_id"].map(backward).to_numpy()) / 2
    a = run["score"].to_numpy()
    score = a - b if kind == "distance" else a / np.where(np.abs(b) < 1e-9, 1e-9, b)
    return runs.ranked(run.assign(score=score)[["query_id", "doc_id", "score"]])
