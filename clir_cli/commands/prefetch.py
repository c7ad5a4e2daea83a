"""Prefetch: bring models and data here before nodes without a network need them."""

from __future__ import annotations

import typer

from clir_cli.commands.common import ConfigDir, Json, Multirun, Overrides, Runs, Zip, root
from clir_cli.errors import RunError


def prefetch(
    overrides: Overrides = None, multirun: Multirun = False, zips: Zip = None, config_dir: ConfigDir = None, runs: Runs = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Download the models and data that a run needs.

    clir prefetch -m retriever=labse,bge_m3 dataset=ciral dataset.pair=en-sw
    """
    from clir_cli.commands.experiments import composed
    from clir_cli.verbs import listing
    from clir_cli.verbs import prefetch as verb

    folder = root(runs)
    items = verb.fetch(composed(overrides, multirun, zips, config_dir, None), folder)
    print(listing.dumps(verb.record(items, folder)) if as_json else verb.text(items, folder))
    if any(item.missing for item in items):
        raise typer.Exit(RunError.exit_code)
