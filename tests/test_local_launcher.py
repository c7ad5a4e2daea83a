"""launcher=local: several processes, each step once, and a failure costs its own cells only."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import Clir
from gated import SHARDS, Gate
from slurm_cluster import until

LOCAL = ["run", "-m", "--launcher", "local"]
GRID = ["dataset.pair=en-de,de-en", "retriever=bm25,bm25_dt", "reranker=none,oracle"]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def cells(clir: Clir) -> dict[str, dict[str, str]]:
    """number -> row of the cells.csv of the only sweep."""
    (path,) = (clir.runs / "sweeps").glob("*/cells.csv")
    with path.open(newline="") as lines:
        return {row["cell"]: row for row in csv.DictReader(lines)}


def costs(clir: Clir) -> list[list[str]]:
    """(experiment, step, cached) of every row of the sweep's costs.csv."""
    (path,) = (clir.runs / "sweeps").glob("*/costs.csv")
    with path.open(newline="") as lines:
        return [row[:3] for row in csv.reader(lines)]


def statuses(clir: Clir, gate: Gate) -> list[str]:
    """What `clir status` says from another shell."""
    said = json.loads(clir("status", "--json", env=gate.env).stdout)
    return [row["status"] for row in said["cells"]]


def workers(clir: Clir) -> list[str]:
    """The worker processes of this folder that live."""
    listed = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True).stdout
    lines = [line for line in listed.splitlines() if "clir_cli.launchers.worker" in line and str(clir.folder) in line]
    return [line.split()[0] for line in lines if not line.split()[1].startswith("Z")]


def test_a_sweep_by_several_processes_leaves_what_the_serial_one_leaves(tmp_path: Path) -> None:
    one, several = Clir(tmp_path / "one"), Clir(tmp_path / "several")
    for clir in (one, several):
        clir.folder.mkdir()
    one("run", "-m", *GRID)
    said = several(*LOCAL, *GRID)
    assert "8 cells: 8 done" in said.stdout
    made = [line.split("]")[1].split("  ")[:2] for line in said.stderr.splitlines() if line.endswith(" s")]
    assert len(made) == len(list((several.runs / "steps").glob("*/*"))), "each step was made once"
    assert {line[:3] for line in said.stderr.splitlines() if line.startswith("[")} == {"[1]", "[2]"}
    results = {".trec", ".csv", ".yaml"}
    for path in sorted(one.runs.glob("demo.*/*/*.*")):
        if path.suffix in results and path.name != "costs.csv":
            assert path.read_bytes() == (several.runs / path.relative_to(one.runs)).read_bytes(), path
    assert costs(one) == costs(several), "what a sweep made is paid for by one cell, in whatever process it was made"


def test_two_steps_are_made_at_once_and_another_shell_sees_them_running(clir: Clir, gate: Gate) -> None:
    gate.ask("hold-a-1", "hold-b-1")
    running = clir.start(*LOCAL, "retriever=gated", "retriever.name=a,b,c", env=gate.env)
    until(lambda: {("a", "1"), ("b", "1")} <= set(gate.said("started")), "two indexes under way")
    assert statuses(clir, gate) == ["running", "running", "pending"]
    gate.open("a-1", "b-1")
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert "3 cells: 3 done" in out
    assert sorted(gate.said("made")) == [(name, str(i)) for name in "abc" for i in range(SHARDS)]
    assert statuses(clir, gate) == ["done"] * 3
    assert "index     gated[name=b].demo.de" in clir("logs", "2", env=gate.env).stdout


def test_a_worker_that_is_killed_fails_its_cells_only_and_its_finished_shards_are_kept(clir: Clir, gate: Gate) -> None:
    gate.ask("kill-a-2")
    sweep = [*LOCAL, "retriever=gated", "retriever.name=a,b", "reranker=none,oracle"]
    failed = clir(*sweep, code=1, env=gate.env)
    assert "cells 1, 2: failed: the worker process ended (SIGKILL) while it made index gated.demo.de" in failed.stdout
    assert [row["status"] for row in cells(clir).values()] == ["failed", "failed", "done", "done"]
    assert "2 done, 2 cached" in clir(*sweep, env=gate.env).stdout
    assert sorted(gate.said("made")) == [(name, str(i)) for name in "ab" for i in range(SHARDS)]


def test_what_failed_is_tried_again_unless_told_otherwise(clir: Clir, gate: Gate) -> None:
    gate.ask("oom-a-0", "fail-b-0")
    sweep = [*LOCAL, "retriever=gated", "retriever.name=a,b,c"]
    clir(*sweep, code=1, env=gate.env)
    assert [row["status"] for row in cells(clir).values()] == ["oom", "failed", "done"]
    again = clir(*sweep, "--retry", "oom", code=1, env=gate.env)
    assert [row["status"] for row in cells(clir).values()] == ["done", "failed", "cached"]
    assert "shard 0 of b was asked to fail" in again.stdout and "--retry failed" in again.stdout
    assert "there are failed, timeout, oom" in clir(*sweep, "--retry", "always", code=2, env=gate.env).stderr
    assert "1 done, 2 cached" in clir(*sweep, env=gate.env).stdout


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_stopping_a_sweep_stops_its_workers_and_keeps_finished_shards(
    clir: Clir, gate: Gate, stop: signal.Signals
) -> None:
    gate.ask("hold-a-2")
    sweep = [*LOCAL, "retriever=gated", "retriever.name=a,b"]
    running = clir.start(*sweep, env=gate.env)
    other = "steps/index/gated?name=b*"
    until(lambda: ("a", "2") in gate.said("started") and any(clir.runs.glob(other)), "one index half made, one whole")
    running.send_signal(stop)
    if stop == signal.SIGKILL:
        gate.open("a-2")  # nobody stops the workers: they end with what they are making
    _, err = running.communicate(timeout=60)
    if stop == signal.SIGINT:
        assert running.returncode == 1
        assert "the same command goes on from there" in err
        gate.open("a-2")
    until(lambda: not workers(clir), "the workers gone")
    assert statuses(clir, gate)[0] == "stopped"  # a worker that nobody stopped may have written the other cell
    clir(*sweep, env=gate.env)
    assert sorted(gate.said("made")) == [(name, str(i)) for name in "ab" for i in range(SHARDS)]
    assert not list((clir.runs / "locks").glob("*.lock"))


def test_a_sweep_without_a_launcher_is_seen_from_another_shell_and_says_how_to_go_on_once_it_is_stopped(
    clir: Clir, gate: Gate
) -> None:
    gate.ask("hold-b-0")
    sweep = ["run", "-m", "retriever=gated", "retriever.name=a,b,c"]
    running = clir.start(*sweep, env=gate.env)
    until(lambda: ("b", "0") in gate.said("started"), "the second cell under way")
    assert statuses(clir, gate) == ["done", "running", "pending"]
    running.kill()
    running.communicate(timeout=60)
    said = clir("status", env=gate.env).stdout
    rows = [line.split() for line in said.splitlines()[:3]]
    assert rows == [
        [str(i + 1), s, f"retriever.name={n}"]
        for i, (s, n) in enumerate(zip(("done", *["stopped"] * 2), "abc", strict=True))
    ]
    assert "to go on: clir run -m retriever=gated retriever.name=a,b,c" in said
    assert "2, 3: stopped: nobody is at work on it" in clir("collect", code=1, env=gate.env).stdout
    gate.open("b-0")
    assert "2 done, 1 cached" in clir(*sweep, env=gate.env).stdout
    assert set(statuses(clir, gate)) == {"done"}


def test_steps_that_load_one_model_are_made_by_one_process(clir: Clir, gate: Gate, tmp_path: Path) -> None:
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'"{name}"')
    clir("run", "retriever=gated", "retriever.name=z", env=gate.env)  # the documents and topics are there
    weights = [str(tmp_path / name) for name in ("small", "large", "small", "large", "small")]
    zipped = ["retriever=gated", "retriever.name=a,b,c,d,e", f"retriever.weights={','.join(weights)}"]
    clir(*LOCAL, "launcher.gpus=[]", *zipped, "--zip", "retriever.name,retriever.weights", env=gate.env)
    by = gate.processes()
    assert by["a"] == by["c"] == by["e"] != by["b"] == by["d"]
    assert len(by["a"]) == len(by["b"]) == 1


def test_a_step_gets_the_gpus_that_it_needs_and_no_other_step_has_them(clir: Clir, gate: Gate) -> None:
    gate.ask("hold-a-0", "hold-b-0")
    axes = ["retriever.name=a,b,c,d,e", "retriever.gpus=1,1,1,2,3"]
    sweep = ["retriever=gated", *axes, "--zip", "retriever.name,retriever.gpus"]
    running = clir.start(*LOCAL, 'launcher.gpus=["4","7"]', *sweep, env=gate.env)
    until(lambda: {("a", "0"), ("b", "0")} <= set(gate.said("started")), "a and b at once")
    gate.open("a-0", "b-0")
    out, err = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "needs 3 GPUs, and there are 2" in out, err
    gpus = {name: {visible for _, visible in processes} for name, processes in gate.processes().items()}
    assert sorted([*gpus["a"], *gpus["b"]]) == ["4", "7"] and gpus["c"] < {"4", "7"} and gpus["d"] == {"4,7"}
    assert "e" not in gpus
    less = ["launcher.needs={gated:{gpus:0}}", 'launcher.gpus=["4","7"]']
    assert "1 done, 4 cached" in clir(*LOCAL, *less, *sweep, env=gate.env).stdout
    assert {visible for _, visible in gate.processes()["e"]} == {"-"}


def test_a_sweep_that_has_just_begun_is_not_called_stopped(
    clir: Clir, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    programs, asked = clir.folder / "programs", clir.folder / "asked"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\ntouch {asked}\nwhile [ -e {asked} ]; do sleep 0.05; done\n")
    (programs / "nvidia-smi").chmod(0o755)
    env = {**gate.env, "PATH": f"{programs}:{os.environ['PATH']}"}
    running = clir.start(*LOCAL, "retriever=gated", env=env)
    until(asked.exists, "the GPUs looked for")
    assert statuses(clir, gate) == ["pending"]
    asked.unlink()
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err


def test_editing_a_yaml_while_steps_wait_changes_nothing(clir: Clir, gate: Gate) -> None:
    gate.ask("hold-a-0")
    running = clir.start(*LOCAL, "launcher.workers=1", "retriever=gated", "retriever.name=a,b", env=gate.env)
    until(lambda: gate.said("started"), "the first index under way")
    gate.yaml.write_text(gate.yaml.read_text().replace("gate:", "weights: nowhere\ngate:"))
    gate.open("a-0")
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert all("nowhere" not in path.read_text() for path in clir.runs.glob("demo.*/*/config.yaml"))


@pytest.mark.parametrize("launcher", ["serial", "local"])
def test_what_failed_without_a_step_is_still_known_when_the_sweep_has_ended(clir: Clir, launcher: str) -> None:
    env = {"HF_HOME": str(clir.folder / "no-models")}
    sweep = ["run", "-m", "--launcher", launcher, "retriever=bm25,labse"]
    clir(*sweep, code=1, env=env)
    written = cells(clir)
    assert [row["status"] for row in written.values()] == ["done", "failed"]
    status = clir("status", env=env).stdout
    assert "failed" in status and "LaBSE is not on this machine" in status and "pending" not in status
    collected = clir("collect", code=1, env=env).stdout
    assert "cell 2: failed: model sentence-transformers/LaBSE" in collected and "without a network" in collected
    assert cells(clir) == written


def test_a_failure_is_forgotten_with_the_next_command_and_collecting_what_waits_exits_1(clir: Clir, gate: Gate) -> None:
    env = {**gate.env, "HF_HOME": str(clir.folder / "no-models")}
    sweep = [*LOCAL, "launcher.workers=1", "retriever=labse,gated", "retriever.name=a"]
    clir(*sweep, code=1, env=env)
    assert [row["status"] for row in cells(clir).values()] == ["failed", "done"]
    gate.ask("hold-b-0")
    sweep = [*LOCAL, "launcher.workers=1", "retriever=gated", "retriever.name=b,c", "--name", "second"]
    running = clir.start(*sweep, env=env)
    until(lambda: gate.said("started").count(("b", "0")) == 1, "the second sweep under way")
    assert "1 running, 1 pending" in clir("collect", "second", code=1, env=env).stdout
    gate.open("b-0")
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert "2 cells: 2 done" in clir("collect", "second", env=env).stdout


def test_a_launcher_is_of_a_whole_sweep(clir: Clir) -> None:
    assert "add -m" in clir("run", "--launcher", "local", code=2).stderr
    assert "choose one first" in clir("run", "-m", "launcher.workers=2", code=2).stderr
    assert "all cells of a sweep have one" in clir("run", "-m", "launcher=local,serial", code=2).stderr
    assert "did you mean workers?" in clir("run", "-m", "launcher=local", "launcher.worker=2", code=2).stderr
    assert "'slrm' does not exist" in clir("run", "-m", "--launcher", "slrm", code=2).stderr
