"""How alike the rankings of two experiments are."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from clir_cli.progress import track

TOP = 10  # documents compared as sets
DEPTH = 100  # documents seen by the rank-biased overlap; those below weigh less than 0.00003


class Overlap(NamedTuple):
    """Means over the topics of all compared rankings."""

    top: float  # share of the first 10 documents that both have
    rank_biased: float  # Webber et al. 2010, extrapolated, p = 0.9
    topics: int


def of(folders: Iterable[tuple[Path | None, Path | None]]) -> Overlap | None:
    """The overlap of final rankings, pair by pair; None where no pair has both run.trec files."""
    pairs = [(a / "run.trec", b / "run.trec") for a, b in folders if a and b]
    there = [pair for pair in pairs if all(path.exists() for path in pair)]
    found = [values for a, b in track(there, len(there), "compare", "rankings") for values in _compared(a, b)]
    if not found:
        return None
    tops, biased = zip(*found, strict=True)
    return Overlap(statistics.fmean(tops), statistics.fmean(biased), len(found))


def _compared(a: Path, b: Path) -> Iterable[tuple[float, float]]:
    """(share of the first documents, rank-biased overlap) of every topic that either ranking has."""
    import numpy as np

    from clir_cli.diagnosis.fairness import rank_biased_overlap

    one, other = first(a), first(b)
    for query in dict.fromkeys([*one, *other]):
        x, y = one.get(query, []), other.get(query, [])
        shared = set(x[:TOP]) & set(y[:TOP])
        places = {doc: rank for rank, doc in enumerate(y, 1)}
        ranks = [(rank, places[doc]) for rank, doc in enumerate(x, 1) if doc in places]
        sides = np.array(ranks, dtype=int).reshape(-1, 2)
        yield (
            len(shared) / max(len(x[:TOP]), len(y[:TOP])),
            rank_biased_overlap(sides[:, 0], sides[:, 1], (len(x), len(y))),
        )


def first(run: Path, depth: int = DEPTH) -> dict[str, list[str]]:
    """query_id -> its first documents in the order of a run that clir wrote: best first, query after query."""
    found: dict[str, list[str]] = {}
    with run.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            query, _, doc, _ = line.split(" ", 3)
            docs = found.setdefault(query, [])
            if len(docs) < depth:
                docs.append(doc)
    return found
