"""Tables and differences of experiments, from the files they leave."""

from __future__ import annotations

import csv
import html.parser
import re
import statistics

import pytest

from clir_cli.errors import ConfigError, DataError
from clir_cli.runs import from_hits, write_trec
from clir_cli.significance import holm, paired_t_test
from clir_cli.tables import COLUMNS, PER_QUERY, diff, table

COMMON = {
    "dataset": "toy", "split": "test", "judgments": "pool", "query_lang": "en", "doc_lang": "de", "query_fields": "title",
    "retriever": "bm25", "retrieve_query": "original", "retrieve_doc": "original", "reranker": "none", "llm": "none",
    "rerank_query": "", "rerank_doc": "", "depth": "1000", "rerank_depth": "", "repeat": "0",
}  # fmt: skip
RERANKED = {"rerank_query": "original", "rerank_doc": "original", "rerank_depth": "100"}


def write(path, columns, rows):
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)


class Runs:
    """A root folder that is filled with experiments as clir leaves them."""

    def __init__(self, root):
        self.root = root
        self.lines = {"metrics.csv": [], "per_query.csv": []}

    def add(self, scores, first=None, config="retriever: {k1: 0.9}\n", measure="AP", more=(), **columns):
        """An experiment whose topics score `scores`, and `first` before reranking; `more` are other measures' scores."""
        row = {**COMMON, **(RERANKED if columns.get("reranker", "none") != "none" else {}), **columns}
        name = f"{row['dataset']}.{row['query_lang']}-{row['doc_lang']}/e{len(self.lines['metrics.csv'])}"
        metrics, per_query = [], []
        before = {
            "reranker": "none",
            "llm": "none",
            "rerank_query": "",
            "rerank_doc": "",
            "rerank_depth": "",
            "repeat": "0",
        }
        for stage, values in (("first_stage", first if first is not None else scores), ("final", scores)):
            other = {
                called: found if stage == "final" or first is None else first for called, found in dict(more).items()
            }
            for called, found in {measure: values, **other}.items():
                mean = statistics.fmean(found.values())
                stage_row = {**row, **(before if stage == "first_stage" else {})}
                counts = {"value": repr(mean), "topics": str(len(found)), "topics_without_relevant": "0"}
                metrics.append({**stage_row, "experiment": name, "stage": stage, "measure": called, **counts})
                keys = {"experiment": name, "judgments": row["judgments"], "stage": stage, "measure": called}
                per_query += [{**keys, "query_id": q, "value": repr(v)} for q, v in found.items()]
        folder = self.root / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(config)
        write(folder / "metrics.csv", COLUMNS, metrics)
        write(folder / "per_query.csv", PER_QUERY, per_query)
        self.lines["metrics.csv"] += metrics
        self.lines["per_query.csv"] += per_query
        return folder

    def sweep(self):
        folder = self.root / "sweeps" / "all-1234"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "metrics.csv", COLUMNS, self.lines["metrics.csv"])
        write(folder / "per_query.csv", PER_QUERY, self.lines["per_query.csv"])
        return folder


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


def topics(*values, start=1):
    return {str(i): value for i, value in enumerate(values, start)}


def cells(text: str) -> dict[tuple[str, str], str]:
    """A markdown table with one row key as (row, column) -> cell."""
    head, _, *lines = [
        [c.strip() for c in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]
    return {(line[0], column): cell for line in lines for column, cell in zip(head[1:], line[1:], strict=True)}


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


def test_repeats_print_their_mean_and_standard_deviation(runs):
    for repeat, value in enumerate((0.2, 0.3, 0.4)):
        runs.add(topics(value), reranker="listwise", repeat=str(repeat))
    text = table([runs.sweep()], ["reranker"], ["pair"])
    assert cells(text)["listwise", "en-de"] == "0.3000 ± 0.1000"
    assert "mean ± standard deviation over n = 3 repeats" in text
    assert "0.2000" in table([runs.sweep()], ["reranker"], ["repeat"])


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
    text = table([runs.sweep()], ["reranker"], ["pair"], baseline="own_first_stage")
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
        ({"baseline": "labse"}, "'labse' names 0 rows; own_first_stage, or one of: bm25"),
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


# Significance ----------------------------------------------------------------------------------------------------------

LOW = topics(*[0.1 + 0.01 * (i % 3) for i in range(20)])
HIGH = topics(*[0.5 + 0.01 * (i % 5) for i in range(20)])
NOISY = topics(*[0.1 + 0.01 * (i % 3) + (0.05 if i % 2 else -0.049) for i in range(20)])


def test_both_directions_are_marked_against_the_own_first_stage(runs):
    runs.add(LOW)
    for name, scores, first in (("up", HIGH, LOW), ("down", LOW, HIGH), ("noise", NOISY, LOW)):
        runs.add(scores, first=first, reranker=name)
    text = table([runs.sweep()], ["reranker"], ["pair"], baseline="own_first_stage", digits=2)
    assert cells(text) == {
        ("none", "en-de"): "0.11", ("up", "en-de"): "**0.52**▲", ("down", "en-de"): "0.11▼", ("noise", "en-de"): "0.11",
    }  # fmt: skip
    assert (
        "better/worse than the row's own first stage: two-sided paired t-test, p < 0.05, Holm within a column, family of 3 tests"
        in text
    )


def test_p_values_are_corrected_within_a_column(runs):
    rows = {"base": LOW, "a": NOISY, "b": HIGH, "c": topics(*[v + 0.01 * (i % 2) for i, v in enumerate(LOW.values())])}
    for lang in ("de", "fi"):
        for name, scores in rows.items():
            runs.add(scores, retriever=name, doc_lang=lang)
    raw = [paired_t_test(list(rows[name].values()), list(LOW.values())) for name in "abc"]
    for correction, expected in (("holm", holm(raw)), ("none", raw)):
        text = table([runs.sweep()], ["retriever"], ["pair"], baseline="base", correction=correction, format="csv")
        found = {row["retriever"]: row for row in csv.DictReader(text.splitlines())}
        assert [float(found[name]["en-fi p"]) for name in "abc"] == pytest.approx(expected, rel=1e-9)
        assert found["base"]["en-fi p"] == "-"
    assert "no correction, 3 tests a column" in table(
        [runs.sweep()], ["retriever"], ["pair"], baseline="base", correction="none"
    )


def test_parallel_topics_of_several_pairs_are_averaged_before_they_are_tested(runs):
    gain = {"de": [0.1, 0.2, 0.0, 0.1], "fi": [0.2, -0.1, 0.1, 0.3]}
    for lang, gains in gain.items():
        runs.add(topics(0.1, 0.2, 0.3, 0.4), doc_lang=lang, retriever="base")
        runs.add(
            topics(*[v + g for v, g in zip((0.1, 0.2, 0.3, 0.4), gains, strict=True)]), doc_lang=lang, retriever="new"
        )
    text = table([runs.sweep()], ["retriever"], [], agg="mean", baseline="base", format="csv")
    found = {row["retriever"]: row for row in csv.DictReader(text.splitlines())}
    mean = [(d + f) / 2 for d, f in zip(*gain.values(), strict=True)]
    assert float(found["new"]["AP p"]) == pytest.approx(paired_t_test(mean, [0] * 4))


def test_topics_that_are_not_parallel_are_samples_of_their_own(runs):
    gain = {"ha": [0.1, 0.2, 0.0], "so": [0.2, -0.1, 0.1, 0.3]}  # the topics 1 2 3 of two languages are not the same
    for lang, gains in gain.items():
        runs.add(topics(*[0.2] * len(gains)), doc_lang=lang, retriever="base")
        runs.add(topics(*[0.2 + g for g in gains]), doc_lang=lang, retriever="new")
    text = table([runs.sweep()], ["retriever"], [], agg="mean", baseline="base", format="csv")
    found = {row["retriever"]: row for row in csv.DictReader(text.splitlines())}
    every = gain["ha"] + gain["so"]
    assert float(found["new"]["AP p"]) == pytest.approx(paired_t_test(every, [0] * 7))


def test_a_cell_whose_baseline_has_other_topics_is_not_tested_and_named(runs):
    runs.add(LOW, retriever="base")
    runs.add(topics(*HIGH.values(), start=5), retriever="new")
    text = table([runs.sweep()], ["retriever"], ["pair"], baseline="base")
    assert "▲" not in text.splitlines()[3]
    assert "not tested, the baseline has other topics: new x en-de" in text


def test_tests_need_the_scores_by_topic(runs):
    folder = runs.add(HIGH, first=LOW, reranker="x")
    (folder / "per_query.csv").unlink()
    with pytest.raises(ConfigError, match=r"per_query.csv must lie beside"):
        table([folder], ["reranker"], ["pair"], baseline="own_first_stage")


@pytest.mark.parametrize(("test", "name"), [("randomisation", "randomisation test"), ("bootstrap", "bootstrap test")])
def test_other_tests_can_be_chosen_and_are_named(runs, test, name):
    runs.add(HIGH, first=LOW, reranker="x")
    text = table([runs.sweep()], ["reranker"], ["pair"], baseline="own_first_stage", test=test)
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
    text = table([odd], ["retriever", "reranker"], ["pair"], baseline="own_first_stage", format="latex", digits=3)
    assert r"bm25\_dt & 50\% & \textbf{0.520}$^{+}$ \\" in text
    assert r"bm25\_dt & a\&b|c$<$d$>$ & 0.110$^{-}$ \\" in text
    assert r"\begin{tabular}{llr}" in text
    assert text.isascii()


def test_html_is_escaped_and_bold(odd):
    text = table([odd], ["retriever", "reranker"], ["pair"], baseline="own_first_stage", format="html")
    assert "<th>a&amp;b|c&lt;d&gt;</th><td>0.1095▼</td>" in text
    assert "<td><b>0.5200</b>▲</td>" in text
    html.parser.HTMLParser().feed(text)


def test_markdown_keeps_its_columns(odd):
    assert r"a&b\|c<d>" in table([odd], ["reranker"], ["pair"])


def test_csv_is_not_rounded(runs):
    runs.add(topics(1 / 3), reranker="x", repeat="0")
    runs.add(topics(2 / 3), reranker="x", repeat="1")
    assert table([runs.sweep()], ["reranker"], ["pair"], format="csv") == (
        f"reranker,en-de,en-de sd\nx,0.5,{statistics.stdev([1 / 3, 2 / 3])!r}\n"
    )


# Differences -----------------------------------------------------------------------------------------------------------


def test_a_difference_says_what_was_set_otherwise_and_what_it_changed(runs):
    a = runs.add(LOW, retriever="bm25_dt", config="retriever: {k1: 0.9}\nretrieve: {doc: query_lang}\n")
    b = runs.add(HIGH, retriever="minilm_en", config="retriever: {model: x}\nretrieve: {doc: query_lang}\n")
    found = diff(a, b)
    assert "A: retriever=bm25_dt\nB: retriever=minilm_en\n" in found.text
    assert "  retriever.k1: 0.9 -> -\n  retriever.model: - -> x\n" in found.text
    assert "retrieve.doc" not in found.text
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
    assert "Holm over 2 tests" in diff(a, b).text


def test_two_rerankers_of_one_first_stage_are_compared_by_their_final_rankings_alone(runs):
    a = runs.add(NOISY, first=LOW, reranker="prp", more={"Judged@20": LOW})
    b = runs.add(HIGH, first=LOW, reranker="listwise", more={"Judged@20": HIGH})
    rows = diff(a, b).as_rows()
    assert [(row["stage"], row["measure"]) for row in rows] == [("final", "AP"), ("final", "Judged@20")]
    assert rows[1]["p"] is None  # a coverage, not a quality


def test_topics_that_gain_and_lose_most_are_named(runs):
    a = runs.add(topics(0.5, 0.5, 0.5, 0.5))
    b = runs.add(topics(0.9, 0.5, 0.1, 0.6), retriever="new")
    text = str(diff(a, b, digits=1))
    assert "topics that gain most (AP): 1 +0.4, 4 +0.1\n" in text
    assert "topics that lose most (AP): 3 -0.4\n" in text


def test_a_run_and_itself_do_not_differ(runs):
    a = runs.add(LOW)
    rows = diff(a, a).as_rows()
    assert [(row["delta"], row["p"], row["ties"]) for row in rows] == [(0.0, 1.0, 20)]


def test_the_first_documents_in_common_are_counted_where_both_runs_are_there(runs):
    a, b = runs.add(topics(0.5, 0.5)), runs.add(topics(0.4, 0.4), retriever="new")
    assert "in common" not in diff(a, b).text
    write_trec(from_hits({"1": [(f"d{i}", -float(i)) for i in range(30)], "2": [("x", 1.0)]}), a / "run.trec")
    write_trec(from_hits({"1": [(f"d{i}", -float(i)) for i in range(5, 35)], "2": [("y", 1.0)]}), b / "run.trec")
    assert "the first 10 documents: 25% in common, 2 topics" in diff(a, b).text


def test_sweeps_are_joined_on_all_that_they_share(tmp_path):
    sides = []
    for name, better in (("bm25", 0.0), ("dense", 0.1)):
        runs = Runs(tmp_path / name)
        for lang in ("de", "fi"):
            runs.add(topics(0.1 + better, 0.2 + better, 0.25), doc_lang=lang, retriever=name)
        sides.append(runs.sweep())
    found = diff(*sides)
    assert [(row["doc_lang"], row["stage"]) for row in found.as_rows()] == [("de", "final"), ("fi", "final")]
    assert "| doc_lang | measure |" in found.text
    assert "topics that gain most (AP): en-fi " in found.text or "topics that gain most (AP): en-de " in found.text


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
