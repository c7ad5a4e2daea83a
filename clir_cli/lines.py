"""Text files line by line, plain or gzipped; what does not parse is named by file and line."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from clir_cli.errors import DataError, MissingData

_BLANK = re.compile(r"[ \t\n\v\f\r\0]")  # what separates the fields of a TREC file, and NUL: no id may hold it
_GRADE = re.compile(r"[+-]?[0-9]+")
HIGHEST = 1_000_000  # of a grade: trec_eval counts the documents of each grade up to the highest
GZIP = b"\x1f\x8b"


def content(path: Path) -> bytes:
    """All bytes of a file of text, plain or gzipped. Raises DataError where it is damaged or no text."""
    raw = path.read_bytes()
    _check_name(path, raw[:2])
    try:
        data = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except _NO_GZIP as error:
        raise _incomplete(path, error) from error
    if (at := data.find(b"\0")) >= 0:
        raise _nul(path, data.count(b"\n", 0, at) + 1)
    return data


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes with the line break) of a file of text, plain or gzipped, one line in memory."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                if number == 1:
                    _check_name(path, raw[:2])
                if b"\0" in raw:
                    raise _nul(path, number)
                yield number, raw
    except _NO_GZIP as error:
        raise _incomplete(path, error) from error


_NO_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


def _incomplete(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a complete gzip file ({error}); fetch it again")


def _nul(path: Path, number: int) -> DataError:
    return DataError(
        f"{path}:{number}: a NUL byte, which no text has: is the file damaged, or in UTF-16 (iconv -f UTF-16 -t UTF-8)?"
    )


def _check_name(path: Path, begin: bytes) -> None:
    if begin == GZIP and path.suffix != ".gz":
        raise DataError(f"{path} is gzipped, and its name does not say so: let it end in .gz")


def read_lines(path: Path, option: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its line break) of a UTF-8 file; empty lines are left out.

    A line ends with LF or CR LF only: other characters that Unicode calls line breaks stand in real texts. A byte order
    mark that begins the file is no text; any other is. Raises DataError naming `option` where the file is not there,
    and the line where it is not UTF-8.
    """
    if not path.is_file():
        raise MissingData(f"{option}: {path} {'is not a file' if path.exists() else 'does not exist'}")
    for number, raw in raw_lines(path):
        if text := decoded(path, number, raw).rstrip("\r\n"):
            yield number, text


def decoded(path: Path, number: int, raw: bytes) -> str:
    """The text of a line, or of a whole file where `number` is its first line."""
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        found, line = raw[error.start : error.start + 4], number + raw.count(b"\n", 0, error.start)
        at = error.start - raw.rfind(b"\n", 0, error.start) - 1
        raise DataError(
            f"{path}:{line}: expected UTF-8, found {found!r} at byte {at}; convert the file (iconv -t UTF-8)"
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
        row = parse_json(text)
    except ValueError as error:
        found = text[:80]
        raise DataError(f"{path}:{number}: expected one JSON object per line, found {found!r} ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number}: expected one JSON object per line, found {text[:80]!r}")
    return row


def parse_json(text: str, once: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What a JSON text says. ValueError too for what is nested too deep and for what is no character. `once` as in json.loads."""
    try:
        value = json.loads(text, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if "\\ud" in text or "\\uD" in text:  # half of a surrogate pair is no character, though JSON can spell it
        json.dumps(value, ensure_ascii=False).encode()
    return value


def parse_grade(where: str, value: str, column: str = "relevance", line: str = "") -> int:
    """A relevance, which is an integer; an error shows the `line` it stands in, where there is one."""
    if not _GRADE.fullmatch(value):
        raise DataError(f"{where}: expected an integer as {column}, got {value!r}{line and f': {line}'}")
    if len(value) > len(str(HIGHEST)) + 1 or abs(int(value)) > HIGHEST:
        raise DataError(f"{where}: expected {column} from -{HIGHEST} to {HIGHEST}, got {value!r}{line and f': {line}'}")
    return int(value)


def parse_id(path: Path, number: int, column: str, value: object) -> str:
    """An id as text; integers are ids too."""
    if not (text := as_id(value)):
        raise DataError(f"{path}:{number}: expected an id without blanks as {column}, found {value!r}")
    return text


def as_id(value: object) -> str:
    """An id as text, empty where the value is none."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return "" if _BLANK.search(text) else text
