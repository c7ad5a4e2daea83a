"""What became of a cell, in the words that every launcher uses."""

from __future__ import annotations

import errno
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from clir_cli.errors import ConfigError, RunError
from clir_cli.plan import Plan, Planned
from clir_cli.steps import Step
from clir_cli.store import Store

STATES = ("done", "cached", "running", "pending", "stopped", "failed", "timeout", "oom", "cancelled", "invalid")
MENDS = {
    errno.ENOENT: "if clir wrote it, delete its folder (`clir cache verify` lists all that have lost a file)",
    errno.ENOSPC: "make room (`clir cache` lists what takes it)",
    errno.EDQUOT: "make room in your quota (`clir cache` lists what takes it)",
    errno.EROFS: "make the folder writable or work in another one,",
    errno.EACCES: "make it accessible or work in another one,",
}
RETRIED = ("failed", "timeout", "oom")  # how a step can fail; the same command tries all of them again


class Outcome(NamedTuple):
    """What became of a cell: one of STATES, its experiment's folder, or its error."""

    cell: Planned
    status: str
    folder: Path | None = None
    error: Exception | None = None


class Earlier(RunError):
    """Why a step failed when it was last tried; it is not to be tried again."""

    def __init__(self, error: str, state: str) -> None:
        super().__init__(error)
        self.state = state


def forgive(plan: Plan, retried: Collection[str]) -> None:
    """Forget the failures of these kinds, so that the steps are tried again; a cell with one of another kind gets its error."""
    store, kept = plan.store, dict[Step, Earlier]()
    for step in plan.steps:
        if (note := store.failure(step)) is None:
            continue
        if (state := note.get("state", "failed")) in retried:
            store.forgive(step)
        else:
            kept[step] = Earlier(f"{note['error']}\n  It is not tried again: --retry {state} would", state)
    for item in plan.cells if kept else ():
        if item.experiment is not None:
            item.error = next((kept[step] for step in item.experiment.steps if step in kept), item.error)


def broken(item: Planned) -> Outcome | None:
    """Of a cell that could not even be built, or failed before and is not to be tried again."""
    if item.error is None:
        return None
    if isinstance(item.error, Earlier):
        return Outcome(item, item.error.state, error=item.error)
    return Outcome(item, "invalid" if item.error.exit_code == ConfigError.exit_code else "failed", error=item.error)


def said(error: Exception, root: Path | None = None) -> Exception:
    """What the operating system refused, what is kept (in `root`, where that is known) and what to do; any other error as it is."""
    if not isinstance(error, OSError | MemoryError):
        return error
    place = (error.filename or root) if isinstance(error, OSError) else None
    what = (error.strerror or str(error)) if isinstance(error, OSError) else "out of memory"
    mend = MENDS.get(error.errno or 0, "mend the cause") if isinstance(error, OSError) else "mend the cause"
    told = RunError(
        f"{what}{f': {place}' if place else ''}\n"
        f"  What is finished stays finished{f' in {root}' if root else ''}; {mend} and give the same command again."
    )
    told.__cause__ = error
    return told


def kind(error: BaseException) -> str:
    """The state of a step that ended with this error."""
    name = type(error).__name__
    if isinstance(error, MemoryError) or "OutOfMemory" in name:  # torch's and CUDA's are not MemoryErrors
        return "oom"
    return "timeout" if name == "UncompletedJobError" else "failed"  # submitit's, once a job was requeued too often


def checked(store: Store, item: Planned) -> Exception | None:
    """The first complaint of the steps that a cell lacks, before anything runs: no key for a server, texts that do not fit."""
    assert item.experiment is not None
    try:
        for step in item.experiment.steps:
            if step.check is not None and store.folder(step) is None:
                step.check()
    except Exception as error:
        return said(error, store.root)
    return None
