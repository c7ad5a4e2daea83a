"""What assessors are asked: the pool of several runs, less what is judged."""

from __future__ import annotations

from pathlib import Path

from conftest import Clir

from clir_cli.verbs.judging import Unjudged, unjudged

DEMO = Path(__file__).parents[1] / "clir_cli" / "datasets" / "demo"


def run(path: Path, **lists: str) -> Path:
    lines = [f"{q} Q0 {d} {r} {10 - r} x\n" for q, docs in lists.items() for r, d in enumerate(docs.split(), 1)]
    path.write_text("".join(lines))
    return path


def test_the_pool_counts_runs_and_keeps_the_best_rank(tmp_path: Path) -> None:
    qrels = tmp_path / "qrels"
    qrels.write_text("q1 0 a 1\nq1 0 b 0\nq2 0 z 1\n")
    one = run(tmp_path / "one", q1="a c d e", q2="x y")
    two = run(tmp_path / "two", q1="c b e d", q2="y x", q3="m")
    rows, runs = unjudged([one, two], 3, qrels=qrels)
    assert runs == 2
    assert rows == [
        Unjudged("q1", "c", 2, 1),
        Unjudged("q1", "d", 1, 3),  # two holds d at 4: below the pool
        Unjudged("q1", "e", 1, 3),
        Unjudged("q2", "x", 2, 1),
        Unjudged("q2", "y", 2, 1),
        Unjudged("q3", "m", 1, 1),  # nobody has judged anything of this topic
    ]


def test_experiments_of_one_collection_are_pooled_by_their_own_judgments(shared_clir: Clir) -> None:
    clir = shared_clir
    folders = [str(clir.experiment()), str(clir.experiment("retriever=bm25_qt"))]
    said = clir("evaluate", "--unjudged", "missing.tsv", "--depth", "5", *folders).stdout.splitlines()
    lines = (clir.folder / "missing.tsv").read_text().splitlines()
    assert lines[0] == "query_id\tdoc_id\truns\tbest_rank" and said[1] == "missing.tsv"
    assert said[0].startswith(f"{len(lines) - 1} documents of ") and said[0].endswith(" in the first 5 of 2 runs")
    judged = {tuple(line.split()[::2][:2]) for line in (DEMO / "qrels.de.txt").read_text().splitlines()}
    top = {
        (line.split()[0], line.split()[2])
        for folder in folders
        for line in (Path(folder) / "run.trec").read_text().splitlines()
        if int(line.split()[3]) <= 5
    }
    assert {tuple(line.split("\t")[:2]) for line in lines[1:]} == top - judged
    assert clir("evaluate", "--unjudged", "-", "--depth", "5", *folders).stdout.splitlines() == lines


def test_nothing_is_unjudged_where_all_is_judged_and_collections_are_not_mixed(shared_clir: Clir) -> None:
    clir = shared_clir
    folder = clir.experiment()
    runs = [line.split() for line in (folder / "run.trec").read_text().splitlines()]
    (clir.folder / "all.qrels").write_text("".join(f"{r[0]} 0 {r[2]} 0\n" for r in runs))
    done = clir("evaluate", "--unjudged", "-", "--qrels", "all.qrels", "--depth", "1000", str(folder / "run.trec"))
    assert done.stdout == "query_id\tdoc_id\truns\tbest_rank\n"
    other = clir.experiment(
        "dataset=files", f"dataset.docs={DEMO}/docs.{{lang}}.jsonl", f"dataset.topics={DEMO}/topics.{{lang}}.tsv",
        f"dataset.qrels={DEMO}/qrels.{{doc_lang}}.txt", "dataset.query_lang=en", "dataset.doc_lang=en", "retriever=bm25",
    )  # fmt: skip
    said = clir("evaluate", "--unjudged", "-", str(folder), str(other), code=2).stderr
    assert "several collections (demo, files)" in said
    assert (
        "--unjudged scores nothing"
        in clir("evaluate", "--unjudged", "-", "--measures", "AP", str(folder), code=2).stderr
    )
    assert (
        "--depth must be at least 1" in clir("evaluate", "--unjudged", "-", "--depth", "0", str(folder), code=2).stderr
    )
