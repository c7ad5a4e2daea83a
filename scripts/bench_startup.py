"""Wall time of the commands one types all day: the median of several process starts, on a store that holds the demo's result."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

COMMANDS = {
    "clir --help": ["--help"],
    "clir plan": ["plan"],
    "clir run, finished before": ["run", "--quiet"],
    "python -c pass": [],
}
TARGET = {"clir --help": 0.5, "clir plan": 1.0, "clir run, finished before": 1.0}  # seconds on 2 cores


def seconds(arguments: list[str], folder: str) -> float:
    command = [sys.executable, "-m", "clir_cli", *arguments] if arguments else [sys.executable, "-c", "pass"]
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, env=os.environ, check=True, capture_output=True)
    return time.perf_counter() - begun


with tempfile.TemporaryDirectory() as folder:
    seconds(["run", "--quiet"], folder)
    for name, arguments in COMMANDS.items():
        taken = [seconds(arguments, folder) for _ in range(9)]
        target = f"  (target {TARGET[name]:.1f} s)" if name in TARGET else ""
        print(f"{name:<28} {statistics.median(taken):.2f} s, best {min(taken):.2f} s{target}")
