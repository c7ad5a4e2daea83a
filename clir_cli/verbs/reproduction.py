"""Published numbers, run again: a target's yaml says what was published where, and each number gets a verdict."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from clir_cli import __version__, compose
from clir_cli.errors import ClirError, ConfigError, MissingData, MissingModel, many
from clir_cli.files import read_yaml
from clir_cli.progress import say

if TYPE_CHECKING:
    from clir_cli.plan import Planned

FOLDER = "target"  # of configs/, and of a user's own
INDEX = "index:"  # index:documents, index:non_empty, index:terms: exact, in both directions
ADDRESS = re.compile(r'"?https?://[^\s"]*/([^\s"]*)"?')  # of a row's file: a table shows its name
NEAR = 10  # times the tolerance within which a number is near
Status: TypeAlias = Literal["verified", "secondary", "inferred"]
Verdict: TypeAlias = Literal["OK", "near", "FAIL", "unverified", "quoted", "missing", "failed"]
KEYS = {
    "title", "source", "date", "status", "quoted", "overrides", "stage", "judgments", "tolerance", "table", "note",
}  # fmt: skip


class Row(NamedTuple):
    """One line of a target's table: what is run, and what it should give. Comma lists are several cells, averaged."""

    overrides: tuple[str, ...]
    expected: Mapping[str, float]  # a measure, or INDEX and a statistic


@dataclass(frozen=True)
class Target:
    """What a source published."""

    name: str
    title: str
    source: str  # where the numbers were read: file and commit, or the paper's table
    date: str  # of that source, or the day on which it was read
    overrides: tuple[str, ...]
    rows: tuple[Row, ...]
    status: Status = "verified"  # secondary: told by somebody else; inferred: computed from what was told
    quoted: bool = False  # shown, not run: models that are no longer served, settings that were not published
    stage: str = "final"
    judgments: str | None = None  # which of several
    tolerance: float = 5e-5  # of a number printed with four decimals
    note: str = ""


class Finding(NamedTuple):
    """One expected number, and what became of it."""

    target: Target
    row: Row
    what: str
    expected: float
    got: float | None
    verdict: Verdict
    why: str = ""  # what is missing and how to get it, what went wrong, or what an unverified number would be
    folders: tuple[Path, ...] = ()  # the experiments that gave it


# Reading --------------------------------------------------------------------------------------------------------------


def names(config_dirs: Sequence[Path] = ()) -> dict[str, Path]:
    """name -> yaml of every target, clir's and the user's."""
    return compose.choices(FOLDER, config_dirs)


def read(path: Path) -> Target:
    """A target's yaml. ConfigError names file and key.

    `table` holds a head and rows. A column of the head that is a group or a dotted key is set to the row's value; the
    others are what is expected: measures, `index:documents`, `index:non_empty`, `index:terms`. `null`: not published.
    """

    def refused(said: str) -> ConfigError:
        return ConfigError(f"{path}: {said}")

    found = read_yaml(path)
    if not isinstance(found, dict) or not {"title", "source", "date", "table"} <= set(found):
        raise refused("a target says title, source, date and table")
    if unknown := sorted(set(found) - KEYS):
        raise refused(f"{', '.join(unknown)}: unknown; there are {', '.join(sorted(KEYS))}")
    table = found.pop("table")
    if not isinstance(table, list) or len(table) < 2 or not all(isinstance(row, list) for row in table):
        raise refused("table: a list of a head and at least one row, each a list")
    head, *lines = table
    rows = []
    for number, line in enumerate(lines, 1):
        if len(line) != len(head):
            raise refused(f"table, row {number}: {len(head)} columns are in the head, {len(line)} in the row")
        cells = dict(zip(map(str, head), line, strict=True))
        asked = tuple(f"{k}={_shown(v)}" for k, v in cells.items() if _is_override(k) and v is not None)
        expected = {k: v for k, v in cells.items() if not _is_override(k) and v is not None}
        if bad := [k for k, v in expected.items() if isinstance(v, bool) or not isinstance(v, int | float)]:
            raise refused(f"table, row {number}: {bad[0]} is {expected[bad[0]]!r}, expected a number or null")
        rows.append(Row(asked, {k: float(v) for k, v in expected.items()}))
    overrides = tuple(map(str, found.pop("overrides", ())))
    if found.get("status", "verified") not in ("verified", "secondary", "inferred"):
        raise refused(f"status: verified, secondary or inferred, not {found['status']!r}")
    found["date"] = found["date"].isoformat() if isinstance(found["date"], date) else str(found["date"])
    return Target(path.stem, overrides=overrides, rows=tuple(rows), **found)


def _shown(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _is_override(column: str) -> bool:
    return column in compose.GROUPS or (column.partition(".")[0] in compose.NODES and "." in column)


# Running --------------------------------------------------------------------------------------------------------------


def reproduce(
    targets: Sequence[Target], root: Path, config_dirs: Sequence[Path] = (), more: Sequence[str] = ()
) -> Iterator[list[Finding]]:
    """Each target's findings in the order of its table, as soon as what it asks was run.

    `more` are overrides for all targets, and stand for theirs of the same keys.
    """
    for target in targets:
        if target.quoted:
            yield [Finding(target, row, k, v, None, "quoted") for row in target.rows for k, v in row.expected.items()]
        else:
            say(f"{target.name}: {target.title}")
            yield list(_run(target, root, config_dirs, more))


def _run(target: Target, root: Path, config_dirs: Sequence[Path], more: Sequence[str]) -> Iterator[Finding]:
    from clir_cli import plan as plans
    from clir_cli.launchers import serial
    from clir_cli.store import Store

    cells: list[compose.Cell] = []
    places: list[range | ClirError] = []
    for row in target.rows:
        asked = [*target.overrides, *row.overrides, *_measures(row)]
        given = {text.partition("=")[0] for text in more}
        asked = [text for text in asked if text.partition("=")[0] not in given] + list(more)
        try:
            found = compose.cells(asked, multirun=True, config_dirs=config_dirs)
            places.append(range(len(cells), len(cells) + len(found)))
            cells += found
        except ClirError as error:
            places.append(error)
    plan = plans.resolved(plans.planned(cells, Store(root)))
    outcomes = serial.execute(plan)
    for row, place in zip(target.rows, places, strict=True):
        done = [] if isinstance(place, ClirError) else [outcomes[i] for i in place]
        errors = [place] if isinstance(place, ClirError) else [o.error for o in done if o.error is not None]
        faults = [error for error in errors if not isinstance(error, MissingModel | MissingData)]
        for what, expected in row.expected.items():
            if errors:
                yield Finding(
                    target, row, what, expected, None, "failed" if faults else "missing", str((faults or errors)[0])
                )
                continue
            read_one = _statistic if what.startswith(INDEX) else _measured
            try:
                got = [read_one(target, plan.cells[o.cell.number - 1], o.folder, what) for o in done]
            except ClirError as error:
                yield Finding(target, row, what, expected, None, "failed", str(error))
                continue
            found_in = tuple(o.folder for o in done if o.folder is not None)
            yield judged(target, row, what, expected, math.fsum(got) / len(got))._replace(folders=found_in)


def _measures(row: Row) -> list[str]:
    wanted = [name for name in row.expected if not name.startswith(INDEX)]
    return [f"evaluate.measures=[{','.join(f'{chr(39)}{name}{chr(39)}' for name in wanted)}]"] if wanted else []


def _measured(target: Target, item: Planned, folder: Path | None, what: str) -> float:
    """A measure of a finished experiment."""
    from clir_cli import evaluation
    from clir_cli.experiment import read_rows

    assert folder is not None
    (measure,) = evaluation.parse_measures([what])[:1]
    rows = [r for r in read_rows(folder / "metrics.csv") if r["stage"] == target.stage and r["measure"] == str(measure)]
    if target.judgments is not None:
        rows = [r for r in rows if r["judgments"] == target.judgments]
    if len(rows) != 1:
        said = ", ".join(sorted({r["judgments"] for r in rows})) or "none"
        raise ConfigError(
            f"{folder} has {len(rows)} values of {what} ({said}): the target's `judgments` must choose one"
        )
    return float(rows[0]["value"])


def _statistic(target: Target, item: Planned, folder: Path | None, what: str) -> float:
    """A number of the first stage's index of words, which must be one."""
    from clir_cli.text import lucene

    assert item.experiment is not None
    store = item.experiment.store
    found = [path for s in item.experiment.steps if s.stage == "index" and (path := store.folder(s)) is not None]
    found = [path / "lucene" for path in found if (path / "lucene").is_dir()]
    if len(found) != 1:
        raise ConfigError(f"{target.name}: {what} is of one Lucene index, and the experiment has {len(found)}")
    return float(lucene.statistics(found[0])[what.removeprefix(INDEX)])


def judged(target: Target, row: Row, what: str, expected: float, got: float) -> Finding:
    """OK within the tolerance, near within ten times it, else FAIL; statistics of an index are equal or not.

    A number that was not read at its source proves nothing, so its verdict is `unverified`, with the difference told.
    """
    tolerance = 0.0 if what.startswith(INDEX) else target.tolerance
    off = abs(got - expected)
    verdict: Verdict = "OK" if off <= tolerance * (1 + 1e-9) else "near" if off <= NEAR * tolerance else "FAIL"
    if target.status != "verified":
        return Finding(target, row, what, expected, got, "unverified", f"{verdict}; the source is {target.status}")
    return Finding(target, row, what, expected, got, verdict)


# Saying ---------------------------------------------------------------------------------------------------------------

COLUMNS = ("what", "measure", "published", "got", "difference", "tolerance", "verdict", "")
TITLE = "Published numbers, run again"
VERDICTS = {
    "OK": "within the tolerance; a number of an index is equal",
    "near": f"within {NEAR} times the tolerance",
    "FAIL": "beyond that",
    "unverified": "run, but what was published was not read at its source: it proves nothing",
    "quoted": "shown, not run",
    "missing": "not run: data or a model is not on this machine",
    "failed": "not run to its end: an error",
}


def _cells(finding: Finding) -> tuple[str, ...]:
    exact = finding.what.startswith(INDEX)
    digits = 0 if exact else 4
    got = ("-", "-")
    if finding.got is not None:
        got = (f"{finding.got:.{digits}f}", f"{finding.got - finding.expected:+.{digits}f}")
    return (
        ADDRESS.sub(r"\1", " ".join(finding.row.overrides)) or "-", finding.what, f"{finding.expected:.{digits}f}", *got,
        "exact" if exact else f"{finding.target.tolerance:g}", finding.verdict, finding.why.partition("\n")[0],
    )  # fmt: skip


def _grouped(findings: Sequence[Finding]) -> tuple[list[Finding], dict[tuple[Verdict, str], list[Finding]]]:
    """What was judged, and what has no number: by verdict and the reason's first line."""
    without: dict[tuple[Verdict, str], list[Finding]] = {}
    for finding in findings:
        if finding.got is None:
            without.setdefault((finding.verdict, finding.why.partition("\n")[0]), []).append(finding)
    return [f for f in findings if f.got is not None], without


def about(target: Target) -> dict[str, Any]:
    """What a target is of, without its numbers run."""
    return {
        "target": target.name, "title": target.title, "numbers": sum(len(row.expected) for row in target.rows),
        "status": target.status, "source": target.source, "date": target.date, "note": target.note,
    }  # fmt: skip


def summary(findings: Sequence[Finding]) -> str:
    counts = Counter(f.verdict for f in findings)
    return f"{many(len(findings), 'number')}: " + ", ".join(f"{counts[v]} {v}" for v in get_args(Verdict) if counts[v])


def section(findings: Sequence[Finding], quotes: bool) -> list[str]:
    """A target's lines: its title and source, a line per number, and what has none once per reason.

    `quotes`: numbers that are not run have their lines too.
    """
    from clir_cli.plan import aligned

    target = findings[0].target
    there, without = _grouped(findings)
    shown = [*there, *without.get(("quoted", ""), ())] if quotes else there
    out = [f"{target.name}: {target.title}", f"  source: {_source(target)}"]
    if not target.quoted:
        out.append(f"  settings: {_settings(target)}")
    if shown:
        out += [f"  {line}" for line in aligned([COLUMNS, *map(_cells, shown)], right=(2, 3, 4))]
    for (verdict, why), group in without.items():
        if verdict != "quoted":
            out += [f"  {len(group)} {verdict}: {why}", *(f"    {line.strip()}" for line in _more(group))]
        elif not quotes:
            out.append(f"  {len(group)} quoted, not run: clir reproduce {target.name} shows them")
    return out


def _more(group: Sequence[Finding]) -> list[str]:
    """What the reason says below its first line: mostly how to get what is missing."""
    return group[0].why.splitlines()[1:]


def overview(sections: Sequence[Sequence[Finding]]) -> list[str]:
    """A line per target with how many numbers got which verdict, and their sum."""
    from clir_cli.plan import aligned

    rows = [_counted(findings) for findings in sections]
    right = range(1, len(VERDICTS) + 2)
    return [*aligned([("target", "numbers", *VERDICTS), *rows], right), summary([f for s in sections for f in s])]


def _counted(findings: Sequence[Finding]) -> tuple[str, ...]:
    counts = Counter(f.verdict for f in findings)
    return (findings[0].target.name, str(len(findings)), *(str(counts[v]) if counts[v] else "." for v in VERDICTS))  # type: ignore[index]


def _source(target: Target) -> str:
    return f"{target.source} ({target.date}; {target.status})"


def _settings(target: Target) -> str:
    return " ".join(target.overrides) or "the defaults"


def _made() -> str:
    from clir_cli import provenance

    return f"clir {__version__}, {provenance.now()[:16].replace('T', ' ')} UTC"


def markdown(sections: Sequence[Sequence[Finding]]) -> str:
    """A page: how many numbers of each target got which verdict, then a table per target with its source and settings."""

    def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, ["---"] * len(head), *rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    everything = [f for findings in sections for f in findings]
    parts = [f"# {TITLE}\n\n{summary(everything)} ({_made()}).\n"]
    parts.append(table(("target", "numbers", *VERDICTS), [_counted(findings) for findings in sections]))
    parts.append("\n".join(f"- **{verdict}**: {meaning}" for verdict, meaning in VERDICTS.items()) + "\n")
    for findings in sections:
        about = findings[0].target
        said = [f"Source: {_source(about)}.", "" if about.quoted else f"Settings: `{_settings(about)}`", about.note]
        parts.append(f"## {about.name}: {about.title}\n\n" + "\n\n".join(filter(None, said)) + "\n")
        for (verdict, why), group in _grouped(findings)[1].items():
            if why:
                parts.append(f"{len(group)} {verdict}:\n\n" + "".join(f"    {line}\n" for line in [why, *_more(group)]))
        parts.append(table(COLUMNS[:-1], [_cells(f)[:-1] for f in findings]))
    return "\n".join(parts)


def page(sections: Sequence[Sequence[Finding]]) -> str:
    """The same as one HTML file; numbers that were not run are folded away."""
    escape = html.escape

    def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
        body = "".join(
            f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for kind, row in rows
        )
        titles = "".join(f"<th>{escape(name)}</th>" for name in head)
        return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"

    def numbers(group: Sequence[Finding]) -> str:
        return table(COLUMNS, [(f.verdict, [*map(escape, _cells(f)[:-1]), _where(f)]) for f in group])

    everything = [f for findings in sections for f in findings]
    parts = [f"<p>{escape(summary(everything))} ({escape(_made())})</p>"]
    links = [
        ("", [f'<a href="#{escape(name)}">{escape(name)}</a>', *counts]) for name, *counts in map(_counted, sections)
    ]
    parts.append(f'<div class="overview">{table(("target", "numbers", *VERDICTS), links)}</div>')
    parts.append("<dl>" + "".join(f"<dt>{v}</dt><dd>{escape(said)}</dd>" for v, said in VERDICTS.items()) + "</dl>")
    for findings in sections:
        about = findings[0].target
        there, without = _grouped(findings)
        parts.append(f'<h2 id="{escape(about.name)}">{escape(about.name)}: {escape(about.title)}</h2>')
        parts.append(f"<p>Source: {escape(_source(about))}.</p>")
        parts.append("" if about.quoted else f"<p>Settings: <code>{escape(_settings(about))}</code></p>")
        parts.append(f"<p>{escape(about.note)}</p>" if about.note else "")
        parts.append(numbers(there) if there else "")
        for (verdict, why), group in without.items():
            title = f"{len(group)} {verdict}" + (f": {escape(why)}" if why else "")
            more = f"<pre>{escape(chr(10).join(_more(group)))}</pre>" if _more(group) else ""
            parts.append(f"<details><summary>{title}</summary>{more}{numbers(group)}</details>")
    return _PAGE.format(title=TITLE, body="\n".join(parts))


def _where(finding: Finding) -> str:
    """The experiments that gave a number; of one that has none the reason stands above its table."""
    names = [f"{folder.parent.name}/{folder.name}" for folder in finding.folders]
    said = [finding.why] if finding.got is not None and finding.why else []
    return html.escape("; ".join([*said, *names[:1]]) + (f" and {len(names) - 1} more" if len(names) > 1 else ""))


def records(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [
        {
            "target": f.target.name, "overrides": list(f.row.overrides), "measure": f.what, "expected": f.expected,
            "got": f.got, "tolerance": 0.0 if f.what.startswith(INDEX) else f.target.tolerance, "verdict": f.verdict,
            "why": f.why, "experiments": [str(folder) for folder in f.folders], "source": f.target.source,
            "date": f.target.date, "status": f.target.status,
        }
        for f in findings
    ]  # fmt: skip


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: .5rem 0 1rem; }}
th, td {{ padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #8884; }}
:is(th, td):nth-child(3), :is(th, td):nth-child(4), :is(th, td):nth-child(5), .overview :is(th, td) + * {{ text-align: right; font-variant-numeric: tabular-nums; }}
dt {{ float: left; clear: left; width: 7rem; font-weight: 600; }}
dd {{ margin: 0 0 .2rem 7rem; }}
tr.FAIL, tr.failed {{ font-weight: 600; background: #d003; }}
tr.near {{ background: #d903; }}
tr.unverified, tr.missing, tr.quoted {{ opacity: .75; }}
h2 {{ margin-top: 2.5rem; }}
pre {{ white-space: pre-wrap; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""
