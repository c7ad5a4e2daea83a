"""What a researcher does with finished experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from clir_cli.commands.common import Json, Runs, names, root
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
    as_json: Json = False,
) -> None:  # fmt: skip
    """Score a TREC run, or finished experiments by more measures.

    clir evaluate run.trec --qrels qrels.txt --measures nDCG@20,AP
    """
    from clir_cli.verbs import listing

    if qrels is not None:
        if len(targets) != 1 or judgments:
            raise ConfigError("--qrels goes with exactly one TREC run, and without --judgments")
        print(listing.score(targets[0], qrels, names(measures), topics or "judged", per_query, order, as_json))
        return
    if per_query or order != "score":
        raise ConfigError("--per-query and --order go with --qrels; an experiment's topics are in its per_query.csv")
    found = {str(t): listing.score_experiment(t, names(measures), names(judgments), topics) for t in targets}
    if as_json:
        print(listing.dumps([{"experiment": folder, "metrics": rows} for folder, rows in found.items()]))
    else:
        print(*(f"{listing.metric_table(rows)}\n{folder}" for folder, rows in found.items()), sep="\n")


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
        sources, rows=names(rows), cols=names(cols), measure=measure, where=where or [], stage=stage, baseline=baseline,
        correction=correction, test=test, agg=agg, format=fmt, digits=digits,
    ).rstrip("\n"))  # fmt: skip


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
