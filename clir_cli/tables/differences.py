"""What B, C, ... changed against A: in the settings, in the measures, topic by topic, in costs and in the rankings."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from clir_cli.errors import ConfigError, RunError, many
from clir_cli.significance import (
    CORRECTION_NAMES,
    CORRECTIONS,
    TEST_NAMES,
    Correction,
    Effect,
    TestName,
    delta,
    effect_of,
    p_value,
    sample,
)
from clir_cli.tables import overlap
from clir_cli.tables.joining import Joined, Keys, Pair, join, measured
from clir_cli.tables.reading import DASH, Results, Row, read, spelled, union
from clir_cli.tables.testing import ALIKE

NO_EFFECT = Effect(math.nan, math.nan, math.nan, math.nan)
COSTS = ("seconds", "calls_asked", "calls_answered_from_cache", "prompt_tokens", "output_tokens", "usd")


class Topic(NamedTuple):
    """One topic of one joined row."""

    pair: str
    query_id: str
    a: float
    b: float
    query: str  # its text; empty where the step of topics is gone

    @property
    def delta(self) -> float:
        return delta(self.b, self.a)

    def record(self, measure: str) -> dict[str, Any]:
        numbers = {"a": _number(self.a), "b": _number(self.b), "delta": _number(self.delta)}
        return {"pair": self.pair, "query_id": self.query_id, "query": self.query, "measure": measure, **numbers}


@dataclass(frozen=True)
class Line:
    """One joined row, or the mean over several."""

    side: str  # B, C, ...
    keys: Mapping[str, str]  # columns of metrics.csv that both sides share
    a: float
    b: float
    topics: list[Topic]
    effect: Effect = NO_EFFECT
    p: float = math.nan  # uncorrected; NaN where there is no test
    corrected: float = math.nan

    @property
    def delta(self) -> float:
        return delta(self.b, self.a)

    def record(self) -> dict[str, Any]:
        """For machines: the keys, the values under their sides' names, the test (None where there is none), the counts."""
        deltas = [topic.delta for topic in self.topics]
        e = self.effect
        return {
            **self.keys, "side": self.side, "A": _number(self.a), self.side: _number(self.b), "delta": _number(self.delta),
            "low": _number(e.low), "high": _number(e.high), "d_z": _number(e.d_z),
            "p": _number(self.corrected), "uncorrected_p": _number(self.p),
            "wins": sum(d > 0 for d in deltas), "ties": sum(d == 0 for d in deltas), "losses": sum(d < 0 for d in deltas),
            "topics": len(deltas),
        }  # fmt: skip


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Compared:
    """One side against A."""

    name: str  # B, C, ...
    joined: Joined
    lines: list[Line]
    mean: list[Line]  # of a system and measure over its language pairs, where there are several
    config: dict[str, tuple[list[str], list[str]]]  # key -> its values in A, and in this side
    costs: dict[str, tuple[float, float]]
    overlap: overlap.Overlap | None
    left_out: list[str]

    @property
    def main(self) -> list[Line]:
        """The lines of the main measure's final rankings."""
        final = [line for line in self.lines if line.keys["stage"] == "final"]
        return [line for line in final if line.keys["measure"] == final[0].keys["measure"]]


@dataclass(frozen=True)
class Difference:
    """What the sides changed against A; `str()` is for people, `record()` for machines."""

    sources: dict[str, str]  # A, B, ... -> what was compared
    sides: list[Compared]
    about: str
    digits: int
    shown: int | None  # topics at either end; None: all

    def __str__(self) -> str:
        from clir_cli.tables import telling

        return telling.text(self)

    def as_rows(self) -> list[dict[str, Any]]:
        """One dictionary per joined row: its keys, A, B, delta, p (corrected; None where untested), wins, ties, losses."""
        return [line.record() for side in self.sides for line in side.lines]

    def record(self) -> dict[str, Any]:
        return {
            "sources": self.sources,
            "rows": self.as_rows(),
            "means": [line.record() for side in self.sides for line in side.mean],
            "test": self.about,
            "sides": [
                {
                    "side": side.name,
                    "columns": side.joined.wholes,
                    "config": side.config,
                    "costs": side.costs,
                    "overlap": side.overlap._asdict() if side.overlap else None,
                    "left_out": side.left_out,
                    "topics": [t.record(line.keys["measure"]) for line in side.main for t in line.topics],
                }
                for side in self.sides
            ],
        }  # fmt: skip

    def check(self, limits: Mapping[str, float]) -> None:
        """Raise RunError where a final value of one of these measures is lower than A's by more than its limit.

        ConfigError for a measure that was not compared. A value that is not a number is worse.
        """
        said = []
        final = [line for side in self.sides for line in side.lines if line.keys["stage"] == "final"]
        for measure, limit in limits.items():
            name = spelled(measure, [line.keys for line in final])
            for line in (line for line in final if line.keys["measure"] == name):
                if not line.delta >= -limit - 1e-12:
                    where = " ".join(line.keys[c] for c in ("doc_lang", "retriever", "reranker") if c in line.keys)
                    change = f"{line.a:.{self.digits}f} -> {line.b:.{self.digits}f}, {line.delta:+.{self.digits}f}"
                    said.append(f"{line.side}: {name} {change}, allowed is -{limit:g}" + f" ({where})" * bool(where))
        if said:
            raise RunError("worse than allowed:\n" + "\n".join(f"  {text}" for text in said))


# Comparing -------------------------------------------------------------------------------------------------------------


def diff(
    a: str | Path,
    *others: str | Path,
    test: TestName = "t",
    correction: Correction = "holm",
    measures: Sequence[str] = (),
    digits: int = 4,
    force: bool = False,
    shown: int | None = 5,
) -> Difference:
    """Experiments, sweeps or metrics.csv files against the first of them: what was set otherwise, what it changed, and where.

    Raises ConfigError where topics, judgments or depths differ (unless `force`) and where no row has a partner.
    """
    if not others:
        raise ConfigError("a difference has two sides: name what is compared with the first")
    if len(others) > 25:
        raise ConfigError(f"at most 26 sides have letters of their own, got {len(others) + 1}")
    names = [chr(ord("A") + i) for i in range(len(others) + 1)]
    first, *rest = [read([source]) for source in (a, *others)]
    wanted = [spelled(measure, first.rows) for measure in measures]
    sides = [
        _against(first, results, name, wanted, test=test, force=force)
        for name, results in zip(names[1:], rest, strict=True)
    ]
    family = _corrected([side.lines for side in sides], correction)
    means = _corrected([side.mean for side in sides], correction)
    how = f"{CORRECTION_NAMES[correction]} over" if correction != "none" else "not corrected,"
    how += f" {many(family, 'test')}"
    how += f", and over the {means} of means" if means and correction != "none" else ""
    about = (
        f"p: {TEST_NAMES[test]} over topics, {how}; delta is against A, its 95 % interval by Student's t (not corrected); "
        "wins are topics that are better than in A"
    )
    about += "; in a mean, a topic that its rows share is one, by the mean of its differences" * bool(means)
    if test != "randomisation" and any(line.effect.alike for side in sides for line in (*side.lines, *side.mean)):
        about += f"; where an interval is a point, {ALIKE}"
    return Difference(dict(zip(names, map(str, (a, *others)), strict=True)), sides, about, digits, shown)


def _corrected(groups: Sequence[list[Line]], correction: Correction) -> int:
    """Correct the lines of all groups together, in their places; gives how many tests they are."""
    p_values = [line.p for lines in groups for line in lines]
    corrected = iter(CORRECTIONS[correction](p_values))
    for lines in groups:
        lines[:] = [replace(line, corrected=next(corrected)) for line in lines]
    return sum(not math.isnan(p) for p in p_values)


def _against(a: Results, b: Results, name: str, measures: Sequence[str], *, test: TestName, force: bool) -> Compared:
    joined = join((a, b), ("A", name), measures, force)
    lines: list[Line] = []
    equal: list[Line] = []
    left_out = list(joined.left_out)
    for keys, pair in joined.rows.items():
        mine, yours = pair
        x, y = mine.scores(a), yours.scores(b)
        stage = mine.rows[0]["stage"]
        if x is None or y is None:
            lines.append(Line(name, dict(keys), mine.value, yours.value, []))
            side, results = ("A", a) if x is None else (name, b)
            left_out.append(f"tests and topics: there is no per_query.csv of {side} beside {results.files[0]}")
            continue
        if stage != "final" and (x == y or (x, y) == (mine.scores(a, "final"), yours.scores(b, "final"))):
            left_out.append(f"{stage} (equal on both sides, or the final ranking itself)")
            continue  # no test for a correction to count
        if x.keys() != y.keys() and not force:
            _refuse_topics(mine.rows[0], x, y, _config(a, b))
        line = _line(name, keys, pair, (x, y), a, test)
        same = x == y and [row["experiment"] for row in mine.rows] == [row["experiment"] for row in yours.rows]
        (equal if same else lines).append(line)
    if lines and equal:
        names = dict.fromkeys(" ".join(line.keys[c] for c in _SYSTEM if c in line.keys) for line in equal)
        left_out.append(f"what is the same experiment on both sides: {'; '.join(names)}")
    lines = lines or equal
    odd = [line for line in lines if line.topics and math.isnan(line.p) and measured(line.keys["measure"])]
    if odd:
        names = dict.fromkeys(" ".join(line.keys[c] for c in (*_SYSTEM, "measure") if c in line.keys) for line in odd)
        left_out.append(
            f"no test, and in no mean (fewer than two topics, or a value that is no number): {'; '.join(names)}"
        )
    left_out += [*_other_topics(joined, a, b), *a.unfinished, *b.unfinished]
    final = [pair for keys, pair in joined.rows.items() if ("stage", "final") in keys]
    ranked = dict.fromkeys(
        (a.folders.get(mine.rows[0]["experiment"]), b.folders.get(yours.rows[0]["experiment"])) for mine, yours in final
    )
    alike = overlap.of((one, other) for one, other in ranked if one != other or len(ranked) == 1)
    return Compared(
        name,
        joined,
        lines,
        _means(name, lines, test),
        _config(a, b),
        _costs(a, b),
        alike,
        list(dict.fromkeys(left_out)),
    )


_SYSTEM = ("doc_lang", "retriever", "reranker")
_PARTS = ("dataset", "split", "query_lang", "doc_lang")


def _refuse_topics(
    row: Row, x: Mapping[str, float], y: Mapping[str, float], config: Mapping[str, tuple[list[str], list[str]]]
) -> NoReturn:
    odd = sorted(x.keys() ^ y.keys())
    differ = "; ".join(f"{key}: {', '.join(old)} -> {', '.join(new)}" for key, (old, new) in config.items())
    raise ConfigError(
        f"the sides score different topics ({len(odd)} only one of them has, such as {odd[0]!r}; {row['pair']}, "
        f"{row['measure']}); --force compares the common ones" + (f"\n  they differ in {differ}" if differ else "")
    )


def _line(
    name: str, keys: Keys, pair: Pair, scores: tuple[Mapping[str, float], Mapping[str, float]], a: Results, test: TestName
) -> Line:  # fmt: skip
    """A joined row with its test, over the topics that both sides have."""
    (mine, yours), (x, y) = pair, scores
    texts = a.query_texts(mine.rows[0]["experiment"])
    topics = [Topic(mine.rows[0]["pair"], q, x[q], y[q], texts.get(q, "")) for q in x if q in y]
    line = Line(name, dict(keys), mine.value, yours.value, topics)
    if topics and x.keys() != y.keys():
        line = replace(line, a=statistics.fmean(t.a for t in topics), b=statistics.fmean(t.b for t in topics))
    numbers = all(map(math.isfinite, [line.a, line.b, *(v for t in topics for v in (t.a, t.b))]))
    if not measured(mine.rows[0]["measure"]) or len(topics) < 2 or not numbers:
        return line
    found = sample([(1.0, {t.query_id: t.delta for t in topics})])
    return replace(line, effect=effect_of(found), p=p_value(found, test))


def _other_topics(joined: Joined, a: Results, b: Results) -> Iterator[str]:
    """What --force left out: topics that one side lacks."""
    odd: set[str] = set()
    for mine, yours in joined.rows.values():
        odd |= (mine.scores(a) or {}).keys() ^ (yours.scores(b) or {}).keys()
    if odd:
        few = ", ".join(sorted(odd)[:6]) + (", ..." if len(odd) > 6 else "")
        yield f"{many(len(odd), 'topic')} that only one side has ({few}); values are means over the common ones"


def _means(name: str, lines: Sequence[Line], test: TestName) -> list[Line]:
    """Over the language pairs and datasets of one system, measure and judgments: the mean of its rows, tested over topics.

    A topic that several rows share is one observation, also among wins, ties and losses.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Line]] = defaultdict(list)
    for line in lines:
        if line.keys["stage"] == "final" and not math.isnan(line.p):
            groups[tuple((c, v) for c, v in line.keys.items() if c not in _PARTS)].append(line)
    made = []
    for keys, rows in groups.items():
        if len(rows) < 2:
            continue
        parts = [
            {(line.keys.get("dataset"), line.keys.get("split"), t.query_id): t for t in line.topics} for line in rows
        ]
        found = sample([(1.0, {key: topic.delta for key, topic in part.items()}) for part in parts])
        a, b = statistics.fmean(line.a for line in rows), statistics.fmean(line.b for line in rows)
        shared = (
            [part[key] for part in parts if key in part] for key in dict.fromkeys(k for part in parts for k in part)
        )
        topics = [t[0]._replace(a=statistics.fmean(x.a for x in t), b=statistics.fmean(x.b for x in t)) for t in shared]
        mean = Line(name, {**dict(keys), "rows": str(len(rows))}, a, b, topics, effect_of(found), p_value(found, test))
        made.append(mean)
    return made


def _config(a: Results, b: Results) -> dict[str, tuple[list[str], list[str]]]:
    """The config keys in which the sides differ, where both have their configs."""
    sides = [
        [config for e in dict.fromkeys(row["experiment"] for row in side.rows) if (config := side.config(e))]
        for side in (a, b)
    ]
    found = {}
    for key in union([*sides[0], *sides[1]]) if all(sides) else []:
        old, new = (list(dict.fromkeys(config.get(key, DASH) for config in side)) for side in sides)
        a_set, b_set = ({"null" if v == DASH else v for v in values} for values in (old, new))
        if a_set != b_set:  # a key that is not there is as good as null
            found[key] = (old, new)
    return found


def _costs(a: Results, b: Results) -> dict[str, tuple[float, float]]:
    """What all steps of each side cost when they were made; empty where a side has no costs.csv."""
    sides = [side.costs().values() for side in (a, b)]
    if not all(sides):
        return {}
    sums = {c: [math.fsum(float(line.get(c) or 0) for line in side) for side in sides] for c in COSTS}
    return {c: (x, y) for c, (x, y) in sums.items() if x or y}
