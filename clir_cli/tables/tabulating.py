"""One measure of many experiments: rows against columns, marks, and what must be said under it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clir_cli.errors import ConfigError
from clir_cli.significance import Correction, TestName
from clir_cli.tables import rendering
from clir_cli.tables.cells import Aggregate, Cell, Cells, Label, Part, average, chosen, filled, part_of
from clir_cli.tables.reading import COLUMNS, Row, read
from clir_cli.tables.rendering import Format, Grid
from clir_cli.tables.testing import OWN, Tested, tested

AVERAGE: Label = ("mean",)

# What `clir table --preset` stands for: what is given beside it wins.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "zuo2025": {  # the core study, Zuo et al. 2025; it does not correct (--correction none) and marks gains only
        "rows": ["retriever", "reranker", "rerank_doc"],
        "cols": ["pair"],
        "stage": "first_stage,final",
        "baselines": [OWN],
        "digits": 3,
    }
}
DEFAULTS: Mapping[str, Any] = {
    "rows": ["retriever", "reranker"], "cols": ["pair"], "stage": "final", "baselines": [], "digits": 4,
}  # fmt: skip


def settings(preset: str | None, **given: Any) -> dict[str, Any]:
    """What is given, else what the preset says, else the default; None is not given."""
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} does not exist; there are: {', '.join(PRESETS)}")
    known = {**DEFAULTS, **(PRESETS[preset] if preset else {})}
    return {**known, **{name: value for name, value in given.items() if value is not None}}


def table(
    sources: Iterable[str | Path],
    rows: Sequence[str],
    cols: Sequence[str],
    *,
    measure: str = "main",
    where: Sequence[str] = (),
    stage: str = "final",
    baselines: Sequence[str] = (),
    correction: Correction = "holm",
    agg: Aggregate | None = None,
    format: Format = "markdown",
    digits: int = 4,
    test: TestName = "t",
    tests: bool = False,
) -> str:
    """One measure of many experiments, `rows` against `cols`: columns of metrics.csv, `pair` or dotted config keys.

    `where` are `key=value`; several of one key mean any of them. `measure="main"` is the first of each experiment.
    `baselines` are `own_first_stage` or rows' labels; marks say where a cell is significantly better or worse, `tests`
    adds a line per test with its interval and effect size. Raises ConfigError for an unknown key and, without `agg`, for
    two values in one cell.
    """
    results = read(sources)
    kept = chosen(results, [*rows, *cols], measure, where, stage)
    cells = filled(results, kept, rows, cols, agg)
    left, top = _grouped([r for r, _ in cells]), _grouped([c for _, c in cells])
    measures = list(dict.fromkeys(row["measure"] for row in kept))
    lacking = _incomplete(cells, rows, cols)
    top += _averaged(cells, left, top)
    found = Tested([], [], [])
    if baselines:
        found = tested(results, cells, left, top, baselines=baselines, correction=correction, test=test)
    notes = [_heading(measures, kept, agg, cells), *results.unfinished, *lacking, *_uneven(kept, rows, cols)]
    notes += [*found.notes, *_selection_warning(rows, left, kept)]
    if agg == "median" and found.comparisons:
        notes.append("the tests compare means over what shares a cell, not medians")
    names = {c: " ".join(c) or ", ".join(measures) for c in top}
    grid = Grid(list(rows), left, top, names, cells, found, digits, notes)
    if format in {"csv", "json"}:
        return rendering.csv_text(grid) if format == "csv" else rendering.json_text(grid)
    blocks = [grid.block(), *([grid.tests_block()] if tests and found.comparisons else [])]
    return {"markdown": rendering.markdown, "latex": rendering.latex, "html": rendering.html_text}[format](
        blocks, notes
    )


def _grouped(labels: Iterable[Label]) -> list[Label]:
    """Each label once, in the order of first appearance; those that begin alike stand together."""
    found = list(dict.fromkeys(labels))
    first: dict[Label, int] = {}
    for number, label in enumerate(found):
        for length in range(1, len(label) + 1):
            first.setdefault(label[:length], number)
    return sorted(found, key=lambda label: [first[label[:length]] for length in range(1, len(label) + 1)])


def _incomplete(cells: Cells, rows: Sequence[str], cols: Sequence[str]) -> list[str]:
    """Take away aggregated cells that lack a language pair which others have, and say so: they are not comparable."""
    every: dict[tuple[Label, Label], dict[Part, None]] = defaultdict(dict)
    apart = [bool(_PARTS & {*keys}) for keys in (rows, cols)]

    def peers(r: Label, c: Label) -> tuple[Label, Label]:
        return r if apart[0] else (), c if apart[1] else ()

    for at, cell in cells.items():
        every[peers(*at)] |= dict.fromkeys(cell.weights)
    notes = []
    for (r, c), cell in list(cells.items()):
        if lacks := [part for part in every[peers(r, c)] if part not in cell.weights]:
            pairs = ", ".join(pair for _, _, pair in lacks[:6]) + (" ..." if lacks[6:] else "")
            notes.append(f"{' x '.join(filter(None, (' '.join(r), ' '.join(c))))} lacks {pairs}")
            del cells[r, c]
    return [f"no mean of some language pairs beside a mean of more: {'; '.join(notes)}"] if notes else []


def _averaged(cells: Cells, left: Sequence[Label], top: Sequence[Label]) -> list[Label]:
    """Add to `cells` the mean of every complete row, one for each measure, and give the columns they stand in.

    Of complete rows only: a mean over other columns is not comparable.
    """
    of: dict[str, list[Label]] = defaultdict(list)
    for c in top:
        measures = {row["measure"] for (_, column), cell in cells.items() if column == c for row in cell.rows}
        if len(measures) == 1:
            of[measures.pop()].append(c)
    several = sum(len(columns) > 1 for columns in of.values()) > 1 or len(of) > 1
    made = []
    for measure, columns in of.items():
        if len(columns) < 2:
            continue
        made.append(label := (*AVERAGE, measure) if several else AVERAGE)
        for r in left:
            row = [cells.get((r, c)) for c in columns]
            full = [cell for cell in row if cell is not None and cell.value == cell.value]  # NaN is no value
            if len(full) == len(columns):
                cells[r, label] = average(full)
    return made


# Notes -----------------------------------------------------------------------------------------------------------------


def _heading(
    measures: Sequence[str], kept: Sequence[Row], agg: Aggregate | None, cells: Mapping[tuple[Label, Label], Cell]
) -> str:
    """What the numbers are."""
    parts = [", ".join(measures)]
    topics: dict[str, list[str]] = defaultdict(list)
    for row in kept:
        if row["topics"] not in topics[row["pair"]]:
            topics[row["pair"]].append(row["topics"])
    counts = dict.fromkeys("/".join(numbers) for numbers in topics.values())
    alike = len(counts) == 1
    parts.append(
        "topics: " + (next(iter(counts)) if alike else ", ".join(f"{p} {'/'.join(n)}" for p, n in topics.items()))
    )
    if repeats := sorted({len(cell.repeats) for cell in cells.values() if cell.repeats}):
        n = f"n = {repeats[0]}" if len(repeats) == 1 else "(n)"
        parts.append(f"mean ± standard deviation over {n} repeats")
    if agg:
        parts.append(f"{agg} of what shares a cell")
    return "; ".join(parts)


def _uneven(kept: Sequence[Row], rows: Sequence[str], cols: Sequence[str]) -> list[str]:
    """A note where values of one collection are over different numbers of topics, and so not of one kind."""
    counts: dict[Label, dict[str, None]] = defaultdict(dict)
    named = [key for key in (*rows, *cols) if key in ("judgments", "measure")]
    for row in kept:
        counts[(*part_of(row), *(row[key] for key in named))][row["topics"]] = None
    odd = [f"{' '.join(filter(None, part))} {' and '.join(found)}" for part, found in counts.items() if len(found) > 1]
    return [f"not all values are over the same number of topics: {', '.join(odd)}"] if odd else []


_PARTS = {"dataset", "split", "pair", "query_lang", "doc_lang"}
_NAMES = ({*COLUMNS} | {"pair"}) - {"depth", "rerank_depth"}  # what tells methods apart, rather than settings of one


def _selection_warning(keys: Sequence[str], left: Sequence[Label], kept: Sequence[Row]) -> list[str]:
    """A note where rows are settings of one method: their best was chosen on the topics it is shown for."""
    methods: dict[Label, int] = defaultdict(int)
    for label in left:
        values = zip(keys, label, strict=True)
        methods[tuple(re.sub(r"\[.*\]$", "", value) for key, value in values if key in _NAMES)] += 1
    dotted = ", ".join(key for key in keys if key not in _NAMES)
    several = [" ".join(method) or dotted for method, n in methods.items() if n > 1]
    if not several:
        return []
    splits = ", ".join(dict.fromkeys(row["split"] or row["dataset"] for row in kept))
    return [
        f"rows are several settings of {'; '.join(several)}: the best of them is picked on the topics shown "
        f"({splits}), so it is too good; clir tune chooses on other topics"
    ]
