"""One cell after another in this process, over shared steps."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from clir_cli.errors import RunError
from clir_cli.plan import Plan, Planned
from clir_cli.progress import say
from clir_cli.steps import Step
from clir_cli.store import Store


class Outcome(NamedTuple):
    """What became of a cell."""

    cell: Planned
    status: str  # done, cached, failed or invalid
    folder: Path | None = None
    error: Exception | None = None


def execute(plan: Plan, finished: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
    """Make what is missing and export every experiment; a failed step fails its cells only, and is tried once."""
    outcomes: list[Outcome] = []
    failed: dict[Step, Exception] = {}
    for item in plan.cells:
        if item.same_as is not None:
            outcome = outcomes[item.same_as]._replace(cell=item)
        else:
            outcome = _execute(item, plan.store, failed)
        outcomes.append(outcome)
        finished(outcome)
    return outcomes


def _execute(item: Planned, store: Store, failed: dict[Step, Exception]) -> Outcome:
    if item.experiment is None:
        return Outcome(item, "invalid" if item.error and item.error.exit_code == 2 else "failed", error=item.error)
    try:
        if (folder := item.experiment.finished()) is not None:
            return Outcome(item, "cached", folder)
        for step in item.experiment.steps:
            if step.check is not None and store.folder(step) is None:
                step.check()
        for step in item.experiment.steps:
            if step in failed:
                return Outcome(item, "failed", error=failed[step])
            try:
                _make(step, store, item.experiment.made)
            except Exception as error:
                failed[step] = _said(error, store.root)
                raise
        return Outcome(item, "done", item.experiment.export())
    except Exception as error:  # also a bug of ours: the other cells of a sweep are worth having
        traceback.clear_frames(error.__traceback__)  # or the models and texts of a failed cell stay in memory
        return Outcome(item, "failed", error=_said(error, store.root))


def _make(step: Step, store: Store, made: set[str]) -> None:
    begun = time.monotonic()
    if store.make(step) == "made":
        key = store.key(step)
        assert key is not None
        made.add(key)
        say(f"{step.stage:<9} {step.label}  {time.monotonic() - begun:.1f} s")


def _said(error: Exception, root: Path) -> Exception:
    """What the operating system refused, and what is kept; any other error as it is."""
    if not isinstance(error, OSError | MemoryError):
        return error
    what = f"{error.strerror or error}: {error.filename or root}" if isinstance(error, OSError) else "out of memory"
    said = RunError(
        f"{what}\n  What is finished stays finished in {root}; mend the cause and give the same command again."
    )
    said.__cause__ = error
    return said
