"""Differences of experiments and sweeps, from the files they leave."""

from __future__ import annotations

import json
import math
import statistics

import pytest
import scipy.stats
from written_results import HIGH, LOW, NOISY, Runs, topics

from clir_cli.errors import ConfigError, RunError
from clir_cli.runs import from_hits, write_trec
from clir_cli.significance import holm, paired_t_test
from clir_cli.tables import diff


def text_table(text: str, first: str) -> list[list[str]]:
    """The lines of the table whose head begins with `first`."""
    lines = [[c.strip() for c in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")]
    heads = [i for i, line in enumerate(lines) if set(lines[i + 1 : i + 2] and lines[i + 1][0]) == {"-"}]
    start = next((i for i in heads if lines[i][0] == first), len(lines))
    return lines[start + 2 : next((i for i in heads if i > start), len(lines))]


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


# Differences -----------------------------------------------------------------------------------------------------------


def test_a_difference_says_what_was_set_otherwise_and_what_it_changed(runs):
    a = runs.add(LOW, retriever="bm25_dt", config="retriever: {k1: 0.9}\nretrieve: {doc: query_lang}\n")
    b = runs.add(HIGH, retriever="minilm_en", config="retriever: {model: x}\nretrieve: {doc: query_lang}\n")
    found = diff(a, b)
    assert f"A: {a}\nB: {b}\n  retriever: bm25_dt -> minilm_en\n" in str(found)
    assert "  retriever.k1: 0.9 -> -\n  retriever.model: - -> x\n" in str(found)
    assert "retrieve.doc" not in str(found)
    (final,) = found.as_rows()
    assert (final["stage"], final["measure"], final["topics"]) == ("final", "AP", 20)
    assert (final["wins"], final["ties"], final["losses"]) == (20, 0, 0)
    assert final["delta"] == pytest.approx(statistics.fmean(HIGH.values()) - statistics.fmean(LOW.values()))
    assert final["p"] == pytest.approx(paired_t_test(list(HIGH.values()), list(LOW.values())))


def test_the_p_values_of_a_difference_are_corrected_for_all_its_rows(runs):
    a = runs.add(LOW, more={"RR": LOW})
    b = runs.add(NOISY, retriever="new", more={"RR": HIGH})
    raw = [paired_t_test(list(new.values()), list(LOW.values())) for new in (NOISY, HIGH)]
    assert [row["p"] for row in diff(a, b).as_rows()] == pytest.approx(holm(raw))
    assert [row["p"] for row in diff(a, b, correction="none").as_rows()] == pytest.approx(raw)
    assert "Holm over 2 tests" in str(diff(a, b))


def test_two_rerankers_of_one_first_stage_are_compared_by_their_final_rankings_alone(runs):
    a = runs.add(NOISY, first=LOW, reranker="prp", more={"Judged@20": LOW})
    b = runs.add(HIGH, first=LOW, reranker="listwise", more={"Judged@20": HIGH})
    rows = diff(a, b).as_rows()
    assert [(row["stage"], row["measure"]) for row in rows] == [("final", "AP"), ("final", "Judged@20")]
    assert rows[1]["p"] is None  # a coverage, not a quality


def test_topics_stand_sorted_by_what_they_gain(runs):
    a = runs.add(topics(0.5, 0.5, 0.5, 0.5))
    b = runs.add(topics(0.9, 0.5, 0.1, 0.6), retriever="new")
    text = str(diff(a, b, digits=1))
    assert "topics by change in AP, 3 of 4 topics; --topics all shows the others" in text
    assert text_table(text, "topic") == [
        ["1", "0.5", "0.9", "+0.4"],
        ["4", "0.5", "0.6", "+0.1"],
        ["3", "0.5", "0.1", "-0.4"],
    ]
    assert [line[0] for line in text_table(str(diff(a, b, shown=None)), "topic")] == ["1", "4", "2", "3"]
    assert [line[0] for line in text_table(str(diff(a, b, shown=1)), "topic")] == ["1", "3"]
    assert not text_table(str(diff(a, b, shown=0)), "topic")


def test_a_run_and_itself_do_not_differ(runs):
    a = runs.add(LOW)
    rows = diff(a, a).as_rows()
    assert [(row["delta"], row["p"], row["ties"]) for row in rows] == [(0.0, 1.0, 20)]


def test_the_first_documents_in_common_are_counted_where_both_runs_are_there(runs):
    a, b = runs.add(topics(0.5, 0.5)), runs.add(topics(0.4, 0.4), retriever="new")
    assert "in common" not in str(diff(a, b))
    write_trec(from_hits({"1": [(f"d{i}", -float(i)) for i in range(30)], "2": [("x", 1.0)]}), a / "run.trec")
    write_trec(from_hits({"1": [(f"d{i}", -float(i)) for i in range(5, 35)], "2": [("y", 1.0)]}), b / "run.trec")
    said = str(diff(a, b))
    assert "rankings: 25% of the first 10 documents in common, rank-biased overlap" in said and "2 topics" in said


def test_sweeps_are_joined_on_all_that_they_share(tmp_path):
    sides = []
    for name, better in (("bm25", 0.0), ("dense", 0.1)):
        runs = Runs(tmp_path / name)
        for lang in ("de", "fi"):
            runs.add(topics(0.1 + better, 0.2 + better, 0.25), doc_lang=lang, retriever=name)
        sides.append(runs.sweep())
    found = diff(*sides)
    assert [(row["doc_lang"], row["stage"]) for row in found.as_rows()] == [("de", "final"), ("fi", "final")]
    assert "| doc_lang  | measure |" in str(found)
    assert [line[:2] for line in text_table(str(found), "pair")] == [
        ["en-de", "2"],
        ["en-fi", "2"],
        ["en-de", "1"],
        ["en-fi", "1"],
    ]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"judgments": "shallow"}, "judgments: A pool, B shallow"),
        ({"depth": "100"}, "depth: A 1000, B 100"),
        ({"doc_lang": "fi"}, "doc_lang: A de, B fi"),
        ({"split": "dev"}, "split: A test, B dev"),
    ],
)
def test_other_topics_judgments_or_depths_are_refused_unless_told(runs, other, said):
    a, b = runs.add(LOW), runs.add(HIGH, **other)
    with pytest.raises(ConfigError, match=said):
        diff(a, b)
    assert diff(a, b, force=True).as_rows()[-1]["wins"] == 20


def test_a_first_stage_may_be_compared_with_its_reranking(runs):
    a, b = runs.add(LOW), runs.add(HIGH, first=LOW, reranker="listwise")
    assert [row["stage"] for row in diff(a, b).as_rows()] == ["final"]


def test_other_topics_of_the_same_name_are_refused_unless_told(runs):
    a, b = runs.add(topics(0.1, 0.2)), runs.add(topics(0.1, 0.2, 0.3), retriever="new")
    with pytest.raises(ConfigError, match=r"different topics \(1 only one of them has, such as '3'"):
        diff(a, b)
    assert diff(a, b, force=True).as_rows()[-1]["topics"] == 2


def test_sides_without_a_common_row_are_refused(runs):
    a = runs.add(LOW, measure="AP")
    b = runs.add(LOW, measure="RR")
    with pytest.raises(ConfigError, match="measure: A AP, B RR"):
        diff(a, b)


def test_several_sides_are_compared_with_the_first_and_corrected_together(runs):
    a, b, c = runs.add(LOW), runs.add(NOISY, retriever="new"), runs.add(HIGH, retriever="newer")
    found = diff(a, b, c)
    raw = [paired_t_test(list(new.values()), list(LOW.values())) for new in (NOISY, HIGH)]
    assert [(row["side"], row["p"]) for row in found.as_rows()] == [
        ("B", pytest.approx(holm(raw)[0])),
        ("C", pytest.approx(holm(raw)[1])),
    ]
    assert found.as_rows()[1]["C"] == pytest.approx(statistics.fmean(HIGH.values()))
    assert "B against A" in str(found) and "C against A" in str(found) and "Holm over 2 tests" in str(found)


def test_an_interval_and_an_effect_size_stand_beside_the_difference(runs):
    a, b = runs.add(LOW), runs.add(NOISY, retriever="new")
    (row,) = diff(a, b).as_rows()
    found = scipy.stats.ttest_rel(list(NOISY.values()), list(LOW.values()))
    low, high = found.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert row["d_z"] == pytest.approx(found.statistic / math.sqrt(20))


def test_repeats_are_averaged_before_they_are_compared(runs, tmp_path):
    first = Runs(tmp_path / "first")
    for repeat, more in enumerate((0.0, 0.2)):
        first.add({q: v + more for q, v in LOW.items()}, first=LOW, reranker="listwise", repeat=str(repeat))
    (row,) = diff(first.sweep(), runs.add(HIGH, first=LOW, reranker="listwise")).as_rows()
    assert row["A"] == pytest.approx(statistics.fmean(LOW.values()) + 0.1)
    assert row["p"] == pytest.approx(paired_t_test(list(HIGH.values()), [v + 0.1 for v in LOW.values()]))


def test_the_mean_over_language_pairs_is_tested_over_topics(tmp_path):
    gain = {"de": (0.1, 0.2, 0.0, 0.1), "fi": (0.2, -0.1, 0.1, 0.3)}
    sides = [Runs(tmp_path / name) for name in ("a", "b")]
    for lang, gains in gain.items():
        sides[0].add(topics(0.1, 0.2, 0.3, 0.4), doc_lang=lang)
        sides[1].add(
            topics(*[v + g for v, g in zip((0.1, 0.2, 0.3, 0.4), gains, strict=True)]), doc_lang=lang, retriever="new"
        )
    (mean,) = diff(*(side.sweep() for side in sides)).record()["means"]
    both = [(x + y) / 2 for x, y in zip(*gain.values(), strict=True)]
    assert (mean["rows"], mean["delta"]) == ("2", pytest.approx(statistics.fmean(both)))
    assert mean["uncorrected_p"] == pytest.approx(paired_t_test(both, [0] * 4))


def two_sides(tmp_path, gains, measure="AP", **columns):
    """Sweeps A and B; B gains `gains[value]` topic by topic where a column, such as doc_lang, has that value."""
    ((column, values),) = columns.items()
    sides = Runs(tmp_path / "a"), Runs(tmp_path / "b")
    for value, gained in zip(values, gains, strict=True):
        before = [0.1 * (i % 5) for i in range(len(gained))]
        after = [b + g for b, g in zip(before, gained, strict=True)]
        for side, scores in zip(sides, (before, after), strict=True):
            side.add(topics(*scores), measure=measure, **{column: value})
    return [side.sweep() for side in sides]


def test_a_topic_of_several_language_pairs_wins_or_loses_once_in_their_mean(tmp_path):
    found = diff(*two_sides(tmp_path, [(0.3, 0.3, -0.1, 0.0), (-0.1, 0.1, -0.1, 0.0)], doc_lang=("de", "fi")))
    (mean,) = found.record()["means"]
    assert (mean["wins"], mean["ties"], mean["losses"], mean["topics"]) == (2, 1, 1, 4)
    assert "a topic that its rows share is one, by the mean of its differences" in str(found)


def test_values_by_two_sets_of_judgments_have_no_mean(tmp_path):
    found = diff(*two_sides(tmp_path, [(0.1, 0.2, 0.3), (0.1, 0.3, 0.3)], judgments=("shallow", "pools")))
    assert len(found.as_rows()) == 2 and not found.record()["means"]


def test_a_pair_of_one_topic_is_named_as_left_out_of_the_mean(tmp_path):
    gains = [(0.1, 0.2, 0.4), (0.1, 0.3, 0.3), (0.5,)]
    found = str(diff(*two_sides(tmp_path, gains, doc_lang=("de", "fi", "ru"))))
    assert "mean of 2" in found and "no test, and in no mean (fewer than two topics" in found


def test_a_count_that_is_a_sum_has_no_interval_of_its_mean(tmp_path):
    (row,) = diff(*two_sides(tmp_path, [(1.0, 5.0, 2.0)], measure="NumRet", doc_lang=["de"])).as_rows()
    assert row["delta"] > 0 and row["p"] is row["low"] is None


def test_where_every_topic_gains_the_same_it_is_said_that_nothing_is_left_to_doubt(tmp_path):
    found = diff(*(sides := two_sides(tmp_path, [(0.5, 0.5)], doc_lang=["de"])))
    assert "where an interval is a point, all topics differ by the same amount: no variance" in str(found)
    assert diff(*sides, test="randomisation").as_rows()[0]["p"] == 0.5, "two of the four ways to sign two topics"


def test_sweeps_with_and_without_a_reranker_may_differ_in_what_it_is_shown(tmp_path):
    sides = []
    for doc, scores in (("original", NOISY), ("query_lang", HIGH)):
        runs = Runs(tmp_path / doc)
        runs.add(LOW)
        runs.add(scores, first=LOW, reranker="listwise", rerank_doc=doc)
        sides.append(runs.sweep())
    found = diff(*sides)
    assert [(row["reranker"], row["wins"], row["ties"]) for row in found.as_rows()] == [("listwise", 20, 0)]
    assert "left out: what is the same experiment on both sides: de bm25 none" in str(found)
    assert "  rerank_doc: original -> query_lang\n" in str(found)


def test_a_metrics_csv_alone_shows_differences_without_tests(runs):
    a, b = runs.add(LOW), runs.add(HIGH, retriever="new")
    (b / "per_query.csv").unlink()
    found = diff(a / "metrics.csv", b / "metrics.csv")
    final = found.as_rows()[-1]
    assert final["delta"] == pytest.approx(statistics.fmean(HIGH.values()) - statistics.fmean(LOW.values()))
    assert final["p"] is None and "left out: tests and topics: there is no per_query.csv of B beside" in str(found)


def test_what_has_no_partner_is_named(runs, tmp_path):
    other = Runs(tmp_path / "other")
    for lang in ("de", "fi"):
        runs.add(LOW, doc_lang=lang, more={"RR": LOW})
    other.add(HIGH, retriever="new", more={"P@5": HIGH})
    text = str(diff(runs.sweep(), other.sweep()))
    assert "left out: only A has doc_lang fi; measure RR" in text
    assert "left out: only B has measure P@5" in text


def test_one_measure_can_be_asked_for_and_is_a_family_of_its_own(runs):
    a = runs.add(LOW, more={"RR": LOW})
    b = runs.add(NOISY, retriever="new", more={"RR": HIGH})
    (row,) = diff(a, b, measures=["MRR"]).as_rows()
    assert (row["measure"], row["p"]) == ("RR", pytest.approx(paired_t_test(list(HIGH.values()), list(LOW.values()))))
    with pytest.raises(ConfigError, match="nDCG@20 was not evaluated; there are: AP, RR"):
        diff(a, b, measures=["nDCG@20"])


def test_a_topic_without_a_number_is_not_tested_and_named(runs):
    a, b = runs.add(LOW), runs.add({**HIGH, "3": math.nan}, retriever="new")
    found = diff(a, b)
    assert found.as_rows()[0]["p"] is None
    assert json.loads(json.dumps(found.record(), allow_nan=False))["rows"][0]["B"] is None


@pytest.mark.parametrize(("limit", "worse"), [(0.0, True), (0.05, True), (0.1, False), (0.2, False)])
def test_a_loss_beyond_its_limit_fails(runs, limit, worse):
    a, b = runs.add(topics(0.5, 0.7)), runs.add(topics(0.4, 0.6), retriever="new")
    if not worse:
        diff(a, b).check({"MAP": limit})
        return
    with pytest.raises(RunError, match=r"B: AP 0.6000 -> 0.5000, -0.1000, allowed is -"):
        diff(a, b).check({"AP": limit})


def test_a_limit_for_a_measure_that_was_not_compared_is_refused(runs):
    a = runs.add(LOW)
    with pytest.raises(ConfigError, match="RR was not evaluated; there are: AP"):
        diff(a, a).check({"RR": 0.01})


def test_costs_are_those_of_each_distinct_step(runs):
    folders = [runs.add(LOW), runs.add(HIGH, retriever="new")]
    for folder, seconds in zip(folders, (2.5, 10), strict=True):
        folder.joinpath("costs.csv").write_text(
            f"experiment,step,seconds,prompt_tokens,usd\nx,docs/a,1,0,\nx,rerank/b,{seconds},300,0.5\n"
        )
    assert "seconds 3.5 -> 11; prompt tokens 300 -> 300; usd 0.5 -> 0.5" in str(diff(*folders))


# As a user calls it ----------------------------------------------------------------------------------------------------


def test_a_diff_of_real_experiments_shows_topics_overlap_and_costs_and_can_fail_a_pipeline(shared_clir):
    clir = shared_clir
    one, two = (clir.experiment(f"retriever={name}") for name in ("bm25_dt", "bm25_qt"))
    said = clir("diff", str(one), str(two), "--fail-if-worse", "nDCG@10:0.01", code=1)
    assert "| t18   | places without rain" in said.stdout
    assert "rank-biased overlap" in said.stdout and "costs of all steps" in said.stdout
    assert "worse than allowed:\n  B: nDCG@10 0.6627 -> 0.5561, -0.1066, allowed is -0.01" in said.stderr
    clir("diff", str(two), str(one), "--fail-if-worse", "nDCG@10:0.01")
    found = json.loads(clir("diff", str(one), str(two), str(one), "--measure", "AP", "--json").stdout)
    assert [row["side"] for row in found["rows"]] == ["B", "C"]
    assert len(found["sides"][0]["topics"]) == 36 and found["sides"][1]["overlap"]["rank_biased"] == pytest.approx(1)
    assert "expected MEASURE:BY" in clir("diff", str(one), str(two), "--fail-if-worse", "AP:x", code=2).stderr
    assert "a difference has two sides" in clir("diff", str(one), code=2).stderr
