"""A worker process of the local launcher: makes what it is told on stdin, a line each, and answers on stdout.

python -m clir_cli.launchers.worker SWEEP CELLS
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from clir_cli.launchers.outcome import kind
from clir_cli.launchers.work import Order, Unready, Workshop, explained, tell


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        workshop = Workshop(Path(sys.argv[1]), sys.argv[2])
        for line in sys.stdin:  # ends when the launcher is gone
            print(json.dumps(answer(workshop, json.loads(line))), file=answers, flush=True)
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)  # the locks are given back; threads of a model or the JVM would keep the process


def answer(workshop: Workshop, task: dict[str, Any]) -> dict[str, Any]:
    """What became of `{"make": order}` or `{"export": cell}`."""
    try:
        if "export" in task:
            return {"folder": str(workshop.export(task["export"]) or "")}
        order = Order(*task["make"])
        return {"did": workshop.make(order)}
    except Exception as error:
        if "make" in task and not isinstance(error, Unready) and kind(error) != "failed":
            workshop.blame(order, explained(error, workshop.store.root), kind(error))
        elif "export" in task:
            tell(error)
        return {"error": explained(error, workshop.store.root), "state": kind(error)}


if __name__ == "__main__":
    main()
