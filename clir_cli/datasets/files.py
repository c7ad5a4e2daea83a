"""Collections in JSONL or TSV files, plain or gzipped: a user's own, and those that are published so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clir_cli.datasets import places
from clir_cli.datasets.collection import Once, Source, TestCollection, united
from clir_cli.errors import ConfigError, DataError, MissingData, many
from clir_cli.evaluation import read_qrels, tell_odd
from clir_cli.lines import is_jsonl, parse_grade, parse_id, parse_object, read_lines
from clir_cli.progress import say
from clir_cli.text.languages import language
from clir_cli.types import Doc, Qrel, Query, content, neutral

SHIPPED = "clir:"  # `clir:demo/docs.en.jsonl` lies in this package
PLACE = re.compile(r"\{([^{}]*)\}")
IDS = ("doc_id", "docid", "id", "_id", "docno", "query_id", "qid", "topic_id")  # the names an id goes by, in this order
TEXTS = ("title", "text", "description", "narrative", "contents", "query", "question")  # and a text
UNNAMED = {"docs": ("doc_id", "title", "text"), "topics": ("query_id", "title", "description")}  # TSV, no header
FIELDS = ("title", "description", "narrative")
ORIGINALS = ("original", "human translation")  # the versions of an HC4 topic that people wrote
Part = Literal["docs", "topics", "qrels"]
Columns = Mapping[str, str | int]


@dataclass(frozen=True, kw_only=True)
class Files(TestCollection):
    """Documents, topics and qrels in files. Paths may hold {lang} {iso3} {name} {query_lang} {doc_lang} {split} {path}.
    They may be places elsewhere too (places.py): `hub:OWNER/NAME@REVISION/docs.jsonl`, `https://HOST/qrels.txt`.

    Documents: JSONL, or TSV `doc_id text` / `doc_id title text`. Topics: the same with query_id (`query_id title
    description`), or HC4's JSONL with all languages of a topic in one line. TSV is never unquoted: a quotation mark is
    part of the text. A file whose path names no language holds one language, or says in a `lang` column which row is
    in which.
    """

    docs: str = content()
    topics: str | Mapping[str, str] = content()  # or language -> place, "*" for those that are not named
    qrels: str | Mapping[str, str] | None = content(None)  # one file, or name -> file: shallow and pool judgments
    docs_columns: Columns | None = None  # doc_id, lang and the fields -> column name or number from 1
    topics_columns: Columns | None = None
    format: Literal["auto", "jsonl", "tsv"] = "auto"
    header: bool | Literal["auto"] = "auto"  # TSV: whether the first line names the columns; auto: if it looks so
    aligned: str | None = None  # a pattern whose group 1 is the part of a doc_id that its translations share
    topic_source: str | None = None  # HC4 topics: which version of a language; None: the original, else the human one
    translated: Mapping[str, str] | None = content(None)  # {en: path}: translations of the documents, under their ids
    qrels_splits: Mapping[str, tuple[str, ...]] | None = None  # {pools: [test-a]}: judgments that only some splits have
    checksums: Mapping[str, str] | None = neutral(None)  # end of an address -> md5:HEX or sha256:HEX of what it gives
    qrels_lang: bool = False  # the second column of the qrels is the documents' language (ISO 639-3), not 0 or Q0

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
        self._filled_place("docs", self.doc_langs[0])
        self._filled_place("topics", self.query_lang)
        for name in self._qrels_by_name():
            self._filled_place("qrels", self.doc_langs[0], name)

    # Where things are

    def place(self, part: Part, lang: str, name: str = "") -> str:
        """Where a part in `lang` is (places.py); for qrels, the judgments called `name`."""
        text = self._filled_place(part, lang, name)
        if "{path}" in text:
            text = text.replace("{path}", str(self.root()))
        if text.startswith(SHIPPED):
            return str(Path(__file__).parent / text.removeprefix(SHIPPED))
        if not _is_elsewhere(text):
            return str(Path(text).expanduser().absolute())
        address, _, member = text.partition("!")
        sums = [known for end, known in (self.checksums or {}).items() if address.endswith(end)]
        return address + "".join(f"#{known.replace(':', '=')}" for known in sums[:1]) + (f"!{member}" if member else "")

    def _filled_place(self, part: Part, lang: str, name: str = "") -> str:
        """The place with all but {path} filled. ValueError for an unknown place."""
        return PLACE.sub(lambda found: self._filled(part, found[1], lang), self._template(part, name, lang))

    def _filled(self, part: Part, place: str, lang: str) -> str:
        """What stands for a place. Topics may hang on the documents' language too: CIRAL's English ones do."""
        if part == "docs" and lang in (self.translated or {}) and lang not in self.doc_langs:
            lang = self._translated_from()
        spoken = language(lang)
        values = {
            "lang": lang, "iso3": spoken.iso3, "name": spoken.name.lower().replace(" ", "_"), "split": self.split, "path": "{path}",
        }  # fmt: skip
        if part == "topics":
            one = self.doc_langs[0] if len(self.doc_langs) == 1 else None
            values |= {"query_lang": lang, "doc_lang": one, "doc_iso3": language(one).iso3 if one else None}
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

    def _translated_from(self) -> str:
        if len(self.doc_langs) == 1:
            return self.doc_langs[0]
        raise ConfigError(
            f"dataset.translated: translations are read for one language of documents at a time, doc_lang is a pool "
            f"({self.doc_label}); choose another translator, or sweep over dataset.doc_lang"
        )

    def _template(self, part: Part, name: str = "", lang: str = "") -> str:
        if part == "docs" and lang not in self.doc_langs and lang in (self.translated or {}):
            return (self.translated or {})[lang]
        if part == "docs":
            return self.docs
        if part == "topics":
            return self._topics_in(lang)
        known = self._qrels_by_name()
        if name not in known:
            there = ", ".join(known) or "none (dataset.qrels is not set)"
            raise ConfigError(f"dataset.judgments: no judgments {name!r}; there are: {there}")
        return known[name]

    def _topics_in(self, lang: str) -> str:
        if isinstance(self.topics, str):
            return self.topics
        if (found := self.topics.get(lang, self.topics.get("*"))) is None:
            raise ConfigError(f"dataset.topics has none in {lang!r}; there are: {' '.join(self.topics)}")
        return found

    @property
    def judgment_names(self) -> tuple[str, ...]:
        return tuple(self._qrels_by_name()) if self.judgments is None else self.judgments

    def _qrels_by_name(self) -> dict[str, str]:
        """name -> place of the judgments that the split has."""
        given = {"qrels": self.qrels} if isinstance(self.qrels, str) else dict(self.qrels or {})
        only = self.qrels_splits or {}
        return {name: place for name, place in given.items() if self.split in only.get(name, (self.split,))}

    def source(self, part: Part, lang: str, name: str = "") -> Source:
        """The files of one part and what decides how they are read.

        `name`: for qrels the judgments, for topics the version (HC4). ConfigError where there is no such part.
        """
        if part == "qrels":
            wanted = list(dict.fromkeys(self.place(part, code, name) for code in self.doc_langs))
            self._refuse_missing(wanted)
            kept = {"lang": self.doc_label} if self.qrels_lang else {}
            return Source(_fingerprinted(wanted), {**kept, **_elsewhere(wanted)})
        reading: dict[str, object] = {
            "format": self.format, "header": self.header, "lang": lang,
            "on_empty": self.on_empty, "on_duplicate": self.on_duplicate,
        }  # fmt: skip
        if part == "docs":
            self._check_language(part, lang)
            reading |= {"columns": self.docs_columns, "aligned": self.aligned}
        else:
            if self._is_tsv(self.place(part, lang)):
                self._check_plain_topics(lang, name or self.topic_source)
            reading |= {"columns": self.topics_columns, "source": name or self.topic_source}
        wanted = [self.place(part, lang)]
        if lang in (self.doc_langs if part == "docs" else (self.query_lang,)):
            self._refuse_missing(wanted)
        return Source(_fingerprinted(wanted), {**reading, **_elsewhere(wanted)})

    def _refuse_missing(self, wanted: Sequence[str]) -> None:
        """Name all files that are not there, where one that is wanted is not and others are missing with it.

        The plan of a sweep takes a class made of this one (absent.py), which is not refused: it goes on without them.
        """
        if type(self) is not Files or not any(_is_absent(place) for place in wanted):
            return
        parts = [("docs", self.place("docs", code)) for code in self.doc_langs]
        parts.append(("topics", self.place("topics", self.query_lang)))
        parts += [("qrels", self.place("qrels", code, name)) for name in self.judgment_names for code in self.doc_langs]
        absent = list(dict.fromkeys(f"dataset.{part}: {place}" for part, place in parts if _is_absent(place)))
        if len(absent) > 1:
            raise MissingData(f"{len(absent)} files do not exist:\n  " + "\n  ".join(absent))

    def _has_split(self, split: str) -> bool:
        return super()._has_split(split) or any(split in only for only in (self.qrels_splits or {}).values())

    # Which languages a file holds

    def _one_language(self, part: Part) -> bool:
        """Whether the path of a part differs by language."""
        own = "query_lang" if part == "topics" else "doc_lang"
        if part == "topics" and not isinstance(self.topics, str):
            return True
        return not {"lang", "iso3", "name", own}.isdisjoint(PLACE.findall(self._template(part, lang=self.doc_langs[0])))

    def _tells_languages(self, part: Part) -> bool:
        columns = self.docs_columns if part == "docs" else self.topics_columns
        return self._one_language(part) or "lang" in (columns or {})

    def _check_language(self, part: Part, lang: str) -> None:
        """Refuse to take a file in one language for another."""
        langs = self.doc_langs if part == "docs" else (self.query_lang,)
        if part == "docs" and lang in (self.translated or {}):
            return
        if lang not in langs and not self._tells_languages(part):
            raise ConfigError(
                f"dataset.{part} has none in {lang!r}: {self._template(part)!r} holds no {{lang}} and "
                f"dataset.{part}_columns no lang, so all of it is in {'+'.join(langs)}\n"
                "  If you have no translation, choose what makes one (translator=..., see `clir configs translator`), or a first stage\n"
                "  that needs none: retriever=bm25, or an encoder of both languages (`clir configs retriever`)"
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
        one, spelled = self._one_language(table.part), {None, *language(lang).spellings}
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
        table.tell_differences()
        if others:
            found = ", ".join(f"{count} in {name}" for name, count in others.most_common())
            say(f"{table.path}: read for {lang}; there are also: {found}")

    # Reading

    def read_docs(self, lang: str) -> Iterator[Doc]:
        """All documents of one language in file order. Raises DataError with file and line."""
        self._check_language("docs", lang)
        table, pattern = self._table("docs", lang), re.compile(self.aligned or "")
        once = Once(f"doc_id {{}} ({lang}) occurs twice", self.on_duplicate)
        for line, (doc_id, fields, _) in self._chosen(table, lang):
            once.see(table.path, line, doc_id)
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
            return _hc4_topics(table, lang, source, Once(f"topic {{}} is listed twice ({lang})", self.on_duplicate))
        self._check_plain_topics(lang, source)
        found, once = list[Query](), Once(f"topic {{}} is listed twice ({lang})", self.on_duplicate)
        for line, record in self._chosen(table, lang):
            once.see(table.path, line, record.id)
            found.append(Query(record.id, record.fields, lang))
        if not found:
            raise DataError(f"{table.path}: no topics in {lang!r}")
        return found

    def read_qrels(self, name: str) -> list[Qrel]:
        """The judgments called `name`, over all document languages of the pool."""
        wanted = dict.fromkeys(
            (self.place("qrels", code, name), code if self.qrels_lang else "") for code in self.doc_langs
        )
        parts = []
        for place, code in wanted:
            (path,) = places.files("dataset.qrels", place)
            parts.append((path, _judged_in(path, code) if code else read_qrels(path)))
        return united(parts)

    def _table(self, part: Literal["docs", "topics"], lang: str) -> Table:
        place = self.place(part, lang)
        path = places.files(f"dataset.{part}", place)[0] if _is_elsewhere(place) else Path(place)
        columns = self.docs_columns if part == "docs" else self.topics_columns
        return Table(path, part, self._is_tsv(place), columns, self.header)

    def _is_tsv(self, place: str) -> bool:
        return self.format == "tsv" if self.format != "auto" else not is_jsonl(Path(place.split("#", maxsplit=1)[0]))


def _is_elsewhere(place: str) -> bool:
    return place.startswith(("hub:", *places.WEB))


def _is_absent(place: str) -> bool:
    return not _is_elsewhere(place) and not Path(place).exists()


def _elsewhere(wanted: list[str]) -> dict[str, object]:
    """What stands in an identity beside the notes of places that are not on this machine."""
    return {"places": found} if (found := [place for place in wanted if _is_elsewhere(place)]) else {}


def _fingerprinted(wanted: list[str]) -> tuple[Path, ...]:
    return tuple(
        dict.fromkeys(p for w in wanted for p in (places.fingerprinted(w) if _is_elsewhere(w) else (Path(w),)))
    )


def _judged_in(path: Path, lang: str) -> list[Qrel]:
    """The judgments of documents in one language, which the second column names. TREC's NeuCLIR files are so."""
    judged = list[Qrel]()
    inside = {line.split()[1] for _, line in read_lines(path, "dataset.qrels") if len(line.split()) == 4}
    if language(lang).iso3 not in inside:
        raise DataError(
            f"{path}: no judgments of documents in {lang!r}: the second column has {', '.join(sorted(inside)[:6]) or 'none'}"
        )
    for number, line in read_lines(path, "dataset.qrels"):
        fields = line.split()
        if len(fields) != 4:
            raise DataError(f"{path}:{number}: expected query_id language doc_id relevance, found {line[:120]!r}")
        if fields[1] == language(lang).iso3:
            judged.append(Qrel(fields[0], fields[2], parse_grade(f"{path}:{number}", fields[3], line=repr(line[:120]))))
    tell_odd(str(path), len(judged) - len(set(judged)), sum(row.relevance < 0 for row in judged))
    return judged


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
    # by the names that a row has: how to read it, and [the first line of the kind, how many there are]
    layouts: dict[tuple[str, ...], tuple[Layout, list[int]]] = field(default_factory=dict)

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
        if names not in self.layouts:
            self.layouts[names] = self._layout(line, names), [line, 0]
        layout, seen = self.layouts[names]
        seen[1] += 1
        fields = {}
        for name, column in layout.texts:
            text = row[column]
            if not isinstance(text, str) and text is not None:
                found = f"{type(text).__name__}: {str(text)[:80]!r}"
                raise DataError(f"{self.path}:{line}: expected text as {column}, found {found}")
            fields[name] = text or ""
        identifier = parse_id(self.path, line, layout.id, row[layout.id])
        return Record(identifier, fields, None if layout.lang is None else str(row[layout.lang] or ""))

    def tell_differences(self) -> None:
        """Say which texts the rows read so far have, where not all have the same: a field that is missing is no error."""
        counts: Counter[tuple[str, ...]] = Counter()
        first: dict[tuple[str, ...], int] = {}
        for layout, (line, count) in self.layouts.values():
            texts = tuple(name for name, _ in layout.texts)
            counts[texts] += count
            first.setdefault(texts, line)
        if len(counts) > 1:
            found = ", ".join(
                f"{many(count, 'row has', 'rows have')} {'+'.join(texts)} (first in line {first[texts]})"
                for texts, count in counts.items()
            )
            say(
                f"{self.path}: not all rows have the same texts: {found}\n"
                f"  dataset.{self.part}_columns names what every row must have"
            )

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


def _hc4_topics(table: Table, lang: str, source: str | None, once: Once) -> list[Query]:
    """The topics that have the version in `lang`; how many have none is said. DataError where none has it."""
    wanted = (source,) if source else ORIGINALS
    found, absent, lacking, others = [], 0, Counter[str](), dict[str, None]()
    for line, row in table.rows():
        query_id = parse_id(table.path, line, "topic_id", row.get("topic_id"))
        once.see(table.path, line, query_id)
        versions = _hc4_versions(row, lang)
        if chosen := next((versions[name] for name in wanted if name in versions), None):
            texts = _hc4_texts(f"{table.path}:{line}: topic {query_id!r} in {lang!r}", chosen)
            own = [v for v in row["topics"] if isinstance(v, dict) and v.get("source") == ORIGINALS[0]]
            lacks = [name for name in FIELDS if name not in texts and any(v.get(f"topic_{name}") for v in own)]
            lacking.update(lacks)
            found.append(Query(query_id, {**texts, **dict.fromkeys(lacks, "")}, lang))
        else:
            absent += 1
            others.update(dict.fromkeys(versions))
    if not found and others:
        raise DataError(
            f"{table.path}: no topic in {lang!r} has a version {' or '.join(map(repr, wanted))}\n"
            f"  there are: {', '.join(map(repr, others))}; choose with dataset.topic_source=..."
        )
    if not found:
        raise DataError(f"{table.path}: no topics in {lang!r}")
    for name, count in lacking.items():
        say(
            f"{table.path}: {many(count, 'topic has', 'topics have')} no {name} in {lang!r}, though the original has one"
        )
    if absent:
        topics = f"{absent} of {many(absent + len(found), 'topic')}"
        say(f"{table.path}: {topics} without a version {' or '.join(map(repr, wanted))} in {lang!r}: left out")
    return found


def _hc4_versions(row: Mapping[str, Any], lang: str) -> dict[str, Mapping[str, Any]]:
    """source -> topic of one language, which HC4 writes as ISO 639-3."""
    topics = [topic for topic in row.get("topics") or () if isinstance(topic, dict)]
    return {str(t.get("source")): t for t in topics if t.get("lang") in {lang, language(lang).iso3}}


def _hc4_texts(where: str, chosen: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a version of a topic."""
    texts = {name: chosen.get(f"topic_{name}") or "" for name in FIELDS}
    if strange := [name for name, text in texts.items() if not isinstance(text, str)]:
        raise DataError(f"{where}: expected text as topic_{strange[0]}, found {texts[strange[0]]!r}")
    return {name: text for name, text in texts.items() if text}
