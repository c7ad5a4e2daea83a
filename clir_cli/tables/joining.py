"""Which rows of two sides belong together, and what has no partner."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from clir_cli.errors import ConfigError
from clir_cli.tables.reading import COLUMNS, COUNTS, DASH, Results, Row, differing
from clir_cli.tables.testing import scores

Keys: TypeAlias = tuple[tuple[str, str], ...]  # (column, value) pairs that both sides share
WHOLE = ("dataset", "split", "query_lang", "doc_lang", "judgments", "depth", "rerank_depth")
SHARED = [c for c in COLUMNS if c not in ("experiment", "repeat", *COUNTS)]


@dataclass(frozen=True)
class Side:
    """What stands on one side of a joined row: one experiment, or the repeats of one."""

    rows: list[Row]

    @property
    def value(self) -> float:
        return statistics.fmean(float(row["value"]) for row in self.rows)

    def scores(self, results: Results, stage: str | None = None) -> Mapping[str, float] | None:
        """query_id -> value, the mean over repeats: a joined row is of one collection and language pair."""
        found = scores(results, self.rows, stage)
        return None if found is None else next(iter(found.values()), {})


Pair: TypeAlias = tuple[Side, Side]


@dataclass(frozen=True)
class Joined:
    """The rows of two sides by the keys they share, and how the sides differ as wholes."""

    rows: dict[Keys, Pair]
    wholes: dict[str, tuple[str, str]]  # column -> its one value in A, and in B; of the final ranking
    left_out: list[str]


def join(sides: tuple[Results, Results], names: tuple[str, str], measures: Sequence[str], force: bool) -> Joined:
    """Rows are joined within a stage, first stages and rerankings apart, on all columns but the experiment, the counts,
    the repeat (repeats are averaged) and those in which the sides differ as wholes.

    Raises ConfigError where topics, judgments or depths differ (unless `force`) and where no row has a partner.
    """
    rows: dict[Keys, Pair] = {}
    wholes: dict[str, tuple[str, str]] = {}
    alone: tuple[list[Row], list[Row]] = ([], [])
    every = [[row for row in side.rows if not measures or row["measure"] in measures] for side in sides]
    for stage in dict.fromkeys(row["stage"] for found in every for row in found):
        at_stage = [[row for row in found if row["stage"] == stage] for found in every]
        for both in _kinds(at_stage):
            if not all(both):
                for odd, found in zip(alone, both, strict=True):
                    odd.extend(found)
                continue
            apart = _apart(both)
            _refuse_unlike(apart, names, force)
            wholes |= apart if stage == "final" else {}
            on = [c for c in SHARED if c not in apart]
            mine, yours = (_by_keys(side, found, on) for side, found in zip(sides, both, strict=True))
            rows |= {keys: (side, yours[keys]) for keys, side in mine.items() if keys in yours}
            alone[0].extend(row for keys, side in mine.items() if keys not in yours for row in side.rows)
            alone[1].extend(row for keys, side in yours.items() if keys not in mine for row in side.rows)
    if not rows:
        raise ConfigError(f"no row of {names[0]} has a partner in {names[1]}{_nothing_common(every, names)}")
    left_out = [
        f"only {name} has {_summary(odd, other, wholes)}"
        for name, odd, other in zip(names, alone, reversed(every), strict=True)
        if odd
    ]
    return Joined(rows, wholes, left_out)


def _kinds(both: Sequence[list[Row]]) -> Iterator[list[list[Row]]]:
    """The rows of both sides, with and without a reranker apart where both sides have one of these kinds.

    Rerankings may differ as wholes in what first stages do not have, such as rerank_doc.
    """
    plain = [{row["reranker"] == "none" for row in rows} for rows in both]
    if plain[0] & plain[1]:
        for kind in (True, False):
            yield [[row for row in rows if (row["reranker"] == "none") == kind] for rows in both]
    else:
        yield list(both)


def _apart(both: Sequence[Sequence[Row]]) -> dict[str, tuple[str, str]]:
    """The columns that have one value on each side, and not the same."""
    apart: dict[str, tuple[str, str]] = {}
    for column in (c for c in SHARED if c != "measure"):
        a, b = ({row[column] for row in rows} for rows in both)
        if a != b and len(a) == len(b) == 1:
            apart[column] = (a.pop(), b.pop())
    return apart


def _refuse_unlike(apart: Mapping[str, tuple[str, str]], names: tuple[str, str], force: bool) -> None:
    plain = "none" in apart.get("reranker", ())  # a first stage against its reranking has one depth less
    refused = [c for c in WHOLE if c in apart and not (c == "rerank_depth" and plain)]
    if refused and not force:
        said = "; ".join(f"{c}: {names[0]} {apart[c][0] or DASH}, {names[1]} {apart[c][1] or DASH}" for c in refused)
        raise ConfigError(
            f"the sides differ in topics, judgments or depth ({said}); --force compares them all the same"
        )


def _by_keys(side: Results, rows: Sequence[Row], on: Sequence[str]) -> dict[Keys, Side]:
    found: dict[Keys, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        repeats = found[tuple((c, row[c]) for c in on)]
        if (before := repeats.setdefault(row["repeat"], row))["value"] != row["value"]:
            raise ConfigError(
                f"two rows of one side have the same keys; they differ in {differing(side, [before, row])}"
            )
    return {keys: Side(list(repeats.values())) for keys, repeats in found.items()}


def _nothing_common(every: Sequence[Sequence[Row]], names: tuple[str, str]) -> str:
    said = []
    for column in SHARED:
        a, b = ({row[column] for row in rows} for rows in every)
        if a.isdisjoint(b):
            said.append(f"{column}: {names[0]} {', '.join(sorted(a))}, {names[1]} {', '.join(sorted(b))}")
    return f"; they have nothing in common in {'; '.join(said)}" if said else ""


def _summary(odd: Sequence[Row], other: Sequence[Row], wholes: Container[str]) -> str:
    """What rows without a partner have that the other side lacks: `measure P@5, R@50`, or how many they are."""
    lacks: dict[str, list[str]] = {}
    for column in (c for c in SHARED if c not in wholes):
        there = {row[column] for row in other}
        if new := list(dict.fromkeys(row[column] for row in odd if row[column] not in there)):
            lacks[column] = new
    explained = [row for row in odd if any(row[c] in new for c, new in lacks.items())]
    said = [f"{c} {', '.join(v or DASH for v in new[:6])}{' ...' if new[6:] else ''}" for c, new in lacks.items()]
    if rest := len(odd) - len(explained):
        said.append(f"{rest} rows whose combination of columns the other side lacks")
    return "; ".join(said)


def measured(measure: str) -> bool:
    """Whether a difference in this measure is one of quality, averaged over topics: the share of judged documents is not,
    nor are counts (NumRet), which are sums."""
    return not measure.startswith(("Judged", "Num"))
