"""The report as one HTML file: tables that stand without a script, and the numbers that page.js draws."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from clir_cli import __version__, provenance
from clir_cli.report.gather import (
    DEPTHS,
    MOST_COLUMNS,
    MOST_NUMBERS,
    MOST_TESTS,
    OWN,
    Report,
    Row,
    Test,
    said,
    settings,
    test_of,
)

MOST_TICKED = 6  # curves that the recall plot shows at first; page.js allows 8
_FACETS = {"pair": "Pair", "retriever": "Retriever", "reranker": "Reranker", "judgments": "Judgments"}
_MORE = {
    "dataset": "dataset", "split": "split", "llm": "LLM", "query_fields": "query fields", "retrieve_query": "query seen by 1st stage",
    "retrieve_doc": "document seen by 1st stage", "rerank_query": "query seen by reranker", "rerank_doc": "document seen by reranker",
    "depth": "depth", "rerank_depth": "rerank depth", "repeat": "repeat",
}  # fmt: skip


def page(report: Report, title: str) -> str:
    """The whole file. Everything from experiments is escaped, and no script but page.js is allowed to run."""
    script, style, data = _file("page.js"), _file("page.css"), _data(report)  # the data first: it says what is left out
    parts = {
        "title": escape(title),
        "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": style,
        "facts": _facts(report),
        "results": _results(report),
        "matrix": _matrix(report),
        "settings": _settings(report),
        "notes": _notes(report),
        "made": escape(f"clir {__version__}, {provenance.now()[:16].replace('T', ' ')} UTC"),
        "data": data,
        "script": script,
    }
    html = _file("page.html")
    pieces = html.split("@@")  # text, name, text, name, ..., text: what is filled in is not looked at again
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _file(name: str) -> str:
    return (resources.files(__package__ or "clir_cli.report") / name).read_text(encoding="utf-8")


# Numbers --------------------------------------------------------------------------------------------------------------


def _value(number: float | None, digits: int = 4) -> str:
    return "–" if number is None else f"{number:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _signed(number: float) -> str:
    return "NaN" if math.isnan(number) else f"{number:+.4f}".replace("-", "\N{MINUS SIGN}")


def _p(p: float) -> str:
    return "p<0.001" if p < 0.001 else f"p={p:.3f}"


def _count(number: float) -> str:
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _seconds(number: float) -> str:
    return _count(number) if number >= 100 else f"{number:.1f}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# Tables ---------------------------------------------------------------------------------------------------------------


def _cell(text: str, sort: float | None = None, tag: str = "td", kind: str = "", more: str = "") -> str:
    """A cell; one with a number has it in data-v, unrounded, by which it is sorted."""
    number = "" if sort is None else f' data-v="{sort:.10g}"'
    names = " ".join(c for c in ("n" if sort is not None or kind == "n" else "", "" if kind == "n" else kind) if c)
    return f"<{tag}{f' class={chr(34)}{names}{chr(34)}' if names else ''}{number}{more}>{text}</{tag}>"


def _head(columns: Iterable[tuple[str, str, str]]) -> str:
    """Columns of (name, unit or explanation, class) as buttons that sort."""
    cells = [
        f'<th scope="col"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}><button type="button" class="sort"'
        f"{f' title={chr(34)}{escape(hint)}{chr(34)}' if hint else ''}>{escape(name)}</button></th>"
        for name, hint, kind in columns
    ]
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _facts(report: Report) -> str:
    groups, experiments = report.groups(), {row.experiment for row in report.rows}
    pairs, datasets = {g[2] for g in groups}, {g[0] for g in groups}
    topics = {row.topics for row in report.rows}
    range_ = f"{min(topics)}" if len(topics) == 1 else f"{min(topics)} to {max(topics)}"
    spent = [f"{_seconds(report.total.seconds)} s of work"]
    if report.total.calls:
        spent += [f"{_count(report.total.calls)} LLM calls", f"{_count(report.total.tokens)} tokens"]
    if report.total.usd is not None:
        spent.append(f"${report.total.usd:.2f}")
    facts = [
        ("Experiments", _plural(len(experiments), "experiment")),
        ("Collections", ", ".join(sorted(datasets)[:4]) + (f" and {len(datasets) - 4} more" if len(datasets) > 4 else "")),
        ("Pairs (query-documents)", ", ".join(sorted(pairs)[:6]) + (f" and {len(pairs) - 6} more" if len(pairs) > 6 else "")),
        ("Topics counted", range_),
        ("Main measure", report.main),
        ("Spent, shared steps once", ", ".join(spent)),
    ]  # fmt: skip
    return "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)


def _results(report: Report) -> str:
    """Experiments x measures, with what differs among them, their costs and their tests."""
    rows = report.rows
    differing = [c for c in _MORE if len({row.columns[c] for row in rows}) > 1]
    facets = [c for c in _FACETS if len({row.columns[c] for row in rows}) > 1]
    shown = [c for c in ("pair", "judgments") if c in facets]
    usd, calls, tested = (
        any(row.cost.usd is not None for row in rows),
        any(row.cost.calls for row in rows),
        any(row.test for row in rows),
    )
    columns = [
        ("#", "number in the plots", "n"),
        ("experiment", "", "name"),
        *((_FACETS[c].lower(), "", "") for c in shown),
    ]
    columns += [(m, "mean over topics", "n") for m in report.measures]
    if tested:
        columns.append((f"Δ {report.main}", _against(report), "n"))
    columns += [("calls", "LLM calls", "n"), ("tokens", "prompt and output", "n")] if calls else []
    columns += [("seconds", "of work from scratch, shared steps included", "n"), *([("US$", "", "n")] if usd else [])]
    columns += [("topics", "that count", "n"), *((_MORE[c], "", "more") for c in differing)]
    best = _best(report)
    body = []
    ticked = _ticked(report)
    for row in rows:
        box = (
            f'<input type="checkbox" value="{row.number}"{" checked" if row.number in ticked else ""}'
            f' aria-label="recall curve of {escape(row.label, True)}, {escape(row.columns["pair"], True)}">'
            if row.recall
            else ""
        )
        cells = [
            _cell(f"<label>{box}{row.number}</label>", row.number),
            _cell(
                escape(row.label), tag="th", kind="name", more=f' scope="row" title="{escape(row.experiment, True)}"'
            ),
        ]
        cells += [_cell(escape(row.columns[c])) for c in shown]
        for measure in report.measures:
            value = row.values.get(measure)
            cells.append(_cell(_marked(row, measure, value, best), value, kind="n"))
        if tested:
            cells.append(_cell(_difference(row.test), row.test.difference if row.test else None, kind="n"))
        if calls:
            cells += [_cell(_count(row.cost.calls), row.cost.calls), _cell(_count(row.cost.tokens), row.cost.tokens)]
        cells.append(_cell(_seconds(row.cost.seconds), row.cost.seconds))
        if usd:
            cells.append(_cell(_value(row.cost.usd, 2), row.cost.usd, kind="n"))
        cells += [_cell(str(row.topics), row.topics), *(_cell(escape(row.columns[c]), kind="more") for c in differing)]
        data = "".join(f' data-{c}="{escape(row.columns[c], True)}"' for c in facets)
        body.append(f"<tr{data}>{''.join(cells)}</tr>")
    options = "".join(
        f'<label>{_FACETS[c]} <select data-facet="{c}"><option value="">all</option>'
        + "".join(f"<option>{escape(v)}</option>" for v in sorted({row.columns[c] for row in rows}))
        + "</select></label>"
        for c in facets
    )
    same = [f"{name}: {rows[0].columns[c]}" for c, name in _MORE.items() if c not in differing and rows[0].columns[c] not in {"", "none", "0"}]  # fmt: skip
    family = f"<p>{escape(_family(report))}</p>" if tested else ""
    return (
        f'<div class="controls"><label>Search <input type="search" data-filter="results" placeholder="words, or nDCG@10&gt;0.5"></label>{options}'
        f'<output data-count="results">{_plural(len(rows), "row")}</output></div>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Results"><table id="results">{_head(columns)}'
        f"<tbody>{''.join(body)}</tbody></table></div>"
        f'<div class="caption"><p>Best of each pair in <b>bold</b>. The same everywhere: {escape("; ".join(same))}.</p>{family}</div>'
    )


def _best(report: Report) -> Mapping[tuple[Any, str], float]:
    """(group, measure) -> the highest value, where there are several."""
    return {
        (group, m): max(values)
        for group, rows in report.groups().items()
        if len(rows) > 1
        for m in report.measures
        if (values := [row.values[m] for row in rows if m in row.values])
    }


def _marked(row: Row, measure: str, value: float | None, best: Mapping[tuple[Any, str], float]) -> str:
    text = _value(value)
    return f"<b>{text}</b>" if value is not None and best.get((row.group, measure)) == value else text


def _difference(test: Test | None) -> str:
    if test is None:
        return "–"
    mark = "" if test.corrected >= 0.05 else " ▲" if test.difference > 0 else " ▼"
    hint = f"95 % interval {_signed(test.low)} to {_signed(test.high)}; uncorrected {_p(test.p)}"
    return f'<span title="{hint}">{_signed(test.difference)}{mark}</span> <small>{_p(test.corrected)}</small>'


def _against(report: Report) -> str:
    return "against the own first stage" if report.baseline == OWN else f"against {report.baseline}"


def _family(report: Report) -> str:
    sizes = [sum(row.test is not None for row in rows) for rows in report.groups().values()]
    tests = f"{min(sizes)} to {max(sizes)}" if min(sizes) != max(sizes) else str(sizes[0])
    return (
        f"Δ {report.main} {_against(report)}: two-sided paired t-test, p corrected by Holm over the {tests} tests of one "
        "pair and set of judgments; ▲ better, ▼ worse at p < 0.05."
    )


def _ticked(report: Report) -> set[int]:
    """The rows with curves that are shown at first: the best of each group in turn."""
    queue = [[row.number for row in rows if row.recall] for rows in report.groups().values()]
    found: list[int] = []
    while len(found) < MOST_TICKED and any(queue):
        found += [numbers.pop(0) for numbers in queue if numbers]
    return set(found[:MOST_TICKED])


def _matrix(report: Report) -> str:
    """The main measure, methods x pairs, where several pairs have the same methods; means over complete rows only."""
    groups = list(report.groups())
    if len(groups) < 2:
        return ""
    found: dict[str, dict[Any, Row]] = {}
    for row in report.rows:
        found.setdefault(row.label, {})[row.group] = row
    if len(found) == len(report.rows):
        return ""
    best = _best(report)
    lines = []
    for label, cells in found.items():
        values = [cells[g].values.get(report.main) for g in groups if g in cells]
        full = [v for v in values if v is not None]
        mean = sum(full) / len(full) if len(full) == len(groups) else None
        body = [
            _cell(_marked(cells[g], report.main, v, best), v, kind="n")
            if g in cells and (v := cells[g].values.get(report.main)) is not None
            else _cell("–", kind="n")
            for g in groups
        ]
        lines.append((mean, f'<tr>{_cell(escape(label), tag="th", kind="name", more=" scope=" + chr(34) + "row" + chr(34))}{"".join(body)}{_cell(_value(mean), mean, kind="n")}</tr>'))  # fmt: skip
    lines.sort(key=lambda line: -1.0 if line[0] is None else line[0], reverse=True)
    head = _head(
        [("method", "", "name"), *((said(g), "", "n") for g in groups), ("mean", "of complete rows only", "n")]
    )
    return (
        f'<section id="pairs"><h2>{escape(report.main)} by language pair</h2>'
        '<div class="controls"><label>Search <input type="search" data-filter="matrix"></label>'
        f'<output data-count="matrix">{_plural(len(lines), "row")}</output></div>'
        '<div class="scroll" tabindex="0" role="region" aria-label="By language pair">'
        f'<table id="matrix">{head}<tbody>{"".join(line for _, line in lines)}</tbody></table></div></section>'
    )


def _settings(report: Report) -> str:
    """The configs: what differs first, then what is the same everywhere."""
    differs, same = settings(report)
    if not differs and not same:
        return "<p>No config.yaml was found beside these results.</p>"
    experiments = list(dict.fromkeys(row.experiment for row in report.rows))
    numbers = {row.experiment: row.number for row in reversed(report.rows)}
    if len(experiments) <= MOST_COLUMNS:
        head = _head([("key", "", "name"), *((f"#{numbers[e]}", e, "") for e in experiments)])
        lines = [f"<tr>{_key(k)}{''.join(_cell(escape(v), kind='code') for v in values)}</tr>" for k, values in differs]
    else:
        head = _head([("key", "", "name"), ("values", "and how many experiments have them", "")])
        lines = [f"<tr>{_key(k)}{_cell(_counted(values), kind='code')}</tr>" for k, values in differs]
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Settings that differ">'
        f'<table id="differs">{head}<tbody>{"".join(lines)}</tbody></table></div>'
        if differs
        else "<p>Nothing: all experiments have the same settings.</p>"
    )
    rest = "".join(f"<tr>{_key(k)}{_cell(escape(v), kind='code')}</tr>" for k, v in same.items())
    return (
        f"<h3>What differs</h3>{table}<details><summary>The same everywhere: {_plural(len(same), 'key')}</summary>"
        f'<div class="scroll"><table><tbody>{rest}</tbody></table></div></details>'
    )


def _key(key: str) -> str:
    return _cell(f"<code>{escape(key)}</code>", tag="th", kind="name", more=' scope="row"')


def _counted(values: Sequence[str], most: int = 8) -> str:
    counts = Counter(values).most_common()
    parts = [f"{escape(value) or '(not there)'} <small>×{n}</small>" for value, n in counts[:most]]
    return ", ".join(parts) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def _notes(report: Report) -> str:
    parts = [f"<p>{escape(_policy(report))}</p>"]
    if report.left_out:
        parts.append(f"<h3>Left out</h3><ul>{''.join(f'<li>{escape(n)}</li>' for n in report.left_out)}</ul>")
    if report.notes:
        lines = [
            f"<li>{escape(note)} <small>({escape(_numbers(rows, len(report.rows)))})</small></li>"
            for note, rows in report.notes
        ]
        parts.append(f"<h3>From the manifests</h3><ul>{''.join(lines)}</ul>")
    if report.failed:
        lines = [
            f"<tr>{_cell(escape(c['cell']), kind='n')}{_cell(escape(c['overrides']), kind='code')}{_cell(escape(c['status']))}"
            f"{_cell(escape(c['error']))}</tr>"
            for c in report.failed
        ]
        head = _head(
            [("cell", "", "n"), ("overrides", "", ""), ("status", "", ""), ("first line of the error", "", "")]
        )
        parts.append(
            f"<h3>Cells without a result</h3><div class='scroll' tabindex='0' role='region' aria-label='Cells without a result'>"
            f"<table id='failed'>{head}<tbody>{''.join(lines)}</tbody></table></div>"
        )
    return "".join(parts)


def _numbers(rows: Sequence[Row], total: int) -> str:
    numbers = [f"#{row.number}" for row in rows]
    if len(numbers) == total:
        return "all"
    return ", ".join(numbers[:12]) + (f" and {len(numbers) - 12} more" if len(numbers) > 12 else "")


def _policy(report: Report) -> str:
    without = {row.columns["topics_without_relevant"] for row in report.rows} - {"0", ""}
    added = " Some topics have no relevant document; see the notes below." if without else ""
    return (
        "Means are over every topic that counts; a topic without results scores 0. Unjudged documents are not relevant; "
        f"Judged@k says how much of a ranking was judged. Topics without text or score are in no plot.{added}"
    )


# Data -----------------------------------------------------------------------------------------------------------------


def _data(report: Report) -> str:
    """What page.js draws, as JSON that is safe inside a script element."""
    numbers, groups = {id(row): i for i, row in enumerate(report.rows)}, []
    taken, left, tests = 0, 0, 0
    chosen: dict[tuple[int, str, str], list[int]] = {}
    series = {group: report.series(group) for group in report.groups()}
    order = {group: _topic_order(report, group) for group in series}
    queue = sorted(
        ((rank, mi, group, s) for group, of in series.items() for rank, s in enumerate(of) for mi in range(len(report.measures))),
        key=lambda item: (item[1], item[0]),
    )  # fmt: skip  # the main measure first, of each group the best first
    for _, mi, group, one in queue:
        scores = report.scores(one, report.measures[mi])
        if not scores:
            continue
        if taken + len(order[group]) > MOST_NUMBERS:
            left += 1
            continue
        taken += len(order[group])
        row = [round(scores[q] * 1e4) if q in scores else None for q in order[group]]
        chosen[numbers[id(one.row)], one.stage, report.measures[mi]] = row  # type: ignore[assignment]
    if left:
        report.left_out.append(f"topic scores of {left} rankings and measures: more than {MOST_NUMBERS:,} numbers")
    skipped = 0
    for group, of in series.items():
        kept = [s for s in of if (numbers[id(s.row)], s.stage, report.main) in chosen]
        made: dict[str, list[list[float]]] = {}
        for mi, measure in enumerate(report.measures):
            pairs = len(kept) * (len(kept) - 1) // 2
            if tests + pairs > MOST_TESTS:
                skipped += pairs
                continue
            tests += pairs
            made[str(mi)] = [
                [i, j, *(float(f"{x:.6g}") for x in (t.difference, t.low, t.high, t.p))]
                for i in range(len(kept))
                for j in range(i)
                if (t := test_of(report, kept[i], kept[j], measure)) and not math.isnan(t.low)
            ]
        groups.append({
            "name": said(group), "lang": group[2].partition("-")[0], "ids": order[group],
            "texts": [report.queries.get(group, {}).get(q, "") for q in order[group]],
            "series": [
                [numbers[id(s.row)], s.label, [chosen.get((numbers[id(s.row)], s.stage, m)) for m in report.measures]]
                for s in kept
            ],
            "tests": made,
        })  # fmt: skip
    if skipped:
        report.left_out.append(f"{skipped:,} of the tests between two chosen rankings: `clir diff` makes them")
    data = {
        "measures": report.measures,
        "depths": list(DEPTHS),
        "groups": groups,
        "rows": [
            {
                "n": row.number, "label": row.label, "group": said(row.group), "retriever": row.columns["retriever"],
                "reranker": row.columns["reranker"], "depth": int(row.columns["depth"] or 0),
                "values": [row.values.get(m) for m in report.measures], "cost": list(row.cost),
                "recall": row.recall and [round(v, 5) for v in row.recall],
            }
            for row in report.rows
        ],
    }  # fmt: skip
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _topic_order(report: Report, group: Any) -> list[str]:
    """The topics that any ranking of the group was scored on, in the order of their file."""
    known = dict.fromkeys(report.queries.get(group, {}))
    scored = dict.fromkeys(q for s in report.series(group) for q in report.scores(s, report.main))
    return [*(q for q in known if q in scored), *(q for q in scored if q not in known)]
