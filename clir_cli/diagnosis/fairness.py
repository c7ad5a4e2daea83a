"""Whether a ranking treats languages alike: formulas over ranks, nothing of files or experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

P = 0.9  # of rank-biased overlap: the first 10 ranks have 86 % of the weight (Webber et al. 2010, equation 21)


def equal_rank_probability(ranks: Mapping[str, Sequence[float]], after: int) -> float:
    """The p-value of the hypothesis that documents of one grade have the same expected rank in every language, in [0, 1].

    Kruskal and Wallis' H over language -> ranks in the list, as PEER takes it (Yang et al. 2024), with n_L documents of
    language L, n in all, r their ranks:

        H = (n - 1) * sum over L of n_L * (mean of r in L - mean of r)^2 / sum over documents of (r - mean of r)^2

    and p = P(chi2 with languages - 1 degrees of freedom > H). NaN: not among the first `after` documents; these tie at
    the mean of the ranks that follow, after + (how many they are + 1) / 2. Fewer than two languages, or all ranks tied: 1.

    The authors' package peer_measure 0.0.1 (commit cb6fb77) puts them behind the n documents of the grade, not behind the
    last rank, so that they may stand before some that were found: its values differ where not all are found.

    Where every language has one document H is n - 1 whatever the ranks: p then says nothing (0.443 for 12 languages).
    """
    import numpy as np
    from scipy.special import chdtrc

    groups = [np.asarray(found, float) for found in ranks.values() if len(found)]
    if len(groups) < 2:
        return 1.0
    absent = sum(int(np.isnan(group).sum()) for group in groups)
    groups = [np.where(np.isnan(group), after + (absent + 1) / 2, group) for group in groups]
    everything = np.concatenate(groups)
    mean = everything.mean()
    total = np.square(everything - mean).sum()
    if total == 0:
        return 1.0
    between = sum(len(group) * (group.mean() - mean) ** 2 for group in groups)
    return float(chdtrc(len(groups) - 1, (len(everything) - 1) * between / total))


def rank_biased_overlap(a: np.ndarray, b: np.ndarray, sizes: tuple[int, int], p: float = P) -> float:
    """How alike two rankings are, in [0, 1]: RBO extrapolated from what is seen (Webber et al. 2010, equation 32).

    `a` and `b`: the ranks from 1 of the documents that both rankings hold, in the same order; `sizes`: how many documents
    the rankings hold, s the shorter, l the longer. With X_d documents in both first d (all of the shorter one, past its end):

        (1 - p) / p * (sum for d = 1..l of X_d / d * p^d  +  sum for d = s+1..l of X_s (d - s) / (s d) * p^d)
        + ((X_l - X_s) / l + X_s / s) * p^l

    Two empty rankings are alike (1), one empty ranking is like no other (0).
    """
    import numpy as np

    shorter, longer = min(sizes), max(sizes)
    if shorter == 0:
        return float(longer == 0)
    depth = np.arange(1, longer + 1)
    deeper = np.maximum(a, b).astype(int)
    overlap = np.cumsum(np.bincount(deeper, minlength=longer + 1)[1:])  # (longer,): X_d
    weight = p**depth
    seen = (overlap / depth * weight).sum()
    uneven = depth[shorter:]
    guessed = (overlap[shorter - 1] * (uneven - shorter) / (shorter * uneven) * weight[shorter:]).sum()
    at_end = (overlap[-1] - overlap[shorter - 1]) / longer + overlap[shorter - 1] / shorter
    return float((1 - p) / p * (seen + guessed) + at_end * p**longer)


def mean_rank_variance(ranks: np.ndarray) -> float:
    """The mean over rows of the variance of a row's ranks (Nie et al. 2024): 0 where every language gets the same rank.

    `ranks`: (instances, languages), the rank of one and the same document for the query in each language, or of one
    document's versions for one query. The variance is the mean square deviation, divided by the number of languages.
    """
    return float(ranks.var(axis=1).mean())
