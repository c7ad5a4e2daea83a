"""A memory that many processes on many machines fill at once: append-only files, one per writer, merged on read."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
        values: dict[str, Any] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):
                        try:
                            values.update(json.loads(line))
                        except ValueError:  # torn by a full disk, then written on: the writer did not count it
                            continue
        return values
