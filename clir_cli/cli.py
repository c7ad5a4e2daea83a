"""The command line: which verbs there are, and what becomes of their errors. Whatever is heavy is imported by the verb that needs it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from clir_cli import __version__
from clir_cli.commands import (
    cluster,
    collections,
    diagnose,
    experiments,
    prefetch,
    reproduction,
    results,
    sharing,
    tools,
    understand,
)
from clir_cli.commands.common import tell
from clir_cli.errors import ClirError, ConfigError, RunError

app = typer.Typer(
    name="clir", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"max_content_width": 100},
    help="Cross-lingual retrieval experiments, from one line to a table.\n\nStart with: clir run",
)  # fmt: skip

VERBS: dict[str, Callable[..., None]] = {  # in the help's order: those of every day first
    "run": experiments.run,
    "plan": experiments.plan,
    "table": results.table,
    "diff": results.diff,
    "show": understand.show,
    "report": understand.report,
    "list": results.list_experiments,
    "why": experiments.why,
    "check": experiments.check,
    "prefetch": prefetch.prefetch,
    "status": cluster.status,
    "logs": cluster.logs,
    "collect": cluster.collect,
    "cancel": cluster.cancel,
    "evaluate": results.evaluate,
    "tune": results.tune,
    "inspect": diagnose.inspect,
    "bias": diagnose.bias,
    "reproduce": reproduction.reproduce,
    "configs": tools.configs,
    "datasets": collections.datasets,
    "languages": tools.languages,
    "translate": tools.translate,
    "new": tools.new,
    "export": sharing.export,
    "import": sharing.import_,
    "cache": sharing.cache,
    "doctor": tools.doctor,
    "step": tools.step,
}
for name, verb in VERBS.items():
    app.command(name)(verb)


def _version(asked: bool) -> None:
    if asked:
        print(f"clir {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error; may stand anywhere.")] = False,
) -> None:  # fmt: skip
    """`main` has taken --debug out of the arguments: it stands here for the help."""


def main() -> NoReturn:
    """Run the CLI: 0 done, 1 the run failed, 2 the request is invalid; tracebacks only with --debug."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # texts are in every script: never in the few letters of a locale
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    sys.exit(_guarded(lambda: app(arguments, prog_name="clir", standalone_mode=False)))


INTERRUPTED = 130  # what typer makes of Ctrl-C


def _guarded(call: Callable[[], Any]) -> int:
    try:
        code = int(call() or 0)
        sys.stdout.flush()  # here, where a closed pipe can still be met quietly
        if code != INTERRUPTED:
            return code
        raise KeyboardInterrupt
    except typer.Exit as error:
        return error.exit_code
    except _USAGE as error:
        error.show()
        return ConfigError.exit_code
    except (KeyboardInterrupt, typer.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # a file that ends too early: typer takes it for Ctrl-D
            tell(error.__cause__)
            return RunError.exit_code
        exec(
            ""
        )  # CPython remembers a Ctrl-C that passed through an exec() of text, and would die by the signal at exit
        print("\nstopped; what is finished stays finished: the same command goes on from there", file=sys.stderr)
        return RunError.exit_code
    except BrokenPipeError:  # `clir configs | head -1`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return RunError.exit_code
    except OSError as error:  # met outside the steps of a run, which say it themselves
        from clir_cli.launchers.outcome import said

        tell(said(error))
        return RunError.exit_code
    except Exception as error:
        tell(error)
        return error.exit_code if isinstance(error, ClirError) else RunError.exit_code


_USAGE: Any = typer.BadParameter.__mro__[2]  # click's ClickException, of whichever click this typer brings
