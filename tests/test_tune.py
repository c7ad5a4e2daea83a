"""Settings are chosen on some topics and reported on others."""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
from pathlib import Path

import pytest
from conftest import Clir

import clir_cli.datasets
from clir_cli.errors import ConfigError
from clir_cli.store import Store
from clir_cli.tables.choosing import best, comparable, folds, held_out, value
from clir_cli.verbs.tune import tune
from clir_cli.verbs.tuned import Request

DE, FI = ("toy", "test", "en-de"), ("toy", "test", "en-fi")


def scored(**topics):
    return {DE: topics}


# Choosing --------------------------------------------------------------------------------------------------------------


def test_the_best_setting_is_that_of_the_highest_mean_over_language_pairs():
    few, many = (
        {DE: {"1": 1.0}, FI: {"1": 0.0, "2": 0.0, "3": 0.0}},
        {DE: {"1": 0.4}, FI: {"1": 0.4, "2": 0.4, "3": 0.4}},
    )
    assert (value(few), value(many)) == (0.5, 0.4)
    assert best({"many": many, "few": few}).setting == "few"


def test_of_equal_settings_the_first_is_chosen_and_the_others_are_counted():
    assert best({"a": scored(x=0.1), "b": scored(x=0.3), "c": scored(x=0.1 + 0.2)}) == ("b", 0.3, 1)


def test_a_setting_without_a_number_is_not_chosen():
    assert best({"a": scored(x=float("nan")), "b": scored(x=0.0)}).setting == "b"
    with pytest.raises(ConfigError, match="no setting has a value"):
        best({"a": scored(x=float("nan"))})


def test_settings_that_lack_a_topic_are_not_compared():
    full, odd = comparable({"a": scored(x=0.1, y=0.2), "b": scored(x=0.9)})
    assert (list(full), odd) == (["a"], ["b"])


def test_folds_are_seeded_even_and_keep_the_topics_of_several_pairs_together():
    ids = [str(i) for i in range(11)]
    scores = {
        DE: dict.fromkeys(ids, 0.0),
        FI: dict.fromkeys(ids[:7], 0.0),
        ("other", "", "en-de"): dict.fromkeys(ids, 0.0),
    }
    found = folds(scores, 3, seed=1)
    assert found == folds(scores, 3, seed=1) != folds(scores, 3, seed=2)
    assert len(found) == 22  # of toy's topics each once, whatever the pairs; those of another dataset are others
    for dataset in ("toy", "other"):
        sizes = [sum(fold == f for (d, _, _), fold in found.items() if d == dataset) for f in (1, 2, 3)]
        assert max(sizes) - min(sizes) <= 2
    with pytest.raises(ConfigError, match="8 folds need as many topics; toy test en-fi has 7"):
        folds(scores, 8, seed=1)


def test_each_topic_is_scored_by_a_choice_that_has_not_seen_it():
    # `a` is better on x only, and by much: whoever has seen x takes it, and only x is scored by another's choice
    candidates = {"a": scored(x=1.0, y=0.2, z=0.2), "b": scored(x=0.1, y=0.3, z=0.3)}
    chosen, scores = held_out(candidates, {("toy", "test", "x"): 1, ("toy", "test", "y"): 2, ("toy", "test", "z"): 3})
    assert [chosen[fold].setting for fold in (1, 2, 3)] == ["b", "a", "a"]
    assert [chosen[fold].value for fold in (1, 2, 3)] == pytest.approx([0.3, 0.6, 0.6])
    assert scores == scored(x=0.1, y=0.2, z=0.2)


# As a user calls it ----------------------------------------------------------------------------------------------------


def rows(path):
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def splits(shared_clir: Clir) -> list[str]:
    """The demo's topics as a dev and a test split."""
    demo = Path(clir_cli.datasets.__file__).parent / "demo"
    folder = shared_clir.folder / "halves"
    folder.mkdir(exist_ok=True)
    head, *topics = (demo / "topics.en.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    for split, part in (("dev", topics[:18]), ("test", topics[18:])):
        (folder / f"topics.{split}.tsv").write_text("".join([head, *part]), encoding="utf-8")
        ids = {line.split("\t")[0] for line in part}
        for lang in ("de", "es"):
            lines = (demo / f"qrels.{lang}.txt").read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.split()[0] in ids]
            (folder / f"qrels.{split}.{lang}.txt").write_text("".join(kept), encoding="utf-8")
    return [
        "dataset.label=halves", f"dataset.topics={folder}/topics.{{split}}.tsv", f"dataset.qrels={folder}/qrels.{{split}}.{{doc_lang}}.txt",
    ]  # fmt: skip


SETTINGS = ["retriever=bm25_dt", "retriever.k1=0.3,3", "retriever.b=0.1,0.9"]


def test_what_is_best_on_dev_is_reported_on_test_only(shared_clir: Clir, splits: list[str]) -> None:
    asked = [*splits, *SETTINGS, "dataset.pair=en-de,en-es", "--select", "MAP"]
    done = shared_clir("tune", "-m", *asked, "--on", "dataset.split=dev", "--report", "dataset.split=test", "--json")
    found = json.loads(done.stdout)
    (group,) = found["groups"]
    winner = max(group["dev"], key=group["dev"].get)
    assert len(group["dev"]) == 4 and len(set(group["dev"].values())) > 1
    assert [(c["setting"], c["value"]) for c in group["chosen"]] == [(winner, group["dev"][winner])]
    assert [(t["split"], t["pair"], t["topics"]) for t in group["test"]] == [
        ("test", "en-de", 18),
        ("test", "en-es", 18),
    ]
    tested = sorted(p.name for p in shared_clir.runs.glob("halves-test.en-de/bm25_dt*"))
    assert len(tested) == 1, "what was not chosen was not run on the test topics"
    run = [o for o in [*splits, *winner.split()] if not o.startswith("-")]
    alone = shared_clir.experiment("retriever=bm25_dt", *run, "dataset.split=test", "dataset.pair=en-de")
    value = next(
        float(r["value"]) for r in rows(alone / "metrics.csv") if (r["measure"], r["stage"]) == ("AP", "final")
    )
    assert group["test"][0]["value"] == pytest.approx(value)
    written = rows(Path(found["folder"]) / "tune.csv")
    assert [r["role"] for r in written] == ["dev"] * 4 + ["choice"] + ["test"] * 2
    assert "AP" in shared_clir("table", f"{found['folder']}/tuned", "--measure", "AP").stdout
    said = shared_clir("tune", "-m", *asked, "--on", "dataset.split=dev", "--report", "dataset.split=test").stdout
    assert f"| {winner} " in said and "AP of what was chosen (dataset.split=test):" in said
    assert re.search(rf"\| mean +\| {group['mean']:.4f} \|", said)


def test_folds_report_each_topic_by_a_choice_made_on_the_others(shared_clir: Clir) -> None:
    asked = ["tune", "-m", *SETTINGS, "dataset.pair=en-de,en-es", "--select", "nDCG@10", "--folds", "4", "--seed", "3"]
    found = json.loads(shared_clir(*asked, "--json").stdout)
    (group,) = found["groups"]
    assert [c["fold"] for c in group["chosen"]] == [1, 2, 3, 4]
    tuned = Path(found["folder"]) / "tuned"
    per_query = [r for r in rows(tuned / "per_query.csv") if r["measure"] == "nDCG@10"]
    assert len(per_query) == 72
    assert statistics.fmean(float(r["value"]) for r in per_query) == pytest.approx(group["mean"])
    assert "nDCG@10" in shared_clir("table", str(tuned)).stdout
    assert json.loads(shared_clir(*asked, "--json").stdout) == found, "the same seed, the same folds"


def test_a_language_pair_can_have_a_choice_of_its_own(shared_clir: Clir) -> None:
    asked = [
        "tune",
        "-m",
        *SETTINGS,
        "dataset.pair=en-de,en-es",
        "--select",
        "nDCG@10",
        "--folds",
        "2",
        "--by",
        "dataset.pair",
    ]
    groups = json.loads(shared_clir(*asked, "--json").stdout)["groups"]
    assert [g["group"] for g in groups] == ["dataset.pair=en-de", "dataset.pair=en-es"]
    assert all(len(g["dev"]) == 4 and [t["pair"] for t in g["test"]] == [g["group"][-5:]] for g in groups)


def test_topics_that_were_chosen_on_are_not_reported_on(shared_clir: Clir, splits: list[str]) -> None:
    asked = [*splits, *SETTINGS, "--select", "AP", "--on", "dataset.split=dev", "--report", "dataset.split=dev"]
    said = shared_clir("tune", "-m", *asked, code=2)
    assert "18 of 18 topics to report on were chosen on too, such as 't01'" in said.stderr and not said.stdout
    asked = ["--select", "AP", "--on", "dataset.pair=en-de", "--report", "dataset.pair=en-es"]
    said = shared_clir("tune", "-m", *SETTINGS, *asked, code=2)
    assert "36 topics to report on were chosen on too, such as 't01' of demo" in said.stderr, "on other documents"


def test_the_same_topics_and_judgments_under_another_name_are_not_reported_on(
    shared_clir: Clir, splits: list[str]
) -> None:
    demo = [*SETTINGS, "--select", "AP"]
    said = shared_clir(
        "tune", "-m", *demo, "--on", "dataset.split=dev", "--report", "dataset.split=test", code=2
    ).stderr
    assert "dataset.split=dev: no path holds {split}" in said, "the demo has no splits"
    before = sorted(shared_clir.runs.glob("steps/*/*"))
    said = shared_clir("tune", "-m", *demo, "--on", "dataset.label=a", "--report", "dataset.label=b", code=2).stderr
    assert "36 of 36 topics to report on were chosen on too, such as 't01': the files hold the same" in said
    for path in Path(splits[1].partition("=")[2]).parent.glob("*.dev.*"):
        shutil.copy(path, path.with_name(path.name.replace("dev", "copy")))
    copied = ["--on", "dataset.split=dev", "--report", "dataset.split=copy"]
    said = shared_clir("tune", "-m", *splits, *demo, *copied, code=2).stderr
    assert (
        "18 of 18 topics to report on were chosen on too" in said and "(dataset.split=dev; dataset.split=copy)" in said
    )
    assert sorted(shared_clir.runs.glob("steps/*/*")) == before, "nothing was run"


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request([], "AP"), "--on dataset.split=dev --report dataset.split=test, or --folds 5"),
        (Request([], "AP", on=["dataset.split=dev"]), "say on which topics to choose and on which to report"),
        (Request([], "AP", on=["dataset.split=dev"], folds=5), "--folds chooses and reports on the same topics"),
        (Request([], "AP", folds=1), "--folds 1: at least 2"),
        (Request([], "nDGC@10", folds=5), "did you mean nDCG"),
        (Request([], "AP", folds=5), "there is one setting only: nothing to choose"),
        (Request(["dataset.pair=en-de,en-es"], "AP", folds=5), "there is one setting only: nothing to choose"),
        (Request(["retriever.k1=1,2"], "AP", folds=5, by=["retriever"]), "--by retriever is no axis of this sweep; there are: retriever.k1"),
    ],
)  # fmt: skip
def test_a_request_that_leaves_nothing_to_choose_is_refused_before_anything_runs(request_, said, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(said)):
        tune(request_, Store(tmp_path))
    assert not list(tmp_path.glob("steps/*"))


def test_more_folds_than_topics_and_settings_that_cannot_run_are_refused(shared_clir: Clir) -> None:
    asked = ["tune", "-m", "--select", "AP", "--folds", "99", *SETTINGS]
    assert "99 folds need as many topics; demo en-de has 36" in shared_clir(*asked, code=2).stderr
    asked = [
        "tune",
        "-m",
        "retriever=bm25_dt,run_file",
        "retriever.path=nowhere.trec",
        "--select",
        "AP",
        "--folds",
        "2",
    ]
    assert "nowhere.trec" in shared_clir(*asked, code=2).stderr
    assert "--select MEASURE" in shared_clir("tune", "-m", *SETTINGS, "--folds", "2", code=2).stderr
