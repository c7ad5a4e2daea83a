"""What is kept under the root: which steps there are, whether they are whole, and how to be rid of them."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import SoftFileLease, Timeout

from clir_cli import config, plan, provenance, segments
from clir_cli.errors import ClirError, ConfigError, RunError, many
from clir_cli.experiment import Experiment
from clir_cli.files import read_json
from clir_cli.launchers import frozen
from clir_cli.plan import aligned
from clir_cli.progress import track
from clir_cli.stages import Stages
from clir_cli.steps import KEY
from clir_cli.store import DRAFT, LEASE, Store

EXPERIMENTS = "[!.]*.*/[!.]*"  # under the root: <dataset>.<pair>/<retriever>-<key>
TRASH = ".trash-"  # what a folder is called while it is deleted: nothing finds it any more
DAY = 86400.0  # seconds after which a draft of an unknown process counts as left behind, unless --older says otherwise
QUIET = 600.0  # seconds without a heartbeat after which a lock of another host counts as left behind
RESTS = 60.0  # seconds without a write after which a stray file is nobody's, whatever --older says
AGES = {"s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY, "y": 365 * DAY}
SIZES = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


class Choice(NamedTuple):
    """Which steps are meant: those that fit all that is given."""

    older: float | None = None  # seconds
    larger: float | None = None  # bytes
    label: str = ""
    unreachable: bool = False
    broken: bool = False

    @classmethod
    def parsed(cls, older: str, larger: str, label: str, unreachable: bool, broken: bool) -> Choice:
        return cls(
            _measure(older, "--older", AGES, "30d") if older else None,
            _measure(larger.upper(), "--larger", SIZES, "1GB") if larger else None,
            label,
            unreachable,
            broken,
        )

    def fits(self, step: Kept) -> bool:
        return (
            (self.older is None or step.age >= self.older)
            and (self.larger is None or step.size >= self.larger)
            and (not self.label or any(fnmatch.fnmatchcase(n, self.label) for n in (step.label, f"{step.stage}/{step.label}")))
            and (not self.unreachable or not step.reachable)
            and (not self.broken or any(True for _ in _problems(step.folder)))
        )  # fmt: skip


def _measure(text: str, option: str, units: Mapping[str, float], example: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if found is None or found[2] not in units:
        there = ", ".join(filter(None, units))
        raise ConfigError(f"{option}: expected a number and one of {there}, such as {example}; got {text!r}")
    return float(found[1]) * units[found[2]]


@dataclass(frozen=True)
class Kept:
    """A finished step at rest."""

    folder: Path
    stage: str
    label: str
    key: str
    size: int  # bytes
    age: float  # seconds since it was finished
    used_by: tuple[str, ...]  # experiments and sweeps
    reachable: bool  # whether anything that is kept was made of it, directly or not

    @property
    def name(self) -> str:
        return f"{self.label}-{self.key}"

    def record(self) -> dict[str, Any]:
        return {
            "stage": self.stage, "label": self.label, "key": self.key, "bytes": self.size, "age_seconds": round(self.age),
            "used_by": list(self.used_by), "reachable": self.reachable, "folder": str(self.folder),
        }  # fmt: skip


# Listing --------------------------------------------------------------------------------------------------------------


def listed(root: Path, choice: Choice) -> list[Kept]:
    """The finished steps that fit, by stage, the largest first."""
    users = _users(root)
    records = {folder: _record(folder) for folder in _step_folders(root)}
    named = set(users) | (_of_unfinished_sweeps(root) if choice.unreachable else set())
    reachable = _reachable(named, records.values())
    found = [_kept(folder, record, users, reachable) for folder, record in records.items()]
    return sorted((s for s in found if choice.fits(s)), key=lambda s: (s.stage, -s.size, s.name))


def _step_folders(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("steps/*/*") if p.is_dir() and not p.name.startswith("."))


def _record(folder: Path) -> dict[str, Any]:
    """What step.json says; {} where it cannot be read."""
    try:
        record = read_json(folder / "step.json")
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _kept(folder: Path, record: Mapping[str, Any], users: Mapping[str, list[str]], reachable: set[str]) -> Kept:
    key = folder.name[-KEY:]
    try:
        finished = datetime.fromisoformat(record["finished"]).timestamp()
    except (KeyError, TypeError, ValueError):
        finished = folder.stat().st_mtime
    return Kept(
        folder, folder.parent.name, folder.name[: -KEY - 1], key, _size(folder), max(0.0, time.time() - finished),
        tuple(users.get(key, ())), key in reachable,
    )  # fmt: skip


def _users(root: Path) -> dict[str, list[str]]:
    """Key of a step -> the experiments and sweeps whose records name it."""
    found: dict[str, list[str]] = {}
    for path in sorted([*root.glob(f"{EXPERIMENTS}/manifest.json"), *root.glob("sweeps/[!.]*/plan.json")]):
        try:
            keys = [step["key"] for step in read_json(path)["steps"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for key in filter(None, dict.fromkeys(keys)):
            found.setdefault(key, []).append(str(path.parent.relative_to(root)))
    return found


def _of_unfinished_sweeps(root: Path) -> set[str]:
    """The keys of all steps of sweeps that are running or were stopped: their plan.json is written at their end."""
    keys: set[str] = set()
    for note in root.glob(f"sweeps/[!.]*/{frozen.NOTE}"):
        record = note.with_name("plan.json")
        if record.exists() and record.stat().st_mtime_ns >= note.stat().st_mtime_ns:
            continue
        cells = frozen.Frozen(note.parent)
        store = cells.store(eager=False)
        steps = plan.planned([cells[i] for i in range(len(cells))], store).steps
        keys |= {key for step in steps if (key := store.key(step)) is not None}
    return keys


def _reachable(named: set[str], records: Iterable[Mapping[str, Any]]) -> set[str]:
    """The keys that are named, and those of all that came before them."""
    before = {record["key"]: record.get("before", []) for record in records if "key" in record}
    found, rest = set[str](), list(named)
    while rest:
        if (key := rest.pop()) not in found:
            found.add(key)
            rest += before.get(key, [])
    return found


def _size(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(folder) / name).lstat().st_size
    return total


def text(root: Path, steps: list[Kept]) -> str:
    """A line per step, its stage's sum above it, and what else takes place."""
    lines: list[str] = []
    rows = [[f"  {s.name}", _bytes(s.size), _time(s.age), _uses(s)] for s in steps]
    shown = aligned(rows, right=(1, 2)) if rows else []
    for stage in dict.fromkeys(s.stage for s in steps):
        own = [s for s in steps if s.stage == stage]
        lines.append(f"{stage}: {_count(own)}, {_bytes(sum(s.size for s in own))}")
        lines += [line for s, line in zip(steps, shown, strict=True) if s.stage == stage]
    lines.append(f"{_count(steps)}, {_bytes(sum(s.size for s in steps))} in {root / 'steps'}")
    others = {name: _size(root / name) for name in ("memory", "fingerprints", "sweeps")}
    drafts = sum(_size(p) for p in root.glob(f"steps/*/.*{DRAFT}"))
    more = [f"{name} {_bytes(size)}" for name, size in {**others, "drafts": drafts}.items() if size]
    return "\n".join([*lines, *([f"beside them: {', '.join(more)}"] if more else [])])


def _count(steps: list[Kept]) -> str:
    return many(len(steps), "step")


def _uses(step: Kept) -> str:
    if not step.used_by:
        return "behind others" if step.reachable else "unused"
    return step.used_by[0] + (f" and {len(step.used_by) - 1} more" if step.used_by[1:] else "")


def _bytes(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _time(seconds: float) -> str:
    for unit, length in (("d", DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


# Verifying ------------------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """A folder that counts as finished and is not what was made."""

    folder: str
    problem: str


def verify(root: Path, choice: Choice) -> list[Problem]:
    """What is wrong with the steps that fit, and with the experiments: files that are gone or do not match their checksums."""
    folders = [s.folder for s in listed(root, choice)]
    if choice == Choice():
        folders += sorted(p for p in root.glob(EXPERIMENTS) if p.is_dir())
    checked = track(folders, len(folders), "verify", "folders")
    return [Problem(str(folder), problem) for folder in checked for problem in _problems(folder)]


def _problems(folder: Path) -> Iterator[str]:
    is_step = folder.parents[1].name == "steps"
    name = "step.json" if is_step else "manifest.json"
    try:
        record = read_json(folder / name)
        key, files = record["key"], dict(record["files"])
    except FileNotFoundError:
        yield f"has no {name}: it was never finished, or something removed it"
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{name} cannot be read ({type(error).__name__})"
        return
    if not folder.name.endswith(f"-{key}"):
        yield f"{name} says that the key is {key}"
    for file, sha256 in files.items():
        try:
            if provenance.checksum(folder / file) != sha256:
                yield f"{file} is not what was made: its checksum differs"
        except FileNotFoundError:
            yield f"{file} is gone"
        except OSError as error:
            yield f"{file} cannot be read ({error.strerror})"


def verified_text(root: Path, problems: list[Problem]) -> str:
    if not problems:
        return f"every file in {root} that has a checksum matches it"
    lines = [f"{p.folder}: {p.problem}" for p in problems]
    return "\n".join(
        [*lines, "remove broken steps with clir cache prune --broken --yes, broken experiments by hand; clir run makes them again"]
    )  # fmt: skip


# Pruning --------------------------------------------------------------------------------------------------------------


class Pruned(NamedTuple):
    """Something that prune deletes, has deleted, or leaves: `kept` says why."""

    what: str
    size: int
    about: str
    kept: str = ""

    def record(self) -> dict[str, Any]:
        return {"what": self.what, "bytes": self.size, "about": self.about, "kept": self.kept}


def prune(root: Path, choice: Choice, leftovers: bool, yes: bool) -> list[Pruned]:
    """Delete the steps that fit, and what dead processes left; without `yes` only say what would be.

    A folder gets another name before it is emptied: whatever happens, no half of it is found. What a running process
    makes, and what it needs for that, stays.
    """
    if choice == Choice() and not leftovers:
        raise ConfigError(
            "clir cache prune deletes what you choose: --older, --larger, --label, --unreachable, --broken or --leftovers"
        )
    chosen = listed(root, choice) if choice._replace(older=None) != Choice() or not leftovers else []
    needed = _needed(root) if chosen else set[str]()
    found = []
    for step in chosen:
        row = Pruned(f"{step.stage}/{step.name}", step.size, f"{_time(step.age)} old, {_uses(step)}")
        if step.key in needed:
            row = row._replace(kept="a running process needs it")
        elif yes and not _delete(root, step.folder, step.key):
            row = row._replace(kept="a running process is at it")
        found.append(row)
    return found + (list(_leftovers(root, choice.older, yes)) if leftovers else [])


def _needed(root: Path) -> set[str]:
    """The keys of all steps of the experiments that running processes are at."""
    keys: set[str] = set()
    for lock in _live(root):
        keys.add(lock.stem)
        for request in root.glob(f"steps/*/.{lock.stem}{DRAFT}/request.json"):
            try:
                plain = read_json(request)["config"]
                store = Store(root)
                steps = Experiment(config.built(plain), Stages(store)).steps
                keys |= {key for step in steps if (key := store.key(step)) is not None}
            except FileNotFoundError:
                continue  # it has just been finished
            except (ClirError, ValueError, KeyError) as error:
                owner = provenance.lock_owner(lock)
                raise RunError(
                    f"{owner} is at work, and what it needs cannot be told ({error}); prune when it has ended"
                ) from error
    return keys


def _live(root: Path) -> list[Path]:
    return [lock for lock in root.glob("locks/*.lock") if not _is_dead(lock)]


def _is_dead(lock: Path) -> bool:
    """Whether nobody holds a lock any more: its process is gone, or has given no sign of life."""
    try:
        age = time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return True
    return (provenance.lock_is_dead(lock) and age > 1) or age > QUIET


def _delete(root: Path, folder: Path, key: str) -> bool:
    """Delete a folder under its lock: False if somebody holds that."""
    (root / "locks").mkdir(exist_ok=True)
    trash = folder.with_name(f"{TRASH}{key}-{time.time_ns()}")
    try:
        with SoftFileLease(root / "locks" / f"{key}.lock", lease_duration=LEASE, timeout=0):
            folder.rename(trash)
    except Timeout:
        return False
    except FileNotFoundError:
        return True
    shutil.rmtree(trash)
    return True


def _leftovers(root: Path, older: float | None, yes: bool) -> Iterator[Pruned]:
    """What interrupted processes left: half-deleted and half-made folders, locks, memories in many files."""
    age = DAY if older is None else older
    live = {lock.stem for lock in _live(root)}
    for draft in sorted(root.glob(f"steps/*/.*{DRAFT}")):
        key = draft.name[1:].removesuffix(DRAFT)
        if key not in live and (idle := _idle(draft)) >= age:
            row = Pruned(f"{draft.parent.name}/{draft.name}", _size(draft), f"a draft, idle for {_time(idle)}")
            yield row if not yes or _delete(root, draft, key) else row._replace(kept="a running process is at it")
    for path in sorted(_strays(root, age)):
        row = Pruned(
            str(path.relative_to(root)), _size(path) if path.is_dir() else path.stat().st_size, "left half-done"
        )
        if yes and path.is_dir():
            shutil.rmtree(path)
        elif yes:
            path.unlink(missing_ok=True)
        yield row
    for lock in sorted(root.glob("locks/*.lock")):
        if _is_dead(lock):
            yield Pruned(
                f"locks/{lock.name}",
                0,
                "a lock of a process that is gone",
                "" if not yes or _unlock(lock) else "it is held",
            )
    for memory in sorted({p.parent for p in root.glob("memory/**/*.jsonl")}):
        if (files := segments.finished(memory, age))[1:]:
            saved = segments.compact(memory, age) if yes else 0
            yield Pruned(str(memory.relative_to(root)), saved, f"{len(files)} files of finished processes become one")


STRAYS = (".import-*", "*.*/.*.*", "fingerprints/.*.draft", "sweeps/**/.*.draft", "*.*/*/.*.draft", ".*.draft")


def _strays(root: Path, age: float) -> Iterator[Path]:
    """Folders and files that are only there while something is written or deleted."""
    yield from root.glob(f"steps/*/{TRASH}*")
    for pattern in STRAYS:
        for path in root.glob(pattern):
            if _idle(path) >= max(age, RESTS) and not (pattern == ".import-*" and _is_at_work(path)):
                yield path


def _is_at_work(draft: Path) -> bool:
    """Whether the process of this machine that unpacks an archive is alive: it may verify for minutes."""
    host, pid, _ = draft.name.removeprefix(".import-").rsplit("-", 2)
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:
        pass
    return host == socket.gethostname()


def _idle(path: Path) -> float:
    """Seconds since anything in a folder was written."""
    newest = path.stat().st_mtime
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                newest = max(newest, (Path(folder) / name).lstat().st_mtime)
    return max(0.0, time.time() - newest)


def _unlock(lock: Path) -> bool:
    """Remove a lock: as it is after a long silence, else by taking it over; False if somebody was quicker."""
    try:
        stat = lock.stat()
        if stat.st_size == 0 or time.time() - stat.st_mtime > QUIET:  # its writer was killed at it, or its host is gone
            lock.unlink()
            return True
        with SoftFileLease(lock, lease_duration=LEASE, timeout=0):
            return True
    except FileNotFoundError:
        return True
    except Timeout:
        return False


def pruned_text(rows: list[Pruned], yes: bool) -> str:
    gone = [r for r in rows if not r.kept]
    done = "deleted" if yes else "would delete"
    table = [
        ("kept" if r.kept else done, r.what, _bytes(r.size), r.about + (f": {r.kept}" if r.kept else "")) for r in rows
    ]
    total = f"{len(gone)} {'deleted' if yes else 'to delete'}, {_bytes(sum(r.size for r in gone))}"
    return "\n".join(
        [*(aligned(table, right=(2,)) if table else []), total + ("" if yes or not gone else "; --yes does it")]
    )
