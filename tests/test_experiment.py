"""A run, end to end, on real Lucene and a real encoder: what it leaves, what it reuses, what it refuses."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Clir

from clir_cli.runs import read_trec

CONFIGS = Path(__file__).parent / "configs"
CONTRACT = {  # CONTRACT.md section 3, column by column
    "metrics.csv": "experiment,dataset,split,judgments,query_lang,doc_lang,query_fields,retriever,retrieve_query,retrieve_doc,reranker,llm,rerank_query,rerank_doc,depth,rerank_depth,repeat,stage,measure,value,topics,topics_without_relevant",
    "per_query.csv": "experiment,judgments,stage,query_id,measure,value",
    "queries.csv": "experiment,query_id,calls,rounds,prompt_tokens,output_tokens,seconds,repaired,failed,cut_share",
    "costs.csv": "experiment,step,cached,seconds,documents,queries,calls_asked,calls_answered_from_cache,rounds,prompt_tokens,cached_prefix_tokens,output_tokens,repaired,failed,usd",
}


def rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def value(folder: Path, measure: str, stage: str = "final") -> float:
    (row,) = [r for r in rows(folder / "metrics.csv") if r["measure"] == measure and r["stage"] == stage]
    return float(row["value"])


def steps(folder: Path) -> dict[str, str]:
    """stage/label -> key of an experiment's steps."""
    return {f"{s['stage']} {s['label']}": s["key"] for s in json.loads((folder / "manifest.json").read_text())["steps"]}


def made(folder: Path) -> set[str]:
    """The stages that the run which wrote this folder made rather than found."""
    return {r["step"].split("/")[0] for r in rows(folder / "costs.csv") if r["cached"] == "false"}


def test_the_main_job_leaves_the_folder_of_the_contract(clir: Clir) -> None:
    done = clir("run")
    folder = Path(done.stdout.splitlines()[-1])
    assert folder.parent == clir.runs / "demo.en-de" and folder.name.startswith("bm25_dt-")
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.yaml", "costs.csv", "first_stage.trec", "ir_metadata.yaml", "manifest.json", "metrics.csv", "per_query.csv", "queries.csv", "run.trec",
    ]  # fmt: skip
    for name, columns in CONTRACT.items():
        assert (folder / name).read_text().splitlines()[0] == columns
    assert 0.5 < value(folder, "nDCG@10") < 0.9
    assert {r["stage"] for r in rows(folder / "metrics.csv")} == {"first_stage", "final"}
    assert len({r["query_id"] for r in rows(folder / "per_query.csv")}) == 36
    assert "nDCG@10" in done.stdout and f"{value(folder, 'nDCG@10'):.4f}" in done.stdout, "stdout has the table"
    assert "index" in done.stderr and "index" not in done.stdout, "progress goes to stderr"


def test_the_run_file_is_a_trec_run_that_no_evaluator_re_sorts(shared_clir: Clir) -> None:
    folder = shared_clir.experiment()
    lines = [line.split(" ") for line in (folder / "run.trec").read_text().splitlines()]
    assert (
        {len(line) for line in lines} == {6}
        and {line[1] for line in lines} == {"Q0"}
        and {line[5] for line in lines} == {"bm25_dt"}
    )
    run = read_trec(folder / "run.trec", order="score")
    for _, ranking in run.groupby("query_id"):
        assert list(ranking["rank"]) == list(range(1, len(ranking) + 1)) and ranking["score"].is_monotonic_decreasing


def test_a_second_run_imports_neither_torch_nor_pandas_nor_the_jvm(shared_clir: Clir) -> None:
    first = shared_clir.experiment()
    program = (
        "import sys, atexit\n"
        "heavy = {'torch', 'pandas', 'numpy', 'scipy', 'transformers', 'sentence_transformers', 'jnius', 'jnius_config', 'ir_measures', 'faiss', 'openai'}\n"
        "atexit.register(lambda: print('imported:', sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "from clir_cli.cli import main\n"
        "sys.argv[0] = 'clir'\n"
        "main()\n"
    )
    for arguments in (
        ["run", "--quiet"],
        ["plan"],
        ["plan", "retriever=labse", "reranker=listwise"],
        ["--help"],
        ["configs"],
        ["list"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=shared_clir.folder,
            env=shared_clir.env(None),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr.strip().endswith("imported: []"), f"{arguments}: {done.stderr}"
    assert Path(shared_clir("run", "--quiet").stdout.strip()) == first


def test_another_reranker_does_not_retrieve_again(shared_clir: Clir) -> None:
    shared_clir.experiment()
    folder = shared_clir.experiment("reranker=oracle")
    assert made(folder) == {"rerank"}
    assert value(folder, "nDCG@10") > value(folder, "nDCG@10", "first_stage")
    assert value(folder, "R@20", "final") >= value(folder, "R@20", "first_stage")


def test_k1_builds_no_index_and_the_analyser_does(shared_clir: Clir) -> None:
    shared_clir.experiment()
    assert made(shared_clir.experiment("retriever.k1=1.3")) == {"retrieve"}
    assert made(shared_clir.experiment("retriever.analyser=whitespace")) == {"index", "retrieve"}


def test_the_query_prefix_encodes_no_document_and_the_document_prefix_length_and_pooling_do(shared_clir: Clir) -> None:
    base = ["retriever=minilm_en", "dataset.pair=de-en", "retrieve.query=doc_lang"]
    sweep = ["--quiet", "-m", "--config-dir", str(CONFIGS), "sweep=encoder_texts"]
    plain, *changed = (Path(folder) for folder in shared_clir("run", *sweep, *base).stdout.split())
    assert plain == shared_clir.experiment(*base)
    assert [folder.name.split("-")[0] for folder in changed] == [
        "minilm_en[query_prefix=query__]", "minilm_en[doc_prefix=passage__]", "minilm_en[doc_tokens=32]", "minilm_en[pooling=cls]",
    ]  # fmt: skip
    assert [made(folder) for folder in changed] == [{"retrieve"}, *[{"index", "retrieve"}] * 3]


def test_a_neutral_setting_recomputes_nothing(shared_clir: Clir) -> None:
    base = ["retriever=minilm_en", "dataset.pair=de-en", "retrieve.query=doc_lang"]
    assert shared_clir.experiment(*base) == shared_clir.experiment(*base, "retriever.batch_tokens=256")
    assert shared_clir.experiment() == shared_clir.experiment("retriever.threads=1")


def test_the_parts_of_a_hybrid_are_the_same_steps_as_alone(shared_clir: Clir) -> None:
    alone = {**steps(shared_clir.experiment("retriever=bm25_qt")), **steps(shared_clir.experiment("retriever=bm25_dt"))}
    folder = shared_clir.experiment("retriever=hybrid")
    assert made(folder) == {"fuse"}
    fused = steps(folder)
    assert set(fused) - set(alone) == {"fuse hybrid.demo.en-de"} and all(
        alone[name] == key for name, key in fused.items() if name in alone
    )


def test_two_first_stages_with_the_same_candidates_share_the_reranking(shared_clir: Clir) -> None:
    one = shared_clir.experiment("reranker=oracle", "rerank.depth=3")
    two = shared_clir.experiment("reranker=oracle", "rerank.depth=3", "retrieve.depth=900")
    assert one != two and made(two) <= {"retrieve"}


def test_the_tail_is_kept_or_cut(shared_clir: Clir) -> None:
    kept = read_trec(shared_clir.experiment("reranker=oracle", "rerank.depth=5") / "run.trec")
    cut = read_trec(shared_clir.experiment("reranker=oracle", "rerank.depth=5", "rerank.tail=cut") / "run.trec")
    first = read_trec(shared_clir.experiment() / "run.trec")
    assert cut.groupby("query_id").size().max() == 5
    for query, ranking in kept.groupby("query_id"):
        before = first[first["query_id"] == query]["doc_id"].tolist()
        assert ranking["doc_id"].tolist()[5:] == before[5:] and set(ranking["doc_id"]) == set(before)


def test_a_cascade_reranks_what_the_reranker_before_it_left(shared_clir: Clir) -> None:
    folder = shared_clir.experiment("reranker=cascade", "reranker.parts=[oracle,none]", "reranker.depths=[20,5]")
    assert {r["stage"] for r in rows(folder / "metrics.csv")} == {"first_stage", "rerank_1", "rerank_2", "final"}
    assert value(folder, "nDCG@10", "rerank_1") == value(folder, "nDCG@10") == value(folder, "nDCG@10", "rerank_2")


def test_a_pool_is_one_index_or_one_per_language_merged(shared_clir: Clir) -> None:
    pool = ["dataset.pair=en-de+es", "retriever=bm25_dt"]
    joint = shared_clir.experiment(*pool)
    split = shared_clir.experiment(*pool, "retrieve.pool=per_language")
    assert joint.parent.name == "demo.en-de+es"
    for folder in (joint, split):
        assert {d[:2] for d in read_trec(folder / "run.trec")["doc_id"]} == {"de", "es"}
    assert rows(split / "metrics.csv")[0]["retriever"] == "bm25_dt[pool=per_language]"
    assert "fuse" in made(split)
    for how in ("score", "zscore", "round_robin"):
        assert (
            value(shared_clir.experiment(*pool, "retrieve.pool=per_language", f"retrieve.merge={how}"), "nDCG@10") > 0.3
        )


def test_a_view_of_two_languages_shows_both(shared_clir: Clir) -> None:
    folder = shared_clir.experiment("retrieve.doc=[original,en]", "retriever=bm25", "retriever.analyser=whitespace")
    assert rows(folder / "metrics.csv")[0]["retrieve_doc"] == "original+en"
    assert value(folder, "nDCG@10") > 0.3


def test_a_run_file_is_a_first_stage_like_any_other(shared_clir: Clir) -> None:
    source = shared_clir.experiment()
    folder = shared_clir.experiment("retriever=run_file", f"retriever.path={source}/run.trec", "retriever.label=theirs")
    assert rows(folder / "metrics.csv")[0]["retriever"] == "theirs"
    assert value(folder, "nDCG@10") == value(source, "nDCG@10")
    assert (
        shared_clir.experiment(
            "retriever=run_file",
            f"retriever.path={source}/../../demo.en-de/{source.name}/run.trec",
            "retriever.label=theirs",
        )
        == folder
    )


def test_a_run_file_with_a_strange_document_or_order_is_refused(shared_clir: Clir) -> None:
    bad = shared_clir.folder / "bad.trec"
    bad.write_text("t01 Q0 de-nowhere-9 1 3.5 x\n")
    done = shared_clir("run", "retriever=run_file", f"retriever.path={bad}", code=2)
    assert "1 document is not in the collection, for example 'de-nowhere-9'" in done.stderr
    bad.write_text("t01 Q0 de-tides-1 2 3.5 x\nt01 Q0 de-tides-2 1 3.4 x\n")
    said = shared_clir("run", "retriever=run_file", f"retriever.path={bad}", code=2).stderr
    assert "retriever.order=rank follows the ranks" in said, "the option as it is given there"


def test_more_measures_rank_nothing_again(clir: Clir) -> None:
    folder = clir.experiment()
    before = {p: p.stat().st_mtime_ns for p in (folder / "run.trec", folder / "first_stage.trec")}
    table = clir("evaluate", str(folder), "--measures", "P@5,RR").stdout
    assert "P@5" in table and "nDCG@10" in table, "the union"
    assert {"P@5", "Judged@5", "RR", "nDCG@10", "AP"} <= {r["measure"] for r in rows(folder / "metrics.csv")}
    assert before == {p: p.stat().st_mtime_ns for p in before}
    again = (folder / "metrics.csv").read_text()
    clir("evaluate", str(folder), "--measures", "P@5,RR")
    assert (folder / "metrics.csv").read_text() == again
    assert clir.experiment("evaluate.measures=[nDCG@3]") == folder


def test_selected_topics_alone_are_scored(shared_clir: Clir) -> None:
    folder = shared_clir.experiment("dataset.limit_queries=5")
    assert folder.parent.name == "demo~q5.en-de"
    assert {r["topics"] for r in rows(folder / "metrics.csv")} == {"5"}
    chosen = shared_clir.experiment("dataset.queries=[t03,t07]")
    assert {r["query_id"] for r in rows(chosen / "per_query.csv")} == {"t03", "t07"}
    sample = shared_clir.experiment("dataset.sample_docs=2")
    assert sample.parent.name == "demo~d2.en-de"


def test_a_config_file_repeats_its_experiment(shared_clir: Clir) -> None:
    folder = shared_clir.experiment("retriever=hybrid", "reranker=oracle")
    assert Path(shared_clir("run", "--quiet", "--config", str(folder / "config.yaml")).stdout.strip()) == folder


def test_a_sweep_leaves_its_cells_and_concatenations(clir: Clir) -> None:
    done = clir("run", "-m", "retriever=bm25,bm25_dt", "dataset.pair=en-de,en-sw", "--name", "first", code=1)
    folder = Path(done.stdout.splitlines()[-1])
    assert folder.parent == clir.runs / "sweeps" and folder.name.startswith("first-")
    cells = rows(folder / "cells.csv")
    assert [c["status"] for c in cells] == ["done", "invalid", "done", "done"] and "retriever.analyser" in cells[1][
        "error"
    ]
    promised = {"cells.csv", "metrics.csv", "per_query.csv", "costs.csv", "plan.json"}
    assert promised <= {p.name for p in folder.iterdir()}
    assert {r["experiment"] for r in rows(folder / "metrics.csv")} == {
        c["experiment"] for c in cells if c["experiment"]
    }
    for name in ("metrics.csv", "per_query.csv", "costs.csv"):
        assert (folder / name).read_text().splitlines()[0] == CONTRACT[name]
    quiet = clir("run", "-m", "-q", "retriever=bm25,bm25_dt", "dataset.pair=en-de,en-sw", "--name", "first", code=1)
    assert len(quiet.stdout.splitlines()) == 4, "a line per cell"
    assert [c["status"] for c in rows(folder / "cells.csv")] == ["cached", "invalid", "cached", "cached"]


def test_step_makes_a_draft_elsewhere(clir: Clir) -> None:
    """What another interpreter is given: a folder with a request; it exchanges only files."""
    from clir_cli import compose
    from clir_cli.plan import planned
    from clir_cli.store import Store

    (cell,) = compose.cells([])
    store = Store(clir.runs)
    item = planned([cell], store).cells[0].experiment
    assert item is not None
    docs = item.steps[0]
    draft = clir.folder / "draft"
    draft.mkdir()
    request = {"key": store.key(docs), "stage": docs.stage, "root": str(clir.runs), "config": cell.plain}
    (draft / "request.json").write_text(json.dumps(request))
    clir("step", str(draft))
    assert json.loads((draft / "step.json").read_text())["key"] == store.key(docs) and (draft / "docs.jsonl").exists()
    (draft / "request.json").write_text(json.dumps({**request, "key": "0" * 16}))
    assert "no step of this configuration" in clir("step", str(draft), code=2).stderr


def test_a_component_may_ask_for_another_interpreter(clir: Clir, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from clir_cli import compose
    from clir_cli.plan import planned
    from clir_cli.steps import Needs
    from clir_cli.store import Store

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    (cell,) = compose.cells([])
    store = Store(clir.runs)
    item = planned([cell], store).cells[0].experiment
    assert item is not None
    step = replace(item.steps[0], needs=Needs(python=sys.executable))
    assert store.make(step) == "made" and store.record(step)["counts"]["documents"] == 60
    missing = replace(item.steps[1], needs=Needs(python="/nowhere/python"))
    with pytest.raises(OSError, match="nowhere"):
        store.make(missing)


def test_answers_of_no_llm_leave_no_answers_file(shared_clir: Clir) -> None:
    assert not (shared_clir.experiment("reranker=oracle") / "answers.jsonl.gz").exists()


def test_the_first_stage_rows_of_two_rerankers_merge(shared_clir: Clir) -> None:
    none, oracle = shared_clir.experiment(), shared_clir.experiment("reranker=oracle")
    ignore = {"experiment"}
    first = [
        [
            {k: v for k, v in r.items() if k not in ignore}
            for r in rows(f / "metrics.csv")
            if r["stage"] == "first_stage"
        ]
        for f in (none, oracle)
    ]
    assert first[0] == first[1]


def test_one_folder_holds_one_policy_over_the_topics(clir: Clir) -> None:
    """A topic without relevant documents counts under `judged` only; both values and counts are said."""
    own = clir.folder
    (own / "docs.tsv").write_text("d1\tred fish\nd2\tblue bird\n")
    (own / "topics.tsv").write_text("q1\tfish\nq2\tbird\nq3\tnothing\n")
    (own / "qrels.txt").write_text("q1 0 d1 1\nq2 0 d1 0\nq9 0 d2 0\n")
    base = [
        "dataset=files",
        "dataset.docs=docs.tsv",
        "dataset.topics=topics.tsv",
        "dataset.qrels=qrels.txt",
        "dataset.query_lang=en",
        "dataset.doc_lang=en",
        "retriever=bm25",
        "dataset.measures=[AP]",
    ]
    done = clir("run", *base)
    folder = Path(done.stdout.splitlines()[-1])
    (row,) = [r for r in rows(folder / "metrics.csv") if r["stage"] == "final"]
    assert (float(row["value"]), row["topics"], row["topics_without_relevant"]) == (pytest.approx(1 / 3), "3", "2")
    assert "AP (qrels) is 0.3333 over 3 topics" in done.stderr and "1.0000 over 1" in done.stderr
    assert any("1.0000 over 1" in note for note in json.loads((folder / "manifest.json").read_text())["notes"])
    assert clir.experiment(*base, "evaluate.measures=[P@1]") == folder
    other = clir.experiment(*base, "evaluate.topics=relevant", "evaluate.measures=[AP,P@1]")
    assert other != folder and (other / "run.trec").read_bytes() == (folder / "run.trec").read_bytes()
    final = {
        r["measure"]: (float(r["value"]), r["topics"]) for r in rows(other / "metrics.csv") if r["stage"] == "final"
    }
    assert final == {"AP": (1.0, "1"), "P@1": (1.0, "1"), "Judged@1": (1.0, "1")}
    assert {r["topics"] for r in rows(folder / "metrics.csv")} == {"3"}
    sweep = ["-m", *base, "evaluate.topics=judged,relevant", "evaluate.measures=[P@1]"]
    assert "2 cached" in clir("run", *sweep).stdout, "two cells, neither of which writes over the other"


def test_judgments_that_meet_neither_topics_nor_documents_are_told_every_time(clir: Clir) -> None:
    own = clir.folder
    (own / "docs.tsv").write_text("caf\u00e9\tred fish\nd2\tblue bird\n")
    (own / "topics.tsv").write_text("q1\tfish\nq2\tbird\n")
    (own / "qrels.txt").write_text("q1 0 cafe\u0301 1\nq2 0 d2 1\n7 0 d2 1\n")
    files = [f"dataset.{name}={name}.{'txt' if name == 'qrels' else 'tsv'}" for name in ("docs", "topics", "qrels")]
    asked = [
        "dataset=files",
        *files,
        "dataset.query_lang=en",
        "dataset.doc_lang=en",
        "dataset.on_unknown=warn",
        "retriever=bm25",
    ]
    for _ in range(2):  # made, then found
        said = clir("run", *asked).stderr
        assert "1 of 3 judged topics (qrels) is in no topics file, for example '7'; it counts 0" in said
        assert "which is there with other bytes for the same characters" in said


def test_a_corrected_translation_is_judged_again(clir: Clir) -> None:
    own = clir.folder
    (own / "docs.de.tsv").write_text("de-1\tein roter Fisch\nde-2\tein blauer Vogel\n")
    (own / "docs.en.tsv").write_text("en-1\ta red fish\nen-2\ta blue bird\n")
    (own / "topics.tsv").write_text("q1\tfish\n")
    (own / "qrels.txt").write_text("q1 0 de-1 1\n")
    base = [
        "dataset=files", "dataset.docs=docs.{lang}.tsv", "dataset.topics=topics.tsv", "dataset.qrels=qrels.txt", "dataset.pair=en-de",
        "dataset.aligned='[a-z]+-(.*)'", "retriever=bm25", "retriever.analyser=ngram4", "reranker=oracle", "rerank.doc=query_lang",
    ]  # fmt: skip
    before = clir.experiment(*base)
    (own / "docs.en.tsv").write_text("en-1\ta red herring\nen-2\ta blue bird\n")
    after = clir.experiment(*base)
    assert after != before and made(after) == {"docs", "translate", "rerank"}


def test_a_configuration_says_its_defaults_and_repeats_from_anywhere(clir: Clir) -> None:
    (clir.folder / "docs.tsv").write_text("d1\tred fish\n")
    (clir.folder / "topics.tsv").write_text("q1\tfish\n")
    own = [
        "dataset=files",
        "dataset.docs=docs.tsv",
        "dataset.topics=topics.tsv",
        "dataset.query_lang=en",
        "dataset.doc_lang=en",
        "retriever=bm25",
    ]
    folder = clir.experiment(*own)
    text = (folder / "config.yaml").read_text()
    assert "k1: 0.9" in text and f"docs: {clir.folder}/docs.tsv" in text
    elsewhere = Clir(clir.folder / "elsewhere")
    elsewhere.folder.mkdir()
    again = elsewhere("run", "-q", "--config", str(folder / "config.yaml"), "--runs", str(clir.runs))
    assert Path(again.stdout.strip()) == folder


def test_a_sweep_says_what_its_own_cells_asked_for_also_where_the_rankings_were_there(clir: Clir) -> None:
    """With 36 candidates a depth of 5000 ranks what a depth of 60 ranks: one folder, named after whoever came first."""
    clir.experiment("retriever=bm25_qt", "retriever.label=nice", "reranker=oracle", "rerank.depth=5000")
    done = clir("run", "-m", "retriever=bm25_qt", "reranker=oracle", "rerank.depth=80,100")
    metrics = [r for r in rows(Path(done.stdout.splitlines()[-1]) / "metrics.csv") if r["stage"] == "final"]
    assert {(r["retriever"], r["rerank_depth"]) for r in metrics} == {("bm25_qt", "80"), ("bm25_qt", "100")}
    assert len({r["experiment"] for r in metrics}) == 1
