"""What was chosen: how it is written and said."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from clir_cli import experiment
from clir_cli.compose import Cell
from clir_cli.tables import choosing
from clir_cli.tables.cells import Part, part_of
from clir_cli.tables.choosing import Choice
from clir_cli.tables.reading import COLUMNS, PER_QUERY, Row, read
from clir_cli.tables.rendering import pipes
from clir_cli.tables.testing import Scores, scores

CSV = ["group", "setting", "fold", "role", "dataset", "split", "pair", "measure", "value", "topics", "chosen"]
Group: TypeAlias = str  # the values of the `by` axes; empty where one choice is made
Made: TypeAlias = Mapping[Group, Mapping[str, list[tuple[Cell, Path]]]]  # group -> setting -> cells, experiments


@dataclass(frozen=True)
class Request:
    """What is to be chosen, on which topics, and on which the choice is scored."""

    overrides: Sequence[str]
    select: str  # the measure
    on: Sequence[str] = ()  # overrides of the topics to choose on,
    report: Sequence[str] = ()  # and of those to report on;
    folds: int | None = None  # or neither: each fold is reported on, chosen on the others
    seed: int = 0
    by: Sequence[str] = ()  # axes that get a choice each, such as dataset.pair
    zips: Sequence[str] = ()
    config_dirs: Sequence[Path] = ()


@dataclass(frozen=True)
class Tuned:
    """The choice of one group."""

    group: Group
    dev: dict[str, float]  # setting -> its value on the topics it was chosen on; of folds, the mean over them
    chosen: dict[int, Choice]  # fold -> choice; fold 0 is the only one without folds
    test: Scores  # of the chosen settings only
    left_out: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)  # the experiments that were reported on
    fold_of: Mapping[choosing.Topic, int] = field(default_factory=dict)


# Writing ---------------------------------------------------------------------------------------------------------------


def write(folder: Path, tuned: Sequence[Tuned], groups: Made, measure: str) -> None:
    """tune.csv, and under tuned/ the metrics.csv and per_query.csv of what was chosen, for `clir table` and `clir diff`."""
    if any(found.fold_of for found in tuned):
        _write_folds(folder / "tuned", tuned, groups)
    else:
        _write_union(folder / "tuned", tuned)
    experiment.write_rows(folder / "tune.csv", CSV, _rows(tuned, measure))


def _rows(tuned: Sequence[Tuned], measure: str) -> Iterator[dict[str, Any]]:
    """The dev value of every setting, each fold's choice, and the test value of what was chosen, part by part."""
    for found in tuned:
        names = {choice.setting for choice in found.chosen.values()}
        base = {"group": found.group, "measure": measure}
        for setting, value in found.dev.items():
            yield {
                **base,
                "setting": setting,
                "role": "dev",
                "value": repr(value),
                "chosen": str(setting in names).lower(),
            }
        for fold, choice in found.chosen.items():
            best = repr(choice.value)
            yield {
                **base,
                "setting": choice.setting,
                "fold": fold or "",
                "role": "choice",
                "value": best,
                "chosen": "true",
            }
        setting = next(iter(names)) if len(names) == 1 else "of each fold"
        for (dataset, split, pair), topics in found.test.items():
            mean = repr(choosing.value({(dataset, split, pair): topics}))
            where = {"dataset": dataset, "split": split, "pair": pair, "topics": len(topics)}
            yield {**base, **where, "setting": setting, "role": "test", "value": mean, "chosen": "true"}


def _write_union(folder: Path, tuned: Sequence[Tuned]) -> None:
    """metrics.csv, per_query.csv and costs.csv of the chosen experiments."""
    folders = list(dict.fromkeys(f for found in tuned for f in found.folders))
    for name, columns in experiment.TABLES.items():
        experiment.write_rows(folder / name, columns, (row for f in folders for row in experiment.read_rows(f / name)))


def _write_folds(folder: Path, tuned: Sequence[Tuned], groups: Made) -> None:
    """metrics.csv and per_query.csv in which each topic has the scores of its own fold's choice, in all measures."""
    metrics: list[dict[str, str]] = []
    per_query: list[dict[str, str]] = []
    for found in tuned:
        used = dict.fromkeys(choice.setting for choice in found.chosen.values())
        results = {s: read([path for _, path in groups[found.group][s]]) for s in used}
        kinds: dict[tuple[Part, str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for setting, read_back in results.items():
            for row in read_back.rows:
                if row["stage"] == "final":
                    kinds[part_of(row), row["judgments"], row["measure"]][setting].append(row)
        for (part, judgments, measure), rows in kinds.items():
            if rows.keys() != used.keys():
                continue  # a measure that was not computed for every choice
            of = {setting: (scores(results[setting], mine) or {})[part] for setting, mine in rows.items()}
            mine = {
                q: of[found.chosen[found.fold_of[choosing.topic_of(part, q)]].setting][q]
                for q in next(iter(of.values()))
            }
            name = f"{folder.parent.parent.name}/{folder.parent.name}/{folder.name}"
            base = {"experiment": name, "judgments": judgments, "stage": "final", "measure": measure}
            columns = _merged([row for all_rows in rows.values() for row in all_rows])
            metrics.append({**columns, **base, "value": repr(statistics.fmean(mine.values()))})
            per_query += [{**base, "query_id": q, "value": repr(v)} for q, v in mine.items()]
    experiment.write_rows(folder / "metrics.csv", COLUMNS, metrics)
    experiment.write_rows(folder / "per_query.csv", PER_QUERY, per_query)


def _merged(rows: Sequence[Row]) -> dict[str, str]:
    """The columns of several settings as one: what they share; `bm25[tuned]` where a label's settings differ."""
    merged = {}
    for column in COLUMNS:
        values = {row[column] for row in rows}
        names = {value.partition("[")[0] for value in values}
        merged[column] = values.pop() if len(values) == 1 else f"{names.pop()}[tuned]" if len(names) == 1 else "tuned"
    return merged | {"repeat": "0"}


# Saying ----------------------------------------------------------------------------------------------------------------


def text(tuned: Sequence[Tuned], request: Request, measure: str, digits: int = 4) -> str:
    """The dev value of every setting, the choice, and the test value of the choice only."""
    lines: list[str] = []
    on = " ".join(request.on) or f"the mean over {request.folds} folds, each of the topics of the others"
    for found in tuned:
        lines += [f"{found.group}" if found.group else "", f"{measure} of every setting ({on}):", ""]
        chosen = defaultdict(list)
        for fold, choice in found.chosen.items():
            chosen[choice.setting].append(str(fold))
        head = ["setting", measure, "chosen"]
        rows = [[s, _shown(v, digits), _times(chosen.get(s, []), len(found.chosen))] for s, v in found.dev.items()]
        lines += pipes(head, rows, 1).splitlines()
        lines += _ties(found)
        lines += [f"left out, for it lacks topics that others have: {setting}" for setting in found.left_out]
        where = " ".join(request.report) or "each topic by the choice of its own fold"
        lines += ["", f"{measure} of what was chosen ({where}):", ""]
        body = [
            [" ".join(filter(None, part)), _shown(choosing.value({part: t}), digits), str(len(t))]
            for part, t in found.test.items()
        ]
        if len(body) > 1:
            body.append(["mean", _shown(choosing.value(found.test), digits), ""])
        lines += pipes(["topics of", measure, "topics"], body, 1).splitlines()
    return "\n".join(lines).strip("\n")


def _shown(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _times(folds: Sequence[str], many: int) -> str:
    """`yes`, or in which folds."""
    if len(folds) == many:
        return "yes" if many == 1 else "in every fold"
    return f"in fold {', '.join(folds)}" if folds else ""


def _ties(found: Tuned) -> Iterator[str]:
    for fold, choice in found.chosen.items():
        if choice.tied:
            where = f"fold {fold}: " if fold else ""
            yield f"{where}{choice.tied} other settings have the same value; the first was chosen"


def record(tuned: Sequence[Tuned], measure: str, folder: Path) -> dict[str, Any]:
    """The same for machines."""
    return {
        "folder": str(folder),
        "measure": measure,
        "groups": [
            {
                "group": found.group,
                "dev": found.dev,
                "chosen": [{"fold": fold or None, **choice._asdict()} for fold, choice in found.chosen.items()],
                "test": [
                    {"dataset": d, "split": s, "pair": p, "value": choosing.value({(d, s, p): t}), "topics": len(t)}
                    for (d, s, p), t in found.test.items()
                ],
                "mean": choosing.value(found.test),
                "left_out": found.left_out,
                "experiments": [str(f) for f in found.folders],
            }
            for found in tuned
        ],
    }
