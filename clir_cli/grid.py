"""What the yaml of a sweep says: its axes, which of them go together, and which cells it leaves out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from clir_cli.config import Plain
from clir_cli.errors import ConfigError
from clir_cli.files import read_yaml

KEYS = ("axes", "zip", "constraints", "overrides")
Choice: TypeAlias = tuple[str, ...]  # overrides that are set together: one place on an axis


@dataclass(frozen=True)
class Constraint:
    """Cells that a sweep leaves out: those to which all of `skip` applies, unless all of `unless` does."""

    skip: Mapping[str, Any]  # group or dotted key -> value, a list of which one is enough, or {not: ...}
    unless: Mapping[str, Any] | None = None

    def applies(self, plain: Plain, names: Mapping[str, str]) -> bool:
        return matches(self.skip, plain, names) and not (self.unless and matches(self.unless, plain, names))

    def __str__(self) -> str:
        return f"skip {said(self.skip)}" + (f" unless {said(self.unless)}" if self.unless else "")


@dataclass(frozen=True)
class Grid:
    """A sweep's yaml. On an axis of alternatives several keys go together; `overrides` hold in every cell."""

    overrides: Mapping[str, str]  # key -> override
    axes: Mapping[str, tuple[str, ...]]  # key -> overrides, one a place
    together: tuple[tuple[Mapping[str, str], ...], ...]  # each an axis: per place key -> override
    zips: tuple[tuple[str, ...], ...] = ()
    constraints: tuple[Constraint, ...] = ()


def matches(condition: Mapping[str, Any], plain: Plain, names: Mapping[str, str]) -> bool:
    """Whether a configuration has all these values: `reranker: none` is a group's choice, `rerank.doc: ...` a value."""
    return all(_is(_value_of(key, plain, names), wanted) for key, wanted in condition.items())


def _is(value: Any, wanted: Any) -> bool:
    """Whether a value is what a condition wants: one of several in a list, none of those under `not`."""
    if isinstance(wanted, dict) and set(wanted) == {"not"}:
        return not _is(value, wanted["not"])
    return value in (wanted if isinstance(wanted, list) else [wanted])


def _value_of(key: str, plain: Plain, names: Mapping[str, str]) -> Any:
    if key in names:
        return names[key]
    node: Any = plain
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    if node is None and key == "dataset.pair" and isinstance(dataset := plain.get("dataset"), Mapping):
        return f"{dataset.get('query_lang')}-{dataset.get('doc_lang')}"
    return node


def constraints(given: Any, where: str) -> tuple[Constraint, ...]:
    """`- {skip: {reranker: none, rerank.doc: query_lang}}`, as sweep and experiment yamls have them."""
    found = []
    for item in _a(list, given, f"{where}: constraints must be a list of {{skip: {{key: value}}}}"):
        wrong = f"{where}: a constraint is {{skip: {{key: value}}, unless: {{key: value}}}}, got {item!r}"
        _a(dict, item, wrong)
        if not item.get("skip") or set(item) - {"skip", "unless"}:
            raise ConfigError(wrong)
        found.append(Constraint(*(dict(_a(dict, item[k], wrong)) for k in ("skip", "unless") if k in item)))
    return tuple(found)


def read(path: Path) -> Grid:
    """A sweep's yaml. ConfigError says what is wrong in it."""
    given = read_yaml(path)
    if not given:
        raise ConfigError(f"{path} is empty; a sweep has {', '.join(KEYS)}")
    strange = sorted(set(given) - set(KEYS)) if isinstance(given, dict) else [given]
    if strange:
        raise ConfigError(f"{path}: a sweep has {', '.join(KEYS)}; got {', '.join(map(str, strange))}")
    axes: dict[str, tuple[str, ...]] = {}
    together = []
    for key, values in _a(dict, given.get("axes") or {}, f"{path}: axes is a mapping of keys to values").items():
        _a(str, key, f"{path}: axes has a key that is no text: {key!r}")
        if isinstance(values, list) and values and all(isinstance(v, dict) for v in values):
            together.append(tuple(row for alternative in values for row in _rows(alternative)))
        elif isinstance(values, list) and values and not any(isinstance(v, dict) for v in values):
            axes[key] = tuple(f"{key}={spelled(v)}" for v in values)
        elif isinstance(values, str):
            axes[key] = (f"{key}={values}",)  # Hydra's grammar: range(1,9), glob(bm25*), a,b
        else:
            raise ConfigError(
                f"{path}: axes.{key} must be a list of values, or of {{key: value}} that go together; got {values!r}"
            )
    overrides = _a(dict, given.get("overrides") or {}, f"{path}: overrides is a mapping of keys to values")
    zips = _a(list, given.get("zip") or [], f"{path}: zip is a list of lists of keys")
    return Grid(
        {k: f"{k}={spelled(v)}" for k, v in overrides.items()}, axes, tuple(together),
        tuple(tuple(map(str, _a(list, names, f"{path}: zip is a list of lists of keys"))) for names in zips),
        constraints(given.get("constraints") or [], str(path)),
    )  # fmt: skip


def _a(kind: type[Any], value: Any, otherwise: str) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(otherwise)
    return value


def _rows(alternative: Mapping[str, Any]) -> list[dict[str, str]]:
    """`{dataset: clef2003, dataset.pair: [en-de, en-fi]}` is two places of an axis; a list value is a list in a list."""
    values = [
        [(k, f"{k}={spelled(v)}") for v in (vs if isinstance(vs, list) else [vs])] for k, vs in alternative.items()
    ]
    return [dict(row) for row in itertools.product(*values)]


def spelled(value: Any) -> str:
    """A value in Hydra's grammar of overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(spelled, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{spelled(v)}" for k, v in value.items()) + "}"
    text = str(value)
    if not isinstance(value, str) or re.fullmatch(r"(?!null$|true$|false$)[A-Za-z_][\w./+@-]*", text, re.ASCII | re.I):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def said(condition: Mapping[str, Any]) -> str:
    """`reranker=none rerank.doc=query_lang`; `a|b` where one of several is enough, `!=` for `not`."""
    found = []
    for key, wanted in condition.items():
        unwanted = isinstance(wanted, dict) and set(wanted) == {"not"}
        values = wanted["not"] if unwanted else wanted
        spelt = "|".join(map(spelled, values if isinstance(values, list) else [values]))
        found.append(f"{key}{'!=' if unwanted else '='}{spelt}")
    return " ".join(found) or "everything"


# What the command line makes of it ------------------------------------------------------------------------------------


def combined(
    together: Sequence[Mapping[str, str]], given: Mapping[str, list[str]], same: Callable[[str, str], bool]
) -> tuple[list[Choice], dict[str, list[str]]]:
    """An axis of several keys under the command line's overrides, and those of them that are of other keys.

    A value that the axis has restricts it to the places with that value; another one takes the key's place, and a group's
    choice that of the keys of its node too. An override holds also where a place says nothing of its key.
    `same(a, b)` says whether two overrides set one value.
    """
    left, places = dict(given), list(together)
    for key in dict.fromkeys(k for place in places for k in place):
        if key not in left:
            continue
        texts, before, places = left.pop(key), places, []
        others = [t for t in texts if not any(same(t, p[key]) for p in before if key in p)]
        for place in before:
            if any(key in place and same(text, place[key]) for text in texts):
                places.append(place)
            wanted = others if key in place else texts
            places += [{**_without(place, key), key: text} for text in wanted]
    return [tuple(place.values()) for place in {frozenset(place.items()): place for place in places}.values()], left


def _without(place: Mapping[str, str], key: str) -> dict[str, str]:
    """A place without a key; without those of its node, if it is a group: they are of the choice that was there."""
    return {k: v for k, v in place.items() if k != key and ("." in key or not k.startswith(f"{key}."))}
