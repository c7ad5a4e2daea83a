"""Models and data of a plan, brought onto this machine, for nodes without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from clir_cli import config
from clir_cli.absent import Asked, Tolerance
from clir_cli.compose import Cell
from clir_cli.datasets import places
from clir_cli.errors import ClirError, DataError, MissingModel
from clir_cli.models import hub
from clir_cli.plan import Plan, aligned, planned
from clir_cli.progress import say
from clir_cli.store import Store


@dataclass(frozen=True)
class Item:
    """One thing that a plan needs: a hub model, or a part of a collection."""

    kind: Literal["model", "data"]
    name: str
    revision: str = ""
    bytes: int = 0
    place: str = ""
    missing: str = ""  # why it is not here, and what to do

    @property
    def size(self) -> str:
        return next(
            (f"{self.bytes / n:.1f} {u}" for u, n in (("GB", 1e9), ("MB", 1e6)) if self.bytes >= n), f"{self.bytes} B"
        )


def fetch(cells: Sequence[Cell], root: Path) -> list[Item]:
    """Bring everything here that the missing steps of a plan need; what cannot be had is an item with `missing`.

    The commits of hub models are noted in models.lock, so that nodes without a network ask nobody.
    """
    tolerance = Tolerance()
    plan = planned(cells, Store(root, eager=False), tolerance)
    for error in dict.fromkeys(str(item.error) for item in plan.cells if item.error):
        say(f"not planned: {error}")
    return [*_models(plan), *_data(tolerance)]


# Models ---------------------------------------------------------------------------------------------------------------


def _models(plan: Plan) -> Iterator[Item]:
    lock = plan.store.root / "models.lock"
    wanted = [found for step in plan.steps if plan.store.folder(step) is None for found in _named(step.meaning)]
    for name, given in dict.fromkeys(wanted):
        say(f"model {name} ...")
        try:
            if given in {None, hub.cached_revision(name)}:  # what this machine has is noted too: others may not have it
                config.resolve_revisions({}, [name], lock)
            revision = given or config.known_revision(name, lock)
            folder = hub.fetched(name, revision)
        except MissingModel as error:
            yield Item("model", name, given or "", missing=str(error))
        else:
            yield Item("model", name, revision or "", _bytes([folder]), str(folder))


def _named(meaning: Any) -> Iterator[tuple[str, str | None]]:
    """(id, commit) of every hub model in an identity; None where the commit is open."""
    if isinstance(meaning, Mapping):
        if set(meaning) == {"id", "revision"}:
            yield meaning["id"], None if hasattr(meaning["revision"], "model") else meaning["revision"]
        meaning = list(meaning.values())
    if isinstance(meaning, list | tuple):
        for inside in meaning:
            yield from _named(inside)


# Data -----------------------------------------------------------------------------------------------------------------


def _data(tolerance: Tolerance) -> Iterator[Item]:
    """The parts of datasets that the plan asked for, each place once."""
    told = set()
    for asked in list(tolerance.asked.values()):
        what = f"{asked.part}{f' {asked.lang}' if asked.lang else ''}{f' {asked.name}' if asked.name else ''}"
        if asked.source is None:
            if asked.why not in told:
                yield Item("data", what, missing=asked.why)
            told.add(asked.why)
            continue
        for place, files in _places(asked):
            if place in told:
                continue
            told.add(place)
            say(f"data {place} ...")
            try:
                found = files()
            except (ClirError, OSError) as error:
                yield Item("data", f"{what} {place}", missing=str(error))
            else:
                where = str(found[0] if len(found) == 1 else found[0].parent) if found else ""
                name = what if place == where else f"{what} {place}"
                yield Item("data", name, _revision(place), _bytes(found), where)


def _places(asked: Asked) -> Iterator[tuple[str, Callable[[], list[Path]]]]:
    """(place, how its files are brought here) of a part: addresses, hub files, local files, or what ir_datasets reads."""
    assert asked.source is not None
    reading, dataset = asked.source.reading, asked.dataset
    if reading.get("kind") == "irds":

        def read() -> list[Path]:
            if asked.part == "docs":
                next(iter(dataset.read_docs(asked.lang)), None)
            elif asked.part == "topics":
                dataset.read_topics(asked.lang)
            else:
                dataset.read_qrels(asked.name)
            return []

        yield f"ir_datasets {reading['ids']} {asked.part}", read
    elif isinstance(remote := reading.get("places"), list) and remote:
        for place in remote:
            yield str(place), lambda place=place: places.files(f"dataset.{asked.part}", str(place))  # type: ignore[misc]
    else:
        for path in asked.source.files:
            yield str(path), lambda path=path: [_here(path)]  # type: ignore[misc]


def _here(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path} does not exist, and nothing says where it could be fetched from")
    return path


def _revision(place: str) -> str:
    """The commit in hub:OWNER/NAME@COMMIT/path."""
    return place.split("@", 1)[1].split("/", 1)[0] if place.startswith("hub:") and "@" in place else ""


def _bytes(paths: Sequence[Path]) -> int:
    files = [f for p in paths for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()]
    return sum(f.stat().st_size for f in files)


# What is printed ------------------------------------------------------------------------------------------------------


def record(items: Sequence[Item], root: Path) -> dict[str, Any]:
    return {"lock": str(root / "models.lock"), "items": [asdict(item) for item in items]}


def text(items: Sequence[Item], root: Path) -> str:
    """A line per item, then what is missing and how to get it."""
    here = [item for item in items if not item.missing]
    lines = aligned([(i.kind, i.name, i.revision[:12], i.size, i.place) for i in here], right=[3])
    lines += [f"missing: {item.missing}" for item in items if item.missing]
    if any(item.kind == "model" for item in here):
        lines.append(
            f"the models' commits stand in {root / 'models.lock'}; on a node without network set HF_HUB_OFFLINE=1"
        )
    total = Item("data", "", bytes=sum(item.bytes for item in here)).size
    lines.append(f"{len(here)} of {len(items)} here, {total}" if items else "nothing is missing: every step is made")
    return "\n".join(lines)
