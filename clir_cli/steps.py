"""A step: a promise of a result, and its identity, which says what is the same work (CONTRACT.md section 5)."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from clir_cli.models import hub
from clir_cli.types import Component

if TYPE_CHECKING:
    from clir_cli.fingerprints import Fingerprints
    from clir_cli.store import At

Json: TypeAlias = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None
Counts: TypeAlias = Mapping[str, float]

KEY = 16  # hexadecimal digits of a key: 64 bits, a collision among a million steps has probability 3e-8


class Pending(str):
    """Stands in an identity for what is not known yet: a file to be fingerprinted, the revision of a hub model."""

    model: str | None = None  # the hub model whose revision is to be resolved


@dataclass(frozen=True)
class Needs:
    """What a step asks of the machine that makes it; None: what its launcher reckons with."""

    gpus: int = 0
    memory_gb: int | None = None
    minutes: int | None = None
    python: str | None = None  # another interpreter, for a component whose model wants other package versions
    loads: str = ""  # the models that it loads: steps of which this is equal are best made by one process


@dataclass(frozen=True)
class Shards:
    """Fixed parts of a step, each made alone and kept: a restarted step makes only the missing ones."""

    total: Callable[[At], int]  # how many documents or queries there are
    make: Callable[[At, int, Path], Counts]  # (at, shard number, its folder)
    unit: str
    size: int  # how many a shard holds: a constant, or batches and with them the bytes would change


@dataclass(frozen=True)
class Ranking:
    """A ranking as steps made it; `under` is the ranking whose rest stays below it (rerank.tail=keep).

    What `step` left out of the first `gone` of them is no rest (rerank.empty=drop).
    """

    step: Step
    under: Ranking | None = None
    gone: int = 0

    @property
    def steps(self) -> tuple[Step, ...]:
        return (self.step, *(self.under.steps if self.under else ()))


@dataclass(frozen=True, eq=False)
class Step:
    """A promise: what it is (`stage`, `meaning`, parents, candidates), and how to make it in a folder."""

    stage: str
    label: str  # decoration: two yaml names for one meaning are one step
    config: Mapping[str, Any]  # the frozen configuration that it is made from, for its record and for other workers
    meaning: Mapping[str, Any]
    make: Callable[[At], Counts]  # for a sharded step: what remains when all shards are there
    parents: tuple[Step, ...] = ()  # their identities are part of this one's
    helpers: tuple[Step, ...] = ()  # must be there first, but say nothing about the result
    candidates: tuple[Ranking, int] | None = None  # a ranking and a depth that count by what they hold
    shards: Shards | None = None
    needs: Needs = field(default_factory=Needs)
    work: str = ""  # what it asks for each query at most, for `clir plan`
    check: Callable[[], None] | None = None  # refuses before anything runs: no key, passages that do not fit

    @property
    def before(self) -> tuple[Step, ...]:
        """Every step that must be finished first."""
        ranked = self.candidates[0].steps if self.candidates else ()
        return tuple(dict.fromkeys((*self.parents, *ranked, *self.helpers)))


def ordered(steps: Sequence[Step]) -> list[Step]:
    """The steps and all that they need, each once, what comes first first."""
    done: dict[Step, None] = {}

    def visit(step: Step) -> None:
        if step not in done:
            for earlier in step.before:
                visit(earlier)
            done[step] = None

    for step in steps:
        visit(step)
    return list(done)


def digest(value: Json) -> str:
    """The key of a JSON value: sha256 over its canonical form. NaN, infinity and sets are errors."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY]


def pending(value: Any) -> list[Pending]:
    """What in an identity is not known yet."""
    if isinstance(value, Pending):
        return [value]
    if isinstance(value, Mapping):
        return [found for v in value.values() for found in pending(v)]
    if isinstance(value, list | tuple):
        return [found for v in value for found in pending(v)]
    return []


Purpose: TypeAlias = Literal["index", "derive", "search"]
_LEFT_OUT: Mapping[Purpose, frozenset[str]] = {
    "index": frozenset({"neutral", "searched", "derived"}),
    "derive": frozenset({"neutral", "searched"}),
    "search": frozenset({"neutral"}),
}


def derives(part: Component) -> bool:
    """Whether a component makes something more of its finished index: a `derived` field is not at its default."""
    return any(f.metadata.get("role") == "derived" and getattr(part, f.name) != f.default for f in fields(part))


def identity(part: Component, prints: Fingerprints, purpose: Purpose = "search") -> dict[str, Any]:
    """What a component means, as JSON: its class and version, its engines, and the fields that change the result.

    `purpose`: all fields, or those that decide an index, or what is derived from one. Computed from the built
    component, never from the yaml, so `k1: 1` and `k1: 1.0` are one.
    """
    said: dict[str, Any] = {"class": f"{type(part).__module__}.{type(part).__qualname__}/{getattr(part, 'version', 1)}"}
    if engines := _engines(part, purpose):
        said["engines"] = engines
    if hasattr(part, "texts"):  # what a prompt says beside its fields
        said["texts"] = digest(part.texts())
    for f in fields(part):
        value, role = getattr(part, f.name), f.metadata.get("role", "indexed")
        if role in _LEFT_OUT[purpose]:
            continue
        if "before" in f.metadata and value == f.metadata["before"]:
            continue
        if role == "content" or f.metadata.get("content"):
            said[f.name] = prints.contents(value)
        elif role == "model":
            said[f.name] = model_identity(value, getattr(part, "revision", None), prints)
        elif f.name == "revision" and any(g.metadata.get("role") == "model" for g in fields(part)):
            continue
        else:
            said[f.name] = _plain(value, prints, purpose)
    return said


def model_identity(model: str, revision: str | None, prints: Fingerprints) -> Any:
    """A local folder counts by its bytes, a hub model by its id and commit."""
    if (folder := hub.local_folder(model)) is not None:
        return {"files": prints.fingerprint(folder)}
    if revision is None:
        unknown = Pending(f"the revision of {model} is to be resolved")
        unknown.model = model
        return {"id": model, "revision": unknown}
    return {"id": model, "revision": revision}


def _plain(value: Any, prints: Fingerprints, purpose: Purpose) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return identity(value, prints, purpose)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, prints, purpose) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, prints, purpose) for v in value]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise TypeError(f"{value!r} cannot be part of an identity")


def _engines(part: Component, purpose: Purpose) -> list[str]:
    """The programs and packages that decide the result, each with its version; `search_engines` do not touch an index."""
    names = (*getattr(part, "engines", ()), *(getattr(part, "search_engines", ()) if purpose != "index" else ()))
    return [f"{name} {_minor(name)}" for name in dict.fromkeys(names)]


@cache
def _minor(package: str) -> str:
    if package == "anserini":  # no package of its own: the jar that pyserini carries
        from clir_cli.text import lucene

        return lucene.engine_version().removeprefix("anserini ")
    distributions = {"faiss": ("faiss-cpu", "faiss-gpu-cu12")}.get(package, (package,))
    for name in distributions:
        try:
            version = ".".join(importlib.metadata.version(name).split(".")[:2])
        except importlib.metadata.PackageNotFoundError:
            continue
        if name == "PyICU":  # what splits the words is the library that it was built with
            import icu

            version += f" ICU {icu.ICU_VERSION}"
        return version
    return "not installed"
