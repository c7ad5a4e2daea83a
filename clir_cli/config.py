"""A frozen configuration and the components built from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from clir_cli import schema
from clir_cli.errors import ConfigError, MissingModel
from clir_cli.files import read_json, read_yaml, write_json, write_text
from clir_cli.models import hub
from clir_cli.schema import Problem
from clir_cli.text.passages import Aggregate, Passages

Plain: TypeAlias = dict[str, Any]
Memo: TypeAlias = dict[str, Any]  # what a node builds to, by its text
View: TypeAlias = str | tuple[str, ...]


@dataclass(frozen=True)
class Retrieve:
    """How the first stage sees the texts, and how deep it ranks (CONTRACT.md section 2)."""

    query: View = "original"
    doc: View = "original"
    query_translator: Any = None
    doc_translator: Any = None
    query_fields: tuple[str, ...] | None = None
    doc_fields: tuple[str, ...] | None = None
    depth: int = 1000
    passages: Passages | None = None  # None: documents are ranked whole
    expansion: Any = None  # what writes queries for every document before it is indexed (expansion.py)
    pool: Literal["joint", "per_language"] = "joint"
    merge: Literal["rrf", "score", "zscore", "round_robin"] = "rrf"  # how the parts of a pool become one ranking
    tie_break: Literal["auto", "doc_id", "hash"] = "auto"  # auto: hash for a pool, else doc_id

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}")


@dataclass(frozen=True)
class Rerank:
    """How the second stage sees the texts, and how many candidates it orders."""

    query: View = "original"
    doc: View = "original"
    query_translator: Any = None
    doc_translator: Any = None
    query_fields: tuple[str, ...] | None = None
    doc_fields: tuple[str, ...] | None = None
    depth: int = 100
    tail: Literal["keep", "cut"] = "keep"
    unit: Literal["document", "best_passage", "passages"] = "document"  # what the reranker is shown of a candidate
    passages: Passages | None = None  # of unit=passages; None: cut as the first stage's
    aggregate: Aggregate = "max"  # of unit=passages: how the scores of its passages become a document's
    empty: Literal["keep", "drop"] = "keep"  # drop: documents without text leave the ranking before it is reranked
    quotes: Literal["plain", "csv"] = "plain"  # csv: a text that holds a quotation mark is shown as CSV quotes it
    scores: Literal["own", "prior"] = "own"
    # prior: a place keeps the score that its candidate had, and evaluators sort documents of equal scores by doc_id
    repeat: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}")
        if self.repeat < 0 or self.seed < 0:
            raise ValueError(f"repeat and seed must be at least 0, got {self.repeat} and {self.seed}")
        if self.unit != "passages" and (self.passages is not None or self.aggregate != "max"):
            raise ValueError(f"passages and aggregate are for unit=passages, not for unit={self.unit}")


@dataclass(frozen=True)
class Evaluate:
    """Which measures over which judgments and topics; null is what the dataset says."""

    measures: tuple[str, ...] | None = None
    judgments: tuple[str, ...] | None = None
    topics: Literal["judged", "relevant"] = "judged"
    by: None = None  # breakdowns come with the analysis issue

    def __post_init__(self) -> None:
        if self.measures is not None:  # those of a dataset are known to be right
            from clir_cli.evaluation import parse_measures

            try:
                parse_measures(self.measures)
            except ConfigError as error:
                raise ValueError(str(error)) from error


@dataclass(frozen=True)
class Config:
    """A frozen configuration and the components built from it."""

    plain: Plain
    dataset: Any
    translator: Any
    retriever: Any
    retrieve: Retrieve
    reranker: Any
    rerank: Rerank
    evaluate: Evaluate
    parts: tuple[Config, ...] = ()  # the first stages that a hybrid fuses
    cascade: tuple[Config, ...] = ()  # the rerankers that a cascade runs one after another

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.plain["labels"]
        return labels

    def for_doc_lang(self, lang: str) -> Config:
        """The same with the documents of one language only: a part of a pool."""
        return replace(self, dataset=replace(self.dataset, doc_lang=lang, pair=None))


# Components -----------------------------------------------------------------------------------------------------------


def construct(plain: Plain, problems: list[Problem], memo: Memo | None = None) -> Config | None:
    """The components of a frozen configuration; None and Problems where something does not fit.

    With a `memo`, equal nodes are built once: the cells of a sweep have few that differ.
    """
    known = len(problems)
    for name in ("llm", "prompt"):  # also where no reranker uses them: a misspelt key is a misspelt key
        _built(plain.get(name), name, problems, memo)
    users = ("reranker", "translator", "retrieve.expansion")  # hold copies of them
    nested = {f"{user}.{p.path}" for p in problems[known:] for user in users}
    built = {
        name: _built(plain.get(name), name, problems, memo)
        for name in ("dataset", "translator", "retriever", "reranker")
    }
    stages = {
        name: schema.construct(cls, _stage(plain.get(name) or {}, name, problems), name, problems)
        for name, cls in (("retrieve", Retrieve), ("rerank", Rerank), ("evaluate", Evaluate))
    }
    problems[known:] = [p for p in problems[known:] if p.path not in nested]
    problems += [
        Problem(name, _without_target(name, (plain.get("names") or {}).get(name)))
        for name in ("dataset", "retriever", "reranker")
        if not isinstance(plain.get(name), dict) or schema.TARGET not in plain[name]
    ]
    parts = tuple(
        _part(plain, name, part, "parts", problems, memo) for name, part in (plain.get("parts") or {}).items()
    )
    cascade = tuple(
        _part(plain, name, part, "cascade", problems, memo) for name, part in (plain.get("cascade") or {}).items()
    )
    if len(problems) > known:
        return None
    return Config(
        plain=plain, **built, **stages, parts=tuple(p for p in parts if p), cascade=tuple(p for p in cascade if p)
    )


def _without_target(group: str, chosen: Any) -> str:
    return f"the yaml of {chosen!r} names no component: _target_ is missing" if chosen else f"choose one: {group}=..."


def _built(node: Any, path: str, problems: list[Problem], memo: Memo | None) -> Any:
    """The component of a node. One that keeps something, such as a served model its counts, is never shared."""
    if memo is None or not isinstance(node, dict):
        return schema.build(node, path, problems)
    if (text := f"{path} {node!r}") in memo:
        return memo[text]
    known = len(problems)
    component = schema.build(node, path, problems)
    if len(problems) == known and not _keeps(component):
        memo[text] = component
    return component


def _keeps(component: Any) -> bool:
    """Whether a component, or one in it, has a cached property."""
    kind: type[Any] = type(component)
    if not is_dataclass(kind):
        return False
    own = any(isinstance(v, cached_property) for cls in kind.__mro__ for v in vars(cls).values())
    return own or any(_keeps(getattr(component, f.name)) for f in fields(component))


def _stage(node: Plain, name: str, problems: list[Problem]) -> Plain:
    """The values of a stage node, its components and its passages made."""
    values: Plain = schema.build(node, name, problems)
    if isinstance(given := values.get("passages"), dict):
        values["passages"] = schema.construct(Passages, given, f"{name}.passages", problems)
    return values


def _part(plain: Plain, name: str, part: Plain, kind: str, problems: list[Problem], memo: Memo | None) -> Config | None:
    alone = {k: v for k, v in plain.items() if k not in {"parts", "cascade"}} | part
    found: list[Problem] = []
    config = construct(alone, found, memo)
    problems += [p._replace(path=f"{kind}.{name}.{p.path}") for p in found if p.path.split(".")[0] in part]
    return config


def completed(plain: Plain) -> Plain:
    """The configuration with every default said: what a later version of clir has as default does not change it."""
    nodes: dict[str, type[Any]] = {"retrieve": Retrieve, "rerank": Rerank, "evaluate": Evaluate}
    for name, node in plain.items():
        if name in {"parts", "cascade"}:
            plain[name] = {part: completed(inside) for part, inside in node.items()}
        elif isinstance(node, dict):
            schema.complete(node, nodes.get(name))
            if isinstance(given := node.get("passages"), dict):
                schema.complete(given, Passages)
    return plain


def built(plain: Plain, memo: Memo | None = None) -> Config:
    """The components of a frozen configuration that was checked before. ConfigError lists every problem."""
    problems: list[Problem] = []
    config = construct(plain, problems, memo)
    if problems or config is None:
        raise invalid(problems)
    return config


def invalid(problems: Sequence[Problem]) -> ConfigError:
    """One error with all problems, each once."""
    lines = list(dict.fromkeys(str(p) for p in problems))
    return ConfigError(
        lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} problems:", *(f"  {line}" for line in lines)])
    )


# Frozen files and model revisions -------------------------------------------------------------------------------------


def load(path: Path) -> Plain:
    """A frozen configuration as `dump` wrote it."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist")
    plain = read_yaml(path)
    if not isinstance(plain, dict) or "labels" not in plain:
        raise ConfigError(f"{path} is not a resolved configuration: give the config.yaml of an experiment folder")
    return plain


def dump(plain: Mapping[str, Any], path: Path) -> None:
    import yaml

    write_text(path, lambda out: yaml.safe_dump(dict(plain), out, sort_keys=False, allow_unicode=True, width=120))


def pin_revisions(plain: Plain, lock: Path, known: dict[str, str | None] | None = None) -> None:
    """Set every open model revision to the commit that this store, or this machine's model cache, already has.

    `known` remembers them over the cells of a sweep.
    """
    for node, name in _models(plain):
        if node.get("revision") is None and hub.local_folder(model := node[name]) is None:
            if known is None:
                node["revision"] = known_revision(model, lock)
            else:
                if model not in known:
                    known[model] = known_revision(model, lock)
                node["revision"] = known[model]


def known_revision(model: str, lock: Path) -> str | None:
    """The commit that this store, or this machine's model cache, has for a hub model."""
    noted = read_json(lock).get(model) if lock.exists() else None
    return noted or hub.cached_revision(model)


def resolve_revisions(plain: Plain, names: Sequence[str], lock: Path) -> None:
    """Ask the hub for the commits of the named models, note them in `lock`, and pin them. Raises MissingModel for all that fail."""
    from filelock import SoftFileLease

    found, failed = {}, []
    for name in names:
        try:
            found[name] = hub.resolve(name)
        except MissingModel as error:
            failed.append(str(error))
    if failed:
        raise MissingModel("\n".join(failed))
    lock.parent.mkdir(parents=True, exist_ok=True)
    with SoftFileLease(lock.with_suffix(".lease"), lease_duration=30):
        known = read_json(lock) if lock.exists() else {}
        write_json(lock, {**found, **known})
    pin_revisions(plain, lock)


def _models(node: Any) -> Iterator[tuple[Plain, str]]:
    """Every component node with the field that names its hub model; the revision stands beside it."""
    if isinstance(node, dict):
        for name in _model_fields(node[schema.TARGET]) if schema.TARGET in node else ():
            value = node.get(name)
            if isinstance(value, str) and value != "???" and "{" not in value:
                yield node, name
        for value in node.values():
            if isinstance(value, dict):
                yield from _models(value)


@cache
def _model_fields(target: str) -> tuple[str, ...]:
    cls = schema.find(target)
    return tuple(f.name for f in fields(cls) if f.metadata.get("role") == "model")
