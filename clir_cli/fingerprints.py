"""What files hold, as sha256 hashes remembered while the file's size, times and inode stay the same."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clir_cli.errors import MissingData
from clir_cli.files import write_json
from clir_cli.progress import track
from clir_cli.steps import Pending

SMALL = 8 << 20  # bytes that a plan reads without asking: 5 ms
YOUNG = 2.0  # seconds: a file this fresh may change again within its time stamp's grain, so its hash is not remembered
CHUNK = 1 << 22
MANY = 20  # files


@dataclass
class Fingerprints:
    """Content hashes of files and folders, kept in `folder`. While planning (`eager=False`) nothing large is read."""

    folder: Path
    eager: bool = True
    _seen: dict[str, str] = field(default_factory=dict)  # this process's own, by path, size and times

    def fingerprint(self, path: Path) -> str:
        """The sha256 of a file, or of a folder's sorted names and hashes (hidden entries left out); Pending if unknown."""
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
            found = {str(p.relative_to(path)): self._file(p) for p in inside}
            if unknown := [p for p in found.values() if isinstance(p, Pending)]:
                return unknown[0]
            return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
        if not path.exists():
            raise MissingData(f"{path} does not exist")
        return self._file(path)

    def fingerprints(self, paths: Sequence[Path]) -> list[str]:
        """Those of several files; of many they are remembered together, so that a plan does not read a thousand files."""
        if len(paths) < MANY or not all(p.is_file() for p in paths):
            return [self.fingerprint(p) for p in paths]
        stats = [p.stat() for p in paths]
        states = json.dumps([_state(p.resolve(), s) for p, s in zip(paths, stats, strict=True)])
        note = self.folder / f"{hashlib.sha256(states.encode()).hexdigest()[:24]}.json"
        try:
            found: list[str] = json.loads(note.read_text())["value"]
        except (OSError, ValueError, KeyError):
            found = [self._file(p) for p in paths]
            newest = max(max(s.st_mtime, s.st_ctime) for s in stats)
            if time.time() - newest >= YOUNG and not any(isinstance(f, Pending) for f in found):
                write_json(note, {"value": found})
        return found

    def contents(self, value: Any) -> Any:
        """A content field's identity: paths (one, several or named) become hashes; what is None stays None."""
        if value is None:
            return None
        if isinstance(value, Mapping):
            return {str(k): self.contents(v) for k, v in value.items()}
        if isinstance(value, tuple | list):
            return [self.contents(v) for v in value]
        if "{" in str(value):
            return "{}"  # a pattern: the stage that fills it adds the files' own hashes
        return self.fingerprint(Path(value).expanduser())

    def _file(self, path: Path) -> str:
        stat = path.stat()
        if stat.st_size <= SMALL:
            state = str(_state(path, stat))
            if state not in self._seen:
                self._seen[state] = _sha256(path, stat.st_size)
            return self._seen[state]
        if (known := self.remembered(path, "sha256")) is not None:
            return str(known)
        if not self.eager:
            return Pending(f"{path} is to be fingerprinted ({stat.st_size / 1e9:.1f} GB)")
        value = _sha256(path, stat.st_size)
        self.remember(path, "sha256", value, stat)
        return value

    def remembered(self, path: Path, what: str) -> Any:
        """A value kept about this very file, or None."""
        try:
            kept = json.loads(self._note(path, what).read_text())
        except (OSError, ValueError):
            return None
        return kept["value"] if kept["file"] == _state(path.resolve(), path.stat()) else None

    def remember(self, path: Path, what: str, value: Any, stat: os.stat_result | None = None) -> None:
        stat = stat or path.stat()
        if time.time() - max(stat.st_mtime, stat.st_ctime) >= YOUNG:
            write_json(self._note(path, what), {"file": _state(path.resolve(), stat), "value": value})

    def _note(self, path: Path, what: str) -> Path:
        return self.folder / f"{hashlib.sha256(f'{path.resolve()}:{what}'.encode()).hexdigest()[:24]}.json"


def _state(path: Path, stat: os.stat_result) -> list[Any]:
    return [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _sha256(path: Path, size: int) -> str:
    value = hashlib.sha256()
    with path.open("rb") as file:
        chunks = iter(lambda: file.read(CHUNK), b"")
        if size > SMALL:
            chunks = track(chunks, size >> 20, f"fingerprint {path.name}", "MB", CHUNK >> 20)
        for chunk in chunks:
            value.update(chunk)
    return value.hexdigest()
