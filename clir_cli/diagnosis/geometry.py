"""What a space of text vectors is like: formulas over arrays, nothing of files or encoders.

`x` and `y` are (texts, dimensions); where two stand together, row i of one translates row i of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from clir_cli.search.postprocess import unit

if TYPE_CHECKING:
    import numpy as np

    Vectors: TypeAlias = np.ndarray

BLOCK = 1 << 11  # rows whose products with all others are in memory at once
SIGMAS = 3.0  # an outlier dimension lies so many standard deviations above the mean (Hämmerl et al. 2023)


# Two languages --------------------------------------------------------------------------------------------------------


def retrieved_both_ways(x: Vectors, y: Vectors) -> float:
    """MEXA's alignment (Kargaran et al. 2025): the share of pairs whose cosine is above all others in row and column.

    c_ii > c_ij and c_ii > c_ji for every j other than i; equal cosines do not count. One pair: 1.
    """
    import numpy as np

    x, y = unit(x), unit(y)
    own = np.einsum("ij,ij->i", x, y)
    best = np.full(len(x), -np.inf)
    for start in range(0, len(x), BLOCK):
        stop = min(start + BLOCK, len(x))
        for part, of in ((x, y), (y, x)):
            cosines = part[start:stop] @ of.T  # (block, texts)
            cosines[np.arange(stop - start), np.arange(start, stop)] = -np.inf
            best[start:stop] = np.maximum(best[start:stop], cosines.max(axis=1))
    return float((own > best).mean())


def alignment(x: Vectors, y: Vectors) -> float:
    """The mean of |x_i - y_i|^2 over translations on the unit sphere, in [0, 4] (Wang & Isola 2020, alpha = 2). 0: the same."""
    import numpy as np

    return float(np.square(unit(x) - unit(y)).sum(axis=1).mean())


def linear_cka(x: Vectors, y: Vectors) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019), in [0, 1]; texts are paired, dimensions may differ.

        |Y'X|^2 / (|X'X| |Y'Y|)    Frobenius norms, columns centred

    It grows with dimensions / texts, also for unrelated texts: compare only equal numbers of texts, or take `debiased_cka`.
    """
    import numpy as np

    x, y = (np.asarray(v, np.float64) - np.asarray(v, np.float64).mean(axis=0) for v in (x, y))
    return _ratio(np.square(y.T @ x).sum(), np.square(x.T @ x).sum(), np.square(y.T @ y).sum())


def debiased_cka(x: Vectors, y: Vectors) -> float:
    """Linear CKA from unbiased estimates of HSIC (Song et al. 2012; Nguyen et al. 2021): 0 on average for unrelated texts.

    With K = XX', L = YY', their diagonals 0 and n texts:

        HSIC = (tr(KL) + 1'K1 1'L1 / ((n - 1) (n - 2)) - 2 / (n - 2) 1'KL1) / (n (n - 3))
        CKA  = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

    At least four texts; may be slightly negative.
    """
    import numpy as np

    n = len(x)
    if n < 4:
        raise ValueError(f"debiased CKA needs four texts, got {n}")
    own, other = (np.asarray(v, np.float64) @ np.asarray(v, np.float64).T for v in (x, y))
    np.fill_diagonal(own, 0)
    np.fill_diagonal(other, 0)

    def hsic(a: Vectors, b: Vectors) -> float:
        sums = a.sum() * b.sum() / ((n - 1) * (n - 2))
        both = 2 / (n - 2) * float(a.sum(axis=0) @ b.sum(axis=0))
        return float((np.einsum("ij,ij->", a, b) + sums - both) / (n * (n - 3)))

    return _ratio(hsic(own, other), hsic(own, own), hsic(other, other))


def _ratio(both: float, one: float, other: float) -> float:
    import math

    return float(both / math.sqrt(one * other)) if one > 0 and other > 0 else math.nan


# One language ---------------------------------------------------------------------------------------------------------


def anisotropy(x: Vectors) -> float:
    """The mean cosine of two different texts (Ethayarajh 2019), in [-1, 1]: 0 where vectors point everywhere alike."""
    import numpy as np

    total, n = unit(x).sum(axis=0, dtype=np.float64), len(x)
    return float((total @ total - n) / (n * (n - 1)))


def uniformity(x: Vectors) -> float:
    """log mean exp(-2 |x_i - x_j|^2) over different texts on the unit sphere (Wang & Isola 2020, t = 2), in [-8, 0].

    The lower the more evenly the sphere is filled.
    """
    import numpy as np

    x, n, total = unit(x), len(x), 0.0
    for start in range(0, n, BLOCK):
        cosines = (x[start : start + BLOCK] @ x.T).astype(np.float64)  # |a - b|^2 = 2 - 2 cos
        total += np.exp(4 * np.minimum(cosines, 1) - 4).sum()
    return float(np.log((total - n) / (n * (n - 1))))


class Outliers(NamedTuple):
    """Dimensions that stand out in a language's mean vector, and how much of the anisotropy the strongest one makes."""

    dimensions: tuple[int, ...]
    strongest: int
    share: float


def outliers(x: Vectors) -> Outliers:
    """Dimensions with |m| > mean(m) + 3 standard deviations of m (n - 1), m the mean vector: those that post=[drop_dims] drops.

    `share`: the strongest dimension's part of the mean cosine of two texts (Timkey & van Schijndel 2021); parts of all
    dimensions add up to 1. NaN where the mean cosine is 0.
    """
    import numpy as np

    vectors = unit(x).astype(np.float64)
    mean = np.asarray(x, np.float64).mean(axis=0)
    found = np.flatnonzero(np.abs(mean) > mean.mean() + SIGMAS * mean.std(ddof=1))
    n = len(vectors)
    parts = (np.square(vectors.sum(axis=0)) - np.square(vectors).sum(axis=0)) / (n * (n - 1))  # sum to the anisotropy
    strongest = int(parts.argmax())
    whole = float(parts.sum())
    return Outliers(tuple(found.tolist()), strongest, float(parts[strongest] / whole) if whole else float("nan"))


# Which language is it? ------------------------------------------------------------------------------------------------


def language_probe(vectors: Mapping[str, Vectors], folds: int = 5, penalty: float = 1.0) -> float:
    """How often a linear classifier names a text's language from its vector, in [0, 1]; 1 / languages is chance.

    Multinomial logistic regression with an L2 penalty of |W|^2 / 2 (scikit-learn's C = 1 / `penalty`; of two languages, for
    which it has one row of weights in place of two, C = 2 / `penalty`), on dimensions scaled to mean 0 and deviation 1 by
    the training texts, in `folds`-fold cross-validation: line i is in fold i modulo folds in every language, so a text is
    never judged by a classifier that saw its translation (Libovický et al. 2020 probe for language identity on sentence
    vectors in the same spirit).
    """
    import numpy as np

    x = np.concatenate([np.asarray(v, np.float64) for v in vectors.values()])
    labels = np.concatenate([np.full(len(v), i) for i, v in enumerate(vectors.values())])
    fold = np.concatenate([np.arange(len(v)) % folds for v in vectors.values()])
    right = 0
    for out in range(folds):
        train = fold != out
        mean, spread = x[train].mean(axis=0), x[train].std(axis=0)
        scaled = (x - mean) / np.where(spread > 0, spread, 1)
        weights, bias = logistic_regression(scaled[train], labels[train], len(vectors), penalty)
        right += int(((scaled[~train] @ weights + bias).argmax(axis=1) == labels[~train]).sum())
    return right / len(x)


def logistic_regression(x: Vectors, labels: np.ndarray, classes: int, penalty: float) -> tuple[Vectors, np.ndarray]:
    """Weights (dimensions, classes) and bias (classes,) that minimise cross-entropy summed over texts + penalty |W|^2 / 2."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    wanted = np.eye(classes)[labels]  # (texts, classes)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = flat.reshape(-1, classes)
        weights, bias = both[:-1], both[-1]
        logits = x @ weights + bias
        sums = logsumexp(logits, axis=1)
        error = np.exp(logits - sums[:, None]) - wanted
        gradient = np.concatenate([x.T @ error + penalty * weights, error.sum(axis=0)[None]])
        value = (sums - (logits * wanted).sum(axis=1)).sum() + penalty / 2 * np.square(weights).sum()
        return float(value) / len(x), gradient.ravel() / len(x)

    found = minimize(loss, np.zeros((x.shape[1] + 1) * classes), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    both = found.x.reshape(-1, classes)
    return both[:-1], both[-1]


# Mining ---------------------------------------------------------------------------------------------------------------

Pair: TypeAlias = tuple[int, int]
Scored: TypeAlias = Sequence[tuple[float, Pair]]


def best_of(forward: Scored, backward: Scored) -> dict[str, list[tuple[float, Pair]]]:
    """The four ways to choose pairs of Artetxe & Schwenk (2019), each best first.

    `forward` and `backward` hold for each source (target) sentence its best-scored partner, as (score, (source, target)).
    forward, backward: these. intersection: pairs in both. max: of both together greedily the best, each sentence once.
    """
    back = {pair for _, pair in backward}
    either: dict[Pair, float] = {}
    for score, pair in [*forward, *backward]:
        either[pair] = max(score, either.get(pair, score))
    kept: list[tuple[float, Pair]] = []
    sources: set[int] = set()
    targets: set[int] = set()
    for pair, score in sorted(either.items(), key=lambda item: (-item[1], item[0])):
        if pair[0] not in sources and pair[1] not in targets:
            sources.add(pair[0])
            targets.add(pair[1])
            kept.append((score, pair))
    ways = {
        "forward": list(forward), "backward": list(backward),
        "intersection": [(score, pair) for score, pair in forward if pair in back], "max": kept,
    }  # fmt: skip
    return {name: sorted(found, key=lambda item: (-item[0], item[1])) for name, found in ways.items()}


class Mined(NamedTuple):
    """Precision, recall and F1 of the pairs that score at least `threshold`."""

    threshold: float
    precision: float
    recall: float
    f1: float


def mined(found: Scored, gold: set[Pair], threshold: float) -> Mined:
    """What a threshold keeps, against the true pairs."""
    kept = [pair for score, pair in found if score >= threshold]
    right = sum(pair in gold for pair in kept)
    precision, recall = right / len(kept) if kept else 0.0, right / len(gold) if gold else 0.0
    f1 = 2 * right / (len(kept) + len(gold)) if kept or gold else 0.0
    return Mined(threshold, precision, recall, f1)


def best_threshold(found: Scored, gold: set[Pair]) -> float:
    """The score that gives the highest F1 if it and all above are kept; of equal F1 the highest. inf: keep nothing."""
    best, right, threshold = 0.0, 0, float("inf")
    ordered = sorted(found, key=lambda item: -item[0])
    for i, (score, pair) in enumerate(ordered, 1):
        right += pair in gold
        last = i == len(ordered) or ordered[i][0] < score  # equal scores are kept together
        if last and (f1 := 2 * right / (i + len(gold))) > best:
            best, threshold = f1, score
    return threshold
