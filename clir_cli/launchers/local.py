"""Many steps at once on this machine, by worker processes that stay: each with its GPUs and the model it has loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from clir_cli.errors import RunError
from clir_cli.launchers import frozen
from clir_cli.launchers.crew import Crew, Task, visible_gpus
from clir_cli.launchers.jobs import Resources
from clir_cli.launchers.outcome import Outcome, broken, checked
from clir_cli.launchers.work import Order
from clir_cli.plan import Plan, Planned
from clir_cli.steps import Step

SPARE = 2  # workers without a GPU where nobody says how many: a model on the CPU uses all cores anyway
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Local(Resources):
    """Worker processes on this machine."""

    workers: int | None = None  # that use no GPU; null: 2
    gpus: tuple[str, ...] | None = None  # their names; null: all that CUDA_VISIBLE_DEVICES or nvidia-smi shows

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def execute(self, plan: Plan, folder: Path, finished: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
        """Make what is missing and write every experiment; a failed step, or a worker that dies, fails its cells only."""
        with frozen.noted(folder, finished) as heard:
            cells = frozen.freeze(plan, folder, "local")
            gpus = visible_gpus() if self.gpus is None else self.gpus
            command = [sys.executable, "-m", "clir_cli.launchers.worker", str(folder), cells]
            crew = Crew(command, self.workers or SPARE, list(gpus))
            shift = _Shift(plan, self, folder, crew, heard)
            try:
                shift.work()
            finally:
                crew.dismiss()
            return shift.all_outcomes()


@dataclass(eq=False)
class _Shift:
    """One execution of a plan: which steps wait for which, and which cells still lack some."""

    plan: Plan
    local: Local
    folder: Path
    crew: Crew
    finished: Callable[[Outcome], None]
    outcomes: dict[int, Outcome] = field(default_factory=dict)  # by the number of the cell
    items: dict[int, Planned] = field(default_factory=dict)  # cells to be finished, by number
    lacks: dict[int, set[Step]] = field(default_factory=dict)  # what they still lack
    users: dict[Step, list[int]] = field(default_factory=dict)  # the cells that have a step
    waits: dict[Step, set[Step]] = field(default_factory=dict)  # steps that are not ready, and what they wait for
    next: dict[Step, list[Step]] = field(default_factory=dict)  # what waits for a step
    place: dict[Step, int] = field(default_factory=dict)  # on the cheapest path to finished cells
    steps: dict[Task, Step] = field(default_factory=dict)
    ready: list[Task] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gpus = len(self.crew.free)

    def work(self) -> None:
        for item in self.plan.cells:
            if item.same_as is None:
                self.look_at(item)
        self.set_out()
        while self.lacks:
            self.ready.sort(key=lambda task: self.place[self.steps[task]] if task in self.steps else -1)
            self.ready = self.crew.take(self.ready)
            assert self.crew.busy, f"nothing is done for {len(self.lacks)} unfinished cells"
            for task, answer in self.crew.listen():
                self.hear(task, answer)

    def all_outcomes(self) -> list[Outcome]:
        firsts = [(item, item if item.same_as is None else self.plan.cells[item.same_as]) for item in self.plan.cells]
        return [self.outcomes[first.number]._replace(cell=item) for item, first in firsts]

    def look_at(self, item: Planned) -> None:
        """Settle a cell that is there or cannot be; note what another one lacks."""
        assert item.experiment is not None or item.error is not None
        if (outcome := broken(item)) is not None or item.experiment is None:
            self.settle(outcome or Outcome(item, "failed"))
        elif (done := item.experiment.finished()) is not None:
            self.settle(Outcome(item, "cached", done))
        elif (error := checked(self.plan.store, item)) is not None:
            self.settle(Outcome(item, "failed", error=error))
        else:
            self.items[item.number] = item
            self.lacks[item.number] = {s for s in item.experiment.steps if self.plan.store.folder(s) is None}

    def set_out(self) -> None:
        """Put the steps in order: those of the cell that lacks least first."""
        minutes = {step: self.local.of(step).minutes or 0 for steps in self.lacks.values() for step in steps}
        costs = {number: sum(minutes[step] for step in steps) for number, steps in self.lacks.items()}
        for number in sorted(costs, key=lambda n: (costs[n], n)):
            experiment = self.items[number].experiment
            assert experiment is not None
            for step in experiment.steps:
                if step in self.lacks[number]:
                    self.place.setdefault(step, len(self.place))
        self.users = _turned(self.lacks)
        self.waits = {step: {s for s in step.before if s in self.place} for step in self.place}
        self.next = _turned(self.waits)
        for step in list(self.waits):
            if not self.waits[step]:
                self.release(step)
        for number in [n for n, steps in self.lacks.items() if not steps]:
            self.write(number)

    def release(self, step: Step) -> None:
        """A step before which nothing is missing."""
        del self.waits[step]
        asked = self.local.of(step)
        name = f"{step.stage} {step.label}"
        if self.gpus and asked.gpus > self.gpus:
            said = f"{name} needs {asked.gpus} GPUs, and there are {self.gpus}; launcher.needs can say otherwise"
            self.fail(step, RunError(said))
            return
        order = Order(self.users[step][0], self.plan.store.promise(step), step.stage, step.label)
        gpus = min(asked.gpus, self.gpus)  # without any, models run on the CPU
        task = Task({"make": order}, name, gpus, asked.loads, order.log(self.folder))
        self.steps[task] = step
        self.ready.append(task)

    def write(self, number: int) -> None:
        """A cell that lacks no step."""
        self.ready.append(Task({"export": number}, f"the folder of cell {number}"))

    def hear(self, task: Task, answer: Mapping[str, Any]) -> None:
        """What became of a task."""
        error = RunError(answer["error"]) if "error" in answer else None
        if task in self.steps:
            step = self.steps[task]
            if error is None:
                self.done(step)
            else:
                if "died" in answer:
                    self.plan.store.blame_dead(step, str(error), answer["state"])
                self.fail(step, error, answer["state"])
            return
        item = self.items[task.message["export"]]
        if error is None:
            self.settle(Outcome(item, "done", Path(answer["folder"])))
        else:
            self.settle(Outcome(item, answer["state"], error=error))

    def done(self, step: Step) -> None:
        for after in self.next.get(step, ()):
            if after in self.waits:
                self.waits[after].discard(step)
                if not self.waits[after]:
                    self.release(after)
        for number in self.users[step]:
            if number in self.lacks:
                self.lacks[number].discard(step)
                if not self.lacks[number]:
                    self.write(number)

    def fail(self, step: Step, error: Exception, state: str = "failed") -> None:
        """Fail the cells that have the step, and give up the steps that only they have."""
        for number in self.users[step]:
            if number in self.lacks:
                self.settle(Outcome(self.items[number], state, error=error))
        wanted = {s for steps in self.lacks.values() for s in steps}
        self.ready = [task for task in self.ready if task not in self.steps or self.steps[task] in wanted]
        self.waits = {s: before for s, before in self.waits.items() if s in wanted}

    def settle(self, outcome: Outcome) -> None:
        self.lacks.pop(outcome.cell.number, None)
        self.outcomes[outcome.cell.number] = outcome
        self.finished(outcome)


def _turned(sets: Mapping[K, Iterable[V]]) -> dict[V, list[K]]:
    """value -> the keys that have it."""
    turned: dict[V, list[K]] = {}
    for key, values in sets.items():
        for value in values:
            turned.setdefault(value, []).append(key)
    return turned
