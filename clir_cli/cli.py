"""The verbs: parse, print, exit; nothing is decided here. Whatever is heavy is imported by the verb that needs it."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TextIO

import typer

from clir_cli import __version__
from clir_cli.errors import ClirError, ConfigError, RunError

if TYPE_CHECKING:
    from clir_cli.compose import Cell
    from clir_cli.plan import Plan

app = typer.Typer(
    name="clir", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"max_content_width": 100},
    help="Cross-lingual retrieval experiments, from one line to a table.\n\nStart with: clir run",
)  # fmt: skip

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
    Path | None, typer.Option(metavar="FILE", help="The config.yaml of an experiment folder, instead of overrides.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def root(runs: Path | None) -> Path:
    return (runs or Path(os.environ.get("CLIR_RUNS") or "runs")).expanduser().absolute()


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


# Run and plan ---------------------------------------------------------------------------------------------------------


@app.command()
def run(
    overrides: Overrides = None, multirun: Multirun = False, zips: Zip = None, config_dir: ConfigDir = None, runs: Runs = None,
    config: ConfigFile = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="What the folder of a sweep is called.")] = "sweep",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Run nothing: the same as clir plan.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the experiment folder, a line per cell of a sweep.")] = False,
    max_calls: Annotated[int | None, typer.Option(metavar="N", help="Stop before served models are asked more often, all cells together.")] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Stop before they read and write more tokens.")] = None,
    max_usd: Annotated[float | None, typer.Option(metavar="USD", help="Stop before they cost more dollars.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run an experiment, or with -m every cell of a sweep.

    clir run retriever=labse reranker=listwise
    """
    from clir_cli import plan as plans
    from clir_cli import progress
    from clir_cli.experiment import read_rows
    from clir_cli.launchers import serial
    from clir_cli.verbs import listing

    cells = _cells(overrides, multirun, zips, config_dir, config)
    if dry_run:
        _print_plan(_planned(cells, root(runs), eager=False), as_json)
        return
    plan = plans.resolved(_planned(cells, root(runs), eager=True))
    if not (max_calls is max_tokens is max_usd is None):
        from clir_cli import sweep
        from clir_cli.ledger import Budget, Ledger

        budget = Budget(max_calls, max_tokens, max_usd, ("--max-calls", "--max-tokens", "--max-usd"))
        plan.store.ledgers = (Ledger(plan.store.root / "ledger" / f"{sweep.folder(plan, name).name}.jsonl", budget),)
    with progress.silence(quiet):
        if multirun:
            _sweep(plan, name, quiet, as_json)
            return
        _raise_single(plan)
        (outcome,) = serial.execute(plan)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.folder is not None
    if quiet:
        print(outcome.folder)
        return
    rows = read_rows(outcome.folder / "metrics.csv")
    if as_json:
        print(listing.dumps({"experiment": str(outcome.folder), "metrics": rows}))
    else:
        print(listing.metric_table(rows), outcome.folder, sep="\n")


@app.command()
def plan(
    overrides: Overrides = None, multirun: Multirun = False, zips: Zip = None, config_dir: ConfigDir = None, runs: Runs = None,
    config: ConfigFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Show what a run would do, and what is done already.

    clir plan -m retriever=bm25_qt,bm25_dt
    """
    _print_plan(_planned(_cells(overrides, multirun, zips, config_dir, config), root(runs), eager=False), as_json)


def _cells(
    overrides: list[str] | None,
    multirun: bool,
    zips: list[str] | None,
    config_dir: list[Path] | None,
    config: Path | None,
) -> list[Cell]:
    from clir_cli import compose
    from clir_cli import config as configs

    if config is not None:
        if overrides or multirun or zips or config_dir:
            raise ConfigError(
                "--config repeats a resolved configuration as it is: give neither overrides nor -m, --zip, --config-dir beside it"
            )
        return [compose.Cell((), configs.load(config))]
    if zips and not multirun:
        raise ConfigError("--zip pairs the axes of a sweep: add -m")
    return compose.cells(overrides or [], multirun, zips or [], config_dir or [])


def _planned(cells: list[Cell], folder: Path, eager: bool) -> Plan:
    from clir_cli.plan import planned
    from clir_cli.store import Store

    return planned(cells, Store(folder, eager))


def _raise_single(plan: Plan) -> None:
    """The error of a request for one experiment is the request's; those of a sweep are told cell by cell."""
    if len(plan.cells) == 1 and (error := plan.cells[0].error):
        raise error


def _print_plan(plan: Plan, as_json: bool) -> None:
    from clir_cli import plan as plans
    from clir_cli.verbs import listing

    _raise_single(plan)
    print(listing.dumps(plans.record(plan)) if as_json else _folded(plans.text(plan), sys.stdout))


def _sweep(plan: Plan, name: str, quiet: bool, as_json: bool) -> None:
    from clir_cli import sweep
    from clir_cli.launchers import serial
    from clir_cli.verbs import listing

    def finished(outcome: serial.Outcome) -> None:
        if quiet:
            print(outcome.folder or "-", flush=True)
        else:
            sweep.tell(plan, outcome)

    folder = sweep.folder(plan, name)
    outcomes = serial.execute(plan, finished)
    sweep.write(plan, outcomes, folder)
    if as_json and not quiet:
        print(listing.dumps({"sweep": str(folder), "cells": sweep.rows(plan, outcomes)}))
    else:
        out = sys.stderr if quiet else sys.stdout
        print(_folded("\n".join(sweep.text(outcomes)), out), folder, sep="\n", file=out)
    for error in dict.fromkeys(o.error for o in outcomes if o.error):
        _tell(error, only_bugs=True)
    if any(o.error for o in outcomes):
        raise typer.Exit(RunError.exit_code)


# Look -----------------------------------------------------------------------------------------------------------------


@app.command()
def why(
    a: Annotated[str, typer.Argument(metavar="A", help="An experiment or step: its folder, or the beginning of its key.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    runs: Runs = None,
) -> None:  # fmt: skip
    """Say in which fields two steps or two experiments differ.

    clir why runs/demo.en-de/A runs/demo.en-de/B
    """
    from clir_cli import plan as plans

    print(plans.why(a, b, root(runs)))


@app.command()
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


@app.command()
def check(
    overrides: Overrides = None, config_dir: ConfigDir = None, runs: Runs = None, config: ConfigFile = None,
    load: Annotated[bool, typer.Option("--load", help="Load the models too, and show token by token what each is given.")] = False,
) -> None:  # fmt: skip
    """Check a configuration; with --load its models too.

    clir check --load retriever=labse
    """
    from clir_cli import progress

    plan = _planned(_cells(overrides, False, None, config_dir, config), root(runs), eager=False)
    _raise_single(plan)
    experiment = plan.cells[0].experiment
    assert experiment is not None
    if not load:
        print("the configuration fits; --load shows what its models are given")
        return
    from clir_cli.verbs import model_check

    with progress.silence(True):
        print("\n".join(model_check.lines(experiment.cfg)))


@app.command()
def languages(
    codes: Annotated[list[str] | None, typer.Argument(metavar="CODE", help="Languages, such as yo zh; all unless given.")] = None,
    config_dir: ConfigDir = None, as_json: Json = False,
) -> None:  # fmt: skip
    """List which component reads which language.

    clir languages yo zh
    """
    from clir_cli.verbs import language_list

    print(language_list.show(codes or [], config_dir or [], as_json))


@app.command()
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


@app.command("list")
def list_experiments(runs: Runs = None, as_json: Json = False) -> None:
    """List the finished experiments, a line each.

    clir list
    """
    from clir_cli.verbs import listing

    print(listing.experiments(root(runs), as_json))


@app.command()
def evaluate(
    targets: Annotated[list[Path], typer.Argument(metavar="TARGETS", help="Experiment folders, or one TREC run (with --qrels).")],
    qrels: Annotated[Path | None, typer.Option(metavar="FILE", help="Judgments for a TREC run: query_id 0 doc_id relevance.")] = None,
    measures: Annotated[str, typer.Option(metavar="NAMES", help="Comma-separated, as ir_measures spells them: nDCG@20,AP")] = "",
    judgments: Annotated[str, typer.Option(metavar="NAMES", help="For experiments: which of the dataset's judgments.")] = "",
    topics: Annotated[Literal["judged", "relevant"] | None, typer.Option(help="Average over every judged topic (trec_eval -c), or those with a relevant document; judged, or what an experiment says, unless given.")] = None,
    per_query: Annotated[bool, typer.Option("--per-query", help="For a TREC run: a line per topic too.")] = False,
    order: Annotated[Literal["score", "rank", "any"], typer.Option(help="For a TREC run: by score, refusing ranks that disagree; by rank; or by score in any case.")] = "score",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Score a TREC run, or finished experiments by more measures.

    clir evaluate run.trec --qrels qrels.txt --measures nDCG@20,AP
    """
    from clir_cli.verbs import listing

    if qrels is not None:
        if len(targets) != 1 or judgments:
            raise ConfigError("--qrels goes with exactly one TREC run, and without --judgments")
        print(listing.score(targets[0], qrels, _names(measures), topics or "judged", per_query, order, as_json))
        return
    if per_query or order != "score":
        raise ConfigError("--per-query and --order go with --qrels; an experiment's topics are in its per_query.csv")
    found = {str(t): listing.score_experiment(t, _names(measures), _names(judgments), topics) for t in targets}
    if as_json:
        print(listing.dumps([{"experiment": folder, "metrics": rows} for folder, rows in found.items()]))
    else:
        print(*(f"{listing.metric_table(rows)}\n{folder}" for folder, rows in found.items()), sep="\n")


@app.command()
def table(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCES", help="Experiment folders, sweep folders or metrics.csv files.")],
    rows: Annotated[str, typer.Option(metavar="KEYS", help="Columns of metrics.csv or dotted config keys.")] = "retriever,reranker",
    cols: Annotated[str, typer.Option(metavar="KEYS", help="The same; pair is query_lang-doc_lang.")] = "pair",
    measure: Annotated[str, typer.Option(metavar="NAME", help="main: each dataset's own main measure.")] = "main",
    where: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only these experiments; repeatable.")] = None,
    stage: Annotated[str, typer.Option(metavar="STAGE", help="first_stage, rerank_1, ..., final.")] = "final",
    baseline: Annotated[str | None, typer.Option(metavar="ROW", help="own_first_stage, or a row, to test against.")] = None,
    correction: Annotated[Literal["holm", "none"], typer.Option(help="For the tests of one column.")] = "holm",
    test: Annotated[Literal["t", "randomisation", "bootstrap"], typer.Option(help="Paired, two-sided.")] = "t",
    agg: Annotated[Literal["mean", "median"] | None, typer.Option(help="Where a cell has several values.")] = None,
    fmt: Annotated[Literal["markdown", "latex", "csv", "html"], typer.Option("--format", help="What is printed.")] = "markdown",
    digits: Annotated[int, typer.Option(metavar="N", min=0, max=17, help="Decimals shown.")] = 4,
) -> None:  # fmt: skip
    """Print one measure of many experiments as a table.

    clir table runs/sweeps/NAME --rows retriever,reranker --cols pair
    """
    from clir_cli import tables

    print(tables.table(
        sources, rows=_names(rows), cols=_names(cols), measure=measure, where=where or [], stage=stage, baseline=baseline,
        correction=correction, test=test, agg=agg, format=fmt, digits=digits,
    ).rstrip("\n"))  # fmt: skip


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="An experiment or sweep folder, or a metrics.csv.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")],
    force: Annotated[bool, typer.Option("--force", help="Compare although topics, judgments or depths differ.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Compare two experiments or two sweeps, topic by topic.

    clir diff runs/demo.en-de/A runs/demo.en-de/B
    """
    from clir_cli import tables
    from clir_cli.verbs import listing

    found = tables.diff(a, b, force=force)
    print(listing.dumps(found.as_rows()) if as_json else str(found).rstrip("\n"))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


# Make -----------------------------------------------------------------------------------------------------------------


@app.command()
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


@app.command()
def step(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A draft of a step, with a request.json in it.")],
) -> None:
    """Make one step, as another interpreter or machine is asked to.

    clir step runs/steps/index/.KEY.draft
    """
    from clir_cli.verbs import listing

    listing.make_step(folder)
    print(folder)


@app.command()
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


# Errors ---------------------------------------------------------------------------------------------------------------

debugging = "--debug" in sys.argv


def main() -> NoReturn:
    """Run the CLI: 0 done, 1 the run failed, 2 the request is invalid; tracebacks only with --debug."""
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
    except (KeyboardInterrupt, typer.Abort):
        exec(
            ""
        )  # CPython remembers a Ctrl-C that passed through an exec() of text, and would die by the signal at exit
        print("\nstopped; what is finished stays finished: the same command goes on from there", file=sys.stderr)
        return RunError.exit_code
    except BrokenPipeError:  # `clir configs | head -1`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return RunError.exit_code
    except Exception as error:
        _tell(error)
        return error.exit_code if isinstance(error, ClirError) else RunError.exit_code


def _tell(error: Exception, only_bugs: bool = False) -> None:
    """An error in one message on stderr, its traceback only with --debug."""
    expected = isinstance(error, ClirError | OSError)
    if debugging:
        traceback.print_exception(error)
    elif not expected:
        said = f"internal error: {type(error).__name__}: {error}\n  Please report it with the traceback that --debug prints."
        print(_folded(f"clir: {said}", sys.stderr), file=sys.stderr)
    elif not only_bugs:
        print(_folded(f"clir: {error}", sys.stderr), file=sys.stderr)


def _folded(message: str, out: TextIO) -> str:
    """The message, on a terminal broken between words."""
    if not out.isatty():
        return message
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        for line in message.splitlines()
    )


_USAGE: Any = typer.BadParameter.__mro__[2]  # click's ClickException, of whichever click this typer brings
