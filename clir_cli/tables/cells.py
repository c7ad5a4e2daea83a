"""Which rows a table is of, and what stands in its cells."""

from __future__ import annotations

import difflib
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from clir_cli.errors import ConfigError, many
from clir_cli.tables.reading import COUNTS, DASH, Results, Row, differing, spelled

Label: TypeAlias = tuple[str, ...]  # the values of the row keys, or of the column keys
Part: TypeAlias = tuple[str, str, str]  # dataset, split, pair: what has topics of its own
Aggregate: TypeAlias = Literal["mean", "median"]


@dataclass(frozen=True)
class Cell:
    """A value, and the rows it is the mean of, each with how much it weighs in it."""

    rows: list[Row]
    shares: list[float]  # of each row; sum to 1
    value: float
    repeats: Mapping[str, float] = field(default_factory=dict)  # repeat -> value, where there are several

    @property
    def weights(self) -> Mapping[Part, float]:
        """How much each part weighs."""
        found: dict[Part, float] = defaultdict(float)
        for row, share in zip(self.rows, self.shares, strict=True):
            found[part_of(row)] += share
        return found

    @property
    def sd(self) -> float | None:
        """The standard deviation over repeats (n - 1); None where there is one."""
        return statistics.stdev(self.repeats.values()) if len(self.repeats) > 1 else None


Cells: TypeAlias = dict[tuple[Label, Label], Cell]


# Choosing --------------------------------------------------------------------------------------------------------------


def chosen(results: Results, keys: Sequence[str], measure: str, where: Sequence[str], stage: str) -> list[Row]:
    """The rows of the wanted stages (`first_stage,final`) and measure that satisfy every `key=value` of `where`."""
    wanted: dict[str, list[str]] = defaultdict(list)
    for condition in where:
        key, equals, value = condition.partition("=")
        if not equals:
            raise ConfigError(f"where {condition!r}: expected key=value, such as reranker=none")
        wanted[key].append(value)
    for key in [*keys, *wanted]:
        _check_key(results, key)
    kept = results.rows
    if "stage" not in keys and "stage" not in wanted:
        wanted["stage"] = [name.strip() for name in stage.split(",")]
    if measure != "main":
        wanted["measure"] = [spelled(measure, kept)]
    elif "measure" not in keys and "measure" not in wanted:
        main: dict[str, str] = {}
        for row in kept:
            main.setdefault(row["experiment"], row["measure"])
        kept = [row for row in kept if row["measure"] == main[row["experiment"]]]
    for key, values in wanted.items():
        there = list(dict.fromkeys(results.value(row, key) for row in kept))
        kept = [row for row in kept if (results.value(row, key) or "") in values]
        if not kept:
            shown = ", ".join(text or "(empty)" for text in there[:20])
            raise ConfigError(f"no row has {key}={' or '.join(values)}; there are: {shown}")
    _check_judgments(kept, keys)
    return kept


def _check_key(results: Results, key: str) -> None:
    if key in results.rows[0]:
        return
    known = {name for experiment in results.folders for name in results.config(experiment)}
    if key not in known:
        near = difflib.get_close_matches(key, [*results.rows[0], *known], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        found = "a dotted key of the configs" if known else "(no config.yaml was found, so dotted keys are unknown)"
        raise ConfigError(f"{key!r} is neither a column of metrics.csv nor pair nor {found}{hint}")


def part_of(row: Row) -> Part:
    return row["dataset"], row["split"], row["pair"]


def _check_judgments(rows: Sequence[Row], keys: Sequence[str]) -> None:
    """Refuse values of one collection that were judged otherwise beside each other."""
    if "judgments" in keys:
        return
    found: dict[Part, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        found[part_of(row)][row["judgments"]].add(row["experiment"])
    for part, judgments in found.items():
        first, *others = judgments.values()
        if any(experiments != first for experiments in others):
            raise ConfigError(
                f"{' '.join(filter(None, part))}: not every experiment has the same judgments ("
                + "; ".join(
                    f"{name}: {many(len(experiments), 'experiment')}" for name, experiments in judgments.items()
                )
                + ")\n  choose with --where judgments=NAME, put judgments into rows or cols, or add what is missing with "
                "clir evaluate EXPERIMENTS --judgments NAME"
            )


# Filling ---------------------------------------------------------------------------------------------------------------


def filled(
    results: Results, kept: Iterable[Row], rows: Sequence[str], cols: Sequence[str], agg: Aggregate | None
) -> Cells:
    """A cell for every combination of the keys that has rows."""
    grid: dict[tuple[Label, Label], list[Row]] = defaultdict(list)
    for row in kept:
        at = [results.value(row, key) or DASH for key in [*rows, *cols]]
        grid[tuple(at[: len(rows)]), tuple(at[len(rows) :])].append(row)
    return {at: _cell(results, at, found, agg) for at, found in grid.items()}


def _cell(results: Results, at: tuple[Label, Label], rows: Sequence[Row], agg: Aggregate | None) -> Cell:
    """One value of the rows of a cell: equal rows merge, repeats are averaged, other settings need `agg`."""
    equal: dict[tuple[str, ...], Row] = {}
    for row in rows:  # without a reranker the first stage is the final one: it counts once
        equal.setdefault(tuple(v for k, v in row.items() if k not in ("experiment", "stage")), row)
    distinct = list(equal.values())
    settings: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in distinct:
        settings[tuple(v for k, v in row.items() if k not in ("experiment", "repeat", *COUNTS))].append(row)
    twice = [group for group in settings.values() if len({row["repeat"] for row in group}) < len(group)]
    if agg is None and (len(settings) > 1 or twice):
        shown = " x ".join(" ".join(label) or "all" for label in at)
        count = len(settings) if not twice else len(twice[0])
        raise ConfigError(
            f"{count} values in one cell ({shown}); they differ in "
            f"{differing(results, twice[0] if twice and len(settings) == 1 else distinct)}\n"
            "  put one of these into --rows or --cols, choose with --where KEY=VALUE, or average with --agg mean or median"
        )
    means = [statistics.fmean(float(row["value"]) for row in group) for group in settings.values()]
    rows = [row for group in settings.values() for row in group]
    shares = [1 / len(settings) / len(group) for group in settings.values() for _ in group]
    if len(means) > 1:
        return Cell(rows, shares, _median(means) if agg == "median" else statistics.fmean(means))
    repeats = {row["repeat"]: float(row["value"]) for row in rows} if len(rows) > 1 else {}
    return Cell(rows, shares, means[0], repeats)


def _median(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else statistics.median(values)


def average(cells: Sequence[Cell]) -> Cell:
    """The mean of a row's cells; over repeats where all cells have the same ones."""
    value = statistics.fmean(cell.value for cell in cells)
    names = list(cells[0].repeats)
    same = all(cell.repeats.keys() == cells[0].repeats.keys() for cell in cells)
    repeats = {name: statistics.fmean(cell.repeats[name] for cell in cells) for name in names} if same else {}
    rows, shares = [row for cell in cells for row in cell.rows], [s / len(cells) for cell in cells for s in cell.shares]
    return Cell(rows, shares, value, repeats)
