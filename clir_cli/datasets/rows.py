"""Rows of JSONL, TSV, CSV and parquet files, in flat memory; what does not parse is named by file and line (or row)."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from clir_cli.errors import ConfigError, DataError, MissingData
from clir_cli.lines import parse_grade, parse_id, parse_object, read_lines

PLACE = re.compile(r"\{([^{}]+)\}")
NUMBER = "#"  # the column that is a row's own number, from 1; of an element where a list of the row is read
CHUNK = 1000  # rows of a parquet file in memory at once
BUFFER = 1 << 20  # bytes of a parquet column that are read at once, however large its row groups are
Row = tuple[int, dict[str, Any]]  # line or row number from 1, columns


@dataclass(frozen=True)
class Rows:
    """The rows of a file. `each`: a column that holds a list of objects, of which every one is a row."""

    path: Path
    option: str  # `dataset.docs`: what to change where the file is not right
    format: Literal["auto", "jsonl", "tsv", "csv", "parquet"] = "auto"
    names: Sequence[str] | None = None  # of the columns of a TSV or CSV without a header
    each: str | None = None
    quoted: bool = False  # whether a TSV's cells are quoted as a CSV's are
    columns: Sequence[str] = ()  # the columns (or templates) that are wanted: nothing else is read of a parquet file

    def __iter__(self) -> Iterator[Row]:
        if self.each is None:
            yield from self._read()
            return
        for number, row in self._read():
            elements = self.column(number, row, self.each)
            if not isinstance(elements, list) or not all(isinstance(element, dict) for element in elements):
                self.refuse(number, f"expected a list of objects as {self.each}, found {_shown(elements)}")
            rest = {name: value for name, value in row.items() if name != self.each}
            for place, element in enumerate(elements, 1):
                yield number, {**rest, **element, NUMBER: place}

    def _read(self) -> Iterator[Row]:
        kind = self.format if self.format != "auto" else _format(self.path)
        if kind == "parquet":
            return _parquet(self.path, self.option, self._wanted())
        if kind == "jsonl":
            return ((n, parse_object(self.path, n, text)) for n, text in read_lines(self.path, self.option))
        return self._cells(kind)

    def _cells(self, kind: str) -> Iterator[Row]:
        names = None if self.names is None else list(self.names)
        delimiter = "," if kind == "csv" else "\t"
        quoted = kind == "csv" or self.quoted
        for number, cells in _csv(self.path, self.option, delimiter) if quoted else _tsv(self.path, self.option):
            if names is None:
                names = cells
                if len(set(names)) < len(names):
                    self.refuse(number, f"the header names a column twice: {', '.join(names)}")
                continue
            if len(cells) != len(names):
                self.refuse(number, f"expected {len(names)} columns ({', '.join(names)}), found {len(cells)}")
            yield number, dict(zip(names, cells, strict=True))

    def _wanted(self) -> set[str]:
        """The top-level columns that are wanted; empty: all."""
        named = [name for column in self.columns for name in (PLACE.findall(column) if "{" in column else [column])]
        return {name.split(".")[0] for name in (*named, *filter(None, [self.each]))} if named else set()

    # What a row holds

    def refuse(self, number: int, why: str) -> NoReturn:
        raise DataError(f"{self.path}:{number}: {why}")

    def column(self, number: int, row: Mapping[str, Any], name: str) -> Any:
        """A column by its name, or `a.b`: b of the object a; `#` is the row's number."""
        if name in row:
            return row[name]
        if name == NUMBER:
            return number
        value: Any = row
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                self.refuse(number, f"no column {name!r} ({self.option}_columns); there are: {', '.join(row)}")
            value = value[part]
        return value

    def text(self, number: int, row: Mapping[str, Any], column: str) -> str:
        """A column as text, or a template of columns: `{left} [{mention}] {right}`. Null is no text."""
        if "{" in column:
            return PLACE.sub(lambda found: str(self._scalar(number, row, found[1])), column)
        value = self.column(number, row, column)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.refuse(number, f"expected text as {column}, found {_shown(value)}")
        return value

    def id(self, number: int, row: Mapping[str, Any], column: str) -> str:
        value = self.text(number, row, column) if "{" in column else self.column(number, row, column)
        if isinstance(value, float) and value.is_integer():  # what pandas makes of a column of numbers with gaps
            value = int(value)
        return parse_id(self.path, number, column, value)

    def grade(self, number: int, row: Mapping[str, Any], column: str | None) -> int:
        """A relevance; without a column every row is a relevant document."""
        if column is None:
            return 1
        value = self.column(number, row, column)
        if isinstance(value, float) and value.is_integer():  # what pandas makes of a column of numbers with gaps
            value = int(value)
        return parse_grade(f"{self.path}:{number}", str(value).strip(), column)

    def _scalar(self, number: int, row: Mapping[str, Any], column: str) -> Any:
        value = self.column(number, row, column)
        if value is None:
            return ""
        if not isinstance(value, str | int):
            self.refuse(number, f"expected text or a number as {column}, found {_shown(value)}")
        return value


def _shown(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "NaN, which is no text and no JSON (write null)"
    return f"{type(value).__name__}: {str(value)[:80]!r}"


def _format(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    kinds = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
    return next((kind for suffix, kind in kinds.items() if name.endswith(suffix)), "tsv")


def _tsv(path: Path, option: str) -> Iterator[tuple[int, list[str]]]:
    return ((number, text.split("\t")) for number, text in read_lines(path, option))


def _csv(path: Path, option: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Cells, quoted as RFC 4180 says; numbered by the line on which a row ends."""

    def lines() -> Iterator[str]:
        expected = 1
        for number, text in read_lines(path, option):
            yield from ["\n"] * (number - expected)  # an empty line may stand inside a quoted cell
            yield text + "\n"
            expected = number + 1

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 30))  # a document may be longer than 131,072 characters
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        what = "CSV" if delimiter == "," else f"quoted as CSV is; {option}_quoted=false reads quotation marks as text"
        raise DataError(f"{path}:{reader.line_num}: not {what} ({error})") from error


def _parquet(path: Path, option: str, wanted: Set[str]) -> Iterator[Row]:
    """Rows of a parquet file, read row group by row group, without the columns that nobody wants."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(f"{path} is parquet, which is read with pyarrow: pip install pyarrow") from error
    if not path.is_file():
        raise MissingData(f"{option}: {path} does not exist")
    number = 0
    try:
        with parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            there = file.schema_arrow.names
            if wanted and not wanted & set(there):
                raise DataError(f"{path}: no column {min(wanted)!r} ({option}_columns); there are: {', '.join(there)}")
            for batch in file.iter_batches(CHUNK, columns=[n for n in there if n in wanted] if wanted else None):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a text from row {number + 1} on is not UTF-8 ({error})") from error
    except (pa.ArrowInvalid, OSError) as error:
        where = f"{path}:{number + 1}" if number else str(path)
        raise DataError(
            f"{where}: not a complete parquet file ({str(error).splitlines()[0]}); fetch it again"
        ) from error
