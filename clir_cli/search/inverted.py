"""An inverted index on disk: of every term the documents that have it and how much, in shards that are searched in turn.

A shard's folder holds `ids.txt` (a document per line: its number is its line, from 0), `terms.json` (in order), and, as
memory-mapped arrays, the postings one term after another: `offsets.npy` (terms + 1), `docs.npy` and `values.npy`
(postings), documents ascending within a term. `lengths.npy` is the sum of each document's values, `facts.json` what the
index was made with. Values are counts (the smallest unsigned integer type that holds them) or float32 weights. In search
one shard is open at a time and only the postings of the wanted terms are read.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from clir_cli.errors import DataError
from clir_cli.types import Run

if TYPE_CHECKING:
    import numpy as np

Term = TypeVar("Term", str, int)
SCORES = 1 << 22  # scores held at once (32 MB): fewer queries go through a shard together as it has more documents


class Shard(NamedTuple, Generic[Term]):
    """Some documents' postings; arrays are memory-mapped."""

    folder: Path
    terms: list[Term]
    offsets: np.ndarray  # (terms + 1,) int64
    docs: np.ndarray  # (postings,) uint32
    values: np.ndarray  # (postings,)
    lengths: np.ndarray  # (documents,)

    def postings(self, term: Term) -> tuple[np.ndarray, np.ndarray]:
        """The documents that have `term` (int64, ascending) and its values in them (float64)."""
        at = self._place(term)
        return self.docs[at].astype("int64"), self.values[at].astype("float64")

    def frequencies(self, term: Term) -> tuple[int, float]:
        """How many documents have `term`, and the sum of its values."""
        at = self._place(term)
        return at.stop - at.start, float(self.values[at].sum(dtype="float64"))

    def _place(self, term: Term) -> slice:
        at = bisect_left(self.terms, term)
        if at == len(self.terms) or self.terms[at] != term:
            return slice(0, 0)
        return slice(int(self.offsets[at]), int(self.offsets[at + 1]))

    def ids(self) -> list[str]:
        return (self.folder / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1]


class Statistics(NamedTuple, Generic[Term]):
    """What the whole index says of its documents and of some terms."""

    documents: int  # that have any term
    length: float  # sum of all values
    df: Mapping[Term, int]  # documents that have the term
    cf: Mapping[Term, float]  # sum of the term's values


class Wanted(NamedTuple):
    """A feature of queries as documents are scored by it: the terms that stand for it, each with its weight."""

    terms: Mapping[Any, float]
    score: Callable[
        [np.ndarray, np.ndarray], np.ndarray
    ]  # (weighted sum of values, lengths) of documents -> points > 0


# Writing --------------------------------------------------------------------------------------------------------------


def write_shard(
    folder: Path, docs: Iterable[tuple[str, Mapping[Term, float]]], *, counts: bool, facts: Mapping[str, Any]
) -> None:
    """Write the postings of (doc_id, value by term); `counts` where values are whole numbers. No value may be 0 or less."""
    import numpy as np

    numbers: dict[Term, int] = {}
    ids: list[str] = []
    terms, sizes = array("I"), array("I")
    values = array("I") if counts else array("f")
    for doc_id, found in docs:
        ids.append(doc_id)
        sizes.append(len(found))
        terms.extend([numbers.setdefault(term, len(numbers)) for term in found])
        values.extend(found.values())  # type: ignore[arg-type]
    vocabulary = sorted(numbers)
    place = np.empty(len(numbers), np.uint32)
    place[[numbers[term] for term in vocabulary]] = np.arange(len(numbers), dtype=np.uint32)
    column = place[np.frombuffer(terms, np.uint32)] if terms else np.empty(0, np.uint32)
    order = np.argsort(column, kind="stable")
    rows = np.repeat(np.arange(len(ids), dtype=np.uint32), np.array(sizes, np.int64))
    value = np.array(values, np.uint32 if counts else np.float32)
    lengths = np.bincount(rows, weights=value, minlength=len(ids))
    offsets = np.zeros(len(vocabulary) + 1, np.int64)
    np.cumsum(np.bincount(column, minlength=len(vocabulary)), out=offsets[1:])

    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {
        "offsets": offsets,
        "docs": rows[order],
        "values": _smallest(value[order]),
        "lengths": lengths,
    }
    for name, data in arrays.items():
        np.save(folder / f"{name}.npy", data, allow_pickle=False)
    (folder / "terms.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "ids.txt").write_text("".join(f"{i}\n" for i in ids), encoding="utf-8", newline="\n")
    (folder / "facts.json").write_text(json.dumps(dict(facts)) + "\n", encoding="utf-8")


def _smallest(values: np.ndarray) -> np.ndarray:
    import numpy as np

    if values.dtype != np.uint32:
        return values
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


# Reading --------------------------------------------------------------------------------------------------------------


def shard_folders(folder: Path) -> list[Path]:
    """The shards of an index, `folder/shards/00000`, ..., in order."""
    return sorted(path for path in (folder / "shards").iterdir() if path.name.isdigit())


def check_facts(folder: Path, asked: Mapping[str, Any]) -> None:
    """Raise DataError where a shard was made with something else than `asked` (and without it: an empty index)."""
    for path in shard_folders(folder):
        facts = json.loads((path / "facts.json").read_text(encoding="utf-8"))
        for name, value in asked.items():
            if facts.get(name) != value:
                raise DataError(
                    f"{path}: the index was made with retriever.{name}={facts.get(name)}, the search asks for {value}: "
                    f"build the index again, or search with {facts.get(name)}"
                )


def union(folder: Path, fact: str) -> list[str]:
    """Everything that the shards say under `fact`, a list, sorted."""
    said = [json.loads((path / "facts.json").read_text(encoding="utf-8"))[fact] for path in shard_folders(folder)]
    return sorted({each for values in said for each in values})


def read_shards(folder: Path) -> Iterator[Shard[Any]]:
    import numpy as np

    for path in shard_folders(folder):
        loaded = {
            name: np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("offsets", "docs", "values", "lengths")
        }
        terms = json.loads((path / "terms.json").read_text(encoding="utf-8"))
        if len(loaded["offsets"]) != len(terms) + 1 or len(loaded["docs"]) != len(loaded["values"]):
            raise DataError(f"{path}: terms.json and the postings do not belong together; build the index again")
        yield Shard(path, terms, **loaded)


def statistics(folder: Path, terms: Iterable[Term]) -> Statistics[Term]:
    """Over all shards; a term that no document has counts 0."""
    wanted = list(terms)
    documents, length, df, cf = 0, 0.0, dict.fromkeys(wanted, 0), dict.fromkeys(wanted, 0.0)
    for shard in read_shards(folder):
        documents += int((shard.lengths > 0).sum())
        length += float(shard.lengths.sum())
        for term in wanted:
            documents_here, sum_here = shard.frequencies(term)
            df[term] += documents_here
            cf[term] += sum_here
    return Statistics(documents, length, df, cf)


def search(
    folder: Path,
    queries: Sequence[tuple[str, Mapping[Any, float]]],
    wanted: Mapping[Any, Wanted],
    depth: int,
) -> Run:
    """The `depth` best documents of every query (id, weight by feature): the sum of weight x points over its features.

    A document without any of a query's features is not ranked. Sums are float64, over the features in sorted order, so
    that a query's scores do not depend on the queries beside it. Equal scores by doc_id descending, also at the cut.
    """
    import numpy as np
    import pandas as pd

    from clir_cli import runs
    from clir_cli.progress import track

    best: list[list[tuple[float, str]]] = [[] for _ in queries]
    for shard in track(read_shards(folder), len(shard_folders(folder)), "search", "shards"):
        ids = shard.ids()
        size = max(1, SCORES // max(1, len(ids)))
        for start in range(0, len(queries), size):
            part = queries[start : start + size]
            scores = np.zeros((len(part), len(ids)))
            asked: dict[Any, list[tuple[int, float]]] = {}
            for row, (_, features) in enumerate(part):
                for feature, weight in features.items():
                    asked.setdefault(feature, []).append((row, weight))
            for feature in sorted(asked):
                docs, points = _points(shard, wanted[feature])
                for row, weight in asked[feature]:
                    scores[row, docs] += weight * points
            for row in range(len(part)):
                best[start + row] = _best(best[start + row], scores[row], ids, depth)
    rows = [(query, doc, score) for (query, _), found in zip(queries, best, strict=True) for score, doc in found]
    return runs.ranked(pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]))


def _points(shard: Shard[Any], feature: Wanted) -> tuple[np.ndarray, np.ndarray]:
    """The documents of a shard that have the feature, and their points."""
    import numpy as np

    found = [(shard.postings(term), weight) for term, weight in feature.terms.items()]
    if len(found) == 1:
        (docs, values), weight = found[0]
        return docs, feature.score(weight * values, shard.lengths[docs])
    sums = np.zeros(len(shard.lengths))
    for (docs, values), weight in found:
        sums[docs] += weight * values
    docs = np.flatnonzero(sums)
    return docs, feature.score(sums[docs], shard.lengths[docs])


def _best(
    before: list[tuple[float, str]], scores: np.ndarray, ids: Sequence[str], depth: int
) -> list[tuple[float, str]]:
    """The `depth` best of those found before and a shard's; of equal scores the larger doc_ids."""
    import numpy as np

    least = before[-1][0] if len(before) == depth else 0.0
    at = np.flatnonzero(scores >= least if least > 0 else scores > 0)
    if len(at) > depth:
        cut = np.partition(scores[at], -depth)[-depth]
        at = at[scores[at] >= cut]  # all of those that tie at the cut
    if not len(at):
        return before
    found = [(float(score), ids[i]) for score, i in zip(scores[at], at.tolist(), strict=True)]
    return sorted([*before, *found], reverse=True)[:depth]
