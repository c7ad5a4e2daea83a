"""Is one run better than another on these topics? Paired tests, their correction, and how large the difference is.

A sample holds the differences between two runs topic by topic. Over several collections or language pairs the statistic is
the mean over these parts of their means over topics; a topic that several parts share (parallel topics) is one observation.
Smucker et al. 2007 compare the tests for retrieval, Sakai 2014 says why intervals and effect sizes belong to them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from clir_cli.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats: TypeAlias = NDArray[np.float64]

TestName: TypeAlias = Literal["t", "randomisation", "bootstrap"]
Correction: TypeAlias = Literal["holm", "bonferroni", "bh", "none"]
Deltas: TypeAlias = Mapping[Hashable, float]  # topic -> difference of its two scores
SAMPLES = 10_000  # sign flips or resamples; the smallest p-value they can give is 1 / (SAMPLES + 1)
EXACT = 12  # topics up to which all 2^n sign flips are tried instead
EQUAL = 1e-12  # scores closer than this are the same sum in another order
_BLOCK = 1_000_000  # numbers drawn at once


# Samples ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """The differences of two runs, topic by topic, as what each topic adds to the mean difference.

    Strata share no topic: they are independent of each other, and so are the topics within one.
    """

    shares: tuple[Floats, ...]  # per stratum (topics,): all together sum to the mean difference
    centred: tuple[Floats, ...]  # the same with every part's mean taken off: what the null hypothesis sees
    residuals: tuple[Floats, ...]  # `centred`, a part's n topics times sqrt(n / (n - 1)): squares sum to the variance
    freedom: tuple[float, ...]  # of each stratum's variance
    varies: bool  # whether every part has the two topics that a variance needs

    @property
    def difference(self) -> float:
        return math.fsum(share for stratum in self.shares for share in stratum.tolist())

    @property
    def topics(self) -> int:
        return sum(map(len, self.shares))

    @property
    def zero(self) -> bool:
        """Whether no topic differs."""
        return not any(stratum.any() for stratum in (*self.shares, *self.centred))


def sample(parts: Sequence[tuple[float, Deltas]]) -> Sample:
    """The sample of one or more (weight, differences by topic), such as one part per language pair.

    The same key in two parts is the same topic. With one part this is the plain paired sample; with parts over the same
    topics their mean, topic by topic; with parts that share no topic they are strata.
    """
    import numpy as np

    if not parts or not all(deltas for _, deltas in parts):
        raise DataError("a paired test needs at least one topic")
    whole = math.fsum(weight for weight, _ in parts)
    added: dict[Hashable, list[tuple[float, float, float]]] = {}
    stratum: dict[Hashable, int] = {}  # topic -> number of its stratum
    for number, (weight, deltas) in enumerate(parts):
        if not all(map(math.isfinite, deltas.values())):
            raise DataError("a paired test got a score that is NaN or infinite")
        n, mean = len(deltas), math.fsum(deltas.values()) / len(deltas)
        factor, scale = weight / whole / n, math.sqrt(n / max(n - 1, 1))
        met = {stratum[topic] for topic in deltas if topic in stratum}
        if met:
            stratum = {topic: number if s in met else s for topic, s in stratum.items()}
        for topic, delta in deltas.items():
            stratum[topic] = number
            residual = factor * (delta - mean)
            added.setdefault(topic, []).append((factor * delta, residual, scale * residual))
    strata: dict[int, list[Hashable]] = {}
    for topic, number in stratum.items():
        strata.setdefault(number, []).append(topic)

    def summed(column: int) -> tuple[Floats, ...]:
        rows = ([math.fsum(row[column] for row in added[topic]) for topic in topics] for topics in strata.values())
        return tuple(map(np.array, rows))

    varies = all(len(deltas) > 1 for _, deltas in parts)
    freedom = tuple(_freedom(parts, topics) for topics in strata.values()) if varies else ()
    return Sample(summed(0), summed(1), summed(2), freedom, varies)


def _freedom(parts: Sequence[tuple[float, Deltas]], topics: Sequence[Hashable]) -> float:
    """Of the variance that a stratum's residuals estimate, by Bell & McCaffrey 2002, as if all differences varied alike.

    n - 1 of one part, or of parts over the same n topics; of others about those of the part that the variance is mostly of.
    With e = weight^2 / n of a part, a topic's residual has the variance D, the sum of e / n over its parts, and two topics'
    residuals the covariance -K, K the sum of e / (n (n - 1)) over the parts that both are in: the square of the sum of D,
    divided by the sum of all squares.
    """
    import numpy as np

    kinds = Counter(tuple(topic in deltas for _, deltas in parts) for topic in topics)
    inside = np.array(list(kinds), float)  # (kinds of topics, parts)
    count = np.array(list(kinds.values()), float)
    weight, n = np.array([[w, len(deltas)] for w, deltas in parts], float).T
    e = weight**2 / n
    d, k = inside @ (e / n), inside * (e / (n * (n - 1))) @ inside.T
    squares = count @ d**2 + count @ k**2 @ count - count @ k.diagonal() ** 2
    return float((count @ d) ** 2 / squares)


def paired(a: ArrayLike, b: ArrayLike) -> Sample:
    """The sample of a - b, two arrays (topics,) in one order of topics. DataError for NaN or unequal lengths."""
    import numpy as np

    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise DataError(f"a paired test needs the same topics on both sides, got {first.shape} and {second.shape}")
    return sample(
        [(1.0, {i: delta(x, y) for i, (x, y) in enumerate(zip(first.tolist(), second.tolist(), strict=True))})]
    )


def delta(new: float, old: float) -> float:
    """new - old; 0 where the two are one number but for rounding."""
    return 0.0 if abs(new - old) <= EQUAL else new - old


# Tests -----------------------------------------------------------------------------------------------------------------


def t_test(sample: Sample) -> float:
    """Two-sided p-value of Student's t-test of a mean difference of 0, in [0, 1].

    Strata keep their own variances (Welch-Satterthwaite degrees of freedom). 1 where no topic differs, and where a
    part has fewer than two topics.
    """
    from scipy import stats

    if not sample.varies or sample.zero:
        return 1.0
    error, freedom = _standard_error(sample)
    if error == 0:  # all topics differ alike
        return 0.0
    return float(2 * stats.t.sf(abs(sample.difference) / error, freedom))


def _standard_error(sample: Sample) -> tuple[float, float]:
    """Of the mean difference, and its degrees of freedom; 0 where all topics differ alike.

    Within a stratum what a topic adds to several parts varies together (the cluster-robust estimate CR2 of Bell & McCaffrey
    2002, which parts of few topics do not bias); with one part, or parts over the same topics, it is the textbook's
    s / sqrt(n) of the (mean) differences.
    """
    found = [(float(u @ u), df) for u, df in zip(sample.residuals, sample.freedom, strict=True)]
    variance = math.fsum(v for v, _ in found)
    if variance == 0 or math.sqrt(variance * sample.topics) <= EQUAL * abs(sample.difference):
        return 0.0, math.inf
    return math.sqrt(variance), 1 / math.fsum((v / variance) ** 2 / df for v, df in found)


def flip_test(sample: Sample, seed: int = 0) -> float:
    """Two-sided p-value of Fisher's randomisation test: how often flipped signs give a mean difference as large.

    A topic's sign is flipped in all parts at once. Exact up to 12 topics; else 10,000 seeded flips, the observed one
    counted among them (so it is never 0).
    """
    import numpy as np

    shares = np.concatenate(sample.shares)
    observed = abs(shares.sum()) * (1 - 1e-9)  # sums of the same numbers in another order are equal
    if len(shares) <= EXACT:
        flips = (np.arange(2 ** len(shares))[:, None] >> np.arange(len(shares)) & 1) * 2 - 1  # (2^n, topics), -1 or 1
        return float(np.mean(np.abs(flips @ shares) >= observed))
    rng, extreme = np.random.default_rng(seed), 1
    for size in _blocks(len(shares)):
        extreme += int(np.sum(np.abs((rng.integers(0, 2, (size, len(shares))) * 2 - 1) @ shares) >= observed))
    return extreme / (SAMPLES + 1)


def shift_test(sample: Sample, seed: int = 0) -> float:
    """Two-sided p-value of the bootstrap shift test: 10,000 seeded resamples of the differences, centred on 0.

    Topics are drawn within their stratum.
    """
    import numpy as np

    if sample.zero:
        return 1.0
    observed = abs(sample.difference) * (1 - 1e-9)
    rng, extreme = np.random.default_rng(seed), 1
    for size in _blocks(sample.topics):
        drawn = sum(u[rng.integers(0, len(u), (size, len(u)))].sum(axis=1) for u in sample.centred)  # (size,)
        extreme += int(np.sum(np.abs(drawn) >= observed))
    return extreme / (SAMPLES + 1)


def _blocks(topics: int) -> list[int]:
    size = max(1, _BLOCK // topics)
    return [min(size, SAMPLES - done) for done in range(0, SAMPLES, size)]


TEST_NAMES: Mapping[TestName, str] = MappingProxyType(
    {
        "t": "two-sided paired t-test",
        "randomisation": f"two-sided paired randomisation test ({SAMPLES:,} flips, all up to {EXACT} topics)",
        "bootstrap": f"two-sided paired bootstrap test ({SAMPLES:,} resamples)",
    }
)


def paired_t_test(a: ArrayLike, b: ArrayLike) -> float:
    """`t_test` of two runs' scores (topics,) in one order of topics."""
    return t_test(paired(a, b))


def randomisation_test(a: ArrayLike, b: ArrayLike, seed: int = 0) -> float:
    """`flip_test` of two runs' scores (topics,) in one order of topics."""
    return flip_test(paired(a, b), seed)


def bootstrap_test(a: ArrayLike, b: ArrayLike, seed: int = 0) -> float:
    """`shift_test` of two runs' scores (topics,) in one order of topics."""
    return shift_test(paired(a, b), seed)


TESTS: Mapping[TestName, Callable[[ArrayLike, ArrayLike], float]] = MappingProxyType(
    {"t": paired_t_test, "randomisation": randomisation_test, "bootstrap": bootstrap_test}
)


def p_value(sample: Sample, test: TestName) -> float:
    """Two-sided, in [0, 1]: how rarely chance gives a mean difference as large."""
    return {"t": t_test, "randomisation": flip_test, "bootstrap": shift_test}[test](sample)


# Corrections -----------------------------------------------------------------------------------------------------------
# p-values come back in their order. NaN stands for a test that was not made: it stays NaN and is none of the family.


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number by Holm 1979: the chance of one false alarm in the family is bounded."""
    return _stepped(p_values, lambda made: _rising([(len(made) - done) * p for done, p in enumerate(made)]))


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """Each p-value times their number: what `holm` bounds, with less power."""
    return _stepped(p_values, lambda made: [len(made) * p for p in made])


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected by Benjamini & Hochberg 1995: the expected share of false alarms among the marks is bounded."""
    return _stepped(
        p_values,
        lambda made: [-p for p in _rising([-len(made) / i * p for i, p in reversed([*enumerate(made, 1)])])][::-1],
    )


def _rising(values: Sequence[float]) -> list[float]:
    """Each value, or the highest before it."""
    highest, found = -math.inf, []
    for value in values:
        highest = max(highest, value)
        found.append(highest)
    return found


def _stepped(p_values: Sequence[float], correct: Callable[[list[float]], list[float]]) -> list[float]:
    """What `correct` makes of the sorted p-values that are numbers, at most 1, in their own order."""
    made = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    for (_, i), p in zip(made, correct([p for p, _ in made]), strict=True):
        corrected[i] = min(1.0, p)
    return corrected


CORRECTIONS: Mapping[Correction, Callable[[Sequence[float]], list[float]]] = MappingProxyType(
    {"holm": holm, "bonferroni": bonferroni, "bh": benjamini_hochberg, "none": list}
)
CORRECTION_NAMES: Mapping[Correction, str] = MappingProxyType(
    {"holm": "Holm", "bonferroni": "Bonferroni", "bh": "Benjamini-Hochberg (false discovery rate)", "none": ""}
)


# Effects ---------------------------------------------------------------------------------------------------------------


class Effect(NamedTuple):
    """How large a paired difference a - b is."""

    difference: float  # mean over the topics
    d_z: float  # Cohen's d_z: the mean in standard deviations of the differences; 0 where none differs
    low: float  # confidence interval of the mean difference (Student's t); NaN with one topic
    high: float

    @property
    def alike(self) -> bool:
        """Whether all topics differ, and by the same: there is no variance, and a t-test has no doubt however few they are."""
        return self.low == self.high and self.difference != 0


def effect_of(sample: Sample, confidence: float = 0.95) -> Effect:
    """Mean difference, standardised size and confidence interval; over several parts d_z is t / sqrt(topics)."""
    from scipy import stats

    mean = sample.difference
    if not sample.varies:
        return Effect(mean, math.nan if mean else 0.0, math.nan, math.nan)
    error, freedom = _standard_error(sample)
    if error == 0:
        return Effect(mean, math.copysign(math.inf, mean) if mean else 0.0, mean, mean)
    half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return Effect(mean, mean / error / math.sqrt(sample.topics), mean - half, mean + half)


def effect(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Effect:
    """`effect_of` two runs' scores (topics,) in one order of topics."""
    return effect_of(paired(a, b), confidence)
