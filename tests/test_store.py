"""Every step is made exactly once, whatever happens to those who make it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from clir_cli import store as store_module
from clir_cli.errors import RunError
from clir_cli.files import read_json, write_json, write_text
from clir_cli.steps import Counts, Ranking, Shards, Step
from clir_cli.store import At, Store


def noting(folder: Path, name: str, parents: tuple[Step, ...] = (), meaning: Mapping[str, Any] | None = None) -> Step:
    """A step that writes a file, and a note that it was made."""

    def make(at: At) -> Counts:
        with (folder / "made").open("a") as out:
            out.write(f"{name}\n")
        (at.draft / "result").write_text(name)
        return {"documents": 1}

    return Step("index", name, {}, meaning or {"name": name}, make, parents)


def made(folder: Path) -> list[str]:
    return (folder / "made").read_text().split() if (folder / "made").exists() else []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def test_a_finished_step_is_found_and_not_made_again(store: Store, tmp_path: Path) -> None:
    step = noting(tmp_path, "bm25")
    assert (store.make(step), store.make(step), Store(store.root).make(step)) == ("made", "found", "found")
    assert made(tmp_path) == ["bm25"]


def test_two_names_for_one_meaning_are_one_step(store: Store, tmp_path: Path) -> None:
    store.make(noting(tmp_path, "bm25", meaning={"k1": 0.9}))
    assert store.make(noting(tmp_path, "my_bm25", meaning={"k1": 0.9})) == "found"


def test_the_record_says_what_how_and_where(store: Store, tmp_path: Path) -> None:
    first = noting(tmp_path, "docs")
    step = noting(tmp_path, "index", (first,))
    store.make(first)
    store.make(step)
    record = store.record(step)
    assert record["before"] == [store.key(first)] and record["counts"] == {"documents": 1}
    assert {"seconds", "peak_memory_mb", "packages", "git", "host", "command", "config", "meaning", "finished"} <= set(
        record
    )
    assert list(record["files"]) == ["result"]


def test_a_step_that_fails_leaves_a_note_and_nothing_that_counts(store: Store) -> None:
    def fail(at: At) -> Counts:
        (at.draft / "half").write_text("half")
        raise RunError("the disk is full")

    step = Step("index", "x", {}, {"a": 1}, fail)
    with pytest.raises(RunError):
        store.make(step)
    assert store.folder(step) is None
    assert store.state(step) == ("failed", "the disk is full")


def joined(at: At) -> Counts:
    (at.draft / "all").write_text("".join((shard / "x").read_text() for shard in at.shards()))
    return {}


def test_shards_that_are_done_are_not_done_again(store: Store) -> None:
    asked: list[int] = []

    def shard(at: At, i: int, folder: Path) -> Counts:
        asked.append(i)
        if i == 2 and len(asked) == 3:
            raise RunError("the power went")
        (folder / "x").write_text(str(i))
        return {"documents": 10}

    step = Step("index", "x", {}, {"a": 1}, joined, shards=Shards(lambda at: 45, shard, "documents", 10))
    with pytest.raises(RunError):
        store.make(step)
    store.make(step)
    assert asked == [0, 1, 2, 2, 3, 4]
    folder = store.folder(step)
    assert folder is not None and (folder / "all").read_text() == "01234"
    assert store.record(step)["counts"]["documents"] == 50


HOLDS = """
import sys, time
from filelock import SoftFileLease
with SoftFileLease(sys.argv[1], lease_duration=60):
    print("locked", flush=True)
    time.sleep(600)
"""


@contextmanager
def held_elsewhere(lock: Path) -> Iterator[None]:
    """While another process holds a lock; then it is killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE, text=True)
    with holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline().strip() == "locked"
            yield
        finally:
            holder.kill()


def test_a_draft_of_a_killed_process_is_taken_over_at_once(store: Store, tmp_path: Path) -> None:
    step = noting(tmp_path, "x")
    (store.root / "locks").mkdir(parents=True)
    with held_elsewhere(store.root / "locks" / f"{store.key(step)}.lock"):
        assert store.make(step, wait=False) == "busy"
        assert store.state(step).name == "in progress"
    begun = time.monotonic()
    assert store.make(step) == "made"
    assert time.monotonic() - begun < 30, "well before the lease runs out"


def test_an_empty_lock_left_by_a_crash_does_not_block_for_ever(store: Store, tmp_path: Path) -> None:
    step = noting(tmp_path, "x")
    lock = store.root / "locks" / f"{store.key(step)}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    old = time.time() - 3600
    os.utime(lock, (old, old))
    assert store.make(step) == "made"


def test_an_empty_lock_that_all_sweeps_share_does_not_block_for_ever(store: Store) -> None:
    lock = store.root / "locks" / "queue.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (0, 0))
    with store.alone("queue"):
        assert lock.stat().st_size
    assert not lock.exists()


def test_a_failure_that_is_forgotten_while_it_is_read_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step("index", "x", {}, {"a": 1}, lambda at: {})
    store.blame(step, "the power went")
    assert store.state(step).name == "failed"
    read = store_module.read_json

    def forgotten_first(path: Path) -> Any:
        path.unlink()
        return read(path)

    monkeypatch.setattr(store_module, "read_json", forgotten_first)
    assert store.state(step).name == "missing"


def test_a_step_that_was_taken_over_is_not_blamed_for_the_death_of_who_made_it_before(store: Store) -> None:
    step = Step("index", "x", {}, {"a": 1}, lambda at: {})
    (store.root / "locks").mkdir(parents=True)
    with held_elsewhere(store.root / "locks" / f"{store.key(step)}.lock"):
        store.blame_dead(step, "a worker died", "failed")
        assert store.state(step).name == "in progress"
    assert store.state(step).name == "missing"
    store.blame_dead(step, "a worker died", "failed")
    assert store.state(step) == ("failed", "a worker died")


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_who_lost_a_step_to_another_process_neither_finishes_nor_blames_it(store: Store, ends: str) -> None:
    """A process that was stopped for a minute, with Ctrl-Z say, goes on where another has begun."""

    def make(at: At) -> Counts:
        lock.unlink()
        others.enter_context(held_elsewhere(lock))
        if ends == "badly":
            raise RunError("a file is gone")
        return {}

    step = Step("index", "x", {}, {"a": 1}, make)
    lock = store.root / "locks" / f"{store.key(step)}.lock"
    with ExitStack() as others:
        assert store.make(step, wait=False) == "busy"
        assert store.folder(step) is None and store.failure(step) is None


def test_two_processes_of_one_number_on_two_machines_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "note.json"

    def beside_another(out: IO[str]) -> None:
        write_json(path, {"by": "them"})
        out.write('{"by": "us"}')

    write_text(path, beside_another)
    assert read_json(path) == {"by": "us"} and [p.name for p in tmp_path.iterdir()] == ["note.json"]


def test_a_failure_noted_while_a_step_is_made_is_no_part_of_it(store: Store) -> None:
    def make(at: At) -> Counts:
        store.blame(step, "the job before this one died")
        return {}

    step = Step("index", "x", {}, {"a": 1}, make)
    store.make(step)
    folder = store.folder(step)
    assert folder is not None and [path.name for path in folder.iterdir()] == ["step.json"]


@pytest.mark.parametrize("other", ["ends well", "fails"])
def test_a_task_of_an_array_ends_well_though_another_process_makes_the_step_beside_it(store: Store, other: str) -> None:
    met: list[int] = []

    def shard(at: At, i: int, folder: Path) -> Counts:
        met.append(i)
        if len(met) == 1:  # the task is at its first shard
            if other == "fails":
                with pytest.raises(RunError):
                    Store(store.root).make(step)
            else:
                assert Store(store.root).make(step) == "made"
        elif i == 2 and other == "fails" and len(met) < 5:
            raise RunError("the power went")
        (folder / "x").write_text(str(i))
        return {"documents": 10}

    step = Step("index", "x", {}, {"a": 1}, joined, shards=Shards(lambda at: 45, shard, "documents", 10))
    store.make_shards(step, 0, 2)
    store.make(step)
    folder = store.folder(step)
    assert folder is not None and (folder / "all").read_text() == "01234"
    assert {path.name for path in (folder / "shards").iterdir()} == {f"{i:05d}" for i in range(5)}


def test_a_killed_task_of_an_array_goes_on_under_its_old_process_id(store: Store) -> None:
    def shard(at: At, i: int, folder: Path) -> Counts:
        return {"documents": 10}

    step = Step("index", "x", {}, {"a": 1}, lambda at: {}, shards=Shards(lambda at: 10, shard, "documents", 10))
    left = store.root / "steps" / "index" / f".{store.key(step)}.draft" / "shards" / f".00000-{os.getpid()}"
    left.mkdir(parents=True)  # in a container, every process has the same few numbers
    store.make_shards(step, 0, 2)
    assert store.make(step) == "made" and not left.exists()


SLOW = """
import sys, time
from pathlib import Path
from clir_cli.steps import Shards, Step
from clir_cli.store import Store

store, log = Store(Path(sys.argv[1])), Path(sys.argv[2])

def shard(step):
    def make(at, i, folder):
        time.sleep(0.01)
        (folder / "x").write_text(f"{step}.{i}")
        with log.open("a") as out:
            out.write(f"{step}.{i}\\n")
        return {"documents": 1}
    return make

def finish(at):
    (at.draft / "all").write_text("".join((s / "x").read_text() for s in at.shards()))
    return {}

for n in range(6):
    store.make(Step("index", f"s{n}", {}, {"n": n}, finish, shards=Shards(lambda at: 8, shard(n), "documents", 1)))
"""


def test_four_processes_and_kill_minus_nine_make_every_step_once(tmp_path: Path) -> None:
    program, log = tmp_path / "work.py", tmp_path / "log"
    program.write_text(SLOW)
    root = tmp_path / "runs"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(program), str(root), str(log)], env=env, stderr=subprocess.DEVNULL)

    workers = [start() for _ in range(4)]
    for n in range(6):
        time.sleep(0.35)
        workers[n % 4].send_signal(signal.SIGKILL)
        workers[n % 4].wait()
        workers[n % 4] = start()
    assert [w.wait(timeout=120) for w in workers] == [0, 0, 0, 0]
    finished = sorted(p for p in (root / "steps" / "index").iterdir())
    assert [p.name.rsplit("-", 1)[0] for p in finished] == [f"s{n}" for n in range(6)], "no draft is left"
    for n, folder in enumerate(finished):
        assert (folder / "all").read_text() == "".join(f"{n}.{i}" for i in range(8))
    done = log.read_text().split()
    assert len(done) <= 48 + 6, "a kill costs at most the shard it hit"


def test_a_reranking_is_identified_by_what_it_ranks(store: Store, tmp_path: Path) -> None:
    def ranking(name: str, docs: str) -> Step:
        def make(at: At) -> Counts:
            lines = [f"q1 Q0 {d} {r} {10 - r} t\n" for r, d in enumerate(docs, 1)]
            (at.draft / "run.trec").write_text("".join(lines))
            return {}

        return Step("retrieve", name, {}, {"name": name}, make)

    def reranked(first: Step, depth: int) -> Step:
        return Step("rerank", "r", {}, {"reranker": "x"}, lambda at: {}, candidates=(Ranking(first), depth))

    a, b = ranking("k1=0.9", "abcd"), ranking("k1=1.2", "abdc")
    assert store.key(reranked(a, 2)) is None and store.state(reranked(a, 2)).name == "undecided"
    store.make(a)
    store.make(b)
    assert store.key(reranked(a, 2)) == store.key(reranked(b, 2)), "the first two documents are the same"
    assert store.key(reranked(a, 4)) != store.key(reranked(b, 4))


def test_the_tail_of_a_ranking_follows_what_was_reranked(store: Store) -> None:
    def trec(name: str, docs: str) -> Step:
        def make(at: At) -> Counts:
            (at.draft / "run.trec").write_text("".join(f"q1 Q0 {d} {r} {10 - r} t\n" for r, d in enumerate(docs, 1)))
            return {}

        step = Step("retrieve", name, {}, {"name": name}, make)
        store.make(step)
        return step

    first, second = trec("first", "abcd"), trec("second", "ba")
    assert store.lists(Ranking(second, Ranking(first))) == {"q1": ["b", "a", "c", "d"]}
    assert store.lists(Ranking(second)) == {"q1": ["b", "a"]}


def test_memory_survives_a_torn_line_and_many_writers(store: Store) -> None:
    one, two = store.memory("answers"), store.memory("answers")
    one.put({"a": 1, "b": [1, 2]})
    two.put({"c": "ü"})
    one.close()
    two.close()
    segment = next((store.root / "memory" / "answers").glob("*.jsonl"))
    with segment.open("a") as out:
        out.write('{"d": 4, "e"')
    again = store.memory("answers")
    assert (again.get("a"), again.get("b"), again.get("c"), again.get("d")) == (1, [1, 2], "ü", None)


def test_a_step_record_is_json(store: Store, tmp_path: Path) -> None:
    step = noting(tmp_path, "x")
    store.make(step)
    folder = store.folder(step)
    assert folder is not None and json.loads((folder / "step.json").read_text())["key"] == store.key(step)
