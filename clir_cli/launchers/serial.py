"""One cell after another in this process, over shared steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from clir_cli.errors import ClirError, RunError
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
        outcome = _same(item, outcomes) if item.same_as is not None else _execute(item, plan.store, failed)
        outcomes.append(outcome)
        finished(outcome)
    return outcomes


def _same(item: Planned, outcomes: list[Outcome]) -> Outcome:
    assert item.same_as is not None
    return outcomes[item.same_as]._replace(cell=item)


def _execute(item: Planned, store: Store, failed: dict[Step, Exception]) -> Outcome:
    if item.experiment is None:
        return Outcome(item, "invalid", error=item.error)
    try:
        if (folder := item.experiment.finished()) is not None:
            return Outcome(item, "cached", folder)
        for step in item.experiment.steps:
            if step in failed:
                raise failed[step]
            try:
                _make(step, store, item.experiment.made)
            except Exception as error:
                failed[step] = error
                raise
        return Outcome(item, "done", item.experiment.export())
    except (ClirError, MemoryError) as error:
        return Outcome(item, "failed", error=error)
    except OSError as error:
        return Outcome(item, "failed", error=_disk(error, store.root))


def _make(step: Step, store: Store, made: set[str]) -> None:
    begun = time.monotonic()
    if store.make(step) == "made":
        key = store.key(step)
        assert key is not None
        made.add(key)
        say(f"{step.stage:<9} {step.label}  {time.monotonic() - begun:.1f} s")


def _disk(error: OSError, root: Path) -> Exception:
    """What the operating system refused, and what is kept."""
    return RunError(
        f"{error.strerror or error}: {error.filename or root}\n  What is finished stays finished in {root}; mend the cause and give the same command again."
    )
