"""What the verbs share: their options, and how they speak on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Annotated, TextIO

import typer

from clir_cli.errors import ClirError

debugging = "--debug" in sys.argv

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="OVERRIDES", help="group=choice or node.key=value; `clir configs` lists the choices."),
]
Multirun = Annotated[
    bool,
    typer.Option("--multirun", "-m", help="Sweep: comma lists, range(...) and glob(...) make a cell per combination."),
]
Zip = Annotated[
    list[str] | None,
    typer.Option("--zip", metavar="AXES", help="Axes that go together, e.g. --zip dataset.pair,llm; repeatable."),
]
ConfigDir = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", help="A folder with your own yaml files; ./configs is always looked at. Repeatable."),
]
Runs = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where results are kept; CLIR_RUNS, else ./runs, unless given.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Repeat the experiment of this config.yaml; beside it stand only paths and neutral settings.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def root(runs: Path | None) -> Path:
    return (runs or Path(os.environ.get("CLIR_RUNS") or "runs")).expanduser().absolute()


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def tell(error: Exception, only_bugs: bool = False) -> None:
    """An error in one message on stderr, its traceback only with --debug."""
    expected = isinstance(error, ClirError | OSError)
    if debugging:
        traceback.print_exception(error)
    elif not expected:
        said = f"internal error: {type(error).__name__}: {error}\n  Please report it with the traceback that --debug prints."
        print(folded(f"clir: {said}", sys.stderr), file=sys.stderr)
    elif not only_bugs:
        print(folded(f"clir: {error}", sys.stderr), file=sys.stderr)


def folded(message: str, out: TextIO) -> str:
    """The message, on a terminal broken between words."""
    if not out.isatty():
        return message
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        for line in message.splitlines()
    )
