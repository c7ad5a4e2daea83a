"""From a plain dict to frozen components: the dataclass is the schema, and every problem is reported at once."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

from clir_cli.errors import ConfigError

TARGET = "_target_"
PLUGINS = "clir"  # the entry point group under which an installed package offers components and a configs folder


class Problem(NamedTuple):
    """One thing wrong with a configuration: where, what, and whether the key is unknown to the component."""

    path: str
    message: str
    unknown: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def build(node: Any, path: str, problems: list[Problem]) -> Any:
    """The node with every `_target_` dict, innermost first, made a component; what failed becomes None and a Problem."""
    if isinstance(node, Mapping):
        parts = {str(k): build(v, f"{path}.{k}" if path else str(k), problems) for k, v in node.items()}
        return _component(parts, path, problems) if TARGET in node else parts
    if isinstance(node, list | tuple):
        return tuple(build(v, f"{path}.{i}", problems) for i, v in enumerate(node))
    return node


def _component(parts: dict[str, Any], path: str, problems: list[Problem]) -> Any:
    target = parts.pop(TARGET)
    try:
        cls = find(target)
    except ConfigError as error:
        problems.append(Problem(path, str(error)))
        return None
    return construct(cls, parts, path, problems)


def construct(cls: type[Any], values: Mapping[str, Any], path: str, problems: list[Problem]) -> Any:
    """`cls(**values)` after a strict check of types; None and Problems if it does not fit."""
    from pydantic import ValidationError

    failed = {p.path for p in problems}
    checked = {k: v for k, v in values.items() if v != "???"}
    absent = [k for k, v in values.items() if v == "???"]
    problems += [Problem(f"{path}.{k}", _mandatory(cls, k)) for k in absent]
    try:
        valid = _schema(cls).validate_python(checked)  # type: ignore[arg-type]  # a class is hashable
    except ValidationError as error:
        found = list(_problems(cls, path, error, absent))
        problems += [p for p in found if not any(f == p.path or f.startswith(f"{p.path}.") for f in failed)]
        problems += _further(
            cls, checked, path, {str(e["loc"][0]) for e in error.errors(include_url=False) if e["loc"]}
        )
        return None
    if absent:
        return None
    try:
        return cls(**{k: _frozen(v) for k, v in valid.items()})
    except (ValueError, TypeError, ConfigError) as error:
        problems.append(Problem(path, str(error)))
    return None


def _further(cls: type[Any], values: Mapping[str, Any], path: str, wrong: Set[str]) -> list[Problem]:
    """What the class says of the values that have the right types, with its defaults for the `wrong` ones."""
    from pydantic import ValidationError

    try:
        valid = _schema(cls).validate_python({k: v for k, v in values.items() if k not in wrong})  # type: ignore[arg-type]
        cls(**{k: _frozen(v) for k, v in valid.items()})
    except ValidationError:  # a value that must be given is among the wrong ones
        return []
    except (ValueError, TypeError, ConfigError) as error:
        return [Problem(path, str(error))]
    return []


def _problems(cls: type[Any], path: str, error: Any, absent: list[str]) -> Iterator[Problem]:
    names = [f.name for f in dataclasses.fields(cls)]
    seen = set()
    for e in error.errors(include_url=False):
        loc = [str(p) for p in e["loc"]]
        where = ".".join([path, loc[0]] if path and loc else [path or ".".join(loc)])
        if e["type"] == "extra_forbidden":
            near = difflib.get_close_matches(loc[0], names, 3, 0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else ""
            yield Problem(
                where,
                f"{cls.__name__} has no such option; {hint} It has: {', '.join(names) or 'none'}".replace(
                    ";  It", ";  it"
                ).replace(";  ", "; "),
                True,
            )
        elif e["type"] == "missing":
            if loc[0] not in absent:
                yield Problem(where, _mandatory(cls, loc[0]))
        elif (where, e["msg"]) not in seen:
            seen.add((where, e["msg"]))
            said = (
                "should be a list, such as [a, b]"
                if e["type"] == "tuple_type"
                else f"{e['msg'][0].lower()}{e['msg'][1:]}"
            )
            yield Problem(where, f"{said}, got {_short(e['input'])}")


def _mandatory(cls: type[Any], name: str) -> str:
    return f"{cls.__name__} needs a value for {name!r}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


@cache
def _schema(cls: type[Any]) -> Any:
    from typing import NotRequired

    from pydantic import ConfigDict, Strict, TypeAdapter
    from typing_extensions import TypedDict

    lax = {Path: Annotated[Path, Strict(False)], Path | None: Annotated[Path | None, Strict(False)]}
    hints = {n: lax.get(h, h) for n, h in get_type_hints(cls, include_extras=True).items()}
    needed = {
        f.name: f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        for f in dataclasses.fields(cls)
        if f.init
    }
    spec = TypedDict(cls.__name__, {n: hints[n] if must else NotRequired[hints[n]] for n, must in needed.items()})  # type: ignore[misc]
    strict = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    spec.__pydantic_config__ = strict  # type: ignore[attr-defined]
    return TypeAdapter(spec)


@cache
def plugins() -> dict[str, Path | None]:
    """Installed packages that offer components under the entry point group `clir`, and their configs folder."""
    found: dict[str, Path | None] = {}
    for entry in importlib.metadata.entry_points(group=PLUGINS):
        package = entry.value.split(":")[0].split(".")[0]
        spec = importlib.util.find_spec(package)
        root = Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None
        found[package] = root / "configs" if root and (root / "configs").is_dir() else None
    return found


@cache
def find(target: str) -> type[Any]:
    """The dataclass that `_target_` names, in this package or an installed plug-in, and nothing else."""
    module, _, name = str(target).rpartition(".")
    package = module.split(".")[0]
    if package != "clir_cli" and package not in plugins():
        raise ConfigError(
            f"_target_ {target!r} is not a component of clir or of an installed plug-in (entry point group {PLUGINS!r})"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"_target_ {target!r} does not exist ({error})") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"_target_ {target!r} is not a dataclass")
    return found


def role(cls: type[Any], name: str) -> str | None:
    """What a field means for identity; None if the class has no such field."""
    metadata = _metadata(cls).get(name)
    return None if metadata is None else str(metadata.get("role", "indexed"))


def is_path(cls: type[Any], name: str, value: Any) -> bool:
    """Whether the value of a field names files: a model's folder, or others whose bytes count."""
    metadata = _metadata(cls).get(name, {})
    if "words" in metadata:
        return isinstance(value, str) and value not in metadata["words"]
    return metadata.get("role") in {"content", "model"} or bool(metadata.get("content") or metadata.get("path"))


def complete(node: dict[str, Any], cls: type[Any] | None = None) -> None:
    """Write the defaults of a component, and of the components in it, into its node."""
    for value in node.values():
        if isinstance(value, dict):
            complete(value)
    if cls is None and TARGET in node:
        try:
            cls = find(node[TARGET])
        except ConfigError:
            return
    if cls is not None:
        for name, value in _defaults(cls).items():
            if name not in node:
                node[name] = list(value) if isinstance(value, tuple) else value


def default(cls: type[Any], name: str) -> Any:
    """The value a field has when nothing is said, lists as lists; None if it has none."""
    value = _defaults(cls).get(name)
    return list(value) if isinstance(value, tuple) else value


_DEFAULTS: dict[type[Any], dict[str, Any]] = {}
_METADATA: dict[type[Any], dict[str, Mapping[str, Any]]] = {}


def _defaults(cls: type[Any]) -> dict[str, Any]:
    if cls not in _DEFAULTS:
        _DEFAULTS[cls] = {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
    return _DEFAULTS[cls]


def _metadata(cls: type[Any]) -> dict[str, Mapping[str, Any]]:
    if cls not in _METADATA:
        _METADATA[cls] = {f.name: f.metadata for f in dataclasses.fields(cls)}
    return _METADATA[cls]


def one_line(error: Exception) -> str:
    """A library's message on one line."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())
