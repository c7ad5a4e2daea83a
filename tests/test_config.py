"""From one line to a frozen configuration: what composes, what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from clir_cli import compose, config
from clir_cli.errors import ConfigError, LanguageError
from clir_cli.plan import planned
from clir_cli.retrievers.bm25 import BM25
from clir_cli.store import Store

GROUPS = [
    p.name for p in compose.packaged().iterdir() if p.is_dir() and p.name != "target"
]  # targets: test_reproduction.py


def one(*overrides: str, dirs: tuple[Path, ...] = ()) -> config.Config:
    (cell,) = compose.cells(overrides, config_dirs=dirs)
    return config.built(cell.plain)


def refused(*overrides: str, multirun: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        compose.cells(overrides, multirun)
    return str(caught.value)


NEEDS = {  # what a choice cannot be composed without
    "dataset/files": ["dataset.docs=d.tsv", "dataset.topics=t.tsv", "dataset.query_lang=en", "dataset.doc_lang=yo"],
    "dataset/bitext": ["dataset.texts=t.{lang}", "dataset.pair=de-en"],
    "dataset/hub": ["dataset.repo=a/b", "dataset.docs=d", "dataset.topics=t", "dataset.query_lang=en", "dataset.doc_lang=de"],
    "dataset/mkqa": ["dataset.docs=p.tsv"],
    "dataset/irds": ["dataset.id=hc4/fa/dev", "dataset.query_lang=en", "dataset.doc_lang=fa"],
    "translator/llm": ["llm=transformers", "llm.model=me/llm"],
    **{f"retriever/{name}": ["retriever.model=me/encoder"] for name in ("dense", "static", "backbone", "nllb_e5", "late_interaction")},
    "retriever/hierarchical": ["retriever.encoder.model=me/encoder"],
    "retriever/openai_embeddings": ["retriever.model=me/encoder"],
    "retriever/run_file": ["retriever.path=x.trec"],
    "retriever/precomputed": [f"retriever.{side}_{what}={side}.{what}" for side in ("doc", "query") for what in ("vectors", "ids")],
    "retriever/psq": ["retriever.table=t.tsv"],
    "retriever/psq_hmm": ["retriever.table=t.tsv"],
    "reranker/cross_encoder": ["reranker.model=me/judge"],
    **{f"reranker/{name}": ["reranker.model=me/judge"] for name in ("late_interaction", "cross_encoder_adapters", "embedder")},
    "reranker/cascade": ["reranker.parts=[bge_reranker,rank_zephyr]", "reranker.depths=[100,20]"],
    "experiment/xqg_file": ["retrieve.expansion.file=q.jsonl"],
    "experiment/xqg_llm": ["llm=transformers", "llm.model=me/llm"],
    "llm/openai": ["llm.model=me/llm", "llm.base_url=http://localhost:1/v1", "reranker=listwise"],
    "llm/transformers": ["llm.model=me/llm", "reranker=listwise"],
    "llm/vllm": ["llm.model=me/llm", "reranker=listwise"],
    "prompt/pick": ["reranker=setwise"],
    **{
        f"quirk/{name}": [w for w in compose.description(path)[0].split()[2:] if not w.startswith(("-m", "quirk="))]
        for name, path in compose.choices("quirk").items()
    },
    "prompt/grade": ["reranker=pointwise"],
    "prompt/write_query": ["reranker=query_likelihood"],
}  # fmt: skip


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in GROUPS for n in compose.choices(g)])
def test_every_yaml_composes_binds_to_its_class_and_says_how_to_use_it(group: str, name: str) -> None:
    command, description = compose.description(compose.choices(group)[name])
    assert command.startswith("clir ") and f"{name}" in command, "the first line is a command that uses it"
    assert 10 < len(description) < 200
    if group == "sweep":
        assert len(compose.cells([f"sweep={name}"], multirun=True)) > 1
        return
    more = NEEDS.get(f"{group}/{name}", ["reranker=listwise"] if group in {"llm", "prompt"} else [])
    built = one(f"{group}={name}", *more)
    assert built.plain["names"][group] == name


def test_the_order_s_own_command_composes() -> None:
    cfg = one("retriever=labse", "reranker=listwise")
    assert cfg.labels == {"dataset": "demo", "retriever": "labse", "reranker": "listwise", "llm": "rank_zephyr"}
    assert cfg.reranker.llm.model == "castorini/rank_zephyr_7b_v1_full"


def test_translating_queries_or_documents_is_another_view_of_the_same_retriever() -> None:
    assert (one("retriever=bm25_qt").retrieve.query, one("retriever=bm25_dt").retrieve.doc) == (
        "doc_lang",
        "query_lang",
    )
    assert one("retriever=bm25").retriever == one("retriever=bm25_dt").retriever == BM25()


def test_a_pair_sets_both_languages_and_plus_makes_a_pool() -> None:
    dataset = one("dataset.pair=sw-de").dataset
    assert (dataset.query_lang, dataset.doc_langs) == ("sw", ("de",))
    assert one("dataset.pair=en-de+es+sw").dataset.doc_langs == ("de", "es", "sw")
    assert one("dataset.doc_lang=[de,sw]").dataset.doc_label == "de+sw"


def test_labels_carry_every_override_that_changes_the_result() -> None:
    assert one("retriever.k1=1.2").labels["retriever"] == "bm25_dt[k1=1.2]"
    assert one("retriever.k1=0.9").labels["retriever"] == "bm25_dt", "the default said aloud changes nothing"
    assert one("retriever.threads=4").labels["retriever"] == "bm25_dt", "a faster setting changes nothing"
    assert one("retrieve.depth=10").labels["retriever"] == "bm25_dt", "the depth is a column"
    assert one("retrieve.pool=per_language").labels["retriever"] == "bm25_dt[pool=per_language]"
    assert one("retriever.label=mine", "retriever.k1=1.2").labels["retriever"] == "mine"


def test_a_hybrid_s_parts_have_their_own_views_and_all_other_overrides() -> None:
    cfg = one("retriever=hybrid", "retriever.parts=[bm25_qt,bm25_dt]", "retrieve.depth=50", "dataset.pair=de-en")
    qt, dt = cfg.parts
    assert (qt.retrieve.query, qt.retrieve.doc, dt.retrieve.query, dt.retrieve.doc) == (
        "doc_lang",
        "original",
        "original",
        "query_lang",
    )
    assert {p.retrieve.depth for p in cfg.parts} == {50} and {p.dataset.query_lang for p in cfg.parts} == {"de"}


def test_a_cascade_s_parts_have_their_own_llm() -> None:
    cfg = one("reranker=cascade", "reranker.parts=[rank_gpt,rank_zephyr]", "reranker.depths=[100,20]")
    gpt, zephyr = cfg.cascade
    assert gpt.reranker.llm.model != zephyr.reranker.llm.model
    assert (gpt.labels["llm"], zephyr.labels["llm"]) == ("gpt", "rank_zephyr")


def test_a_user_s_yaml_wins_and_its_paths_are_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    (folder / "dataset").mkdir(parents=True)
    (folder / "retriever").mkdir()
    (folder / "dataset" / "ours.yaml").write_text(
        "_target_: clir_cli.datasets.files.Files\ndocs: data/docs.{lang}.tsv\ntopics: /abs/topics.tsv\nquery_lang: en\ndoc_lang: yo\n"
    )
    (folder / "retriever" / "bm25.yaml").write_text("_target_: clir_cli.retrievers.bm25.BM25\nk1: 2.5\n")
    monkeypatch.chdir(tmp_path)
    cfg = one("dataset=ours", "retriever=bm25", "retriever.analyser=whitespace", dirs=(folder,))
    assert (
        cfg.dataset.docs == str(folder / "dataset" / "data/docs.{lang}.tsv") and cfg.dataset.topics == "/abs/topics.tsv"
    )
    assert cfg.retriever.k1 == 2.5
    here = one("dataset=ours", "dataset.docs=here.tsv", "retriever=bm25", dirs=(folder,))
    assert here.dataset.docs == str(tmp_path / "here.tsv"), "the command line's are in the current directory"
    (tmp_path / "configs").symlink_to(folder)
    assert one("dataset=ours", "retriever=bm25").retriever.k1 == 2.5, "./configs is looked at unasked"


# What is refused


def test_a_misspelt_group_option_names_the_nearest() -> None:
    assert "did you mean bm25" in refused("retriever=bm52")
    assert "did you mean retriever" in refused("retreiver=bm25")


def test_all_problems_come_at_once_with_the_nearest_names() -> None:
    said = refused("retriever.k9=1", "dataset.quer_lang=en", "retrieve.depth=deep", "rerank.depth=0", "retriever.b=yes")
    assert said.startswith("5 problems:")
    for words in (
        "retriever.k9: BM25 has no such option; did you mean k1?",
        "did you mean query_lang",
        "retrieve.depth",
        "depth must be at least 1",
        "retriever.b",
    ):
        assert words in said, words


def test_a_value_of_the_wrong_type_does_not_hide_a_value_out_of_range() -> None:
    said = refused("retriever.k1=abc", "retriever.b=2")
    assert said.startswith("2 problems:"), said
    assert "retriever.k1" in said
    assert "b between 0 and 1" in said


def test_a_choice_that_does_not_exist_does_not_hide_what_else_is_wrong() -> None:
    said = refused(
        "retriever=bm52",
        "retriever.k1=1.2",
        "dataset.quer_lang=en",
        "retrieve.depth=deep",
        "foo=1",
        "reranker=listwize",
    )
    assert said.startswith("5 problems:"), said
    for words in ("did you mean bm25", "did you mean listwise", "did you mean query_lang", "retrieve.depth", "'foo'"):
        assert words in said, words
    assert "k1" not in said, "of a retriever that does not exist nothing is known"


def test_a_missing_mandatory_value_is_named() -> None:
    assert "retriever.model: Dense needs a value for 'model'" in refused("retriever=dense")


def test_types_are_strict() -> None:
    for override in ("retriever.k1=true", "retriever.threads=2.5", "retriever.k1='\"0.9\"'"):
        assert override.split("=")[0] in refused(override)


def test_several_values_without_m_are_explained() -> None:
    said = refused("retriever=bm25,bm25_dt")
    assert "add -m" in said and "write a list" not in said, "a group takes one choice"
    assert "or write a list as 'retriever.k1=[...]'" in refused("retriever.k1=1,2")


def test_a_path_with_places_needs_no_quotes_within_quotes() -> None:
    cfg = one(
        "dataset=files",
        "dataset.docs=/x/d.{lang}.tsv",
        "dataset.topics=t {lang}.tsv",
        "dataset.query_lang=en",
        "dataset.doc_lang=yo",
    )
    assert (cfg.dataset.docs, cfg.dataset.topics) == ("/x/d.{lang}.tsv", str(Path.cwd() / "t {lang}.tsv"))


def test_a_pattern_keeps_its_backslashes_and_one_that_looks_like_a_list_is_told_how_to_be_typed() -> None:
    files = (
        "dataset=files",
        "dataset.docs=d.tsv",
        "dataset.topics=t.tsv",
        "dataset.query_lang=en",
        "dataset.doc_lang=yo",
    )
    assert one(*files, r"dataset.aligned=(\d+)-x").dataset.aligned == r"(\d+)-x"
    typed = r'''dataset.aligned="[\w]+-(.*)"'''
    assert f"quote it twice: '{typed}'" in refused(*files, r"dataset.aligned=[\w]+-(.*)")
    assert one(*files, typed).dataset.aligned == r"[\w]+-(.*)"
    assert "it has no =" in refused("retriever")


def test_several_languages_in_one_code_are_told_how_a_pool_is_asked_for() -> None:
    said = refused(
        "dataset=files", "dataset.docs=d.tsv", "dataset.topics=t.tsv", "dataset.query_lang=en", "dataset.doc_lang=de+fr"
    )
    assert "'de+fr' is no language" in said and "doc_lang=[de,fr]" in said


def test_an_unknown_language_is_refused_with_the_nearest() -> None:
    assert "deu" in refused("dataset.doc_lang=deu") and "de" in refused("dataset.doc_lang=deu")


def test_components_are_ours_or_a_plug_in_s_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "retriever").mkdir()
    (tmp_path / "retriever" / "evil.yaml").write_text("_target_: os.system\ncommand: ls\n")
    with pytest.raises(ConfigError, match="not a component"):
        compose.cells(["retriever=evil"], config_dirs=[tmp_path])


def test_a_language_that_a_component_cannot_handle_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (cell,) = compose.cells(["retriever=bm25", "dataset.pair=en-sw"])
    (item,) = planned([cell], Store(tmp_path)).cells
    assert isinstance(item.error, LanguageError) and "retriever.analyser=whitespace" in str(item.error)
    (cell,) = compose.cells(["retriever=minilm_en", "dataset.pair=en-de"])
    (item,) = planned([cell], Store(tmp_path)).cells
    assert isinstance(item.error, LanguageError) and "languages" in str(item.error)


# Sweeps


def test_a_sweep_drops_and_lists_what_a_component_does_not_have() -> None:
    cells = compose.cells(
        ["retriever=bm25_dt,minilm_en", "retrieve.doc=query_lang", "retriever.k1=0.9,1.2"], multirun=True
    )
    assert [c.dropped for c in cells] == [(), (), ("retriever.k1=0.9",), ("retriever.k1=1.2",)]


def test_a_sweep_with_a_misspelt_option_everywhere_is_an_error_of_no_cell() -> None:
    cells = compose.cells(["retriever=bm25,bm25_dt", "reranker=none"], multirun=True)
    assert len(cells) == 2
    assert "did you mean" in refused("retriever=bm25,bm99", multirun=True)


def test_zipped_axes_go_together() -> None:
    cells = compose.cells(
        ["dataset.pair=en-de,en-es", "retriever=bm25,bm25_dt", "retrieve.depth=10,20"], True, ["dataset.pair,retriever"]
    )
    assert [(c.plain["dataset"]["doc_lang"], c.plain["names"]["retriever"], c.plain["retrieve"]["depth"]) for c in cells] == [
        ("de", "bm25", 10), ("es", "bm25_dt", 10), ("de", "bm25", 20), ("es", "bm25_dt", 20),
    ]  # fmt: skip


def test_ranges_and_globs_are_hydra_s() -> None:
    assert len(compose.cells(["retrieve.depth=range(10,40,10)", "retriever=glob(bm25_?t)"], multirun=True)) == 6


def test_equal_cells_are_one(tmp_path: Path) -> None:
    cells = compose.cells(["reranker=none", "llm=gpt,rank_zephyr"], multirun=True)
    assert [c.same_as for c in planned(cells, Store(tmp_path)).cells] == [None, 0]


def test_a_frozen_configuration_survives_its_file(tmp_path: Path) -> None:
    (cell,) = compose.cells(["retriever=hybrid", "reranker=rank_zephyr"])
    config.dump(cell.plain, tmp_path / "config.yaml")
    assert config.load(tmp_path / "config.yaml") == cell.plain


def test_a_value_set_on_a_node_reaches_the_nodes_that_show_it() -> None:
    cfg = one("reranker=rank_gpt", "llm.model=other", "llm.context=40000")
    assert (cfg.reranker.llm.model, cfg.reranker.llm.context) == ("other", 40000)
    assert "set that instead" in refused("reranker=rank_gpt", "reranker.llm.model=other")
    one("reranker=none", "llm=gpt", "llm.label=mine")
    assert one("reranker=rank_gpt", "llm.label=mine").labels["llm"] == "mine"


def test_cells_do_not_share_what_is_set_on_one() -> None:
    cells = compose.cells(["retriever.k1=0.5,0.9", "retriever=bm25"], multirun=True)
    assert [c.plain["retriever"]["k1"] for c in cells] == [0.5, 0.9]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("depth=5", "'depth' is neither a group nor a node; did you mean retrieve.depth or rerank.depth?"),
        ("rerank.repeat=-1", "rerank: repeat and seed must be at least 0, got -1 and 0"),
        ("evaluate.measures=[zork]", "evaluate: measure 'zork' is unknown"),
        ("evaluate.measures=AP", "evaluate.measures: should be a list, such as [a, b], got 'AP'"),
        ("retriever.k1=nan", "retriever.k1: input should be a finite number, got nan"),
        (
            "retrieve.doc_translator={file: x}",
            "retrieve.doc_translator: expected the name of a translator, got {'file': 'x'}",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        one(override)
    assert complaint in str(caught.value)
