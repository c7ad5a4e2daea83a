"""The sweep folder: cells.csv, plan.json and the concatenated CSVs of all its experiments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clir_cli import experiment, plan
from clir_cli.compose import Cell
from clir_cli.errors import ClirError, ConfigError, many
from clir_cli.files import write_json
from clir_cli.launchers.outcome import STATES, Outcome, said
from clir_cli.plan import Plan
from clir_cli.progress import say
from clir_cli.stages import pair_label
from clir_cli.steps import digest

COLUMNS = ["cell", "overrides", "status", "experiment", "error"]


def folder(plan: Plan, name: str) -> Path:
    """runs/sweeps/<name>-<key>/: the key says which cells it has."""
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ConfigError(f"--name: a sweep's name is letters, digits and _ . + -; got {name!r}")
    asked = [" ".join(item.cell.overrides) for item in plan.cells]
    return plan.store.root / "sweeps" / f"{name}-{digest(asked)}"


def rows(plan: Plan, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """cells.csv: every cell, what was asked, what became of it; then those that a constraint leaves out, and which."""
    made = [
        {
            "cell": outcome.cell.number, "overrides": " ".join(outcome.cell.cell.overrides), "status": outcome.status,
            "experiment": str(outcome.folder.relative_to(plan.store.root)) if outcome.folder else "",
            "error": brief(outcome.error),
        }
        for outcome in outcomes
    ]  # fmt: skip
    left_out = [
        {
            "cell": number, "overrides": " ".join(cell.overrides), "status": "skipped", "experiment": "",
            "error": cell.skipped,
        }
        for number, cell in enumerate(plan.skipped, len(plan.cells) + 1)
    ]  # fmt: skip
    return [*made, *left_out]


def brief(error: Exception | None) -> str:
    """The first line of an error; one that no user can cause says its class."""
    if error is None:
        return ""
    what = str(error) if isinstance(error, ClirError) else f"{type(error).__name__}: {error}"
    return what.splitlines()[0]


def write(sweep: Plan, outcomes: Sequence[Outcome], into: Path) -> None:
    """Leave the folder's files, each whole or not at all; where the disk refuses them, say first what became of the cells."""
    try:
        _write(sweep, outcomes, into)
    except OSError as error:
        say("\n".join(text(outcomes, sweep.skipped)))
        raise said(error, sweep.store.root) from error


def _write(sweep: Plan, outcomes: Sequence[Outcome], into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    folders = list(dict.fromkeys(o.folder for o in outcomes if o.folder))
    for name, columns in experiment.TABLES.items():
        found = (row for f in folders for row in experiment.read_rows(f / name))
        experiment.write_rows(into / name, columns, found if name != "metrics.csv" else _metrics(outcomes))
    experiment.write_rows(into / "cells.csv", COLUMNS, rows(sweep, outcomes))
    write_json(into / "plan.json", plan.record(sweep))


def _metrics(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The rows of metrics.csv, said as each cell asked for them: a ranking may have been made under another depth or label."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for outcome in outcomes:
        if outcome.folder is not None and (made := outcome.cell.experiment) is not None:
            for row in experiment.read_rows(outcome.folder / "metrics.csv"):
                own = row | {k: str(v) for k, v in experiment.columns_of(made.cfg, row["stage"]).items()}
                found.setdefault(tuple(own.values()), own)
    return list(found.values())


def tell(plan: Plan, outcome: Outcome) -> None:
    """A line on stderr when a cell is finished."""
    item = outcome.cell
    if item.experiment is not None:
        name = f"{pair_label(item.experiment.cfg)}/{item.experiment.name}"
    else:
        name = " ".join(item.cell.overrides)
    say(f"cell {item.number}/{len(plan.cells)} {name}: {outcome.status}")


def text(outcomes: Sequence[Outcome], skipped: Sequence[Cell] = ()) -> Iterator[str]:
    """What the end of a sweep prints: dropped overrides, equal cells, failures with the way out, and the counts."""
    cells, errors = [o.cell for o in outcomes], [f"{o.status}: {o.error}" if o.error else "" for o in outcomes]
    yield from plan.remarks(cells, errors, skipped)
    yield counted(outcomes)


def counted(outcomes: Sequence[Outcome]) -> str:
    """`12 cells: 10 done, 2 failed`."""
    counts = {s: sum(o.status == s for o in outcomes) for s in STATES}
    return f"{many(len(outcomes), 'cell')}: " + ", ".join(f"{n} {s}" for s, n in counts.items() if n)
