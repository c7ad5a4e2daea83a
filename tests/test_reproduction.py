"""`clir reproduce`: published numbers, run again, each with a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import XQUAD, Clir, needs_shared

import clir_cli
from clir_cli import evaluation
from clir_cli.compose import cells, packaged
from clir_cli.errors import ConfigError
from clir_cli.experiment import read_rows
from clir_cli.runs import read_trec
from clir_cli.verbs import reproduction
from clir_cli.verbs.reproduction import Row, Target, judged

ABOUT = {"title": "BM25 on the demo collection", "source": "a test", "date": "2026-11-21"}


def target(clir: Clir, name: str, **said: Any) -> None:
    folder = clir.folder / "configs" / "target"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**ABOUT, **said}))


def findings(clir: Clir, *names: str, code: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(clir("reproduce", *names, "--json", code=code).stdout)
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """What BM25 over human translations gives on the demo collection, by pair."""
    clir = Clir(tmp_path_factory.mktemp("measured"))
    clir("run", "-m", "retriever=bm25_dt", "dataset.pair=en-de,en-sw", "evaluate.measures=[nDCG@10]", "--quiet")
    (sweep,) = (clir.runs / "sweeps").glob("*/metrics.csv")
    lines = [line.split(",") for line in sweep.read_text().splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    rows = [row for row in rows if row["stage"] == "final" and row["measure"] == "nDCG@10"]
    return {f"{row['query_lang']}-{row['doc_lang']}": float(row["value"]) for row in rows}


def test_a_number_that_is_there_again_is_ok_a_close_one_near_and_a_wrong_one_fails(
    clir: Clir, measured: dict[str, float]
) -> None:
    right, off = measured["en-de"], measured["en-sw"]
    table = [
        ["dataset.pair", "nDCG@10"],
        ["en-de", round(right, 4)],
        ["en-sw", round(off, 4) + 0.0003],
        ["en-sw", round(off, 4) + 0.01],
    ]
    target(clir, "demo_bm25", overrides=["retriever=bm25_dt"], table=table)
    found = findings(clir, "demo_bm25", code=1)
    assert [f["verdict"] for f in found] == ["OK", "near", "FAIL"]
    assert found[0]["got"] == right, "unrounded"
    said = clir("reproduce", "demo_bm25", code=1).stdout
    assert f"{off:.4f}" in said and "3 numbers: 1 OK, 1 near, 1 FAIL" in said


def test_a_row_of_several_pairs_is_their_mean(clir: Clir, measured: dict[str, float]) -> None:
    mean = sum(measured.values()) / 2
    target(clir, "mean", overrides=["retriever=bm25_dt"], table=[["dataset.pair", "nDCG@10"], ["en-de,en-sw", mean]])
    (found,) = findings(clir, "mean")
    assert (found["verdict"], found["got"]) == ("OK", pytest.approx(mean, abs=1e-12))


def test_an_index_has_exactly_the_published_documents_and_terms(clir: Clir) -> None:
    table = [["index:documents", "index:non_empty", "index:terms"], [60, 60, 1]]
    target(clir, "statistics", overrides=["retriever=bm25_dt", "dataset.pair=en-de"], table=table)
    found = {f["measure"]: f for f in findings(clir, "statistics", code=1)}
    assert [f["verdict"] for f in found.values()] == ["OK", "OK", "FAIL"], (
        "one term too many or too few is another index"
    )
    again = {f["measure"]: f for f in findings(clir, "statistics", code=1)}
    assert again == found, "of an index that an earlier process made"
    more = {**found["index:terms"], "got": int(found["index:terms"]["got"])}["got"]
    about = Target("t", **ABOUT, overrides=(), rows=())
    row = Row((), {})
    for expected, verdict in ((more, "OK"), (more - 1, "FAIL"), (more + 1, "FAIL")):
        assert judged(about, row, "index:terms", expected, more).verdict == verdict


def test_what_was_not_read_at_its_source_proves_nothing(clir: Clir, measured: dict[str, float]) -> None:
    table = [["dataset.pair", "nDCG@10"], ["en-de", measured["en-de"]]]
    target(clir, "told", overrides=["retriever=bm25_dt"], status="secondary", table=table)
    target(clir, "quoted", quoted=True, table=[["retriever", "nDCG@10"], ["of_a_closed_model", 0.5]])
    told, quoted = findings(clir, "told", "quoted")
    assert (told["verdict"], told["why"]) == ("unverified", "OK; the source is secondary")
    assert (quoted["verdict"], quoted["got"]) == ("quoted", None)


def test_what_is_missing_is_named_and_never_counted_as_done(clir: Clir) -> None:
    table = [["retriever", "nDCG@10"], ["labse", 0.5], ["bm25_dt", 0.5]]
    target(clir, "absent", overrides=["dataset.pair=en-de"], tolerance=1.0, table=table)
    model, other = findings(clir, "absent", code=1)
    assert (model["verdict"], model["got"]) == ("missing", None) and "LaBSE" in model["why"]
    assert other["verdict"] == "OK", "the other rows are run all the same"


def test_a_file_that_is_not_there_is_missing_and_one_that_does_not_parse_has_failed(clir: Clir) -> None:
    (clir.folder / "topics.tsv").write_text("1\tBerlin\n")
    (clir.folder / "qrels.txt").write_text("1 0 d1 1\n1 0 d1\n")
    (clir.folder / "docs.tsv").write_text("d1\tBerlin is a city.\n")
    files = ["dataset.topics=topics.tsv", "dataset.qrels=qrels.txt"]
    overrides = ["dataset=files", *files, "dataset.pair=en-en", "dataset.header=false", "retriever=bm25"]
    target(clir, "files", overrides=overrides, table=[["dataset.docs", "AP"], ["nowhere.tsv", 1.0], ["docs.tsv", 1.0]])
    absent, broken = findings(clir, "files", code=1)
    assert absent["verdict"] == "missing" and "nowhere.tsv does not exist" in absent["why"]
    assert broken["verdict"] == "failed" and "qrels.txt:2: " in broken["why"]


def test_a_mean_of_which_a_part_is_missing_and_another_broken_tells_what_is_broken(clir: Clir) -> None:
    """Data that is not here can be fetched; what fails would fail with it too."""
    (clir.folder / "qrels.txt").write_text("1 0 d1 1\n1 0 d1\n")
    for name, text in (("topics", "1\tBerlin\n"), ("docs.en", "d1\tBerlin is a city.\n")):
        (clir.folder / f"{name}.tsv").write_text(text)
    files = ["dataset.docs=docs.{lang}.tsv", "dataset.topics=topics.tsv", "dataset.qrels=qrels.txt"]
    overrides = ["dataset=files", *files, "dataset.query_lang=en", "dataset.header=false", "retriever=bm25"]
    target(clir, "mean", overrides=overrides, table=[["dataset.doc_lang", "AP"], ["de,en", 1.0]])
    (found,) = findings(clir, "mean", code=1)
    assert found["verdict"] == "failed" and "qrels.txt:2: " in found["why"]


def test_what_is_missing_is_said_once_with_the_way_to_it_and_every_target_has_its_counts(clir: Clir) -> None:
    table = [["dataset.pair", "AP", "nDCG@20"], ["en-de", 0.3, 0.4], ["en-fi", 0.3, 0.4]]
    target(clir, "licensed", overrides=["dataset=clef2003", "retriever=bm25_dt"], table=table)
    files = '"https://host.org/a/topics.{lang}.tsv"'
    target(
        clir, "quoted", quoted=True, table=[["retriever", "dataset.topics", "AP"], ["of_a_closed_model", files, 0.1234]]
    )
    said = clir("reproduce", "licensed", "quoted", "-o", "report.html", code=1).stdout
    assert said.count("CLEF 2003, ad hoc track is not on this machine") == said.count("ELRA-E0008") == 1
    assert "4 missing: " in said and "1 quoted, not run" in said and "0.1234" not in said
    assert "5 numbers: 1 quoted, 4 missing" in said
    counts = {
        line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith(("licensed ", "quoted "))
    }
    assert counts == {
        "licensed": ["4", ".", ".", ".", ".", ".", "4", "."],
        "quoted": ["1", ".", ".", ".", ".", "1", ".", "."],
    }
    alone = clir("reproduce", "quoted").stdout
    assert "0.1234" in alone and "retriever=of_a_closed_model dataset.topics=topics.{lang}.tsv " in alone
    report = (clir.folder / "report.html").read_text()
    assert "0.1234" in report and "ELRA-E0008" in report and '<a href="#licensed">' in report


def test_overrides_stand_for_the_targets_own(clir: Clir, measured: dict[str, float]) -> None:
    table = [["dataset.pair", "nDCG@10"], ["en-de", measured["en-sw"]]]
    target(clir, "demo_bm25", overrides=["retriever=bm25_dt"], table=table)
    (found,) = findings(clir, "demo_bm25", "dataset.pair=en-sw")
    assert (found["verdict"], found["got"]) == ("OK", measured["en-sw"])
    assert Path(found["experiments"][0]).parent.name == "demo.en-sw"


def test_miracls_hybrid_is_pyserinis_fusion_of_the_parts_runs(clir: Clir) -> None:
    """The procedure of the regressions on the demo collection: both runs, `pyserini.fusion`, trec_eval's measures."""
    from pyserini.fusion import interpolation
    from pyserini.trectools import TrecRun

    published = yaml.safe_load((packaged() / "target" / "miracl_hybrid.yaml").read_text())
    method = [text for text in published["overrides"] if text.startswith(("retriever.method", "retriever.weights"))]
    hybrid = ["retriever=hybrid", "retriever.parts=[bm25_qt,bm25_dt]", *method, "evaluate.measures=[nDCG@10,R@20]"]
    folder = clir.experiment(*hybrid)
    parts = [clir.experiment(f"retriever={name}") / "run.trec" for name in ("bm25_qt", "bm25_dt")]
    fused = interpolation([TrecRun(str(path)) for path in parts], alpha=0.5, depth=1000, k=1000)
    fused.save_to_txt(str(clir.folder / "theirs.trec"))
    rows = read_rows(folder / "metrics.csv")
    mine = {row["measure"]: float(row["value"]) for row in rows if row["stage"] == "final"}
    qrels = evaluation.read_qrels(Path(clir_cli.__file__).parent / "datasets" / "demo" / "qrels.de.txt")
    measures = evaluation.parse_measures(["nDCG@10", "R@20"])
    scores = evaluation.evaluate(read_trec(clir.folder / "theirs.trec", order="any"), qrels, measures)
    theirs = {row.measure: row.value for row in evaluation.summary(scores, qrels)}
    assert theirs == pytest.approx({name: mine[name] for name in theirs})


def test_the_report_names_the_source_of_every_table(clir: Clir, measured: dict[str, float]) -> None:
    table = [["dataset.pair", "nDCG@10"], ["en-de", measured["en-de"]]]
    target(clir, "demo_bm25", title="BM25 <b>", overrides=["retriever=bm25_dt"], table=table)
    for name in ("report.md", "report.html"):
        clir("reproduce", "demo_bm25", "-o", name)
        text = (clir.folder / name).read_text()
        assert "a test (2026-11-21; verified)" in text and f"{measured['en-de']:.4f}" in text
    assert "BM25 &lt;b&gt;" in text


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"table": [["nDCG@10"]]}, "table: a list of a head and at least one row"),
        ({"table": [["nDCG@10"], [0.1, 0.2]]}, "table, row 1: 1 columns are in the head, 2 in the row"),
        ({"table": [["nDCG@10"], ["high"]]}, "nDCG@10 is 'high', expected a number or null"),
        ({"tables": [], "table": [["AP"], [1]]}, "tables: unknown"),
        ({"status": "sure", "table": [["AP"], [1]]}, "status: verified, secondary or inferred, not 'sure'"),
    ],
)
def test_a_target_that_does_not_say_what_it_means_is_refused(tmp_path: Path, said: Any, complaint: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump({**ABOUT, **said}))
    with pytest.raises(ConfigError) as caught:
        reproduction.read(path)
    assert complaint in str(caught.value) and str(path) in str(caught.value)


def test_an_unknown_target_and_an_unknown_kind_of_report_are_refused(clir: Clir) -> None:
    target(clir, "demo_bm25", table=[["AP"], [1]])
    said = clir("reproduce", "demo_bm52", code=2).stderr
    assert "no target is called 'demo_bm52'; did you mean demo_bm25" in said and "there are: adeyemi2024, " in said
    assert "a report is a .md or an .html file" in clir("reproduce", "demo_bm25", "-o", "r.pdf", code=2).stderr


def packaged_targets() -> list[str]:
    return sorted(path.stem for path in (packaged() / "target").glob("*.yaml"))


@pytest.mark.parametrize("name", packaged_targets())
def test_every_target_is_read_and_names_its_source_and_date(name: str) -> None:
    found = reproduction.read(packaged() / "target" / f"{name}.yaml")
    assert found.source and found.title and len(found.date) == 10
    assert all(row.expected for row in found.rows)
    evaluation.parse_measures([what for row in found.rows for what in row.expected if not what.startswith("index:")])
    for row in [] if found.quoted else found.rows:
        assert cells([*found.overrides, *row.overrides], multirun=True), "the row is a request that clir understands"


@needs_shared(XQUAD)
def test_bm25_on_xquad_r_is_pyserinis_in_every_language(clir: Clir) -> None:
    published = yaml.safe_load((packaged() / "target" / "xquad_bm25.yaml").read_text())
    here = {"docs": "corpus.{lang}.jsonl", "topics": "topics.{lang}.tsv", "qrels": "qrels.{doc_lang}.txt"}
    files = [f"dataset.{part}={XQUAD}/{name}" for part, name in here.items()]
    overrides = ["dataset=files", *files, *published["overrides"][1:]]
    table = [row for row in published["table"] if row[0] != "th-th"]  # Lucene's Thai analyser needs a full JDK
    target(clir, "xquad_here", overrides=overrides, table=table)
    found = findings(clir, "xquad_here")
    assert {f["verdict"] for f in found} == {"OK"} and len(found) == sum(len(row) - 1 for row in table[1:])
