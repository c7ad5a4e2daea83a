"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from clir_cli.errors import DataError


class Damaged(DataError, ValueError):
    """A file of JSON that does not parse."""


def write_text(path: Path, write: Callable[[IO[str]], object]) -> None:
    """Let `write` fill a draft beside `path`, flush it to the disk, and rename it: after a crash the old file stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
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


def read_json(path: Path) -> Any:
    """What a file holds that was written whole; Damaged if something has changed it since."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(f"{path} is damaged: {error}\n  {again(path.parent)}") from error


def again(path: Path) -> str:
    """How to mend what clir wrote and something has changed since."""
    return f"If clir wrote it, delete {path}: the same `clir run` makes it again."


def sync(folder: Path) -> None:
    """Flush every file of a folder to the disk, so that a rename after it outlives a power cut."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
