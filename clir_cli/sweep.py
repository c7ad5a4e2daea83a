"""The sweep folder: cells.csv, plan.json and the concatenated CSVs of all its experiments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clir_cli import experiment, plan
from clir_cli.files import write_json
from clir_cli.launchers.serial import Outcome
from clir_cli.plan import Plan
from clir_cli.progress import say
from clir_cli.stages import pair_label
from clir_cli.steps import digest

COLUMNS = ["cell", "overrides", "status", "experiment", "error"]


def folder(plan: Plan, name: str) -> Path:
    """runs/sweeps/<name>-<key>/: the key says which cells it has."""
    asked = [" ".join(item.cell.overrides) for item in plan.cells]
    return plan.store.root / "sweeps" / f"{name}-{digest(asked)}"


def rows(plan: Plan, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """cells.csv: every cell, what was asked, what became of it."""
    return [
        {
            "cell": number, "overrides": " ".join(outcome.cell.cell.overrides), "status": outcome.status,
            "experiment": str(outcome.folder.relative_to(plan.store.root)) if outcome.folder else "",
            "error": str(outcome.error).splitlines()[0] if outcome.error else "",
        }
        for number, outcome in enumerate(outcomes)
    ]  # fmt: skip


def write(sweep: Plan, outcomes: Sequence[Outcome], into: Path) -> None:
    """Leave the folder's files, each whole or not at all."""
    into.mkdir(parents=True, exist_ok=True)
    folders = list(dict.fromkeys(o.folder for o in outcomes if o.folder))
    for name, columns in experiment.TABLES.items():
        experiment.write_rows(into / name, columns, (row for f in folders for row in experiment.read_rows(f / name)))
    experiment.write_rows(into / "cells.csv", COLUMNS, rows(sweep, outcomes))
    write_json(into / "plan.json", {
        "cells": [{"overrides": list(o.cell.cell.overrides), "dropped": list(o.cell.cell.dropped), "same_as": o.cell.same_as} for o in outcomes],
        "steps": list(plan.rows(sweep)),
    })  # fmt: skip


def tell(plan: Plan, outcome: Outcome) -> None:
    """A line on stderr when a cell is finished."""
    item = outcome.cell
    if item.experiment is not None:
        name = f"{pair_label(item.experiment.cfg)}/{item.experiment.name}"
    else:
        name = " ".join(item.cell.overrides)
    say(f"cell {plan.cells.index(item) + 1}/{len(plan.cells)} {name}: {outcome.status}")


def text(plan: Plan, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What the end of a sweep prints: dropped overrides, equal cells, failures with their first error line, and the counts."""
    told: dict[str, list[int]] = {}
    for number, outcome in enumerate(outcomes):
        if outcome.cell.cell.dropped:
            told.setdefault(
                f"dropped {' '.join(outcome.cell.cell.dropped)}, which the component does not have", []
            ).append(number)
        if outcome.cell.same_as is not None:
            told.setdefault(f"the same as cell {outcome.cell.same_as}", []).append(number)
        if outcome.error is not None:
            told.setdefault(f"{outcome.status}: {str(outcome.error).splitlines()[0]}", []).append(number)
    for message, numbers in told.items():
        shown = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if numbers[8:] else "")
        yield f"cell{'s' if numbers[1:] else ''} {shown}: {message}"
    counts = {s: sum(o.status == s for o in outcomes) for s in ("done", "cached", "failed", "invalid")}
    yield f"{len(outcomes)} cells: " + ", ".join(f"{n} {s}" for s, n in counts.items() if n)
