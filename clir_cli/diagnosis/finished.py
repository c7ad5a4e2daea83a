"""Finished experiments, opened: their configuration, rankings, judgments and texts as the store keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clir_cli import config, selection
from clir_cli.config import Config
from clir_cli.docstore import Docstore
from clir_cli.errors import ConfigError, DataError
from clir_cli.experiment import Experiment, read_rows
from clir_cli.stages import Stages
from clir_cli.steps import Step
from clir_cli.store import At, Store
from clir_cli.types import Qrel
from clir_cli.views import read_queries

if TYPE_CHECKING:
    from clir_cli.types import Run


@dataclass(frozen=True)
class Finished:
    """An experiment's folder and what it was made from."""

    folder: Path
    experiment: Experiment

    @property
    def name(self) -> str:
        """`demo.en-de/bm25_dt-KEY`, as its CSV files call it."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def cfg(self) -> Config:
        return self.experiment.cfg

    @property
    def stages(self) -> list[str]:
        """The stages whose rankings differ: first_stage, rerank_1, ..., final."""
        found = ["first_stage", *(p.stem for p in sorted(self.folder.glob("rerank_*.trec")))]
        return [*found, "final"] if self.experiment.second else ["final"]

    def run(self, stage: str = "final") -> Run:
        """Raises ConfigError naming the stages there are where it has not this one."""
        from clir_cli import runs

        path = self.folder / ("run.trec" if stage == "final" else f"{stage}.trec")
        if not path.exists():
            raise ConfigError(f"{self.name} has no stage {stage!r}; it has: {', '.join(self.stages)}")
        return runs.read_made(path)

    @cached_property
    def at(self) -> At:
        return At(self.experiment.store, self.folder)

    def step(self, step: Step) -> Path:
        """The folder of a finished step. Raises DataError where it was removed, or means another step by now."""
        if (found := self.experiment.store.folder(step)) is None:
            raise DataError(
                f"{self.name}: its step {step.stage} {step.label} is not in {self.experiment.store.root / 'steps'}\n"
                f"  it was removed, or files or package versions changed since; make it again: clir run --config {self.folder / 'config.yaml'}"
            )
        return found

    def docs(self, lang: str) -> Docstore:
        """The documents in one language of the collection, as they were read."""
        return Docstore(self.step(self.experiment.stages.docs(self.cfg, lang)))

    @property
    def topics(self) -> set[str]:
        """The query_ids that were asked, with results or without."""
        return {query.query_id for query in read_queries(self.step(self.experiment.stages.topics(self.cfg)))}

    def qrels(self, name: str | None = None) -> list[Qrel]:
        """The judgments that its metrics count: the named ones, else the first; none where the dataset has none."""
        names = self.experiment.judgments
        if name is not None and name not in self.cfg.dataset.judgment_names:
            raise ConfigError(
                f"{self.name} has no judgments {name!r}; it has: {', '.join(self.cfg.dataset.judgment_names) or 'none'}"
            )
        if name is None and not names:
            return []
        dataset = self.cfg.dataset
        rows: list[Qrel] = dataset.read_qrels(name or names[0])
        if dataset.queries not in {"judged", "all"} or dataset.limit_queries:
            chosen = {q.query_id for q in selection.select(self.cfg, dataset.read_topics(dataset.query_lang))}
            rows = [row for row in rows if row.query_id in chosen]
        return rows

    def meaning(self, *leave_out: str) -> str:
        """The configuration but for its labels and these keys, as text: equal ones can be compared.

        A dotted key is one place (`dataset.pair`), another one stands for that name anywhere.
        """
        plain = {k: v for k, v in self.cfg.plain.items() if k not in {"labels", "names"}}
        for key in leave_out:
            plain = _without(plain, key.split("."), anywhere="." not in key)
        return json.dumps(plain, sort_keys=True, default=str)


def _without(node: Any, key: Sequence[str], anywhere: bool) -> Any:
    if not isinstance(node, dict):
        return node
    rest = {k: v for k, v in node.items() if k != key[0] or len(key) > 1}
    if anywhere:
        return {k: _without(v, key, anywhere) for k, v in rest.items()}
    return {k: _without(v, key[1:], anywhere) if k == key[0] else v for k, v in rest.items()}


def opened(targets: Iterable[Path]) -> list[Finished]:
    """The experiments of these folders, each once; a sweep's folder stands for all its finished cells."""
    found: dict[Path, Finished] = {}
    for target in targets:
        for folder in _experiments(target):
            if (place := folder.resolve()) not in found:
                plain = config.load(place / "config.yaml")
                found[place] = Finished(place, Experiment(config.built(plain), Stages(_store(place))))
    if not found:
        raise ConfigError(
            "name at least one experiment's folder, such as runs/demo.en-de/bm25_dt-KEY; clir list shows them"
        )
    return list(found.values())


def _store(folder: Path) -> Store:
    return Store(folder.parents[1], eager=True)


def _experiments(target: Path) -> list[Path]:
    if (target / "manifest.json").exists() and (target / "run.trec").exists():
        return [target]
    if (target / "cells.csv").exists():
        names = [row["experiment"] for row in read_rows(target / "cells.csv") if row["experiment"]]
        bases = [target, *target.absolute().parents[:3], Path()]
        return [next((b / n for b in bases if (b / n / "run.trec").exists()), Path(n)) for n in dict.fromkeys(names)]
    what = "does not exist" if not target.exists() else "is neither an experiment's folder nor a sweep's"
    raise ConfigError(f"{target} {what}: an experiment's holds config.yaml, run.trec and manifest.json (clir list)")
