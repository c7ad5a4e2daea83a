"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from clir_cli.errors import ConfigError, DataError


class Damaged(DataError, ValueError):
    """A file of JSON that does not parse, or that does not say what such a file says."""


def write_text(path: Path, write: Callable[[IO[str]], object]) -> None:
    """Let `write` fill a draft beside `path`, flush it to the disk, and rename it: after a crash the old file stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.draft")  # process ids repeat: machines share a disk
    try:
        with draft.open("w", encoding="utf-8", newline="") as out:
            write(out)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    write_text(path, lambda out: out.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n"))


def read_yaml(path: Path) -> Any:
    """What a yaml file says. Raises ConfigError for what is no yaml, and for a key that stands in one place twice."""
    import yaml

    base: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]  # one of two classes
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set[str]()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen - {"<<"}:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands there twice", problem_mark=key.start_mark)
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        said = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise ConfigError(f"{path} is not yaml: {said}") from error


class Said(dict[str, Any]):
    """What a file says by name; a name that is looked up and absent is an error about the file."""

    def __init__(self, path: Path, said: dict[str, Any]) -> None:
        super().__init__(said)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise _damaged(self._path, f"it does not say {name!r}")


def read_json(path: Path, kind: type[dict[Any, Any] | list[Any]] = dict) -> Any:
    """What a file holds that was written whole; Damaged if something has changed it since."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(found, kind):
        raise _damaged(path, f"expected {'names and values' if kind is dict else 'a list'}, found {str(found)[:40]}")
    return Said(path, found) if isinstance(found, dict) else found


def _damaged(path: Path, why: str) -> Damaged:
    return Damaged(f"{path} is damaged: {why}\n  {again(path.parent)}")


def again(path: Path) -> str:
    """How to mend what clir wrote and something has changed since."""
    return f"If clir wrote it, delete {path}: the same `clir run` makes it again."


def sync(folder: Path) -> None:
    """Flush every file of a folder to the disk, so that a rename after it outlives a power cut."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
