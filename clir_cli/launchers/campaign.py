"""A sweep on a cluster, as anybody can see it from its folder, the store and the queue: its jobs, and what became of its steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clir_cli.errors import RunError
from clir_cli.files import read_json, write_json, write_text
from clir_cli.launchers import frozen, queue
from clir_cli.launchers.outcome import Outcome, broken
from clir_cli.launchers.queue import Seen
from clir_cli.launchers.work import Order
from clir_cli.plan import Plan, Planned
from clir_cli.progress import say
from clir_cli.steps import Step

CANCELLED = "cancelled: the same `clir run` goes on from the last finished shard"
STOPPED = "nobody is at work on it: the same `clir run` goes on from what is finished"
ENDED = "ended"  # in the file that says what a job makes now: it came to its own end
SILENCE = 20  # questions in a row that Slurm may leave unanswered
TAIL = 3  # lines of a job's log that say why it died


@dataclass
class Record:
    """A job as the sweep's folder has it: `jobs/<key>.json`."""

    key: str  # this job's own: what makes the same steps later is another job
    cells: str  # the frozen cells that it builds from
    orders: list[Order]
    exports: list[int]  # cells whose folder it writes
    tasks: int = 1
    id: str = ""  # Slurm's, once it is queued
    state: str = "queued"  # then done, failed, timeout, oom, cancelled, or released: what it left may be queued again
    error: str = ""

    @classmethod
    def read(cls, path: Path) -> Record:
        said = read_json(path)
        return cls(**{**said, "orders": [Order(*order) for order in said["orders"]]})

    def write(self, folder: Path) -> None:
        write_json(self.path(folder), asdict(self))

    def path(self, folder: Path) -> Path:
        return folder / "jobs" / f"{self.key}.json"

    @property
    def name(self) -> str:
        """What Slurm calls it: by this it is found if its submitter died before it could write down the id."""
        return f"clir-{'+'.join(dict.fromkeys(order.stage for order in self.orders))}-{self.key}"

    def now(self, folder: Path, task: int = 0) -> Path:
        """The file in which a running job says which step it makes."""
        return folder / "jobs" / f"{self.key}.{task}.now"

    def log(self, folder: Path, task: int = 0) -> Path:
        """What Slurm and submitit wrote."""
        job = f"{self.id}_{task}" if self.tasks > 1 else self.id
        return self.files(folder) / f"{job}_0_log.err"

    def files(self, folder: Path) -> Path:
        """submitit's folder for it, there before it is queued: Slurm lets no job begin that it cannot write a log of."""
        return folder / "jobs" / self.key


class Registry:
    """Which job makes a step, by its promise, for all sweeps of a store: nobody queues again what is queued."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "queue"

    def job(self, promise: str) -> str | None:
        try:
            return (self.folder / promise).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def note(self, job: Record) -> None:
        for order in job.orders:
            write_text(self.folder / order.promise, lambda out: out.write(job.id))

    def made(self, promise: str) -> None:
        """Take back the note on a step that is there."""
        (self.folder / promise).unlink(missing_ok=True)

    def forget(self, job: Record) -> None:
        """Take back the notes on a job, not those of others on the same steps."""
        for order in job.orders:
            if self.job(order.promise) == job.id:
                self.made(order.promise)


@dataclass
class Campaign:
    """The jobs of a sweep and what they mean for its cells, as of the last `look`."""

    plan: Plan
    folder: Path
    note: Mapping[str, Any]  # sweep.json
    jobs: dict[str, Record] = field(default_factory=dict)  # by key
    queued: dict[str, Seen] = field(default_factory=dict)  # as last seen
    making: dict[Step, str] = field(default_factory=dict)  # the job that is to make a step, of this sweep or another
    left: bool = False  # nobody is at work on it: what is not done waits for the same command

    def __post_init__(self) -> None:
        self.registry = Registry(self.plan.store.root)
        self.failed: Mapping[str, tuple[str, str]] = {}
        self._steps = {self.plan.store.promise(step): step for step in self.plan.steps}
        self.missing = dict.fromkeys(self.plan.steps)  # in their order
        self.of: dict[str, Record] = {}  # promise -> the last job of this sweep that has it

    def add(self, job: Record) -> None:
        self.jobs[job.key] = job
        self.of |= {order.promise: job for order in job.orders}

    @classmethod
    def of_folder(cls, plan: Plan, folder: Path) -> Campaign | None:
        """A sweep that was begun before, as it stands now; None if there is none."""
        if not (folder / frozen.NOTE).exists():
            return None
        campaign = cls(plan, folder, frozen.note(folder))
        campaign.look()
        return campaign

    def look(self) -> None:
        """See who makes what, ask the queue, see what is there, and settle the jobs that ended since the last time.

        In this order: a worker keeps a step before it takes its note back, so what is missing and has no job had none.
        A command notes its failures before it leaves, and a job is in the queue before its record says its id.
        """
        self.left = self.note["launcher"] != "slurm" and frozen.is_left(self.folder)
        self.failed = frozen.failures(self.folder)
        self._read()
        if asks := queue.installed() and bool(self.jobs or self.note["launcher"] == "slurm"):
            notes = ((step, self.registry.job(self.plan.store.promise(step))) for step in self.missing)
            self.making = {step: job for step, job in notes if job is not None}
            self.queued = queue.seen()
            self._adopt()
        self.missing = {step: None for step in self.missing if self.plan.store.folder(step) is None}
        for job in self.jobs.values() if asks else ():
            if job.id and job.state == "queued" and not self.alive(job.id):
                self._settle(job, self.queued.get(job.id))

    def keep_looking(self, pause: float) -> None:
        """Look, and look again after a pause where Slurm does not answer: its controller may be away for a while."""
        for silence in range(1, SILENCE + 1):
            try:
                return self.look()
            except RunError as error:
                say(f"{error}")
                if silence == SILENCE:
                    raise
                time.sleep(pause)

    def _read(self) -> None:
        """The records of jobs, of whatever command; what became of a job that ended does not change."""
        for path in (self.folder / "jobs").glob("*.json"):
            if path.stem not in self.jobs or self.jobs[path.stem].state == "queued":
                with contextlib.suppress(FileNotFoundError):  # another command has begun, and does without it
                    self.jobs[path.stem] = Record.read(path)
        for job in sorted(self.jobs.values(), key=lambda job: int(job.id or 0)):  # as they were queued
            self.add(job)

    def _adopt(self) -> None:
        """Write down the ids of jobs whose submitter died before it could."""
        ids = {seen.name: job for job, seen in self.queued.items()}
        for job in self.jobs.values():
            if not job.id and job.name in ids:
                job.id = ids[job.name]
                job.write(self.folder)
                self.note_queued(job)

    def note_queued(self, job: Record) -> None:
        """Let every sweep know what a job is to make; an array only helps the job that makes its step."""
        if job.tasks == 1:
            self.registry.note(job)
            steps = (self.step(order.promise) for order in job.orders)
            self.making |= {step: job.id for step in steps if step is not None}

    @property
    def cancelled(self) -> bool:
        """Whether somebody took it back since its command was given, maybe in another shell."""
        return frozen.is_cancelled(self.folder)

    def cancel(self) -> int:
        """Take its jobs out of the queue, running ones too, and let no more be queued; how many there were."""
        frozen.mark_cancelled(self.folder)  # a command that is queueing stops before its next job
        with self.plan.store.alone("queue"):
            frozen.mark_cancelled(self.folder)  # one that was about to begin has begun
            self.look()
            jobs = [job for job in self.jobs.values() if job.id and self.alive(job.id)]
            queue.cancel(job.id for job in jobs)
            for job in jobs:
                job.state, job.error = "cancelled", CANCELLED
                job.write(self.folder)
                self.queued[job.id] = Seen("CANCELLED")
                self.registry.forget(job)
        return len(jobs)

    def alive(self, job: str) -> bool:
        return job in self.queued and self.queued[job].alive

    def _settle(self, job: Record, seen: Seen | None) -> None:
        """Blame the step that a job was making when it died; what else it left undone is nobody's fault."""
        undone = [order for order in job.orders if not self._is_made(order)]
        making, task = _making(job, self.folder)
        job.state = "released" if undone else "done"
        means = "failed" if seen is None or seen.means == "done" else seen.means
        if undone and means == "cancelled":
            if seen is None or seen.reason != queue.UNREACHED:
                job.state, job.error = "cancelled", CANCELLED
        elif undone and making != ENDED:
            self._blame(job, task, making, means, seen)
        self.registry.forget(job)
        job.write(self.folder)

    def _blame(self, job: Record, task: int, making: str, state: str, seen: Seen | None) -> None:
        said = "Slurm has forgotten it" if seen is None else queue.WHY.get(seen.state, seen.state.lower())
        error = f"job {job.id} ended: {said}{_tail(job.log(self.folder, task))}"
        step = self.step(making)
        if step is None or self.plan.store.key(step) is None:
            job.state, job.error = state, error  # it died before it began
        elif self.plan.store.failure(step) is None:  # else it said itself what failed
            self.plan.store.blame(step, error, state)

    def _is_made(self, order: Order) -> bool:
        return self.step(order.promise) not in self.missing

    def step(self, promise: str) -> Step | None:
        return self._steps.get(promise)

    # What became of steps and cells

    def ended(self, step: Step) -> tuple[str, str] | None:
        """How and why a step that is not there failed: its state and error; None if it did not, or not yet."""
        if (note := self.plan.store.failure(step)) is not None:
            return note.get("state", "failed"), note["error"]
        job = self.of.get(self.plan.store.promise(step))
        return (job.state, job.error) if job is not None and job.error else None

    def under_way(self, step: Step) -> str | None:
        """The job, of this sweep or another, that is to make a step."""
        job = self.making.get(step)
        return job if job is not None and self.alive(job) else None

    def awaited(self) -> set[str]:
        """The living jobs of this sweep, and those of others that its cells wait for."""
        steps = {step for item in self.open_cells() for step in self.lacking(item)}
        own = {job.id for job in self.jobs.values() if self.alive(job.id)}
        return own | {job for step in steps if (job := self.under_way(step)) is not None}

    def lacking(self, item: Planned) -> list[Step]:
        assert item.experiment is not None
        return [step for step in item.experiment.steps if step in self.missing]

    def outcome(self, item: Planned, write: bool = True) -> Outcome:
        """What became of a cell so far; with `write`, its folder is written if its steps are there."""
        if (outcome := broken(item)) is not None:
            return outcome
        assert item.experiment is not None
        if (refused := self.note["refused"].get(str(item.number))) is not None:
            return Outcome(item, "failed", error=RunError(refused))
        lacks, cached = self.lacking(item), item.number in self.note["cached"]
        may_be_there = cached or not lacks or self.note["launcher"] != "slurm"
        if may_be_there and (folder := item.experiment.finished()) is not None:
            return Outcome(item, "cached" if cached else "done", folder)
        if not lacks and write:
            return self._written(item)
        for step in lacks:
            if (end := self.ended(step)) is not None:
                return Outcome(item, end[0], error=RunError(end[1]))
        making = {self.queued[job].means for step in lacks if (job := self.under_way(step)) is not None}
        making |= {self.plan.store.state(step).name for step in lacks}
        if {"running", "in progress"} & making:
            return Outcome(item, "running")
        if self.left and (failure := self.failed.get(str(item.number))) is not None:
            return Outcome(item, failure[0], error=RunError(failure[1]))
        if self.left:
            return Outcome(item, "stopped", error=RunError(STOPPED))
        if not lacks:
            return Outcome(item, "running")
        return Outcome(item, "cancelled", error=RunError(CANCELLED)) if self.cancelled else Outcome(item, "pending")

    def _written(self, item: Planned) -> Outcome:
        assert item.experiment is not None
        keys = (str(self.plan.store.key(step)) for step in item.experiment.steps)
        item.experiment.made |= frozen.Made(self.folder, self.note).by(item.number, keys)
        try:
            return Outcome(item, "done", item.experiment.export())
        except Exception as error:
            return Outcome(item, "failed", error=error)

    def outcomes(self, write: bool = True) -> list[Outcome]:
        found: list[Outcome] = []
        for item in self.plan.cells:
            found.append(self.outcome(item, write) if item.same_as is None else found[item.same_as]._replace(cell=item))
        return found

    # What is left to be done

    def to_queue(self) -> list[Step]:
        """The missing steps of cells that can still be finished and that no job is to make, what comes first first."""
        if self.cancelled:
            return []
        lost: set[Step] = set()
        wanted: dict[Step, None] = {}
        for item in self.open_cells():
            lacks = self.lacking(item)
            lost |= {step for step in lacks if step not in lost and self.ended(step) is not None}
            if lost.isdisjoint(lacks):
                wanted |= dict.fromkeys(lacks)
        return [step for step in wanted if self.under_way(step) is None]

    def open_cells(self) -> Iterator[Planned]:
        """Those that are neither there nor given up."""
        closed = {int(number) for number in [*self.note["refused"], *self.note["cached"]]}
        for item in self.plan.cells:
            if item.same_as is None and item.error is None and item.number not in closed:
                yield item


def _making(job: Record, folder: Path) -> tuple[str, int]:
    """The promise of the step that a job was making, or ENDED; of an array, of its first task that did not come to its end."""
    for task in range(job.tasks):
        now = job.now(folder, task)
        if (making := now.read_text(encoding="utf-8") if now.exists() else "") != ENDED:
            return making, task
    return ENDED, 0


def _tail(log: Path) -> str:
    """The end of a job's log, where there is one."""
    if not log.exists():
        return ""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "".join(f"\n  {line}" for line in [*lines[-TAIL:], f"({log})"])
