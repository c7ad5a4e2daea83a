"""The verbs: parse, print, exit; nothing is decided here. Whatever is heavy is imported by the verb that needs it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from clir_cli import __version__
from clir_cli.errors import ClirError, ConfigError, MissingModel, RunError

if TYPE_CHECKING:
    from clir_cli.config import Cell
    from clir_cli.launchers.serial import Outcome
    from clir_cli.plan import Plan

app = typer.Typer(
    name="clir", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Cross-lingual retrieval experiments, from one line to a table.  Start with: clir run",
)  # fmt: skip

Overrides = Annotated[
    list[str] | None, typer.Argument(help="group=choice or node.key=value; `clir configs` lists the groups")
]
Multirun = Annotated[
    bool,
    typer.Option("--multirun", "-m", help="Sweep: comma lists, range(...), glob(*) make one cell per combination."),
]
Zip = Annotated[
    list[str] | None, typer.Option("--zip", help="Axes that go together, e.g. --zip dataset.pair,llm; repeatable.")
]
ConfigDir = Annotated[
    list[Path] | None,
    typer.Option("--config-dir", help="A folder with your own yaml files; ./configs is always looked at."),
]
Runs = Annotated[Path | None, typer.Option("--runs", help="Where results are kept (default: CLIR_RUNS, else ./runs).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def root(runs: Path | None) -> Path:
    return (runs or Path(os.environ.get("CLIR_RUNS") or "runs")).expanduser().absolute()


# Run and plan ---------------------------------------------------------------------------------------------------------


@app.command()
def run(
    overrides: Overrides = None, multirun: Multirun = False, zips: Zip = None, config_dir: ConfigDir = None, runs: Runs = None,
    config: Annotated[Path | None, typer.Option("--config", help="Repeat the config.yaml of an experiment folder.")] = None,
    name: Annotated[str, typer.Option("--name", help="The sweep's name.")] = "sweep",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The same as clir plan.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the experiment folder, a line per cell.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run an experiment, or a sweep with -m:  clir run retriever=labse reranker=listwise"""
    from clir_cli import progress
    from clir_cli.launchers import serial

    cells = _cells(overrides, multirun, zips, config_dir, config)
    if dry_run:
        _print_plan(cells, root(runs), as_json)
        return
    plan = _plan(cells, root(runs), eager=True)
    if not multirun and (error := plan.cells[0].error):
        raise error
    _resolve_models(plan)
    with progress.silence(quiet):
        if multirun:
            _sweep(plan, name, quiet, as_json)
            return
        (outcome,) = serial.execute(plan)
    if outcome.error is not None:
        raise outcome.error
    _print_experiment(outcome, quiet, as_json)


@app.command()
def plan(
    overrides: Overrides = None, multirun: Multirun = False, zips: Zip = None, config_dir: ConfigDir = None, runs: Runs = None,
    config: Annotated[Path | None, typer.Option("--config", help="The config.yaml of an experiment folder.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Show what a run would do, and what is done already:  clir plan -m retriever=bm25_qt,bm25_dt"""
    _print_plan(_cells(overrides, multirun, zips, config_dir, config), root(runs), as_json)


def _cells(
    overrides: list[str] | None,
    multirun: bool,
    zips: list[str] | None,
    config_dir: list[Path] | None,
    config: Path | None,
) -> list[Cell]:
    from clir_cli import config as configs

    if config is not None:
        if overrides or multirun:
            raise ConfigError("--config repeats a resolved configuration as it is: give no overrides beside it")
        return [configs.Cell((), configs.load(config))]
    if zips and not multirun:
        raise ConfigError("--zip pairs the axes of a sweep: add -m")
    return configs.cells(overrides or [], multirun, zips or [], config_dir or [])


def _plan(cells: list[Cell], folder: Path, eager: bool) -> Plan:
    from clir_cli.plan import planned
    from clir_cli.store import Store

    return planned(cells, Store(folder, eager))


def _resolve_models(plan: Plan) -> None:
    """Resolve every open revision of the plan at once; in a sweep a model that is not to be had fails its cells only."""
    from clir_cli import config
    from clir_cli.plan import planned

    if not (models := plan.models()):
        return
    for item in plan.cells:
        wanted = [m for m in models if item.experiment and m in _models_of(item)]
        try:
            config.resolve_revisions(item.cell.plain, wanted, plan.store.root / "models.lock")
        except MissingModel as error:
            if len(plan.cells) == 1:
                raise
            item.error = error
    again = planned([item.cell for item in plan.cells], type(plan.store)(plan.store.root))
    for item, new in zip(plan.cells, again.cells, strict=True):
        new.error, new.experiment = (item.error, None) if item.error else (new.error, new.experiment)
    plan.store, plan.cells = again.store, again.cells


def _models_of(item: Any) -> set[str]:
    from clir_cli.steps import pending

    return {p.model for step in item.experiment.steps for p in pending(step.meaning) if p.model}


def _print_plan(cells: list[Cell], folder: Path, as_json: bool) -> None:
    from clir_cli import plan as plans

    plan = _plan(cells, folder, eager=False)
    if len(plan.cells) == 1 and plan.cells[0].error:
        raise plan.cells[0].error
    print(json.dumps(list(plans.rows(plan)), indent=1, ensure_ascii=False) if as_json else plans.text(plan))


def _print_experiment(outcome: Outcome, quiet: bool, as_json: bool) -> None:
    from clir_cli.experiment import read_rows

    assert outcome.folder is not None
    if quiet:
        print(outcome.folder)
        return
    rows = read_rows(outcome.folder / "metrics.csv")
    if as_json:
        print(json.dumps({"experiment": str(outcome.folder), "metrics": rows}, indent=1, ensure_ascii=False))
        return
    print("\n".join(_metric_table(rows)))
    print(outcome.folder)


def _metric_table(rows: list[dict[str, Any]]) -> list[str]:
    """measure x stage, as text."""
    stages = list(dict.fromkeys(r["stage"] for r in rows))
    if all(r["reranker"] == "none" for r in rows):
        stages = ["final"] if "final" in stages else stages
    found: dict[tuple[str, str], dict[str, str]] = {}
    for r in rows:
        found.setdefault((r["measure"], r["judgments"]), {})[r["stage"]] = f"{float(r['value']):.4f}"
    several = len({judgments for _, judgments in found}) > 1
    head = ["measure", *(["judgments"] if several else []), *stages, "topics"]
    topics = {(r["measure"], r["judgments"]): r["topics"] for r in rows}
    body = [
        [m, *([j] if several else []), *(v.get(s, "-") for s in stages), topics[m, j]] for (m, j), v in found.items()
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    return [
        "  ".join(
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in [head, *body]
    ]


def _sweep(plan: Plan, name: str, quiet: bool, as_json: bool) -> None:
    from clir_cli import sweep
    from clir_cli.launchers import serial

    folder = sweep.folder(plan, name)
    outcomes = serial.execute(
        plan, lambda outcome: print(outcome.folder or "-", flush=True) if quiet else sweep.tell(plan, outcome)
    )
    sweep.write(plan, outcomes, folder)
    if as_json:
        print(json.dumps(sweep.rows(plan, outcomes), indent=1, ensure_ascii=False))
    elif not quiet:
        print("\n".join(sweep.text(plan, outcomes)))
        print(folder)
    if any(o.status in {"failed", "invalid"} for o in outcomes):
        raise typer.Exit(1)


# Look -----------------------------------------------------------------------------------------------------------------


@app.command()
def why(a: str, b: str, runs: Runs = None) -> None:
    """Say in which fields two steps or experiments differ:  clir why runs/demo.en-de/A runs/demo.en-de/B"""
    from clir_cli import plan as plans

    print(plans.why(a, b, root(runs)))


@app.command()
def configs(
    group: Annotated[str | None, typer.Argument()] = None, name: Annotated[str | None, typer.Argument()] = None,
    config_dir: ConfigDir = None, as_json: Json = False,
) -> None:  # fmt: skip
    """List the choices of every group, of one, or show a yaml:  clir configs retriever bm25_dt"""
    from clir_cli import listing

    print(listing.configs(group, name, config_dir or [], as_json))


@app.command("list")
def list_experiments(runs: Runs = None, as_json: Json = False) -> None:
    """List the finished experiments, a line each:  clir list"""
    from clir_cli import listing

    print(listing.experiments(root(runs), as_json))


@app.command()
def evaluate(
    targets: Annotated[list[Path], typer.Argument(help="Experiment folders, or one TREC run (with --qrels).")],
    qrels: Annotated[Path | None, typer.Option(help="Judgments for a TREC run: query_id 0 doc_id relevance.")] = None,
    measures: Annotated[str, typer.Option(help="Comma-separated, as ir_measures spells them.")] = "",
    judgments: Annotated[str, typer.Option(help="For experiments: names of the dataset's judgments.")] = "",
    topics: Annotated[str, typer.Option(help="judged: every judged topic (trec_eval -c); relevant: those with a relevant document.")] = "judged",
    per_query: Annotated[bool, typer.Option("--per-query", help="A line per topic too.")] = False,
    order: Annotated[str, typer.Option(help="score (refuse a rank column that disagrees), rank, or any.")] = "score",
    runs: Runs = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Score a TREC run, or finished experiments with more measures:  clir evaluate run.trec --qrels qrels.txt --measures nDCG@20,AP"""
    from clir_cli import listing

    chosen = [m.strip() for m in measures.split(",") if m.strip()]
    if topics not in {"judged", "relevant"} or order not in {"score", "rank", "any"}:
        raise ConfigError(
            f"--topics is judged or relevant, --order is score, rank or any; got {topics!r} and {order!r}"
        )
    if qrels is not None:
        if len(targets) != 1:
            raise ConfigError("--qrels goes with exactly one TREC run")
        print(
            listing.score(
                targets[0],
                qrels,
                chosen or ["nDCG@10", "nDCG@20", "AP", "RR@10", "R@100"],
                topics,
                per_query,
                order,
                as_json,
            )
        )
        return
    names = [j.strip() for j in judgments.split(",") if j.strip()]
    for folder in targets:
        print("\n".join(_metric_table(listing.score_experiment(folder, root(runs), chosen, names, topics))))
        print(folder)


@app.command()
def table(
    sources: Annotated[list[Path], typer.Argument(help="Experiment folders, sweep folders or metrics.csv files.")],
    rows: Annotated[str, typer.Option(help="Columns of metrics.csv or dotted config keys.")] = "retriever,reranker",
    cols: Annotated[str, typer.Option(help="Columns of metrics.csv, or pair.")] = "pair",
    measure: Annotated[str, typer.Option(help="main: each dataset's own main measure.")] = "main",
    where: Annotated[list[str] | None, typer.Option(help="column=value; repeatable.")] = None,
    stage: Annotated[str, typer.Option(help="first_stage, rerank_1, ..., final.")] = "final",
    baseline: Annotated[str | None, typer.Option(help="own_first_stage, or a row, to test against.")] = None,
    correction: Annotated[str, typer.Option(help="holm or none.")] = "holm",
    test: Annotated[str, typer.Option(help="t, randomisation or bootstrap.")] = "t",
    agg: Annotated[str | None, typer.Option(help="mean or median, where a cell has several values.")] = None,
    fmt: Annotated[str, typer.Option("--format", help="markdown, latex, csv or html.")] = "markdown",
    digits: Annotated[int, typer.Option(help="Decimals shown.")] = 4,
) -> None:  # fmt: skip
    """Print a table of a measure:  clir table runs/sweeps/NAME --rows retriever,reranker --cols pair --baseline own_first_stage"""
    from clir_cli import tables

    print(tables.table(
        sources, rows=_names(rows), cols=_names(cols), measure=measure, where=where or [], stage=stage, baseline=baseline,
        correction=correction, test=test, agg=agg, format=fmt, digits=digits,  # type: ignore[arg-type]
    ))  # fmt: skip


@app.command()
def diff(
    a: Path, b: Path,
    force: Annotated[bool, typer.Option("--force", help="Compare although topics, judgments or depths differ.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Compare two experiments or sweeps topic by topic:  clir diff runs/demo.en-de/A runs/demo.en-de/B"""
    from clir_cli import tables

    found = tables.diff(a, b, force=force)
    print(json.dumps(found.as_rows(), indent=1, ensure_ascii=False) if as_json else found)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


# Make -----------------------------------------------------------------------------------------------------------------


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="dataset, retriever or reranker")], name: str,
    folder: Annotated[Path, typer.Option("--config-dir", help="Where it is written.")] = Path("configs"),
) -> None:  # fmt: skip
    """Write a commented yaml for your own collection or model:  clir new retriever my_encoder"""
    from clir_cli import listing

    print(listing.new(kind, name, folder))


@app.command()
def step(folder: Path) -> None:
    """Make one step in its draft folder, from the request.json in it (what another interpreter or machine is given)."""
    from clir_cli import listing

    listing.make_step(folder)
    print(folder)


@app.command()
def doctor(runs: Runs = None, as_json: Json = False) -> None:
    """Check Python, Java, torch, faiss, GPU, disk and model hub, each with its mend:  clir doctor"""
    from clir_cli import doctor as checks

    found = checks.checks(root(runs))
    print(json.dumps([c._asdict() for c in found], indent=1) if as_json else "\n".join(checks.text(found)))
    if any(c.status == "wrong" for c in found):
        raise typer.Exit(1)


# Errors ---------------------------------------------------------------------------------------------------------------


def main() -> NoReturn:
    """Run the CLI: 0 done, 1 the run failed, 2 the request is invalid; tracebacks only with --debug."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    if arguments in (["--version"], ["-V"]):
        print(f"clir {__version__}")
        sys.exit(0)
    sys.exit(_guarded(lambda: app(arguments, standalone_mode=False), debug))


INTERRUPTED = 130  # what typer makes of Ctrl-C


def _guarded(call: Callable[[], Any], debug: bool) -> int:
    try:
        if (code := int(call() or 0)) != INTERRUPTED:
            return code
        raise KeyboardInterrupt
    except typer.Exit as error:
        return error.exit_code
    except _USAGE as error:
        error.show()
        return ConfigError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        exec("")  # CPython remembers a Ctrl-C that passed through an exec() of text, and would die by the signal at exit
        print("\nstopped; what is finished stays finished: the same command goes on from there", file=sys.stderr)
        return RunError.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ClirError | OSError):
            print(f"clir: {error}", file=sys.stderr)
            return error.exit_code if isinstance(error, ClirError) else RunError.exit_code
        print(
            f"clir: internal error: {type(error).__name__}: {error}\n  Please report it with the traceback that --debug prints.",
            file=sys.stderr,
        )
        return RunError.exit_code


_USAGE: Any = typer.BadParameter.__mro__[2]  # click's ClickException, of whichever click this typer brings


if __name__ == "__main__":
    main()
