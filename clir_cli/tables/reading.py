"""What experiments and sweeps wrote, read back as texts and numbers."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeAlias

from clir_cli.errors import ConfigError, DataError, many

Row: TypeAlias = Mapping[str, str]  # a line of metrics.csv, with `pair` added

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
DASH = "-"


@dataclass(frozen=True)
class Results:
    """What experiments wrote: rows in the order of the files, scores by topic, and where each experiment lies."""

    rows: list[Row]
    folders: Mapping[str, Path]  # experiment -> its folder, where it was found
    files: tuple[Path, ...] = ()  # the metrics.csv files that were read
    unfinished: tuple[str, ...] = field(default=())  # of sweeps: how many of their cells are not there

    @cached_property
    def scores(self) -> Mapping[tuple[str, str, str, str], Mapping[str, float]]:
        """(experiment, judgments, stage, measure) -> query_id -> value, from the per_query.csv beside each metrics.csv."""
        found: dict[tuple[str, str, str, str], dict[str, float]] = defaultdict(dict)
        for path in self.files:
            if (beside := path.with_name("per_query.csv")).exists():
                for line in _read_csv(beside, PER_QUERY):
                    experiment, judgments, stage, query_id, measure, value = line.values()
                    found[experiment, judgments, stage, measure][query_id] = float(value)
        return found

    def topics(self, row: Row, stage: str | None = None) -> Mapping[str, float] | None:
        """A row's scores by query_id, or those of the same experiment at another stage; None where there are none."""
        return self.scores.get((row["experiment"], row["judgments"], stage or row["stage"], row["measure"]))

    def config(self, experiment: str) -> Mapping[str, str]:
        """The resolved config as dotted keys and texts; empty where no config.yaml was found."""
        folder = self.folders.get(experiment)
        return _flat_config(folder / "config.yaml") if folder else {}

    def value(self, row: Row, key: str) -> str | None:
        """A column of metrics.csv, `pair`, or a dotted key of the row's config."""
        return row[key] if key in row else self.config(row["experiment"]).get(key)

    def costs(self) -> Mapping[str, Row]:
        """step -> its line of costs.csv; a step that several experiments share stands there once."""
        found: dict[str, Row] = {}
        for path in self.files:
            if (beside := path.with_name("costs.csv")).exists():
                with beside.open(encoding="utf-8", newline="") as lines:
                    found |= {line["step"]: line for line in csv.DictReader(lines)}
        return found

    def query_texts(self, experiment: str) -> Mapping[str, str]:
        """query_id -> the topic's text in the query language, where the experiment's step of topics is still there."""
        folder = self.folders.get(experiment)
        return _query_texts(folder) if folder else {}


def read(sources: Iterable[str | Path]) -> Results:
    """The results of experiment folders, sweep folders or metrics.csv files; a row that stands in several counts once.

    per_query.csv and costs.csv are read where they lie beside metrics.csv. An experiment's config.yaml lies beside
    metrics.csv or in the folder that column `experiment` names, from the CSV's folder, one above it, or the current
    directory. Raises ConfigError where two files hold different values of one experiment.
    """
    rows: dict[tuple[str, ...], Row] = {}
    origin: dict[tuple[str, ...], Path] = {}
    folders: dict[str, Path] = {}
    unfinished: list[str] = []
    files = list(dict.fromkeys(map(_metrics, map(Path, sources))))
    for path in files:
        here: dict[str, None] = {}
        for line in _read_csv(path, COLUMNS):
            key = tuple(v for k, v in line.items() if k not in COUNTS)
            row = {**line, "pair": f"{line['query_lang']}-{line['doc_lang']}"}
            if (before := rows.setdefault(key, row)) != row:
                _refuse_stale(before, row, origin[key], path)
            origin.setdefault(key, path)
            here[line["experiment"]] = None
        for experiment in here:
            named = [base / experiment for base in [path.parent, *path.absolute().parents[1:5], Path()]]
            near = [path.parent] if len(here) == 1 else []
            if found := [folder for folder in [*near, *named] if (folder / "config.yaml").exists()]:
                folders.setdefault(experiment, found[0])
        unfinished += _unfinished(path.with_name("cells.csv"))
    if not rows:
        raise ConfigError("nothing to show: name experiment folders, sweep folders or metrics.csv files that hold rows")
    return Results(list(rows.values()), folders, tuple(files), tuple(unfinished))


def _metrics(source: Path) -> Path:
    """The metrics.csv that is meant by a folder or a file."""
    path = source / "metrics.csv" if source.is_dir() else source
    if path.is_file():
        return path
    below = sorted(source.glob("*/metrics.csv")) if source.is_dir() else []
    if below:
        raise ConfigError(
            f"{path} is not a file; {many(len(below), 'folder in it holds one: name it', 'folders in it hold one: name them')}, e.g. {source}/*"
        )
    if (source / "config.yaml").exists() or (source / "cells.csv").exists():
        raise ConfigError(f"{path} is not a file: {source} is not complete; give its `clir run` again")
    raise ConfigError(f"{path} is not a file; name an experiment folder, a sweep folder or a metrics.csv")


def _refuse_stale(one: Row, other: Row, first: Path, second: Path) -> None:
    differing = [k for k in COUNTS if one[k] != other[k]]
    said = "; ".join(f"{k} {one[k]} and {other[k]}" for k in differing)
    raise ConfigError(
        f"{one['experiment']}: two states of {one['measure']} at stage {one['stage']} ({said})\n"
        f"  in {first} and {second}: evaluated again since? Name only the newer"
    )


def _unfinished(cells: Path) -> Iterator[str]:
    """What a sweep's cells.csv says of cells that have no results."""
    if not cells.exists():
        return
    with cells.open(encoding="utf-8", newline="") as lines:
        states = [line.get("status") or "" for line in csv.DictReader(lines)]
    lacking = [state for state in states if state not in {"done", "cached"}]
    if lacking:
        counts = ", ".join(f"{lacking.count(state)} {state or 'without a status'}" for state in dict.fromkeys(lacking))
        yield f"{cells.parent.name}: {counts} of {len(states)} cells are not shown"


def _read_csv(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The lines of a CSV file as texts, in the order of `columns`; `value` is a number."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            head = next(reader, [])
            if missing := [column for column in columns if column not in head]:
                raise DataError(f"{path}:1: the columns {', '.join(missing)} are missing")
            places = [(column, head.index(column)) for column in columns]
            value = head.index("value")
            for fields in reader:
                if len(fields) != len(head):
                    raise DataError(f"{path}:{reader.line_num}: expected {len(head)} fields, got {len(fields)}")
                if not _is_number(fields[value]):
                    raise DataError(f"{path}:{reader.line_num}: expected a number as value, got {fields[value]!r}")
                yield {column: fields[place] for column, place in places}
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
            if key == "names" and (quirk := value.get("quirk", "none")) != "none":
                yield "quirk", quirk if isinstance(quirk, str) else "+".join(map(str, quirk))
            if key in {"names", "labels"}:  # decoration: what they name stands beside them
                continue
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, bool) or node is None:
        yield prefix, {True: "true", False: "false", None: "null"}[node]
    else:
        yield prefix, str(node)


@cache
def _query_texts(folder: Path) -> Mapping[str, str]:
    from clir_cli.files import read_json
    from clir_cli.views import read_queries

    if not (folder / "manifest.json").exists():
        return {}
    made = [step["folder"] for step in read_json(folder / "manifest.json")["steps"] if step["stage"] == "topics"]
    places = [folder.absolute().parents[1] / name for name in made]
    queries = [query for place in places if (place / "queries.jsonl").exists() for query in read_queries(place)]
    return {query.query_id: " ".join(" ".join(query.fields.values()).split()) for query in queries}


# What rows have and differ in ------------------------------------------------------------------------------------------


def spelled(measure: str, rows: Iterable[Row]) -> str:
    """The measure as the rows spell it; aliases such as MAP are understood. ConfigError where no row has it."""
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


def differing(results: Results, rows: Sequence[Row]) -> str:
    """The columns, and the config keys, whose values differ among the rows."""
    columns = [k for k in rows[0] if k not in ("experiment", "pair", *COUNTS) and len({row[k] for row in rows}) > 1]
    configs = [results.config(e) for e in dict.fromkeys(row["experiment"] for row in rows)]
    keys = [k for k in union(configs) if len({c.get(k, "null") for c in configs}) > 1] if all(configs) else []
    parts = [f"{k} ({', '.join(list(dict.fromkeys(row[k] or DASH for row in rows))[:4])})" for k in columns]
    parts += [f"{k} ({', '.join(list(dict.fromkeys(c.get(k, DASH) for c in configs))[:4])})" for k in keys[:8]]
    experiments = ", ".join(dict.fromkeys(row["experiment"] for row in rows))
    return "; ".join(parts) or f"nothing that is recorded: {experiments}"


def union(configs: Iterable[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for config in configs for key in config))
