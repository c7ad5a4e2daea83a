"""Published numbers, run again: a target's yaml says what was published where, and each number gets a verdict."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from clir_cli import compose
from clir_cli.errors import ClirError, ConfigError, DataError, MissingModel, many
from clir_cli.progress import say

if TYPE_CHECKING:
    from clir_cli.plan import Planned

FOLDER = "target"  # of configs/, and of a user's own
INDEX = "index:"  # index:documents, index:non_empty, index:terms: exact, in both directions
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
    why: str = ""


# Reading --------------------------------------------------------------------------------------------------------------


def names(config_dirs: Sequence[Path] = ()) -> dict[str, Path]:
    """name -> yaml of every target, clir's and the user's."""
    return compose.choices(FOLDER, config_dirs)


def read(path: Path) -> Target:
    """A target's yaml. ConfigError names file and key.

    `table` holds a head and rows. A column of the head that is a group or a dotted key is set to the row's value; the
    others are what is expected: measures, `index:documents`, `index:non_empty`, `index:terms`. `null`: not published.
    """
    import yaml

    def refused(said: str) -> ConfigError:
        return ConfigError(f"{path}: {said}")

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise refused(f"not a yaml file: {' '.join(str(error).split())}") from error
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


def reproduce(targets: Sequence[Target], root: Path, config_dirs: Sequence[Path] = ()) -> Iterator[Finding]:
    """Run what each target asks, its cells over shared steps, and judge its numbers one by one, in order."""
    for target in targets:
        if target.quoted:
            for row in target.rows:
                yield from (Finding(target, row, k, v, None, "quoted") for k, v in row.expected.items())
            continue
        say(f"{target.name}: {target.title}")
        yield from _run(target, root, config_dirs)


def _run(target: Target, root: Path, config_dirs: Sequence[Path]) -> Iterator[Finding]:
    from clir_cli import plan as plans
    from clir_cli.launchers import serial
    from clir_cli.store import Store

    cells: list[compose.Cell] = []
    places: list[range | ClirError] = []
    for row in target.rows:
        asked = [*target.overrides, *row.overrides, *_measures(row)]
        try:
            found = compose.cells(asked, multirun=True, config_dirs=config_dirs)
            places.append(range(len(cells), len(cells) + len(found)))
            cells += found
        except ClirError as error:
            places.append(error)
    plan = plans.resolved(plans.planned(cells, Store(root)))
    outcomes = serial.execute(plan)
    for row, place in zip(target.rows, places, strict=True):
        if isinstance(place, ClirError):
            errors: list[Exception] = [place]
            done = []
        else:
            done = [outcomes[i] for i in place]
            errors = [o.error for o in done if o.error is not None]
        for what, expected in row.expected.items():
            if errors:
                lacks = all(isinstance(error, MissingModel | DataError) for error in errors)
                why = str(errors[0]).splitlines()[0]
                yield Finding(target, row, what, expected, None, "missing" if lacks else "failed", why)
                continue
            read_one = _statistic if what.startswith(INDEX) else _measured
            try:
                got = [read_one(target, plan.cells[o.cell.number - 1], o.folder, what) for o in done]
            except ClirError as error:
                yield Finding(target, row, what, expected, None, "failed", str(error))
                continue
            yield judged(target, row, what, expected, math.fsum(got) / len(got))


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

COLUMNS = ("target", "what", "measure", "expected", "got", "tolerance", "verdict", "")


def _cells(finding: Finding) -> tuple[str, ...]:
    exact = finding.what.startswith(INDEX)
    shown: Callable[[float], str] = (lambda x: f"{x:.0f}") if exact else (lambda x: f"{x:.4f}")
    return (
        finding.target.name, " ".join(finding.row.overrides) or "-", finding.what, shown(finding.expected),
        "-" if finding.got is None else shown(finding.got), "exact" if exact else f"{finding.target.tolerance:g}",
        finding.verdict, finding.why,
    )  # fmt: skip


def about(target: Target) -> dict[str, Any]:
    """What a target is of, without its numbers run."""
    return {
        "target": target.name, "title": target.title, "numbers": sum(len(row.expected) for row in target.rows),
        "status": target.status, "source": target.source, "date": target.date, "note": target.note,
    }  # fmt: skip


def summary(findings: Sequence[Finding]) -> str:
    counts = {v: sum(f.verdict == v for f in findings) for v in get_args(Verdict)}
    return f"{many(len(findings), 'number')}: " + ", ".join(f"{n} {v}" for v, n in counts.items() if n)


def lines(findings: Sequence[Finding]) -> list[str]:
    from clir_cli.plan import aligned

    return [*aligned([COLUMNS, *map(_cells, findings)], right=(3, 4)), summary(findings)]


def markdown(findings: Sequence[Finding]) -> str:
    """A page with a table per target, its source and date."""
    parts = [f"# Published numbers, run again\n\n{summary(findings)}\n"]
    for target in dict.fromkeys(f.target.name for f in findings):
        mine = [f for f in findings if f.target.name == target]
        about = mine[0].target
        parts.append(f"## {target}: {about.title}\n\n{_origin(about)}\n")
        head = COLUMNS[1:]
        rows = [[cell.replace("|", "\\|") for cell in _cells(f)[1:]] for f in mine]
        parts.append("\n".join(["| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *rows)]) + "\n")
    return "\n".join(parts)


def page(findings: Sequence[Finding]) -> str:
    """The same as one HTML file."""
    parts = [f"<p>{html.escape(summary(findings))}</p>"]
    for target in dict.fromkeys(f.target.name for f in findings):
        mine = [f for f in findings if f.target.name == target]
        about = mine[0].target
        parts.append(f"<h2>{html.escape(target)}: {html.escape(about.title)}</h2><p>{html.escape(_origin(about))}</p>")
        head = "".join(f"<th>{name}</th>" for name in COLUMNS[1:])
        body = "".join(
            f'<tr class="{f.verdict}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(f)[1:]) + "</tr>"
            for f in mine
        )
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return _PAGE.format("\n".join(parts))


def _origin(target: Target) -> str:
    said = f"Source: {target.source} ({target.date}; {target.status})."
    return f"{said} {target.note}".strip()


def records(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [
        {
            "target": f.target.name, "overrides": list(f.row.overrides), "measure": f.what, "expected": f.expected,
            "got": f.got, "tolerance": f.target.tolerance, "verdict": f.verdict, "why": f.why, "source": f.target.source,
            "date": f.target.date, "status": f.target.status,
        }
        for f in findings
    ]  # fmt: skip


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Published numbers, run again</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: .5rem 0 2rem; }}
th, td {{ padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #8884; }}
td:nth-child(3), td:nth-child(4), td:nth-child(5) {{ text-align: right; font-variant-numeric: tabular-nums; }}
tr.FAIL, tr.failed {{ font-weight: 600; background: #d003; }}
tr.near {{ background: #d903; }}
tr.missing, tr.quoted {{ opacity: .7; }}
</style>
<h1>Published numbers, run again</h1>
{}
</html>
"""
