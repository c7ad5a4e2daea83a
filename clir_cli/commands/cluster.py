"""Verbs for sweeps that are under way somewhere: in another shell, on a cluster, or after their command died."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from clir_cli.commands.common import Json, Runs, folded, root
from clir_cli.errors import RunError, many

Sweep = Annotated[
    str | None,
    typer.Argument(metavar="SWEEP", help="The folder of a sweep, or the beginning of its name; else the newest."),
]
WAIT = 5.0  # seconds between looks


def status(sweep: Sweep = None, runs: Runs = None, as_json: Json = False) -> None:
    """Show where the cells of a sweep stand.

    clir status sweep
    """
    from clir_cli import sweep as sweeps
    from clir_cli.verbs import jobs, listing

    found = jobs.campaign(jobs.find(sweep, root(runs)))
    outcomes = found.outcomes(write=False)
    if as_json:
        print(listing.dumps({"sweep": str(found.folder), "cells": sweeps.rows(found.plan, outcomes)}))
    else:
        print(folded("\n".join(jobs.status(found, outcomes)), sys.stdout), found.folder, sep="\n")


def logs(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="The number of a cell, or the name of its experiment.")],
    sweep: Sweep = None,
    runs: Runs = None,
) -> None:
    """Print what the steps of a cell have said.

    clir logs 3
    """
    from clir_cli.verbs import jobs

    print("\n".join(jobs.logs(jobs.campaign(jobs.find(sweep, root(runs))), cell)))


def collect(
    sweep: Sweep = None,
    runs: Runs = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until no job of it is left.")] = False,
    as_json: Json = False,
) -> None:
    """Write the results of a sweep whose command has left or died.

    clir collect sweep
    """
    from clir_cli import sweep as sweeps
    from clir_cli.verbs import jobs, listing

    found = jobs.campaign(jobs.find(sweep, root(runs)))
    while wait and found.awaited():
        time.sleep(WAIT)
        found.keep_looking(WAIT)
    outcomes = found.outcomes()
    sweeps.write(found.plan, outcomes, found.folder)
    if as_json:
        print(listing.dumps({"sweep": str(found.folder), "cells": sweeps.rows(found.plan, outcomes)}))
    else:
        print(folded("\n".join(sweeps.text(outcomes)), sys.stdout), found.folder, sep="\n")
    if any(outcome.status not in {"done", "cached"} for outcome in outcomes):
        raise typer.Exit(RunError.exit_code)


def cancel(sweep: Sweep = None, runs: Runs = None) -> None:
    """Take the jobs of a sweep out of the queue.

    clir cancel sweep
    """
    from clir_cli.verbs import jobs

    found = jobs.campaign(jobs.find(sweep, root(runs)))
    count = jobs.cancel(found)
    print(f"{many(count, 'job')} cancelled; finished shards are kept: the same `clir run` goes on from them")
