"""An experiment again, from its resolved configuration: `clir run --config FILE`, here or on another machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clir_cli import compose, config, schema
from clir_cli.config import Plain
from clir_cli.errors import ConfigError, DataError
from clir_cli.experiment import RUNS
from clir_cli.files import read_json
from clir_cli.labels import translates
from clir_cli.provenance import checksum

ELSEWHERE = r"\w+:|\{path\}"  # what begins so is in a package, on a hub, at an address, or below dataset.path
COPIED = ("llm", "prompt", "translator")  # nodes of which other nodes hold copies


def cell(file: Path, overrides: Sequence[str] = ()) -> compose.Cell:
    """The configuration of a config.yaml, or of the experiment folder it is in; `overrides` say where things are here.

    Keys are made of what files hold, so other paths and other neutral settings (device, batch, ...) leave the identity as
    it is. ConfigError for any other override; DataError naming every key whose files are not there.
    """
    file = file / "config.yaml" if file.is_dir() else file
    plain = config.load(file)
    for key, value in compose.values(overrides).items():
        _set(plain, key, value)
    if absent := dict(_absent(plain)):
        lines = [f"  {key}: {value}" for key, value in absent.items()]
        keys = " ".join(f"{key}=..." for key in absent)
        raise DataError(
            "\n".join([f"{file} names files that are not here:", *lines])
            + f"\n  say where they are: clir run --config {file} {keys}"
        )
    return compose.Cell(tuple(overrides), plain)


def _set(plain: Plain, key: str, value: Any) -> None:
    """Set a path or a neutral field, also in the copies that other nodes have of its component."""
    group, *path = key.split(".")
    owner, name = _owner(plain, key)
    cls = schema.find(owner[schema.TARGET])
    is_path = schema.is_path(cls, name, value)
    if not is_path and schema.role(cls, name) != "neutral":
        raise ConfigError(
            f"{key}: --config repeats an experiment as it is: beside it stand only paths and neutral settings "
            f"(device, batch, ...), and {name} changes the result; compose anew: clir run ... {key}=..."
        )
    if is_path:
        value = compose.beside(value, Path.cwd(), schema.role(cls, name) == "model")
    before = _get(plain[group], path)
    for node in _named(plain, group) if group in COPIED else [plain[group]]:
        if _get(node, path) == before:
            _get(node, path[:-1])[path[-1]] = value


def _owner(plain: Plain, key: str) -> tuple[Plain, str]:
    """The innermost component on the way to a key, and the field of it that the key is in."""
    node: Any = plain
    owner, name = None, ""
    for part in key.split("."):
        if isinstance(node, dict) and schema.TARGET in node:
            owner, name = node, part
        if not isinstance(node, dict) or part not in node:
            there = ", ".join(map(str, node)) if isinstance(node, dict) else "nothing"
            raise ConfigError(f"{key}: the configuration has no {part!r} there; it has: {there}")
        node = node[part]
    if owner is None:
        raise ConfigError(
            f"{key}: --config repeats an experiment as it is: beside it stand only paths and neutral settings of components"
        )
    return owner, name


def _get(node: Any, path: Sequence[str]) -> Any:
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _named(node: Any, group: str) -> Iterator[Plain]:
    """The nodes of this name, wherever they stand."""
    for name, inside in node.items():
        if isinstance(inside, dict):
            if name == group:
                yield inside
            yield from _named(inside, group)


def _absent(plain: Plain) -> Iterator[tuple[str, str]]:
    """(key, path) of what a component's paths name and this machine lacks; components that nothing uses are left out."""
    unused = {"llm", "prompt"} - {name for name in ("llm", "prompt") if len(list(_named(plain, name))) > 1}
    stages = [cell[stage] for cell in (plain, *_parts(plain)) for stage in ("retrieve", "rerank") if stage in cell]
    if not any(translates(stage) for stage in stages):
        unused.add("translator")
    seen: set[str] = set()
    for key, path in _paths({k: v for k, v in plain.items() if k not in unused}, ""):
        if path not in seen and not _is_there(path):
            yield key, path
        seen.add(path)


def _parts(plain: Plain) -> Iterator[Plain]:
    for kind in ("parts", "cascade"):
        yield from (plain.get(kind) or {}).values()


def _paths(node: Plain, prefix: str) -> Iterator[tuple[str, str]]:
    """(key, path) of every path in the components of a node."""
    cls = schema.find(node[schema.TARGET]) if schema.TARGET in node else None
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else name
        if cls is not None and schema.is_path(cls, name, value):
            hub = schema.role(cls, name) == "model" and not re.match(r"^[/~.]", str(value))
            yield from () if hub else _leaves(value, key)
        elif isinstance(value, dict):
            yield from _paths(value, key)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from _leaves(inside, f"{key}.{name}")
    elif isinstance(value, list):
        for inside in value:
            yield from _leaves(inside, key)
    elif isinstance(value, str) and not re.match(ELSEWHERE, value):
        yield key, value


def _is_there(path: str) -> bool:
    """Whether a file or folder exists; for a pattern such as docs.{lang}.jsonl, whether any does."""
    whole = Path(path).expanduser().absolute()
    if "{" not in path:
        return whole.exists()
    pattern = re.sub(r"\{[^{}]*\}", "*", str(whole.relative_to(whole.anchor)))
    return any(Path(whole.anchor).glob(pattern))


def compared(file: Path, folder: Path) -> str:
    """One line: whether a finished experiment repeats the one that `file` is the configuration of; "" if that is not here."""
    original = (file if file.is_dir() else file.parent).resolve()
    if not (original / "manifest.json").exists() or original == folder.resolve():
        return ""
    before, now = read_json(original / "manifest.json"), read_json(folder / "manifest.json")
    if before["key"] == now["key"]:
        runs = sorted(p.name for pattern in RUNS for p in folder.glob(pattern))
        other = [n for n in runs if not (original / n).exists() or checksum(original / n) != checksum(folder / n)]
        if not other:
            return f"repeats {original}: the same identity, the same bytes of {', '.join(runs)}"
        return f"repeats {original} by its identity, but {', '.join(other)} differ: clir diff {original} {folder}"
    known = {step["key"] for step in before["steps"]}
    new = next((step for step in now["steps"] if step["key"] not in known), None)
    where = f", first in {new['stage']} {new['label']}" if new else ""
    return f"does not repeat {original}: the identities differ{where} (clir why {original} {folder})"
