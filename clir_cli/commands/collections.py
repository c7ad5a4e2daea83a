"""The verb around collections."""

from __future__ import annotations

from typing import Annotated

import typer

from clir_cli.commands.common import ConfigDir, Json


def datasets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One collection: all that is known of it.")] = None,
    lang: Annotated[str | None, typer.Option(metavar="CODE", help="Only those with topics or documents in this language.")] = None,
    config_dir: ConfigDir = None, as_json: Json = False,
) -> None:  # fmt: skip
    """List the collections, or show what one holds and how to get it.

    clir datasets ciral
    """
    from clir_cli.verbs import datasets as pages

    print(pages.show(name, config_dir or [], as_json, lang))
