"""launcher=slurm on a real Slurm of one node: what is lost when something breaks, and who makes it up."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
from conftest import Clir
from gated import SHARDS, Gate
from slurm_cluster import Cluster, until

ABSENT = slurm_cluster.missing()
INSTALL = f"needs Slurm: apt-get install slurm-wlm munge; absent: {', '.join(ABSENT)}"
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=INSTALL)
pytest.importorskip("submitit", reason="needs submitit: pip install 'clir[slurm]'")

SETTINGS = ["launcher.poll=0.3", "launcher.cpus=1", "launcher.memory_gb=1"]
SLURM = ["run", "-m", "--launcher", "slurm", *SETTINGS]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm") / "node") as found:
        yield found


class Sweeps:
    """`clir` beside a cluster, with the gated retriever, and what it left."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.clir, self.gate, self.cluster = Clir(folder), Gate(folder), cluster
        self.env = {**self.gate.env, "SLURM_CONF": cluster.env["SLURM_CONF"], "PYTHONUNBUFFERED": "1"}

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = self.clir(*arguments, code=code, env=self.env)
        return done.stdout + done.stderr

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return self.clir.start(*arguments, env=self.env)

    def statuses(self, *sweep: str) -> list[str]:
        said = json.loads(self.clir("status", *sweep, "--json", env=self.env).stdout)
        return [row["status"] for row in said["cells"]]

    def table(self, name: str, sweep: str = "*") -> list[dict[str, str]]:
        (path,) = (self.clir.runs / "sweeps").glob(f"{sweep}/{name}")
        with path.open(newline="") as lines:
            return list(csv.DictReader(lines))

    def jobs(self) -> dict[str, str]:
        """job id -> state, of the jobs of this folder's sweeps."""
        own = self.records()
        return {job: state for job, state in self.cluster.states().items() if job.split("_")[0] in own}

    def records(self) -> list[str]:
        """The ids that this folder's sweeps know."""
        return [json.loads(path.read_text())["id"] for path in self.clir.runs.glob("sweeps/*/jobs/*.json")]

    def pickles(self) -> list[bytes]:
        """What submitit kept, one for each job that was queued."""
        return [path.read_bytes() for path in self.clir.runs.glob("sweeps/*/jobs/*/*_submitted.pkl")]

    def made_once(self, names: str) -> bool:
        return sorted(self.gate.said("made")) == [(name, str(i)) for name in names for i in range(SHARDS)]


class Slow:
    """`squeue` or `sbatch` in `folder`, which does as much as it may; then it waits before it asks Slurm, or before it answers."""

    def __init__(self, folder: Path, program: str, most: int | None = None, then: str = "before") -> None:
        self.folder, self.most = folder, folder / "most"
        folder.mkdir()
        if most is not None:
            self.most.write_text(str(most))
        waits = (
            f'while [ -e {self.most} ] && [ "$number" -gt "$(cat {self.most})" ]; do\n'
            f"  echo $number > {folder}/waiting.new; mv {folder}/waiting.new {folder}/waiting; sleep 0.05\ndone\n"
        )
        asks = f'answer=$({shutil.which(program)} "$@")\ncode=$?\n'
        (folder / program).write_text(
            f"#!/bin/sh\necho >> {folder}/asked\nnumber=$(wc -l < {folder}/asked)\n"
            + (waits + asks if then == "before" else f"{asks}touch {folder}/answered-$number\n{waits}")
            + 'test -z "$answer" || printf "%s\\n" "$answer"\nexit $code\n'
        )
        (folder / program).chmod(0o755)

    @property
    def path(self) -> str:
        return f"{self.folder}:{os.environ['PATH']}"

    def asked(self) -> int:
        asked = self.folder / "asked"
        return len(asked.read_text().splitlines()) if asked.exists() else 0

    def answer(self, most: int) -> int:
        """Leave the questions after so many waiting; the number of the one that waits."""
        (self.folder / "new").write_text(str(most))
        (self.folder / "new").rename(self.most)
        until(lambda: self._waiting() > most, "a question that waits")
        return self._waiting()

    def _waiting(self) -> int:
        waiting = self.folder / "waiting"
        return int(waiting.read_text()) if waiting.exists() else 0


@pytest.fixture
def sweeps(tmp_path: Path, cluster: Cluster) -> Iterator[Sweeps]:
    found = Sweeps(tmp_path, cluster)
    yield found
    found.clir.end()
    for hold in found.gate.folder.glob("hold-*"):
        hold.unlink()


def test_twelve_cells_are_made_by_jobs_that_wait_for_one_another(sweeps: Sweeps) -> None:
    grid = ["dataset.pair=en-de,de-en", "retriever=bm25,bm25_dt,gated", "reranker=none,oracle"]
    assert "12 cells: 12 done" in sweeps(*SLURM, *grid)
    assert {row["status"] for row in sweeps.table("cells.csv")} == {"done"}
    assert len({row["experiment"] for row in sweeps.table("metrics.csv")}) == 12
    paid = [row["step"] for row in sweeps.table("costs.csv") if row["cached"] == "false"]
    assert sorted(paid) == sorted({row["step"] for row in sweeps.table("costs.csv")}), "each step was made, and once"
    assert set(sweeps.jobs().values()) == {"COMPLETED"}
    assert len(sweeps.pickles()) == len(sweeps.jobs()), "each job was queued once"
    assert max(map(len, sweeps.pickles())) < 2000, "a path and a key"
    assert not list((sweeps.clir.runs / "queue").iterdir())
    assert "12 cells: 12 cached" in sweeps(*SLURM, *grid)
    assert sweeps.statuses() == ["cached"] * 12


def test_a_step_that_is_killed_fails_its_cells_only_and_goes_on_from_its_last_shard(sweeps: Sweeps) -> None:
    sweeps.gate.ask("kill-a-2", "fail-b-1")
    asked = [*SLURM, "retriever=gated", "retriever.name=a,b,c", "reranker=none,oracle"]
    failed = sweeps(*asked, code=1)
    assert "cells 3, 4: failed: shard 1 of b was asked to fail" in failed
    assert "cells 1, 2: failed: job " in failed
    assert sweeps.statuses() == ["failed"] * 4 + ["done"] * 2
    assert "asked to fail" in sweeps("logs", "3")
    assert "4 failed, 2 cached" not in sweeps(*asked, "--retry", "none", code=1)
    assert "4 done, 2 cached" in sweeps(*asked)
    assert sweeps.made_once("abc")


def test_a_job_past_its_time_limit_is_queued_again_and_goes_on_from_its_last_shard(sweeps: Sweeps) -> None:
    sweeps.gate.ask("hold-a-2")
    running = sweeps.start(*SLURM, "launcher.minutes=1", "retriever=gated", "reranker=none,oracle")
    until(lambda: sweeps.gate.said("started").count(("a", "2")) == 2, "begun a second time", 240)
    sweeps.gate.open("a-2")
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0 and "2 cells: 2 done" in out, err
    assert sweeps.made_once("a")


def test_jobs_wait_for_a_node_that_is_drained_and_run_when_it_is_back(sweeps: Sweeps) -> None:
    node = sweeps.cluster.ask("sinfo", "-h", "-o", "%N").strip()
    sweeps.cluster.ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    try:
        said = sweeps(*SLURM, "--detach", "launcher.max_jobs=9", "retriever=gated", "retriever.name=a,b")
        assert "clir status, clir collect or clir cancel" in said and "2 pending" in said
        until(lambda: set(sweeps.jobs().values()) == {"PENDING"}, "all jobs waiting")
        assert sweeps.statuses() == ["pending"] * 2
    finally:
        sweeps.cluster.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert "2 cells: 2 done" in sweeps("collect", "--wait")
    assert {row["status"] for row in sweeps.table("cells.csv")} == {"done"}


def test_the_submitter_may_die_and_anybody_can_collect(sweeps: Sweeps) -> None:
    sweeps.gate.ask("hold-a-1")
    running = sweeps.start(*SLURM, "--name", "left", "retriever=gated", "retriever.name=a,b", "reranker=oracle")
    until(lambda: ("a", "1") in sweeps.gate.said("started"), "the first index under way")
    until(lambda: not (sweeps.clir.runs / "locks" / "queue.lock").exists(), "all that comes after it queued")
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert sweeps.statuses("left")[0] == "running"
    sweeps.gate.open("a-1")
    assert "2 cells: 2 done" in sweeps("collect", "left", "--wait")
    assert len({row["experiment"] for row in sweeps.table("per_query.csv", "left-*")}) == 2
    assert sweeps.made_once("ab")


def test_two_sweeps_at_once_make_what_they_share_once(sweeps: Sweeps) -> None:
    sweeps.gate.ask("hold-b-1")
    first = sweeps.start(*SLURM, "--name", "first", "retriever=gated", "retriever.name=a,b")
    until(lambda: ("b", "1") in sweeps.gate.said("started"), "the first sweep under way")
    second = sweeps.start(*SLURM, "--name", "second", "retriever=gated", "retriever.name=b,c", "reranker=none,oracle")
    until(lambda: len(list(sweeps.clir.runs.glob("sweeps/second-*/jobs/*.json"))) > 1, "the second one queued")
    sweeps.gate.open("b-1")
    said = [process.communicate(timeout=240) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    assert "2 cells: 2 done" in said[0][0] and "4 cells: 4 done" in said[1][0]
    assert sweeps.made_once("abc")
    steps = {row["step"]: row["cached"] for row in sweeps.table("costs.csv", "second-*")}
    (shared,) = (path.name for path in sweeps.clir.runs.glob("steps/index/gated?name=b*"))
    assert steps[f"index/{shared}".replace("_name=b_", "[name=b]")] == "true", "the second sweep did not pay for it"


def test_a_step_that_is_made_while_slurm_is_asked_is_not_queued_again(sweeps: Sweeps, tmp_path: Path) -> None:
    sweeps.gate.ask("hold-a-1", "hold-b-1", "hold-c-1")
    squeue = Slow(tmp_path / "slow", "squeue")
    sweeps.env["PATH"] = squeue.path
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'"{name}"')
    one, two = tmp_path / "one", tmp_path / "two"  # a and b have one model, and are made by one job
    axes = ["retriever.name=a,b,c", f"retriever.weights={one},{one},{two}", "--zip", "retriever.name,retriever.weights"]
    running = sweeps.start(*SLURM, "retriever=gated", *axes)
    until(lambda: {("a", "1"), ("c", "1")} <= set(sweeps.gate.said("started")), "both jobs at work")
    waiting = squeue.answer(0)
    sweeps.gate.open("c-1")
    until(lambda: list(sweeps.jobs().values()).count("COMPLETED") == 3, "the job of c at its end")
    waiting = squeue.answer(waiting)  # that it has ended; then, what to queue now
    sweeps.gate.open("a-1")
    until(lambda: ("b", "1") in sweeps.gate.said("started"), "a made while Slurm was asked")
    squeue.most.unlink()
    until(lambda: squeue.asked() > waiting + 2, "asked some more")
    sweeps.gate.open("b-1")
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0 and "3 cells: 3 done" in out, err
    assert len(sweeps.pickles()) == len(sweeps.jobs()) == 4, "documents, topics, a and b, c"


def test_an_array_shares_the_shards_of_a_step(sweeps: Sweeps) -> None:
    sweeps.gate.ask("hold-a-0", "hold-a-1")
    running = sweeps.start(*SLURM, "launcher.array=2", "retriever=gated")
    until(lambda: {("a", "0"), ("a", "1")} <= set(sweeps.gate.said("started")), "both tasks at work")
    sweeps.gate.open("a-0", "a-1")
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0 and "1 cell: 1 done" in out, err
    assert sweeps.made_once("a") and len(sweeps.gate.processes()["a"]) == 2


def test_a_sweep_is_cancelled_from_another_shell_and_no_more_is_queued_than_allowed(sweeps: Sweeps) -> None:
    sweeps.gate.ask("hold-a-1", "hold-b-1", "hold-c-1")
    asked = [*SLURM, "launcher.max_jobs=2", "retriever=gated", "retriever.name=a,b,c"]
    running = sweeps.start(*asked)
    until(lambda: len([n for n, shard in sweeps.gate.said("started") if shard == "1"]) == 2, "two indexes under way")
    assert sum(state in {"PENDING", "RUNNING"} for state in sweeps.jobs().values()) == 2
    assert "2 jobs cancelled" in sweeps("cancel")
    out, err = running.communicate(timeout=240)
    assert running.returncode == 1 and "3 cells: 3 cancelled" in out, err
    assert sweeps.statuses() == ["cancelled"] * 3
    for hold in sweeps.gate.folder.glob("hold-*"):
        hold.unlink()
    assert "3 cells: 3 done" in sweeps(*asked)
    assert sweeps.made_once("abc")


def test_what_is_queued_while_a_sweep_is_cancelled_is_cancelled_too(sweeps: Sweeps, tmp_path: Path) -> None:
    sbatch = Slow(tmp_path / "slow", "sbatch", most=1)
    sweeps.env["PATH"] = sbatch.path
    running = sweeps.start(*SLURM, "retriever=gated", "retriever.name=a,b,c")
    until(lambda: sbatch.asked() == 2, "the second job at sbatch")
    cancelling = sweeps.start("cancel")
    until(lambda: list(sweeps.clir.runs.glob("sweeps/*/cancelled")), "marked as cancelled")
    sbatch.most.unlink()
    said, err = cancelling.communicate(timeout=120)
    assert cancelling.returncode == 0 and "cancelled; finished shards are kept" in said, err
    assert not {"PENDING", "RUNNING"} & set(sweeps.jobs().values())
    out, err = running.communicate(timeout=120)
    assert running.returncode == 1 and "3 cells: 3 cancelled" in out, err
    assert sbatch.asked() == 2 and not sweeps.gate.said("started")


def test_a_job_whose_submitter_died_before_it_knew_its_id_is_found(sweeps: Sweeps, tmp_path: Path) -> None:
    sbatch = Slow(tmp_path / "slow", "sbatch", most=0, then="after")
    running = sweeps.clir.start(*SLURM, "retriever=gated", env={**sweeps.env, "PATH": sbatch.path})
    until((tmp_path / "slow" / "answered-1").exists, "the first job queued, its submitter not told")
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert "1 job: " in sweeps("status") and "" not in sweeps.records()
    assert "1 job cancelled" in sweeps("cancel")
    assert "1 cell: 1 done" in sweeps(*SLURM, "retriever=gated")


def test_a_job_may_begin_before_its_submitter_is_told_of_it(sweeps: Sweeps, tmp_path: Path) -> None:
    sbatch = Slow(tmp_path / "slow", "sbatch", most=0, then="after")
    before = set(sweeps.cluster.states())
    running = sweeps.clir.start(*SLURM, "retriever=gated", env={**sweeps.env, "PATH": sbatch.path})
    until(
        lambda: {"RUNNING", "FAILED"} & {s for job, s in sweeps.cluster.states().items() if job not in before}, "begun"
    )
    sbatch.most.unlink()
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0 and "1 cell: 1 done" in out, err


def test_a_late_look_at_a_job_does_not_hide_the_one_in_its_place(sweeps: Sweeps, tmp_path: Path) -> None:
    sweeps.gate.ask("hold-a-1")
    asked = [*SLURM, "--detach", "retriever=gated"]
    sweeps(*asked)
    until(lambda: ("a", "1") in sweeps.gate.said("started"), "the index under way")
    squeue = Slow(tmp_path / "slow", "squeue", most=0)
    late = sweeps.clir.start("status", env={**sweeps.env, "PATH": squeue.path})
    until(lambda: squeue.asked() == 1, "a look that has read which jobs there are")
    first = set(sweeps.jobs())
    assert "1 job cancelled" in sweeps("cancel")
    sweeps(*asked)
    until(lambda: set(map(sweeps.cluster.states().get, first)) == {"COMPLETED", "CANCELLED"}, "the first job gone")
    squeue.most.unlink()
    late.communicate(timeout=120)
    assert "1 job cancelled" in sweeps("cancel"), "the new one is known"


def test_slurm_may_leave_every_second_question_unanswered(sweeps: Sweeps, tmp_path: Path) -> None:
    sweeps.env["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    turn = tmp_path / "turn"
    (tmp_path / "squeue").write_text(
        f"#!/bin/sh\nif [ -e {turn} ]; then rm {turn}; echo Unable to contact slurm controller >&2; exit 1; fi\n"
        f'touch {turn}\nexec {shutil.which("squeue")} "$@"\n'
    )
    (tmp_path / "squeue").chmod(0o755)
    said = sweeps(*SLURM, "retriever=gated")
    assert "Unable to contact" in said and "1 cell: 1 done" in said


def test_a_task_of_an_array_that_is_killed_fails_its_cell_though_another_task_ends_well_after_it(
    sweeps: Sweeps,
) -> None:
    sweeps.gate.ask("kill-a-1", "hold-a-2")
    running = sweeps.start(*SLURM, "launcher.array=2", "retriever=gated")
    until(
        lambda: ("a", "2") in sweeps.gate.said("started") and "FAILED" in sweeps.jobs().values(),
        "one killed, one at work",
    )
    sweeps.gate.open("a-2")
    out, err = running.communicate(timeout=240)
    assert running.returncode == 1 and "cell 1: failed: job " in out, err


def test_what_is_never_begun_is_not_passed_over_in_silence(sweeps: Sweeps, tmp_path: Path) -> None:
    failed = sweeps.cluster.ask("sbatch", "--parsable", "-o", "/dev/null", "--wrap", "false").strip()
    until(lambda: sweeps.cluster.states()[failed] == "FAILED", "a job that failed")
    never = f'launcher.sbatch={{dependency:"afterok:{failed}"}}'
    said = sweeps(*SLURM, never, "retriever=gated", code=1)
    assert "cell 1: failed: jobs were queued for it 3 times and ended without it" in said


def test_what_slurm_refuses_is_said_in_its_words(sweeps: Sweeps) -> None:
    said = sweeps(*SLURM, "launcher.partition=nowhere", "retriever=gated", code=1)
    assert "invalid partition" in said and "launcher.partition" in said
    assert sys.executable not in said
