"""Translations that exist already: the collection's own, or a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clir_cli.errors import DataError
from clir_cli.lines import is_jsonl, parse_id, parse_object, read_lines
from clir_cli.types import content

IDS = ("id", "doc_id", "docid", "query_id", "qid")


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

    def __post_init__(self) -> None:
        if self.file is not None:
            self.path("source", "target")

    def path(self, source: str, target: str) -> Path:
        """The file of one direction."""
        try:
            text = str(self.file).format_map({"source": source, "target": target})
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"file may hold {{source}} and {{target}} only, got {self.file!r}") from error
        return Path(text).expanduser().absolute()

    def read_file(self, source: str, target: str) -> dict[str, dict[str, str]]:
        """id -> fields of the file. DataError names the line that does not parse or repeats an id."""
        path = self.path(source, target)
        found: dict[str, dict[str, str]] = {}
        for number, identifier, fields in _entries(path):
            if identifier in found:
                raise DataError(f"{path}:{number}: {identifier!r} is translated twice; keep one of them")
            found[identifier] = fields
        return found


def _entries(path: Path) -> Iterator[tuple[int, str, dict[str, str]]]:
    entry = _json_entry if is_jsonl(path) else _tsv_entry
    for number, line in read_lines(path, "translator.file"):
        name, identifier, fields = entry(path, number, line)
        yield number, parse_id(path, number, name, identifier), fields


def _json_entry(path: Path, number: int, line: str) -> tuple[str, object, dict[str, str]]:
    row = parse_object(path, number, line)
    name = next((n for n in IDS if n in row), None)
    fields = {k: v for k, v in row.items() if k != name and isinstance(v, str)}
    if name is None or not fields:
        raise DataError(f"{path}:{number}: expected an id ({', '.join(IDS)}) and a text, found {', '.join(row)}")
    return name, row[name], fields


def _tsv_entry(path: Path, number: int, line: str) -> tuple[str, object, dict[str, str]]:
    identifier, tab, text = line.partition("\t")
    if not tab or "\t" in text:
        raise DataError(f"{path}:{number}: expected id TAB text (JSON lines end in .jsonl), found {line[:80]!r}")
    return "id", identifier, {"text": text}
