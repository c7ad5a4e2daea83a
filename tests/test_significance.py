"""Two runs compared on the same topics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clir_cli.errors import DataError
from clir_cli.significance import (
    CORRECTIONS,
    TESTS,
    bootstrap_test,
    effect,
    effect_of,
    holm,
    p_value,
    paired_t_test,
    randomisation_test,
    sample,
)

scores = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40)


@pytest.fixture
def runs():
    rng = np.random.default_rng(5)
    a = rng.random(50)
    return a, np.clip(a + rng.normal(0.05, 0.15, 50), 0, 1)


def test_the_t_test_is_scipys(runs):
    stats = pytest.importorskip("scipy.stats")
    assert paired_t_test(*runs) == pytest.approx(stats.ttest_rel(*runs).pvalue, rel=1e-12)


def test_the_t_test_by_hand():
    # differences 1 2 3: mean 2, standard deviation 1, t = 2 sqrt(3) with 2 degrees of freedom
    t = 2 * math.sqrt(3)
    assert paired_t_test([1, 2, 3], [0, 0, 0]) == pytest.approx(1 - t / math.sqrt(2 + t * t))


def test_the_randomisation_test_tries_all_sign_flips_of_few_topics():
    # of the 8 ways to sign 1 2 3 only +++ and --- have a sum of 6
    assert randomisation_test([1, 2, 3], [0, 0, 0]) == 2 / 8


def test_the_randomisation_test_is_scipys_permutation_test(runs):
    stats = pytest.importorskip("scipy.stats")

    def mean_difference(x, y):
        return np.mean(x - y)

    few = [run[:10] for run in runs]
    exact = stats.permutation_test(few, mean_difference, permutation_type="samples", n_resamples=np.inf)
    assert randomisation_test(*few) == pytest.approx(exact.pvalue)
    drawn = stats.permutation_test(runs, mean_difference, permutation_type="samples", n_resamples=20_000, rng=1)
    assert randomisation_test(*runs) == pytest.approx(drawn.pvalue, abs=0.01)


def test_the_bootstrap_is_the_normal_law_where_topics_are_many(runs):
    stats = pytest.importorskip("scipy.stats")
    d = runs[0] - runs[1]
    assert bootstrap_test(*runs) == pytest.approx(
        2 * stats.norm.sf(abs(d.mean()) / (d.std() / math.sqrt(50))), abs=0.01
    )


@pytest.mark.parametrize("test", TESTS.values())
class TestEveryTest:
    def test_it_gives_the_same_answer_twice(self, test, runs):
        assert test(*runs) == test(*runs)

    def test_it_does_not_care_which_run_comes_first(self, test, runs):
        assert test(*runs) == pytest.approx(test(*reversed(runs)), rel=1e-9)

    def test_runs_that_are_equal_on_every_topic_do_not_differ(self, test):
        assert test([0.1, 0.5, 0.7] * 9, [0.1, 0.5, 0.7] * 9) == 1.0

    @given(pairs=scores)
    def test_it_gives_a_probability_for_whatever_scores(self, test, pairs):
        assert 0 <= test(*zip(*pairs, strict=True)) <= 1

    def test_a_score_that_is_no_number_is_refused(self, test):
        with pytest.raises(DataError, match="NaN"):
            test([0.1, math.nan], [0.2, 0.3])

    def test_other_topics_are_refused(self, test):
        with pytest.raises(DataError, match="same topics"):
            test([0.1, 0.2], [0.2])


def test_a_constant_gain_is_certain_and_one_topic_says_nothing():
    assert paired_t_test([0.3, 0.4, 0.5], [0.2, 0.3, 0.4]) == 0.0
    assert paired_t_test([0.3], [0.2]) == 1.0


def test_holm_by_hand():
    # sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (not below the one before), 0.5 * 1
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])


@pytest.mark.parametrize(("name", "theirs"), [("holm", "holm"), ("bonferroni", "bonferroni"), ("bh", "fdr_bh")])
def test_corrections_are_those_of_statsmodels(name, theirs):
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    rng = np.random.default_rng(3)
    for p_values in (rng.random(30) ** 3, rng.random(1), np.array([0.04, 0.04, 0.0, 1.0, 1.0])):
        assert CORRECTIONS[name](p_values) == pytest.approx(multitest.multipletests(p_values, method=theirs)[1])


def test_without_a_correction_p_values_stay(runs):
    assert CORRECTIONS["none"]([0.5, 0.01]) == [0.5, 0.01]


@pytest.mark.parametrize("name", ["holm", "bonferroni", "bh"])
class TestEveryCorrection:
    def test_a_test_that_was_not_made_does_not_spoil_it(self, name):
        corrected = CORRECTIONS[name]([0.01, math.nan, 0.04])
        assert [corrected[0], corrected[2]] == CORRECTIONS[name]([0.01, 0.04])
        assert math.isnan(corrected[1])
        assert CORRECTIONS[name]([]) == []

    @given(p_values=st.lists(st.floats(0, 1)))
    def test_it_never_lowers_a_p_value_and_keeps_their_order(self, name, p_values):
        corrected = CORRECTIONS[name](p_values)
        assert all(p <= c * (1 + 1e-12) and c <= 1 for p, c in zip(p_values, corrected, strict=True))
        by_p = sorted(range(len(p_values)), key=p_values.__getitem__)
        assert [corrected[i] for i in by_p] == sorted(corrected)


def test_an_effect_is_scipys_confidence_interval_and_cohens_d(runs):
    stats = pytest.importorskip("scipy.stats")
    a, b = runs
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = effect(a, b)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.difference == pytest.approx(np.mean(a - b))
    assert found.d_z == pytest.approx(np.mean(a - b) / np.std(a - b, ddof=1))


def test_no_difference_is_an_effect_of_zero():
    assert effect([0.2, 0.4], [0.2, 0.4]) == (0.0, 0.0, 0.0, 0.0)


# Several language pairs ------------------------------------------------------------------------------------------------

parts = st.lists(st.dictionaries(st.integers(0, 12), st.floats(-1, 1), min_size=1, max_size=12), min_size=1, max_size=4)


@given(parts)
def test_the_statistic_is_the_mean_over_parts_of_their_means_whatever_topics_they_share(deltas):
    found = sample([(1.0, d) for d in deltas])
    assert found.difference == pytest.approx(np.mean([np.mean(list(d.values())) for d in deltas]), abs=1e-12)
    assert found.topics == len({topic for d in deltas for topic in d})
    for test in ("t", "randomisation"):
        assert 0 <= p_value(found, test) <= 1
    assert not effect_of(found).low > effect_of(found).high


def test_parts_over_the_same_topics_are_one_sample_of_their_means(runs):
    a, b = runs
    more = np.random.default_rng(1).normal(0.02, 0.1, 50)
    found = sample([(1.0, dict(enumerate(a - b))), (1.0, dict(enumerate(more)))])
    mean = (a - b + more) / 2
    for name, test in TESTS.items():
        assert p_value(found, name) == pytest.approx(test(mean, np.zeros(50)), rel=1e-9)
    assert effect_of(found) == pytest.approx(effect(mean, np.zeros(50)))


def test_parts_that_share_no_topic_keep_their_own_variances(runs):
    stats = pytest.importorskip("scipy.stats")
    one, other = runs[0] - runs[1], np.random.default_rng(2).normal(0.3, 1.0, 8)
    found = sample([(1.0, {("x", i): v for i, v in enumerate(one)}), (1.0, {("y", i): v for i, v in enumerate(other)})])
    assert p_value(found, "t") == pytest.approx(stats.ttest_ind(one, -other, equal_var=False).pvalue)


def test_a_topics_sign_is_flipped_in_all_its_parts_at_once():
    # topics 1 and 2 in both parts, 3 in one: of 8 flips, only +++ and --- give as large a mean
    found = sample([(1.0, {1: 0.1, 2: 0.2}), (1.0, {1: 0.3, 2: 0.1, 3: 0.3})])
    assert p_value(found, "randomisation") == 2 / 8


def test_parts_weigh_what_they_are_given():
    found = sample([(3.0, {1: 0.4, 2: 0.2}), (1.0, {3: 0.0, 4: -0.2})])
    assert found.difference == pytest.approx(0.75 * 0.3 - 0.25 * 0.1)


def test_one_in_twenty_equal_systems_is_marked_also_where_pairs_share_some_topics():
    rng, alarms = np.random.default_rng(11), 0
    for _ in range(1000):
        topic = rng.normal(0, 0.1, 40)  # what a topic does to a difference, in whichever language
        deltas = [
            {t: topic[t] + rng.normal(0, 0.03) for t in part} for part in (range(30), range(10, 40), range(5, 35))
        ]
        alarms += p_value(sample([(1.0, d) for d in deltas]), "t") < 0.05
    assert 35 <= alarms <= 65  # as samples of their own they are marked 187 times


def test_a_pair_of_few_topics_beside_a_pair_of_many_does_not_raise_more_alarms():
    rng, alarms = np.random.default_rng(12), 0
    for _ in range(400):
        topic = rng.normal(0, 0.1, 50)
        deltas = [{t: topic[t] + rng.normal(0, 0.03) for t in part} for part in (range(4), range(50))]
        alarms += p_value(sample([(1.0, d) for d in deltas]), "t") < 0.05
    assert 8 <= alarms <= 32  # 20 are expected; with the variance and degrees of freedom of 54 like topics 50 and more


def test_variance_and_degrees_of_freedom_are_those_of_bell_and_mccaffrey():
    """Against their matrices: a regression on the parts, clustered by topic (CR2), for each group of parts that share topics."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        sizes = rng.integers(2, 9, rng.integers(1, 5))
        deltas = [{int(t): rng.normal() for t in rng.choice(12, size, replace=False)} for size in sizes]
        found = sample([(1.0, d) for d in deltas])
        rows = [(topic, number) for number, d in enumerate(deltas) for topic in d]
        x = np.array([[number == own for number in range(len(deltas))] for _, own in rows], float)
        mean = np.linalg.inv(x.T @ x) @ np.full(
            len(deltas), 1 / len(deltas)
        )  # over the parts, of the regression's coefficients
        residual = np.eye(len(rows)) - x @ np.linalg.inv(x.T @ x) @ x.T  # I - H
        y = np.array([deltas[number][topic] for topic, number in rows])
        squares, freedom = [], []
        for topics in hanging_together(deltas):
            at = [[i for i, (t, _) in enumerate(rows) if t == topic] for topic in topics]
            adjusted = [np.diag(np.diag(residual)[i] ** -0.5) @ x[i] @ mean for i in at]
            squares += [(a @ (residual @ y)[i]) ** 2 for i, a in zip(at, adjusted, strict=True)]
            columns = np.array([residual[:, i] @ a for i, a in zip(at, adjusted, strict=True)])
            omega = columns @ columns.T
            freedom.append(np.trace(omega) ** 2 / np.sum(omega**2))
        assert sorted(u * u for s in found.residuals for u in s) == pytest.approx(sorted(squares), abs=1e-15)
        assert sorted(found.freedom) == pytest.approx(sorted(freedom))


def hanging_together(deltas):
    """The topics of each group of parts that share some, over any number of other parts."""
    found = []
    for d in deltas:
        met = [topics for topics in found if topics & d.keys()]
        found = [topics for topics in found if topics not in met] + [set(d).union(*met)]
    return found


def test_a_pair_with_one_topic_has_no_variance_to_test_with():
    found = sample([(1.0, {1: 0.2, 2: 0.3, 3: 0.1}), (1.0, {1: 0.4})])
    assert p_value(found, "t") == 1.0 and math.isnan(effect_of(found).low)


def test_scores_that_differ_by_rounding_alone_are_equal():
    assert paired_t_test([0.1 + 0.2] * 5, [0.3] * 5) == 1.0
