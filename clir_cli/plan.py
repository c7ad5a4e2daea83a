"""What a request will cost: many configurations -> distinct steps, what is done, what is missing and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clir_cli import config
from clir_cli.config import Cell
from clir_cli.errors import ClirError, ConfigError
from clir_cli.experiment import Experiment
from clir_cli.files import read_json
from clir_cli.stages import Stages, pair_label
from clir_cli.steps import Step, digest, pending
from clir_cli.store import State, Store

CLOSE = 4  # fields in which a relative may differ and still explain why a step is missing


@dataclass
class Planned:
    """One cell of a request: its experiment, or the error that keeps it from being built."""

    cell: Cell
    experiment: Experiment | None = None
    error: ClirError | None = None
    same_as: int | None = None  # the number of an earlier cell that asks for the same


@dataclass
class Plan:
    """The cells of a request over one store, and their distinct steps."""

    store: Store
    cells: list[Planned] = field(default_factory=list)

    @property
    def experiments(self) -> list[Experiment]:
        return [c.experiment for c in self.cells if c.experiment is not None and c.same_as is None]

    @property
    def steps(self) -> list[Step]:
        """Every distinct step, what comes first first."""
        return list(dict.fromkeys(step for e in self.experiments for step in e.steps))

    def models(self) -> list[str]:
        """Hub models whose revision must be resolved before anything can be identified."""
        return list(dict.fromkeys(p.model for s in self.steps for p in pending(s.meaning) if p.model))


def planned(cells: Sequence[Cell], store: Store) -> Plan:
    """The plan of frozen cells. Errors of single cells are kept in them."""
    plan, stages, seen = Plan(store), Stages(store), dict[str, int]()
    for number, cell in enumerate(cells):
        item = Planned(cell)
        plan.cells.append(item)
        try:
            config.pin_revisions(cell.plain, store.root / "models.lock")
            experiment = Experiment(config.built(cell.plain), stages)
            item.same_as = seen.get(asked := _asked(experiment))
            seen.setdefault(asked, number)
            item.experiment = experiment
        except ClirError as error:
            item.error = error
    return plan


def _asked(experiment: Experiment) -> str:
    """What makes two cells one: the same final ranking, evaluated alike."""
    final = experiment.rankings["final"]
    steps = [experiment.store.promise(s) for s in (*final.steps, experiment.first.step)]
    return digest([steps, pair_label(experiment.cfg), experiment.asked()])


# Printing -------------------------------------------------------------------------------------------------------------


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """A row per distinct step: stage, label, state, note, the work it means, and how many cells share it."""
    for step in plan.steps:
        state = plan.store.state(step)
        shared = sum(step in e.steps for e in plan.experiments)
        yield {
            "stage": step.stage, "label": step.label, "key": plan.store.key(step) or "", "state": state.name,
            "note": state.note or (why_missing(plan.store, step) if state.name == "missing" else ""),
            "work": work(plan.store, step) if state.name != "done" else "", "cells": shared,
        }  # fmt: skip


def text(plan: Plan) -> str:
    """The plan as `clir plan` prints it."""
    found = list(rows(plan))
    width = max([len(r["stage"]) + len(r["label"]) for r in found], default=0) + 2
    lines = []
    for row in found:
        name = f"{row['stage']}  {row['label']}"
        more = "; ".join(t for t in (row["work"], row["note"]) if t)
        shared = f"  ({row['cells']} cells)" if len(plan.experiments) > 1 else ""
        lines.append(f"{row['state']:<12} {name:<{width}}{shared}  {more}".rstrip())
    states = [r["state"] for r in found]
    lines.append(f"{len(found)} steps: {states.count('done')} done, {len(found) - states.count('done')} to make")
    lines += [f"to download or copy: model {name} (revision not resolved yet)" for name in plan.models()]
    if len(plan.cells) > 1:
        lines.append(f"{len(plan.cells)} cells, {len(plan.experiments)} experiments")
    for number, item in enumerate(plan.cells):
        lines += [f"cell {number}: {' '.join(item.cell.overrides)}: {item.error}"] if item.error else []
        lines += (
            [f"cell {number}: dropped {' '.join(item.cell.dropped)} (its component has no such option)"]
            if item.cell.dropped
            else []
        )
    for experiment in plan.experiments:
        if (folder := experiment.finished()) is not None:
            lines.append(f"finished: {folder}")
    return "\n".join(lines)


def work(store: Store, step: Step) -> str:
    """What making the step means, with numbers where they are known."""
    documents = sum(
        store.record(s)["counts"]["documents"]
        for s in step.before
        if s.stage in {"docs", "translate"} and store.folder(s) and "documents" in store.record(s)["counts"]
    )
    many = f"{documents:.0f} documents" if documents else "the documents"
    if step.stage == "docs":
        return "read and check the documents"
    if step.stage == "topics":
        return "read and select the topics"
    if step.stage == "translate":
        return (
            f"translate {many if documents else 'the topics or documents'}"
            if "provided" not in str(step.meaning).lower()
            else "look translations up"
        )
    if step.stage == "index":
        return f"{'encode' if step.shards else 'index'} {many}"
    if step.stage == "rerank" and step.candidates:
        return f"rerank {_queries(store, step)} x {step.candidates[1]} candidates"
    return ""


def _queries(store: Store, step: Step) -> str:
    topics = next((s for s in step.before if s.stage == "topics"), None)
    if topics is None or store.folder(topics) is None:
        return "the queries"
    return f"{store.record(topics)['counts']['queries']:.0f} queries"


def why_missing(store: Store, step: Step) -> str:
    """The fields in which the closest finished step of this stage differs, if few do."""
    if not (store.root / "steps" / step.stage).is_dir():
        return ""
    best: tuple[int, str] | None = None
    for record in store.relatives(step)[:200]:
        differing = differences(record["meaning"], step.meaning)
        if 0 < len(differing) <= CLOSE and (best is None or len(differing) < best[0]):
            best = (len(differing), f"like {record['label']}-{record['key'][:6]} but " + ", ".join(differing))
    return best[1] if best else ""


def differences(a: Any, b: Any) -> list[str]:
    """`component.k1: 0.9 -> 1.2` for every dotted key in which two JSON values differ."""
    left, right = dict(_flat(a)), dict(_flat(b))
    return [
        f"{key}: {left.get(key, '(absent)')} -> {right.get(key, '(absent)')}"
        for key in dict.fromkeys([*left, *right])
        if left.get(key, "(absent)") != right.get(key, "(absent)")
    ]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for k, v in value.items():
            yield from _flat(v, f"{path}.{k}" if path else str(k))
    elif isinstance(value, list | tuple):
        for i, v in enumerate(value):
            yield from _flat(v, f"{path}.{i}")
    else:
        yield path, value


def why(a: str, b: str, root: Path) -> str:
    """How two steps or two experiments differ: the fields of their identities, stage by stage."""
    left, right = _identities(a, root), _identities(b, root)
    lines = []
    for stage in dict.fromkeys([*left, *right]):
        if stage not in left or stage not in right:
            lines.append(f"{stage}: only in {a if stage in left else b}")
        elif left[stage]["key"] == right[stage]["key"]:
            lines.append(f"{stage}: the same ({left[stage]['key']})")
        else:
            differing = differences(left[stage]["meaning"], right[stage]["meaning"])
            lines += [f"{stage}: {left[stage]['key']} -> {right[stage]['key']}", *(f"  {d}" for d in differing)]
            if not differing:
                lines.append("  its own fields are equal: what differs comes before it")
    return "\n".join(lines)


def _identities(name: str, root: Path) -> dict[str, Any]:
    """stage -> step.json of a step (folder, key or the beginning of one) or of all steps of an experiment."""
    folder = Path(name) if Path(name).is_dir() else None
    if folder is None and (root / name).is_dir():
        folder = root / name
    if folder is None:
        found = [
            p
            for p in (root / "steps").glob("*/*")
            if p.name.rsplit("-", 1)[-1].startswith(name) and not p.name.startswith(".")
        ]
        if len(found) != 1:
            raise ConfigError(
                f"{name!r} is no experiment folder, step folder or key of a step under {root} ({len(found)} steps match)"
            )
        folder = found[0]
    if (folder / "step.json").exists():
        record = read_json(folder / "step.json")
        return {record["stage"]: record}
    if not (folder / "manifest.json").exists():
        raise ConfigError(f"{folder} is neither an experiment nor a step: it has no manifest.json and no step.json")
    steps, found_steps = read_json(folder / "manifest.json")["steps"], {}
    for step in steps:
        name = step["stage"] if step["stage"] not in found_steps else f"{step['stage']} {step['label']}"
        found_steps[name] = read_json(root / step["folder"] / "step.json")
    return found_steps


__all__ = ["Plan", "Planned", "State", "planned", "rows", "text", "why"]
