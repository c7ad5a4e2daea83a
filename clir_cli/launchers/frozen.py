"""The cells of a sweep as they were frozen: what its workers build from, so that editing a yaml while they wait changes nothing."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import shlex
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import SoftFileLease

from clir_cli import provenance
from clir_cli.compose import Cell
from clir_cli.errors import ClirError, ConfigError
from clir_cli.files import read_json, write_json
from clir_cli.launchers.outcome import Outcome
from clir_cli.ledger import Budget, Ledger
from clir_cli.plan import Plan
from clir_cli.steps import digest
from clir_cli.store import LEASE, Store, held

NOTE = "sweep.json"  # of a sweep folder: which cells it has, since when, and what may be spent
AT_WORK = ".at_work"  # of a sweep folder: a lease of each command of this machine's processes that works on it
CANCELLED = "cancelled"  # of a sweep of which no more jobs are to be queued
FAILED = "failed.json"  # of a sweep whose command has ended: number of a cell -> its state and error


def freeze(plan: Plan, folder: Path, launcher: str, **more: Any) -> str:
    """Write the cells into a sweep folder, in a file called by what it holds; its name, which jobs are given.

    `more` is noted beside it: `cached` and `refused` cells, and when the sweep was `begun` if that was before.
    """
    cells = [*(item.cell for item in plan.cells), *plan.skipped]  # these last: cells are known by their numbers
    lines = [json.dumps(vars(cell), ensure_ascii=False) for cell in cells]
    name = f"cells-{digest(lines)}.jsonl.gz"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        draft = folder / f".{name}.{uuid.uuid4().hex}.draft"
        with gzip.open(draft, "wt", encoding="utf-8", compresslevel=4) as out:
            out.writelines(f"{line}\n" for line in lines)
        draft.replace(folder / name)
    ledgers = [[str(ledger.path), asdict(ledger.budget)] for ledger in plan.store.ledgers]
    said = {
        "cells": name,
        "begun": provenance.now(),
        "launcher": launcher,
        "command": shlex.join(["clir", *sys.argv[1:]]),
        "ledgers": ledgers,
        "cached": [],
        "refused": {},
    }
    for name_of_earlier in (FAILED, CANCELLED):
        (folder / name_of_earlier).unlink(missing_ok=True)
    write_json(folder / NOTE, said | more)
    return name


def note(folder: Path) -> dict[str, Any]:
    if not (folder / NOTE).exists():
        raise ConfigError(f"{folder} is not the folder of a sweep: it has no {NOTE}")
    found: dict[str, Any] = read_json(folder / NOTE)
    return found


@contextlib.contextmanager
def noted(folder: Path, finished: Callable[[Outcome], None]) -> Iterator[Callable[[Outcome], None]]:
    """What to call with every outcome, instead of `finished`; the failures are noted when the sweep ends, however it does.

    The store has those of steps; a model that is not here or a check that refuses a cell belongs to no step.
    Until the end a lease says that somebody is at work.
    """
    found: dict[str, tuple[str, str]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    lease = SoftFileLease(folder / f"{AT_WORK}-{uuid.uuid4().hex}", lease_duration=LEASE)

    def heard(outcome: Outcome) -> None:
        if (error := outcome.error) is not None:
            what = str(error) if isinstance(error, ClirError) else f"{type(error).__name__}: {error}"
            found[str(outcome.cell.number)] = (outcome.status, what)
        finished(outcome)

    with lease:
        try:
            yield heard
        finally:
            with contextlib.suppress(OSError):  # a full disk is the reason of the failures, and told with them
                if found:
                    write_json(folder / FAILED, found)


def is_left(folder: Path) -> bool:
    """Whether nobody is at work on a sweep of this machine's processes: its command has ended, was stopped or died."""
    return not any(held(lease) for lease in folder.glob(f"{AT_WORK}-*"))


def failures(folder: Path) -> dict[str, tuple[str, str]]:
    """Number of a cell -> its state and error, of a sweep whose command has ended in this machine's processes."""
    try:
        found: dict[str, tuple[str, str]] = read_json(folder / FAILED)
    except FileNotFoundError:
        return {}
    return found


def mark_cancelled(folder: Path) -> None:
    """Until its command is given again, no jobs are to be queued for a sweep."""
    (folder / CANCELLED).touch()


def is_cancelled(folder: Path) -> bool:
    return (folder / CANCELLED).exists()


class Made:
    """Which steps the workers of a sweep made, and did not find, since its command was given; one of its cells bears the costs."""

    def __init__(self, folder: Path, note: Mapping[str, Any]) -> None:
        self.folder = folder / "made" / re.sub(r"\W", "", note["begun"])

    def note(self, key: str, cell: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / key).write_text(str(cell), encoding="utf-8")

    def by(self, cell: int, keys: Iterable[str]) -> set[str]:
        """Those of the steps that were made for a cell."""
        return {key for key in keys if (path := self.folder / key).exists() and path.read_text("utf-8") == str(cell)}


class Frozen:
    """The frozen cells of a sweep folder, parsed one by one: a job of a large sweep needs few of them."""

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.folder = folder.absolute()
        self.note = note(self.folder)
        self.made = Made(self.folder, self.note)
        with gzip.open(self.folder / (name or self.note["cells"]), "rt", encoding="utf-8") as lines:
            self._lines = list(lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Cell:
        read = json.loads(self._lines[index])
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in read.items()}
        return Cell(**fields)

    def store(self, eager: bool = True) -> Store:
        """The store that the sweep is in, with the budgets that it shares."""
        store = Store(self.folder.parents[1], eager)
        store.ledgers = tuple(
            Ledger(Path(path), Budget(**{**limits, "options": tuple(limits["options"])}))
            for path, limits in self.note["ledgers"]
        )
        return store
