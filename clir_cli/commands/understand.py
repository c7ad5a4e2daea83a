"""What happened in an experiment, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from clir_cli.progress import say


def report(
    sources: Annotated[list[Path], typer.Argument(metavar="FOLDERS", help="Experiment folders, sweep folders or metrics.csv files.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")] = Path("report.html"),
    measure: Annotated[str, typer.Option(metavar="NAME", help="main: each dataset's own main measure.")] = "main",
    baseline: Annotated[str | None, typer.Option(metavar="NAME", help="What all are tested against: own_first_stage, or an experiment's label.")] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="The page's heading.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the plots as files too, for a paper.")] = None,
    plot_format: Annotated[Literal["svg", "pdf"], typer.Option(help="Of the plots' files.")] = "pdf",
) -> None:  # fmt: skip
    """Make one HTML page of finished experiments.

    clir report runs/sweeps/NAME -o report.html
    """
    from clir_cli import report as reports

    for said in reports.write(
        sources, output, measure=measure, baseline=baseline, title=title, plots=plots, plot_format=plot_format
    ):
        say(f"left out: {said}")
    print(output)
