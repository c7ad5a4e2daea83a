"""Parallel lines as a collection: find each line's translation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clir_cli.datasets.collection import Source, TestCollection
from clir_cli.errors import ConfigError, DataError
from clir_cli.lines import read_lines
from clir_cli.text.languages import language
from clir_cli.types import Doc, Qrel, Query, content

JUDGMENTS = "lines"


@dataclass(frozen=True, kw_only=True)
class Bitext(TestCollection):
    """Bitext retrieval (Artetxe & Schwenk 2019): line i of one file translates line i of the other.

    The documents are the lines in `doc_lang` (ids `en-1`, `en-2`, ...), the topics those in `query_lang` (ids `1`, `2`,
    ...); relevant is the same line. Accuracy is Success@1, and LASER's xsim error is 1 - Success@1.
    """

    texts: str = (
        content()
    )  # {lang} or {iso3}: the line's language; {pair} or {iso3_pair}: both, as the file's name has them
    codes: Mapping[str, str] | None = (
        None  # {zh: cmn}: how the names of files spell a language where it is not its code
    )
    measures: tuple[str, ...] = ("Success@1", "RR@10")

    def __post_init__(self) -> None:
        TestCollection.__post_init__(self)
        if not re.search(r"\{(lang|iso3)\}", self.texts):
            raise ValueError(f"texts={self.texts!r} must hold {{lang}} or {{iso3}}: each language has a file")
        if self.query_lang in self.doc_langs:
            raise ValueError(f"query_lang {self.query_lang!r} is among the documents' languages ({self.doc_label})")
        for doc_lang in self.doc_langs:
            for lang in (self.query_lang, doc_lang):
                self._path(lang, doc_lang)

    @property
    def judgment_names(self) -> tuple[str, ...]:
        return (JUDGMENTS,) if self.judgments is None else self.judgments

    def _path(self, lang: str, doc_lang: str) -> Path:
        """The file of one side of a pair; where its name has both languages, in the order in which it exists."""
        found = Path()
        for first, second in ((self.query_lang, doc_lang), (doc_lang, self.query_lang)):
            places = {
                "lang": self._code(lang, lang), "iso3": self._code(lang, language(lang).iso3),
                "pair": f"{self._code(first, first)}-{self._code(second, second)}",
                "iso3_pair": f"{self._code(first, language(first).iso3)}-{self._code(second, language(second).iso3)}",
            }  # fmt: skip
            try:
                found = Path(self.texts.format(**places)).expanduser().absolute()
            except (LookupError, ValueError) as error:
                raise ValueError(f"texts={self.texts!r} may hold {', '.join(places)} in braces ({error})") from error
            if found.exists():
                break
        return found

    def _code(self, lang: str, usual: str) -> str:
        return (self.codes or {}).get(lang, usual)

    def _paths(self, part: Literal["docs", "topics"], lang: str) -> tuple[Path, ...]:
        """The files of one part: the topics of a pool must be the same lines in every pair, or one file."""
        if part == "docs" or lang != self.query_lang:
            if lang not in self.doc_langs:
                raise ConfigError(
                    f"dataset: there are no lines in {lang!r}; there are {self.query_lang} and {self.doc_label}"
                )
            return (self._path(lang, lang),)
        paths = tuple(dict.fromkeys(self._path(lang, doc_lang) for doc_lang in self.doc_langs))
        if len(paths) > 1:
            raise ConfigError(
                f"dataset.doc_lang is a pool ({self.doc_label}), and each pair has its own queries: {paths[0].name}, "
                f"{paths[1].name}\n  sweep over dataset.pair instead, or give texts that are parallel in all languages"
            )
        return paths

    def source(self, part: Literal["docs", "topics", "qrels"], lang: str, name: str = "") -> Source:
        """The files of one part; judgments are made from both sides."""
        if part == "qrels":
            self._check_name(name)
            both = [*self._paths("topics", self.query_lang), *(self._path(code, code) for code in self.doc_langs)]
            return Source(tuple(both), {"kind": "bitext", "langs": [self.query_lang, self.doc_label]})
        return Source(self._paths(part, lang), {"kind": "bitext", "lang": lang, "on_empty": self.on_empty})

    def _check_name(self, name: str) -> None:
        if name != JUDGMENTS:
            raise ConfigError(f"dataset.judgments: no judgments {name!r}; there are: {JUDGMENTS}")

    def _lines(self, part: Literal["docs", "topics"], lang: str) -> Iterator[tuple[int, str]]:
        for path in self._paths(part, lang):
            yield from read_lines(path, "dataset.texts, dataset.codes")

    def read_docs(self, lang: str) -> Iterator[Doc]:
        """Every line that is not empty, as a document with the field `text`."""
        return (
            Doc(f"{lang}-{number}", {"text": text}, lang, str(number)) for number, text in self._lines("docs", lang)
        )

    def read_topics(self, lang: str, source: str | None = None) -> list[Query]:
        """Every line that is not empty, as a topic with the field `text`."""
        if found := [Query(str(number), {"text": text}, lang) for number, text in self._lines("topics", lang)]:
            return found
        raise DataError(f"{self._paths('topics', lang)[0]} holds no lines")

    def read_qrels(self, name: str) -> list[Qrel]:
        """Each line with its own number. Raises DataError where the two sides do not have the same lines."""
        self._check_name(name)
        asked, found = [number for number, _ in self._lines("topics", self.query_lang)], []
        for lang in self.doc_langs:
            there = [number for number, _ in self._lines("docs", lang)]
            if there != asked:
                odd = min(set(there) ^ set(asked))
                raise DataError(
                    f"{self._paths('topics', self.query_lang)[0]} and {self._path(lang, lang)} are not parallel: {len(asked)} "
                    f"and {len(there)} lines with text; line {odd} has text in one of them only"
                )
            found += [Qrel(str(number), f"{lang}-{number}", 1) for number in there]
        return found
