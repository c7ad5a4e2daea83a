"""Translations that exist already: the collection's own, or a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from clir_cli.docstore import Docstore
from clir_cli.errors import ConfigError, DataError, MissingData
from clir_cli.lines import is_jsonl, parse_id, parse_object, read_lines
from clir_cli.types import Doc, Query, content

Found: TypeAlias = Mapping[str, Mapping[str, str]]  # id -> fields in the other language
T = TypeVar("T", Doc, Query)
IDS = ("id", "doc_id", "docid", "query_id", "qid")


@dataclass(frozen=True)
class Provided:
    """Look translations up by id instead of making them.

    `source="parallel"`: the collection's documents and topics in the other language (documents share `aligned`, topics
    their query_id). `human`: the version of the topics that people wrote; any other name is that version (TREC's JSONL:
    "google translate"; mt:NAME is NAME). With `file`: JSONL {"id", "text"} or {"id", fields...}, or TSV `id text`, also
    gzipped; the path may hold the languages {source} and {target}, and {name} for one of several by `source`.
    """

    source: str = "parallel"
    file: str | None = content(None)
    missing: Literal["error", "original", "drop"] = "error"  # an id without a translation: refused, or counted and ...

    def __post_init__(self) -> None:
        if self.file is not None:
            self._path("source", "target", self.source)

    @property
    def edition(self) -> str | None:
        """The version of the topics, as the dataset names it; None: the one that people wrote."""
        return None if self.source in {"parallel", "human"} else self.source.removeprefix("mt:")

    def path(self, source: str, target: str) -> Path:
        """The file of one direction. DataError names those there are where `source` is none of them."""
        path = self._path(source, target, self.source)
        if not path.exists() and "{name}" in str(self.file):
            pattern = self._path(source, target, "*")
            before, _, after = pattern.name.partition("*")
            found = sorted(p.name.removeprefix(before).removesuffix(after) for p in pattern.parent.glob(pattern.name))
            raise MissingData(
                f"translator.source={self.source}: {path} does not exist; there are: {', '.join(found) or 'none'}"
            )
        return path

    def _path(self, source: str, target: str, name: str) -> Path:
        try:
            text = str(self.file).format_map({"source": source, "target": target, "name": name})
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(
                f"file may hold {{source}} and {{target}} only, or {{name}} for `source`; got {self.file!r}"
            ) from error
        return Path(text).expanduser().absolute()

    def read_file(self, source: str, target: str) -> dict[str, dict[str, str]]:
        """id -> fields of the file. DataError names the line that does not parse or repeats an id."""
        path = self.path(source, target)
        found: dict[str, dict[str, str]] = {}
        for number, identifier, fields in _entries(path):
            if identifier in found:
                raise DataError(f"{path}:{number}: {identifier!r} is translated twice; keep one of them")
            found[identifier] = fields
        if not found:
            raise DataError(f"{path} holds no translations")
        return found

    def finder(self, source: str, target: str, parallel: Docstore | None) -> Callable[[Sequence[Doc]], Found]:
        """What looks documents' translations up, by doc_id: in the file, or in the collection of the other language."""
        if parallel is None:
            given = self.read_file(source, target)
            return lambda docs: {doc.doc_id: given[doc.doc_id] for doc in docs if doc.doc_id in given}

        def find(docs: Sequence[Doc]) -> Found:
            aligned = {doc.doc_id: doc.aligned for doc in docs if doc.aligned is not None}
            if len(aligned) < len(docs):
                raise ConfigError(
                    "translator=provided looks for parallel documents, but the dataset does not say which belong together\n"
                    "  dataset.aligned='[a-z]+-(.*)' names the part of a doc_id that translations share"
                )
            found = parallel.find(list(aligned.values()), by="aligned")
            return {doc_id: found[key].fields for doc_id, key in aligned.items() if key in found}

        return find

    def topics(self, dataset: Any, source: str, target: str) -> Found:
        """The topics' translations by query_id: in the file, or the dataset's own in the other language."""
        if self.file is not None:
            return self.read_file(source, target)
        return {query.query_id: query.fields for query in dataset.read_topics(target, self.edition)}

    def replaced(self, rows: Sequence[T], found: Found, target: str) -> tuple[list[T], int]:
        """Documents or topics with their translated fields, in their order, and how many have no translation."""
        shown, missing = [], 0
        for row in rows:
            identifier = row[0]
            if identifier in found:
                fields = _same_fields(identifier, row.fields, found[identifier])
                shown.append(row._replace(fields=fields, lang=target))
                continue
            if self.missing == "error":
                where = "" if self.file is None else f"{self.path(row.lang, target)}: "
                raise DataError(
                    f"{where}no translation of {identifier!r} from {row.lang!r} to {target!r}\n"
                    "  translator.missing=original shows the original instead, drop leaves it out; both are counted"
                )
            missing += 1
            if self.missing == "original":
                shown.append(row._replace(lang=target))
        return shown, missing


def _same_fields(identifier: str, own: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """A translation's fields under the original's names; one text may stand for one field of another name."""
    if set(given) >= set(own):
        return {name: given[name] for name in own}
    if len(own) == 1 and len(given) == 1:
        return dict(zip(own, given.values(), strict=True))
    raise DataError(f"the translation of {identifier!r} has fields {', '.join(given)}, the original {', '.join(own)}")


def _entries(path: Path) -> Iterator[tuple[int, str, dict[str, str]]]:
    entry = _json_entry if is_jsonl(path) else _tsv_entry
    for number, line in read_lines(path, "translator.file"):
        name, identifier, fields = entry(path, number, line)
        yield number, parse_id(path, number, name, identifier), fields


def _json_entry(path: Path, number: int, line: str) -> tuple[str, object, dict[str, str]]:
    row = parse_object(path, number, line)
    name = next((n for n in IDS if n in row), None)
    fields = {k: "" if v is None else v for k, v in row.items() if k != name}  # null is no text
    if name is None or not fields:
        raise DataError(f"{path}:{number}: expected an id ({', '.join(IDS)}) and a text, found {', '.join(row)}")
    if strange := [k for k, v in fields.items() if not isinstance(v, str)]:
        raise DataError(f"{path}:{number}: expected text as {strange[0]}, found {fields[strange[0]]!r}")
    return name, row[name], fields


def _tsv_entry(path: Path, number: int, line: str) -> tuple[str, object, dict[str, str]]:
    identifier, tab, text = line.partition("\t")
    if not tab or "\t" in text:
        raise DataError(f"{path}:{number}: expected id TAB text (JSON lines end in .jsonl), found {line[:80]!r}")
    return "id", identifier, {"text": text}
