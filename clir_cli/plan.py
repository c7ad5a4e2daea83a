"""What a request will cost: many configurations -> distinct steps, what is done, what is missing and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

from clir_cli import config
from clir_cli.absent import Tolerance, Tolerant
from clir_cli.compose import Cell
from clir_cli.config import Config
from clir_cli.errors import ClirError, ConfigError, DataError, MissingModel, many
from clir_cli.experiment import Experiment
from clir_cli.files import read_json
from clir_cli.stages import Stages, pair_label
from clir_cli.steps import Ranking, Step, digest, pending
from clir_cli.store import Store

ABSENT = "(absent)"  # the value of a field that only the other of two steps has
CLOSE = 4  # fields in which a relative may differ and still explain why a step is missing
RELATIVES = 50  # how many finished steps of a stage, the newest, are asked for one
NOTES = 8  # reasons that are listed of many
SEVERAL = 40  # steps that a plan lists one by one; of more it counts them by stage
Relative: TypeAlias = tuple[
    str, dict[str, Any], set[str]
]  # a finished step: name, fields, keys of what it is made from


@dataclass
class Planned:
    """One cell of a request: its experiment, or the error that keeps it from being built."""

    number: int  # 1, 2, ...: as people and cells.csv count
    cell: Cell
    experiment: Experiment | None = None
    error: ClirError | None = None
    same_as: int | None = None  # the index of an earlier cell that asks for the same


@dataclass
class Plan:
    """The cells of a request over one store, and their distinct steps."""

    store: Store
    cells: list[Planned] = field(default_factory=list)
    skipped: list[Cell] = field(default_factory=list)  # which a constraint leaves out

    @property
    def experiments(self) -> list[Experiment]:
        return [c.experiment for c in self.cells if c.experiment is not None and c.same_as is None]

    @property
    def steps(self) -> list[Step]:
        """Every distinct step, what comes first first."""
        return list(self.shared())

    def shared(self) -> Counter[Step]:
        """Every distinct step, what comes first first, with the number of experiments that need it."""
        return Counter(step for e in self.experiments for step in e.steps)

    def models(self) -> list[str]:
        """Hub models whose revision must be resolved before anything can be identified."""
        return _models(self.steps)


def planned(cells: Sequence[Cell], store: Store, tolerant: Tolerance | None = None) -> Plan:
    """The plan of frozen cells. Errors of single cells are kept in them.

    A sweep is planned, though not run, also where its data is not here yet; and so is what comes with a tolerance.
    """
    plan, stages, seen = Plan(store), _Shared(store), dict[str, int]()
    memo, known, lock = config.Memo(), dict[str, str | None](), store.root / "models.lock"
    plan.skipped = [cell for cell in cells if cell.skipped]
    if tolerant is None and not store.eager and len(cells) > 1:
        tolerant = Tolerance()
    if tolerant is not None:
        store.prints = Tolerant(store.prints.folder, eager=False)
    for number, cell in enumerate((cell for cell in cells if not cell.skipped), 1):
        item = Planned(number, cell)
        plan.cells.append(item)
        try:
            config.pin_revisions(cell.plain, lock, known)
            cfg = config.built(cell.plain, memo)
            experiment = Experiment(cfg if tolerant is None else tolerant(cfg), stages)
            item.same_as = seen.get(asked := _asked(experiment))
            seen.setdefault(asked, number - 1)
            item.experiment = experiment
        except ClirError as error:
            item.error = error
    return plan


@dataclass(frozen=True)
class _Shared(Stages):
    """Stages that build once what many cells of a sweep have in common: documents, topics and first stages."""

    rankings: dict[str, Ranking] = field(default_factory=dict)
    parts: dict[tuple[int, str], tuple[Any, Step]] = field(
        default_factory=dict
    )  # with the dataset, so that its id stays

    def first_stage(self, cfg: Config) -> Ranking:
        said = repr([cfg.plain.get(name) for name in ("dataset", "translator", "retriever", "retrieve", "parts")])
        if said not in self.rankings:
            self.rankings[said] = super().first_stage(cfg)
        return self.rankings[said]

    def docs(self, cfg: Config, lang: str) -> Step:
        key = id(cfg.dataset), lang
        if key not in self.parts:
            self.parts[key] = cfg.dataset, super().docs(cfg, lang)
        return self.parts[key][1]

    def topics(self, cfg: Config) -> Step:
        key = id(cfg.dataset), ""
        if key not in self.parts:
            self.parts[key] = cfg.dataset, super().topics(cfg)
        return self.parts[key][1]


def resolved(plan: Plan) -> Plan:
    """The plan with every open model revision resolved, each asked for once; a model that is not to be had fails its cells."""
    failed: dict[str, MissingModel] = {}
    for name in plan.models():
        try:
            config.resolve_revisions({}, [name], plan.store.root / "models.lock")
        except MissingModel as error:
            failed[name] = error
    cells = [*(item.cell for item in plan.cells), *plan.skipped]
    again = planned(cells, Store(plan.store.root)) if plan.models() else plan
    for item in again.cells:
        if item.experiment and (lacks := [m for m in _models(item.experiment.steps) if m in failed]):
            item.experiment, item.error = None, MissingModel("\n".join(str(failed[m]) for m in lacks))
    return again


def _models(steps: Iterable[Step]) -> list[str]:
    return list(dict.fromkeys(p.model for s in steps for p in pending(s.meaning) if p.model))


def _asked(experiment: Experiment) -> str:
    """What makes two cells one: the same final ranking, evaluated alike."""
    final = experiment.rankings["final"]
    steps = [experiment.store.promise(s) for s in (*final.steps, experiment.first.step)]
    return digest([steps, pair_label(experiment.cfg), experiment.asked()])


# What is done, what is missing ----------------------------------------------------------------------------------------


def record(plan: Plan) -> dict[str, Any]:
    """The plan for machines: its cells and its distinct steps."""
    cells = [
        {
            "cell": item.number, "overrides": list(item.cell.overrides), "dropped": list(item.cell.dropped),
            "same_as": None if item.same_as is None else plan.cells[item.same_as].number,
            "error": str(item.error) if item.error else None,
        }
        for item in plan.cells
    ]  # fmt: skip
    skipped = [{"overrides": list(cell.overrides), "constraint": cell.skipped} for cell in plan.skipped]
    return {"cells": cells, "skipped": skipped, "steps": list(rows(plan))}


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """A row per distinct step: stage, label, state, note, the work it means, and how many cells share it."""
    finished: dict[str, list[Relative]] = {}  # of each stage that lacks a step
    shared = plan.shared()
    for step, cells in shared.items():
        state = plan.store.state(step)
        note, relative = state.note, None
        if state.name == "undecided":
            note = "; ".join(pending(step.meaning)) or "follows from the steps before it"
        elif state.name == "missing" and len(shared) <= SEVERAL:
            if step.stage not in finished:
                newest = plan.store.relatives(step, RELATIVES)
                finished[step.stage] = [
                    (f"{r['label']}-{r['key'][:6]}", _fields(r["meaning"]), set(r["before"])) for r in newest
                ]
            relative = unlike(plan.store, step, finished[step.stage])
        yield {
            "stage": step.stage, "label": step.label, "key": plan.store.key(step) or "", "state": state.name, "note": note,
            "unlike": relative, "work": work(plan.store, step) if state.name != "done" else "", "gpus": step.needs.gpus,
            "loads": step.needs.loads, "cells": cells,
        }  # fmt: skip


def text(plan: Plan, full: bool = False) -> str:
    """The plan as `clir plan` prints it: every step, or how many of each stage where there are many."""
    found = list(rows(plan))
    short = len(found) > SEVERAL and not full
    lines = [*_by_stage(found), *_reasons(plan, found)] if short else _listed(found, len(plan.experiments) > 1)
    done = sum(row["state"] == "done" for row in found)
    lines.append(f"{many(len(found), 'step')}: {done} done, {len(found) - done} to make")
    if len(plan.cells) > 1:
        lines.append(f"{many(len(plan.cells), 'cell')}, {many(len(plan.experiments), 'experiment')}")
    lines += [f"model {name}: not known on this machine yet; the run asks the hub for it" for name in plan.models()]
    lines += remarks(plan.cells, [str(item.error or "") for item in plan.cells], plan.skipped)
    folders = [folder for e in plan.experiments if (folder := e.finished()) is not None]
    lines += (
        [f"finished: {many(len(folders), 'experiment')}"] if short and folders else [f"finished: {f}" for f in folders]
    )
    return "\n".join(lines)


def _listed(found: Sequence[Mapping[str, Any]], several: bool) -> list[str]:
    """A line per step, and why it is as it is below it, each reason once."""
    shared = [many(row["cells"], "cell") if several else "" for row in found]
    gpus = ["GPU" if several and row["gpus"] and row["state"] != "done" else "" for row in found]
    rows = zip(found, shared, gpus, strict=True)
    table = aligned([(r["state"], r["stage"], r["label"], cells, gpu, r["work"]) for r, cells, gpu in rows])
    indent = " " * (max((len(row["state"]) for row in found), default=0) + 2)
    lines, told = [], {""}
    for row, line in zip(found, table, strict=True):
        reasons = [row["note"], *_unlike(row)]
        lines += [line, *(indent + reason for reason in reasons if reason not in told)]
        told.add(row["note"])
    return lines


def _by_stage(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per stage: its steps by state, how many to make want a GPU, and the fewest and most cells that share one."""
    states = [
        s for s in ("done", "in progress", "missing", "undecided", "failed") if any(r["state"] == s for r in found)
    ]
    table: list[list[str]] = [["stage", "steps", *states, "GPU", "cells each"]]
    for stage in dict.fromkeys(r["stage"] for r in found):
        of = [r for r in found if r["stage"] == stage]
        counts = Counter(r["state"] for r in of)
        low, high = min(r["cells"] for r in of), max(r["cells"] for r in of)
        shared = f"{low}" if low == high else f"{low}-{high}"
        gpus = sum(bool(r["gpus"]) for r in of if r["state"] != "done")
        table.append([stage, str(len(of)), *(str(counts[s] or "") for s in states), str(gpus or ""), shared])
    return aligned(table, right=range(1, len(states) + 4))


def _reasons(plan: Plan, found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What keeps steps from being made or even named, but for models: those are listed by themselves."""
    unknown = (str(p) for step in plan.shared() for p in pending(step.meaning) if p.model is None)
    others = (r["note"] for r in found if r["state"] in {"in progress", "failed"} and r["note"])
    notes = Counter([*unknown, *others])
    for note, count in notes.most_common(NOTES):
        yield f"{note} ({many(count, 'step')})"
    if len(notes) > NOTES:
        yield f"... and {len(notes) - NOTES} more such reasons: clir plan --full"


def _quirks(cell: Cell) -> set[str]:
    return {dropped for dropped in cell.dropped if dropped.startswith("quirk=")}


def remarks(cells: Sequence[Planned], errors: Sequence[str], skipped: Sequence[Cell] = ()) -> Iterator[str]:
    """`cells 2, 5: ...`: the overrides that were dropped, the cells that are one, and the errors; equal ones on one line.

    Then what the constraints of a sweep leave out.
    """
    told: dict[str, list[int]] = {}
    same: dict[str, list[int]] = {}
    for item, error in zip(cells, errors, strict=True):
        if item.cell.dropped:
            why = (
                "the component does not have"
                if set(item.cell.dropped) - _quirks(item.cell)
                else "changes nothing there"
            )
            said = f"dropped {' '.join(item.cell.dropped)}, which {why}"
            told.setdefault(said, []).append(item.number)
        if item.same_as is not None:
            same.setdefault(f"the same as cell {cells[item.same_as].number}", []).append(item.number)
        elif error:
            told.setdefault(error, []).append(item.number)
    if len(same) > NOTES:
        pairs = ", ".join(f"{numbers[0]} as {said.split()[-1]}" for said, numbers in list(same.items())[:3])
        same = {f"each the same as an earlier cell ({pairs}, ...)": sorted(n for ns in same.values() for n in ns)}
    for said, numbers in (told | same).items():
        shown = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if numbers[8:] else "")
        yield f"cell{'s' if numbers[1:] else ''} {shown}: {said}"
    for constraint, count in Counter(cell.skipped for cell in skipped).items():
        yield f"{many(count, 'combination')} left out: {constraint}"


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows as lines, their columns one under the other; the columns of these numbers end alike. Empty columns vanish."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)) if w
        ).rstrip()
        for row in rows
    ]  # fmt: skip


def work(store: Store, step: Step) -> str:
    """What making the step means, with numbers where they are known."""
    if step.stage == "docs":
        return "read and check the documents"
    if step.stage == "topics":
        return "read and select the topics"
    if step.stage == "translate":
        provided = "clir_cli.translators.provided." in step.meaning["translator"]["class"]
        what = "the topics" if step.meaning["part"] == "topics" else _documents(store, step)
        return f"{'look up the translations of' if provided else 'translate'} {what}"
    if step.stage == "index":
        return f"{'encode' if step.shards else 'index'} {_documents(store, step)}"
    if step.stage == "rerank" and step.candidates:
        asked = f", at most {step.work} each" if step.work else ""
        return f"rerank {_queries(store, step)} x at most {step.candidates[1]} candidates{asked}"
    return step.work


def _documents(store: Store, step: Step) -> str:
    sources = [s for s in step.parents if s.stage in {"docs", "translate"} and store.folder(s)]
    if step.stage == "translate":
        sources = sources[:1]  # what is translated; a second one holds the provided translations
    count = sum(store.record(s)["counts"].get("documents", 0) for s in sources)
    return many(count, "document") if count else "the documents"


def _queries(store: Store, step: Step) -> str:
    topics = next((s for s in step.before if s.stage == "topics"), None)
    if topics is None or store.folder(topics) is None:
        return "the queries"
    return many(store.record(topics)["counts"]["queries"], "query", "queries")


def unlike(store: Store, step: Step, finished: Sequence[Relative]) -> dict[str, Any] | None:
    """The closest finished step, the fields in which a missing one differs from it, and whether it is made from others; None if too many.

    Of equally close ones, one that is called alike.
    """
    own, before, called = _fields(step.meaning), {store.key(s) for s in step.before}, _method(step.label)
    found = [
        (len(fields), len(before ^ sources), _method(name) != called, name, fields)
        for name, theirs, sources in finished
        if 0 < len(fields := differing(theirs, own)) <= CLOSE
    ]
    if not found:
        return None
    _, others, _, name, fields = min(found, key=lambda relative: relative[:4])
    return {"step": name, "fields": fields, "other_parents": bool(others)}


def _method(label: str) -> str:
    """`bm25_dt` of `bm25_dt[k1=1.2].demo.en-de`."""
    return re.split(r"[\[.]", label)[0]


def _unlike(row: Mapping[str, Any]) -> list[str]:
    """How a missing step differs from its closest relative, a line per field."""
    if (found := row["unlike"]) is None:
        return []
    lines = [f"differs from {found['step']}, which is done:"]
    lines += [f"  {name}: {before} -> {now}" for name, (before, now) in found["fields"].items()]
    return [*lines, *(["  and in what it is made from"] if found["other_parents"] else [])]


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Every field in which two steps differ, with its two values."""
    pairs = {key: (a.get(key, ABSENT), b.get(key, ABSENT)) for key in dict.fromkeys([*a, *b])}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _fields(meaning: Mapping[str, Any]) -> dict[str, Any]:
    """A step's meaning as dotted keys; the fields of its component without a prefix, as users know them."""
    return {key.removeprefix("component."): value for key, value in _flat(meaning, "")}


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping | list | tuple):
        inside = value.items() if isinstance(value, Mapping) else enumerate(value)
        for k, v in inside:
            yield from _flat(v, f"{path}.{k}" if path else str(k))
    else:
        yield path, value


# Why two differ -------------------------------------------------------------------------------------------------------


def why(a: str, b: str, root: Path) -> list[dict[str, Any]]:
    """How two steps or two experiments differ, stage by stage: a record per step that both have, or per two that may be compared.

    `fields` are those of their identities that differ; `a` or `b` is None where only the other side has such a step.
    """
    left, right = _records(a, root), _records(b, root)
    shared = {r["key"] for r in left} & {r["key"] for r in right}
    found = [_pair(r, r) for r in left if r["key"] in shared]
    for kind in dict.fromkeys(_kind(r) for r in [*left, *right]):
        sides = [[r for r in side if _kind(r) == kind and r["key"] not in shared] for side in (left, right)]
        found += [_pair(*both) for both in zip_longest(*sides)]
    return found


def _pair(mine: Mapping[str, Any] | None, yours: Mapping[str, Any] | None) -> dict[str, Any]:
    sides = [r and {"label": r["label"], "key": r["key"]} for r in (mine, yours)]
    fields = differing(_fields(mine["meaning"]), _fields(yours["meaning"])) if mine and yours else {}
    stage = (mine or yours or {})["stage"]
    return {"stage": stage, "a": sides[0], "b": sides[1], "same": sides[0] == sides[1], "fields": fields}


def why_text(found: Sequence[Mapping[str, Any]], a: str, b: str) -> str:
    """The same for people."""
    lines = []
    for row in found:
        stage, mine, yours = row["stage"], row["a"], row["b"]
        if mine is None or yours is None:
            lines.append(f"{stage} {(mine or yours)['label']}: only in {a if mine else b}")
        elif row["same"]:
            lines.append(f"{stage} {mine['label']}: the same ({mine['key']})")
        else:
            labels = list(dict.fromkeys([mine["label"], yours["label"]]))
            lines.append(f"{stage} {' -> '.join(labels)}: {mine['key']} -> {yours['key']}")
            own = [f"{name}: {x} -> {y}" for name, (x, y) in row["fields"].items()]
            lines += [f"  {d}" for d in own or ["its own fields are equal: what it is made from differs"]]
    return "\n".join(lines)


def _kind(record: Mapping[str, Any]) -> tuple[str, str]:
    """What may be compared: steps of one stage; translated documents with documents, topics with topics."""
    return record["stage"], record["meaning"].get("part", "")


def _records(name: str, root: Path) -> list[dict[str, Any]]:
    """The step.json of a step, or those of all steps of an experiment."""
    folder = _named(name, root)
    if (folder / "step.json").exists():
        return [read_json(folder / "step.json")]
    if not (folder / "manifest.json").exists():
        raise ConfigError(f"{folder} is neither an experiment nor a step: it has no manifest.json and no step.json")
    found = [folder.absolute().parents[1] / step["folder"] for step in read_json(folder / "manifest.json")["steps"]]
    if gone := [p for p in found if not (p / "step.json").exists()]:
        raise DataError(f"{folder}: its step {gone[0]} is not there any more; give the same `clir run` again")
    return [read_json(p / "step.json") for p in found]


def _named(name: str, root: Path) -> Path:
    """The folder that is meant by a path, a path under the root, or the beginning of a key."""
    if folder := next((p for p in (Path(name), root / name) if p.is_dir()), None):
        return folder
    every = [p for pattern in ("steps/*/*-*", "*.*/*-*") for p in root.glob(pattern) if not p.name.startswith(".")]
    found = [p for p in every if p.name.rsplit("-", 1)[-1].startswith(name)]
    if len(found) == 1:
        return found[0]
    what = f"the key of {len(found)}: {', '.join(p.name for p in found[:3])}" if found else "no folder and no key"
    raise ConfigError(
        f"{name!r} is {what} under {root}; give the folder of an experiment (`clir list`) or step, or more of its key (`clir plan --json`)"
    )
