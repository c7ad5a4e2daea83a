"""A sweep as jobs of a Slurm cluster, through submitit: Slurm is the engine, and what it runs is found again by anybody."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clir_cli.errors import RunError, many
from clir_cli.launchers import frozen, queue
from clir_cli.launchers.campaign import ENDED, Campaign, Record, Registry
from clir_cli.launchers.jobs import Job, Packing, jobs, whole
from clir_cli.launchers.outcome import Outcome, checked, kind
from clir_cli.launchers.work import Order, Unready, Workshop, explained
from clir_cli.plan import Plan
from clir_cli.progress import say
from clir_cli.steps import KEY, Step

POLL = 5.0  # seconds between questions to Slurm
LEAST = 10  # minutes that a job asks for where its steps are reckoned with less
WARNING = 120  # seconds before its time limit in which a job ends its shard
TRIES = 3  # how often what a job left undone is queued again by one command
PATIENCE = 90.0  # seconds until a folder that another node made is seen on a shared file system


@dataclass(frozen=True)
class Slurm(Packing):
    """Jobs of a cluster, each with the resources that its steps need."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int | None = None  # of a job; null: what its steps need
    cpus: int = 4
    memory_gb: int = 16  # of a job, unless one of its steps needs more
    minutes: int | None = None  # time limit of a job; null: what its steps are reckoned with
    setup: tuple[str, ...] = ()  # shell lines before each job
    sbatch: Mapping[str, Any] = field(default_factory=dict)  # more options
    max_jobs: int = 200  # queued at once
    timeouts: int = 5  # how often a job goes on after its time limit
    detach: bool = False  # leave once the jobs are queued
    poll: float = POLL

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cpus", "memory_gb", "max_jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def execute(self, plan: Plan, folder: Path, finished: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
        """Queue what is missing and, unless detached, wait for it. A failed step, or a job that dies, fails its cells only."""
        queue.check_installed()
        campaign = self._begin(plan, folder.absolute())
        told: set[int] = set()
        tries: dict[Step, int] = {}
        verbs = f"clir status, clir collect or clir cancel {folder.name}"
        try:
            while True:
                self._queue(campaign, tries)
                if self.detach:
                    left = len(campaign.to_queue())
                    room = f"; {many(left, 'step waits', 'steps wait')} until the same command finds room (launcher.max_jobs={self.max_jobs})"
                    say(f"go on with {verbs}{room if left else ''}")
                    return campaign.outcomes(write=False)
                self._tell(campaign, told, finished)
                if not (awaited := campaign.awaited()):
                    return [_given_up(outcome) for outcome in campaign.outcomes()]
                self._wait(campaign, awaited)
        except KeyboardInterrupt:
            say(f"\nthe jobs stay queued; go on with {verbs}")
            raise

    def _wait(self, campaign: Campaign, jobs: Collection[str]) -> None:
        """Until one of the jobs has ended."""
        while all(campaign.alive(job) for job in jobs):
            time.sleep(self.poll)
            campaign.keep_looking(self.poll)

    def _begin(self, plan: Plan, folder: Path) -> Campaign:
        """Freeze the cells; what is there already, and what its components refuse, is noted for every shell."""
        refused, cached = {}, []
        for item in plan.cells:
            if item.experiment is None or item.same_as is not None or item.error is not None:
                continue
            if item.experiment.finished() is not None:
                cached.append(item.number)
            elif (error := checked(plan.store, item)) is not None:
                refused[str(item.number)] = str(error)
        with plan.store.alone("queue"):
            earlier = Campaign.of_folder(plan, folder)
            for job in earlier.jobs.values() if earlier else ():
                if job.state != "queued" or not job.id:  # it was told of, or its submitter died before it was queued
                    job.path(folder).unlink(missing_ok=True)
            goes_on = earlier is not None and any(earlier.alive(job.id) for job in earlier.jobs.values())
            begun = {"begun": earlier.note["begun"]} if earlier and goes_on else {}
            frozen.freeze(plan, folder, "slurm", cached=cached, refused=refused, **begun)
            campaign = Campaign(plan, folder, frozen.note(folder))
            campaign.look()
            return campaign

    def _tell(self, campaign: Campaign, told: set[int], finished: Callable[[Outcome], None]) -> None:
        """Report the cells that came to an end."""
        for item in campaign.plan.cells:
            if item.number not in told and item.same_as is None:
                outcome = campaign.outcome(item)
                if outcome.status not in {"pending", "running"}:
                    told.add(item.number)
                    finished(outcome)

    # Queueing

    def _queue(self, campaign: Campaign, tries: dict[Step, int]) -> None:
        """Queue jobs for what no job is to make, as many as there is room for."""
        with campaign.plan.store.alone("queue"):  # two sweeps at once share their steps
            campaign.keep_looking(self.poll)
            missing = [step for step in campaign.to_queue() if tries.get(step, 0) < TRIES]
            room = self.max_jobs - sum(campaign.alive(job.id) for job in campaign.jobs.values())
            planned = jobs(campaign.plan, self, missing)[: max(room, 0)]
            homes = _homes(campaign, missing)
            ids: dict[int, str] = {}
            for job in planned:
                if not campaign.cancelled:
                    ids[id(job)] = self._submit(campaign, job, ids, homes)
            steps = {step for job in planned if id(job) in ids for step in job.steps}
            tries.update({step: tries.get(step, 0) + 1 for step in steps})
            campaign.queued |= {job: queue.Seen("PENDING") for job in ids.values()}
            if ids:
                say(f"{many(len(ids), 'job')} queued for {many(len(steps), 'step')}")

    def _submit(self, campaign: Campaign, job: Job, ids: Mapping[int, str], homes: Mapping[Step, int]) -> str:
        """Queue one job, after those that make what it is made from; its id."""
        import submitit

        promise = campaign.plan.store.promise
        orders = [Order(homes[step], promise(step), step.stage, step.label) for step in job.steps]
        shards = job.tasks > 1
        exports = [] if shards else _ends(campaign, job)
        record = Record(uuid.uuid4().hex[:KEY], campaign.note["cells"], orders, exports, job.tasks)
        record.write(campaign.folder)  # before the job can begin
        executor = submitit.AutoExecutor(
            folder=record.files(campaign.folder), cluster="slurm", slurm_max_num_timeout=self.timeouts
        )
        executor.update_parameters(**self._parameters(job, record.name, _dependency(campaign, job, ids)))
        try:
            if shards:
                with executor.batch():
                    queued = [
                        executor.submit(Make(), str(campaign.folder), record.key, task) for task in range(job.tasks)
                    ]
            else:
                queued = [executor.submit(Make(), str(campaign.folder), record.key)]
        except submitit.core.utils.FailedJobError as error:
            raise RunError(
                f"Slurm refused a job: {error}\n  see launcher.partition, launcher.account, launcher.gpus, ..."
            ) from error
        record.id = queued[0].job_id.split("_")[0]
        record.write(campaign.folder)
        campaign.add(record)
        campaign.note_queued(record)
        return record.id

    def _parameters(self, job: Job, name: str, dependency: str) -> dict[str, Any]:
        """What submitit is told of a job."""
        minutes = self.minutes or max(LEAST, min(round(job.minutes), self.max_minutes))
        gpus = job.needs.gpus if self.gpus is None else self.gpus
        more = {"kill-on-invalid-dep": "yes", **({"dependency": dependency} if dependency else {}), **self.sbatch}
        said = {
            "slurm_partition": self.partition, "slurm_account": self.account, "slurm_qos": self.qos,
            "slurm_constraint": self.constraint, "slurm_setup": list(self.setup) or None, "gpus_per_node": gpus or None,
        }  # fmt: skip
        return {
            "name": name,
            "timeout_min": minutes,
            "cpus_per_task": self.cpus,
            "mem_gb": max(self.memory_gb, job.needs.memory_gb or 0),
            "slurm_signal_delay_s": min(WARNING, minutes * 30),
            "slurm_additional_parameters": more,
            **{name: value for name, value in said.items() if value is not None},
        }


def _given_up(outcome: Outcome) -> Outcome:
    """At the end of a command that waited, a cell that still waits will not be made by it."""
    if outcome.status != "pending":
        return outcome
    error = RunError(
        f"jobs were queued for it {TRIES} times and ended without it, no step having failed; clir logs {outcome.cell.number}"
    )
    return outcome._replace(status="failed", error=error)


def _homes(campaign: Campaign, steps: Sequence[Step]) -> dict[Step, int]:
    """The first cell that has each step: a worker builds the step from it."""
    homes: dict[Step, int] = {}
    wanted = set(steps)
    for item in campaign.plan.cells:
        if item.experiment is not None and item.same_as is None:
            for step in item.experiment.steps:
                if step in wanted:
                    homes.setdefault(step, item.number)
    return homes


def _ends(campaign: Campaign, job: Job) -> list[int]:
    """The cells whose final ranking a job makes: it writes their folders too."""
    made = set(job.steps)
    return [
        item.number
        for item in campaign.open_cells()
        if item.experiment is not None and item.experiment.rankings["final"].step in made
    ]


def _dependency(campaign: Campaign, job: Job, ids: Mapping[int, str]) -> str:
    """`afterok` of the jobs without which nothing of this one can be made, `afterany` of those that only some of it needs."""
    needed = {id(before): whole(job, before) for before in job.after}
    kinds = {ids[before]: all_ for before, all_ in needed.items()}
    for step in job.steps:
        for before in step.before:
            if (other := campaign.under_way(before)) is not None and other not in kinds:
                kinds[other] = all(before in s.before for s in job.steps)
    said = {
        "afterok": [i for i, all_ in kinds.items() if all_],
        "afterany": [i for i, all_ in kinds.items() if not all_],
    }
    return ",".join(":".join([name, *found]) for name, found in said.items() if found)


class Make:
    """What a job does. submitit keeps it with the path of a sweep and the key of a job, and nothing else.

    It is called again after a time-out or preemption: what is there is found, and a step goes on from its last shard.
    """

    def __call__(self, folder: str, key: str, task: int = 0) -> str:
        sweep = Path(folder)
        job = Record.read(sweep / "jobs" / f"{key}.json")
        workshop = Workshop(sweep, job.cells, PATIENCE)
        made, said = 0, list[str]()
        for order in job.orders:
            job.now(sweep, task).write_text(order.promise, encoding="utf-8")
            try:
                if job.tasks > 1:
                    workshop.make(order, lambda step: workshop.store.make_shards(step, task, job.tasks))
                else:
                    workshop.make(order)
                    Registry(workshop.store.root).made(order.promise)
                made += 1
            except Exception as error:
                said.append(explained(error, workshop.store.root))
                if not isinstance(error, Unready):
                    workshop.blame(order, said[-1], kind(error))
                if kind(error) == "timeout":
                    raise
        for number in job.exports:
            workshop.export(number)
        job.now(sweep, task).write_text(ENDED, encoding="utf-8")
        if not made:
            raise RunError("\n".join(said))  # what waits for this job need not begin
        return f"{made} of {many(len(job.orders), 'step')}"

    def checkpoint(self, *arguments: Any) -> Any:
        """submitit's question what to queue again: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)
