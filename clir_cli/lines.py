"""Text files line by line, plain or gzipped; what does not parse is named by file and line."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from clir_cli.errors import DataError, MissingData

_BLANK = re.compile(r"[ \t\n\v\f\r]")  # what separates the fields of a TREC file: no id may hold it


def read_lines(path: Path, option: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its line break) of a UTF-8 file; empty lines are left out.

    A line ends with LF or CR LF only: other characters that Unicode calls line breaks stand in real texts. A byte order
    mark that begins the file is no text; any other is. Raises DataError naming `option` where the file is not there,
    and the line where it is not UTF-8.
    """
    if not path.is_file():
        raise MissingData(f"{option}: {path} {'is not a file' if path.exists() else 'does not exist'}")
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                if text := _decoded(path, number, raw).rstrip("\r\n"):
                    yield number, text
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a complete gzip file ({error}); fetch it again") from error


def _decoded(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        found = raw[error.start : error.start + 4]
        raise DataError(
            f"{path}:{number}: expected UTF-8, found {found!r} at byte {error.start}; convert the file (iconv -t UTF-8)"
        ) from error


class Lines(Sequence[str]):
    """The lines of a file of ids that clir wrote, decoded where they are asked for: 8 bytes a line more than the file.

    In a list each would be a text of 50 bytes and its letters, behind a pointer of 8.
    """

    def __init__(self, path: Path) -> None:
        import numpy as np

        self.data = path.read_bytes()
        self.ends = np.flatnonzero(np.frombuffer(self.data, np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...
    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        number = range(len(self.ends))[at]
        if isinstance(number, range):
            return [self[i] for i in number]
        begin = self.ends[number - 1] + 1 if number else 0
        return self.data[begin : self.ends[number]].decode()

    def __iter__(self) -> Iterator[str]:
        return iter(self.data.decode().split("\n")[:-1])


def is_jsonl(path: Path) -> bool:
    """Whether a file's name says that it holds JSON lines; everything else is TSV."""
    return path.name.removesuffix(".gz").endswith((".jsonl", ".json"))


def parse_object(path: Path, number: int, text: str) -> dict[str, Any]:
    """The JSON object of one line."""
    try:
        row = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # half of a surrogate pair is no character, though JSON can spell it
            json.dumps(row, ensure_ascii=False).encode()
    except ValueError as error:
        found = text[:80]
        raise DataError(f"{path}:{number}: expected one JSON object per line, found {found!r} ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number}: expected one JSON object per line, found {text[:80]!r}")
    return row


def parse_id(path: Path, number: int, column: str, value: object) -> str:
    """An id as text; integers are ids too."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not text or _BLANK.search(text):
        raise DataError(f"{path}:{number}: expected an id without blanks as {column}, found {value!r}")
    return text
