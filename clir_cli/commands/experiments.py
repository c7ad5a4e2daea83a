"""Run and plan: the verbs that take overrides."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clir_cli.commands.common import (
    ConfigDir,
    ConfigFile,
    Json,
    Multirun,
    Overrides,
    Runs,
    Zip,
    folded,
    names,
    root,
    tell,
)  # fmt: skip
from clir_cli.errors import ConfigError, RunError

if TYPE_CHECKING:
    from clir_cli.compose import Cell
    from clir_cli.launchers import choice
    from clir_cli.launchers.outcome import Outcome
    from clir_cli.plan import Plan


Launcher = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="What makes a sweep: serial, local or slurm; its settings are launcher.key=value."
    ),
]
Retry = Annotated[
    str | None,
    typer.Option(metavar="STATES", help="Which failures of a sweep are tried again: failed,timeout,oom (all) or none."),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Leave once the jobs of a sweep are queued; clir collect fetches the results.")
]


def run(
    overrides: Overrides = None, multirun: Multirun = False, zips: Zip = None, config_dir: ConfigDir = None, runs: Runs = None,
    config: ConfigFile = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="What the folder of a sweep is called.")] = "sweep",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Run nothing: the same as clir plan.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the experiment folder, a line per cell of a sweep.")] = False,
    max_calls: Annotated[int | None, typer.Option(metavar="N", help="Stop before served models are asked more often, all cells together.")] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Stop before they read and write more tokens.")] = None,
    max_usd: Annotated[float | None, typer.Option(metavar="USD", help="Stop before they cost more dollars.")] = None,
    launcher: Launcher = None, retry: Retry = None, detach: Detach = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Run an experiment, or with -m every cell of a sweep.

    clir run retriever=labse reranker=listwise
    """
    from clir_cli import plan as plans
    from clir_cli import progress
    from clir_cli.experiment import read_rows
    from clir_cli.files import read_json
    from clir_cli.launchers import choice, serial
    from clir_cli.verbs import listing, repeating

    retried = states(retry)
    asked = [
        *(overrides or []),
        *([f"launcher={launcher}"] if launcher else []),
        *(["launcher.detach=true"] if detach else []),
    ]
    cells, chosen = choice.chosen(composed(asked, multirun, zips, config_dir, config))
    if not multirun and (retry or chosen != serial.Serial()):
        raise ConfigError("--launcher, --retry and --detach are for sweeps: add -m, which may have one cell")
    if dry_run:
        _print_plan(planned(cells, root(runs), eager=False), as_json, chosen=chosen)
        return
    plan = plans.resolved(planned(cells, root(runs), eager=True))
    if not (max_calls is max_tokens is max_usd is None):
        from clir_cli import sweep
        from clir_cli.ledger import Budget, Ledger

        budget = Budget(max_calls, max_tokens, max_usd, ("--max-calls", "--max-tokens", "--max-usd"))
        plan.store.ledgers = (Ledger(plan.store.root / "ledger" / f"{sweep.folder(plan, name).name}.jsonl", budget),)
    with progress.silence(quiet):
        if multirun:
            _sweep(plan, chosen, retried, name, quiet, as_json)
            return
        raise_single(plan)
        (outcome,) = serial.execute(plan)
        if config is not None and outcome.folder is not None and (said := repeating.compared(config, outcome.folder)):
            progress.say(said)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.folder is not None
    if outcome.status == "cached" and not quiet:  # what was said when it was made is as true now
        for note in read_json(outcome.folder / "manifest.json")["notes"]:
            progress.say(f"note: {note}")
    if quiet:
        print(outcome.folder)
        return
    rows = read_rows(outcome.folder / "metrics.csv")
    if as_json:
        print(listing.dumps({"experiment": str(outcome.folder), "metrics": rows}))
    else:
        print(listing.metric_table(rows), outcome.folder, sep="\n")


def plan(
    overrides: Overrides = None, multirun: Multirun = False, zips: Zip = None, config_dir: ConfigDir = None, runs: Runs = None,
    config: ConfigFile = None,
    full: Annotated[bool, typer.Option("--full", help="List every step, also where there are many.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Show what a run would do, and what is done already.

    clir plan -m retriever=bm25_qt,bm25_dt
    """
    from clir_cli.launchers import choice

    cells, chosen = choice.chosen(composed(overrides, multirun, zips, config_dir, config))
    _print_plan(planned(cells, root(runs), eager=False), as_json, full, chosen)


def composed(
    overrides: list[str] | None,
    multirun: bool,
    zips: list[str] | None,
    config_dir: list[Path] | None,
    config: Path | None,
) -> list[Cell]:
    from clir_cli import compose

    if config is not None:
        from clir_cli.verbs import repeating

        if multirun or zips or config_dir:
            raise ConfigError(
                "--config repeats a resolved configuration as it is: give neither -m nor --zip nor --config-dir beside it"
            )
        return [repeating.cell(config, overrides or [])]
    if zips and not multirun:
        raise ConfigError("--zip pairs the axes of a sweep: add -m")
    return compose.cells(overrides or [], multirun, zips or [], config_dir or [])


def planned(cells: list[Cell], folder: Path, eager: bool) -> Plan:
    from clir_cli.plan import planned
    from clir_cli.store import Store

    return planned(cells, Store(folder, eager))


def raise_single(plan: Plan) -> None:
    """The error of a request for one experiment is the request's; those of a sweep are told cell by cell."""
    if len(plan.cells) == 1 and (error := plan.cells[0].error):
        raise error


def _print_plan(plan: Plan, as_json: bool, full: bool = False, chosen: choice.Launcher | None = None) -> None:
    from clir_cli.launchers.jobs import Packing
    from clir_cli.verbs import listing, planning

    raise_single(plan)
    packing = chosen if isinstance(chosen, Packing) else None
    if as_json:
        print(listing.dumps(planning.record(plan, packing)))
    else:
        print(folded(planning.text(plan, full, packing), sys.stdout))


def states(retry: str | None) -> list[str]:
    """The kinds of failure that are tried again: all, unless said."""
    from clir_cli.launchers.outcome import RETRIED

    asked = list(RETRIED) if retry is None else names(retry)
    if strange := set(asked) - {*RETRIED, "none"}:
        raise ConfigError(f"--retry {', '.join(sorted(strange))}: there are {', '.join(RETRIED)}, and none")
    return asked


def _sweep(
    plan: Plan, launcher: choice.Launcher, retried: list[str], name: str, quiet: bool, as_json: bool
) -> None:  # fmt: skip
    from clir_cli import sweep
    from clir_cli.launchers.campaign import Campaign
    from clir_cli.launchers.outcome import forgive
    from clir_cli.verbs import listing

    def finished(outcome: Outcome) -> None:
        if quiet:
            print(outcome.folder or "-", flush=True)
        else:
            sweep.tell(plan, outcome)

    folder = sweep.folder(plan, name)
    Campaign.of_folder(plan, folder)  # what became of the jobs of an earlier command
    forgive(plan, retried)
    outcomes = launcher.execute(plan, folder, finished)
    sweep.write(plan, outcomes, folder)
    if as_json and not quiet:
        print(listing.dumps({"sweep": str(folder), "cells": sweep.rows(plan, outcomes)}))
    else:
        out = sys.stderr if quiet else sys.stdout
        print(folded("\n".join(sweep.text(outcomes, plan.skipped)), out), folder, sep="\n", file=out)
    for error in dict.fromkeys(o.error for o in outcomes if o.error):
        tell(error, only_bugs=True)
    if any(o.error for o in outcomes):
        raise typer.Exit(RunError.exit_code)


def why(
    a: Annotated[str, typer.Argument(metavar="A", help="An experiment or step: its folder, or the beginning of its key.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    runs: Runs = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Say in which fields two steps or two experiments differ.

    clir why runs/demo.en-de/A runs/demo.en-de/B
    """
    from clir_cli import plan as plans
    from clir_cli.verbs import listing

    found = plans.why(a, b, root(runs))
    print(listing.dumps(found) if as_json else plans.why_text(found, a, b))


def check(
    overrides: Overrides = None, config_dir: ConfigDir = None, runs: Runs = None, config: ConfigFile = None,
    load: Annotated[bool, typer.Option("--load", help="Load the models too, and show token by token what each is given.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Check a configuration; with --load its models too.

    clir check --load retriever=labse
    """
    from clir_cli import progress
    from clir_cli.verbs import listing

    plan = planned(composed(overrides, False, None, config_dir, config), root(runs), eager=False)
    raise_single(plan)
    experiment = plan.cells[0].experiment
    assert experiment is not None
    found: list[list[str]] = []
    if load:
        from clir_cli.verbs import model_check

        with progress.silence(True):
            found = model_check.models(experiment.cfg)
    if as_json:
        print(listing.dumps({"experiment": experiment.name, "models": found if load else None}))
    elif load:
        print("\n\n".join("\n".join(lines) for lines in found))
    else:
        print("the configuration fits; --load shows what its models are given")
