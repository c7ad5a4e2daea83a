"""How a table is written: markdown that is read in a terminal too, LaTeX, HTML, and CSV and JSON without rounding."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from clir_cli.tables.cells import Cells, Label
from clir_cli.tables.reading import DASH
from clir_cli.tables.testing import LETTERS, Comparison, Tested

Format: TypeAlias = Literal["markdown", "latex", "csv", "html", "json"]
TESTS_HEAD = ("column", "against", "topics", "difference", "95 % interval", "d_z", "p", "corrected p")


class Shown(NamedTuple):
    """What stands in a cell."""

    text: str
    bold: bool = False
    marks: str = ""  # ▲ and ▼, each with the letters of its baselines where there are several


Block: TypeAlias = tuple[Sequence[str], Sequence[Sequence[Shown]], int]  # head, lines, how many columns are labels


@dataclass(frozen=True)
class Grid:
    """A table's values before they are written."""

    keys: list[str]
    left: list[Label]
    top: list[Label]
    names: Mapping[Label, str]
    cells: Cells
    tests: Tested
    digits: int
    notes: list[str]

    def number(self, r: Label, c: Label) -> str:
        cell = self.cells.get((r, c))
        if cell is None or math.isnan(cell.value):
            return DASH
        n = f" ({len(cell.repeats)})" if cell.sd is not None and self.repeats_vary else ""
        sd = "" if cell.sd is None else f" ± {cell.sd:.{self.digits}f}{n}"
        return f"{cell.value:.{self.digits}f}{sd}"

    @property
    def repeats_vary(self) -> bool:
        return len({len(cell.repeats) for cell in self.cells.values() if cell.repeats}) > 1

    def best(self, r: Label, c: Label) -> bool:
        """Whether the cell prints the highest value of a column of several."""
        values = [
            cell.value for other in self.left if (cell := self.cells.get((other, c))) and not math.isnan(cell.value)
        ]
        mine = self.cells.get((r, c))
        return bool(mine and len(values) > 1 and f"{mine.value:.{self.digits}f}" == f"{max(values):.{self.digits}f}")

    def marks(self, r: Label, c: Label) -> str:
        several = len(self.tests.baselines) > 1
        found = self.tests.at(r, c)
        text = ""
        for sign, mark in ((1, "▲"), (-1, "▼")):
            letters = "".join(LETTERS[t.baseline] for t in found if t.sign == sign)
            text += (mark + (letters if several else "")) if letters else ""
        return text

    def block(self) -> Block:
        lines = [
            [*map(Shown, r), *(Shown(self.number(r, c), self.best(r, c), self.marks(r, c)) for c in self.top)]
            for r in self.left
        ]
        return [*self.keys, *(self.names[c] for c in self.top)], lines, len(self.keys)

    def tests_block(self) -> Block:
        """A line per test."""
        d = self.digits

        def line(t: Comparison) -> list[Shown]:
            e = t.effect
            texts = [
                *t.row, self.names[t.column], self.tests.baselines[t.baseline], str(t.topics), signed(e.difference, d),
                interval(e.low, e.high, d), signed(e.d_z, 2), probability(t.p), probability(t.corrected),
            ]  # fmt: skip
            return [Shown(text) for text in texts]

        return [*self.keys, *TESTS_HEAD], [line(t) for t in self.tests.comparisons], len(self.keys) + 2


def signed(value: float, digits: int) -> str:
    return DASH if math.isnan(value) else f"{value:+.{digits}f}"


def interval(low: float, high: float, digits: int) -> str:
    return DASH if math.isnan(low) else f"{low:+.{digits}f} … {high:+.{digits}f}"


def probability(p: float | None) -> str:
    return DASH if p is None or math.isnan(p) else "<0.0001" if p < 0.0001 else f"{p:.4f}"


# Markdown --------------------------------------------------------------------------------------------------------------


def markdown(blocks: Sequence[Block], notes: Sequence[str]) -> str:
    def cell(shown: Shown) -> str:
        text = shown.text.replace("|", "\\|")
        return (f"**{text}**" if shown.bold else text) + shown.marks

    tables = [pipes(head, [[cell(s) for s in line] for line in lines], texts) for head, lines, texts in blocks if lines]
    return "\n".join([*tables, "\n\n".join(notes) + "\n"])


def pipes(head: Sequence[str], lines: Sequence[Sequence[str]], texts: int) -> str:
    """A markdown table, padded to be read in a terminal; the first `texts` columns are left-aligned."""
    head = [text.replace("|", "\\|") for text in head]
    widths = [max(3, *(len(line[i]) for line in [head, *lines])) for i in range(len(head))]
    rule = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    padded = [
        [t.ljust(w) if i < texts else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True))]
        for line in [head, *lines]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]]) + "\n"


# LaTeX -----------------------------------------------------------------------------------------------------------------

_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "\\": "\\textbackslash{}",
}
_TEX |= {"±": "$\\pm$", "▲": "$^{+}$", "▼": "$^{-}$", "<": "$<$", ">": "$>$", "…": "\\ldots{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)


def latex(blocks: Sequence[Block], notes: Sequence[str]) -> str:
    def cell(shown: Shown) -> str:
        text = "--" if shown.text == DASH else _tex(shown.text)
        marks = shown.marks.replace("▲", "+").replace("▼", "-")
        return (f"\\textbf{{{text}}}" if shown.bold else text) + (f"$^{{{marks}}}$" if marks else "")

    written = ["% \\usepackage{booktabs}"]
    for number, (head, lines, texts) in enumerate(blocks):
        written += ["", "\\bigskip"] if number else []
        written += [f"\\begin{{tabular}}{{{'l' * texts}{'r' * (len(head) - texts)}}}", "\\toprule"]
        written += [" & ".join(map(_tex, head)) + " \\\\", "\\midrule"]
        before = None
        for line in lines:
            if before not in (None, line[0].text) and texts > 1 and not number:  # a new method begins
                written.append("\\addlinespace")
            before = line[0].text
            written.append(" & ".join(map(cell, line)) + " \\\\")
        written += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join([*written, *(f"\\par {_tex(note)}" for note in notes), ""])


# HTML ------------------------------------------------------------------------------------------------------------------


def html_text(blocks: Sequence[Block], notes: Sequence[str]) -> str:
    def cell(shown: Shown) -> str:
        text = html.escape(shown.text)
        marks = "".join(c if c in "▲▼" else f"<sup>{c}</sup>" for c in shown.marks)
        return f"<td>{f'<b>{text}</b>' if shown.bold else text}{marks}</td>"

    written = []
    for head, lines, texts in blocks:
        names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
        written += ["<table>", f"<thead><tr>{names}</tr></thead>", "<tbody>"]
        for line in lines:
            labels = "".join(f"<th>{html.escape(shown.text)}</th>" for shown in line[:texts])
            written.append(f"<tr>{labels}{''.join(map(cell, line[texts:]))}</tr>")
        written += ["</tbody>", "</table>"]
    return "\n".join([*written, *(f"<p>{html.escape(note)}</p>" for note in notes), ""])


# CSV -------------------------------------------------------------------------------------------------------------------

Column: TypeAlias = tuple[str, Mapping[Label, float]]  # a name, and the numbers of the rows that have one


def csv_text(grid: Grid) -> str:
    """Unrounded, empty where there is no number; beside a column its standard deviation and number of repeats, and its tests, where it has any."""
    columns: list[Column] = []
    for c in grid.top:
        name = grid.names[c]
        cells = {r: grid.cells[r, c] for r in grid.left if (r, c) in grid.cells}
        columns.append((name, {r: cell.value for r, cell in cells.items()}))
        if any(cell.repeats for cell in cells.values()):
            columns.append((f"{name} sd", {r: cell.sd for r, cell in cells.items() if cell.sd is not None}))
            columns.append((f"{name} n", {r: max(1, len(cell.repeats)) for r, cell in cells.items()}))
        for number, baseline in enumerate(grid.tests.baselines):
            tests = {t.row: t for t in grid.tests.comparisons if (t.column, t.baseline) == (c, number)}
            against = f"{name} vs {baseline}" if len(grid.tests.baselines) > 1 else name
            columns += _test_columns(against, tests) if tests else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*grid.keys, *(name for name, _ in columns)])
    for r in grid.left:
        found = [values.get(r, math.nan) for _, values in columns]
        writer.writerow([*r, *("" if math.isnan(value) else repr(value) for value in found)])
    return out.getvalue()


def _test_columns(name: str, tests: Mapping[Label, Comparison]) -> list[Column]:
    return [
        (f"{name} difference", {r: t.effect.difference for r, t in tests.items()}),
        (f"{name} low", {r: t.effect.low for r, t in tests.items()}),
        (f"{name} high", {r: t.effect.high for r, t in tests.items()}),
        (f"{name} d_z", {r: t.effect.d_z for r, t in tests.items()}),
        (f"{name} uncorrected p", {r: t.p for r, t in tests.items()}),
        (f"{name} p", {r: t.corrected for r, t in tests.items()}),
    ]


# JSON ------------------------------------------------------------------------------------------------------------------


def json_text(grid: Grid) -> str:
    """A record per cell that has a value, unrounded, with its experiments and its tests; then the notes."""
    cells = [_record(grid, r, c) for r in grid.left for c in grid.top if (r, c) in grid.cells]
    found = {"columns": [grid.names[c] for c in grid.top], "cells": cells, "notes": grid.notes}
    return json.dumps(found, indent=1, ensure_ascii=False)


def _record(grid: Grid, r: Label, c: Label) -> dict[str, Any]:
    cell = grid.cells[r, c]
    return {
        "row": dict(zip(grid.keys, r, strict=True)), "column": grid.names[c], "value": _finite(cell.value),
        "sd": _finite(cell.sd), "n": max(1, len(cell.repeats)), "best": grid.best(r, c),
        "experiments": list(dict.fromkeys(row["experiment"] for row in cell.rows)),
        "tests": [_test(grid, t) for t in grid.tests.at(r, c)],
    }  # fmt: skip


def _test(grid: Grid, t: Comparison) -> dict[str, Any]:
    e = t.effect
    return {
        "baseline": grid.tests.baselines[t.baseline], "topics": t.topics, "difference": _finite(e.difference),
        "low": _finite(e.low), "high": _finite(e.high), "d_z": _finite(e.d_z), "p": _finite(t.corrected),
        "uncorrected_p": _finite(t.p), "sign": t.sign,
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
