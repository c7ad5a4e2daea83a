"""A user's own collection: JSONL or TSV files, plain or gzipped."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clir_cli.datasets.collection import Source, TestCollection
from clir_cli.errors import ConfigError, DataError
from clir_cli.evaluation import read_qrels
from clir_cli.languages import language
from clir_cli.types import Doc, Qrel, Query, content

SHIPPED = "clir:"  # `clir:demo/docs.en.jsonl` lies in this package
IDS = ("doc_id", "docid", "id", "_id", "docno", "query_id", "qid", "topic_id")  # the names an id goes by, in this order
Part = Literal["docs", "topics", "qrels"]
Row = tuple[int, dict[str, Any]]  # line number, columns


@dataclass(frozen=True, kw_only=True)
class Files(TestCollection):
    """Documents, topics and qrels in files. Paths may hold {lang} {iso3} {query_lang} {doc_lang} {split}.

    Documents: JSONL, or TSV `doc_id text` / `doc_id title text`. Topics: the same with query_id, or HC4's JSONL
    with all languages of a topic in one line. TSV is never unquoted: a quotation mark is part of the text.
    """

    docs: str = content()
    topics: str = content()
    qrels: str | Mapping[str, str] | None = content(None)  # one file, or name -> file: shallow and pool judgments
    docs_columns: Mapping[str, str | int] | None = None  # doc_id, lang and the fields -> column name or number from 1
    topics_columns: Mapping[str, str | int] | None = None
    format: Literal["auto", "jsonl", "tsv"] = "auto"
    header: bool | Literal["auto"] = "auto"  # TSV: the first line names the columns; auto: if it starts with an id's name
    aligned: str | None = None  # a pattern whose group 1 is the part of a doc_id that its translations share
    topic_source: str | None = None  # HC4 topics: which version of a language; None: the original, else the human one

    def __post_init__(self) -> None:
        TestCollection.__post_init__(self)
        if self.aligned is not None and re.compile(self.aligned).groups != 1:
            raise ValueError(f"aligned must be a pattern with one group, such as '[a-z]+-(.*)', got {self.aligned!r}")
        self.path(self.docs, self.doc_langs[0])
        self.path(self.topics, self.query_lang)

    # Where things are

    def path(self, template: str, lang: str) -> Path:
        names = {
            "lang": lang, "iso3": language(lang).iso3, "query_lang": self.query_lang, "doc_lang": lang,
            "split": self.split or "{split}",
        }  # fmt: skip
        try:
            text = template.format(**names)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"path {template!r} may hold {{lang}} {{iso3}} {{query_lang}} {{doc_lang}} {{split}} only") from error
        if "{split}" in text:
            raise ValueError(f"path {template!r} holds {{split}}: choose one with dataset.split=...")
        if text.startswith(SHIPPED):
            return Path(__file__).parent / text.removeprefix(SHIPPED)
        return Path(text).expanduser().absolute()

    @property
    def judgment_names(self) -> tuple[str, ...]:
        return tuple(self._qrels_by_name()) if self.judgments is None else self.judgments

    def _qrels_by_name(self) -> dict[str, str]:
        if isinstance(self.qrels, str):
            return {"qrels": self.qrels}
        return dict(self.qrels or {})

    def source(self, part: Part, lang: str, name: str = "") -> Source:
        """The files of one part and what decides how they are read; for qrels `name` is the judgments' name."""
        common = {"format": self.format, "header": self.header, "on_empty": self.on_empty, "on_duplicate": self.on_duplicate}
        if part == "docs":
            reading = {**common, "columns": self.docs_columns, "aligned": self.aligned, "lang": lang}
            return Source((self.path(self.docs, lang),), reading)
        if part == "topics":
            reading = {**common, "columns": self.topics_columns, "lang": lang, "source": name or self.topic_source}
            return Source((self.path(self.topics, lang),), reading)
        template = self._judgments(name)
        return Source(tuple(dict.fromkeys(self.path(template, code) for code in self.doc_langs)), {})

    def _judgments(self, name: str) -> str:
        known = self._qrels_by_name()
        if name not in known:
            raise ConfigError(f"dataset.judgments: no judgments {name!r}; there are: {', '.join(known) or 'none (dataset.qrels is not set)'}")
        return known[name]

    # Reading

    def read_docs(self, lang: str) -> Iterator[Doc]:
        """All documents of one language in file order. Raises DataError with file and line."""
        path = self.path(self.docs, lang)
        for line, row in _rows(path, self.format, self.header, self.docs_columns, ("doc_id", "title", "text")):
            doc_id, fields, own = _record(path, line, row, self.docs_columns, "doc_id")
            if own is not None and language(own).code != lang:
                raise DataError(f"{path}:{line}: document {doc_id!r} is in {own!r}, but this file was read as {lang!r}")
            yield Doc(doc_id, fields, lang, self._aligned(path, line, doc_id))

    def _aligned(self, path: Path, line: int, doc_id: str) -> str | None:
        if self.aligned is None:
            return None
        if not (found := re.fullmatch(self.aligned, doc_id)):
            raise DataError(f"{path}:{line}: doc_id {doc_id!r} does not match dataset.aligned={self.aligned!r}")
        return found[1]

    def read_topics(self, lang: str, source: str | None = None) -> list[Query]:
        """All topics in one language; `source` chooses among several versions (HC4's human and machine translations)."""
        path = self.path(self.topics, lang)
        found = []
        for line, row in _rows(path, self.format, self.header, self.topics_columns, ("query_id", "title", "text")):
            if isinstance(row.get("topics"), list):
                query = _hc4_topic(path, line, row, lang, source or self.topic_source)
                if query is not None:
                    found.append(query)
                continue
            query_id, fields, _ = _record(path, line, row, self.topics_columns, "query_id")
            found.append(Query(query_id, fields, lang))
        if not found:
            raise DataError(f"{path}: no topics in {lang!r}" + (f" from source {source!r}" if source else ""))
        return found

    def read_qrels(self, name: str) -> list[Qrel]:
        """The judgments called `name`, over all document languages of the pool."""
        return [row for path in self.source("qrels", self.doc_langs[0], name).files for row in read_qrels(path)]


def _rows(
    path: Path, kind: str, header: bool | str, columns: Mapping[str, str | int] | None, default: Sequence[str]
) -> Iterator[Row]:
    if not path.exists():
        raise DataError(f"{path} does not exist; dataset paths are relative to the current directory or absolute")
    tsv = kind == "tsv" or (kind == "auto" and not path.name.removesuffix(".gz").endswith((".jsonl", ".json")))
    lines = _lines(path)
    yield from (_tsv(path, lines, header, columns, default) if tsv else _jsonl(path, lines))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    with opened as raw_lines:
        try:
            for number, raw in enumerate(raw_lines, 1):
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}:{number}: not UTF-8 (byte {error.start}: {raw[error.start : error.start + 4]!r}); convert the file first: iconv -t UTF-8") from error
                if text.strip():
                    yield number, text
        except (EOFError, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: the gzip file is damaged or cut off ({error})") from error


def _jsonl(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
    for number, text in lines:
        try:
            row = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path}:{number}: expected one JSON object per line, found {text[:80]!r} ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {text[:80]!r}")
        yield number, row


def _tsv(
    path: Path, lines: Iterator[tuple[int, str]], header: bool | str, columns: Mapping[str, str | int] | None, default: Sequence[str]
) -> Iterator[Row]:
    names: list[str] = []
    for number, text in lines:
        cells = text.split("\t")
        if not names:
            is_header = cells[0].lower() in IDS if header == "auto" else bool(header)
            by_name = any(isinstance(c, str) for c in (columns or {}).values())
            if by_name and not is_header:
                raise DataError(f"{path}:{number}: columns are named ({columns}), but the first line is no header; give numbers from 1, or header=true")
            names = cells if is_header else _unnamed(path, number, cells, columns, default)
            if is_header:
                continue
        if len(cells) != len(names):
            raise DataError(f"{path}:{number}: expected {len(names)} columns separated by tabs ({', '.join(names)}), found {len(cells)}: {text[:120]!r}")
        yield number, dict(zip(names, cells, strict=True))


def _unnamed(path: Path, number: int, cells: list[str], columns: Mapping[str, str | int] | None, default: Sequence[str]) -> list[str]:
    if columns:
        return [str(i) for i in range(1, len(cells) + 1)]
    if len(cells) == 2:
        return [default[0], "text"]
    if len(cells) == len(default):
        return list(default)
    raise DataError(f"{path}:{number}: a TSV without a header has 2 or {len(default)} columns ({', '.join(default)}), found {len(cells)}; say which is which: dataset.docs_columns={{doc_id: 1, text: 3}}")


def _record(path: Path, line: int, row: Mapping[str, Any], columns: Mapping[str, str | int] | None, key: str) -> tuple[str, dict[str, str], str | None]:
    """An id, its text fields in order, and the language if a column gives it."""
    if columns is None:
        name = next((n for n in (key, *IDS) if n in row), None)
        if name is None:
            raise DataError(f"{path}:{line}: no {key}: looked for {', '.join(IDS)} among {', '.join(row)}; name it with dataset.{'docs' if key == 'doc_id' else 'topics'}_columns")
        texts = {n: n for n in row if n in {"title", "text", "description", "narrative", "contents", "query", "question"}}
        texts = {n: texts[n] for n in sorted(texts, key=lambda n: n != "title")}  # the title first, else in file order
        if not texts:
            raise DataError(f"{path}:{line}: no text: looked for title, text, contents, ... among {', '.join(row)}; name the columns with dataset.{'docs' if key == 'doc_id' else 'topics'}_columns")
        lang = None
    else:
        given = {field: str(column) for field, column in columns.items()}
        absent = [column for column in given.values() if column not in row]
        if key not in given or absent:
            raise DataError(f"{path}:{line}: " + (f"no column {absent[0]!r}" if absent else f"the columns do not say which is {key}") + f"; there are: {', '.join(row)}")
        name, lang = given.pop(key), given.pop("lang", None)
        texts = given
    for column in texts.values():
        if not isinstance(row[column] if row[column] is not None else "", str):
            raise DataError(f"{path}:{line}: {column} must be text, found {type(row[column]).__name__}: {str(row[column])[:80]!r}")
    identifier = row[name]
    if not isinstance(identifier, str | int) or isinstance(identifier, bool) or not str(identifier) or len(str(identifier).split()) != 1:
        raise DataError(f"{path}:{line}: {name} must be an id without white space, found {identifier!r}")
    return str(identifier), {field: row[column] or "" for field, column in texts.items()}, str(row[lang]) if lang else None


def _hc4_topic(path: Path, line: int, row: Mapping[str, Any], lang: str, source: str | None) -> Query | None:
    """A topic of HC4 and NeuCLIR: all languages and sources in one line, languages as ISO 639-3."""
    versions = {t.get("source"): t for t in row["topics"] if t.get("lang") in {lang, language(lang).iso3}}
    if not versions:
        return None
    wanted = [source] if source else ["original", "human translation"]
    chosen = next((versions[name] for name in wanted if name in versions), None)
    if chosen is None:
        raise DataError(
            f"{path}:{line}: topic {row.get('topic_id')!r} has no {' or '.join(repr(w) for w in wanted)} version in {lang!r}\n"
            f"  there are: {', '.join(repr(v) for v in versions)}; choose with dataset.topic_source=..."
        )
    names = {"title": "topic_title", "description": "topic_description", "narrative": "topic_narrative"}
    return Query(str(row["topic_id"]), {field: chosen[name] for field, name in names.items() if chosen.get(name)}, lang)
