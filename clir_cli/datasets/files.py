"""A user's own collection: JSONL or TSV files, plain or gzipped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clir_cli.datasets.collection import Source, TestCollection
from clir_cli.errors import ConfigError, DataError
from clir_cli.evaluation import read_qrels
from clir_cli.lines import is_jsonl, parse_id, parse_object, read_lines
from clir_cli.progress import say
from clir_cli.text.languages import language
from clir_cli.types import Doc, Qrel, Query, content

SHIPPED = "clir:"  # `clir:demo/docs.en.jsonl` lies in this package
PLACE = re.compile(r"\{([^{}]*)\}")
IDS = ("doc_id", "docid", "id", "_id", "docno", "query_id", "qid", "topic_id")  # the names an id goes by, in this order
TEXTS = ("title", "text", "description", "narrative", "contents", "query", "question")  # and a text
UNNAMED = {"docs": ("doc_id", "title", "text"), "topics": ("query_id", "title", "description")}  # TSV, no header
ORIGINALS = ("original", "human translation")  # the versions of an HC4 topic that people wrote
Part = Literal["docs", "topics", "qrels"]
Columns = Mapping[str, str | int]


@dataclass(frozen=True, kw_only=True)
class Files(TestCollection):
    """Documents, topics and qrels in files. Paths may hold {lang} {iso3} {query_lang} {doc_lang} {split}.

    Documents: JSONL, or TSV `doc_id text` / `doc_id title text`. Topics: the same with query_id (`query_id title
    description`), or HC4's JSONL with all languages of a topic in one line. TSV is never unquoted: a quotation mark is
    part of the text. A file whose path names no language holds one language, or says in a `lang` column which row is
    in which.
    """

    docs: str = content()
    topics: str = content()
    qrels: str | Mapping[str, str] | None = content(None)  # one file, or name -> file: shallow and pool judgments
    docs_columns: Columns | None = None  # doc_id, lang and the fields -> column name or number from 1
    topics_columns: Columns | None = None
    format: Literal["auto", "jsonl", "tsv"] = "auto"
    header: bool | Literal["auto"] = "auto"  # TSV: whether the first line names the columns; auto: if it looks so
    aligned: str | None = None  # a pattern whose group 1 is the part of a doc_id that its translations share
    topic_source: str | None = None  # HC4 topics: which version of a language; None: the original, else the human one

    def __post_init__(self) -> None:
        TestCollection.__post_init__(self)
        if self.aligned is not None and _groups(self.aligned) != 1:
            raise ValueError(f"aligned must be a pattern with one group, such as '[a-z]+-(.*)', got {self.aligned!r}")
        _check_columns("docs", self.docs_columns)
        _check_columns("topics", self.topics_columns)
        if len(self.doc_langs) > 1 and not self._tells_languages("docs"):
            raise ValueError(
                f"doc_lang is a pool ({self.doc_label}), but docs={self.docs!r} holds no {{lang}}, docs_columns no lang"
            )
        self.path("docs", self.doc_langs[0])
        self.path("topics", self.query_lang)
        for name in self._qrels_by_name():
            self.path("qrels", self.doc_langs[0], name)

    # Where things are

    def path(self, part: Part, lang: str, name: str = "") -> Path:
        """The file of a part in `lang`; for qrels, of the judgments called `name`. ValueError for an unknown place."""
        text = PLACE.sub(lambda found: self._filled(part, found[1], lang), self._template(part, name))
        if text.startswith(SHIPPED):
            return Path(__file__).parent / text.removeprefix(SHIPPED)
        return Path(text).expanduser().absolute()

    def _filled(self, part: Part, place: str, lang: str) -> str:
        """What stands for a place. Topics may hang on the documents' language too: CIRAL's English ones do."""
        values = {"lang": lang, "iso3": language(lang).iso3, "split": self.split}
        if part == "topics":
            values |= {"query_lang": lang, "doc_lang": self.doc_langs[0] if len(self.doc_langs) == 1 else None}
        else:
            values |= {"query_lang": self.query_lang, "doc_lang": lang}
        if place not in values:
            raise ValueError(
                f"{part}: {{{place}}} is no place in a path; there are: {' '.join(f'{{{name}}}' for name in values)}"
            )
        if (value := values[place]) is None:
            why = "choose one with dataset.split=..." if place == "split" else f"doc_lang is a pool ({self.doc_label})"
            raise ValueError(f"{part}: the path holds {{{place}}}: {why}")
        return value

    def _template(self, part: Part, name: str = "") -> str:
        if part != "qrels":
            return self.docs if part == "docs" else self.topics
        known = self._qrels_by_name()
        if name not in known:
            there = ", ".join(known) or "none (dataset.qrels is not set)"
            raise ConfigError(f"dataset.judgments: no judgments {name!r}; there are: {there}")
        return known[name]

    @property
    def judgment_names(self) -> tuple[str, ...]:
        return tuple(self._qrels_by_name()) if self.judgments is None else self.judgments

    def _qrels_by_name(self) -> dict[str, str]:
        return {"qrels": self.qrels} if isinstance(self.qrels, str) else dict(self.qrels or {})

    def source(self, part: Part, lang: str, name: str = "") -> Source:
        """The files of one part and what decides how they are read.

        `name`: for qrels the judgments, for topics the version (HC4). ConfigError where there is no such part.
        """
        if part == "qrels":
            return Source(tuple(dict.fromkeys(self.path(part, code, name) for code in self.doc_langs)), {})
        reading: dict[str, object] = {
            "format": self.format, "header": self.header, "lang": lang,
            "on_empty": self.on_empty, "on_duplicate": self.on_duplicate,
        }  # fmt: skip
        if part == "docs":
            self._check_language(part, lang)
            reading |= {"columns": self.docs_columns, "aligned": self.aligned}
        else:
            if self._table(part, lang).tsv:
                self._check_plain_topics(lang, name or self.topic_source)
            reading |= {"columns": self.topics_columns, "source": name or self.topic_source}
        return Source((self.path(part, lang),), reading)

    # Which languages a file holds

    def _one_language(self, part: Part) -> bool:
        """Whether the path of a part differs by language."""
        own = "query_lang" if part == "topics" else "doc_lang"
        return not {"lang", "iso3", own}.isdisjoint(PLACE.findall(self._template(part)))

    def _tells_languages(self, part: Part) -> bool:
        columns = self.docs_columns if part == "docs" else self.topics_columns
        return self._one_language(part) or "lang" in (columns or {})

    def _check_language(self, part: Part, lang: str) -> None:
        """Refuse to take a file in one language for another."""
        langs = self.doc_langs if part == "docs" else (self.query_lang,)
        if lang not in langs and not self._tells_languages(part):
            raise ConfigError(
                f"dataset.{part} has none in {lang!r}: {self._template(part)!r} holds no {{lang}} and "
                f"dataset.{part}_columns no lang, so all of it is in {'+'.join(langs)}"
            )

    def _check_plain_topics(self, lang: str, source: str | None) -> None:
        """Refuse to take a file of topics for another language or version of them."""
        if source:
            raise ConfigError(
                f"{self.topics}: topics have versions only in HC4's JSONL, there is no {source!r} "
                "(dataset.topic_source, translator.source)"
            )
        self._check_language("topics", lang)

    def _chosen(self, table: Table, lang: str) -> Iterator[tuple[int, Record]]:
        """The rows in one language. Where the path names a language, a row that says another is an error."""
        others: Counter[str] = Counter()
        one, spelled = self._one_language(table.part), {None, lang, language(lang).iso3}
        for line, row in table.rows():
            record = table.record(line, row)
            if record.lang in spelled or (one and not record.lang):
                yield line, record
            elif one:
                raise DataError(
                    f"{table.path}:{line}: {record.id!r} says it is in {record.lang!r}, but the path says {lang!r}"
                )
            else:
                others[record.lang or "no language"] += 1
        if others:
            found = ", ".join(f"{count} in {name}" for name, count in others.most_common())
            say(f"{table.path}: read for {lang}; there are also: {found}")

    # Reading

    def read_docs(self, lang: str) -> Iterator[Doc]:
        """All documents of one language in file order. Raises DataError with file and line."""
        self._check_language("docs", lang)
        table, pattern = self._table("docs", lang), re.compile(self.aligned or "")
        for line, (doc_id, fields, _) in self._chosen(table, lang):
            shared = None
            if self.aligned is not None:
                found = pattern.fullmatch(doc_id)
                if not (found and found[1]):
                    raise DataError(
                        f"{table.path}:{line}: doc_id {doc_id!r} does not match dataset.aligned={self.aligned!r}"
                    )
                shared = found[1]
            yield Doc(doc_id, fields, lang, shared)

    def read_topics(self, lang: str, source: str | None = None) -> list[Query]:
        """All topics in one language; `source` chooses among versions (HC4's human and machine translations)."""
        table, source = self._table("topics", lang), source or self.topic_source
        if _is_hc4(table):
            return _hc4_topics(table, lang, source)
        self._check_plain_topics(lang, source)
        found = [Query(record.id, record.fields, lang) for _, record in self._chosen(table, lang)]
        if not found:
            raise DataError(f"{table.path}: no topics in {lang!r}")
        return found

    def read_qrels(self, name: str) -> list[Qrel]:
        """The judgments called `name`, over all document languages of the pool."""
        judged: dict[tuple[str, str], Qrel] = {}
        for path in self.source("qrels", "", name).files:
            for row in read_qrels(path):
                first = judged.setdefault((row.query_id, row.doc_id), row)
                if first != row:
                    raise DataError(
                        f"{path}: {row.doc_id!r} is judged {row.relevance} for query {row.query_id!r}, "
                        f"and {first.relevance} in another language's file of the pool"
                    )
        return list(judged.values())

    def _table(self, part: Literal["docs", "topics"], lang: str) -> Table:
        path = self.path(part, lang)
        tsv = self.format == "tsv" if self.format != "auto" else not is_jsonl(path)
        return Table(path, part, tsv, self.docs_columns if part == "docs" else self.topics_columns, self.header)


def _groups(pattern: str) -> int:
    try:
        return re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"aligned is no regular expression: {pattern!r} ({error})") from error


def _check_columns(part: Literal["docs", "topics"], columns: Columns | None) -> None:
    key = UNNAMED[part][0]
    if columns is not None and (key not in columns or set(columns) <= {key, "lang"}):
        raise ValueError(f"{part}_columns must name {key} and at least one field, such as {{{key}: 1, text: 3}}")


# Rows and records -----------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """What a row holds: an id, its text fields in order, and its language where a column says it."""

    id: str
    fields: dict[str, str]
    lang: str | None


class Layout(NamedTuple):
    """Which columns hold the id, the texts (field, column) in order, and the language."""

    id: str
    texts: tuple[tuple[str, str], ...]
    lang: str | None


@dataclass(frozen=True)
class Table:
    """A file of documents or topics, row by row."""

    path: Path
    part: Literal["docs", "topics"]
    tsv: bool
    columns: Columns | None
    header: bool | Literal["auto"]
    layouts: dict[tuple[str, ...], Layout] = field(default_factory=dict)  # by the names that a row has

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line number, columns) of every row."""
        lines = read_lines(self.path, f"dataset.{self.part}")
        if not self.tsv:
            yield from ((number, parse_object(self.path, number, text)) for number, text in lines)
            return
        names: list[str] = []
        for number, text in lines:
            cells = text.split("\t")
            if not names:
                names = self._names(number, cells)
                if self._has_header(cells):
                    continue
            if len(cells) != len(names):
                raise DataError(
                    f"{self.path}:{number}: expected {len(names)} columns separated by tabs ({', '.join(names)}), "
                    f"found {len(cells)}: {text[:120]!r}"
                )
            yield number, dict(zip(names, cells, strict=True))

    def _has_header(self, cells: list[str]) -> bool:
        """Whether the first line names the columns: as told, or as columns chosen by name or an id's name show."""
        if self.header != "auto":
            return self.header
        named = any(isinstance(column, str) for column in (self.columns or {}).values())
        return named or cells[0].lower() in IDS

    def _names(self, number: int, cells: list[str]) -> list[str]:
        """The names of a TSV's columns, or their numbers where dataset.*_columns counts them."""
        chosen, usual = set((self.columns or {}).values()), UNNAMED[self.part]
        if self._has_header(cells):
            names = [str(i) if i in chosen else cell for i, cell in enumerate(cells, 1)]
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise DataError(f"{self.path}:{number}: the header names {twice[0]!r} twice")
            return names
        if self.columns:
            return [str(i) for i in range(1, len(cells) + 1)]
        if len(cells) not in {2, 3}:
            raise DataError(
                f"{self.path}:{number}: expected 2 or 3 columns separated by tabs ({', '.join(usual)}) or a header, "
                f"found {len(cells)}; say which is which: dataset.{self.part}_columns={{{usual[0]}: 1, text: 3}}"
            )
        return [usual[0], "text"] if len(cells) == 2 else list(usual)

    def record(self, line: int, row: Mapping[str, Any]) -> Record:
        """A row's id, texts and language."""
        names = tuple(row)
        if (layout := self.layouts.get(names)) is None:
            layout = self.layouts[names] = self._layout(line, names)
        fields = {}
        for name, column in layout.texts:
            text = row[column]
            if not isinstance(text, str) and text is not None:
                found = f"{type(text).__name__}: {str(text)[:80]!r}"
                raise DataError(f"{self.path}:{line}: expected text as {column}, found {found}")
            fields[name] = text or ""
        identifier = parse_id(self.path, line, layout.id, row[layout.id])
        return Record(identifier, fields, None if layout.lang is None else str(row[layout.lang] or ""))

    def _layout(self, line: int, names: tuple[str, ...]) -> Layout:
        where, option, key = f"{self.path}:{line}", f"dataset.{self.part}_columns", UNNAMED[self.part][0]
        if self.columns is not None:
            given = {name: str(column) for name, column in self.columns.items()}
            if absent := [column for column in given.values() if column not in names]:
                raise DataError(f"{where}: no column {absent[0]!r} ({option}); there are: {', '.join(names)}")
            return Layout(given.pop(key), tuple((n, c) for n, c in given.items() if n != "lang"), given.get("lang"))
        identifier = next((name for name in (key, *IDS) if name in names), None)
        texts = sorted((name for name in names if name in TEXTS), key=lambda name: name != "title")  # the title first
        if identifier is None or not texts:
            what, usual = (key, IDS) if identifier is None else ("text", TEXTS)
            raise DataError(
                f"{where}: no {what} (looked for {', '.join(usual)}); there are: {', '.join(names)}; "
                f"name the columns with {option}"
            )
        return Layout(identifier, tuple((name, name) for name in texts), None)


# HC4 and NeuCLIR topics -----------------------------------------------------------------------------------------------


def _is_hc4(table: Table) -> bool:
    """Whether a topics file holds all languages and versions of a topic in one line."""
    return not table.tsv and isinstance(next(table.rows(), (0, {}))[1].get("topics"), list)


def _hc4_topics(table: Table, lang: str, source: str | None) -> list[Query]:
    """The topics that have a version in `lang`; how many have none is said."""
    found, absent = [], 0
    for line, row in table.rows():
        if versions := _hc4_versions(row, lang):
            query_id = parse_id(table.path, line, "topic_id", row.get("topic_id"))
            where = f"{table.path}:{line}: topic {query_id!r} in {lang!r}"
            found.append(Query(query_id, _hc4_texts(where, versions, source), lang))
        else:
            absent += 1
    if not found:
        raise DataError(f"{table.path}: no topics in {lang!r}")
    if absent:
        say(f"{table.path}: {absent} of {absent + len(found)} topics have no version in {lang!r} and are left out")
    return found


def _hc4_versions(row: Mapping[str, Any], lang: str) -> dict[str, Mapping[str, Any]]:
    """source -> topic of one language, which HC4 writes as ISO 639-3."""
    topics = [topic for topic in row.get("topics") or () if isinstance(topic, dict)]
    return {str(t.get("source")): t for t in topics if t.get("lang") in {lang, language(lang).iso3}}


def _hc4_texts(where: str, versions: Mapping[str, Mapping[str, Any]], source: str | None) -> dict[str, str]:
    """The fields of the version that was asked for."""
    wanted = (source,) if source else ORIGINALS
    chosen = next((versions[name] for name in wanted if name in versions), None)
    if chosen is None:
        raise DataError(
            f"{where} has no version {' or '.join(map(repr, wanted))}\n"
            f"  there are: {', '.join(map(repr, versions))}; choose with dataset.topic_source=..."
        )
    texts = {name: chosen.get(f"topic_{name}") or "" for name in ("title", "description", "narrative")}
    if strange := [name for name, text in texts.items() if not isinstance(text, str)]:
        raise DataError(f"{where}: expected text as topic_{strange[0]}, found {texts[strange[0]]!r}")
    return {name: text for name, text in texts.items() if text}
