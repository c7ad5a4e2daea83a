"""Any hub dataset by the names of its columns: JSONL, parquet, CSV and TSV files, never a loading script."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clir_cli.datasets import places
from clir_cli.datasets.collection import Once, Source, TestCollection
from clir_cli.datasets.rows import Rows
from clir_cli.errors import ConfigError, DataError, many
from clir_cli.evaluation import read_qrels, tell_odd
from clir_cli.progress import say
from clir_cli.text.languages import language
from clir_cli.types import Doc, Qrel, Query

Part = Literal["docs", "topics", "qrels"]
Columns = Mapping[str, str]
OTHERS = ("doc_id", "query_id", "lang")  # what a column is that is no field


@dataclass(frozen=True, kw_only=True)
class Hub(TestCollection):
    """Documents, topics and judgments in the files of a hub dataset, mapped by column.

    `docs`, `topics` and `qrels` are paths in the repository `repo` (with * and ?), or in another one
    (`hub:OWNER/NAME[@REVISION]/path`), an address, or, without `repo`, paths on this machine. They may hold {lang}
    {iso3} {flores} {name} (`german`), each also behind query_ and doc_, and {split}.

    A column is a name, `a.b` for b of the object a, `#` for the row's number, or a template `{link}#{number}`; it may hold
    languages as paths do (`queries.{lang}`).
    """

    repo: str | None = None
    revision: str | None = None  # a commit, branch or tag; None: main, resolved once and then kept
    docs: str
    topics: str
    qrels: str | Mapping[str, str] | None = None  # one place, or name -> place; a TREC file without qrels_columns
    docs_columns: Columns  # doc_id, the fields in order, and lang where one file holds several languages
    topics_columns: Columns  # query_id and so on
    qrels_columns: Columns | None = None  # query_id, doc_id; relevance (absent: all are relevant), query_lang, doc_lang
    docs_each: str | None = None  # a column that holds a list of objects, each of which is a document
    topics_each: str | None = None
    qrels_each: str | None = None
    format: Literal["auto", "jsonl", "tsv", "csv", "parquet"] = "auto"
    docs_names: tuple[str, ...] | None = None  # the columns of TSV or CSV files without a header
    topics_names: tuple[str, ...] | None = None
    docs_quoted: bool = False  # whether cells of a TSV are quoted as those of a CSV are, as in DPR's passages
    codes: Mapping[str, str] | None = None  # {zh: cmn}: how the files write a language where it is not its code
    doc_ids: Literal["plain", "lang"] = "plain"  # lang: `de-ID`, for pools of files that share their ids
    aligned: str | None = None  # a pattern whose group 1 is the part of a doc_id that its translations share

    def __post_init__(self) -> None:
        TestCollection.__post_init__(self)
        for part, key in (("docs", "doc_id"), ("topics", "query_id")):
            columns = getattr(self, f"{part}_columns")
            if key not in columns or set(columns) <= {key, "lang"}:
                raise ValueError(
                    f"{part}_columns must name {key} and at least one field, such as {{{key}: id, text: text}}"
                )
        if self.qrels_columns is not None and not {"query_id", "doc_id"} <= set(self.qrels_columns):
            raise ValueError("qrels_columns must name query_id and doc_id")
        if self.aligned is not None:
            self._pattern()
        if self.repo is not None and not re.fullmatch(r"[^/\s]+/[^/\s]+", self.repo):
            raise ValueError(f"repo={self.repo!r} is no hub dataset; it looks like owner/name")
        self._place("docs", self.doc_langs[0])
        self._place("topics", self.query_lang)
        for name in self._qrels():
            self._place("qrels", self.doc_langs[0], name)

    def _pattern(self) -> re.Pattern[str]:
        try:
            pattern = re.compile(self.aligned or "")
        except re.error as error:
            raise ValueError(f"aligned is no regular expression: {self.aligned!r} ({error})") from error
        if pattern.groups != 1:
            raise ValueError(f"aligned must be a pattern with one group, such as '[a-z]+-(.*)', got {self.aligned!r}")
        return pattern

    # Where things are

    def _values(self, part: Part, lang: str, doc_lang: str | None = None) -> dict[str, str | None]:
        """What the braces of a path or column stand for. `doc_lang`: where there are several, which one."""
        one = self.doc_langs[0] if len(self.doc_langs) == 1 else doc_lang
        query, doc = (lang, one) if part == "topics" else (self.query_lang, lang)
        values: dict[str, str | None] = {
            **places.languages("", lang, self.codes), **places.languages("query_", query, self.codes), "split": self.split,
            "path": "{path}",
        }  # fmt: skip
        return values | (places.languages("doc_", doc, self.codes) if doc else {"doc_lang": None})

    def _column(self, part: Part, lang: str, column: str, doc_lang: str | None = None) -> str:
        """A column's name with its languages filled in; what else stands in braces are columns."""
        values = self._values(part, lang, doc_lang)
        return places.BRACES.sub(lambda found: values.get(found[1]) or found[0], column)

    def _place(self, part: Part, lang: str, name: str = "") -> str:
        text = self._qrels()[name] if part == "qrels" else getattr(self, part)
        place = places.filled(part, text, self._values(part, lang))
        if self.repo is None or places.is_remote(place):
            return place
        at = "@" + self.revision.replace("/", "%2F") if self.revision else ""
        return f"hub:{self.repo}{at}/{place}"

    def _qrels(self) -> dict[str, str]:
        return {"qrels": self.qrels} if isinstance(self.qrels, str) else dict(self.qrels or {})

    @property
    def judgment_names(self) -> tuple[str, ...]:
        return tuple(self._qrels()) if self.judgments is None else self.judgments

    def source(self, part: Part, lang: str, name: str = "") -> Source:
        """The files of one part, or the notes of the commits they come from, and what decides how they are read."""
        reading: dict[str, object] = {
            "kind": "hub", "format": self.format, "each": getattr(self, f"{part}_each"), "lang": lang,
            "columns": self._ordered(getattr(self, f"{part}_columns")), "doc_ids": self.doc_ids,
        }  # fmt: skip
        if part == "qrels":
            wanted = [self._named(name, code) for code in self.doc_langs]
            reading |= {"langs": [self.query_lang, self.doc_label], "codes": dict(self.codes or {})}
        else:
            wanted = [self._found(part, lang)]
            reading |= {
                "names": getattr(self, f"{part}_names"), "on_empty": self.on_empty, "on_duplicate": self.on_duplicate,
                **({"quoted": True} if part == "docs" and self.docs_quoted else {}),
                "code": (self.codes or {}).get(lang), "aligned": self.aligned if part == "docs" else None,
            }  # fmt: skip
        reading["places"] = [place for place in wanted if places.is_remote(place)]
        return Source(tuple(dict.fromkeys(f for place in wanted for f in places.fingerprinted(place))), reading)

    @staticmethod
    def _ordered(columns: Columns | None) -> list[list[str]] | None:
        return None if columns is None else [[name, column] for name, column in columns.items()]

    def _found(self, part: Literal["docs", "topics"], lang: str) -> str:
        """The place of a part, {path} filled too."""
        return places.rooted(self._place(part, lang), self.root)

    def _named(self, name: str, lang: str) -> str:
        if name not in self._qrels():
            there = ", ".join(self._qrels()) or "none (dataset.qrels is not set)"
            raise ConfigError(f"dataset.judgments: no judgments {name!r}; there are: {there}")
        return places.rooted(self._place("qrels", lang, name), self.root)

    # Reading

    def _columns(self, part: Part, lang: str) -> dict[str, str]:
        return {
            name: self._column(part, lang, column) for name, column in (getattr(self, f"{part}_columns") or {}).items()
        }

    def _wanted(self, part: Part, lang: str) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(self._columns(part, lang).values())

    def _rows(self, part: Part, lang: str, path: Path) -> Rows:
        names = self.docs_names if part == "docs" else self.topics_names if part == "topics" else None
        each = getattr(self, f"{part}_each")
        quoted = part == "docs" and self.docs_quoted
        return Rows(path, f"dataset.{part}", self.format, names, each, quoted, self._wanted(part, lang))

    def _records(self, part: Literal["docs", "topics"], lang: str) -> Iterator[tuple[Rows, int, dict[str, Any]]]:
        """The rows in one language."""
        column, others = self._columns(part, lang).get("lang"), Counter[str]()
        mine, spelled, place = 0, self._spelled(lang), self._found(part, lang)
        for path in places.files(f"dataset.{part}", place):
            rows = self._rows(part, lang, path)
            for number, row in rows:
                if column is not None and (found := rows.text(number, row, column)) not in spelled:
                    others[found or "no language"] += 1
                    continue
                mine += 1
                yield rows, number, row
        if others:
            said = ", ".join(f"{count} in {name}" for name, count in others.most_common(8))
            say(
                f"{place}: {many(mine, 'row')} read for {lang}; there are also: {said}{', ...' if len(others) > 8 else ''}"
            )

    def _spelled(self, lang: str) -> set[str]:
        """How a column may write a language."""
        own = (self.codes or {}).get(lang)
        return language(lang).spellings | ({own} if own else set())

    def _fields(self, columns: Columns, rows: Rows, number: int, row: Mapping[str, Any]) -> dict[str, str]:
        return {name: rows.text(number, row, column) for name, column in columns.items() if name not in OTHERS}

    def read_docs(self, lang: str) -> Iterator[Doc]:
        """All documents of one language in the files' order. Raises DataError with file and line or row."""
        pattern = self._pattern() if self.aligned is not None else None
        columns = self._columns("docs", lang)
        once = Once(f"doc_id {{}} ({lang}) occurs twice", self.on_duplicate)
        for rows, number, row in self._records("docs", lang):
            own = rows.id(number, row, columns["doc_id"])
            once.see(rows.path, number, own)
            shared = own if self.doc_ids == "lang" else None
            if pattern is not None:
                found = pattern.fullmatch(own)
                if found is None or not found[1]:
                    rows.refuse(number, f"doc_id {own!r} does not match dataset.aligned={self.aligned!r}")
                shared = found[1]
            yield Doc(self._doc_id(own, lang), self._fields(columns, rows, number, row), lang, shared)

    def _doc_id(self, own: str, lang: str) -> str:
        return f"{lang}-{own}" if self.doc_ids == "lang" else own

    def read_topics(self, lang: str, source: str | None = None) -> list[Query]:
        """All topics in one language."""
        if source:
            raise ConfigError(f"dataset.topics has one version of its topics, there is no {source!r}")
        columns = self._columns("topics", lang)
        found, once = list[Query](), Once(f"topic {{}} is listed twice ({lang})", self.on_duplicate)
        for rows, number, row in self._records("topics", lang):
            query_id = rows.id(number, row, columns["query_id"])
            once.see(rows.path, number, query_id)
            found.append(Query(query_id, self._fields(columns, rows, number, row), lang))
        if not found:
            raise DataError(f"{self._place('topics', lang)}: no topics in {lang!r}")
        return found

    def read_qrels(self, name: str) -> list[Qrel]:
        """The judgments called `name`, over all document languages of the pool."""
        judged: dict[tuple[str, str], Qrel] = {}
        rows = 0
        for lang in self.doc_langs:
            for path in places.files("dataset.qrels", self._named(name, lang)):
                for place, row in self._judged(path, lang):
                    rows += 1
                    first = judged.setdefault((row.query_id, row.doc_id), row)
                    if first != row:
                        raise DataError(
                            f"{place}: {row.doc_id!r} is judged {row.relevance} for query {row.query_id!r}, and "
                            f"{first.relevance} before"
                        )
        if not judged:
            raise DataError(
                f"dataset.qrels: no judgments {name!r} in {', '.join(self._named(name, lang) for lang in self.doc_langs)}"
            )
        if self.qrels_columns is not None:  # else read_qrels has told it
            tell_odd(f"dataset.qrels {name!r}", rows - len(judged), sum(row.relevance < 0 for row in judged.values()))
        return list(judged.values())

    def _judged(self, path: Path, lang: str) -> Iterator[tuple[str, Qrel]]:
        if self.qrels_columns is None:
            yield from ((str(path), row._replace(doc_id=self._doc_id(row.doc_id, lang))) for row in read_qrels(path))
            return
        columns, rows = self._columns("qrels", lang), self._rows("qrels", lang, path)
        wanted = {"query_lang": self._spelled(self.query_lang), "doc_lang": self._spelled(lang)}
        for number, row in rows:
            if any(n in columns and rows.text(number, row, columns[n]) not in known for n, known in wanted.items()):
                continue
            query_id, doc_id = rows.id(number, row, columns["query_id"]), rows.id(number, row, columns["doc_id"])
            grade = rows.grade(number, row, columns.get("relevance"))
            yield f"{path}:{number}", Qrel(query_id, self._doc_id(doc_id, lang), grade)
