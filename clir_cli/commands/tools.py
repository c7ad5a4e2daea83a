"""The small verbs around an experiment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clir_cli.commands.common import ConfigDir, Json, Overrides, Runs, root
from clir_cli.errors import ConfigError, RunError


def configs(
    group: Annotated[str | None, typer.Argument(metavar="GROUP", help="dataset, retriever, reranker, llm, ...")] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One choice of the group.")] = None,
    config_dir: ConfigDir = None, as_json: Json = False,
) -> None:  # fmt: skip
    """List the choices of all groups or of one, or show one yaml.

    clir configs retriever bm25_dt
    """
    from clir_cli.verbs import listing

    print(listing.configs(group, name, config_dir or [], as_json))


def languages(
    codes: Annotated[list[str] | None, typer.Argument(metavar="CODE", help="Languages, such as yo zh; all unless given.")] = None,
    config_dir: ConfigDir = None, as_json: Json = False,
) -> None:  # fmt: skip
    """List which component reads which language.

    clir languages yo zh
    """
    from clir_cli.verbs import language_list

    print(language_list.show(codes or [], config_dir or [], as_json))


def translate(
    overrides: Overrides = None,
    from_: Annotated[str, typer.Option("--from", metavar="LANG", help="The language of the input.")] = "",
    to: Annotated[str, typer.Option("--to", metavar="LANG", help="The language wanted.")] = "",
    source: Annotated[Path | None, typer.Option("--input", metavar="FILE", help="A text a line (gz read); stdin unless given.")] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="A translation a line; stdout unless given.")] = None,
    reference: Annotated[Path | None, typer.Option("--evaluate", metavar="REFERENCE", help="Print BLEU and chrF against these lines.")] = None,
    config_dir: ConfigDir = None, runs: Runs = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Translate a file line by line; --evaluate says how well.

    clir translate translator=apertium --from es --to en --input es.txt
    """
    from clir_cli import compose, progress
    from clir_cli.store import Store
    from clir_cli.verbs import listing, translation_quality

    if not from_ or not to:
        raise ConfigError("clir translate needs --from and --to, e.g. --from es --to en")
    (cell,) = compose.cells(overrides or [], config_dirs=config_dir or [])
    store = Store(root(runs), eager=True)
    outcome = translation_quality.translate_file(cell, store, from_, to, source, output, reference)
    if said := translation_quality.warning(outcome):
        progress.say(said)
    if output is None and reference is None:
        translation_quality.write_lines(outcome, sys.stdout)
    else:
        print(listing.dumps(outcome.record()) if as_json else outcome.report())


def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="dataset, retriever or reranker")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called: dataset=NAME")],
    config_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where it is written: DIR/KIND/NAME.yaml")] = Path("configs"),
) -> None:  # fmt: skip
    """Write a commented yaml for your own collection or model.

    clir new retriever my_encoder
    """
    from clir_cli.verbs import listing

    print(listing.new(kind, name, config_dir))


def step(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A draft of a step, with a request.json in it.")],
) -> None:
    """Make one step, as another interpreter or machine is asked to.

    clir step runs/steps/index/.KEY.draft
    """
    from clir_cli.verbs import listing

    listing.make_step(folder)
    print(folder)


def doctor(runs: Runs = None, as_json: Json = False) -> None:
    """Check this machine, and say how to mend what is wrong.

    clir doctor
    """
    from clir_cli.verbs import doctor as checks
    from clir_cli.verbs import listing

    found = checks.checks(root(runs))
    print(listing.dumps([c._asdict() for c in found]) if as_json else "\n".join(checks.text(found)))
    if any(c.status == "wrong" for c in found):
        raise typer.Exit(RunError.exit_code)
