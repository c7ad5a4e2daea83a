"""What Slurm says of jobs, in one question for all; and what that means for a step."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from clir_cli.errors import ConfigError, RunError

# squeue's states of a job that may still do something; any other state is its end.
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"}
WAITING = {
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "RESIZING",
}  # fmt: skip
ENDS: Mapping[str, str] = {
    "COMPLETED": "done",
    "FAILED": "failed",
    "NODE_FAIL": "failed",
    "BOOT_FAIL": "failed",
    "LAUNCH_FAILED": "failed",
    "RECONFIG_FAIL": "failed",
    "OUT_OF_MEMORY": "oom",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "CANCELLED": "cancelled",
    "PREEMPTED": "cancelled",
    "REVOKED": "cancelled",
}
WHY: Mapping[str, str] = {  # for people, of the ends that are nobody's error message
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not boot",
    "OUT_OF_MEMORY": "it used more memory than it had asked for; ask for more: launcher.memory_gb, launcher.needs",
    "TIMEOUT": "it reached its time limit; allow more: launcher.minutes, launcher.needs",
    "DEADLINE": "it could not end before its deadline",
    "PREEMPTED": "it had to make room for another job",
}
UNREACHED = "DependencyNeverSatisfied"  # the reason of a job that waits for one that failed


class Seen(NamedTuple):
    """A job as Slurm knows it: its state and the reason for it; an array is as far as its slowest task, and as bad as its worst."""

    state: str
    reason: str = ""
    name: str = ""

    @property
    def means(self) -> str:
        """pending, running, done, failed, timeout, oom or cancelled; failed for a state that is new to clir."""
        if self.state in WAITING:
            return "pending"
        return "running" if self.state in RUNNING else ENDS.get(self.state, "failed")

    @property
    def alive(self) -> bool:
        return self.means in {"pending", "running"}


_RANK = ("running", "pending", "oom", "timeout", "failed", "cancelled", "done")


def seen() -> dict[str, Seen]:
    """job id -> state of every job that Slurm has or remembers (some minutes). RunError if it does not answer."""
    found: dict[str, Seen] = {}
    for line in ask("squeue", "-h", "-t", "all", "-o", "%F|%T|%j|%r").splitlines():
        job, state, name, reason = line.split("|", 3)
        task = Seen(state, reason, name)
        if job not in found or _RANK.index(task.means) < _RANK.index(found[job].means):
            found[job] = task
    return found


def cancel(jobs: Iterable[str]) -> None:
    if ids := list(jobs):
        ask("scancel", *ids)


def ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(
            f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}\n"
            "  if the cluster cannot be reached from here, give the command on a login node"
        )
    return done.stdout


def installed() -> bool:
    return all(shutil.which(name) for name in ("sbatch", "squeue", "scancel"))


def check_installed() -> None:
    """Raise ConfigError where there is no Slurm, or no submitit."""
    import importlib.util

    if not installed():
        raise ConfigError(
            "launcher=slurm: there is no sbatch and squeue here; give the command where they are, on a login node, or choose launcher=local"
        )
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError("launcher=slurm needs submitit: pip install 'clir[slurm]'")
