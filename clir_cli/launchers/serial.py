"""One cell after another in this process, over shared steps."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clir_cli.launchers import frozen
from clir_cli.launchers.outcome import Outcome, broken, checked, kind, said
from clir_cli.plan import Plan, Planned
from clir_cli.progress import say
from clir_cli.steps import Step
from clir_cli.store import Store


@dataclass(frozen=True)
class Serial:
    """This process."""

    def execute(self, plan: Plan, folder: Path, finished: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
        with frozen.noted(folder, finished) as heard:
            frozen.freeze(plan, folder, "serial")
            return execute(plan, heard)


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
    if (failed_before := broken(item)) is not None:
        return failed_before
    assert item.experiment is not None
    try:
        if (folder := item.experiment.finished()) is not None:
            return Outcome(item, "cached", folder)
        if (complaint := checked(store, item)) is not None:
            return Outcome(item, "failed", error=complaint)
        for step in item.experiment.steps:
            if step in failed:
                return Outcome(item, kind(failed[step]), error=failed[step])
            try:
                _make(step, store, item.experiment.made)
            except Exception as error:
                failed[step] = said(error, store.root)
                raise
        return Outcome(item, "done", item.experiment.export())
    except Exception as error:  # also a bug of ours: the other cells of a sweep are worth having
        traceback.clear_frames(error.__traceback__)  # or the models and texts of a failed cell stay in memory
        return Outcome(item, kind(error), error=said(error, store.root))


def _make(step: Step, store: Store, made: set[str]) -> None:
    begun = time.monotonic()
    if store.make(step) == "made":
        key = store.key(step)
        assert key is not None
        made.add(key)
        say(f"{step.stage:<9} {step.label}  {time.monotonic() - begun:.1f} s")
