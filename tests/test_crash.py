"""Nothing lost, nothing silent, nothing half-done that counts as done."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Clir
from gated import SHARDS, Gate
from slurm_cluster import until

from clir_cli.steps import KEY

DENSE = ["retriever=minilm_en", "dataset.pair=de-en", "retrieve.query=doc_lang", "reranker=oracle"]
RESULTS = ("first_stage.trec", "run.trec", "metrics.csv", "per_query.csv", "config.yaml")


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    clir = Clir(tmp_path_factory.mktemp("undisturbed"))
    return results(clir.experiment(*DENSE))


@pytest.mark.parametrize("seconds", [0.7, 1.5, 3.0, 5.0])
def test_kill_minus_nine_at_any_moment_and_again_gives_the_same_bytes(
    clir: Clir, undisturbed: dict[str, bytes], seconds: float
) -> None:
    running = clir.start("run", "--quiet", *DENSE)
    time.sleep(seconds)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    finished = sorted((clir.runs / "steps").glob("*/[!.]*")) if clir.runs.exists() else []
    stamps = {p: (p / "step.json").stat().st_mtime_ns for p in finished}
    assert results(clir.experiment(*DENSE)) == undisturbed
    assert stamps == {p: (p / "step.json").stat().st_mtime_ns for p in finished}, "what was finished was not made again"
    assert not list((clir.runs / "steps").glob("*/.*")), "no draft is left"
    left = {lock.stem for lock in (clir.runs / "locks").glob("*.lock")}
    assert left <= {p.name[-KEY:] for p in finished}, (
        "a lock is left at most by the kill, of a step that was just finished"
    )


def test_two_at_once_make_each_step_once_and_both_end_well(clir: Clir, undisturbed: dict[str, bytes]) -> None:
    both = [clir.start("run", *DENSE) for _ in range(2)]
    said = [p.communicate(timeout=120) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    made = [
        line.split("  ")[0]
        for _, err in said
        for line in err.splitlines()
        if line.endswith(" s") and "waiting" not in line
    ]
    assert sorted(made) == sorted(set(made)), "each step was made by one of them"
    folders = {out.splitlines()[-1] for out, _ in said}
    assert len(folders) == 1 and results(Path(folders.pop())) == undisturbed


def test_ctrl_c_stops_with_a_word_and_the_same_command_goes_on(clir: Clir, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    gate.ask("hold-a-1")
    running = clir.start("run", "--quiet", "retriever=gated", env=gate.env)
    until(lambda: ("a", "1") in gate.said("started"), "the second shard of the index under way")
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 1 and "the same command goes on" in err and "Traceback" not in err
    gate.open("a-1")
    clir("run", "retriever=gated", env=gate.env)
    assert gate.said("made") == [("a", str(i)) for i in range(SHARDS)]


def test_a_full_disk_is_said_and_nothing_half_written_counts(clir: Clir) -> None:
    """A limit on the size of a file stands for the disk: the write fails in the middle, in Python and in Lucene."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))

    env = clir.env(None) | {"PYTHONDONTWRITEBYTECODE": "1"}  # CPython 3.11 would leave half of a .pyc
    done = subprocess.run(
        clir.command("run"),
        cwd=clir.folder,
        env=env,
        preexec_fn=small,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "stays finished" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(clir.runs.glob("demo.*/[!.]*"))
    assert all((p / "step.json").exists() for p in (clir.runs / "steps").glob("*/[!.]*"))
    whole = clir.experiment()
    shutil.rmtree(whole)
    for stage in ("index", "retrieve"):
        shutil.rmtree(clir.runs / "steps" / stage)
    again = subprocess.run(  # what Lucene cannot write at its end, when all documents were given
        clir.command("run"), cwd=clir.folder, env=env, preexec_fn=small, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert again.returncode == 1 and "Lucene failed while writing an index" in again.stderr, again.stderr
    assert "internal error" not in again.stderr
    assert clir.experiment() == whole


def test_a_file_that_changes_while_it_is_read_fails_the_step(clir: Clir) -> None:
    docs = clir.folder / "docs.tsv"
    docs.write_text("".join(f"d{i}\tsome text about the number {i}\n" for i in range(400_000)))
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
    while not list((clir.runs / "steps").glob("docs/.*/docs.jsonl")) and running.poll() is None:
        time.sleep(0.02)
    with docs.open("a") as more:
        more.write("late\tone more\n")
    _, err = running.communicate(timeout=120)
    assert running.returncode != 0 and "changed while it was read" in err
