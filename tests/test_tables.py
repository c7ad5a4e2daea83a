"""Tables and differences of experiments, from the files they leave."""

from __future__ import annotations

import csv
import html.parser
import json
import math
import re
import statistics

import numpy as np
import pytest
import scipy.stats
from written_results import COMMON, HIGH, LOW, NOISY, Runs, cells, topics, write

from clir_cli.errors import ConfigError, DataError
from clir_cli.significance import p_value, paired_t_test, sample
from clir_cli.tables import COLUMNS, settings, table


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


def as_csv(text: str) -> dict[str, dict[str, str]]:
    """The lines of a CSV by their first column."""
    return {next(iter(row.values())): row for row in csv.DictReader(text.splitlines())}


# Cells -----------------------------------------------------------------------------------------------------------------


def test_a_table_of_retrievers_and_pairs(runs):
    runs.add(topics(0.5, 0.25), retriever="bm25_dt", doc_lang="de")
    runs.add(topics(0.5, 0.2), retriever="bm25_dt", doc_lang="fi")
    runs.add(topics(0.1, 0.3), retriever="labse", doc_lang="de")
    assert table([runs.sweep()], ["retriever"], ["pair"]) == (
        "| retriever |      en-de |  en-fi |   mean |\n"
        "| --------- | ---------: | -----: | -----: |\n"
        "| bm25_dt   | **0.3750** | 0.3500 | 0.3625 |\n"
        "| labse     |     0.2000 |      - |      - |\n"
        "\n"
        "AP; topics: 2\n"
    )


def test_a_missing_cell_is_a_dash_and_the_mean_is_over_complete_rows_only(runs):
    runs.add(topics(0.5), retriever="a", doc_lang="de")
    runs.add(topics(0.25), retriever="a", doc_lang="fi")
    runs.add(topics(0.9), retriever="b", doc_lang="de")
    found = cells(table([runs.sweep()], ["retriever"], ["pair"], digits=3))
    assert found["b", "en-fi"] == found["b", "mean"] == "-"
    assert found["a", "mean"] == "0.375"


def test_the_best_of_a_column_is_bold_also_when_two_print_alike(runs):
    for name, value in (("a", 0.30001), ("b", 0.30002), ("c", 0.1)):
        runs.add(topics(value), retriever=name)
    found = cells(table([runs.sweep()], ["retriever"], ["pair"], digits=3))
    assert [found[r, "en-de"] for r in "abc"] == ["**0.300**", "**0.300**", "0.100"]


def test_rows_and_columns_of_several_keys(runs):
    runs.add(topics(0.5), retriever="bm25", reranker="listwise", rerank_doc="original")
    runs.add(topics(0.7), retriever="bm25", reranker="listwise", rerank_doc="query_lang")
    text = table([runs.sweep()], ["retriever", "reranker"], ["pair", "rerank_doc"])
    assert "en-de original | en-de query_lang" in text
    assert re.search(r"\| bm25 +\| listwise \|", text)


def test_any_setting_of_the_config_can_be_a_row(runs):
    runs.add(
        topics(0.5), retriever="bm25[k1=0.9]", config="retriever: {k1: 0.9, stem: true}\nretrieve: {depth: 1000}\n"
    )
    runs.add(
        topics(0.7), retriever="bm25[k1=1.2]", config="retriever: {k1: 1.2, stem: true}\nretrieve: {depth: 1000}\n"
    )
    text = table([runs.sweep()], ["retriever.k1"], ["retriever.stem"])
    assert cells(text) == {("0.9", "true"): "0.5000", ("1.2", "true"): "**0.7000**"}


def test_two_values_in_one_cell_are_refused_with_what_differs(runs):
    runs.add(
        topics(0.5), rerank_doc="original", reranker="listwise", config="rerank: {depth: 100}\nretriever: {k1: 0.9}\n"
    )
    runs.add(
        topics(0.7), rerank_doc="query_lang", reranker="listwise", config="rerank: {depth: 100}\nretriever: {k1: 1.2}\n"
    )
    with pytest.raises(ConfigError) as error:
        table([runs.sweep()], ["retriever"], ["pair"])
    assert (
        "2 values in one cell (bm25 x en-de); they differ in rerank_doc (original, query_lang); retriever.k1 (0.9, 1.2)"
        in str(error.value)
    )
    assert error.value.exit_code == 2
    assert cells(table([runs.sweep()], ["retriever"], ["pair"], agg="mean"))["bm25", "en-de"] == "0.6000"
    assert (
        cells(table([runs.sweep()], ["retriever"], ["pair"], where=["rerank_doc=original"]))["bm25", "en-de"]
        == "0.5000"
    )


def test_values_may_be_averaged_or_their_median_taken(runs):
    for value, lang in ((0.1, "de"), (0.2, "fi"), (0.9, "ru")):
        runs.add(topics(value), doc_lang=lang)
    assert "0.4000" in table([runs.sweep()], ["retriever"], [], agg="mean")
    assert "0.2000" in table([runs.sweep()], ["retriever"], [], agg="median")


def test_a_mean_over_fewer_language_pairs_does_not_stand_beside_one_over_more(runs):
    for name, langs in (("a", ("de", "fi")), ("b", ("de",))):
        for lang in langs:
            runs.add(topics(0.2 if lang == "de" else 0.8), retriever=name, doc_lang=lang)
    text = table([runs.sweep()], ["retriever"], [], agg="mean")
    assert cells(text) == {("a", "AP"): "0.5000", ("b", "AP"): "-"}
    assert "no mean of some language pairs beside a mean of more: b lacks en-fi" in text
    assert cells(table([runs.sweep()], ["retriever"], [], agg="mean", where=["pair=en-de"]))["b", "AP"] == "**0.2000**"


def test_what_is_tested_is_the_difference_that_is_printed_also_where_settings_have_unlike_repeats(runs):
    runs.add(topics(0.2, 0.3, 0.5), retriever="bm25", doc_lang="de")
    runs.add(topics(0.3, 0.3), retriever="bm25", doc_lang="fi")
    for lang, rest in (("de", (0.9, 0.4)), ("fi", (0.7,))):
        runs.add(topics(0.2, *rest), retriever="labse", depth="100", doc_lang=lang)
        for repeat in range(3):  # this setting was asked three times, but is one of two
            first = 0.1 * repeat
            runs.add(topics(first, *rest), retriever="labse", repeat=str(repeat), doc_lang=lang)
    found = json.loads(table([runs.sweep()], ["retriever"], ["pair"], agg="mean", baselines=["bm25"], format="json"))
    values = {(cell["row"]["retriever"], cell["column"]): cell for cell in found["cells"]}
    for column in ("en-de", "en-fi", "mean"):
        (test,) = values["labse", column]["tests"]
        printed = values["labse", column]["value"] - values["bm25", column]["value"]
        assert test["difference"] == pytest.approx(printed)


def test_repeats_print_their_mean_and_standard_deviation(runs):
    for repeat, value in enumerate((0.2, 0.3, 0.4)):
        runs.add(topics(value), reranker="listwise", repeat=str(repeat))
    text = table([runs.sweep()], ["reranker"], ["pair"])
    assert cells(text)["listwise", "en-de"] == "0.3000 ± 0.1000"
    assert "mean ± standard deviation over n = 3 repeats" in text
    assert "0.2000" in table([runs.sweep()], ["reranker"], ["repeat"])


def test_the_mean_of_repeats_over_columns_is_taken_repeat_by_repeat(runs):
    for lang, values in (("de", (0.2, 0.3, 0.4)), ("fi", (0.5, 0.4, 0.6))):
        for repeat, value in enumerate(values):
            runs.add(topics(value), reranker="listwise", repeat=str(repeat), doc_lang=lang)
    text = table([runs.sweep()], ["reranker"], ["pair"])
    assert cells(text)["listwise", "mean"] == f"0.4000 ± {statistics.stdev([0.35, 0.35, 0.5]):.4f}"


def test_other_numbers_of_repeats_stand_beside_each_value(runs):
    for repeat in range(3):
        runs.add(topics(0.2 + repeat / 10), reranker="a", repeat=str(repeat))
    for repeat in range(2):
        runs.add(topics(0.2 + repeat / 10), reranker="b", repeat=str(repeat))
    runs.add(topics(0.1), reranker="c")
    found = cells(table([runs.sweep()], ["reranker"], ["pair"], digits=1))
    assert [found[r, "en-de"] for r in "abc"] == ["**0.3 ± 0.1 (3)**", "0.2 ± 0.1 (2)", "0.1"]


def test_one_repeat_with_two_values_is_refused(runs):
    runs.add(topics(0.2), config="git: a\n")
    runs.add(topics(0.3), config="git: b\n")
    with pytest.raises(ConfigError, match=r"they differ in git \(a, b\)"):
        table([runs.sweep()], ["retriever"], ["pair"])


def test_the_first_stage_of_several_rerankers_is_one_row(runs):
    for name in ("listwise", "prp"):
        runs.add(topics(0.5, 0.7), first=topics(0.2, 0.4), reranker=name)
    assert cells(table([runs.sweep()], ["reranker"], ["pair"], stage="first_stage")) == {("none", "en-de"): "0.3000"}
    stages = cells(table([runs.sweep()], ["stage"], ["pair"], where=["reranker=listwise", "reranker=none"]))
    assert stages == {("first_stage", "en-de"): "0.3000", ("final", "en-de"): "**0.6000**"}


def test_an_experiment_and_the_sweep_it_is_in_count_once(runs):
    folder = runs.add(topics(0.5))
    assert cells(table([runs.sweep(), folder, folder / "metrics.csv"], ["retriever"], ["pair"])) == {
        ("bm25", "en-de"): "0.5000"
    }


def test_topic_ids_and_languages_are_texts(runs):
    runs.add({"01": 0.25, "1": 0.5, "NA": 0.75}, first={"01": 0.0, "1": 0.0, "NA": 0.0}, doc_lang="no", reranker="x")
    text = table([runs.sweep()], ["reranker"], ["pair"], baselines=["own_first_stage"])
    assert cells(text)["x", "en-no"] == "0.5000"
    assert "topics: 3" in text


# Measures --------------------------------------------------------------------------------------------------------------


def test_the_main_measure_is_each_datasets_own(runs):
    runs.add(topics(0.5), dataset="clef", measure="AP", more={"nDCG@20": topics(0.6)})
    runs.add(topics(0.7), dataset="ciral", measure="nDCG@20", more={"AP": topics(0.4)})
    text = table([runs.sweep()], ["retriever"], ["dataset"])
    assert cells(text) == {("bm25", "clef"): "0.5000", ("bm25", "ciral"): "0.7000"}  # no mean over two measures
    assert "AP, nDCG@20" in text
    assert cells(table([runs.sweep()], ["retriever"], ["dataset"], measure="MAP"))["bm25", "ciral"] == "0.4000"
    assert cells(table([runs.sweep()], ["dataset"], ["measure"]))["clef", "nDCG@20"] == "0.6000"


def test_datasets_of_several_measures_have_a_mean_each(runs):
    for lang, value in (("de", 0.5), ("fi", 0.3)):
        runs.add(topics(value), dataset="clef", doc_lang=lang, measure="AP")
    for lang, value in (("ha", 0.2), ("so", 0.4), ("yo", 0.6)):
        runs.add(topics(value), dataset="ciral", doc_lang=lang, measure="nDCG@20")
    found = cells(table([runs.sweep()], ["retriever"], ["dataset", "pair"], digits=2))
    assert (found["bm25", "mean AP"], found["bm25", "mean nDCG@20"]) == ("0.40", "0.40")
    assert ("bm25", "mean") not in found


def test_values_under_other_judgments_do_not_stand_beside_each_other(runs):
    runs.add(topics(0.5), retriever="a", judgments="shallow")
    runs.add(topics(0.7), retriever="b", judgments="pools")
    with pytest.raises(ConfigError, match="shallow: 1 experiment; pools: 1 experiment"):
        table([runs.sweep()], ["retriever"], ["pair"])
    assert cells(table([runs.sweep()], ["retriever"], ["judgments"]))["a", "pools"] == "-"
    assert ("b", "en-de") not in cells(table([runs.sweep()], ["retriever"], ["pair"], where=["judgments=shallow"]))


def test_values_over_other_numbers_of_topics_are_said(runs):
    runs.add(topics(0.5, 0.7), retriever="a")
    runs.add(topics(0.5, 0.7, 0.9), retriever="b")
    assert "not all values are over the same number of topics: toy test en-de 2 and 3" in table(
        [runs.sweep()], ["retriever"], ["pair"]
    )


def test_a_measure_that_was_not_evaluated_is_refused_with_those_that_were(runs):
    with pytest.raises(ConfigError, match=r"RR was not evaluated; there are: AP"):
        table([runs.add(topics(0.5))], ["retriever"], ["pair"], measure="MRR")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rows": ["retreiver"]}, "'retreiver' is neither a column of metrics.csv nor pair .* did you mean retriever"),
        ({"rows": ["retriever.k2"]}, "did you mean retriever.k1"),
        ({"where": ["pair=en-fi"]}, "no row has pair=en-fi; there are: en-de"),
        ({"where": ["pair"]}, "expected key=value"),
        ({"baselines": ["labse"]}, "'labse' names 0 rows; own_first_stage, or one of: bm25"),
    ],
)
def test_a_wrong_request_is_refused_with_what_there_is(runs, wrong, said):
    with pytest.raises(ConfigError, match=said):
        table([runs.add(topics(0.5))], **{"rows": ["retriever"], "cols": ["pair"], **wrong})


def test_files_that_are_no_tables_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not a file; name an experiment folder"):
        table([tmp_path], ["retriever"], ["pair"])
    (tmp_path / "metrics.csv").write_text("experiment,value\nx,1\n")
    with pytest.raises(DataError, match=r"metrics.csv:1: the columns dataset, split"):
        table([tmp_path], ["retriever"], ["pair"])
    write(tmp_path / "metrics.csv", COLUMNS, [{**COMMON, "value": "0.5"}, {**COMMON, "value": "high"}])
    with pytest.raises(DataError, match=r"metrics.csv:3: expected a number as value, got 'high'"):
        table([tmp_path], ["retriever"], ["pair"])


def test_what_is_no_finished_experiment_is_said_to_be_unfinished(runs):
    folder = runs.add(topics(0.5))
    with pytest.raises(ConfigError, match=r"1 folder in it holds one: name it, e\.g\. .*toy\.en-de/\*"):
        table([folder.parent], ["retriever"], ["pair"])
    (folder / "metrics.csv").unlink()
    with pytest.raises(ConfigError, match="is not complete; give its `clir run` again"):
        table([folder], ["retriever"], ["pair"])


def test_cells_of_a_sweep_that_failed_are_counted(runs):
    runs.add(topics(0.5))
    sweep = runs.sweep()
    (sweep / "cells.csv").write_text(
        "cell,overrides,status,experiment,error\n1,,done,,\n2,,failed,,no\n3,,invalid,,no\n4,,cached,,\n"
    )
    assert "all-1234: 1 failed, 1 invalid of 4 cells are not shown" in table([sweep], ["retriever"], ["pair"])


def test_two_states_of_one_experiment_are_refused(runs):
    folder = runs.add(topics(0.5, 0.7))
    sweep = runs.sweep()
    lines = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(lines.replace(",0.6,", ",0.8,"))
    with pytest.raises(ConfigError, match=r"e0: two states of AP at stage first_stage \(value 0.6 and 0.8\)"):
        table([sweep, folder], ["retriever"], ["pair"])


# Presets ---------------------------------------------------------------------------------------------------------------


def test_the_core_studys_table_has_each_first_stage_once_and_then_its_rerankings(runs):
    for lang in ("de", "fi"):
        for first in ("bm25_dt", "labse"):
            for doc in ("original", "query_lang"):
                runs.add(HIGH, first=LOW, retriever=first, reranker="rank_zephyr", rerank_doc=doc, doc_lang=lang)
            runs.add(LOW, retriever=first, doc_lang=lang)
    text = table([runs.sweep()], **settings("zuo2025"))
    head, _, *lines = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    assert head == ["retriever", "reranker", "rerank_doc", "en-de", "en-fi", "mean"]
    block = [
        ["none", "-", "0.110"],
        ["rank_zephyr", "original", "**0.520**▲"],
        ["rank_zephyr", "query_lang", "**0.520**▲"],
    ]
    assert [line[:4] for line in lines] == [[first, *row] for first in ("bm25_dt", "labse") for row in block]


def test_what_is_given_beside_a_preset_wins_and_other_names_are_refused():
    found = settings("zuo2025", rows=None, digits=4, baselines=["bm25"])
    assert (found["rows"], found["digits"], found["baselines"]) == (
        ["retriever", "reranker", "rerank_doc"],
        4,
        ["bm25"],
    )
    with pytest.raises(ConfigError, match="preset 'zuo' does not exist; there are: zuo2025"):
        settings("zuo")


# Significance ----------------------------------------------------------------------------------------------------------


def test_both_directions_are_marked_against_the_own_first_stage(runs):
    runs.add(LOW)
    for name, scores, first in (("up", HIGH, LOW), ("down", LOW, HIGH), ("noise", NOISY, LOW)):
        runs.add(scores, first=first, reranker=name)
    text = table([runs.sweep()], ["reranker"], ["pair"], baselines=["own_first_stage"], digits=2)
    assert cells(text) == {
        ("none", "en-de"): "0.11", ("up", "en-de"): "**0.52**▲", ("down", "en-de"): "0.11▼", ("noise", "en-de"): "0.11",
    }  # fmt: skip
    assert (
        "better/worse than the row's own first stage: two-sided paired t-test, p < 0.05, Holm within a column, family of 3 tests"
        in text
    )


def test_json_holds_every_cell_unrounded_with_its_tests(runs):
    for name, scores in {"base": LOW, "new": HIGH}.items():
        runs.add(scores, retriever=name)
    said = {
        key: table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"], format=key) for key in ("json", "csv")
    }
    found, csv_row = json.loads(said["json"]), as_csv(said["csv"])["new"]
    base, new = found["cells"]
    (column,) = found["columns"]
    assert (base["row"], new["row"], base["tests"]) == ({"retriever": "base"}, {"retriever": "new"}, [])
    (test,) = new["tests"]
    assert [new["value"], test["p"], test["difference"]] == [
        float(csv_row[column + end]) for end in ("", " p", " difference")
    ]
    assert new["best"] and test["sign"] == 1 and any("Holm" in note for note in found["notes"])


def test_p_values_are_corrected_within_a_column_as_statsmodels_corrects_them(runs):
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    rows = {"base": LOW, "a": NOISY, "b": HIGH, "c": topics(*[v + 0.01 * (i % 2) for i, v in enumerate(LOW.values())])}
    for lang in ("de", "fi"):
        for name, scores in rows.items():
            runs.add(scores, retriever=name, doc_lang=lang)
    raw = [paired_t_test(list(rows[name].values()), list(LOW.values())) for name in "abc"]
    for correction, method in (("holm", "holm"), ("bonferroni", "bonferroni"), ("bh", "fdr_bh"), ("none", None)):
        expected = multitest.multipletests(raw, method=method)[1] if method else raw
        text = table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"], correction=correction, format="csv")
        found = as_csv(text)
        assert [float(found[name]["en-fi p"]) for name in "abc"] == pytest.approx(expected, rel=1e-9)
        assert [float(found[name]["en-fi uncorrected p"]) for name in "abc"] == pytest.approx(raw, rel=1e-9)
        assert found["base"]["en-fi p"] == ""
    assert "no correction, family of 3 tests a column" in table(
        [runs.sweep()], ["retriever"], ["pair"], baselines=["base"], correction="none"
    )


def test_parallel_topics_of_several_pairs_are_averaged_before_they_are_tested(runs):
    gain = {"de": [0.1, 0.2, 0.0, 0.1], "fi": [0.2, -0.1, 0.1, 0.3]}
    for lang, gains in gain.items():
        runs.add(topics(0.1, 0.2, 0.3, 0.4), doc_lang=lang, retriever="base")
        runs.add(
            topics(*[v + g for v, g in zip((0.1, 0.2, 0.3, 0.4), gains, strict=True)]), doc_lang=lang, retriever="new"
        )
    text = table([runs.sweep()], ["retriever"], [], agg="mean", baselines=["base"], format="csv")
    found = as_csv(text)
    mean = [(d + f) / 2 for d, f in zip(*gain.values(), strict=True)]
    assert float(found["new"]["AP p"]) == pytest.approx(paired_t_test(mean, [0] * 4))


def test_topics_of_pairs_that_share_none_are_strata(runs):
    gain = {"ha": [0.1, 0.2, 0.0, 0.1, 0.15], "so": [0.2, -0.1, 0.1, 0.3]}
    for number, (lang, gains) in enumerate(gain.items()):
        start = 1 + 100 * number
        runs.add(topics(*[0.2] * len(gains), start=start), doc_lang=lang, retriever="base")
        runs.add(topics(*[0.2 + g for g in gains], start=start), doc_lang=lang, retriever="new")
    found = as_csv(table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"], format="csv"))["new"]
    # the mean of two means is 0 exactly where the mean of one is that of the other turned round: Welch's test
    welch = scipy.stats.ttest_ind(gain["ha"], [-g for g in gain["so"]], equal_var=False)
    low, high = welch.confidence_interval(0.95)
    assert float(found["mean p"]) == pytest.approx(welch.pvalue)
    assert float(found["mean difference"]) == pytest.approx((0.11 + 0.125) / 2)
    assert [float(found["mean low"]), float(found["mean high"])] == pytest.approx([low / 2, high / 2])


def test_pairs_that_share_only_some_topics_are_no_independent_samples(runs):
    gain = {
        "de": dict(zip("abcdef", (0.1, 0.2, 0.0, 0.1, -0.05, 0.3), strict=True)),
        "fi": {"a": 0.15, "b": 0.1, "c": 0.05, "x": 0.2},
    }
    for lang, gains in gain.items():
        runs.add(dict.fromkeys(gains, 0.2), doc_lang=lang, retriever="base")
        runs.add({q: 0.2 + g for q, g in gains.items()}, doc_lang=lang, retriever="new")
    found = as_csv(table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"], format="csv"))["new"]
    apart = [(1.0, {(lang, q): g for q, g in gains.items()}) for lang, gains in gain.items()]
    assert float(found["mean difference"]) == pytest.approx((0.65 / 6 + 0.125) / 2)
    assert float(found["mean p"]) == pytest.approx(p_value(sample([(1.0, gains) for gains in gain.values()]), "t"))
    assert float(found["mean p"]) != pytest.approx(p_value(sample(apart), "t"))


def test_two_topics_that_gain_the_same_are_marked_and_the_mark_is_explained(runs):
    runs.add(topics(0.0, 0.0), retriever="base")
    runs.add(topics(1.0, 1.0), retriever="new")
    text = table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"])
    assert "all topics differ by the same amount: no variance, so no doubt, however few they are" in text
    assert text.endswith("(--test randomisation has): new x en-de\n")
    text = table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"], test="randomisation")
    assert "▲" not in text.splitlines()[3] and "no doubt" not in text


def test_a_count_is_not_tested_as_if_it_were_a_mean(runs):
    runs.add(topics(10.0, 20.0), retriever="base", measure="NumRet")
    runs.add(topics(15.0, 21.0), retriever="new", measure="NumRet")
    text = table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"])
    assert "not tested, a count is summed over topics, not averaged: new x en-de" in text


def test_a_cell_whose_baseline_has_other_topics_is_not_tested_and_named(runs):
    runs.add(LOW, retriever="base")
    runs.add(topics(*HIGH.values(), start=5), retriever="new")
    text = table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"])
    assert "▲" not in text.splitlines()[3]
    assert "not tested, the baseline has other topics: new x en-de" in text


def test_tests_need_the_scores_by_topic(runs):
    folder = runs.add(HIGH, first=LOW, reranker="x")
    (folder / "per_query.csv").unlink()
    with pytest.raises(ConfigError, match=r"per_query.csv must lie beside"):
        table([folder], ["reranker"], ["pair"], baselines=["own_first_stage"])


def test_several_baselines_have_letters_and_one_family(runs):
    rows = {
        "weak": LOW,
        "strong": HIGH,
        "middle": topics(*[(a + b) / 2 for a, b in zip(LOW.values(), HIGH.values(), strict=True)]),
    }
    for name, scores in rows.items():
        runs.add(scores, retriever=name)
    text = table([runs.sweep()], ["retriever"], ["pair"], baselines=["weak", "strong"], digits=2)
    assert cells(text) == {
        ("weak", "en-de"): "0.11▼b", ("strong", "en-de"): "**0.52**▲a", ("middle", "en-de"): "0.31▲a▼b",
    }  # fmt: skip
    assert "than a weak, b strong: two-sided paired t-test, p < 0.05, Holm within a column, family of 4 tests\n" in text
    latex = table([runs.sweep()], ["retriever"], ["pair"], baselines=["weak", "strong"], digits=2, format="latex")
    assert "middle & 0.31$^{+a-b}$" in latex
    header = table([runs.sweep()], ["retriever"], ["pair"], baselines=["weak", "strong"], format="csv").splitlines()[0]
    assert "en-de vs weak p" in header and "en-de vs strong p" in header


def test_a_line_per_test_has_scipys_interval_and_the_effect_size(runs):
    runs.add(LOW, retriever="base")
    runs.add(NOISY, retriever="new")
    a, b = list(NOISY.values()), list(LOW.values())
    found = scipy.stats.ttest_rel(a, b)
    low, high = found.confidence_interval(0.95)
    d_z = np.mean(np.subtract(a, b)) / np.std(np.subtract(a, b), ddof=1)
    text = table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"], tests=True)
    line = next(line for line in text.splitlines() if line.startswith("| new") and "base" in line)
    assert [c.strip() for c in line.strip("|").split("|")] == [
        "new", "en-de", "base", "20", f"{np.mean(np.subtract(a, b)):+.4f}", f"{low:+.4f} … {high:+.4f}",
        f"{d_z:+.2f}", f"{found.pvalue:.4f}", f"{found.pvalue:.4f}",
    ]  # fmt: skip


def test_equal_rankings_do_not_differ_and_spoil_no_correction(runs):
    better = topics(*[v + 0.01 * (i % 7 - 2) for i, v in enumerate(LOW.values())])
    for name, scores in (("base", LOW), ("same", LOW), ("a", better)):
        runs.add(scores, retriever=name)
    found = as_csv(table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"], format="csv"))
    assert (found["same"]["en-de p"], found["same"]["en-de d_z"]) == ("1.0", "0.0")
    raw = paired_t_test(list(better.values()), list(LOW.values()))
    assert 0 < raw < 0.5 and float(found["a"]["en-de p"]) == pytest.approx(2 * raw)


def test_a_value_that_is_no_number_is_a_dash_and_not_tested(runs):
    runs.add(LOW, retriever="base")
    runs.add({**HIGH, "1": math.nan}, retriever="broken")
    runs.add(HIGH, retriever="fine")
    text = table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"], digits=2)
    assert (cells(text)["broken", "en-de"], cells(text)["fine", "en-de"]) == ("-", "**0.52**▲")
    runs.lines["metrics.csv"] = [{**line, "value": "0.5"} for line in runs.lines["metrics.csv"]]
    text = table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"], digits=2)
    assert "not tested, a topic's value is not a number: broken x en-de" in text and "family of 1 test" in text


def test_one_topic_is_not_tested(runs):
    runs.add(topics(0.1), retriever="base")
    runs.add(topics(0.9), retriever="new")
    text = table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"])
    assert "not tested, one topic says nothing: new x en-de" in text and "▲" not in cells(text)["new", "en-de"]


def test_a_column_without_the_baseline_is_not_tested_and_named(runs):
    runs.add(LOW, retriever="base")
    for lang in ("de", "fi"):
        runs.add(HIGH, retriever="new", doc_lang=lang)
    text = table([runs.sweep()], ["retriever"], ["pair"], baselines=["base"])
    assert "not tested, the baseline has no value: new x en-fi; new x mean" in text


@pytest.mark.parametrize(("test", "name"), [("randomisation", "randomisation test"), ("bootstrap", "bootstrap test")])
def test_other_tests_can_be_chosen_and_are_named(runs, test, name):
    runs.add(HIGH, first=LOW, reranker="x")
    text = table([runs.sweep()], ["reranker"], ["pair"], baselines=["own_first_stage"], test=test)
    assert "▲" in cells(text)["x", "en-de"]
    assert name in text


def test_the_best_of_several_settings_is_said_to_be_picked_on_the_topics_shown(runs):
    runs.add(topics(0.5), retriever="bm25[k1=0.9]", config="retriever: {k1: 0.9}")
    runs.add(topics(0.7), retriever="bm25[k1=1.2]", config="retriever: {k1: 1.2}")
    assert "several settings of bm25: the best of them is picked on the topics shown (test)" in table(
        [runs.sweep()], ["retriever"], ["pair"]
    )
    assert "several settings of retriever.k1" in table([runs.sweep()], ["retriever.k1"], ["pair"])
    assert "picked" not in table([runs.sweep()], ["retriever"], ["pair"], where=["retriever=bm25[k1=0.9]"])


# Formats ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(runs):
    runs.add(LOW, first=HIGH, retriever="bm25_dt", reranker="a&b|c<d>")
    runs.add(HIGH, first=LOW, retriever="bm25_dt", reranker="50%")
    return runs.sweep()


def test_latex_is_escaped_bold_and_marked(odd):
    text = table([odd], ["retriever", "reranker"], ["pair"], baselines=["own_first_stage"], format="latex", digits=3)
    assert r"bm25\_dt & 50\% & \textbf{0.520}$^{+}$ \\" in text
    assert r"bm25\_dt & a\&b|c$<$d$>$ & 0.110$^{-}$ \\" in text
    assert r"\begin{tabular}{llr}" in text
    assert text.isascii()


def test_html_is_escaped_and_bold(odd):
    text = table([odd], ["retriever", "reranker"], ["pair"], baselines=["own_first_stage"], format="html")
    assert "<th>a&amp;b|c&lt;d&gt;</th><td>0.1095▼</td>" in text
    assert "<td><b>0.5200</b>▲</td>" in text
    html.parser.HTMLParser().feed(text)


def test_markdown_keeps_its_columns(odd):
    assert r"a&b\|c<d>" in table([odd], ["reranker"], ["pair"])


def test_csv_is_not_rounded(runs):
    runs.add(topics(1 / 3), reranker="x", repeat="0")
    runs.add(topics(2 / 3), reranker="x", repeat="1")
    assert table([runs.sweep()], ["reranker"], ["pair"], format="csv") == (
        f"reranker,en-de,en-de sd,en-de n\nx,0.5,{statistics.stdev([1 / 3, 2 / 3])!r},2\n"
    )


def test_csv_is_empty_where_there_is_no_number(runs):
    runs.add(topics(1 / 4), reranker="x")
    runs.add(topics(3 / 4), reranker="y", query_lang="sw")
    text = table([runs.sweep()], ["reranker"], ["pair"], format="csv")
    found = as_csv(text)
    assert [found["x"]["en-de"], found["x"]["sw-de"], found["y"]["en-de"], found["y"]["sw-de"]] == [
        "0.25",
        "",
        "",
        "0.75",
    ]
