"""Tables and differences from metrics.csv, per_query.csv and config.yaml (columns: CONTRACT.md section 3)."""

from __future__ import annotations

import csv
import difflib
import html
import io
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from clir_cli.errors import ConfigError, DataError
from clir_cli.significance import EXACT, SAMPLES, TESTS, TestName, holm

Row: TypeAlias = Mapping[str, str]  # a line of metrics.csv, with `pair` added
Label: TypeAlias = tuple[str, ...]  # the values of the row keys, or of the column keys
Scores: TypeAlias = Mapping[tuple[str, ...], float]  # topic -> value; a topic is (dataset, split, pair, query_id)
Aggregate: TypeAlias = Literal["mean", "median"]
Correction: TypeAlias = Literal["holm", "none"]
Format: TypeAlias = Literal["markdown", "latex", "csv", "html"]

# fmt: off
COLUMNS = [
    "experiment",
    "dataset", "split", "judgments", "query_lang", "doc_lang", "query_fields",
    "retriever", "retrieve_query", "retrieve_doc",
    "reranker", "llm", "rerank_query", "rerank_doc",
    "depth", "rerank_depth", "repeat",
    "stage", "measure", "value", "topics", "topics_without_relevant",
]
# fmt: on
COUNTS = ("value", "topics", "topics_without_relevant")
PER_QUERY = ["experiment", "judgments", "stage", "query_id", "measure", "value"]
ALPHA = 0.05
DASH = "-"
AVERAGE: Label = ("mean",)
_TEST_NAMES = {
    "t": "two-sided paired t-test",
    "randomisation": f"two-sided paired randomisation test ({SAMPLES:,} flips, all up to {EXACT} topics)",
    "bootstrap": f"two-sided paired bootstrap test ({SAMPLES:,} resamples)",
}


# Reading ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """What experiments wrote: rows in the order of the files, scores by topic, and where each experiment lies."""

    rows: list[Row]
    scores: Mapping[
        tuple[str, str, str, str], Mapping[str, float]
    ]  # (experiment, judgments, stage, measure) -> query_id ->
    folders: Mapping[str, Path]  # experiment -> its folder, where it was found

    def config(self, experiment: str) -> Mapping[str, str]:
        """The resolved config as dotted keys and texts; empty where no config.yaml was found."""
        folder = self.folders.get(experiment)
        return _flat_config(folder / "config.yaml") if folder else {}

    def value(self, row: Row, key: str) -> str | None:
        """A column of metrics.csv, `pair`, or a dotted key of the row's config."""
        return row[key] if key in row else self.config(row["experiment"]).get(key)

    def topics(self, row: Row, stage: str | None = None) -> Mapping[str, float] | None:
        """A row's scores by query_id, or those of the same experiment at another stage; None where there are none."""
        return self.scores.get((row["experiment"], row["judgments"], stage or row["stage"], row["measure"]))


def read(sources: Iterable[str | Path]) -> Results:
    """The results of experiment folders, sweep folders or metrics.csv files; a row that stands in several counts once.

    per_query.csv is read where it lies beside metrics.csv. An experiment's config.yaml lies beside metrics.csv or in the
    folder that column `experiment` names, from the CSV's folder, one above it, or the current directory.
    """
    rows: dict[tuple[str, ...], Row] = {}
    scores: dict[tuple[str, str, str, str], dict[str, float]] = defaultdict(dict)
    folders: dict[str, Path] = {}
    for source in map(Path, sources):
        path = source / "metrics.csv" if source.is_dir() else source
        here: dict[str, None] = {}
        for line in _read_csv(path, COLUMNS):
            rows[tuple(line.values())] = {**line, "pair": f"{line['query_lang']}-{line['doc_lang']}"}
            here[line["experiment"]] = None
        if (beside := path.with_name("per_query.csv")).exists():
            for line in _read_csv(beside, PER_QUERY):
                experiment, judgments, stage, query_id, measure, value = line.values()
                scores[experiment, judgments, stage, measure][query_id] = float(value)
        for experiment in here:
            named = [base / experiment for base in [path.parent, *path.absolute().parents[1:5], Path()]]
            found = [
                folder
                for folder in [*([path.parent] if len(here) == 1 else []), *named]
                if (folder / "config.yaml").exists()
            ]
            if found:
                folders.setdefault(experiment, found[0])
    if not rows:
        raise ConfigError("nothing to show: name experiment folders, sweep folders or metrics.csv files that hold rows")
    return Results(list(rows.values()), scores, folders)


def _read_csv(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The lines of a CSV file as texts, in the order of `columns`; `value` is a number."""
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; name an experiment folder, a sweep folder or a metrics.csv")
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            head = next(reader, [])
            if missing := [column for column in columns if column not in head]:
                raise DataError(f"{path}:1: the columns {', '.join(missing)} are missing")
            for fields in reader:
                if len(fields) != len(head):
                    raise DataError(f"{path}:{reader.line_num}: expected {len(head)} fields, got {len(fields)}")
                line = dict(zip(head, fields, strict=True))
                if not _is_number(line["value"]):
                    raise DataError(f"{path}:{reader.line_num}: expected a number as value, got {line['value']!r}")
                yield {column: line[column] for column in columns}
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}:{reader.line_num + 1}: not a CSV file in UTF-8: {error}") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@cache
def _flat_config(path: Path) -> Mapping[str, str]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return dict(_flatten(yaml.load(path.read_text(encoding="utf-8"), loader)))


def _flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            if key in {"names", "labels"}:  # decoration: what they name stands beside them
                continue
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, bool) or node is None:
        yield prefix, {True: "true", False: "false", None: "null"}[node]
    else:
        yield prefix, str(node)


# Choosing and filling cells --------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    rows: list[Row]
    value: float
    sd: float | None = None  # over repeats
    n: int = 1


def table(
    sources: Iterable[str | Path],
    rows: Sequence[str],
    cols: Sequence[str],
    *,
    measure: str = "main",
    where: Sequence[str] = (),
    stage: str = "final",
    baseline: str | None = None,
    correction: Correction = "holm",
    agg: Aggregate | None = None,
    format: Format = "markdown",
    digits: int = 4,
    test: TestName = "t",
) -> str:
    """One measure of many experiments, `rows` against `cols`: columns of metrics.csv, `pair` or dotted config keys.

    `where` are `key=value`; several of one key mean any of them. `measure="main"` is the first of each experiment.
    `baseline` is `own_first_stage` or a row's label; marks say where a cell is significantly better or worse. Raises
    ConfigError for an unknown key and, without `agg`, for two values in one cell.
    """
    results = read(sources)
    keys = [*rows, *cols]
    kept = _chosen(results, keys, measure, where, stage)
    grid: dict[tuple[Label, Label], list[Row]] = defaultdict(list)
    for row in kept:
        at = [results.value(row, key) or DASH for key in keys]
        grid[tuple(at[: len(rows)]), tuple(at[len(rows) :])].append(row)
    cells = {at: _cell(results, at, found, agg) for at, found in grid.items()}
    left, top = list(dict.fromkeys(r for r, _ in cells)), list(dict.fromkeys(c for _, c in cells))
    measures = list(dict.fromkeys(row["measure"] for row in kept))
    if len(top) > 1 and len(measures) == 1:  # of complete rows only: a mean over other columns is not comparable
        for r in left:
            if all((r, c) in cells for c in top):
                parts = [cells[r, c] for c in top]
                cells[r, AVERAGE] = Cell(
                    [row for p in parts for row in p.rows], statistics.fmean(p.value for p in parts)
                )
        top.append(AVERAGE)
    notes = [_heading(measures, kept, agg, cells)]
    marks: dict[tuple[Label, Label], tuple[float, float]] = {}
    if baseline is not None:
        marks, said = _tested(
            results, cells, left, top, baseline=baseline, correction=correction, test=test, format=format
        )
        notes += said
    notes += _selection_warning(rows, left, kept)
    names = {c: " ".join(c) or ", ".join(measures) for c in top}
    return _RENDER[format](_Grid(list(rows), left, top, names, cells, marks, digits, notes))


def _chosen(results: Results, keys: Sequence[str], measure: str, where: Sequence[str], stage: str) -> list[Row]:
    """The rows of the wanted stage and measure that satisfy `where`."""
    wanted: dict[str, list[str]] = defaultdict(list)
    for condition in where:
        key, equals, value = condition.partition("=")
        if not equals:
            raise ConfigError(f"where {condition!r}: expected key=value, such as reranker=none")
        wanted[key].append(value)
    for key in [*keys, *wanted]:
        _check_key(results, key)
    kept = results.rows
    if "stage" not in keys and "stage" not in wanted:
        wanted["stage"] = [stage]
    if measure != "main":
        wanted["measure"] = [_spelled(measure, kept)]
    elif "measure" not in keys and "measure" not in wanted:
        main: dict[str, str] = {}
        for row in kept:
            main.setdefault(row["experiment"], row["measure"])
        kept = [row for row in kept if row["measure"] == main[row["experiment"]]]
    for key, values in wanted.items():
        there = list(dict.fromkeys(str(results.value(row, key)) for row in kept))
        kept = [row for row in kept if results.value(row, key) in values]
        if not kept:
            raise ConfigError(f"no row has {key}={' or '.join(values)}; there are: {', '.join(there[:20])}")
    return kept


def _check_key(results: Results, key: str) -> None:
    if key in results.rows[0]:
        return
    known = {name for experiment in results.folders for name in results.config(experiment)}
    if key not in known:
        near = difflib.get_close_matches(key, [*results.rows[0], *known], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        found = "a dotted key of the configs" if known else "(no config.yaml was found, so dotted keys are unknown)"
        raise ConfigError(f"{key!r} is neither a column of metrics.csv nor pair nor {found}{hint}")


def _spelled(measure: str, rows: Iterable[Row]) -> str:
    """The measure as the rows spell it; aliases such as MAP are understood."""
    there = list(dict.fromkeys(row["measure"] for row in rows))
    if measure in there:
        return measure
    from clir_cli.evaluation import parse_measures

    name = str(parse_measures([measure])[0])
    if name not in there:
        raise ConfigError(
            f"measure {name} was not evaluated; there are: {', '.join(there)}\n  clir evaluate --measures adds it"
        )
    return name


def _cell(results: Results, at: tuple[Label, Label], rows: Sequence[Row], agg: Aggregate | None) -> Cell:
    """One value of the rows of a cell: equal rows merge, repeats are averaged, other settings need `agg`."""
    distinct = list({tuple(v for k, v in row.items() if k != "experiment"): row for row in rows}.values())
    settings: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in distinct:
        settings[tuple(v for k, v in row.items() if k not in ("experiment", "repeat", *COUNTS))].append(row)
    twice = [group for group in settings.values() if len({row["repeat"] for row in group}) < len(group)]
    if agg is None and (len(settings) > 1 or twice):
        shown = " x ".join(" ".join(label) or "all" for label in at)
        raise ConfigError(
            f"{len(settings) if not twice else len(twice[0])} values in one cell ({shown}); they differ in "
            f"{_differing(results, twice[0] if twice and len(settings) == 1 else distinct)}\n"
            "  put one of these into rows or cols, choose with where, or average with agg=mean or median"
        )
    means = [statistics.fmean(float(row["value"]) for row in group) for group in settings.values()]
    if len(means) > 1:
        return Cell(list(rows), statistics.median(means) if agg == "median" else statistics.fmean(means))
    repeats = [float(row["value"]) for row in next(iter(settings.values()))]
    return Cell(distinct, means[0], statistics.stdev(repeats) if len(repeats) > 1 else None, len(repeats))


def _differing(results: Results, rows: Sequence[Row]) -> str:
    """The columns, and the config keys, whose values differ among the rows."""
    columns = [k for k in rows[0] if k not in ("experiment", "pair", *COUNTS) and len({row[k] for row in rows}) > 1]
    configs = [results.config(e) for e in dict.fromkeys(row["experiment"] for row in rows)]
    keys = [k for k in _union(configs) if len({c.get(k) for c in configs}) > 1] if all(configs) else []
    parts = [f"{k} ({', '.join(list(dict.fromkeys(row[k] or DASH for row in rows))[:4])})" for k in columns]
    parts += [f"{k} ({', '.join(list(dict.fromkeys(c.get(k, DASH) for c in configs))[:4])})" for k in keys[:8]]
    experiments = ", ".join(dict.fromkeys(row["experiment"] for row in rows))
    return "; ".join(parts) or f"nothing that is recorded: {experiments}"


def _union(configs: Iterable[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for config in configs for key in config))


# Testing ---------------------------------------------------------------------------------------------------------------


def _topic_scores(results: Results, rows: Sequence[Row], stage: str | None = None) -> Scores | None:
    """The scores behind a cell: repeats and settings averaged topic by topic, parallel topics over the pairs.

    Topics of several pairs are parallel where all pairs of a dataset have the same query ids; they are no independent
    samples, so their mean is one. None where a row has no scores.
    """
    sums: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        topics = results.topics(row, stage)
        if topics is None:
            return None
        for query_id, value in topics.items():
            sums[row["dataset"], row["split"], row["pair"], query_id].append(value)
    means = {topic: statistics.fmean(values) for topic, values in sums.items()}
    pairs: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for dataset, split, pair, query_id in means:
        pairs[dataset, split][pair].add(query_id)
    merged: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for (dataset, split, pair, query_id), mean in means.items():
        ids = list(pairs[dataset, split].values())
        parallel = len(ids) > 1 and all(other == ids[0] for other in ids)
        merged[(dataset, split, query_id) if parallel else (dataset, split, pair, query_id)].append(mean)
    return {topic: statistics.fmean(values) for topic, values in merged.items()}


def _tested(
    results: Results,
    cells: Mapping[tuple[Label, Label], Cell],
    left: Sequence[Label],
    top: Sequence[Label],
    *,
    baseline: str,
    correction: Correction,
    test: TestName,
    format: Format,
) -> tuple[dict[tuple[Label, Label], tuple[float, float]], list[str]]:
    """(corrected p, mean difference) of each tested cell, and what stands about it under the table."""
    base = None if baseline == "own_first_stage" else _row_named(baseline, left)
    marks: dict[tuple[Label, Label], tuple[float, float]] = {}
    family: dict[str, int] = {}
    odd = []
    for c in top:
        made: dict[tuple[Label, Label], tuple[float, float]] = {}
        for r in left:
            if (r, c) not in cells or r == base or (base is not None and (base, c) not in cells):
                continue
            rows = cells[r, c].rows
            if base is None and all(row["stage"] == "first_stage" or row["reranker"] == "none" for row in rows):
                continue  # it is its own first stage
            mine = _topic_scores(results, rows)
            other = (
                _topic_scores(results, rows, "first_stage")
                if base is None
                else _topic_scores(results, cells[base, c].rows)
            )
            if mine is None or other is None:
                raise ConfigError(
                    f"{' '.join(r)}: no scores by topic to test; per_query.csv must lie beside metrics.csv"
                )
            if mine.keys() != other.keys():
                odd.append(f"{' '.join(r)} x {' '.join(c)}")
                continue
            pairs = [(mine[topic], other[topic]) for topic in mine]
            a, b = [x for x, _ in pairs], [y for _, y in pairs]
            made[r, c] = TESTS[test](a, b), statistics.fmean(a) - statistics.fmean(b)
        corrected = holm([p for p, _ in made.values()]) if correction == "holm" else [p for p, _ in made.values()]
        marks |= {at: (p, delta) for (at, (_, delta)), p in zip(made.items(), corrected, strict=True)}
        family[" ".join(c) or "the column"] = len(made)
    sizes = set(family.values())
    size = f"{sizes.pop()}" if len(sizes) == 1 else ", ".join(f"{name} {n}" for name, n in family.items())
    against = "the row's own first stage" if base is None else " ".join(base)
    by = (
        f"Holm within a column, family of {size} tests"
        if correction == "holm"
        else f"no correction, {size} tests a column"
    )
    signs = "+/-" if format == "latex" else "▲/▼"
    said = [f"{signs} significantly better/worse than {against}: {_TEST_NAMES[test]}, p < {ALPHA}, {by}"]
    if odd:
        said.append(f"not tested, the baseline has other topics: {'; '.join(odd)}")
    return marks, said


def _row_named(name: str, left: Sequence[Label]) -> Label:
    """The row whose label is `name`, its values joined by a blank, comma or plus; or the only one with that value."""
    exact = [r for r in left if name in (" ".join(r), ",".join(r), "+".join(r))]
    found = exact or [r for r in left if name in r]
    if len(found) != 1:
        there = "; ".join(" ".join(r) for r in found or left)
        raise ConfigError(f"baseline {name!r} names {len(found)} rows; own_first_stage, or one of: {there}")
    return found[0]


def _heading(
    measures: Sequence[str], kept: Sequence[Row], agg: Aggregate | None, cells: Mapping[tuple[Label, Label], Cell]
) -> str:
    """What the numbers are."""
    parts = [", ".join(measures)]
    topics: dict[str, list[str]] = defaultdict(list)
    for row in kept:
        if row["topics"] not in topics[row["pair"]]:
            topics[row["pair"]].append(row["topics"])
    counts = dict.fromkeys("/".join(numbers) for numbers in topics.values())
    alike = len(counts) == 1
    parts.append(
        "topics: " + (next(iter(counts)) if alike else ", ".join(f"{p} {'/'.join(n)}" for p, n in topics.items()))
    )
    if repeats := sorted({cell.n for cell in cells.values() if cell.n > 1}):
        parts.append(f"mean ± standard deviation over n = {', '.join(map(str, repeats))} repeats")
    if agg:
        parts.append(f"{agg} of what shares a cell")
    return "; ".join(parts)


def _selection_warning(keys: Sequence[str], left: Sequence[Label], kept: Sequence[Row]) -> list[str]:
    """A note where rows are settings of one method: their best was chosen on the topics it is shown for."""
    methods: dict[Label, int] = defaultdict(int)
    for label in left:
        values = zip(keys, label, strict=True)
        methods[tuple(re.sub(r"\[.*\]$", "", value) for key, value in values if key in COLUMNS or key == "pair")] += 1
    dotted = ", ".join(key for key in keys if key not in COLUMNS and key != "pair")
    several = [" ".join(method) or dotted for method, n in methods.items() if n > 1]
    if not several:
        return []
    splits = ", ".join(dict.fromkeys(row["split"] or row["dataset"] for row in kept))
    return [
        f"rows are several settings of {'; '.join(several)}: the best of them is picked on the topics shown "
        f"({splits}), so it is too good: choose on other topics"
    ]


# Rendering -------------------------------------------------------------------------------------------------------------


class _Grid(NamedTuple):
    keys: list[str]
    left: list[Label]
    top: list[Label]
    names: Mapping[Label, str]
    cells: Mapping[tuple[Label, Label], Cell]
    marks: Mapping[tuple[Label, Label], tuple[float, float]]
    digits: int
    notes: list[str]

    def number(self, r: Label, c: Label) -> str:
        cell = self.cells.get((r, c))
        if cell is None or math.isnan(cell.value):
            return DASH
        sd = "" if cell.sd is None else f" ± {cell.sd:.{self.digits}f}"
        return f"{cell.value:.{self.digits}f}{sd}"

    def best(self, r: Label, c: Label) -> bool:
        """Whether the cell prints the highest value of a column of several."""
        values = [
            cell.value for other in self.left if (cell := self.cells.get((other, c))) and not math.isnan(cell.value)
        ]
        mine = self.cells.get((r, c))
        return bool(mine and len(values) > 1 and f"{mine.value:.{self.digits}f}" == f"{max(values):.{self.digits}f}")

    def sign(self, r: Label, c: Label) -> int:
        p, delta = self.marks.get((r, c), (1.0, 0.0))
        return 0 if p >= ALPHA else int(math.copysign(1, delta))

    def head(self) -> list[str]:
        return [*self.keys, *(self.names[c] for c in self.top)]


def _markdown(grid: _Grid) -> str:
    def cell(r: Label, c: Label) -> str:
        number = f"**{grid.number(r, c)}**" if grid.best(r, c) else grid.number(r, c)
        return number + {0: "", 1: "▲", -1: "▼"}[grid.sign(r, c)]

    lines = [[text.replace("|", "\\|") for text in [*r, *(cell(r, c) for c in grid.top)]] for r in grid.left]
    head = [text.replace("|", "\\|") for text in grid.head()]
    return _pipes(head, lines, len(grid.keys)) + "\n" + "\n\n".join(grid.notes) + "\n"


def _pipes(head: Sequence[str], lines: Sequence[Sequence[str]], texts: int) -> str:
    """A markdown table, padded to be read in a terminal; the first `texts` columns are left-aligned."""
    widths = [max(3, *(len(line[i]) for line in [head, *lines])) for i in range(len(head))]
    rule = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    padded = [
        [t.ljust(w) if i < texts else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True))]
        for line in [head, *lines]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]]) + "\n"


_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "\\": "\\textbackslash{}",
}
_TEX |= {"±": "$\\pm$", "▲": "$^{+}$", "▼": "$^{-}$", "<": "$<$", ">": "$>$"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)


def _latex(grid: _Grid) -> str:
    def cell(r: Label, c: Label) -> str:
        number = "--" if grid.number(r, c) == DASH else _tex(grid.number(r, c))
        number = f"\\textbf{{{number}}}" if grid.best(r, c) else number
        return number + {0: "", 1: "$^{+}$", -1: "$^{-}$"}[grid.sign(r, c)]

    lines = [" & ".join([*map(_tex, r), *(cell(r, c) for c in grid.top)]) + " \\\\" for r in grid.left]
    return "\n".join(
        [
            "% \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{{'l' * len(grid.keys)}{'r' * len(grid.top)}}}",
            "\\toprule",
            " & ".join(map(_tex, grid.head())) + " \\\\",
            "\\midrule",
            *lines,
            "\\bottomrule",
            "\\end{tabular}",
            *(f"\\\\ {_tex(note)}" for note in grid.notes),
            "",
        ]
    )


def _csv(grid: _Grid) -> str:
    """Unrounded; a column's standard deviations over repeats and corrected p-values stand beside it where there are any."""
    more = [
        (
            c,
            any((cell := grid.cells.get((r, c))) and cell.sd is not None for r in grid.left),
            any(at[1] == c for at in grid.marks),
        )
        for c in grid.top
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [
        [grid.names[c], *([f"{grid.names[c]} sd"] if sd else []), *([f"{grid.names[c]} p"] if p else [])]
        for c, sd, p in more
    ]
    writer.writerow([*grid.keys, *(name for group in names for name in group)])
    for r in grid.left:
        line: list[str] = [*r]
        for c, sd, p in more:
            cell = grid.cells.get((r, c))
            line.append(DASH if cell is None else repr(cell.value))
            if sd:
                line.append(DASH if cell is None or cell.sd is None else repr(cell.sd))
            if p:
                line.append(repr(grid.marks[r, c][0]) if (r, c) in grid.marks else DASH)
        writer.writerow(line)
    return out.getvalue()


def _html(grid: _Grid) -> str:
    def cell(r: Label, c: Label) -> str:
        number = f"<b>{grid.number(r, c)}</b>" if grid.best(r, c) else grid.number(r, c)
        return f"<td>{number}{({0: '', 1: '▲', -1: '▼'})[grid.sign(r, c)]}</td>"

    head = "".join(f"<th>{html.escape(name)}</th>" for name in grid.head())
    lines = [
        f"<tr>{''.join(f'<th>{html.escape(text)}</th>' for text in r)}{''.join(cell(r, c) for c in grid.top)}</tr>"
        for r in grid.left
    ]
    notes = [f"<p>{html.escape(note)}</p>" for note in grid.notes]
    return "\n".join(
        ["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>", *lines, "</tbody>", "</table>", *notes, ""]
    )


_RENDER = {"markdown": _markdown, "latex": _latex, "csv": _csv, "html": _html}


# Two sides -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """What B changed against A; `str()` is for people, `as_rows()` for machines."""

    text: str
    lines: list[dict[str, Any]]

    def __str__(self) -> str:
        return self.text

    def as_rows(self) -> list[dict[str, Any]]:
        """One dictionary per joined row: its keys, A, B, delta, p (corrected; None where untested), wins, ties, losses."""
        return self.lines


_WHOLE = ("dataset", "split", "query_lang", "doc_lang", "judgments", "depth", "rerank_depth")


def diff(
    a: str | Path,
    b: str | Path,
    *,
    test: TestName = "t",
    correction: Correction = "holm",
    digits: int = 4,
    force: bool = False,
) -> Difference:
    """B against A, two experiments, sweeps or metrics.csv files: what was set otherwise, what it changed, and where.

    Rows are joined within a stage on all columns but the experiment, the counts and those in which the sides differ as
    wholes. Raises ConfigError where topics, judgments or depths differ (unless `force`) and where no row has a partner.
    """
    sides = (read([a]), read([b]))
    joined, wholes = _joined(sides, force)
    made: list[dict[str, Any]] = []
    for keys, (mine, yours) in joined.items():
        x, y = sides[0].topics(mine), sides[1].topics(yours)
        if x is None or y is None:
            raise ConfigError(
                f"{mine['experiment']} and {yours['experiment']}: per_query.csv must lie beside metrics.csv"
            )
        if x.keys() != y.keys() and not force:
            odd = sorted(x.keys() ^ y.keys())
            raise ConfigError(
                f"the sides score different topics ({len(odd)} only one of them has, such as {odd[0]!r}; {mine['pair']}, "
                f"{mine['measure']}); --force compares the common ones"
            )
        common = [topic for topic in x if topic in y]
        deltas = {topic: y[topic] - x[topic] for topic in common}
        if mine["stage"] != "final" and (
            x == y or (x, y) == (sides[0].topics(mine, "final"), sides[1].topics(yours, "final"))
        ):
            continue  # a stage that is the same on both sides, or that is the final one: no test for Holm to count
        tested = bool(common) and not mine["measure"].startswith("Judged")
        made.append(
            {
                **dict(keys),
                "A": float(mine["value"]),
                "B": float(yours["value"]),
                "delta": float(yours["value"]) - float(mine["value"]),
                "p": TESTS[test]([y[t] for t in common], [x[t] for t in common]) if tested else math.nan,
                "wins": sum(d > 0 for d in deltas.values()),
                "ties": sum(d == 0 for d in deltas.values()),
                "losses": sum(d < 0 for d in deltas.values()),
                "topics": len(common),
            }
        )
    p_values = [line["p"] for line in made]
    for line, p in zip(made, holm(p_values) if correction == "holm" else p_values, strict=True):
        line["p"] = None if math.isnan(p) else p
    family = sum(line["p"] is not None for line in made)
    how = f"Holm over {family} tests" if correction == "holm" else f"not corrected, {family} tests"
    about = f"p: {_TEST_NAMES[test]} over topics, {how}; delta is B - A; wins are topics where B is better"
    text = "\n".join(
        [
            *_sides_said(sides, wholes),
            "",
            _diff_table(made, digits) + f"\n{about}",
            *_topics_said(sides, list(joined.values()), digits),
            *_overlap_said(sides, list(joined.values())),
            "",
        ]
    )
    return Difference(text, made)


def _joined(
    sides: tuple[Results, Results], force: bool
) -> tuple[dict[tuple[tuple[str, str], ...], tuple[Row, Row]], dict[str, tuple[str, str]]]:
    """The rows of both sides by the keys they share, and the columns in which the sides differ as wholes."""
    joined: dict[tuple[tuple[str, str], ...], tuple[Row, Row]] = {}
    wholes: dict[str, tuple[str, str]] = {}
    shared = [c for c in COLUMNS if c not in ("experiment", *COUNTS)]
    for stage in dict.fromkeys(row["stage"] for row in [*sides[0].rows, *sides[1].rows]):
        both = [[row for row in side.rows if row["stage"] == stage] for side in sides]
        if not all(both):
            continue
        differing: dict[str, tuple[str, str]] = {}
        for column in (c for c in shared if c != "measure"):
            found = [{row[column] for row in rows} for rows in both]
            if found[0] != found[1] and len(found[0]) == len(found[1]) == 1:
                differing[column] = (found[0].pop(), found[1].pop())
        plain = "none" in differing.get("reranker", ())  # a first stage against its reranking has one depth less
        refused = [c for c in _WHOLE if c in differing and not (c == "rerank_depth" and plain)]
        if refused and not force:
            said = "; ".join(f"{c}: A {differing[c][0] or DASH}, B {differing[c][1] or DASH}" for c in refused)
            raise ConfigError(
                f"the sides differ in topics, judgments or depth ({said}); --force compares them all the same"
            )
        wholes |= differing if stage == "final" else {}
        on = [c for c in shared if c not in differing]
        by_keys = [_by_keys(side, rows, on) for side, rows in zip(sides, both, strict=True)]
        joined |= {keys: (row, by_keys[1][keys]) for keys, row in by_keys[0].items() if keys in by_keys[1]}
    if not joined:
        said = "; ".join(
            f"{c}: A {', '.join(sorted(found[0]))}, B {', '.join(sorted(found[1]))}"
            for c in shared
            if (found := [{row[c] for row in side.rows} for side in sides])[0].isdisjoint(found[1])
        )
        raise ConfigError(f"no row of A has a partner in B{f'; they have nothing in common in {said}' if said else ''}")
    return joined, wholes


def _by_keys(side: Results, rows: Sequence[Row], on: Sequence[str]) -> dict[tuple[tuple[str, str], ...], Row]:
    found: dict[tuple[tuple[str, str], ...], Row] = {}
    for row in rows:
        keys = tuple((c, row[c]) for c in on)
        if (before := found.setdefault(keys, row))["value"] != row["value"]:
            raise ConfigError(
                f"two rows of one side have the same keys; they differ in {_differing(side, [before, row])}"
            )
    return found


def _sides_said(sides: tuple[Results, Results], wholes: Mapping[str, tuple[str, str]]) -> list[str]:
    """The columns and config keys in which the two sides differ."""
    lines = [
        f"{name}: {'  '.join(f'{c}={v[i] or DASH}' for c, v in wholes.items()) or '(no column differs)'}"
        for i, name in enumerate("AB")
    ]
    configs = [
        [c for e in dict.fromkeys(row["experiment"] for row in side.rows) if (c := side.config(e))] for side in sides
    ]
    for key in _union([*configs[0], *configs[1]]) if all(configs) else []:
        a, b = (list(dict.fromkeys(c.get(key, DASH) for c in side)) for side in configs)
        if set(a) != set(b):
            lines.append(f"  {key}: {', '.join(a)} -> {', '.join(b)}")
    return lines


def _diff_table(made: Sequence[Mapping[str, Any]], digits: int) -> str:
    numbers = ("A", "B", "delta", "p", "wins", "ties", "losses", "topics")
    labels = [
        k
        for k in COLUMNS
        if k == "measure" or (any(k in m for m in made) and k not in numbers and len({m.get(k) for m in made}) > 1)
    ]
    lines = []
    for m in made:
        p = DASH if m["p"] is None else "<0.0001" if m["p"] < 0.0001 else f"{m['p']:.4f}"
        counts = [f"{m['wins']}/{m['ties']}/{m['losses']}"]
        values = [f"{m['A']:.{digits}f}", f"{m['B']:.{digits}f}", f"{m['delta']:+.{digits}f}", p, *counts]
        lines.append([*(m.get(k, DASH) or DASH for k in labels), *values])
    return _pipes([*labels, "A", "B", "delta", "p", "wins/ties/losses"], lines, len(labels))


def _topics_said(sides: tuple[Results, Results], joined: Sequence[tuple[Row, Row]], digits: int) -> list[str]:
    """The five topics that gain and lose most in the main measure of the final ranking."""
    final = [(x, y) for x, y in joined if x["stage"] == "final"]
    final = [(x, y) for x, y in final if x["measure"] == final[0][0]["measure"]]
    several = len({x["pair"] for x, _ in final}) > 1
    deltas: list[tuple[float, str]] = []
    for x, y in final:
        old, new = sides[0].topics(x) or {}, sides[1].topics(y) or {}
        deltas += [(new[t] - old[t], f"{x['pair']} {t}" if several else t) for t in old if t in new]
    lines = []
    for name, found in (("gain", sorted(deltas, reverse=True)[:5]), ("lose", sorted(deltas)[:5])):
        shown = [f"{topic} {delta:+.{digits}f}" for delta, topic in found if (delta > 0) == (name == "gain") and delta]
        if shown:
            lines.append(f"topics that {name} most ({final[0][0]['measure']}): {', '.join(shown)}")
    return lines


def _overlap_said(sides: tuple[Results, Results], joined: Sequence[tuple[Row, Row]], depth: int = 10) -> list[str]:
    """How many of the first documents the two final rankings share, where both run.trec files are there."""
    shares = []
    pairs = {(x["experiment"], y["experiment"]) for x, y in joined if x["stage"] == "final"}
    for names in sorted(pairs):
        folders = [side.folders.get(name) for side, name in zip(sides, names, strict=True)]
        paths = [folder / "run.trec" for folder in folders if folder]
        if len(paths) == 2 and all(path.exists() for path in paths):
            shares += _overlap(paths[0], paths[1], depth)
    return (
        [f"the first {depth} documents: {statistics.fmean(shares):.0%} in common, {len(shares)} topics"]
        if shares
        else []
    )


def _overlap(a: Path, b: Path, depth: int) -> list[float]:
    from clir_cli.runs import cut, read_trec

    tops = [cut(read_trec(path), depth).groupby("query_id")["doc_id"].agg(set).to_dict() for path in (a, b)]
    return [
        len(tops[0].get(q, set()) & tops[1].get(q, set())) / max(len(tops[0].get(q, set())), len(tops[1].get(q, set())))
        for q in dict.fromkeys([*tops[0], *tops[1]])
    ]
