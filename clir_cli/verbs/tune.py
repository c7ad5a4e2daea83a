"""Choose a setting on some topics, and say what it is worth on others."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from clir_cli import compose, config, experiment, plan, selection, sweep
from clir_cli.compose import Cell
from clir_cli.errors import ConfigError, RunError, many
from clir_cli.launchers import serial
from clir_cli.steps import digest
from clir_cli.store import Store
from clir_cli.tables import choosing
from clir_cli.tables.choosing import Choice
from clir_cli.tables.reading import Results, Row, read
from clir_cli.tables.testing import Scores, scores
from clir_cli.verbs import listing, tuned
from clir_cli.verbs.tuned import Group, Made, Request, Tuned

CONDITIONS = ("dataset", "rerank.repeat", "rerank.seed")  # axes that are averaged over, never chosen


def tune(request: Request, store: Store, name: str = "tune") -> tuple[list[Tuned], str, Path]:
    """Run every setting, choose, and report; gives the choices, the measure as files spell it, and the folder that has
    tune.csv, and under tuned/ the results of what was chosen.

    Raises ConfigError for a request that leaves nothing to choose, or would report on topics it chose on, and RunError
    where a cell fails: part of the settings is no choice.
    """
    from clir_cli.evaluation import parse_measures

    measure = str(parse_measures([request.select])[0])
    _check(request)
    cells = compose.cells([*request.overrides, *request.on], True, request.zips, request.config_dirs)
    places = _places(request, cells)
    if request.report:
        _refuse_same_contents(request, cells)
    asked = [*map(list, (request.overrides, request.on, request.report, request.zips, request.by))]
    folder = store.root / "sweeps" / f"{name}-{digest([*asked, measure, request.folds, request.seed])}"
    groups: dict[Group, dict[str, list[tuple[Cell, Path]]]] = defaultdict(lambda: defaultdict(list))
    for (group, setting), cell, made in zip(places, cells, _run(cells, store), strict=True):
        groups[group][setting].append((cell, made))
    candidates = {
        group: choosing.comparable({setting: _scores(found, measure) for setting, found in settings.items()})
        for group, settings in groups.items()
    }
    for group, (full, odd) in candidates.items():
        if not full:
            raise ConfigError(
                f"{group or 'no setting'}: no setting has all topics of all datasets: {'; '.join(odd[:4])}"
            )
    if request.folds is not None:
        found = [_by_folds(group, full, odd, request.folds, request.seed) for group, (full, odd) in candidates.items()]
    else:
        chosen = {group: choosing.best(full) for group, (full, _) in candidates.items()}
        found = _reported(request, store, measure, groups, candidates, chosen)
    tuned.write(folder, found, groups, measure)
    return found, measure, folder


def _check(request: Request) -> None:
    if request.folds is None and not (request.on and request.report):
        raise ConfigError(
            "say on which topics to choose and on which to report: --on dataset.split=dev --report dataset.split=test, or --folds 5"
        )
    if request.folds is not None and (request.on or request.report):
        raise ConfigError("--folds chooses and reports on the same topics in turn: give no --on and --report beside it")
    if request.folds is not None and request.folds < 2:
        raise ConfigError(f"--folds {request.folds}: at least 2")


# Running ---------------------------------------------------------------------------------------------------------------


def _places(request: Request, cells: Sequence[Cell]) -> list[tuple[Group, str]]:
    """The group and the setting that each cell belongs to."""
    values: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        for override in cell.overrides:
            values[_key(override)].add(override)
    axes = {key for key, found in values.items() if len(found) > 1}
    if unknown := [key for key in request.by if key not in axes]:
        raise ConfigError(f"--by {unknown[0]} is no axis of this sweep; there are: {', '.join(sorted(axes)) or 'none'}")
    fixed = {*request.by, *CONDITIONS}
    places = []
    for cell in cells:
        asked = [o for o in cell.overrides if o not in cell.dropped and _key(o) in axes]
        group = " ".join(o for o in asked if _key(o) in request.by)
        setting = [o for o in asked if _key(o) not in fixed and _key(o).split(".")[0] not in fixed]
        places.append((group, " ".join(setting) or "as it is"))
    if all(len({s for g, s in places if g == group}) < 2 for group, _ in places):
        raise ConfigError(
            "there is one setting only: nothing to choose. Sweep over something, e.g. -m retriever.k1=0.9,1.2,1.5 "
            "(the axes of dataset, rerank.repeat, rerank.seed and --by are no settings)"
        )
    return places


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _run(cells: Sequence[Cell], store: Store) -> list[Path]:
    """The experiment folders of all cells; an error of one is the error of all."""
    asked = plan.resolved(plan.planned(cells, store))
    outcomes = serial.execute(asked, lambda outcome: sweep.tell(asked, outcome))
    failed = [o for o in outcomes if o.error is not None]
    if failed and failed[0].status == "invalid" and failed[0].error is not None:
        raise failed[0].error
    if failed:
        raise RunError(
            f"{len(failed)} of {len(cells)} cells failed, and part of the settings is no choice; the first, "
            f"{' '.join(failed[0].cell.cell.overrides)}: {failed[0].error}"
        ) from failed[0].error
    return [o.folder for o in outcomes if o.folder is not None]


def _scores(made: Sequence[tuple[Cell, Path]], measure: str) -> Scores:
    """A setting's scores by topic, repeats averaged."""
    results, rows = _final([folder for _, folder in made], measure)
    found = scores(results, rows)
    assert found is not None  # an experiment folder has per_query.csv
    return found


def _final(folders: Sequence[Path], measure: str) -> tuple[Results, list[Row]]:
    """The final rankings' rows of a measure, which is computed where it was not."""
    for folder in folders:
        if not any(row["measure"] == measure for row in experiment.read_rows(folder / "metrics.csv")):
            listing.score_experiment(folder, [measure], [], None)
    results = read(folders)
    rows = [row for row in results.rows if (row["measure"], row["stage"]) == (measure, "final")]
    judgments = list(dict.fromkeys(row["judgments"] for row in rows))
    if not rows:
        raise ConfigError(f"{folders[0]}: no judgments to choose by")
    if len(judgments) > 1:
        raise ConfigError(
            f"{len(judgments)} judgments to choose by ({', '.join(judgments)}): add evaluate.judgments=[{judgments[0]}]"
        )
    return results, rows


# Choosing --------------------------------------------------------------------------------------------------------------


def _by_folds(group: Group, candidates: choosing.Candidates, odd: list[str], many: int, seed: int) -> Tuned:
    fold_of = choosing.folds(next(iter(candidates.values())), many, seed)
    chosen, test = choosing.held_out(candidates, fold_of)
    dev = {
        setting: statistics.fmean(choosing.value(found, lambda t, f=fold: fold_of[t] != f) for fold in chosen)  # type: ignore[misc]
        for setting, found in candidates.items()
    }
    return Tuned(group, dev, chosen, test, odd, fold_of=fold_of)


def _reported(
    request: Request, store: Store, measure: str, groups: Made,
    candidates: Mapping[Group, tuple[choosing.Candidates, list[str]]], chosen: Mapping[Group, Choice],
) -> list[Tuned]:  # fmt: skip
    """Run the chosen settings, and only them, on the topics to report on."""
    cells: list[Cell] = []
    of: list[Group] = []
    for group, choice in chosen.items():
        for cell, _ in groups[group][choice.setting]:
            composed = _to_report(request, cell)
            cells += composed
            of += [group] * len(composed)
    folders = _run(cells, store)
    found = []
    for group, choice in chosen.items():
        mine = list(dict.fromkeys(folder for folder, g in zip(folders, of, strict=True) if g == group))
        results, rows = _final(mine, measure)
        test = scores(results, rows) or {}
        full, odd = candidates[group]
        _refuse_same_topics(full[choice.setting], test)
        dev = {setting: choosing.value(found) for setting, found in full.items()}
        found.append(Tuned(group, dev, {0: choice}, test, odd, mine))
    return found


def _to_report(request: Request, cell: Cell) -> list[Cell]:
    """A cell's setting on the topics to report on."""
    on = {_key(override) for override in request.on}
    kept = [o for o in cell.overrides if _key(o) not in on and o not in cell.dropped]
    return compose.cells([*kept, *request.report], True, (), request.config_dirs)


Topic = tuple[str, tuple[str, ...], frozenset[tuple[str, int]]]  # id, texts, judged documents with their grades


def _refuse_same_contents(request: Request, cells: Sequence[Cell]) -> None:
    """Before anything runs: the same topics with the same judgments are the same, whatever the two sides are called."""
    first = _by_dataset(cells)
    dev = _judged_topics(first)
    test = _judged_topics(_by_dataset(made for cell in first for made in _to_report(request, cell)))
    if same := sorted(query_id for query_id, *_ in dev & test):
        raise ConfigError(
            f"{len(same)} of {many(len(test), 'topic')} to report on {'was' if len(same) == 1 else 'were'} chosen on too, such as {same[0]!r}: the files hold the same "
            f"texts and judgments ({' '.join(request.on)}; {' '.join(request.report)}); report on others, or use --folds"
        )


def _by_dataset(cells: Iterable[Cell]) -> list[Cell]:
    """The first cell of each dataset."""
    return list({repr(cell.plain["dataset"]): cell for cell in reversed([c for c in cells if not c.skipped])}.values())


def _judged_topics(cells: Sequence[Cell]) -> set[Topic]:
    found: set[Topic] = set()
    for cell in cells:
        cfg = config.built(cell.plain)
        judged: dict[str, set[tuple[str, int]]] = defaultdict(set)
        for row in selection.judgments(cfg):
            judged[row.query_id].add((row.doc_id, row.relevance))
        for query in selection.select(cfg, cfg.dataset.read_topics(cfg.dataset.query_lang)):
            if query.query_id in judged:
                found.add((query.query_id, tuple(query.fields.values()), frozenset(judged[query.query_id])))
    return found


def _refuse_same_topics(dev: Scores, test: Scores) -> None:
    """A collection is the same whatever selection of its topics the label tells."""
    sides = [
        {(part[0].partition("~")[0], part[1], query_id) for part, topics in side.items() for query_id in topics}
        for side in (dev, test)
    ]
    if same := sorted(sides[0] & sides[1]):
        raise ConfigError(
            f"{many(len(same), 'topic to report on was', 'topics to report on were')} chosen on too, such as {same[0][2]!r} of {' '.join(filter(None, same[0][:2]))}: "
            "a value on them is too good; report on others, or use --folds"
        )
