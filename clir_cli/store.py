"""Where results are: the only place that decides what is cached, finds it by identity, and makes it exactly once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from filelock import SoftFileLease, Timeout

from clir_cli import provenance
from clir_cli.errors import ClirError, DataError, RunError
from clir_cli.files import again, read_json, sync, write_json
from clir_cli.fingerprints import Fingerprints
from clir_cli.progress import say, track
from clir_cli.segments import Segments
from clir_cli.steps import KEY, Counts, Ranking, Shards, Step, digest, pending

if TYPE_CHECKING:
    from clir_cli.ledger import Ledger

LEASE = 60.0  # seconds without a heartbeat after which another host may take a step over
POLL = 0.25  # seconds between looks at a step that somebody else makes
DRAFT = ".draft"
CLOCK_TICK = 2_000_000_000  # nanoseconds: the coarsest times that file systems give to changes


class State(NamedTuple):
    """Where a step stands: `done`, `missing`, `in progress`, `failed` or `undecided` (its identity is not known yet)."""

    name: Literal["done", "missing", "in progress", "failed", "undecided"]
    note: str = ""


@dataclass
class At:
    """What a step's `make` works with: its draft folder, and the finished folders of the steps before it."""

    store: Store
    draft: Path

    def __getitem__(self, step: Step) -> Path:
        found = self.store.folder(step)
        if found is None:
            raise RunError(
                f"{step.stage} {step.label} is needed first, and is not there; was its folder removed meanwhile?"
            )
        return found

    def shards(self) -> list[Path]:
        return sorted(p for p in (self.draft / "shards").glob("*") if not p.name.startswith("."))


@dataclass
class Store:
    """The results under `root`: `steps/<stage>/<label>-<key>/`, found and locked by the key alone."""

    root: Path
    eager: bool = True  # False while planning: no large file is read
    ledgers: tuple[
        Ledger, ...
    ] = ()  # what all that is asked of served models from here is booked in, beside each step's
    pins: dict[str, str] = field(default_factory=dict)  # hub model -> commit, as a repeated configuration says
    prints: Fingerprints = field(init=False)
    _found: dict[str, Path] = field(default_factory=dict)
    _keys: dict[Step, str] = field(default_factory=dict)
    _promises: dict[Step, str] = field(default_factory=dict)
    _listed: dict[str, tuple[int | None, dict[str, Path]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prints = Fingerprints(self.root / "fingerprints", self.eager)

    # Identity

    def key(self, step: Step) -> str | None:
        """The step's identity; None while a file is to be fingerprinted, a model to be resolved, or what it ranks is not made."""
        if step not in self._keys:
            if pending(step.meaning):
                return None
            said: dict[str, Any] = {"stage": step.stage, **step.meaning, "parents": [self.key(p) for p in step.parents]}
            if step.candidates:
                said["candidates"] = self.contents(*step.candidates)
            if None in said["parents"] or said.get("candidates", "") is None:
                return None
            self._keys[step] = digest(said)
        return self._keys[step]

    def promise(self, step: Step) -> str:
        """A name for the step that is known before anything is made: equal promises become equal steps."""
        if step not in self._promises:
            said: dict[str, Any] = {
                "stage": step.stage,
                **step.meaning,
                "parents": [self.promise(p) for p in step.parents],
            }
            if step.candidates:
                ranking, depth = step.candidates
                said["candidates"] = [[self.promise(s) for s in ranking.steps], depth]
            self._promises[step] = digest(said)
        return self._promises[step]

    def contents(self, ranking: Ranking, depth: int) -> str | None:
        """A hash of which documents a ranking holds in which order, `depth` deep; None if it is not made."""
        if any(self.folder(step) is None for step in ranking.steps):
            return None
        if ranking.under is not None:
            return _hash_lists(self.lists(ranking, depth))
        path = self._trec(ranking.step)
        if (known := self.prints.remembered(path, f"contents {depth}")) is None:
            known = _hash_lists(self.lists(ranking, depth))
            self.prints.remember(path, f"contents {depth}", known)
        return str(known)

    def lists(self, ranking: Ranking, depth: int | None = None) -> dict[str, list[str]]:
        """query_id -> doc_ids, best first, of a finished ranking with its tail."""
        own = read_lists(self._trec(ranking.step))
        if ranking.under is not None:  # a dict keeps the first place of a document: reranked ones before the rest
            under = self.lists(ranking.under)
            rest = {q: docs[ranking.gone if q in own else 0 :] for q, docs in under.items()}
            own = {q: list(dict.fromkeys([*own.get(q, ()), *docs])) for q, docs in rest.items()}
        return {q: docs[:depth] for q, docs in own.items()}

    def _trec(self, step: Step) -> Path:
        folder = self.folder(step)
        assert folder is not None
        return folder / "run.trec"

    # Finding

    def folder(self, step: Step) -> Path | None:
        """The finished folder of a step, whatever its label."""
        key = self.key(step)
        if key is None:
            return None
        if key not in self._found and (found := self._look(step.stage).get(key)) is not None:
            self._found[key] = found
        return self._found.get(key)

    def _look(self, stage: str) -> dict[str, Path]:
        """key -> folder of a stage's finished steps; its directory is read again only if it may have changed."""
        folder = self.root / "steps" / stage
        try:
            changed = folder.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        known, listed = self._listed.get(stage, (None, {}))
        if changed != known:
            at = time.time_ns()
            listed = self._list(folder)
            settled = at - changed > CLOCK_TICK  # else another step may still come at what counts as the same time
            self._listed[stage] = (changed if settled else None, listed)
        return listed

    @staticmethod
    def _list(stage: Path) -> dict[str, Path]:
        if not stage.is_dir():
            return {}
        return {entry.name[-KEY:]: Path(entry.path) for entry in os.scandir(stage) if not entry.name.startswith(".")}

    def state(self, step: Step) -> State:
        key = self.key(step)
        if key is None:
            return State("undecided", "; ".join(pending(step.meaning)) or "its identity follows from what it ranks")
        if self.folder(step) is not None:
            return State("done")
        if held(lock := self._lock(key)):
            return State("in progress", f"on {provenance.lock_owner(lock)}")
        failed = self.failure(step)
        return State("failed", failed["error"].splitlines()[0]) if failed else State("missing")

    def failure(self, step: Step) -> dict[str, Any] | None:
        """Why the last attempt at a step failed: `error`, `at`, and `state` where it is timeout or oom."""
        key = self.key(step)
        if key is None:
            return None
        try:
            note: dict[str, Any] = read_json(self._draft(step, key) / "failed.json")
        except FileNotFoundError:
            return None
        return note

    def blame(self, step: Step, error: str, state: str = "failed") -> None:
        """Note why an attempt at a step failed; the next one removes the note."""
        key = self.key(step)
        if key is not None and self.folder(step) is None:
            write_json(self._draft(step, key) / "failed.json", {"error": error, "at": provenance.now(), "state": state})

    def blame_dead(self, step: Step, error: str, state: str) -> None:
        """Note that a process of this machine died at a step, unless another has taken the step over."""
        if (key := self.key(step)) is not None:
            with suppress(Timeout), SoftFileLease(self._lock(key), lease_duration=LEASE, timeout=1):
                self.blame(step, error, state)

    def forgive(self, step: Step) -> None:
        """Forget a failure: the step is to be tried again."""
        if (key := self.key(step)) is not None:
            (self._draft(step, key) / "failed.json").unlink(missing_ok=True)

    def record(self, step: Step) -> dict[str, Any]:
        """The step.json of a finished step."""
        folder = self.folder(step)
        assert folder is not None
        if not (folder / "step.json").exists():
            raise DataError(f"{folder} has lost step.json\n  {again(folder)}")
        record: dict[str, Any] = read_json(folder / "step.json")
        return record

    def relatives(self, step: Step, most: int) -> list[dict[str, Any]]:
        """The records of the `most` newest finished steps of one stage; only these are read."""
        folders = self._list(self.root / "steps" / step.stage).values()
        records = [f / "step.json" for f in folders if (f / "step.json").exists()]
        newest = sorted(records, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [read_json(path) for path in newest[:most]]

    # Making

    def make(self, step: Step, wait: bool = True) -> Literal["made", "found", "busy"]:
        """Make a step, or find it made. Exactly one process makes it; the others wait, or are told that it is busy."""
        told = False
        while True:
            if self.folder(step) is not None:
                return "found"
            key = self.key(step)
            if key is None:
                raise RunError(f"{step.stage} {step.label} cannot be made yet: {self.state(step).note}")
            try:
                if self._make(step, key):
                    return "made"
            except Timeout:
                _mend_empty(self._lock(key))
                if not wait:
                    return "busy"
                if not told:
                    say(
                        f"{step.stage} {step.label}: waiting for {provenance.lock_owner(self._lock(key))}, who is making it"
                    )
                    told = True
                time.sleep(POLL)

    def _make(self, step: Step, key: str) -> bool:
        """True if this process made it; False if it turned out to be there, or the lease was lost on the way."""
        lock = self._lock(key)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with (lease := SoftFileLease(lock, lease_duration=LEASE, timeout=0)):
            if self.folder(step) is not None:  # finished between the look and the lock
                return False
            draft = self._draft(step, key)
            draft.mkdir(parents=True, exist_ok=True)
            (draft / "failed.json").unlink(missing_ok=True)
            write_json(
                draft / "request.json", {"key": key, "stage": step.stage, "root": str(self.root), "config": step.config}
            )
            try:
                if step.needs.python:
                    self._elsewhere(step.needs.python, draft)
                else:
                    self.fill(step, key, draft)
            except Exception as error:
                if not _is_ours(lease):
                    return False
                self.blame(step, f"{error}" if isinstance(error, ClirError) else f"{type(error).__name__}: {error}")
                raise
            if not _is_ours(lease):  # it ran out under us: its new owner finishes
                return False
            self._publish(draft, self.root / "steps" / step.stage / f"{_safe(step.label)}-{key}")
            return True

    def fill(self, step: Step, key: str, draft: Path) -> None:
        """Make the missing shards, then the rest, then step.json, whose presence means that the folder is complete."""
        begun, at = time.monotonic(), At(self, draft)
        counts, earlier = self._fill_shards(step.shards, step, at) if step.shards else ([], 0.0)
        total = _sum([*counts, step.make(at)])
        for note in ("request.json", "failed.json"):  # the latter of an attempt that another process gave up meanwhile
            (draft / note).unlink(missing_ok=True)
        seconds = time.monotonic() - begun + earlier
        before = [self.key(p) for p in step.before]
        write_json(draft / "step.json", provenance.step_record(step, key, before, seconds, total, draft))

    def _fill_shards(self, shards: Shards, step: Step, at: At) -> tuple[list[Counts], float]:
        """Make the shards that are not there; the counts of all, and the seconds that the others took before."""
        folder, total = at.draft / "shards", shards.total(at)
        folder.mkdir(exist_ok=True)
        numbers = range(-(-total // shards.size))
        found = [i for i in numbers if (folder / f"{i:05d}").is_dir()]
        for i in track(numbers, total, f"{step.stage} {step.label}", shards.unit, shards.size):
            if i not in found:
                self._make_shard(shards, at, i, folder)
        for left in folder.glob(".*"):  # only now: tasks of an array may have been at work beside
            shutil.rmtree(left, ignore_errors=True)
        counts = [read_json(folder / f"{i:05d}" / "counts.json") for i in numbers]
        seconds = [count.pop("seconds") for count in counts]
        return counts, sum(seconds[i] for i in found)

    def make_shards(self, step: Step, task: int, tasks: int) -> None:
        """Make this task's share of the missing shards, beside the other tasks of an array; `make` finishes the step."""
        key = self.key(step)
        if key is None or step.shards is None:
            raise RunError(f"{step.stage} {step.label} has no shards to be made yet: {self.state(step).note}")
        if self.folder(step) is not None:
            return
        at = At(self, self._draft(step, key))
        folder, total = at.draft / "shards", step.shards.total(at)
        folder.mkdir(parents=True, exist_ok=True)
        numbers = range(task, -(-total // step.shards.size), tasks)
        for i in track(numbers, len(numbers), f"{step.stage} {step.label}", "shards"):
            if not (folder / f"{i:05d}").is_dir():
                try:
                    self._make_shard(step.shards, at, i, folder)
                except Exception:
                    if self.folder(step) is None:
                        raise
                    return  # another process made the whole step meanwhile, and took its draft away

    def _make_shard(self, shards: Shards, at: At, i: int, folder: Path) -> None:
        part, begun = folder / f".{i:05d}-{uuid.uuid4().hex}", time.monotonic()
        part.mkdir()
        counts = shards.make(at, i, part)
        write_json(part / "counts.json", {**counts, "seconds": time.monotonic() - begun})
        self._publish(part, folder / f"{i:05d}")
        _give_back()

    @staticmethod
    def _publish(draft: Path, final: Path) -> None:
        sync(draft)
        try:
            draft.rename(final)
        except OSError:
            if not final.is_dir():
                raise
            shutil.rmtree(draft, ignore_errors=True)  # somebody else was first, with the same result: success

    @staticmethod
    def _elsewhere(python: str, draft: Path) -> None:
        """Make the step with another interpreter, which has the packages that the model wants; only files are exchanged."""
        done = subprocess.run(
            [python, "-m", "clir_cli", "step", str(draft)], text=True, stderr=subprocess.PIPE, check=False
        )
        if done.returncode:
            raise RunError(f"{python} could not make the step:\n{done.stderr.strip()[-2000:]}")

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Wait for a lock of this store that is held for moments, and hold it."""
        lock = self._lock(what)
        lock.parent.mkdir(parents=True, exist_ok=True)
        lease = SoftFileLease(lock, lease_duration=LEASE)
        while not lease.is_locked:
            _mend_empty(lock)
            with suppress(Timeout):
                lease.acquire(timeout=1)
        try:
            yield
        finally:
            lease.release()

    def _lock(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.lock"

    def _draft(self, step: Step, key: str) -> Path:
        return self.root / "steps" / step.stage / f".{key}{DRAFT}"  # one name for every attempt: shards survive

    def memory(self, name: str) -> Segments:
        """Answers or translations kept over all experiments."""
        return Segments(self.root / "memory" / name)


def held(lock: Path) -> bool:
    """Whether somebody is at work under a lease: its heart beats, and its process is not known to be gone."""
    try:
        return time.time() - lock.stat().st_mtime < LEASE and not provenance.lock_is_dead(lock)
    except FileNotFoundError:
        return False


def _is_ours(lease: SoftFileLease) -> bool:
    """Whether nobody has taken over a lease that this process holds; its heart notices that later."""
    try:
        return str(lease.token) in Path(lease.lock_file).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False


def _mend_empty(lock: Path) -> None:
    """A marker of 0 bytes (its writer was killed between open and write) is taken over by nobody: remove it."""
    with suppress(FileNotFoundError):
        stat = lock.stat()
        if stat.st_size == 0 and time.time() - stat.st_mtime > LEASE:
            lock.unlink()


def _give_back() -> None:
    """Return freed memory to the system: glibc keeps it, in more pieces after every shard. Other C libraries do it unasked."""
    import ctypes

    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def read_lists(trec: Path) -> dict[str, list[str]]:
    """query_id -> doc_ids in file order, of a TREC file that clir wrote (ranks in order)."""
    lists: dict[str, list[str]] = {}
    with trec.open(encoding="utf-8") as lines:
        for line in lines:
            query, _, doc, _ = line.split(" ", 3)
            lists.setdefault(query, []).append(doc)
    return lists


def _hash_lists(lists: Mapping[str, list[str]]) -> str:
    value = hashlib.sha256()
    for query in sorted(lists):
        value.update(f"{query}\t{' '.join(lists[query])}\n".encode())
    return value.hexdigest()[:KEY]


def _sum(counts: list[Counts]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in counts:
        for name, amount in part.items():
            total[name] = total.get(name, 0) + amount
    return total


def _safe(label: str) -> str:
    return "".join(c if c.isalnum() or c in "._~+=-" else "_" for c in label)[:80]
