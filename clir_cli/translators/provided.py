"""Translations that exist already: the collection's own, or a file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clir_cli.errors import DataError
from clir_cli.types import content


@dataclass(frozen=True)
class Provided:
    """Look translations up by id instead of making them.

    `source="parallel"`: the collection's documents and topics in the other language (documents share `aligned`, topics
    their query_id). Another name: a version of the topics (HC4: "human translation", "google translate"). With `file`:
    JSONL {"id", "text"} or {"id", fields...}, or TSV `id text`; the path may hold {source} and {target} languages.
    """

    source: str = "parallel"
    file: str | None = content(None)
    missing: Literal["error", "original", "drop"] = "error"  # an id without a translation: refused, or counted and ...

    def read_file(self, source: str, target: str) -> dict[str, dict[str, str]]:
        """id -> fields of the file. DataError names the line that does not parse or repeats an id."""
        path = self.path(source, target)
        found: dict[str, dict[str, str]] = {}
        for number, line in _lines(path):
            identifier, fields = _entry(path, number, line)
            if identifier in found:
                raise DataError(f"{path}:{number}: {identifier!r} is translated twice")
            found[identifier] = fields
        return found

    def path(self, source: str, target: str) -> Path:
        return Path(str(self.file).format(source=source, target=target)).expanduser().absolute()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.exists():
        raise DataError(f"translator.file: {path} does not exist")
    with (
        gzip.open(path, "rt", encoding="utf-8-sig")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8-sig") as lines
    ):
        try:
            yield from ((n, line.rstrip("\r\n")) for n, line in enumerate(lines, 1) if line.strip())
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: not UTF-8 ({error.reason} at byte {error.start}); convert it first: iconv -t UTF-8"
            ) from error


def _entry(path: Path, number: int, line: str) -> tuple[str, dict[str, str]]:
    if line.startswith("{"):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not a JSON object: {line[:80]!r}") from error
        name = next((n for n in ("id", "doc_id", "docid", "query_id", "qid") if n in row), None)
        fields = {k: v for k, v in row.items() if k != name and isinstance(v, str)}
        if name is None or not fields:
            raise DataError(f"{path}:{number}: expected an id and at least one text, found {', '.join(row)}")
        return str(row[name]), fields
    identifier, tab, text = line.partition("\t")
    if not tab:
        raise DataError(f"{path}:{number}: expected id TAB text, found {line[:80]!r}")
    return identifier, {"text": text}
