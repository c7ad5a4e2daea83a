"""Is one run better than another on these topics? Paired tests, their correction, and how large the difference is.

A sample is the difference between two runs topic by topic: an array (topics,) in the same order of topics.
Smucker et al. 2007 compare the tests for retrieval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from clir_cli.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats: TypeAlias = NDArray[np.float64]

TestName: TypeAlias = Literal["t", "randomisation", "bootstrap"]
SAMPLES = 10_000  # sign flips or resamples; the smallest p-value they can give is 1 / (SAMPLES + 1)
EXACT = 12  # topics up to which all 2^n sign flips are tried instead
_BLOCK = 1_000_000  # numbers drawn at once


def paired_t_test(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p-value of Student's paired t-test, in [0, 1]; a and b are (topics,) in one order.

    1 where no topic differs, and where there are fewer than two topics. Raises DataError for NaN or unequal lengths.
    """
    from scipy import stats

    d = _differences(a, b)
    if len(d) < 2 or not d.any():
        return 1.0
    spread = d.std(ddof=1)
    if spread <= 1e-12 * abs(d.mean()):  # all topics differ alike
        return 0.0
    return float(2 * stats.t.sf(abs(d.mean()) / (spread / math.sqrt(len(d))), len(d) - 1))


def randomisation_test(a: ArrayLike, b: ArrayLike, seed: int = 0) -> float:
    """Two-sided p-value of Fisher's randomisation test: how often flipped signs give a mean difference as large.

    Exact up to 12 topics; else 10,000 seeded flips, the observed one counted among them (so it is never 0).
    """
    import numpy as np

    d = _differences(a, b)
    observed = abs(d.sum()) * (1 - 1e-9)  # sums of the same numbers in another order are equal
    if len(d) <= EXACT:
        flips = (np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1) * 2 - 1  # (2^n, topics), each -1 or 1
        return float(np.mean(np.abs(flips @ d) >= observed))
    rng, extreme = np.random.default_rng(seed), 1
    for size in _blocks(len(d)):
        extreme += int(np.sum(np.abs((rng.integers(0, 2, (size, len(d))) * 2 - 1) @ d) >= observed))
    return extreme / (SAMPLES + 1)


def bootstrap_test(a: ArrayLike, b: ArrayLike, seed: int = 0) -> float:
    """Two-sided p-value of the bootstrap shift test: 10,000 seeded resamples of the differences, centred on 0."""
    import numpy as np

    d = _differences(a, b)
    if not d.any():
        return 1.0
    centred, observed = d - d.mean(), abs(d.mean()) * (1 - 1e-9)
    rng, extreme = np.random.default_rng(seed), 1
    for size in _blocks(len(d)):
        drawn = centred[rng.integers(0, len(d), (size, len(d)))]  # (size, topics)
        extreme += int(np.sum(np.abs(drawn.mean(axis=1)) >= observed))
    return extreme / (SAMPLES + 1)


def _blocks(topics: int) -> list[int]:
    size = max(1, _BLOCK // topics)
    return [min(size, SAMPLES - done) for done in range(0, SAMPLES, size)]


TESTS: Mapping[TestName, Callable[[ArrayLike, ArrayLike], float]] = MappingProxyType(
    {"t": paired_t_test, "randomisation": randomisation_test, "bootstrap": bootstrap_test}
)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979), in their order; the family-wise error rate holds.

    NaN stands for a test that was not made: it stays NaN and does not count as one of the family.
    """
    made = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, highest = [math.nan] * len(p_values), 0.0
    for done, (p, i) in enumerate(made):
        highest = max(highest, min(1.0, (len(made) - done) * p))
        corrected[i] = highest
    return corrected


class Effect(NamedTuple):
    """How large a paired difference a - b is."""

    difference: float  # mean over the topics
    d_z: float  # Cohen's d_z: the mean in standard deviations of the differences; 0 where none differs
    low: float  # confidence interval of the mean difference (Student's t); NaN with one topic
    high: float


def effect(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Effect:
    """Mean difference a - b over the topics, its standardised size and its confidence interval."""
    from scipy import stats

    d = _differences(a, b)
    mean, topics = float(d.mean()), len(d)
    if topics < 2:
        return Effect(mean, math.nan if mean else 0.0, math.nan, math.nan)
    spread = float(d.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, topics - 1)) * spread / math.sqrt(topics)
    d_z = mean / spread if spread else math.copysign(math.inf, mean) if mean else 0.0
    return Effect(mean, d_z, mean - half, mean + half)


def _differences(a: ArrayLike, b: ArrayLike) -> Floats:
    import numpy as np

    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise DataError(f"a paired test needs the same topics on both sides, got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("a paired test got a score that is NaN or infinite")
    return first - second
