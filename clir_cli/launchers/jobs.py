"""Which missing steps of a plan go into one job, and which jobs wait for which: pure planning, nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from clir_cli.plan import Plan
from clir_cli.steps import Needs, Step
from clir_cli.store import At

# Minutes that a step is reckoned with where nobody says: with a model, and without one. 0 is "under a minute".
MINUTES: Mapping[str, tuple[int, int]] = {
    "docs": (10, 10),
    "topics": (0, 0),
    "translate": (120, 30),
    "passages": (30, 10),
    "expand": (240, 60),
    "index": (60, 20),
    "derive": (20, 20),
    "retrieve": (2, 0),
    "fuse": (0, 0),
    "select": (0, 0),
    "rerank": (30, 20),
}
TINY = 0.5  # minutes that a step under a minute counts for when many are put together


@dataclass(frozen=True)
class Resources:
    """What steps need of a machine, as a launcher is told."""

    needs: Mapping[str, Any] = field(default_factory=dict)  # {rerank: {minutes: 30}, rank_llama70b: {gpus: 4}}

    def __post_init__(self) -> None:
        known = [f.name for f in fields(Needs) if f.name != "loads"]
        for name, said in self.needs.items():
            if not isinstance(said, Mapping) or set(said) - set(known):
                raise ValueError(f"needs.{name} may say {', '.join(known)}, got {said!r}")

    def of(self, step: Step) -> Needs:
        """What a step needs: what `needs` says of its stage, then of its component's label, before what the component says."""
        needs = step.needs
        for name, said in self.needs.items():
            if name in {step.stage, step.label} or step.label.startswith((f"{name}.", f"{name}[")):
                needs = replace(needs, **said)
        if needs.minutes is None:
            usual = MINUTES.get(step.stage, (60, 60))[0 if needs.loads else 1]
            needs = replace(needs, minutes=0 if step.meaning.get("part") == "topics" else usual)
        return needs


@dataclass(frozen=True)
class Packing(Resources):
    """How steps are put into jobs."""

    max_minutes: int = 1440  # steps that share a loaded model go into one job up to this
    array: int = 1  # tasks that share the shards of one large encode, translate or rerank step

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_minutes < 1 or self.array < 1:
            raise ValueError("max_minutes and array must be at least 1")


@dataclass(eq=False)
class Job:
    """Steps that one process makes in this order, after other jobs."""

    level: int  # how many jobs come one after another before it
    needs: Needs  # of all its steps together
    steps: list[Step] = field(default_factory=list)
    after: list[Job] = field(default_factory=list)
    tasks: int = 1  # more than 1: an array whose tasks share the shards of its only step, which a later job finishes
    minutes: float = 0
    loads: list[str] = field(default_factory=list)

    def add(self, step: Step, needs: Needs, after: Sequence[Job]) -> None:
        self.steps.append(step)
        self.minutes += needs.minutes or TINY
        self.after += [job for job in after if job is not self and job not in self.after]
        if needs.loads and needs.loads not in self.loads:
            self.loads.append(needs.loads)
        memory = [n.memory_gb for n in (self.needs, needs) if n.memory_gb is not None]
        self.needs = replace(self.needs, gpus=max(self.needs.gpus, needs.gpus), memory_gb=max(memory, default=None))


def jobs(plan: Plan, packing: Packing | None = None, steps: Sequence[Step] | None = None) -> list[Job]:
    """The jobs that make the missing steps of a plan (or `steps`, what comes first first), each after those it needs.

    A step under a minute rides with the job that it waits for, and so does one with the same model. Other steps that share
    a model go into one job up to `max_minutes`; each of the rest is a job of its own.
    """
    packing, store = packing or Packing(), plan.store
    missing = [step for step in plan.steps if store.folder(step) is None] if steps is None else steps
    made: dict[Step, Job] = {}
    shared: dict[tuple[Any, ...], Job] = {}  # the job that still takes steps of a kind
    found: list[Job] = []
    for step in missing:
        needs = packing.of(step)
        parents = list({id(job): job for s in step.before if (job := made.get(s)) is not None}.values())
        level = max((job.level for job in parents), default=-1)
        if (
            packing.array > 1
            and step.shards is not None
            and needs.minutes
            and (tasks := _tasks(plan, step, packing)) > 1
        ):
            spread = Job(level + 1, needs, tasks=tasks)
            spread.add(step, needs, parents)
            found.append(spread)
            parents, level = [spread], level + 1
            needs = replace(needs, gpus=0, minutes=0, loads="")  # what is left is to join the shards
        job = _ride(needs, [p for p in parents if p.level == level], packing)
        if job is None:
            kind = (level + 1, needs.loads, needs.python, needs.gpus, bool(needs.minutes))
            job = shared.get(kind) if needs.loads or not needs.minutes else None
            if job is None or not _fits(job, needs, packing):
                job = shared[kind] = Job(level + 1, replace(needs, minutes=None))
                found.append(job)
        job.add(step, needs, parents)
        made[step] = job
    return sorted(found, key=lambda job: job.level)


def _ride(needs: Needs, latest: Sequence[Job], packing: Packing) -> Job | None:
    """The only job that a step waits for last, if the step is short or wants the same model."""
    if len(latest) != 1 or latest[0].tasks > 1 or latest[0].needs.python != needs.python:
        return None
    (job,) = latest
    short = not needs.minutes and not needs.loads
    same = bool(needs.loads) and job.loads == [needs.loads] and job.needs.gpus == needs.gpus
    return job if (short or same) and _fits(job, needs, packing) else None


def _fits(job: Job, needs: Needs, packing: Packing) -> bool:
    return job.minutes + (needs.minutes or TINY) <= packing.max_minutes


def _tasks(plan: Plan, step: Step, packing: Packing) -> int:
    """How many tasks of an array share a step: as many as allowed, no more than it has shards where that is known."""
    assert step.shards is not None
    if any(plan.store.folder(s) is None for s in step.before):
        return packing.array
    total = step.shards.total(At(plan.store, plan.store.root))
    return min(packing.array, -(-total // step.shards.size))


def count(found: Sequence[Job]) -> dict[str, int]:
    """Of planned jobs: how many, how many of them want a GPU, and how often a model is loaded."""
    return {
        "jobs": len(found),
        "gpu_jobs": sum(job.needs.gpus > 0 for job in found),
        "model_loads": sum(len(job.loads) * job.tasks for job in found),
    }


def whole(job: Job, on: Job) -> bool:
    """Whether nothing of `job` can be made where all of `on` failed."""
    lost = set(on.steps)
    for step in job.steps:
        if step not in lost and lost.isdisjoint(step.before):
            return False
        lost.add(step)
    return True
