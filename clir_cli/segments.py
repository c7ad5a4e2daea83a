"""A memory that many processes on many machines fill at once: append-only files, one per writer, merged on read."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from clir_cli.files import write_text

GRACE = 60.0  # seconds that a segment of a dead process rests before it is compacted
LINE = 1000  # values in a line of a compacted segment


class Segments:
    """JSON values by key in `folder`; what one `put` holds is one line: after a crash all of it is there or none.

    A torn last line is dropped. Values of other processes written after opening are not seen: doing work twice is harmless.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._values: dict[str, Any] | None = None
        self._out: int | None = None

    def get(self, key: str) -> Any | None:
        if self._values is None:
            self._values = self._read()
        return self._values.get(key)

    def put(self, items: Mapping[str, Any]) -> None:
        if not items:
            return
        if self._values is None:
            self._values = self._read()
        line = (json.dumps(dict(items), ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        if self._out is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
            self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        view = memoryview(line)
        while view:  # a full disk raises here, and the torn line counts for nothing
            view = view[os.write(self._out, view) :]
        os.fsync(self._out)
        self._values.update(items)

    def close(self) -> None:
        if self._out is not None:
            os.close(self._out)
            self._out = None

    def _read(self) -> dict[str, Any]:
        while True:
            try:
                return _merged(sorted(self.folder.glob("*.jsonl")))
            except FileNotFoundError:  # compacted meanwhile: another file has it now
                continue


def _merged(paths: Sequence[Path]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for path in paths:
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    try:
                        values.update(json.loads(line))
                    except ValueError:  # torn by a full disk, then written on: the writer did not count it
                        continue
    return values


def finished(folder: Path, idle: float) -> list[Path]:
    """The segments that nobody writes to any more: their process was one of this machine and is gone, or they have not
    changed for `idle` seconds."""
    return [path for path in sorted(folder.glob("*.jsonl")) if _is_finished(path, idle)]


def _is_finished(path: Path, idle: float) -> bool:
    host, pid, _ = path.name.rsplit("-", 2)
    try:
        age = time.time() - path.stat().st_mtime
        if host != socket.gethostname():
            return age >= idle
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return age >= min(idle, GRACE)
    except (OSError, ValueError):
        return False
    return False


def compact(folder: Path, idle: float) -> int:
    """Make one segment of the finished ones; returns the bytes that this saves. A reader sees all values at any moment.

    What is there twice is the one that reading took before.
    """
    paths = finished(folder, idle)
    before = sum(path.stat().st_size for path in paths)
    items = list(_merged(paths).items())
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"

    def write(out: IO[str]) -> None:
        for begin in range(0, len(items), LINE):
            json.dump(dict(items[begin : begin + LINE]), out, ensure_ascii=False, separators=(",", ":"))
            out.write("\n")

    write_text(folder / name, write)
    for path in paths:
        path.unlink(missing_ok=True)
    return before - (folder / name).stat().st_size
