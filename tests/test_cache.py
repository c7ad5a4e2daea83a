"""What is kept: shown, checked, and thrown away without harm to anybody at work."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Clir
from filelock import SoftFileLease
from gated import Gate
from slurm_cluster import until

from clir_cli import segments
from clir_cli.errors import ConfigError
from clir_cli.files import read_json, write_json
from clir_cli.segments import Segments
from clir_cli.verbs import cache
from clir_cli.verbs.cache import Choice

ALL = Choice()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of one experiment, reranked."""
    clir = Clir(tmp_path_factory.mktemp("cache"))
    clir.experiment("reranker=oracle")
    return clir.runs


@pytest.fixture
def clir(made: Path, tmp_path: Path) -> Clir:
    """A copy of it to do what one likes with."""
    shutil.copytree(made, tmp_path / "runs")
    return Clir(tmp_path)


def only(root: Path, stage: str) -> Path:
    (folder,) = (root / "steps" / stage).glob("[!.]*")
    return folder


def aged(folder: Path, days: float) -> None:
    record = read_json(folder / "step.json")
    record["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - days * 86400))
    write_json(folder / "step.json", record)


# Listing --------------------------------------------------------------------------------------------------------------


def test_the_list_says_how_large_how_old_and_whose(clir: Clir) -> None:
    aged(only(clir.runs, "index"), 40)
    said = clir("cache").stdout
    (experiment,) = (p.name for p in (clir.runs / "demo.en-de").iterdir())
    line = next(line for line in said.splitlines() if "bm25_dt.demo.en-" in line)
    assert " KB " in line and " 40 d " in line and line.endswith(f"demo.en-de/{experiment}")
    assert "index: 1 step, " in said and "\n7 steps, " in said
    rows = json.loads(clir("cache", "--json").stdout)
    assert {row["stage"] for row in rows} == {"docs", "topics", "translate", "index", "retrieve", "rerank"}
    files = [p for p in only(clir.runs, "index").rglob("*") if p.is_file()]
    assert next(r["bytes"] for r in rows if r["stage"] == "index") == sum(p.stat().st_size for p in files)


def test_steps_are_chosen_by_age_size_label_and_reachability(clir: Clir) -> None:
    root = clir.runs
    index = only(root, "index")
    aged(index, 40)

    def stages(choice: Choice) -> list[str]:
        return [step.stage for step in cache.listed(root, choice)]

    assert stages(Choice.parsed("30d", "", "", False, False)) == ["index"]
    assert stages(Choice.parsed("7w", "", "", False, False)) == []
    assert stages(Choice.parsed("", "", "index/*", False, False)) == stages(
        Choice.parsed("", "", "bm25_dt.demo.en", False, False)
    )
    largest = max(cache.listed(root, ALL), key=lambda s: s.size)
    assert stages(Choice.parsed("", f"{largest.size}B", "", False, False)) == [largest.stage]
    assert stages(Choice.parsed("", "", "", True, False)) == []
    shutil.rmtree(next((root / "demo.en-de").iterdir()))
    assert len(stages(Choice.parsed("", "", "", True, False))) == 7
    (root / "sweeps" / "s-0").mkdir(parents=True)
    write_json(
        root / "sweeps" / "s-0" / "plan.json", {"steps": [{"key": only(root, "retrieve").name[-16:]}, {"key": ""}]}
    )
    assert stages(Choice.parsed("", "", "", True, False)) == ["rerank"], (
        "what a sweep's steps were made of is reachable too"
    )
    for option, value in (("older", "soon"), ("older", "3"), ("larger", "big"), ("larger", "1XB")):
        with pytest.raises(ConfigError, match=f"--{option}: expected a number and one of"):
            Choice.parsed(
                **{"older": "", "larger": "", "label": "", "unreachable": False, "broken": False, option: value}
            )  # type: ignore[arg-type]


def test_what_a_stopped_sweep_has_made_is_reachable(clir: Clir) -> None:
    """A sweep writes plan.json at its end; until then its frozen cells say what it needs."""
    sweep = Path(clir("run", "-m", "--quiet", "retriever=bm25_dt,bm25_qt", "reranker=oracle").stderr.splitlines()[-1])
    shutil.rmtree(clir.runs / "demo.en-de")
    assert not cache.listed(clir.runs, Choice(unreachable=True)), "plan.json names them"
    (sweep / "plan.json").unlink()
    assert not cache.listed(clir.runs, Choice(unreachable=True))
    shutil.rmtree(sweep)
    assert len(cache.listed(clir.runs, Choice(unreachable=True))) == len(cache.listed(clir.runs, ALL)) > 7


# Verifying ------------------------------------------------------------------------------------------------------------


def test_rot_and_half_written_folders_are_found_and_mended(clir: Clir) -> None:
    root = clir.runs
    assert "matches it" in clir("cache", "verify").stdout
    whole = (only(root, "retrieve") / "run.trec").read_bytes()
    (only(root, "retrieve") / "run.trec").write_bytes(whole[:-1] + b"!")
    shutil.rmtree(only(root, "rerank") / "run.trec", ignore_errors=True)
    (only(root, "rerank") / "run.trec").unlink()
    (only(root, "topics") / "step.json").write_text("{")
    (only(root, "translate") / "step.json").unlink()
    experiment = next((root / "demo.en-de").iterdir())
    (experiment / "run.trec").write_text("")
    done = clir("cache", "verify", code=1)
    said = {line.split(": ")[0].removeprefix(f"{root}/"): line for line in done.stdout.splitlines() if ": " in line}
    assert len(said) == 5
    assert (
        "run.trec is not what was made: its checksum differs" in said[f"steps/retrieve/{only(root, 'retrieve').name}"]
    )
    assert "run.trec is gone" in said[f"steps/rerank/{only(root, 'rerank').name}"]
    assert "step.json cannot be read" in said[f"steps/topics/{only(root, 'topics').name}"]
    assert "has no step.json" in said[f"steps/translate/{only(root, 'translate').name}"]
    assert "run.trec is not what was made" in said[f"demo.en-de/{experiment.name}"]
    assert clir("cache", "prune", "--broken").stdout.endswith("; --yes does it\n") and only(root, "rerank").exists()
    clir("cache", "prune", "--broken", "--yes")
    shutil.rmtree(experiment)
    clir.experiment("reranker=oracle")
    assert "matches it" in clir("cache", "verify").stdout
    assert (only(root, "retrieve") / "run.trec").read_bytes() == whole


# Pruning --------------------------------------------------------------------------------------------------------------


def test_a_damaged_experiment_is_named_and_its_lost_measures_are_made_again(clir: Clir) -> None:
    folder = clir.experiment("reranker=oracle")
    metrics = (folder / "metrics.csv").read_bytes()
    run = ["run", "reranker=oracle"]
    (folder / "metrics.csv").write_bytes(metrics[:-9])
    assert "metrics.csv is damaged: its end is missing" in clir(*run, code=2).stderr
    (folder / "metrics.csv").unlink()
    assert "nDCG@10" in clir(*run).stdout, "they are made again of the ranking"
    assert (folder / "metrics.csv").read_bytes() == metrics
    (folder / "run.trec").unlink()
    said = clir(*run, code=2).stderr
    assert f"{folder} has lost run.trec" in said and f"delete {folder}: the same `clir run` makes it again" in said
    for broken in ('{"steps', "{}", "[]"):
        (folder / "manifest.json").write_text(broken)
        assert f"{folder}/manifest.json is damaged" in clir(*run, code=2).stderr
        assert f"left out: {folder}/manifest.json is damaged" in clir("list").stderr
    shutil.rmtree(folder)
    (only(clir.runs, "retrieve") / "step.json").unlink()
    assert "has lost step.json" in clir(*run, code=2).stderr


def test_nothing_is_deleted_before_yes_is_said(clir: Clir) -> None:
    root = clir.runs
    before = sorted(root.rglob("*"))
    said = clir("cache", "prune", "--label", "index/*").stdout
    assert said.startswith("would delete  index/bm25_dt.demo.en-") and "1 to delete, " in said
    assert sorted(root.rglob("*")) == before
    assert clir("cache", "prune", "--label", "index/*", "--yes").stdout.startswith("deleted  index/")
    assert [s.stage for s in cache.listed(root, ALL)].count("index") == 0 and not list(root.glob("steps/index/*"))
    assert "deletes what you choose" in clir("cache", "prune", "--yes", code=2).stderr
    assert "go with clir cache prune" in clir("cache", "--yes", code=2).stderr


def test_what_somebody_holds_stays(clir: Clir) -> None:
    root = clir.runs
    step = only(root, "index")
    with SoftFileLease(root / "locks" / f"{step.name[-16:]}.lock", lease_duration=60):
        (row,) = cache.prune(root, Choice(label="index/*"), leftovers=False, yes=True)
        assert row.kept == "a running process needs it" and step.exists()
        assert not cache._delete(root, step, step.name[-16:]), "nor is it taken if the lock came after the look"
    (row,) = cache.prune(root, Choice(label="index/*"), leftovers=False, yes=True)
    assert not row.kept and not step.exists()


def test_what_a_running_experiment_needs_stays_though_nothing_reaches_it(clir: Clir, tmp_path: Path) -> None:
    gate, docs = Gate(tmp_path), clir.folder / "docs.tsv"
    docs.write_text("".join(f"d{i}\tsome text about the number {i}\n" for i in range(60)))
    (clir.folder / "topics.tsv").write_text("q1\tnumber 7\n")
    own = [
        "dataset=files",
        "dataset.docs=docs.tsv",
        "dataset.topics=topics.tsv",
        "dataset.query_lang=en",
        "dataset.doc_lang=en",
    ]
    gate.ask("hold-a-1")
    running = clir.start("run", *own, "retriever=gated", env=gate.env)
    until(lambda: ("a", "1") in gate.said("started"), "the index under way")
    said = clir("cache", "prune", "--unreachable", "--yes", env=gate.env).stdout.splitlines()
    assert [(line.split()[0], line.split()[1].split("-")[0]) for line in said[:-1]] == [
        ("kept", "docs/files.en"),
        ("kept", "topics/files.en"),
    ]
    assert all(line.endswith("a running process needs it") for line in said[:-1])
    gate.open("a-1")
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err


STOPS_HALFWAY = """
import pathlib, shutil, time

def rmtree(folder, *arguments, **more):
    (pathlib.Path(folder) / "step.json").unlink()
    pathlib.Path("half").touch()
    time.sleep(600)

shutil.rmtree = rmtree
"""


def test_a_killed_prune_leaves_no_half_of_a_step(clir: Clir) -> None:
    root = clir.runs
    step = only(root, "index")
    (clir.folder / "sitecustomize.py").write_text(STOPS_HALFWAY)  # Python runs it as it starts
    path = os.pathsep.join([str(clir.folder), clir.env(None)["PYTHONPATH"]])
    running = clir.start("cache", "prune", "--label", "index/*", "--yes", env={"PYTHONPATH": path})
    until((clir.folder / "half").exists, "half of it deleted")
    running.send_signal(signal.SIGKILL)
    running.communicate()
    (trash,) = root.glob("steps/index/.trash-*")
    assert not step.exists() and not [s for s in cache.listed(root, ALL) if s.stage == "index"]
    assert ".trash-" in clir("cache", "prune", "--leftovers", "--yes").stdout and not trash.exists()
    assert "\nmissing" in clir("plan", "reranker=oracle").stdout


def test_leftovers_of_dead_processes_go_and_those_of_the_living_stay(clir: Clir) -> None:
    root = clir.runs
    locks = [root / "locks" / f"{name}.lock" for name in ("a" * 16, "c" * 16, "d" * 16)]
    (root / "locks").mkdir(exist_ok=True)
    code = f"import os, filelock; it = filelock.SoftFileLease({str(locks[1])!r}, lease_duration=60); it.acquire(); os._exit(0)"
    dead = subprocess.Popen([sys.executable, "-c", code])
    dead.wait()
    host = os.uname().nodename
    locks[2].write_text(locks[1].read_text().replace(f"host={host}", "host=another"))
    drafts = [root / "steps" / "index" / f".{c * 16}.draft" for c in "ab"]
    for draft in drafts:
        draft.mkdir()
        (draft / "request.json").write_text("{}")
    (root / f".import-{host}-{dead.pid}-1").mkdir()
    (root / f".import-{host}-{os.getpid()}-1").mkdir()
    for path in (*drafts, *(d / "request.json" for d in drafts), *locks[1:], *root.glob(".import-*")):
        os.utime(path, (0, 0))
    with SoftFileLease(locks[0], lease_duration=60):
        rows = {row.what for row in cache.prune(root, ALL, leftovers=True, yes=True)}
        assert locks[0].exists()
    left = {f"locks/{lock.name}" for lock in locks[1:]}
    assert rows == {f"index/{drafts[1].name}", *left, f".import-{host}-{dead.pid}-1"}
    assert drafts[0].exists() and not drafts[1].exists() and not any(lock.exists() for lock in locks)
    assert (root / f".import-{host}-{os.getpid()}-1").exists()


# Memory ---------------------------------------------------------------------------------------------------------------


def remembered(folder: Path, **values: str) -> None:
    """What another process, which has ended, remembers in `folder`."""
    code = f"from pathlib import Path; from clir_cli.segments import Segments; Segments(Path({str(folder)!r})).put({values!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env=Clir.env(None))


def test_segments_of_dead_processes_become_one_and_say_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "memory" / "answers" / "x"
    for i in range(3):
        remembered(folder, **{f"k{i}": f"v{i}", "shared": f"of {i}"})
    with (folder / "other-host-7-abc.jsonl").open("w") as torn:
        torn.write('{"far": "away"}\n{"torn": ')
    mine = Segments(folder)
    mine.put({"mine": "here"})
    before = dict(Segments(folder)._read())
    reader = Segments(folder)
    assert len(segments.finished(folder, 0)) == 4 and len(segments.finished(folder, 86400)) == 0
    rows = cache.prune(tmp_path, Choice(older=0.0), leftovers=True, yes=True)
    assert [row.what for row in rows] == ["memory/answers/x"]
    assert len(list(folder.glob("*.jsonl"))) == 2, "this process goes on writing into its own"
    assert Segments(folder)._read() == before and reader.get("k1") == "v1"
    mine.put({"more": "after"})
    mine.close()
    assert Segments(folder).get("more") == "after" and Segments(folder).get("far") == "away"


def test_a_reader_that_meets_a_compaction_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered(tmp_path, a="1")
    remembered(tmp_path, b="2")
    merged, met = segments._merged, []

    def compacted_first(paths: list[Path]) -> dict[str, object]:
        if not met:
            met.append(True)
            segments.compact(tmp_path, 0)
        return merged(paths)

    monkeypatch.setattr(segments, "_merged", compacted_first)
    assert Segments(tmp_path)._read() == {"a": "1", "b": "2"}


def test_a_full_disk_while_compacting_loses_nothing(clir: Clir) -> None:
    folder = clir.runs / "memory" / "answers" / "x"
    for name in "ab":
        remembered(folder, **{f"{name}{i}": "an answer" for i in range(60)})
    before, files = Segments(folder)._read(), sorted(folder.iterdir())
    for path in files:
        os.utime(path, (0, 0))

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500, 1_500))

    done = subprocess.run(
        clir.command("cache", "prune", "--leftovers", "--yes"), cwd=clir.folder, env=clir.env(None), preexec_fn=small,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "File too large" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert Segments(folder)._read() == before and sorted(folder.iterdir()) == files
    clir("cache", "prune", "--leftovers", "--yes")
    assert Segments(folder)._read() == before and len(list(folder.iterdir())) == 1
