"""Whether the rows of a table are better or worse than a baseline: which topics are compared, and the family of tests."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from clir_cli.errors import ConfigError
from clir_cli.significance import (
    CORRECTION_NAMES,
    CORRECTIONS,
    TEST_NAMES,
    Correction,
    Effect,
    Sample,
    TestName,
    delta,
    effect_of,
    p_value,
    sample,
)
from clir_cli.tables.cells import Cells, Label, Part, part_of
from clir_cli.tables.reading import Results, Row

ALPHA = 0.05
OWN = "own_first_stage"
ALIKE = (
    "all topics differ by the same amount: no variance, so no doubt, however few they are (--test randomisation has)"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
Scores: TypeAlias = Mapping[Part, Mapping[str, float]]  # part -> query_id -> value, over repeats and settings


@dataclass(frozen=True)
class Comparison:
    """One test: a cell against the same column of a baseline."""

    row: Label
    column: Label
    baseline: int
    topics: int
    effect: Effect
    p: float
    corrected: float = math.nan

    @property
    def sign(self) -> int:
        """1 significantly better, -1 significantly worse, 0 neither."""
        return int(math.copysign(1, self.effect.difference)) if self.corrected < ALPHA else 0


def scores(
    results: Results, rows: Sequence[Row], stage: str | None = None, shares: Sequence[float] | None = None
) -> Scores | None:
    """The scores behind rows, averaged topic by topic with a weight for each row; None where a row has none."""
    found: dict[Part, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row, share in zip(rows, shares or [1.0] * len(rows), strict=True):
        topics = results.topics(row, stage)
        if topics is None:
            return None
        for query_id, value in topics.items():
            found[part_of(row)][query_id].append((value, share))
    return {
        part: {q: statistics.fmean(*zip(*weighed, strict=True)) for q, weighed in topics.items()}
        for part, topics in found.items()
    }


def compared(mine: Scores, other: Scores, weights: Mapping[Part, float]) -> Sample:
    """The differences topic by topic. Topics with one id in several pairs of a dataset and split are the same topic."""
    return sample(
        [
            (weights[part], {(*part[:2], q): delta(value, other[part][q]) for q, value in topics.items()})
            for part, topics in mine.items()
        ]
    )


def unfit(mine: Scores, other: Scores) -> str:
    """Why two sides cannot be compared topic by topic; empty where they can."""
    if mine.keys() != other.keys() or any(mine[part].keys() != other[part].keys() for part in mine):
        return "the baseline has other topics"
    if not all(map(math.isfinite, (v for side in (mine, other) for topics in side.values() for v in topics.values()))):
        return "a topic's value is not a number"
    if any(len(topics) < 2 for topics in mine.values()):
        return "one topic says nothing"
    return ""


@dataclass(frozen=True)
class Tested:
    """The tests of a table, and what stands about them under it."""

    comparisons: list[Comparison]
    baselines: list[str]
    notes: list[str]

    def at(self, row: Label, column: Label) -> list[Comparison]:
        return [c for c in self.comparisons if (c.row, c.column) == (row, column)]


def tested(
    results: Results,
    cells: Cells,
    left: Sequence[Label],
    top: Sequence[Label],
    *,
    baselines: Sequence[str],
    correction: Correction,
    test: TestName,
) -> Tested:
    """Every row against every baseline in every column; p-values are corrected over all tests of a column."""
    if len(baselines) > len(LETTERS):
        raise ConfigError(f"at most {len(LETTERS)} baselines have letters of their own, got {len(baselines)}")
    bases = [None if name == OWN else _row_named(name, left) for name in dict.fromkeys(baselines)]
    made: list[Comparison] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    family: dict[Label, int] = {}
    for c in top:
        column: list[Comparison] = []
        for number, base in enumerate(bases):
            for r in left:
                found = _comparison(results, cells, r, c, base, test)
                if isinstance(found, str):
                    if len(bases) > 1 and base is not None:
                        found = found.replace("the baseline", " ".join(base))
                    left_out[found].append(" x ".join(filter(None, (" ".join(r), " ".join(c)))))
                elif found is not None:
                    column.append(replace(found, baseline=number))
        corrected = CORRECTIONS[correction]([t.p for t in column])
        made += [replace(t, corrected=p) for t, p in zip(column, corrected, strict=True)]
        family[c] = len(column)
    names = ["the row's own first stage" if base is None else " ".join(base) for base in bases]
    notes = [_about(names, family, correction, test)]
    if any(len(cells[t.row, t.column].weights) > 1 for t in made):
        notes.append("over several pairs, a topic that they share is one observation: the mean of its differences")
    if test != "randomisation" and (
        sure := [f"{' '.join(t.row)} x {' '.join(t.column)}" for t in made if t.effect.alike]
    ):
        notes.append(f"{ALIKE}: {_few(sure)}")
    notes += [f"not tested, {why}: {_few(where)}" for why, where in left_out.items()]
    return Tested(made, names, notes)


def _comparison(
    results: Results, cells: Cells, r: Label, c: Label, base: Label | None, test: TestName
) -> Comparison | str | None:
    """The test of a cell; None where there is nothing to test, a text where it cannot be tested."""
    cell = cells.get((r, c))
    if cell is None or r == base or math.isnan(cell.value):
        return None
    if cell.rows[0]["measure"].startswith("Num"):
        return "a count is summed over topics, not averaged"
    if base is None:
        if all(row["stage"] == "first_stage" or row["reranker"] == "none" for row in cell.rows):
            return None  # it is its own first stage
        against, stage = cell, "first_stage"
    else:
        if (base, c) not in cells:
            return "the baseline has no value"
        against, stage = cells[base, c], None
    mine = scores(results, cell.rows, None, cell.shares)
    other = scores(results, against.rows, stage, against.shares)
    if mine is None or other is None:
        raise ConfigError(f"{' '.join(r)}: no scores by topic to test; per_query.csv must lie beside metrics.csv")
    if why := unfit(mine, other):
        return why
    if any(abs(weight - against.weights.get(part, 0)) > 1e-9 for part, weight in cell.weights.items()):
        return "its settings lie otherwise over the language pairs than the baseline's"
    found = compared(mine, other, cell.weights)
    return Comparison(r, c, 0, found.topics, effect_of(found), p_value(found, test))


def _about(names: Sequence[str], family: Mapping[Label, int], correction: Correction, test: TestName) -> str:
    """The baselines, the test, the correction and the size of its family."""
    lettered = [f"{LETTERS[i]} {name}" for i, name in enumerate(names)] if len(names) > 1 else names
    sizes = dict.fromkeys(family.values())
    size = str(next(iter(sizes))) if len(sizes) == 1 else ", ".join(f"{' '.join(c)} {n}" for c, n in family.items())
    how = f"{CORRECTION_NAMES[correction]} within a column" if correction != "none" else "no correction"
    tests = ("test" if size == "1" else "tests") + (" a column" if len(family) > 1 else "")
    return (
        f"▲/▼ significantly better/worse than {', '.join(lettered)}: {TEST_NAMES[test]}, p < {ALPHA}, "
        f"{how}, family of {size} {tests}"
    )


def _few(names: Sequence[str], most: int = 8) -> str:
    return "; ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _row_named(name: str, left: Sequence[Label]) -> Label:
    """The row whose label is `name`, its values joined by a blank, comma or plus; or the only one with that value."""
    exact = [r for r in left if name in (" ".join(r), ",".join(r), "+".join(r))]
    found = exact or [r for r in left if name in r]
    if len(found) != 1:
        there = "; ".join(" ".join(r) for r in found or left)
        raise ConfigError(f"baseline {name!r} names {len(found)} rows; {OWN}, or one of: {there}")
    return found[0]
