"""What a report is made of: rows, topic scores, costs, recall curves, settings and notes, from finished experiments.

A row is one experiment under one set of judgments. A group holds the rows whose topics can be compared: one dataset,
split, pair and set of judgments. A series is a row's final ranking or its first stage, score by topic.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from clir_cli import tables
from clir_cli.errors import ClirError, ConfigError, many
from clir_cli.experiment import read_rows
from clir_cli.files import read_json

Group: TypeAlias = tuple[str, str, str, str]  # dataset, split, pair, judgments

OWN = "own_first_stage"
DEPTHS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)  # where a recall curve has its points
MOST_CURVES = 48  # experiments with a recall curve, the best of every group first
MOST_NUMBERS = 400_000  # topic scores in the file, about 2 MB; the main measure and the best experiments first
MOST_TESTS = 4_000  # tests of one series against another
MOST_COLUMNS = 12  # experiments up to which every one has a column of its settings
TEXT = 300  # characters of a query that are shown
_TELLING = ("llm", "query_fields", "retrieve_query", "retrieve_doc", "rerank_query", "rerank_doc", "depth", "rerank_depth", "repeat")  # fmt: skip


class Cost(NamedTuple):
    """What an experiment takes from scratch: a step that others share counts whole in each of them."""

    calls: float = 0
    tokens: float = 0  # prompt and output
    seconds: float = 0
    usd: float | None = None  # None where no step has a price


class Test(NamedTuple):
    """A series against another: mean difference, its 95 % confidence interval, and p of the paired t-test."""

    difference: float
    low: float
    high: float
    p: float
    corrected: float  # by Holm over its family; p itself where nothing was corrected


@dataclass
class Row:
    number: int  # what it is called in tables and plots, from 1
    columns: Mapping[str, str]  # of metrics.csv
    group: Group
    folder: Path | None
    label: str = ""
    values: dict[str, float] = field(default_factory=dict)  # measure -> mean
    first: dict[str, float] = field(default_factory=dict)  # the same of its first stage
    topics: int = 0
    cost: Cost = field(default_factory=Cost)
    test: Test | None = None  # the main measure against the baseline
    recall: list[float] | None = None  # at DEPTHS

    @property
    def experiment(self) -> str:
        return self.columns["experiment"]

    @property
    def judgments(self) -> str:
        return self.columns["judgments"]


class Series(NamedTuple):
    label: str
    row: Row
    stage: str  # final or first_stage


@dataclass
class Report:
    rows: list[Row]
    measures: list[str]  # the main one first
    results: tables.Results
    baseline: str | None
    queries: dict[Group, dict[str, str]] = field(default_factory=dict)  # query_id -> text
    notes: list[tuple[str, list[Row]]] = field(default_factory=list)  # what manifests say, and of whom
    failed: list[Mapping[str, str]] = field(default_factory=list)  # rows of cells.csv
    left_out: list[str] = field(default_factory=list)
    total: Cost = field(default_factory=Cost)  # of all distinct steps together

    @property
    def main(self) -> str:
        return self.measures[0]

    def groups(self) -> dict[Group, list[Row]]:
        found: dict[Group, list[Row]] = defaultdict(list)
        for row in self.rows:
            found[row.group].append(row)
        return dict(found)

    def scores(self, series: Series, measure: str) -> Mapping[str, float]:
        """query_id -> value; empty where there are none, or where one is not a number."""
        found = self.results.scores.get((series.row.experiment, series.row.judgments, series.stage, measure), {})
        return found if all(map(math.isfinite, found.values())) else {}

    def series(self, group: Group) -> list[Series]:
        """What can be compared: every row, and the first stages that are no row themselves."""
        rows = [row for row in self.rows if row.group == group]
        found = [Series(row.label, row, "final") for row in rows]
        known = {self._content(series) for series in found}
        for row in rows:
            first = Series(f"first stage of {row.label}", row, "first_stage")
            content = self._content(first)
            if row.columns["reranker"] != "none" and content and content not in known:
                known.add(content)
                found.append(first)
        return found

    def _content(self, series: Series) -> tuple[tuple[str, float], ...]:
        return tuple(sorted(self.scores(series, self.main).items()))


def gather(sources: Sequence[Path], measure: str = "main", baseline: str | None = None) -> Report:
    """Everything that the experiments under `sources` left: experiment folders, sweep folders or metrics.csv files.

    `baseline`: own_first_stage, an experiment's label or the name of its folder; None: own_first_stage where there is a
    reranker. Raises ConfigError where there is nothing to show, or no such measure or baseline.
    """
    results = tables.read(sources)
    measures = _measures(results, measure)
    rows = _rows(results, measures)
    _name(rows, results)
    rows.sort(key=lambda row: (row.group, -row.values.get(measures[0], -math.inf)))
    for number, row in enumerate(rows, 1):
        row.number = number
    if baseline is None and any(row.columns["reranker"] != "none" for row in rows):
        baseline = OWN
    report = Report(rows, measures, results, baseline)
    _add_costs(report, sources)
    _add_tests(report)
    _add_recall(report)
    _add_queries(report)
    _add_notes(report, sources)
    return report


def _measures(results: tables.Results, asked: str) -> list[str]:
    """Every measure; first the one asked for, or the first of the first experiment."""
    found = list(dict.fromkeys(row["measure"] for row in results.rows))
    if asked != "main":
        from clir_cli.evaluation import parse_measures

        name = asked if asked in found else str(parse_measures([asked])[0])
        if name not in found:
            raise ConfigError(f"measure {name} was not evaluated; there are: {', '.join(found)}")
        found = [name, *(m for m in found if m != name)]
    return found


def _rows(results: tables.Results, measures: Sequence[str]) -> list[Row]:
    rows: dict[tuple[str, str], Row] = {}
    numbers = [line for line in results.rows if math.isfinite(float(line["value"]))]  # NaN stays a dash
    for line in numbers:
        key = line["experiment"], line["judgments"]
        if line["stage"] == "final":
            if key not in rows:
                group = (line["dataset"], line["split"], line["pair"], line["judgments"])
                rows[key] = Row(0, line, group, results.folders.get(key[0]))
            rows[key].values[line["measure"]] = float(line["value"])
            rows[key].topics = int(line["topics"])
    for line in numbers:
        if line["stage"] == "first_stage" and (row := rows.get((line["experiment"], line["judgments"]))):
            row.first[line["measure"]] = float(line["value"])
    if not rows:
        raise ConfigError("there are no final rankings among these results: nothing to report")
    return list(rows.values())


def _name(rows: Sequence[Row], results: tables.Results) -> None:
    """Short labels that tell the rows of a group apart: retriever+reranker, and what else differs."""
    alike: dict[tuple[Group, str], list[Row]] = defaultdict(list)
    for row in rows:
        reranker = row.columns["reranker"]
        row.label = row.columns["retriever"] + ("" if reranker == "none" else f"+{reranker}")
        alike[row.group, row.label].append(row)
    for twins in (found for found in alike.values() if len(found) > 1):
        columns = [c for c in _TELLING if len({row.columns[c] for row in twins}) > 1]
        for row in twins:
            said = [row.columns[c] if c == "llm" else f"{c}={row.columns[c]}" for c in columns]
            row.label += f" [{', '.join(said)}]" if said else ""
        counted = Counter(row.label for row in twins)
        for row in twins:
            if counted[row.label] > 1:
                differing = _differing([results.config(r.experiment) for r in twins])[:3]
                said = [f"{k}={results.config(row.experiment).get(k, '-')}" for k in differing]
                row.label += f" [{', '.join(said)}]" if said else f" [{row.experiment[-4:]}]"


def _differing(configs: Sequence[Mapping[str, str]]) -> list[str]:
    return [k for k in dict.fromkeys(k for c in configs for k in c) if len({c.get(k) for c in configs}) > 1]


# Costs ----------------------------------------------------------------------------------------------------------------


def _add_costs(report: Report, sources: Iterable[Path]) -> None:
    steps: dict[tuple[str, str], Mapping[str, str]] = {}
    for source in sources:
        for line in read_rows((source if source.is_dir() else source.parent) / "costs.csv"):
            steps[line["experiment"], line["step"]] = line
    by_experiment: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for (experiment, _), step in steps.items():
        by_experiment[experiment].append(step)
    shown = {row.experiment for row in report.rows}
    for row in report.rows:
        row.cost = _cost(by_experiment.get(row.experiment, []))
    report.total = _cost(list({line["step"]: line for e in shown for line in by_experiment.get(e, [])}.values()))
    if without := [row for row in report.rows if row.experiment not in by_experiment]:
        report.left_out.append(f"costs of {many(len(without), 'experiment')}: no costs.csv beside their metrics.csv")


def _cost(lines: Iterable[Mapping[str, str]]) -> Cost:
    lines = list(lines)

    def total(*columns: str) -> float:
        return math.fsum(float(line[c] or 0) for line in lines for c in columns)

    return Cost(
        total("calls_asked", "calls_answered_from_cache"),
        total("prompt_tokens", "output_tokens"),
        total("seconds"),
        total("usd") if any(line["usd"] for line in lines) else None,
    )


# Significance ---------------------------------------------------------------------------------------------------------


def _add_tests(report: Report) -> None:
    """The main measure of every row against the baseline; Holm over a group, as `clir table` over a column."""
    if report.baseline is None:
        return
    from clir_cli import significance

    chosen = _baseline_labels(report)
    for rows in report.groups().values():
        base = next((row for row in rows if row.label in chosen or _is_named(row, report.baseline)), None)
        made: list[tuple[Row, Test]] = []
        for row in rows:
            if report.baseline == OWN and row.columns["reranker"] == "none":
                continue
            against = Series("", row, "first_stage") if report.baseline == OWN else base and Series("", base, "final")
            if (
                against
                and row is not base
                and (test := test_of(report, Series("", row, "final"), against, report.main))
            ):
                made.append((row, test))
        for (row, test), corrected in zip(made, significance.holm([t.p for _, t in made]), strict=True):
            row.test = test._replace(corrected=corrected)


def _is_named(row: Row, baseline: str | None) -> bool:
    return baseline is not None and row.experiment.rpartition("/")[2] == baseline.rstrip("/").rpartition("/")[2]


def _baseline_labels(report: Report) -> set[str]:
    """The labels that the baseline means: its own, or nothing where it is a folder. ConfigError where it is neither."""
    labels = {row.label for row in report.rows}
    if report.baseline in labels:
        return {report.baseline}
    if report.baseline != OWN and not any(_is_named(row, report.baseline) for row in report.rows):
        raise ConfigError(
            f"baseline {report.baseline!r} is none of the experiments; there are: {OWN}, {', '.join(sorted(labels)[:20])}"
        )
    return set()


def test_of(report: Report, ours: Series, against: Series, measure: str) -> Test | None:
    """`ours` minus `against` over their topics; None where either has no scores or the topics differ."""
    from clir_cli import significance

    mine, other = report.scores(ours, measure), report.scores(against, measure)
    if not mine or mine.keys() != other.keys():
        return None
    a, b = list(mine.values()), [other[q] for q in mine]
    size, p = significance.effect(a, b), significance.paired_t_test(a, b)
    return Test(size.difference, size.low, size.high, p, p)


# Recall ---------------------------------------------------------------------------------------------------------------


def _add_recall(report: Report) -> None:
    """Recall of the final ranking at DEPTHS over the topics that count, for the best rows of every group."""
    queue = [list(rows) for rows in report.groups().values()]  # best first
    wanted: list[Row] = []
    while len(wanted) < MOST_CURVES and any(queue):
        wanted += [rows.pop(0) for rows in queue if rows]
    wanted, lacking = wanted[:MOST_CURVES], Counter[str]()
    known: dict[tuple[Group, Any], Mapping[str, set[str]] | str] = {}
    for row in wanted:
        relevant = _relevant(row, known)
        trec = row.folder and row.folder / "run.trec"
        if isinstance(relevant, str):
            lacking[relevant] += 1
        elif trec is None or not trec.is_file():
            lacking["no run.trec was found"] += 1
        else:
            topics = report.scores(Series("", row, "final"), report.main)
            row.recall = recall(trec, {q: relevant.get(q, set()) for q in topics})
    report.left_out += [f"recall by depth of {many(n, 'experiment')}: {why}" for why, n in lacking.items()]
    if len(report.rows) > len(wanted):
        report.left_out.append(f"recall by depth of all but the best {many(len(wanted), 'experiment')}")


def recall(trec: Path, relevant: Mapping[str, set[str]]) -> list[float]:
    """Mean recall at DEPTHS over the topics of `relevant`; a topic without relevant documents counts 0."""
    from clir_cli.store import read_lists

    found, lists = [0.0] * len(DEPTHS), read_lists(trec)
    for query, wanted in relevant.items():
        ranks = [rank for rank, doc in enumerate(lists.get(query, ()), 1) if doc in wanted]
        for i, depth in enumerate(DEPTHS):
            found[i] += sum(rank <= depth for rank in ranks) / len(wanted) if wanted else 0.0
    return [value / max(len(relevant), 1) for value in found]


def _relevant(row: Row, known: dict[tuple[Group, Any], Mapping[str, set[str]] | str]) -> Mapping[str, set[str]] | str:
    """query_id -> relevant doc_ids of the judgments that the row was evaluated with, or why there are none."""
    if row.folder is None or not (row.folder / "config.yaml").exists():
        return "no experiment folder was found beside their CSVs"
    from clir_cli import config
    from clir_cli.store import Store

    try:
        evaluated = read_json(row.folder / "manifest.json")["evaluated"]
        prints = next(e["qrels"] for e in evaluated if e["judgments"] == row.judgments)
        key = row.group, tuple(prints)
        if key not in known:
            dataset = config.built(config.load(row.folder / "config.yaml")).dataset
            store = Store(row.folder.absolute().parents[1])
            files = dataset.source("qrels", "", row.judgments).files
            if [store.prints.fingerprint(f) for f in files] != prints:
                known[key] = "the judgments have changed since"
            else:
                found: dict[str, set[str]] = defaultdict(set)
                for line in dataset.read_qrels(row.judgments):
                    if line.relevance > 0:
                        found[line.query_id].add(line.doc_id)
                known[key] = found
        return known[key]
    except (ClirError, OSError, StopIteration, KeyError, TypeError):
        return "their judgments could not be read again"


# Texts and notes ------------------------------------------------------------------------------------------------------


def _add_queries(report: Report) -> None:
    """The topics' texts, from the step that one experiment of the group has them in."""
    from clir_cli.views import read_queries

    for group, rows in report.groups().items():
        for row in rows:
            step = _step(row.folder, "topics")
            if step is not None and step.is_dir():
                found = {q.query_id: " | ".join(t for t in q.fields.values() if t.strip()) for q in read_queries(step)}
                report.queries[group] = {q: t[:TEXT] + "…" * (len(t) > TEXT) for q, t in found.items()}
                break
        else:
            report.left_out.append(f"query texts of {said(group)}: the step that held the topics is not there")


def _step(folder: Path | None, stage: str) -> Path | None:
    if folder is None or not (folder / "manifest.json").exists():
        return None
    steps = read_json(folder / "manifest.json")["steps"]
    found = next((step["folder"] for step in steps if step["stage"] == stage), None)
    return folder.absolute().parents[1] / found if found else None


def _add_notes(report: Report, sources: Iterable[Path]) -> None:
    notes: dict[str, list[Row]] = defaultdict(list)
    for row in report.rows:
        if row.folder is not None and (row.folder / "manifest.json").exists():
            for note in read_json(row.folder / "manifest.json").get("notes", []):
                notes[note].append(row)
    report.notes = list(notes.items())
    for source in sources:
        cells = read_rows((source if source.is_dir() else source.parent) / "cells.csv")
        report.failed += [cell for cell in cells if cell["status"] not in {"done", "cached"}]


def said(group: Group) -> str:
    dataset, split, pair, judgments = group
    return " ".join([dataset + (f"-{split}" if split else ""), pair, *([judgments] if judgments != "qrels" else [])])


# Settings -------------------------------------------------------------------------------------------------------------


def settings(report: Report) -> tuple[list[tuple[str, list[str]]], dict[str, str]]:
    """(keys that differ, with each experiment's value), and (keys that are the same everywhere)."""
    experiments = list(dict.fromkeys(row.experiment for row in report.rows))
    configs = [report.results.config(e) for e in experiments]
    if not all(configs):
        return [], {}
    differing = set(_differing(configs))
    keys = list(dict.fromkeys(k for c in configs for k in c))
    differs = [(k, [c.get(k, "") for c in configs]) for k in keys if k in differing]
    return differs, {k: configs[0][k] for k in keys if k not in differing}
