"""Which topics and documents of a collection an experiment uses."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from itertools import islice
from pathlib import Path

from clir_cli.config import Config
from clir_cli.docstore import hashed
from clir_cli.errors import ConfigError, DataError, many
from clir_cli.lines import read_lines
from clir_cli.progress import say
from clir_cli.types import Doc, Qrel, Query


def select(cfg: Config, queries: Sequence[Query]) -> list[Query]:
    """The topics that dataset.queries and limit_queries ask for, in topic order, each id once."""
    dataset, chosen = cfg.dataset, cfg.dataset.queries
    by_id: dict[str, Query] = {}
    judged = set[str]()
    for query in queries:
        if query.query_id in by_id and dataset.on_duplicate == "error":
            raise DataError(
                f"topic {query.query_id!r} is listed twice ({query.lang})\n  dataset.on_duplicate=first keeps the first"
            )
        by_id.setdefault(query.query_id, query)
    if repeated := len(queries) - len(by_id):
        say(f"{cfg.labels['dataset']} topics: {many(repeated, 'repeated query_id')} (the first kept)")
    if chosen == "judged" and dataset.judgment_names:
        judged = {q.query_id for q in judgments(cfg)}
        kept = [q for q in by_id.values() if q.query_id in judged]
    elif chosen in {"judged", "all"}:
        kept = list(by_id.values())
    else:
        wanted = chosen if isinstance(chosen, tuple) else ids_in(Path(chosen).expanduser())
        if absent := [i for i in wanted if i not in by_id]:
            raise DataError(
                f"dataset.queries: {many(len(absent), 'id is no topic', 'ids are no topics')}, for example {absent[0]!r}"
            )
        kept = [q for q in by_id.values() if q.query_id in set(wanted)]
    if not kept and chosen == "judged" and by_id:
        raise DataError(
            f"no topics are left of {len(by_id)} after dataset.queries=judged: no id is on both sides\n"
            f"  topics: {_examples(by_id)}\n  judged: {_examples(sorted(judged))}"
        )
    if not kept:
        raise DataError(f"no topics are left of {len(by_id)} after dataset.queries={chosen}")
    return kept[: dataset.limit_queries]


def _examples(ids: Collection[str]) -> str:
    return (", ".join(map(repr, islice(ids, 3))) + (f", ... ({len(ids)})" if len(ids) > 3 else "")) or "none"


def ids_in(path: Path) -> list[str]:
    """The query_ids in a file, one per line."""
    if not path.is_file():
        raise ConfigError(
            f"dataset.queries={path}: neither judged nor all, nor a file with one query_id per line, nor [id, id]"
        )
    return [name for _, line in read_lines(path, "dataset.queries") for name in line.split()]


def judgments(cfg: Config) -> list[Qrel]:
    """All judgments that the dataset's `judgments` name."""
    return [row for name in cfg.dataset.judgment_names for row in cfg.dataset.read_qrels(name)]


def sampled(docs: Iterable[Doc], judged: Set[str], others: int, seed: int) -> Iterator[Doc]:
    """The judged documents and `others` more: those whose seeded hash is smallest, whatever the order of the file."""
    kept: list[tuple[int, int, Doc]] = []
    chosen: list[tuple[int, Doc]] = []
    for at, doc in enumerate(docs):
        if doc.doc_id in judged:
            chosen.append((at, doc))
            continue
        item = (-hashed(f"{seed}:{doc.doc_id}"), at, doc)
        if len(kept) < others:
            heapq.heappush(kept, item)
        else:
            heapq.heappushpop(kept, item)
    yield from (doc for _, doc in sorted([*chosen, *((at, doc) for _, at, doc in kept)], key=lambda pair: pair[0]))
