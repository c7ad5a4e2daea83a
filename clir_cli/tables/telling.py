"""A difference as people read it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from clir_cli.tables import overlap
from clir_cli.tables.joining import SHARED
from clir_cli.tables.reading import DASH
from clir_cli.tables.rendering import interval, pipes, probability, signed

if TYPE_CHECKING:
    from clir_cli.tables.differences import Compared, Difference, Line


def text(found: Difference) -> str:
    return "\n".join([*_lines(found), ""])


def _lines(found: Difference) -> Iterator[str]:
    yield from (f"{name}: {source}" for name, source in found.sources.items())
    for side in found.sides:
        if len(found.sides) > 1:
            yield f"\n{side.name} against A"
        yield from _settings_said(side)
        yield ""
        yield _table_said(side, found.digits)
        yield from _topics_said(side, found.digits, found.shown)
        if side.costs:
            changes = [f"{c.replace('_', ' ')} {x:,.6g} -> {y:,.6g}" for c, (x, y) in side.costs.items()]
            yield f"costs of all steps when they were made: {'; '.join(changes)}"
        if ranks := side.overlap:
            yield (
                f"rankings: {ranks.top:.0%} of the first {overlap.TOP} documents in common, rank-biased overlap "
                f"{ranks.rank_biased:.2f} (p = 0.9), {ranks.topics} topics"
            )
        yield from (f"left out: {text}" for text in side.left_out)
    yield found.about


def _settings_said(side: Compared) -> Iterator[str]:
    """The columns and config keys that differ; a column whose config key stands there too is not said twice."""
    for column, (a, b) in side.joined.wholes.items():
        if column.replace("_", ".", 1) not in side.config and f"retrieve.{column}" not in side.config:
            yield f"  {column}: {a or DASH} -> {b or DASH}"
    for key, (old, new) in side.config.items():
        yield f"  {key}: {', '.join(old)} -> {', '.join(new)}"


def _table_said(side: Compared, digits: int) -> str:
    labels = _labels(side.lines)
    lines = []
    for line in [*side.lines, *side.mean]:
        found, e = line.record(), line.effect
        names = [line.keys.get(c) or DASH for c in labels]
        if "rows" in line.keys:
            names[next(i for i, c in enumerate(labels) if c not in line.keys)] = f"mean of {line.keys['rows']}"
        lines.append(
            [
                *names, f"{line.a:.{digits}f}", f"{line.b:.{digits}f}", f"{line.delta:+.{digits}f}",
                interval(e.low, e.high, digits), signed(e.d_z, 2), probability(line.corrected),
                f"{found['wins']}/{found['ties']}/{found['losses']}",
            ]
        )  # fmt: skip
    head = [*labels, "A", side.name, "delta", "95 % interval", "d_z", "p", "wins/ties/losses"]
    return pipes(head, lines, len(labels))


_SETTINGS = {"retrieve_query", "retrieve_doc", "llm", "rerank_query", "rerank_doc", "depth", "rerank_depth"}


def _labels(lines: Sequence[Line]) -> list[str]:
    """The columns that tell the lines apart; a setting only where the columns before it do not, among rerankings alone."""
    found: list[str] = []
    for column in SHARED:
        those = [line for line in lines if line.keys.get("reranker") != "none"] if "rerank_" in column else lines
        values = {line.keys.get(column) for line in those}
        known = {tuple(line.keys.get(c) for c in found) for line in those}
        more = {(*(line.keys.get(c) for c in found), line.keys.get(column)) for line in those}
        if column == "measure" or (len(values) > 1 and (column not in _SETTINGS or len(more) > len(known))):
            found.append(column)
    return found


def _topics_said(side: Compared, digits: int, shown: int | None) -> Iterator[str]:
    """The topics that gain and lose most in the main measure of the final ranking, with their texts."""
    lines = side.main
    topics = sorted((t for line in lines for t in line.topics), key=lambda t: -t.delta if t.delta == t.delta else 0)
    if shown == 0 or not any(t.delta for t in topics):
        return
    moved = [t for t in topics if t.delta] if shown is not None else topics
    if shown is not None and len(moved) > 2 * shown:
        moved = [t for t in moved[:shown] if t.delta > 0] + [t for t in moved[-shown:] if t.delta < 0]
    systems = [c for c in _labels(lines) if c not in {"measure", "query_lang", "doc_lang"}]
    of = {id(t): [line.keys.get(c) or DASH for c in systems] for line in lines for t in line.topics}
    several = len({t.pair for t in topics}) > 1
    texts = any(t.query for t in moved)
    head = [*systems, *(["pair"] if several else []), "topic", *(["query"] if texts else []), "A", side.name, "delta"]
    rows = [
        [
            *of[id(t)], *([t.pair] if several else []), t.query_id, *([_cut(t.query)] if texts else []),
            f"{t.a:.{digits}f}", f"{t.b:.{digits}f}", f"{t.delta:+.{digits}f}",
        ]
        for t in moved
    ]  # fmt: skip
    few = "" if len(moved) == len(topics) else f", {len(moved)} of {len(topics)} topics; --topics all shows the others"
    yield f"topics by change in {lines[0].keys['measure']}{few}:\n"
    yield pipes(head, rows, len(head) - 3)


def _cut(text: str, rest: int = 60) -> str:
    """A topic's text, as wide as a terminal leaves room for."""
    width = max(20, shutil.get_terminal_size((140, 24)).columns - rest)
    return text if len(text) <= width else text[: width - 1] + "…"
