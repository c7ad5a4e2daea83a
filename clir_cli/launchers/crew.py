"""The worker processes of this machine: who may do what, what they answer, and what becomes of one that dies."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clir_cli.progress import say

POLL = 0.2  # seconds between looks at the workers' logs
PATIENCE = 10.0  # seconds that a worker has to stop


@dataclass(eq=False)
class Task:
    """What one worker does at a time."""

    message: dict[str, Any]
    what: str
    gpus: int = 0
    loads: str = ""
    log: Path | None = None  # where its progress is written


@dataclass(eq=False)
class Worker:
    """A process, what it may use, what it has loaded and what it does now."""

    number: int
    process: subprocess.Popen[bytes]
    gpus: tuple[str, ...]
    loaded: str = ""
    task: Task | None = None
    heard: bytes = b""
    read_to: int = 0  # bytes of its task's log that were shown


@dataclass(eq=False)
class Crew:
    """Up to `most` workers without a GPU, and as many with GPUs as there are GPUs for."""

    command: list[str]
    most: int
    free: list[str]  # GPUs that no worker has
    workers: list[Worker] = field(default_factory=list)
    hired: int = 0

    def __post_init__(self) -> None:
        self.ears = selectors.DefaultSelector()
        self.killed_for_memory = _oom_kills()

    @property
    def busy(self) -> bool:
        return any(worker.task for worker in self.workers)

    # Who does what

    def take(self, tasks: Sequence[Task]) -> list[Task]:
        """Give tasks to workers, first those whose model a free worker has, else in their order; the tasks that must wait."""
        left = [task for task in tasks if not self._give(task, self._holder(task))]
        return [task for task in left if not self._give(task, self._holder(task) or self._new(task) or self._any(task))]

    def _give(self, task: Task, worker: Worker | None) -> bool:
        if worker is None:
            return False
        worker.task, worker.loaded = task, task.loads or worker.loaded
        worker.read_to = task.log.stat().st_size if task.log and task.log.exists() else 0
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; `listen` hears of it
            worker.process.stdin.write(json.dumps(task.message).encode() + b"\n")
            worker.process.stdin.flush()
        return True

    def _idle(self, task: Task) -> list[Worker]:
        return [w for w in self.workers if w.task is None and len(w.gpus) == task.gpus]

    def _holder(self, task: Task) -> Worker | None:
        """A free worker that has the model of the task, or one without a model for a task without."""
        return next((w for w in self._idle(task) if w.loaded == task.loads), None)

    def _waits_for_holder(self, task: Task) -> bool:
        """A model on the CPU uses all cores: loading it twice makes nothing faster."""
        return bool(task.loads) and not task.gpus and any(w.loaded == task.loads and not w.gpus for w in self.workers)

    def _new(self, task: Task) -> Worker | None:
        """A fresh worker, if there is room for it; free workers with GPUs make room."""
        if self._waits_for_holder(task):
            return None
        if not task.gpus:
            return self._hire(()) if sum(not w.gpus for w in self.workers) < self.most else None
        idle = [w for w in self.workers if w.gpus and w.task is None]
        if len(self.free) + sum(len(w.gpus) for w in idle) < task.gpus:
            return None
        while len(self.free) < task.gpus:
            self._dismiss(idle.pop())
        return self._hire(tuple(self.free[: task.gpus]))

    def _any(self, task: Task) -> Worker | None:
        """Another free worker without a GPU; where it has a model and the task another one, a fresh one in its place."""
        idle = sorted(self._idle(task), key=lambda worker: bool(worker.loaded))
        if task.gpus or not idle or self._waits_for_holder(task):
            return None
        if not task.loads or not idle[0].loaded:
            return idle[0]
        self._dismiss(idle[0])  # or its model stays in memory beside the new one
        return self._hire(())

    def _hire(self, gpus: tuple[str, ...]) -> Worker:
        self.hired += 1
        self.free = [name for name in self.free if name not in gpus]
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **visible}
        )
        worker = Worker(self.hired, process, gpus)
        self.workers.append(worker)
        assert process.stdout is not None
        self.ears.register(process.stdout, selectors.EVENT_READ, worker)
        return worker

    # What they say

    def listen(self) -> Iterator[tuple[Task, dict[str, Any]]]:
        """Wait a moment, show progress, and give the tasks that ended with what became of them."""
        ready = self.ears.select(POLL)
        for worker in self.workers:
            _show(worker)
        for key, _ in ready:
            worker = key.data
            heard = os.read(key.fd, 1 << 16)
            if not heard:
                yield from self._buried(worker)
                continue
            worker.heard += heard
            while b"\n" in worker.heard:
                line, worker.heard = worker.heard.split(b"\n", 1)
                _show(worker)
                task, worker.task = worker.task, None
                assert task is not None
                yield task, json.loads(line)

    def _buried(self, worker: Worker) -> Iterator[tuple[Task, dict[str, Any]]]:
        """A worker that is gone; its task failed."""
        code, task = worker.process.wait(), worker.task
        self._dismiss(worker)
        if task is None:
            return
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        kills, before = _oom_kills(), self.killed_for_memory
        self.killed_for_memory = kills
        oom = code == -signal.SIGKILL and kills > before
        why = ": the machine ran out of memory" if oom else ""
        told = f"the worker process ended ({how}) while it made {task.what}{why}; its finished shards are kept"
        yield task, {"error": told, "state": "oom" if oom else "failed", "died": True}

    # The end

    def _dismiss(self, worker: Worker) -> None:
        assert worker.process.stdin is not None and worker.process.stdout is not None
        self.ears.unregister(worker.process.stdout)
        self.workers.remove(worker)
        self.free = sorted([*self.free, *worker.gpus])
        with contextlib.suppress(BrokenPipeError):
            worker.process.stdin.close()
        if worker.process.poll() is None and worker.task is not None:
            worker.process.send_signal(signal.SIGINT)
        try:
            worker.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.process.stdout.close()

    def dismiss(self) -> None:
        """Stop all workers; shards that are finished stay."""
        for worker in self.workers:
            if worker.task is not None and worker.process.poll() is None:
                worker.process.send_signal(signal.SIGINT)  # all at once, before waiting for each
        while self.workers:
            self._dismiss(self.workers[0])
        self.ears.close()


def _show(worker: Worker) -> None:
    """What a worker has written of its task since the last time."""
    if worker.task is None or worker.task.log is None or not worker.task.log.exists():
        return
    with worker.task.log.open("rb") as log:
        log.seek(worker.read_to)
        new = log.read()
    whole = new[: new.rfind(b"\n") + 1]
    worker.read_to += len(whole)
    for line in whole.decode(errors="replace").splitlines():
        say(f"[{worker.number}] {line}")


def _oom_kills() -> int:
    """How many processes Linux has killed for want of memory since it was started."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(name for name in given.split(",") if name and name != "-1")
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(str(number) for number in range(len(lines)))
