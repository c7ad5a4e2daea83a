"""The report's plots as files for a paper, by matplotlib: recall by depth, effectiveness against cost, topics by change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from clir_cli.errors import ConfigError
from clir_cli.report.gather import DEPTHS, Group, Report, Row, Series, said

Format: TypeAlias = Literal["svg", "pdf"]
MOST_LINES = 8  # curves in one plot, the best
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#000000")  # Okabe & Ito 2008
LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*"
STYLE: Any = {
    "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd",
    "grid.linewidth": 0.5, "legend.frameon": False, "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "clir",
}  # fmt: skip
SIZE = (3.4, 2.4)  # inches: one column of a paper


def write(report: Report, folder: Path, format: Format) -> list[Path]:
    """Plots of every group of comparable experiments; the files. ConfigError where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--plots needs matplotlib: pip install 'clir[plots]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with matplotlib.rc_context(STYLE):
        for group, rows in report.groups().items():
            for name, draw in (("recall", _recall), ("cost", _cost), ("topics", _topics)):
                figure = Figure(figsize=SIZE, layout="constrained")
                if draw(figure.subplots(), report, group, rows):
                    path = folder / f"{name}.{re.sub(r'[^A-Za-z0-9_.+-]+', '_', said(group))}.{format}"
                    # no date: the same results make the same bytes
                    figure.savefig(path, metadata={"Date" if format == "svg" else "CreationDate": None})
                    made.append(path)
    return made


def _recall(axes: Any, report: Report, group: Group, rows: Sequence[Row]) -> bool:
    shown = [row for row in rows if row.recall][:MOST_LINES]
    for i, row in enumerate(shown):
        deepest = int(row.columns["depth"] or DEPTHS[-1])
        points = [(d, v) for d, v in zip(DEPTHS, row.recall or (), strict=True) if d <= deepest]
        axes.plot(
            *zip(*points, strict=True),
            label=row.label,
            color=COLOURS[i],
            ls=LINES[i % 4],
            marker=MARKERS[i],
            ms=3,
            lw=1,
        )
    axes.set(xscale="log", xlabel="depth", ylabel="recall", ylim=(0, 1.02))
    if shown:
        axes.legend(fontsize=5, loc="best", handlelength=3)
    return bool(shown)


def _cost(axes: Any, report: Report, group: Group, rows: Sequence[Row]) -> bool:
    """By calls of a language model where any was asked, else by seconds."""
    asked = any(row.cost.calls for row in rows)
    shown = [row for row in rows if report.main in row.values]
    for i, row in enumerate(shown):
        x = row.cost.calls if asked else row.cost.seconds
        axes.plot(x, row.values[report.main], MARKERS[i % 8], color=COLOURS[i % 8], ms=4)
        above = 3 if i % 2 == 0 else -7  # neighbours are often close
        axes.annotate(
            row.label, (x, row.values[report.main]), xytext=(3, above), textcoords="offset points", fontsize=5
        )
    axes.set(xlabel="calls of language models" if asked else "seconds of work", ylabel=report.main)
    axes.margins(x=0.3, y=0.12)
    return len(shown) > 1


def _topics(axes: Any, report: Report, group: Group, rows: Sequence[Row]) -> bool:
    """The best ranking less its own first stage, or where it is one less the second best, topic by topic."""
    best = Series(rows[0].label, rows[0], "final")
    first = Series("its first stage", rows[0], "first_stage")
    other = first if rows[0].columns["reranker"] != "none" else Series(rows[-1].label, rows[-1], "final")
    mine, theirs = report.scores(best, report.main), report.scores(other, report.main)
    if not mine or mine.keys() != theirs.keys() or (other.row is best.row and other.stage == best.stage):
        return False
    deltas = sorted((mine[q] - theirs[q] for q in mine), reverse=True)
    axes.bar(range(1, len(deltas) + 1), deltas, width=1.0, color=COLOURS[0])
    axes.axhline(0, color="black", lw=0.6)
    axes.set(xlabel="topics, by change", ylabel=f"Δ {report.main}")
    axes.set_title(f"{best.label} less {other.label}", fontsize=7)
    return True
