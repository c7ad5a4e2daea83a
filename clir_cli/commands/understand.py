"""What happened in an experiment, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from clir_cli.commands.common import Json, Runs, root
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


def show(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's folder, or the beginning of its key or name.")],
    query: Annotated[str | None, typer.Option("--query", metavar="ID", help="A topic: its texts, its ranking, the reranker's answers.")] = None,
    depth: Annotated[int, typer.Option(metavar="K", min=1, help="With --query: how many documents of the ranking.")] = 10,
    full: Annotated[bool, typer.Option("--full", help="All topics; with --query whole texts and all answers.")] = False,
    runs: Runs = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Show an experiment, or a topic with its ranking and texts.

    clir show runs/demo.en-de/bm25_dt-KEY --query t01
    """
    from clir_cli.verbs import listing, show, showing

    told = show.Told(show.named(experiment, root(runs)))
    if query is None:
        found = show.overview(told)
        print(listing.dumps(found) if as_json else showing.overview(found, full))
    else:
        found = show.topic(told, query, depth)
        print(listing.dumps(found) if as_json else showing.topic(found, full))
