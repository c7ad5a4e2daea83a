"""A worker's side: experiments built from the frozen cells of a sweep, their steps made, their folders written."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from clir_cli import config
from clir_cli.errors import ClirError, RunError
from clir_cli.experiment import Experiment
from clir_cli.launchers.frozen import Frozen
from clir_cli.launchers.outcome import said
from clir_cli.progress import say
from clir_cli.stages import Stages
from clir_cli.steps import Step, ordered


class Order(NamedTuple):
    """A step to be made: the number of a cell that has it, its promise, and what people call it."""

    cell: int
    promise: str
    stage: str
    label: str

    def log(self, folder: Path) -> Path:
        """Where its progress and errors are written."""
        label = re.sub(r"[^\w.+~-]", "_", self.label)[:80]
        return folder / "logs" / f"{self.stage}.{label}-{self.promise}.log"


class Workshop:
    """Builds only the cells that it is asked for, each once."""

    def __init__(self, folder: Path, cells: str | None = None, patience: float = 0) -> None:
        self.frozen = Frozen(folder, cells)
        self.store = self.frozen.store()
        self.patience = patience  # seconds until a folder that another machine made is seen here
        self._stages = Stages(self.store)
        self._experiments: dict[int, Experiment] = {}
        self._steps: dict[str, Step] = {}

    def experiment(self, number: int) -> Experiment:
        if number not in self._experiments:
            experiment = Experiment(config.built(self.frozen[number - 1].plain), self._stages)
            self._experiments[number] = experiment
            self._steps |= {self.store.promise(step): step for step in experiment.steps}
        return self._experiments[number]

    def step(self, order: Order) -> Step | None:
        """The promised step; None for a translation of candidates whose collection was translated as a whole meanwhile."""
        if order.promise not in self._steps:
            self.experiment(order.cell)
        if order.promise not in self._steps and order.stage != "translate":
            raise RunError(
                f"{order.stage} {order.label} is no step of cell {order.cell} any more: a data file, a package or clir itself "
                "changed since the sweep was frozen; give its command again"
            )
        return self._steps.get(order.promise)

    def make(self, order: Order, part: Callable[[Step], None] | None = None) -> Literal["made", "found"]:
        """Make a step, or find it made, with its progress in its own log. With `part`, do only that part of it."""
        with logged(order.log(self.frozen.folder)):
            try:
                step = self.step(order)
                if step is None:
                    return "found"
                if part is not None:
                    part(step)
                    return "made"
                return self._make(step, order.cell)
            except BaseException as error:
                tell(error)
                raise

    def _make(self, step: Step, cell: int) -> Literal["made", "found"]:
        patient_until = time.monotonic() + self.patience
        while lacks := [s for s in step.before if self.store.folder(s) is None]:
            hopeless = any(self.store.failure(s) for s in ordered(lacks))
            if hopeless or time.monotonic() >= patient_until:
                raise Unready(
                    f"{step.stage} {step.label} waits for {lacks[0].stage} {lacks[0].label}, which is not there"
                )
            time.sleep(1)
        begun = time.monotonic()
        if self.store.make(step) != "made":
            return "found"
        say(f"{step.stage:<9} {step.label}  {time.monotonic() - begun:.1f} s")
        self.frozen.made.note(str(self.store.key(step)), cell)
        return "made"

    def blame(self, order: Order, error: str, state: str) -> None:
        if (step := self.step(order)) is not None:
            self.store.blame(step, error, state)

    def export(self, number: int) -> Path | None:
        """Write the folder of a cell whose steps are all there; None if one is missing."""
        experiment = self.experiment(number)
        if any(self.store.folder(step) is None for step in experiment.steps):
            return None
        experiment.made |= self.frozen.made.by(number, (str(self.store.key(step)) for step in experiment.steps))
        return experiment.export()


class Unready(RunError):
    """A step that this one is made from failed, and is told of there."""


def tell(error: BaseException) -> None:
    """An error on stderr, with the traceback of one that no user can cause."""
    if isinstance(error, ClirError | KeyboardInterrupt | SystemExit):
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """What this process and the libraries in it write to stderr goes to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(log, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(log)


def explained(error: BaseException, root: Path) -> str:
    """An error for another process: what people are told of it."""
    told = said(error, root) if isinstance(error, Exception) else error
    return str(told) if isinstance(told, ClirError) else f"{type(told).__name__}: {told}"
