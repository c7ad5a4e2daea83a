"""The core study (Zuo et al. 2025) as configurations: its grid, and how what was published differs from what is right."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Clir

from clir_cli import compose
from clir_cli.launchers import jobs
from clir_cli.plan import Plan, planned
from clir_cli.store import Store
from clir_cli.verbs import planning

PUBLISHED = yaml.safe_load(compose.choices("experiment")["zuo2025/published"].read_text("utf-8"))
HABITS = next(d["override /quirk"] for d in PUBLISHED["defaults"] if isinstance(d, dict) and "override /quirk" in d)
SAME_IN_BOTH = {"whitespace_african"}  # Lucene has no analyser for these languages: no fault, but a choice
TRANSLATED = "translator=provided"  # the demo's own
RETRIEVERS = ("bm25_dt", "me5_large", "bge_m3", "repllama")
RERANKERS = ("none", "rank_zephyr", "rank_gpt", "prp_llama31")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The whole study, planned on a machine that has none of its collections and models."""
    with pytest.MonkeyPatch.context() as here:
        here.delenv("CLIR_CLEF", raising=False)
        here.setenv("CLIR_OFFLINE", "1")
        folder = tmp_path_factory.mktemp("study")
        here.setenv("CLIR_DATA", str(folder / "data"))
        here.setenv("HF_HUB_CACHE", str(folder / "models"))
        return planned(compose.cells(["sweep=zuo2025"], multirun=True), Store(folder / "runs", eager=False))


def flat(node: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {name: node}
    return {k: v for key, value in node.items() for k, v in flat(value, f"{name}.{key}".strip(".")).items()}


def composed(experiment: str, *overrides: str) -> dict[str, Any]:
    """The values of a configuration, without its names and labels."""
    translated = [] if any(o.startswith("translator=") for o in overrides) else [TRANSLATED]
    (cell,) = compose.cells([f"experiment=zuo2025/{experiment}", *translated, *overrides])
    return {k: v for k, v in flat(cell.plain).items() if not k.startswith(("names.", "labels."))}


# The grid


def test_the_grid_has_13_pairs_8_first_stages_and_11_second_ones(grid: Plan) -> None:
    cells = [item.cell.plain for item in grid.cells]
    assert len(cells) == 13 * 8 * (1 + 5 * 2) == 1144
    assert [item.error for item in grid.cells] == [None] * 1144 and not any(item.same_as for item in grid.cells)
    pairs = Counter((c["names"]["dataset"], c["dataset"]["query_lang"], c["dataset"]["doc_lang"]) for c in cells)
    assert set(pairs.values()) == {88} and Counter(name for name, _, _ in pairs) == {"clef2003": 9, "ciral": 4}
    firsts = Counter(c["names"]["retriever"] for c in cells)
    assert set(firsts.values()) == {143} and len(firsts) == 8
    seconds = Counter((c["names"]["reranker"], c["labels"]["llm"], c["rerank"]["doc"]) for c in cells)
    assert set(seconds.values()) == {104} and len(seconds) == 11
    fused = Counter((c["names"]["dataset"], *c["retriever"]["parts"]) for c in cells if "parts" in c["retriever"])
    assert fused == {("clef2003", "bm25_dt", "nv_embed_v2"): 99, ("ciral", "bm25_dt", "bge_m3"): 44}


def test_what_is_left_out_is_named(grid: Plan) -> None:
    assert Counter(cell.skipped for cell in grid.skipped) == {
        "skip reranker=none rerank.doc=query_lang": 117,
        "skip dataset=clef2003 retriever.parts=[bm25_dt,bge_m3]": 99,
        "skip dataset=ciral retriever.parts=[bm25_dt,nv_embed_v2]": 44,
    }


def test_1144_cells_are_1310_steps(grid: Plan) -> None:
    """Four CLEF collections, four of CIRAL and their four translations; a hybrid costs its fusion alone."""
    assert Counter(step.stage for step in grid.steps) == {
        "docs": 12, "topics": 13, "translate": 80, "index": 61, "retrieve": 91, "fuse": 13, "rerank": 1040,
    }  # fmt: skip
    assert max(grid.shared().values()) == 264, "Russian documents are in three pairs"


def test_a_judge_is_loaded_a_few_times_and_not_208(grid: Plan) -> None:
    count = jobs.count(jobs.jobs(grid))
    assert count["model_loads"] == count["gpu_jobs"] == LOADS and count["jobs"] == JOBS
    asked = {row.model: (row.steps, row.per_query) for row in planning.asked(grid)}
    assert asked == {
        "castorini/rank_zephyr_7b_v1_full": (208, 9), "gpt-3.5-turbo": (208, 9), "gpt-4.1": (208, 9),
        "CohereLabs/aya-101": (208, 1890), "meta-llama/Llama-3.1-8B-Instruct": (208, 1890),
    }  # fmt: skip


JOBS, LOADS = 485, 30  # by the jobs that launchers/jobs.py makes of them unless told otherwise


def test_the_plan_says_what_data_is_missing_and_how_to_get_it(grid: Plan) -> None:
    said = planning.text(grid)
    assert "ELRA-E0008" in said and "1144 cells, 1144 experiments" in said and "1310 steps: 0 done" in said
    assert "9 a query" in said and "1,890 a query" in said, "nobody knows the number of topics yet"
    assert len(said.splitlines()) < 50


# Published and corrected


@pytest.mark.parametrize("retriever", RETRIEVERS)
@pytest.mark.parametrize("reranker", RERANKERS)
def test_published_differs_from_corrected_by_its_habits_alone(retriever: str, reranker: str) -> None:
    chosen = [f"retriever={retriever}", f"reranker={reranker}"]
    corrected, published = composed("corrected", *chosen), composed("published", *chosen)
    differ = {k for k in corrected | published if corrected.get(k) != published.get(k)}
    said = {
        key
        for name in set(HABITS) - SAME_IN_BOTH
        for key in flat({k: v for k, v in quirk(name).items() if k != "when"})
    }
    assert differ <= said | {f"reranker.{key}" for key in said}, differ - said
    assert {"retrieve.depth", "evaluate.topics"} <= differ


def quirk(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(compose.choices("quirk")[name].read_text("utf-8"))
    return found


@pytest.mark.parametrize("name", HABITS)
def test_every_habit_can_be_switched_alone(name: str) -> None:
    beside = [
        w
        for w in compose.description(compose.choices("quirk")[name])[0].split()
        if w.startswith(("retriever", "reranker", "translator"))
    ]
    if name in SAME_IN_BOTH:
        beside += ["dataset=ciral", "dataset.pair=en-sw"]
    corrected, alone = composed("corrected", "quirk=null", *beside), composed("corrected", f"quirk={name}", *beside)
    differ = {k for k in corrected | alone if corrected.get(k) != alone.get(k)}
    assert differ and differ <= {
        f"{node}{key}"
        for key in flat({k: v for k, v in quirk(name).items() if k != "when"})
        for node in ("", "reranker.")
    }


def test_a_habit_stands_in_the_label_of_what_it_changes_and_nowhere_else() -> None:
    (cell,) = compose.cells(["experiment=zuo2025/published", TRANSLATED, "retriever=me5_large", "reranker=prp_llama31"])
    assert cell.plain["labels"]["retriever"] == "me5_large[quirk=e5_no_prefix+encoder_text_only]"
    assert cell.plain["labels"]["reranker"].startswith("prp_llama31[quirk=text_only+k10_pairwise+written_pairs")
    (cell,) = compose.cells(["experiment=zuo2025/published", TRANSLATED, "retriever=bm25_dt"])
    assert (cell.plain["labels"]["retriever"], cell.plain["labels"]["reranker"]) == ("bm25_dt", "none")


def test_a_habit_of_the_translator_stands_in_the_labels_of_the_stages_that_translate() -> None:
    def labels(*overrides: str) -> list[str]:
        asked = ["experiment=zuo2025/published", "reranker=prp_aya101", *overrides]
        (cell,) = compose.cells(asked)
        return ["punkt_unused" in cell.plain["labels"][part] for part in ("retriever", "reranker")]

    assert labels("retriever=bm25_dt", "rerank.doc=query_lang") == [True, True]
    assert labels("retriever=bge_m3", "rerank.doc=query_lang") == [False, True]
    assert labels("retriever=bge_m3", "rerank.doc=original") == [False, False]
    assert labels("retriever=bm25_dt", TRANSLATED) == [False, False], "human translations have no sentences to cut"


def test_clef_s_titles_stay_in_the_text_and_ciral_s_do_not() -> None:
    for dataset, fields in (("clef2003", None), ("ciral", ["text"])):
        pair = "dataset.pair=en-" + {"clef2003": "de", "ciral": "sw"}[dataset]
        found = composed("published", f"dataset={dataset}", pair, "retriever=me5_large", "reranker=rank_zephyr")
        assert found["retrieve.doc_fields"] == found["rerank.doc_fields"] == fields
    found = composed("published", "dataset=ciral", "dataset.pair=en-sw", "retriever=repllama", "reranker=rank_zephyr")
    assert found["retrieve.doc_fields"] is None, "RepLLaMA and BM25 read the title"


def test_why_and_diff_name_the_habit_that_two_runs_differ_in(clir: Clir) -> None:
    """Both run here, on the demo: the study's BM25 with and without the documents' titles."""
    asked = ["experiment=zuo2025/corrected", TRANSLATED, "retriever=bm25_dt", "dataset.pair=en-de"]
    folders = clir("run", "--quiet", "-m", *asked, "quirk=null,top_100").stdout.split()
    corrected, habit = (str(Path(folder)) for folder in folders)
    assert "depth: 1000 -> 100" in clir("why", corrected, habit).stdout
    assert (
        "top_100" in (Path(habit) / "config.yaml").read_text()
        and "top_100" not in (Path(corrected) / "config.yaml").read_text()
    )
    said = clir("diff", corrected, habit, code=2).stderr
    assert "depth" in said, "other depths are refused unless told"
