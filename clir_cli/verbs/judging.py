"""What assessors are to judge: the documents that runs rank high and nobody has judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from clir_cli import config, evaluation
from clir_cli.errors import ConfigError, many
from clir_cli.files import write_text
from clir_cli.types import Run
from clir_cli.verbs.sharing import experiments


class Unjudged(NamedTuple):
    """A document to be judged for a topic: how many runs hold it in their first `depth`, the best at `best_rank`."""

    query_id: str
    doc_id: str
    runs: int
    best_rank: int


class Found(NamedTuple):
    """A run's (query_id, doc_id, rank) down to some depth, and which pairs are judged."""

    rows: list[tuple[str, str, int]]
    judged: set[tuple[str, str]]


def unjudged(
    targets: Sequence[Path],
    depth: int,
    judgments: Sequence[str] = (),
    qrels: Path | None = None,
    order: Literal["score", "rank", "any"] = "score",
) -> tuple[list[Unjudged], int]:
    """The pool of the runs, `depth` deep, less what any of the judgments has: by topic, best rank, most runs, doc_id;
    and how many runs there are.

    Targets are experiments, whose judgments are their dataset's (or those called `judgments`), or with `qrels` TREC runs.
    Raises ConfigError for experiments of several collections: their topics are not the same.
    """
    if depth < 1:
        raise ConfigError(f"--depth must be at least 1, got {depth}")
    if qrels is None:
        targets = experiments(targets, Path())
    found = _runs(targets, qrels, depth, order) if qrels else _experiments(targets, depth, judgments)
    pool: dict[tuple[str, str], list[int]] = {}
    count = 0
    topics: dict[str, int] = {}
    for run in found:
        count += 1
        for query, doc, rank in run.rows:
            topics.setdefault(query, len(topics))
            if (query, doc) not in run.judged:
                pool.setdefault((query, doc), []).append(rank)
    rows = [Unjudged(query, doc, len(ranks), min(ranks)) for (query, doc), ranks in pool.items()]
    return sorted(rows, key=lambda row: (topics[row.query_id], row.best_rank, -row.runs, row.doc_id)), count


def _runs(targets: Iterable[Path], qrels: Path, depth: int, order: Literal["score", "rank", "any"]) -> Iterator[Found]:
    from clir_cli import runs

    judged = {(row.query_id, row.doc_id) for row in evaluation.read_qrels(qrels)}
    for target in targets:
        yield Found(_top(runs.read_trec(target, order=order, option="--"), depth), judged)


def _experiments(targets: Sequence[Path], depth: int, judgments: Sequence[str]) -> Iterator[Found]:
    from clir_cli import runs

    cells = [config.built(config.load(target / "config.yaml")) for target in targets]
    collections = [f"{cell.labels['dataset']} {cell.dataset.split or ''}".strip() for cell in cells]
    if len(set(collections)) > 1:
        raise ConfigError(
            f"--unjudged: the experiments are of several collections ({', '.join(dict.fromkeys(collections))}); "
            "list what is to be judged of each alone"
        )
    for target, cell in zip(targets, cells, strict=True):
        names = judgments or cell.evaluate.judgments or cell.dataset.judgment_names
        judged = {(row.query_id, row.doc_id) for name in names for row in cell.dataset.read_qrels(name)}
        yield Found(_top(runs.read_made(target / "run.trec"), depth), judged)


def _top(run: Run, depth: int) -> list[tuple[str, str, int]]:
    from clir_cli import runs

    top = runs.cut(run, depth)
    return list(zip(top["query_id"], top["doc_id"], top["rank"].tolist(), strict=True))


def write(rows: Sequence[Unjudged], path: Path) -> None:
    """TSV with the names of the columns."""
    write_text(path, lambda out: out.writelines(lines(rows)))


def lines(rows: Iterable[Unjudged]) -> Iterator[str]:
    for row in (Unjudged._fields, *rows):
        yield "\t".join(map(str, row)) + "\n"


def summary(rows: Sequence[Unjudged], runs: int, depth: int) -> str:
    topics = len({row.query_id for row in rows})
    return f"{many(len(rows), 'document')} of {many(topics, 'topic')} {'is' if len(rows) == 1 else 'are'} not judged in the first {depth} of {many(runs, 'run')}"
