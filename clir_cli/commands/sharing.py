"""What leaves this machine, what comes to it, and what is kept on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from clir_cli.commands.common import Json, Runs, root
from clir_cli.errors import ConfigError, RunError

Metadata = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Your own ir_metadata as yaml (actor, research goal, ...), added to each run's."),
]


def export(
    targets: Annotated[list[Path], typer.Argument(metavar="EXPERIMENTS... [FILE]", help="Experiment or sweep folders; last the .tar.zst to write, unless --tag.")],
    with_steps: Annotated[bool, typer.Option("--with-steps", help="Also the steps they are made of, documents and indexes too: mind their licences.")] = False,
    names: Annotated[bool, typer.Option("--names", help="Leave the host's name and home folders in; ~ stands for these otherwise.")] = False,
    runs: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the rankings as <tag>.<pair>.trec there, as evaluation campaigns want them.")] = None,
    tag: Annotated[str, typer.Option(metavar="TAG", help="For --runs: the run tag, at most 20 letters, digits and _ . -")] = "",
    depth: Annotated[int | None, typer.Option(metavar="K", help="For --runs: how many documents a topic keeps; all unless given.")] = None,
    metadata: Metadata = None,
) -> None:  # fmt: skip
    """Pack experiments into a file, or write runs for a campaign.

    clir export runs/demo.en-de/A experiment.tar.zst
    """
    from clir_cli.verbs import sharing

    if (runs is None) == bool(tag):
        raise ConfigError("--runs DIR and --tag TAG go together: they write runs for a campaign")
    if runs is not None:
        if with_steps or names:
            raise ConfigError("--with-steps and --names are for an archive, not for --runs")
        print(*sharing.campaign(targets, root(None), runs, tag, depth, metadata), sep="\n")
        return
    if depth is not None or len(targets) < 2:
        raise ConfigError(
            "--depth goes with --runs" if depth is not None else "give the experiments, and last the archive to write"
        )
    *experiments, out = targets
    sharing.export(experiments, root(None), out, with_steps, names, metadata)
    print(out)


def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="Archives that clir export wrote.")],
    runs: Runs = None,
) -> None:  # fmt: skip
    """Verify exported archives, and unpack their experiments.

    clir import experiment.tar.zst
    """
    from clir_cli.verbs import sharing

    for file in files:
        print(*sharing.import_(file, root(runs)), sep="\n")


def cache(
    action: Annotated[Literal["list", "verify", "prune"], typer.Argument(help="list what is kept; verify it against its checksums; prune what the options below choose.")] = "list",
    older: Annotated[str, typer.Option(metavar="AGE", help="Steps finished before that: 90m, 12h, 30d, 8w; drafts idle since, 1d unless given.")] = "",
    larger: Annotated[str, typer.Option(metavar="SIZE", help="Steps of at least that: 500MB, 1GB.")] = "",
    label: Annotated[str, typer.Option(metavar="PATTERN", help="Steps so called, e.g. 'index/labse*' or '*.ciral.*'.")] = "",
    unreachable: Annotated[bool, typer.Option("--unreachable", help="Steps that no experiment and no sweep was made of.")] = False,
    broken: Annotated[bool, typer.Option("--broken", help="Steps that do not verify: the next run makes them again.")] = False,
    leftovers: Annotated[bool, typer.Option("--leftovers", help="Drafts and locks of dead processes, and memories in many small files.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it prune only says what it would.")] = False,
    runs: Runs = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Show, verify or prune the steps that experiments share.

    clir cache prune --older 30d --larger 1GB --unreachable
    """
    from clir_cli.verbs import cache as kept
    from clir_cli.verbs import listing

    where = root(runs)
    chosen = kept.Choice.parsed(older, larger, label, unreachable, broken)
    if action != "prune" and (yes or leftovers or broken):
        raise ConfigError("--yes, --leftovers and --broken go with clir cache prune")
    if action == "list":
        found = kept.listed(where, chosen)
        print(listing.dumps([step.record() for step in found]) if as_json else kept.text(where, found))
    elif action == "verify":
        problems = kept.verify(where, chosen)
        print(listing.dumps([p._asdict() for p in problems]) if as_json else kept.verified_text(where, problems))
        if problems:
            raise typer.Exit(RunError.exit_code)
    else:
        pruned = kept.prune(where, chosen, leftovers, yes)
        print(listing.dumps([p.record() for p in pruned]) if as_json else kept.pruned_text(pruned, yes))
