"""Sweeps: which cells a request means, what they have in common, what they will cost, and that ten thousand stay cheap."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Clir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clir_cli import compose, composition, config, grid
from clir_cli import plan as plans
from clir_cli.compose import Cell
from clir_cli.errors import ConfigError
from clir_cli.store import Store
from clir_cli.verbs import planning

GROUPS = ("dataset", "translator", "llm", "prompt", "retriever", "reranker", "experiment")
CHOICES = {  # the core study's have quirks, and those are laid over the rest by clir itself
    group: [*(name for name in compose.choices(group) if "/" not in name), "null"] for group in GROUPS
}


def said(cells: Sequence[Cell], *keys: str) -> list[tuple[Any, ...]]:
    """The values of some keys in every cell that is not skipped."""
    return [tuple(value(cell, key) for key in keys) for cell in cells if not cell.skipped]


def value(cell: Cell, key: str) -> Any:
    node: Any = cell.plain["names"] if key in GROUPS else cell.plain
    for name in key.split("."):
        node = node[name]
    return node


def sweep(folder: Path, text: str, *overrides: str, zips: Sequence[str] = ()) -> list[Cell]:
    """The cells of a user's sweep yaml."""
    (folder / "sweep").mkdir(parents=True, exist_ok=True)
    (folder / "sweep" / "mine.yaml").write_text(f"# clir plan -m sweep=mine\n# A sweep for a test\n{text}")
    return compose.cells(["sweep=mine", *overrides], True, zips, [folder])


# Composing once per combination of group choices is what Hydra composes


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional={group: st.sampled_from(CHOICES[group]) for group in GROUPS}), st.booleans())
def test_group_choices_compose_to_what_hydra_composes(chosen: dict[str, str], more: bool) -> None:
    from hydra import compose as hydra_compose
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    groups = [f"~{g}" if name == "null" else f"{g}={name}" for g, name in chosen.items()]
    groups += ["+retrieve.extra=1", "~retrieve.depth"] if more else []
    with composition.hydra(compose.folders()) as loader:
        ours, parser = composition.Yamls(loader), OverridesParser.create(config_loader=loader)
        try:
            whole = hydra_compose("config", overrides=groups, return_hydra_config=True)
            names = {k: str(v or "none") for k, v in whole.hydra.runtime.choices.items() if k in GROUPS}
            OmegaConf.set_struct(whole, False)
            whole.pop("hydra")
            resolved = OmegaConf.to_container(whole, resolve=True)
        except (HydraException, OmegaConfBaseException):
            with pytest.raises((HydraException, OmegaConfBaseException, ConfigError)):
                ours.composed(parser.parse_overrides(groups))
            return
        found = ours.composed(parser.parse_overrides(groups))
    assert found.unresolved == OmegaConf.to_container(whole, resolve=False)
    assert found.resolved == resolved
    assert {g: found.names[g] for g in names} == names


def test_yamls_are_read_once_however_many_combinations_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf

    read, load = list[str](), OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", lambda file: (read.append(str(getattr(file, "name", file))), load(file))[1])
    compose.cells(["retriever=bm25,bm25_dt,labse", "reranker=none,listwise,setwise,rank_zephyr"], multirun=True)
    ours = [name for name in read if "/configs/" in name]
    assert len(ours) == len(set(ours)) > 10


# The grammar


def test_lists_ranges_choices_and_globs_make_axes() -> None:
    cells = compose.cells(
        [
            "retriever=glob(bm25_?t)",
            "retrieve.depth=range(10,30,10)",
            "retriever.k1=choice(0.9,1.2)",
            "rerank.depth=5,6",
        ],
        True,
    )
    assert len(cells) == 16
    assert set(said(cells, "retriever", "retrieve.depth", "retriever.k1")) == set(
        itertools.product(("bm25_dt", "bm25_qt"), (10, 20), (0.9, 1.2))
    )


def test_several_zips_pair_several_axes() -> None:
    cells = compose.cells(
        ["dataset.pair=en-de,de-en", "retriever=bm25,bm25_dt", "retrieve.depth=10,20", "rerank.depth=1,2", "retriever.b=0.1,0.2"],
        True, ["dataset.pair,retriever", "retrieve.depth,rerank.depth"],
    )  # fmt: skip
    found = said(cells, "dataset.query_lang", "retriever", "retrieve.depth", "rerank.depth", "retriever.b")
    assert len(found) == 8
    assert {row[:2] for row in found} == {("en", "bm25"), ("de", "bm25_dt")} and {row[2:4] for row in found} == {
        (10, 1),
        (20, 2),
    }


# Sweep yamls

GRID = """
overrides: {retrieve.depth: 50}
axes:
  pair:
    - {dataset: demo, dataset.pair: [en-de, de-en, sw-de]}
  retriever: [bm25, bm25_dt]
  rerank.depth: range(5,15,5)
constraints:
  - {skip: {retriever: bm25_dt, dataset.pair: sw-de}}
"""


def test_a_sweep_s_yaml_gives_axes_defaults_and_what_is_left_out(tmp_path: Path) -> None:
    cells = sweep(tmp_path, GRID)
    found = said(cells, "dataset.query_lang", "retriever", "retrieve.depth", "rerank.depth")
    assert len(cells) == 12 and len(found) == 10
    assert ("sw", "bm25", 50, 10) in found and not any(row[:2] == ("sw", "bm25_dt") for row in found)
    (why,) = {cell.skipped for cell in cells if cell.skipped}
    assert why == "skip retriever=bm25_dt dataset.pair=sw-de"


def test_the_command_line_restricts_an_axis_or_takes_its_place(tmp_path: Path) -> None:
    def of(*overrides: str) -> set[tuple[Any, ...]]:
        return set(said(sweep(tmp_path, GRID, *overrides), "dataset.query_lang", "dataset.doc_lang", "retrieve.depth"))

    assert of("retrieve.depth=7,8") == set(itertools.product(("en", "de", "sw"), ("de", "en"), (7, 8))) - {
        ("en", "en", d) for d in (7, 8)
    } - {("de", "de", d) for d in (7, 8)} - {("sw", "en", d) for d in (7, 8)}
    assert of("dataset.pair=de-en,en-de") == {("en", "de", 50), ("de", "en", 50)}, "values of the axis restrict it"
    assert of("dataset.pair=en-es") == {("en", "es", 50)}, "another value takes its place"
    assert {row[0] for row in said(sweep(tmp_path, GRID, "retriever=labse"), "retriever")} == {"labse"}


TOGETHER = """
axes:
  first_stage:
    - {retriever: [bm25, bm25_dt]}
    - {retriever: hybrid, retriever.parts: [[bm25_qt, bm25_dt]]}
"""


def test_a_choice_that_an_axis_does_not_have_comes_without_the_keys_of_another(tmp_path: Path) -> None:
    cells = sweep(tmp_path, TOGETHER, "retriever=bm25,labse")
    assert said(cells, "retriever") == [("bm25",), ("labse",)] and not any(cell.dropped for cell in cells)
    cells = sweep(tmp_path, TOGETHER, "retriever.k=10", "retriever=hybrid")
    assert said(cells, "retriever", "retriever.k") == [("hybrid", 10)]
    cells = sweep(tmp_path, TOGETHER, "retriever.parts=[bm25_dt,bm25]")
    assert [cell.dropped for cell in cells] == [("retriever.parts=[bm25_dt,bm25]",)] * 2 + [()], "it holds everywhere"


def test_axes_of_a_yaml_can_be_zipped_there_and_on_the_command_line(tmp_path: Path) -> None:
    text = "axes: {retriever: [bm25, bm25_dt], retrieve.depth: [10, 20]}\n"
    zipped = {("bm25", 10), ("bm25_dt", 20)}
    assert (
        set(said(sweep(tmp_path, text + "zip: [[retriever, retrieve.depth]]"), "retriever", "retrieve.depth")) == zipped
    )
    cells = sweep(tmp_path, text, zips=["retriever,retrieve.depth"])
    assert set(said(cells, "retriever", "retrieve.depth")) == zipped
    cells = sweep(tmp_path, text + "zip: [[retriever, retrieve.depth]]", "retriever=labse")
    assert set(said(cells, "retriever", "retrieve.depth")) == {("labse", 10), ("labse", 20)}


def test_values_of_a_yaml_are_spelled_as_the_command_line_spells_them(tmp_path: Path) -> None:
    text = """
axes:
  retriever: [{retriever: hybrid, retriever.parts: [[bm25_qt, bm25_dt]]}]
  retrieve.query_fields: [null, [title], [title, description]]
  dataset.label: ["a b", 'say "x"', "07", plain-1]
"""
    cells = sweep(tmp_path, text)
    assert len(cells) == 12
    assert {tuple(v) if v else v for (v,) in said(cells, "retrieve.query_fields")} == {
        None,
        ("title",),
        ("title", "description"),
    }
    assert {row[0] for row in said(cells, "labels.dataset")} == {"a b", 'say "x"', "07", "plain-1"}
    assert {tuple(row[0]) for row in said(cells, "retriever.parts")} == {("bm25_qt", "bm25_dt")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("axes: [retriever]", "axes is a mapping"), ("axes: {retriever: []}", "must be a list of values"),
        ("grid: {}", "a sweep has axes, zip, constraints, overrides; got grid"), ("axes: {retriever: [bm52]}", "did you mean bm25"),
        ("constraints: [{if: {a: b}}]", "a constraint is {skip: {key: value}"), ("constraints: {skip: 1}", "must be a list"),
        ("axes: {retriever: [bm25, bm25_dt], rerank.depth: [1]}\nzip: [[retriever, rerank.depth]]", "different lengths"),
        ("axes: {a: [", "is not yaml"), ("axes: {retreiver: [bm25]}", "did you mean retriever"),
    ],
)  # fmt: skip
def test_a_faulty_yaml_is_refused_with_its_name_and_what_is_valid(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep(tmp_path, text)
    assert words in str(caught.value)


def test_a_sweep_needs_m_and_a_name_that_exists() -> None:
    with pytest.raises(ConfigError, match="add -m"):
        compose.cells(["sweep=zuo2025"])
    with pytest.raises(ConfigError, match="did you mean zuo2025"):
        compose.cells(["sweep=zuo2052"], True)


# Constraints


def test_a_constraint_may_have_lists_exceptions_and_opposites() -> None:
    plain, names = (
        {"rerank": {"doc": "query_lang"}, "dataset": {"query_lang": "en", "doc_lang": "de"}},
        {"reranker": "none"},
    )
    for said_so, applies in (
        ({"skip": {"reranker": ["none", "listwise"]}}, True), ({"skip": {"reranker": {"not": "none"}}}, False),
        ({"skip": {"reranker": {"not": ["a", "b"]}, "rerank.doc": "query_lang"}}, True),
        ({"skip": {"reranker": "none"}, "unless": {"dataset.pair": "en-de"}}, False),
        ({"skip": {"reranker": "none"}, "unless": {"dataset.pair": ["en-fi", "en-it"]}}, True),
        ({"skip": {"no.such.key": None}}, True),
    ):  # fmt: skip
        (constraint,) = grid.constraints([said_so], "x")
        assert constraint.applies(plain, names) == applies, str(constraint)
    (constraint,) = grid.constraints([{"skip": {"a": ["x", "y"]}, "unless": {"b": {"not": 1}}}], "x")
    assert str(constraint) == "skip a=x|y unless b!=1"


def test_an_experiment_s_constraints_leave_cells_of_its_sweeps_out_and_no_single_request(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# clir run experiment=mine\n# one\nconstraints: [{skip: {retriever: bm25, rerank.depth: 5}}]\n"
    )
    asked = ["experiment=mine", "retriever=bm25,bm25_dt", "rerank.depth=5,6"]
    cells = compose.cells(asked, True, config_dirs=[tmp_path])
    assert [bool(cell.skipped) for cell in cells] == [True, False, False, False]
    (cell,) = compose.cells(["experiment=mine", "retriever=bm25", "rerank.depth=5"], config_dirs=[tmp_path])
    assert not cell.skipped and "constraints" not in cell.plain


def test_what_is_left_out_stands_in_the_plan_its_json_and_cells_csv(clir: Clir) -> None:
    (clir.folder / "configs" / "sweep").mkdir(parents=True)
    (clir.folder / "configs" / "sweep" / "mine.yaml").write_text(
        "# clir plan -m sweep=mine\n# A sweep\naxes: {retriever: [bm25_dt, bm25_qt], retrieve.depth: [5, 10]}\n"
        "constraints: [{skip: {retriever: bm25_qt, retrieve.depth: 10}}]\n"
    )
    why, whole = "skip retriever=bm25_qt retrieve.depth=10", "retriever=bm25_qt retrieve.depth=10"
    assert "sweep=mine" in clir("configs", "sweep").stdout
    assert f"1 combination left out: {why}" in clir("plan", "-m", "sweep=mine").stdout
    found = json.loads(clir("plan", "-m", "sweep=mine", "--json").stdout)
    assert len(found["cells"]) == 3 and found["skipped"] == [{"overrides": whole.split(), "constraint": why}]
    clir("run", "-m", "sweep=mine", "--name", "x")
    (folder,) = (clir.runs / "sweeps").iterdir()
    rows = list(csv.DictReader((folder / "cells.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["done", "done", "done", "skipped"]
    assert (rows[3]["cell"], rows[3]["overrides"], rows[3]["error"]) == ("4", whole, why)
    assert json.loads((folder / "plan.json").read_text())["skipped"] == found["skipped"]


# What a plan says


def request(*overrides: str, root: Path, many: bool = True) -> plans.Plan:
    return plans.planned(compose.cells(overrides, many), Store(root, eager=False))


def test_a_plan_of_many_steps_counts_them_by_stage_and_full_lists_them(tmp_path: Path) -> None:
    depths = "rerank.depth=range(10,40,1)"
    plan = request("retriever=bm25_dt,bm25_qt", "reranker=none,bge_reranker", depths, root=tmp_path)
    lines = planning.text(plan).splitlines()
    assert lines[0].split() == ["stage", "steps", "missing", "undecided", "GPU", "cells", "each"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:8] if " steps: " not in line}
    assert rows["retrieve"] == ["2", "2", "31"] and rows["rerank"] == ["60", "60", "60", "1"]
    assert "69 steps: 0 done, 69 to make" in lines and "120 cells, 62 experiments" in lines
    assert any("BAAI/bge-reranker-v2-m3: not known on this machine yet" in line for line in lines)
    assert any(
        line.endswith("each the same as an earlier cell (2 as 1, 3 as 1, 4 as 1, ...)") or "the same as" in line
        for line in lines
    )
    assert len(lines) < 30 and len(planning.text(plan, full=True).splitlines()) > 69


def test_what_language_models_are_asked_at_most_is_calls_times_queries_times_the_longest_prompt(tmp_path: Path) -> None:
    plan = request("reranker=rank_zephyr,prp_llama31,rank_gpt", "dataset.pair=en-de,en-es", root=tmp_path)
    zephyr, llama, gpt = planning.asked(plan)
    queries = 36  # of the demo, judged
    assert (zephyr.model, zephyr.steps, zephyr.calls) == ("castorini/rank_zephyr_7b_v1_full", 2, 2 * 9 * queries)
    assert zephyr.tokens == zephyr.calls * 4096 and zephyr.gpus == 1, "passages as long as its context allows"
    assert llama.calls == 2 * 1890 * queries
    assert llama.tokens == llama.calls * (2 * (300 + planning.MARK) + 128 + planning.INSTRUCTIONS), "two of 300 tokens"
    assert (gpt.calls, gpt.gpus, gpt.unknown) == (2 * 9 * queries, 0, 0)
    assert f"{zephyr.calls:,}" in planning.text(plan) and "GPU" in planning.text(plan)


def test_a_bound_s_instructions_hold_those_of_every_prompt() -> None:
    """Tokens are at most as many as bytes in every vocabulary that has bytes; English ones a fourth of it."""
    from clir_cli.types import Shown

    users = {"grade": "pointwise", "pick": "setwise", "write_query": "query_likelihood"}
    for name in compose.choices("prompt"):
        (cell,) = compose.cells([f"prompt={name}", f"reranker={users.get(name, 'listwise')}"])
        passages = [Shown("", "de")] * (1 if name in {"grade", "write_query"} else 20)
        texts = config.built(cell.plain).reranker.prompt.messages(Shown("", "en"), passages)
        assert sum(len(m.content.encode()) for m in texts) / 4 < planning.INSTRUCTIONS + len(passages) * planning.MARK


def test_a_sweep_is_planned_before_its_data_is_here_and_a_single_request_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLIR_CLEF", raising=False)
    clef = ["dataset=clef2003", "translator=nllb_1_3b"]
    plan = request(*clef, "dataset.pair=en-de,en-fi,de-fi", "retriever=bm25_dt,bm25_qt", root=tmp_path)
    assert [item.error for item in plan.cells] == [None] * 6
    assert [step.stage for step in plan.steps].count("docs") == 2, "de and fi, whatever the topics' language"
    said = planning.text(plan)
    assert "ELRA-E0008" in said and "dataset.path=/that/folder" in said
    (single,) = request(*clef, "dataset.pair=en-de", root=tmp_path).cells
    assert "ELRA-E0008" in str(single.error)
    gone = [
        "dataset=files",
        "dataset.docs=gone.tsv",
        "dataset.topics=t.tsv",
        "dataset.qrels=q.txt",
        "dataset.query_lang=en",
    ]
    plan = request(*gone, "dataset.doc_lang=de,fi", "retriever=bm25", root=tmp_path)
    assert "gone.tsv is not here: to be fingerprinted" in planning.text(plan)


def test_equal_cells_dropped_overrides_and_errors_are_told_on_a_line_each(tmp_path: Path) -> None:
    plan = request("retriever=bm25_dt,labse", "retriever.k1=0.9,1.2", "dataset.pair=en-de,en-sw", root=tmp_path)
    lines = planning.text(plan).splitlines()
    assert "cells 5, 6: dropped retriever.k1=0.9, which the component does not have" in lines
    assert "cell 7: the same as cell 5" in lines and "8 cells, 6 experiments" in lines


# Scale: work grows with the cells, not with their square


def calls(action: Callable[[], Any]) -> tuple[int, Any]:
    """How many functions of ours an action calls, and what it gives."""
    count = 0

    def seen(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call" and "clir_cli" in frame.f_code.co_filename

    sys.setprofile(seen)
    try:
        found = action()
    finally:
        sys.setprofile(None)
    return count, found


def test_twice_the_cells_are_twice_the_work(tmp_path: Path) -> None:
    def request(n: int) -> tuple[int, int, int]:
        asked = ["retriever=bm25_dt,bm25_qt", "reranker=bge_reranker,rank_zephyr", f"rerank.depth=range(1,{n + 1})"]
        composing, cells = calls(lambda: compose.cells(asked, True))
        building, plan = calls(lambda: plans.planned(cells, Store(tmp_path, eager=False)))
        telling, _ = calls(lambda: (planning.text(plan), planning.record(plan)))
        return composing, building, telling

    request(2)  # what is remembered for good
    once, twice = request(20), request(40)
    for few, many in zip(once, twice, strict=True):
        assert many < 2.2 * few, (once, twice)


def test_a_cell_takes_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    asked = ["retriever=bm25_dt,bm25_qt", "reranker=bge_reranker,rank_zephyr", "rerank.depth=range(1,41)"]
    compose.cells(asked[:2], True)
    tracemalloc.start()
    plan = plans.planned(compose.cells(asked, True), Store(tmp_path, eager=False))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(plan.cells) < 100_000, "10,000 cells in 1 GB"


# Quirks


def labels(*overrides: str) -> dict[str, str]:
    (cell,) = compose.cells(overrides)
    return config.built(cell.plain).labels


def test_several_quirks_stand_in_a_list_and_mark_what_they_change() -> None:
    both = labels("retriever=me5_large", "reranker=rank_zephyr", "quirk=[e5_no_prefix,words_truncation,top_100]")
    assert both["retriever"] == "me5_large[quirk=e5_no_prefix]", "top_100 changes the depth, which is a column"
    assert both["reranker"] == "rank_zephyr[quirk=words_truncation]"
    (cell,) = compose.cells(["reranker=rank_zephyr", "quirk=[top_100]", "retrieve.depth=70"])
    assert cell.plain["retrieve"]["depth"] == 70, "the command line has the last word"


def test_a_quirk_that_is_for_something_else_is_refused_and_in_a_sweep_dropped() -> None:
    with pytest.raises(ConfigError, match=r"quirk=e5_no_prefix changes nothing here: it is for retriever=me5_small"):
        compose.cells(["retriever=bm25_dt", "quirk=e5_no_prefix"])
    plain, own = compose.cells(["retriever=bm25_dt,me5_large", "quirk=e5_no_prefix"], True)
    assert (plain.dropped, own.dropped) == (("quirk=e5_no_prefix",), ())
    assert plain.plain["names"]["quirk"] == "none"


def test_a_part_of_a_hybrid_has_its_quirk() -> None:
    (cell,) = compose.cells(["retriever=hybrid", "retriever.parts=[bm25_dt,me5_large]", "quirk=e5_no_prefix"])
    lexical, dense = config.built(cell.plain).parts
    assert dense.retriever.query_prefix == "" and dense.labels["retriever"] == "me5_large[quirk=e5_no_prefix]"
    assert lexical.labels["retriever"] == "bm25_dt"
