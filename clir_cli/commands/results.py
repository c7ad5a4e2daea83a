"""What a researcher does with finished experiments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from clir_cli.commands.common import ConfigDir, Json, Multirun, Overrides, Runs, Zip, folded, names, root
from clir_cli.errors import ConfigError


def list_experiments(runs: Runs = None, as_json: Json = False) -> None:
    """List the finished experiments, a line each.

    clir list
    """
    from clir_cli.verbs import listing

    print(listing.experiments(root(runs), as_json))


def evaluate(
    targets: Annotated[list[Path], typer.Argument(metavar="TARGETS", help="Experiment folders, or one TREC run (with --qrels).")],
    qrels: Annotated[Path | None, typer.Option(metavar="FILE", help="Judgments for a TREC run: query_id 0 doc_id relevance.")] = None,
    measures: Annotated[str, typer.Option(metavar="NAMES", help="Comma-separated, as ir_measures spells them: nDCG@20,AP")] = "",
    judgments: Annotated[str, typer.Option(metavar="NAMES", help="For experiments: which of the dataset's judgments.")] = "",
    topics: Annotated[Literal["judged", "relevant"] | None, typer.Option(help="Average over every judged topic (trec_eval -c), or those with a relevant document; judged, or what an experiment says, unless given.")] = None,
    per_query: Annotated[bool, typer.Option("--per-query", help="For a TREC run: a line per topic too.")] = False,
    order: Annotated[Literal["score", "rank", "any"], typer.Option(help="For a TREC run: by score, refusing ranks that disagree; by rank; or by score in any case.")] = "score",
    duplicates: Annotated[Literal["error", "first"], typer.Option(help="For a TREC run: refuse a document that is listed twice for a topic, or keep its first line.")] = "error",
    unjudged: Annotated[Path | None, typer.Option(metavar="FILE", help="Score nothing: write what nobody has judged in the first --depth of all targets, for assessors; - is stdout.")] = None,
    depth: Annotated[int, typer.Option(metavar="K", help="For --unjudged: how deep the runs are pooled.")] = 20,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Score a TREC run, or finished experiments by more measures.

    clir evaluate run.trec --qrels qrels.txt --measures nDCG@20,AP
    """
    from clir_cli.verbs import listing

    if unjudged is not None:
        if measures or topics or per_query or duplicates != "error" or as_json:
            raise ConfigError(
                "--unjudged scores nothing: give only --depth, --judgments, --qrels and --order beside it"
            )
        _write_unjudged(targets, unjudged, depth, names(judgments), qrels, order)
        return
    if qrels is not None:
        if len(targets) != 1 or judgments:
            raise ConfigError("--qrels goes with exactly one TREC run, and without --judgments")
        asked = topics or "judged"
        print(listing.score(targets[0], qrels, names(measures), asked, per_query, order, duplicates, as_json))
        return
    if per_query or order != "score" or duplicates != "error":
        raise ConfigError(
            "--per-query, --order and --duplicates go with --qrels; an experiment's topics are in its per_query.csv"
        )
    found = {str(t): listing.score_experiment(t, names(measures), names(judgments), topics) for t in targets}
    if as_json:
        print(listing.dumps([{"experiment": folder, "metrics": rows} for folder, rows in found.items()]))
    else:
        print(*(f"{listing.metric_table(rows)}\n{folder}" for folder, rows in found.items()), sep="\n")


def _write_unjudged(
    targets: list[Path], out: Path, depth: int, judgments: list[str], qrels: Path | None, order: Literal["score", "rank", "any"]
) -> None:  # fmt: skip
    from clir_cli.verbs import judging

    rows, runs = judging.unjudged(targets, depth, judgments, qrels, order)
    if str(out) == "-":
        print(*judging.lines(rows), sep="", end="")
    else:
        judging.write(rows, out)
        print(judging.summary(rows, runs, depth), out, sep="\n")


def table(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCES", help="Experiment folders, sweep folders or metrics.csv files.")],
    rows: Annotated[str | None, typer.Option(metavar="KEYS", help="Columns of metrics.csv or dotted config keys; retriever,reranker unless given.")] = None,
    cols: Annotated[str | None, typer.Option(metavar="KEYS", help="The same; pair (query_lang-doc_lang) unless given.")] = None,
    measure: Annotated[str, typer.Option(metavar="NAME", help="main: each dataset's own main measure.")] = "main",
    where: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only these experiments; repeatable.")] = None,
    stage: Annotated[str | None, typer.Option(metavar="STAGES", help="first_stage, rerank_1, ..., final, or several; final unless given.")] = None,
    baseline: Annotated[list[str] | None, typer.Option(metavar="ROW", help="own_first_stage, or a row, to test against; repeatable.")] = None,
    correction: Annotated[Literal["holm", "bonferroni", "bh", "none"], typer.Option(help="For the tests of one column.")] = "holm",
    test: Annotated[Literal["t", "randomisation", "bootstrap"], typer.Option(help="Paired, two-sided.")] = "t",
    tests: Annotated[bool, typer.Option("--tests", help="A line per test: difference, 95 % interval, effect size d_z, p.")] = False,
    agg: Annotated[Literal["mean", "median"] | None, typer.Option(help="Where a cell has several values.")] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="zuo2025: retriever x reranker x original/translated by pair, with marks.")] = None,
    fmt: Annotated[Literal["markdown", "latex", "csv", "html"], typer.Option("--format", help="What is printed.")] = "markdown",
    digits: Annotated[int | None, typer.Option(metavar="N", min=0, max=17, help="Decimals shown; 4 unless given.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Print one measure of many experiments as a table.

    clir table runs/sweeps/NAME --rows retriever,reranker --cols pair
    """
    from clir_cli import tables

    if as_json and fmt != "markdown":
        raise ConfigError(f"--json and --format {fmt}: choose one")
    asked = tables.settings(
        preset, rows=names(rows) if rows is not None else None, cols=names(cols) if cols is not None else None,
        stage=stage, baselines=baseline, digits=digits,
    )  # fmt: skip
    text = tables.table(
        sources, measure=measure, where=where or [], correction=correction, test=test, tests=tests, agg=agg,
        format="json" if as_json else fmt, **asked,
    )  # fmt: skip
    print(text if as_json else _readable(text))


def diff(
    sources: Annotated[list[Path], typer.Argument(metavar="A B [C ...]", help="Experiment or sweep folders, or metrics.csv files; A is the one compared with.")],
    measure: Annotated[str, typer.Option(metavar="NAMES", help="Only these measures, comma-separated; all unless given.")] = "",
    test: Annotated[Literal["t", "randomisation", "bootstrap"], typer.Option(help="Paired, two-sided.")] = "t",
    correction: Annotated[Literal["holm", "bonferroni", "bh", "none"], typer.Option(help="For all tests together.")] = "holm",
    topics: Annotated[str, typer.Option(metavar="N", help="How many topics are shown that gain, and that lose; or all.")] = "5",
    digits: Annotated[int, typer.Option(metavar="N", min=0, max=17, help="Decimals shown.")] = 4,
    fail_if_worse: Annotated[list[str] | None, typer.Option(metavar="MEASURE:BY", help="Exit 1 where a final value is lower than A's by more; repeatable.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare although topics, judgments or depths differ.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Compare experiments or sweeps with the first, topic by topic.

    clir diff runs/demo.en-de/A runs/demo.en-de/B --fail-if-worse nDCG@20:0.01
    """
    from clir_cli import tables
    from clir_cli.verbs import listing

    if topics != "all" and not topics.isdecimal():
        raise ConfigError(f"--topics {topics}: a number, or all")
    limits = dict(_limit(text) for text in fail_if_worse or [])
    found = tables.diff(
        *sources, measures=names(measure), test=test, correction=correction, digits=digits, force=force,
        shown=None if topics == "all" else int(topics),
    )  # fmt: skip
    print(listing.dumps(found.record()) if as_json else _readable(str(found)))
    found.check(limits)


def _limit(text: str) -> tuple[str, float]:
    """`nDCG@20:0.01`: by how much a measure may fall; 0 unless given."""
    measure, _, amount = text.partition(":")
    try:
        limit = float(amount or 0)
    except ValueError:
        limit = -1.0
    if not measure or not 0 <= limit < float("inf"):
        raise ConfigError(f"--fail-if-worse {text}: expected MEASURE:BY, such as nDCG@20:0.01")
    return measure, limit


def _readable(text: str) -> str:
    """On a terminal, what is not a table's line broken between words."""
    return "\n".join(
        line if line.startswith("|") else folded(line, sys.stdout) for line in text.rstrip("\n").split("\n")
    )


def tune(
    overrides: Overrides = None, multirun: Multirun = False, zips: Zip = None, config_dir: ConfigDir = None, runs: Runs = None,
    select: Annotated[str, typer.Option(metavar="MEASURE", help="What the best setting is best in.")] = "",
    on: Annotated[list[str] | None, typer.Option(metavar="OVERRIDE", help="The topics to choose on, e.g. dataset.split=dev; repeatable.")] = None,
    report: Annotated[list[str] | None, typer.Option(metavar="OVERRIDE", help="The topics to report on, e.g. dataset.split=test; repeatable.")] = None,
    folds: Annotated[int | None, typer.Option(metavar="K", help="Or: report on each of K parts of the topics, chosen on the others.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the folds.")] = 0,
    by: Annotated[str, typer.Option(metavar="AXES", help="Axes that get a choice each, e.g. dataset.pair; one for all unless given.")] = "",
    name: Annotated[str, typer.Option(metavar="NAME", help="What the folder in runs/sweeps is called.")] = "tune",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Choose a setting on some topics, and report on others.

    clir tune -m retriever.k1=0.9,1.2,1.5 --select AP --folds 5
    """
    from clir_cli.store import Store
    from clir_cli.verbs import listing, tuned
    from clir_cli.verbs import tune as choose

    if not select:
        raise ConfigError("--select MEASURE: in what is the best setting best, e.g. --select AP")
    request = tuned.Request(
        overrides or [], select, on or [], report or [], folds, seed, names(by), zips or [], config_dir or []
    )
    found, measure, folder = choose.tune(request, Store(root(runs), eager=True), name)
    if as_json:
        print(listing.dumps(tuned.record(found, measure, folder)))
    else:
        print(_readable(tuned.text(found, request, measure)), folder, sep="\n")
