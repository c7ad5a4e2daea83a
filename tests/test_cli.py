"""What people and scripts see of clir: every verb, run as a command."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import pty
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Clir

from clir_cli.cli import VERBS
from clir_cli.launchers.outcome import said

QRELS = str(Path(__file__).parents[1] / "clir_cli" / "datasets" / "demo" / "qrels.de.txt")


def rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def key(folder: Path) -> str:
    return folder.name.rsplit("-", 1)[-1]


# Help -----------------------------------------------------------------------------------------------------------------


def test_the_first_page_has_a_full_sentence_for_every_verb(shared_clir: Clir) -> None:
    lines = shared_clir("--help").stdout.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(VERBS)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_one_sentence_and_one_example(shared_clir: Clir, verb: str) -> None:
    text = shared_clir(verb, "--help").stdout.splitlines()
    assert text[0].startswith(f"Usage: clir {verb} ")
    sentence, example = text[2].strip(), text[4].strip()
    assert sentence.endswith(".") and sentence[0].isupper() and ". " not in sentence
    assert example.startswith(f"clir {verb}") and not text[5].strip()


def test_the_examples_are_commands_that_parse(clir: Clir) -> None:
    assert "labse" in clir("plan", "retriever=labse", "reranker=listwise").stdout
    assert "bm25_qt.demo.en-de" in clir("plan", "-m", "retriever=bm25_qt,bm25_dt").stdout
    assert clir("new", "retriever", "my_encoder").stdout == "configs/retriever/my_encoder.yaml\n"


def test_the_version_is_printed(shared_clir: Clir) -> None:
    assert shared_clir("--version").stdout == shared_clir("-V").stdout != ""


# Plan -----------------------------------------------------------------------------------------------------------------


def test_a_dry_run_is_a_plan(shared_clir: Clir) -> None:
    for arguments in (
        ["retriever=hybrid", "reranker=oracle"],
        ["--json", "-m", "retriever=bm25,bm25_dt", "dataset.pair=en-sw"],
    ):
        assert shared_clir("run", "--dry-run", *arguments).stdout == shared_clir("plan", *arguments).stdout


def test_a_plan_says_what_is_missing_and_then_done(clir: Clir) -> None:
    before = clir("plan").stdout
    assert before.count("missing") == 6 and before.endswith("6 steps: 0 done, 6 to make\n") and not clir.runs.exists()
    folder = clir.experiment()
    after = clir("plan").stdout
    assert "missing" not in after and after.endswith(f"6 steps: 6 done, 0 to make\nfinished: {folder}\n")


def test_a_missing_step_says_how_its_closest_relative_differs(shared_clir: Clir) -> None:
    shared_clir.experiment()
    said = shared_clir("plan", "retriever.k1=1.21").stdout
    lines = said.splitlines()
    (at,) = [i for i, line in enumerate(lines) if "differs from bm25_dt.demo.en-de-" in line]
    assert lines[at].endswith(", which is done:") and lines[at + 1].strip() == "k1: 0.9 -> 1.21"
    assert "6 steps: 5 done, 1 to make" in said


def test_what_a_plan_means_is_counted(shared_clir: Clir) -> None:
    shared_clir.experiment()
    said = shared_clir("plan", "retriever=labse", "reranker=listwise", "rerank.depth=30").stdout
    assert "encode 60 documents" in said and "rerank 36 queries x at most 30 candidates" in said
    assert "undecided" in said and "the revision of sentence-transformers/LaBSE is to be resolved" in said
    assert "model castorini/rank_zephyr_7b_v1_full: not known on this machine yet" in said


def test_a_plan_shows_what_another_process_is_making_and_what_failed(clir: Clir) -> None:
    docs = clir.folder / "docs.tsv"
    docs.write_text("".join(f"d{i}\tsome text about the number {i}\n" for i in range(150_000)))
    (clir.folder / "topics.tsv").write_text("q1\tnumber 7\n")
    own = [
        "dataset=files",
        "dataset.docs=docs.tsv",
        "dataset.topics=topics.tsv",
        "dataset.query_lang=en",
        "dataset.doc_lang=en",
        "retriever=bm25",
    ]
    running = clir.start("run", *own)
    while not ((clir.runs / "steps" / "topics").exists() and list((clir.runs / "locks").glob("*.lock"))):
        assert running.poll() is None
        time.sleep(0.02)
    said = clir("plan", *own).stdout
    running.kill()
    running.communicate()
    assert "in progress  index" in said and f"(process {running.pid})" in said
    docs.write_text("d1\tone\nd1\ttwice\n")
    assert "d1" in clir("run", *own, code=2).stderr
    said = clir("plan", *own).stdout
    assert "failed " in said and "d1" in said.split("failed ")[1].splitlines()[1], "with the reason below it"


def test_a_large_file_that_nobody_has_read_leaves_a_plan_undecided(clir: Clir) -> None:
    (clir.folder / "docs.tsv").write_text("d1\t" + "long " * 2_000_000 + "\n")
    (clir.folder / "topics.tsv").write_text("q1\tlong\n")
    own = [
        "dataset=files",
        "dataset.docs=docs.tsv",
        "dataset.topics=topics.tsv",
        "dataset.query_lang=en",
        "dataset.doc_lang=en",
        "retriever=bm25",
    ]
    said = clir("plan", *own).stdout
    assert "undecided  docs" in said and "to be fingerprinted" in said and "follows from the steps before it" in said


def test_a_plan_for_machines_has_cells_and_steps(shared_clir: Clir) -> None:
    found = json.loads(
        shared_clir(
            "plan", "--json", "-m", "retriever=bm25,bm25_dt", "dataset.pair=en-sw", "llm=gpt,rank_zephyr"
        ).stdout
    )
    assert [c["cell"] for c in found["cells"]] == [1, 2, 3, 4] and found["cells"][3]["same_as"] == 3
    assert "no analyser" in found["cells"][0]["error"] and found["cells"][2]["error"] is None
    assert {"stage", "label", "key", "state", "note", "unlike", "work", "cells", "gpus", "loads"} == set(
        found["steps"][0]
    )


def test_what_a_program_reads_is_json(shared_clir: Clir) -> None:
    one = shared_clir.experiment()
    said = json.loads(shared_clir("check", "--json").stdout)
    assert said == {"experiment": "bm25_dt", "models": None}
    targets = json.loads(shared_clir("reproduce", "--list", "--json", "xquad_bm25").stdout)
    assert [(t["target"], t["numbers"], t["status"]) for t in targets] == [("xquad_bm25", 54, "verified")]
    (cell,) = json.loads(shared_clir("table", "--json", str(one)).stdout)["cells"]
    value = next(r["value"] for r in rows(one / "metrics.csv") if r["measure"] == "nDCG@10")
    assert (cell["row"], cell["column"]) == ({"retriever": "bm25_dt", "reranker": "none"}, "en-de")
    assert cell["value"] == float(value) and cell["experiments"] == [f"{one.parent.name}/{one.name}"]
    assert "choose one" in shared_clir("table", "--json", "--format", "latex", str(one), code=2).stderr


def test_a_table_keeps_its_marks_where_the_locale_has_no_letters_for_them(shared_clir: Clir) -> None:
    one = shared_clir.experiment("reranker=oracle")
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = ("table", str(one), "--stage", "first_stage,final", "--rows", "stage", "--baseline", "first_stage")
    assert "▲" in shared_clir(*command, env=bare).stdout == shared_clir(*command).stdout


def test_why_names_the_fields_of_two_steps_and_of_two_experiments(shared_clir: Clir) -> None:
    one, two = shared_clir.experiment(), shared_clir.experiment("retriever.k1=1.2")
    said = shared_clir("why", str(one), str(two)).stdout
    assert "index bm25_dt.demo.en: the same" in said and said.endswith("  k1: 0.9 -> 1.2\n")
    assert shared_clir("why", key(one)[:8], f"{two.parent.name}/{two.name}").stdout == said, (
        "by key, and by a path below runs"
    )
    steps = [
        next(s["key"] for s in json.loads((f / "manifest.json").read_text())["steps"] if s["stage"] == "retrieve")
        for f in (one, two)
    ]
    said = shared_clir("why", steps[0][:10], steps[1]).stdout
    assert said.splitlines() == [
        f"retrieve bm25_dt.demo.en-de -> bm25_dt[k1=1.2].demo.en-de: {steps[0]} -> {steps[1]}",
        "  k1: 0.9 -> 1.2",
    ]
    (found,) = json.loads(shared_clir("why", "--json", *steps).stdout)
    assert found["fields"] == {"k1": [0.9, 1.2]} and found["a"]["key"] == steps[0] and not found["same"]
    assert "the same" in shared_clir("why", key(one), key(one)).stdout
    assert "no key" in shared_clir("why", key(one), "nowhere", code=2).stderr


# Configs and list -----------------------------------------------------------------------------------------------------


def test_configs_are_a_line_each_and_aligned_with_the_user_s_own(clir: Clir) -> None:
    clir("new", "retriever", "of_mine")
    every, group = clir("configs").stdout.splitlines(), clir("configs", "retriever").stdout.splitlines()
    assert {line.split("=")[0] for line in every} == {
        "dataset", "translator", "llm", "prompt", "retriever", "reranker", "experiment", "quirk", "launcher", "sweep",
    }  # fmt: skip
    assert any(line.startswith("retriever=of_mine ") for line in every)
    for lines in (every, group):
        start = max(len(line.split()[0]) for line in lines) + 2
        assert all(line[start - 2 : start] == "  " and line[start] != " " for line in lines)
    assert {line.split()[0] for line in group} < {line.split()[0] for line in every}
    assert json.loads(clir("configs", "retriever", "--json").stdout)[0]["command"].startswith("clir run")


def test_a_config_is_shown_with_its_place(shared_clir: Clir) -> None:
    place, *yaml = shared_clir("configs", "retriever", "bm25_dt").stdout.splitlines()
    path = Path(place.removeprefix("# "))
    assert path.name == "bm25_dt.yaml" and path.read_text().splitlines() == yaml
    assert json.loads(shared_clir("configs", "retriever", "bm25_dt", "--json").stdout)["path"] == str(path)


def test_list_has_a_line_per_experiment(shared_clir: Clir) -> None:
    assert shared_clir("list", "--runs", "none-here").stdout.startswith("no experiments in ")
    folder = shared_clir.experiment()
    (line,) = [line for line in shared_clir("list").stdout.splitlines() if folder.name in line]
    assert line.startswith(f"runs/{folder.parent.name}/{folder.name}  ") and "nDCG@10 0." in line
    (row,) = [row for row in json.loads(shared_clir("list", "--json").stdout) if row["experiment"] == str(folder)]
    assert row["measure"] == "nDCG@10"


# Evaluate -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tied(clir: Clir) -> list[str]:
    """Two topics; the only relevant document of q1 is tied with another, q2 has none."""
    (clir.folder / "run.trec").write_text("q1 Q0 a 1 2.0 x\nq1 Q0 c 2 1.0 x\nq1 Q0 b 3 1.0 x\nq2 Q0 a 1 1.0 x\n")
    (clir.folder / "qrels.txt").write_text("q1 0 b 1\nq1 0 a 0\nq2 0 a 0\n")
    return ["evaluate", "run.trec", "--qrels", "qrels.txt"]


def test_a_run_is_scored_as_trec_eval_orders_its_ties(clir: Clir, tied: list[str]) -> None:
    said = clir(*tied, "--measures", "RR@10,P@1").stdout.splitlines()
    assert said[1].split()[:3] == ["RR@10", "0.1667", "2"], "c before b: doc_id descending"
    assert any(line.startswith("Judged@10") for line in said)


def test_both_topic_policies_are_told(clir: Clir, tied: list[str]) -> None:
    said = clir(*tied, "--measures", "RR").stdout.splitlines()
    assert [line.split() for line in said[:2]] == [
        ["measure", "value", "topics", "relevant"],
        ["RR", "0.1667", "2", "0.3333"],
    ]
    assert said[2] == "1 of 2 judged topics have no relevant document; --topics relevant averages over 1"
    said = clir(*tied, "--measures", "RR", "--topics", "relevant").stdout.splitlines()
    assert [line.split() for line in said[:2]] == [
        ["measure", "value", "topics", "judged"],
        ["RR", "0.3333", "1", "0.1667"],
    ]
    assert said[2] == "1 of 2 judged topics have no relevant document; --topics judged averages over 2"


def test_scores_per_topic_and_for_machines(clir: Clir, tied: list[str]) -> None:
    said = [line.split() for line in clir(*tied, "--measures", "RR", "--per-query").stdout.splitlines()]
    assert said[:3] == [["query_id", "measure", "value"], ["q1", "RR", "0.3333"], ["q2", "RR", "0.0000"]]
    found = json.loads(clir(*tied, "--measures", "RR", "--per-query", "--json").stdout)
    assert found["summary"][0] == {
        "measure": "RR",
        "value": 1 / 6,
        "topics": 2,
        "topics_without_relevant": 1,
        "other": 1 / 3,
    }
    assert found["per_query"][1] == {"query_id": "q2", "measure": "RR", "value": 0.0}


def test_ranks_that_disagree_with_scores_are_refused_unless_told(clir: Clir, tied: list[str]) -> None:
    (clir.folder / "run.trec").write_text("q1 Q0 a 1 1.0 x\nq1 Q0 b 2 2.0 x\n")
    refused = clir(*tied, code=2)
    assert refused.stderr.startswith("clir: run.trec:") and "disagrees" in refused.stderr and not refused.stdout
    assert "0.2500" in clir(*tied, "--measures", "RR", "--order", "rank").stdout
    assert "0.5000" in clir(*tied, "--measures", "RR", "--order", "any").stdout


def test_a_document_listed_twice_is_refused_unless_told(clir: Clir, tied: list[str]) -> None:
    (clir.folder / "run.trec").write_text("q1 Q0 c 1 3.0 x\nq1 Q0 b 2 2.0 x\nq1 Q0 c 3 1.0 x\nq2 Q0 a 1 1.0 x\n")
    refused = clir(*tied, code=2)
    assert "'c' is listed twice" in refused.stderr and "--duplicates=first" in refused.stderr
    assert "0.2500" in clir(*tied, "--measures", "RR", "--duplicates", "first").stdout
    assert "go with --qrels" in clir("evaluate", "run.trec", "--duplicates", "first", code=2).stderr


def test_an_option_of_evaluate_is_named_as_it_is_typed(clir: Clir, tied: list[str]) -> None:
    (clir.folder / "run.trec").write_text("q1 Q0 a 1 1.0 x\nq1 Q0 b 2 2.0 x\n")
    assert "--order=rank follows the ranks, --order=any the scores" in clir(*tied, code=2).stderr


def test_a_run_of_other_topics_is_refused_and_a_part_of_them_is_told(clir: Clir, tied: list[str]) -> None:
    assert clir(*tied).stderr == ""
    (clir.folder / "run.trec").write_text("q1 Q0 b 1 1.0 x\n")
    partly = clir(*tied, "--measures", "RR")
    assert "0.5000" in partly.stdout
    assert partly.stderr == "the run has results for 1 of 2 judged topics; the others (q2) count 0\n"
    (clir.folder / "run.trec").write_text("EN-q1 Q0 b 1 1.0 x\n")
    refused = clir(*tied, code=2)
    assert "no topic in common: the run has EN-q1, the judgments q1, q2" in refused.stderr and not refused.stdout


def test_a_clir_run_scores_alike_outside_its_folder(shared_clir: Clir) -> None:
    folder = shared_clir.experiment()
    value = {r["measure"]: r["value"] for r in rows(folder / "metrics.csv") if r["stage"] == "final"}
    found = json.loads(
        shared_clir("evaluate", str(folder / "run.trec"), "--qrels", QRELS, "--measures", "nDCG@10,AP", "--json").stdout
    )
    assert all(repr(row["value"]) == value[row["measure"]] for row in found["summary"])


def test_experiments_take_more_judgments_from_anywhere(clir: Clir) -> None:
    for name, text in (
        ("docs.tsv", "d1\tthe tide\nd2\tthe moon\n"),
        ("topics.tsv", "q1\ttide\n"),
        ("a.txt", "q1 0 d1 1\n"),
        ("b.txt", "q1 0 d2 1\n"),
    ):
        (clir.folder / name).write_text(text)
    folder = clir.experiment(
        "dataset=files", "dataset.docs=docs.tsv", "dataset.topics=topics.tsv", "dataset.qrels={shallow: a.txt, pools: b.txt}", "dataset.judgments=[shallow]",
        "dataset.query_lang=en", "dataset.doc_lang=en", "retriever=bm25", "evaluate.topics=relevant",
    )  # fmt: skip
    said = clir("evaluate", str(folder), "--judgments", "pools", "--measures", "R@5").stdout
    assert {"shallow", "pools", "R@5"} <= set(said.split()) and said.endswith(f"{folder}\n")
    assert {r["judgments"] for r in rows(folder / "metrics.csv")} == {"shallow", "pools"}
    asked = json.loads((folder / "manifest.json").read_text())["evaluated"]
    assert {e["topics"] for e in asked} == {"relevant"}, "the experiment's own policy stays"
    (found,) = json.loads(clir("evaluate", str(folder), "--json").stdout)
    assert found["metrics"] == rows(folder / "metrics.csv")
    assert "no judgments 'none'" in clir("evaluate", str(folder), "--judgments", "none", code=2).stderr
    assert "give --qrels" in clir("evaluate", str(folder / "run.trec"), code=2).stderr


# Table and diff -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(shared_clir: Clir) -> Path:
    done = shared_clir("run", "-m", "retriever=bm25_qt,bm25_dt", "reranker=none,oracle", "--name", "small")
    return Path(done.stdout.splitlines()[-1])


def test_a_table_shows_what_metrics_csv_says(shared_clir: Clir, sweep: Path) -> None:
    table = shared_clir("table", str(sweep), "--format", "csv", "--digits", "10").stdout.splitlines()
    value = {
        (r["retriever"], r["reranker"]): float(r["value"])
        for r in rows(sweep / "metrics.csv")
        if r["stage"] == "final" and r["measure"] == "nDCG@10"
    }
    found = {tuple(row[:2]): float(row[2].strip("*")) for row in csv.reader(table[1:5])}
    assert found == {cell: pytest.approx(v, abs=1e-9) for cell, v in value.items()} and len(found) == 4
    shown = shared_clir("table", str(sweep), "--baseline", "own_first_stage").stdout
    assert all(f"{v:.4f}" in shown for v in value.values()) and not shown.endswith("\n\n")


def test_two_values_in_one_cell_name_what_differs(shared_clir: Clir, sweep: Path) -> None:
    said = shared_clir("table", str(sweep), "--rows", "retriever", code=2)
    assert "--where KEY=VALUE" in said.stderr
    assert "2 values in one cell" in said.stderr and "reranker (none, oracle)" in said.stderr and not said.stdout
    assert "0." in shared_clir("table", str(sweep), "--rows", "retriever", "--agg", "mean").stdout
    assert "0." in shared_clir("table", str(sweep), "--rows", "retriever", "--where", "reranker=none").stdout


def test_a_diff_shows_both_values_and_the_keys_that_differ(shared_clir: Clir) -> None:
    one, two = shared_clir.experiment(), shared_clir.experiment("retriever.k1=1.2")
    said = shared_clir("diff", str(one), str(two)).stdout
    assert "retriever.k1: " in said and "-> 1.2\n" in said
    value = [
        next(float(r["value"]) for r in rows(f / "metrics.csv") if r["stage"] == "final" and r["measure"] == "AP")
        for f in (one, two)
    ]
    (line,) = [line for line in said.splitlines() if line.startswith("| AP ")]
    assert [cell.strip() for cell in line.split("|")][2:4] == [f"{v:.4f}" for v in value]
    (row,) = [
        r for r in json.loads(shared_clir("diff", str(one), str(two), "--json").stdout)["rows"] if r["measure"] == "AP"
    ]
    assert [row["A"], row["B"]] == value and row["wins"] + row["ties"] + row["losses"] == 36


# New ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dataset", "retriever", "reranker"])
def test_new_writes_a_yaml_that_composes_and_never_overwrites_one(clir: Clir, kind: str) -> None:
    path = clir.folder / clir("new", kind, "of_mine").stdout.strip()
    assert path == clir.folder / "configs" / kind / "of_mine.yaml"
    text = path.read_text()
    assert text.startswith(f"# clir run {kind}=of_mine")
    if kind == "dataset":
        refused = clir("plan", "dataset=of_mine", code=2).stderr
        assert "topics.en.tsv" in refused and "not exist" in refused, "composed; only the files are missing"
    else:
        assert "model owner/name" in clir("plan", f"{kind}=of_mine").stdout
    path.write_text("mine\n")
    assert "exists already" in clir("new", kind, "of_mine", code=2).stderr and path.read_text() == "mine\n"
    assert (clir.folder / clir("new", kind, "of_mine", "--config-dir", "elsewhere").stdout.strip()).read_text() == text


def test_new_says_what_it_can_make(shared_clir: Clir) -> None:
    assert "did you mean retriever" in shared_clir("new", "retreiver", "x", code=2).stderr
    assert "letters, digits" in shared_clir("new", "retriever", "../x", code=2).stderr


def test_a_collection_of_one_s_own_runs_end_to_end(clir: Clir) -> None:
    yaml = clir.folder / clir("new", "dataset", "tides").stdout.strip()
    yaml.write_text(
        yaml.read_text().replace("docs.{lang}.jsonl", "docs.{lang}.tsv").replace("doc_lang: de", "doc_lang: en")
    )
    (yaml.parent / "docs.en.tsv").write_text(
        "d1\tThe moon pulls the sea.\nd2\tBread needs flour and salt.\nd3\tThe sea is salt.\n"
    )
    (yaml.parent / "topics.en.tsv").write_text("q1\twhy does the moon move the sea\nq2\thow to bake bread\n")
    (yaml.parent / "qrels.en.txt").write_text("q1 0 d1 2\nq1 0 d3 0\nq2 0 d2 1\n")
    folder = clir.experiment("dataset=tides", "retriever=bm25")
    assert folder.parent.name == "tides.en-en"
    assert {r["measure"]: float(r["value"]) for r in rows(folder / "metrics.csv")}["nDCG@10"] == 1.0
    assert "tides.en-en" in clir("list").stdout


# Doctor ---------------------------------------------------------------------------------------------------------------


def test_doctor_is_quick_and_has_a_mend_for_everything_that_is_not_fine(clir: Clir) -> None:
    begun = time.monotonic()
    found = {c["name"]: c for c in json.loads(clir("doctor", "--json").stdout)}
    assert time.monotonic() - begun < 30
    assert {"python", "java", "lucene", "torch", "faiss", "apertium", "disk", "models", "hub"} <= set(found)
    assert all(c["mend"] for c in found.values() if c["status"] != "ok")
    assert found["hub"]["status"] == "note" and "offline" in found["hub"]["found"]
    if "no GPU" in found["torch"]["found"]:
        assert found["torch"]["status"] == "note"
    assert not clir.runs.exists(), "a look leaves nothing behind"


def test_doctor_fails_where_something_is_wrong(clir: Clir) -> None:
    clir.runs.write_text("a file where the folder should be")
    said = clir("doctor", code=1).stdout
    assert "wrong  disk" in said and "--runs names another place" in said and said.endswith("1 wrong: mend it first\n")


def test_doctor_meets_a_hub_out_of_reach(clir: Clir) -> None:
    said = clir(
        "doctor", env={"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    ).stdout
    assert "http://127.0.0.1:9 cannot be reached" in said and "copy model folders here" in said


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_models_that_are_not_here_are_named_with_both_ways_out(clir: Clir) -> None:
    failed = clir("run", "retriever=labse", "reranker=listwise", code=1, env={"HF_HOME": str(clir.folder)})
    for words in (
        "sentence-transformers/LaBSE",
        "castorini/rank_zephyr_7b_v1_full",
        "with a network",
        "without a network",
    ):
        assert words in failed.stderr
    assert not failed.stdout and "Traceback" not in failed.stderr


def test_in_a_sweep_a_missing_model_fails_its_cells_only(shared_clir: Clir) -> None:
    asked = ["retriever=labse,bm25_dt", "reranker=none,oracle"]
    done = shared_clir("run", "-m", *asked, code=1, env={"HF_HOME": str(shared_clir.folder)})
    cells = rows(Path(done.stdout.splitlines()[-1]) / "cells.csv")
    assert [(r["cell"], r["status"] == "failed") for r in cells] == [
        ("1", True),
        ("2", True),
        ("3", False),
        ("4", False),
    ]
    assert "cells 1, 2: failed: model sentence-transformers/LaBSE" in done.stdout and "without a network" in done.stdout


def test_cells_are_counted_alike_everywhere(clir: Clir) -> None:
    arguments = ["-m", "retriever=bm25,bm25_dt", "dataset.pair=en-sw", "llm=gpt,rank_zephyr"]
    assert "cells 1, 2: Lucene" in clir("plan", *arguments).stdout
    done = clir("run", *arguments, "--json", code=1)
    found = json.loads(done.stdout)
    assert [(c["cell"], c["status"]) for c in found["cells"]] == [
        (1, "invalid"),
        (2, "invalid"),
        (3, "done"),
        (4, "done"),
    ]
    assert "cell 4/4 demo.en-sw/bm25_dt: done" in done.stderr
    assert rows(Path(found["sweep"]) / "cells.csv")[2]["experiment"].startswith("demo.en-sw/bm25_dt-")
    quiet = clir("run", *arguments, "-q", code=1)
    assert quiet.stdout.splitlines()[:2] == ["-", "-"] and len(quiet.stdout.splitlines()) == 4
    assert "cells 1, 2: invalid: Lucene has no analyser" in quiet.stderr, "what failed is said, on stderr"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], "Did you mean 'run'"),
        (["run", "--quite"], "--quiet"),
        (["run", "retriever=bm52"], "did you mean bm25"),
        (["run", "retriever.k9=1", "retreiver=bm25"], "retriever"),
        (["configs", "retreiver"], "did you mean retriever"),
        (["configs", "retriever", "bm52"], "did you mean bm25"),
        (["evaluate", "x", "--topics", "relevent"], "relevant"),
        (["evaluate", "x", "--qrels", QRELS, "--measures", "NDGC@10"], "nDCG"),
        (["table", "x", "--format", "latx"], "latex"),
        (["table", "nowhere"], "nowhere"),
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["run", "-m", "--config", "x.yaml"], "neither -m"),
        (["run", "--zip", "dataset.pair,llm"], "add -m"),
        (["run", "-m", "--name", "a/b"], "letters, digits"),
        (["step", "nowhere"], "no request.json"),
        (["why", "only-one"], "Missing argument"),
    ],
)  # fmt: skip
def test_an_invalid_request_exits_2_and_names_what_is_near(shared_clir: Clir, arguments: list[str], words: str) -> None:
    failed = shared_clir(*arguments, code=2)
    assert words in failed.stderr and not failed.stdout and "Traceback" not in failed.stderr


def test_a_bug_is_one_line_and_its_traceback_is_asked_for(clir: Clir) -> None:
    (clir.runs / "demo.en-de" / "bm25-1").mkdir(parents=True)
    (clir.runs / "demo.en-de" / "bm25-1" / "manifest.json").write_text('{"made": 2026}')
    failed = clir("list", code=1)
    assert failed.stderr.startswith("clir: internal error: TypeError: 'int' object") and "--debug" in failed.stderr
    assert "Traceback" not in failed.stderr
    for arguments in (["list", "--debug"], ["--debug", "list"]):
        assert "Traceback" in clir(*arguments, code=1).stderr


def test_a_bug_in_one_cell_does_not_stop_a_sweep(clir: Clir) -> None:
    clir.experiment("retriever=bm25")
    (docs,) = (clir.runs / "steps" / "docs").glob("demo.de-*/docs.jsonl")
    docs.write_text("no documents any more\n" * 60)
    arguments = ["-m", "retriever=bm25", "retriever.analyser=whitespace", "dataset.pair=en-de,en-es"]
    done = clir("run", *arguments, code=1)
    folder = Path(done.stdout.splitlines()[-1])
    assert [r["status"] for r in rows(folder / "cells.csv")] == ["failed", "done"]
    assert "internal error" in done.stderr and "Traceback" not in done.stderr
    assert "Traceback" in clir("run", *arguments, "--debug", code=1).stderr


def test_what_a_disk_refuses_is_told_with_the_file_and_what_is_kept(clir: Clir) -> None:
    folder = clir.experiment("retriever=bm25")
    (clir.runs / "locks").rename(clir.runs / "moved")
    (clir.runs / "locks").write_text("a file where the folder should be")
    failed = clir("evaluate", str(folder), "--measures", "RR@10", code=1).stderr
    assert failed.startswith("clir: ") and str(clir.runs / "locks") in failed and "[Errno" not in failed
    assert "What is finished stays finished; mend the cause and give the same command again" in failed
    assert "Traceback" in clir("evaluate", str(folder), "--measures", "RR@10", "--debug", code=1).stderr


def test_a_sweep_whose_folder_cannot_be_written_says_what_became_of_its_cells(clir: Clir) -> None:
    arguments = ["-m", "retriever=bm25,labse"]
    env = {"HF_HOME": str(clir.folder)}
    cells = Path(clir("run", *arguments, code=1, env=env).stdout.splitlines()[-1]) / "cells.csv"
    cells.unlink()
    cells.mkdir()
    failed = clir("run", *arguments, code=1, env=env).stderr
    reason, _, refusal = failed.partition("2 cells: 1 cached, 1 failed\n")
    assert "cell 2: failed: model sentence-transformers/LaBSE" in reason
    assert refusal.startswith("clir: Is a directory: ") and f"What is finished stays finished in {clir.runs}" in refusal


def test_a_full_disk_and_a_read_only_one_have_a_way_out(tmp_path: Path) -> None:
    full = str(said(OSError(errno.ENOSPC, "No space left on device"), tmp_path))
    assert full.startswith(f"No space left on device: {tmp_path}\n") and "`clir cache`" in full
    locked = str(said(OSError(errno.EROFS, "Read-only file system", "/x/y.lock")))
    assert locked.startswith("Read-only file system: /x/y.lock\n") and "make the folder writable" in locked


def test_one_cell_is_not_called_cells(clir: Clir) -> None:
    assert "\n1 cell: 1 done\n" in f"\n{clir('run', '-m', 'retriever=bm25').stdout}"


def test_a_refused_request_has_a_traceback_only_with_debug(shared_clir: Clir) -> None:
    assert "Traceback" in shared_clir("run", "retriever=bm52", "--debug", code=2).stderr


def test_a_reader_that_has_seen_enough_is_no_error(shared_clir: Clir) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        shared_clir.command("configs"),
        cwd=shared_clir.folder,
        env=shared_clir.env(None),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.stderr == ""


def test_quiet_prints_the_folder_and_json_parses(shared_clir: Clir) -> None:
    quiet = shared_clir("run", "--quiet")
    assert quiet.stdout == f"{shared_clir.experiment()}\n" and quiet.stderr == ""
    found = json.loads(shared_clir("run", "--json").stdout)
    assert found["experiment"] == quiet.stdout.strip() and found["metrics"] == rows(
        Path(found["experiment"]) / "metrics.csv"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["configs"],
        ["run", "retriever=labse"],
        ["plan", "-m", "retriever=bm25", "dataset.pair=en-sw"],
        ["table", "--help"],
    ],
)
def test_on_a_terminal_no_line_wraps(clir: Clir, arguments: list[str]) -> None:
    lines = on_a_terminal(clir, *arguments)
    assert lines and max(map(len, lines)) <= 100, max(lines, key=len)


def test_a_narrow_list_gives_up_the_time_but_no_number(clir: Clir) -> None:
    folder = clir.experiment()
    short = f"runs/{folder.parent.name}/{folder.name}"
    (wide,) = on_a_terminal(clir, "list")
    _, made, *measured = wide.split()
    value = " ".join(measured)
    assert len(made) == 19 and wide.startswith(short)
    (day,) = on_a_terminal(clir, "list", columns=len(wide) - 1)
    assert day == f"{short}  {made[:10]}  {value}"
    (bare,) = on_a_terminal(clir, "list", columns=len(day) - 1)
    assert bare == f"{short}  {value}"
    (cut,) = on_a_terminal(clir, "list", columns=len(bare) - 1)
    assert len(cut) == len(bare) - 1 and cut.endswith(value) and key(folder) in cut


def on_a_terminal(clir: Clir, *arguments: str, columns: int = 100) -> list[str]:
    """The lines that a terminal of so many columns is given."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        clir.command(*arguments),
        cwd=clir.folder,
        env=clir.env({"COLUMNS": str(columns), "HF_HOME": "none"}),
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    heard = b""
    with contextlib.suppress(OSError):  # what Linux says when the other end of a terminal is closed
        while part := os.read(ours, 65536):
            heard += part
    os.close(ours)
    running.wait()
    return heard.decode().splitlines()
