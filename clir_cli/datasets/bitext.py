"""Parallel lines as a collection: find each line's translation."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clir_cli.datasets import places
from clir_cli.datasets.collection import Once, Source, TestCollection
from clir_cli.errors import ConfigError, DataError
from clir_cli.evaluation import tell_odd
from clir_cli.lines import parse_id, read_lines
from clir_cli.text.languages import language
from clir_cli.types import Doc, Qrel, Query, content

JUDGMENTS = "lines"


@dataclass(frozen=True, kw_only=True)
class Bitext(TestCollection):
    """Bitext retrieval (Artetxe & Schwenk 2019): line i of one file translates line i of the other.

    The documents are the lines in `doc_lang` (ids `en-1`, `en-2`, ...), the topics those in `query_lang` (ids `1`, `2`,
    ...); relevant is the same line. Accuracy is Success@1, and LASER's xsim error is 1 - Success@1.

    With `gold` the lines are `id TAB text` and not parallel: pairs of ids, one a line, say which translate each other
    (BUCC, Zweigenbaum et al. 2018). Lines without a partner are distractors; topics are the judged lines.
    """

    texts: str = (
        content()
    )  # {lang} {iso3} {flores}: the line's language; {pair} {iso3_pair}: both, as the file's name has them; {split}
    gold: str | None = content(None)  # the file of pairs, in the order of {pair}
    codes: Mapping[str, str] | None = (
        None  # {zh: cmn}: how the names of files spell a language where it is not its code
    )
    measures: tuple[str, ...] = ("Success@1", "RR@10")

    def __post_init__(self) -> None:
        TestCollection.__post_init__(self)
        if not re.search(r"\{(lang|iso3|flores)\}", self.texts):
            raise ValueError(
                f"texts={self.texts!r} must hold {{lang}}, {{iso3}} or {{flores}}: each language has a file"
            )
        if self.query_lang in self.doc_langs:
            raise ValueError(f"query_lang {self.query_lang!r} is among the documents' languages ({self.doc_label})")
        for doc_lang in self.doc_langs:
            for lang in (self.query_lang, doc_lang):
                self._place(lang, doc_lang)
            if self.gold is not None:
                self._filled("gold", self.gold, doc_lang, *self._order(doc_lang))

    @property
    def judgment_names(self) -> tuple[str, ...]:
        return (JUDGMENTS,) if self.judgments is None else self.judgments

    # Where things are

    def _filled(self, option: str, text: str, lang: str, first: str, second: str) -> str:
        iso3 = {code: self._code(code, language(code).iso3) for code in (lang, first, second)}
        flores = language(lang).flores
        return places.filled(option, text, {
            "lang": self._code(lang, lang), "iso3": iso3[lang], **({"flores": flores} if flores else {}),
            "pair": f"{self._code(first, first)}-{self._code(second, second)}",
            "iso3_pair": f"{iso3[first]}-{iso3[second]}", "split": self.split, "path": "{path}",
        })  # fmt: skip

    def _order(self, doc_lang: str) -> tuple[str, str]:
        """The languages of a pair as its files name them: the order in which they exist; elsewhere English last."""
        orders = ((self.query_lang, doc_lang), (doc_lang, self.query_lang))
        with contextlib.suppress(DataError):  # the folder of the data is not here: the same order as elsewhere
            for order in orders:
                place = places.rooted(self._filled("texts", self.texts, self.query_lang, *order), self.root)
                if not places.is_remote(place) and Path(place).expanduser().exists():
                    return order
        return orders[0] if self.query_lang != "en" else orders[1]

    def _place(self, lang: str, doc_lang: str) -> str:
        """The file of one side of a pair; {path} is not filled yet."""
        return self._filled("texts", self.texts, lang, *self._order(doc_lang))

    def _rooted(self, place: str) -> str:
        return places.rooted(place, self.root)

    def _code(self, lang: str, usual: str) -> str:
        return (self.codes or {}).get(lang, usual)

    def _places(self, part: Literal["docs", "topics"], lang: str) -> tuple[str, ...]:
        """The files of one part: the topics of a pool must be the same lines in every pair, or one file."""
        if part == "docs" or lang != self.query_lang:
            if lang not in self.doc_langs:
                raise ConfigError(
                    f"dataset: there are no lines in {lang!r}; there are {self.query_lang} and {self.doc_label}"
                )
            return (self._rooted(self._place(lang, lang)),)
        found = tuple(dict.fromkeys(self._rooted(self._place(lang, doc_lang)) for doc_lang in self.doc_langs))
        if len(found) > 1:
            names = [place.rpartition("/")[2] for place in found]
            raise ConfigError(
                f"dataset.doc_lang is a pool ({self.doc_label}), and each pair has its own queries: {names[0]}, "
                f"{names[1]}\n  sweep over dataset.pair instead, or give texts that are parallel in all languages"
            )
        return found

    def _gold(self) -> list[tuple[str, str]]:
        """(document language, place) of the pairs."""
        given = self.gold or ""
        return [(lang, self._rooted(self._filled("gold", given, lang, *self._order(lang)))) for lang in self.doc_langs]

    def source(self, part: Literal["docs", "topics", "qrels"], lang: str, name: str = "") -> Source:
        """The files of one part; judgments are made from both sides, or from the pairs."""
        reading: dict[str, object] = {"kind": "bitext", "lang": lang, "on_empty": self.on_empty}
        if part != "qrels":
            wanted = list(self._places(part, lang))
        else:
            self._check_name(name)
            reading = {"kind": "bitext", "langs": [self.query_lang, self.doc_label]}
            both = [
                *self._places("topics", self.query_lang),
                *(place for code in self.doc_langs for place in self._places("docs", code)),
            ]
            wanted = both if self.gold is None else [place for _, place in self._gold()]
        if self.gold is not None:
            reading["ids"] = True
        if remote := [place for place in wanted if places.is_remote(place)]:
            reading["places"] = remote
        return Source(tuple(path for place in wanted for path in places.fingerprinted(place)), reading)

    def _check_name(self, name: str) -> None:
        if name != JUDGMENTS:
            raise ConfigError(f"dataset.judgments: no judgments {name!r}; there are: {JUDGMENTS}")

    # Reading

    def _lines(self, part: Literal["docs", "topics"], lang: str) -> Iterator[tuple[str, str]]:
        """(the line's number or its own id, text) of every line that is not empty."""
        once = Once(f"id {{}} ({lang}) occurs twice", self.on_duplicate)
        for place in self._places(part, lang):
            for path in places.files("dataset.texts", place):
                for number, line in read_lines(path, "dataset.texts, dataset.codes"):
                    if self.gold is None:
                        yield str(number), line
                        continue
                    own, tab, text = line.partition("\t")
                    if not tab:
                        raise DataError(f"{path}:{number}: expected an id, a tab and a text, found {line[:80]!r}")
                    once.see(path, number, parse_id(path, number, "id", own))
                    yield own, text

    def _doc_id(self, lang: str, line: str) -> str:
        return f"{lang}-{line}" if self.gold is None else line

    def read_docs(self, lang: str) -> Iterator[Doc]:
        """Every line that is not empty, as a document with the field `text`."""
        for line, text in self._lines("docs", lang):
            yield Doc(self._doc_id(lang, line), {"text": text}, lang, line if self.gold is None else None)

    def read_topics(self, lang: str, source: str | None = None) -> list[Query]:
        """Every line that is not empty, as a topic with the field `text`."""
        if found := [Query(line, {"text": text}, lang) for line, text in self._lines("topics", lang)]:
            return found
        raise DataError(f"{self._places('topics', lang)[0]} holds no lines")

    def read_qrels(self, name: str) -> list[Qrel]:
        """Each line with its own number, or the pairs of `gold`. DataError where two sides do not have the same lines."""
        self._check_name(name)
        if self.gold is not None:
            rows = [row for lang, place in self._gold() for row in self._pairs(lang, place)]
            if not rows:
                raise DataError(f"{', '.join(place for _, place in self._gold())}: no pairs of ids")
            tell_odd("dataset.gold", len(rows) - len(set(rows)), 0)
            return list(dict.fromkeys(rows))
        asked, found = [line for line, _ in self._lines("topics", self.query_lang)], []
        for lang in self.doc_langs:
            there = [line for line, _ in self._lines("docs", lang)]
            if there != asked:
                odd = min(set(there) ^ set(asked), key=int)
                raise DataError(
                    f"{self._places('topics', self.query_lang)[0]} and {self._place(lang, lang)} are not parallel: "
                    f"{len(asked)} and {len(there)} lines with text; line {odd} has text in one of them only"
                )
            found += [Qrel(line, self._doc_id(lang, line), 1) for line in there]
        return found

    def _pairs(self, doc_lang: str, place: str) -> Iterator[Qrel]:
        """The pairs of a gold file: ids of the first language of the pair's name, a tab, ids of the second."""
        turned = self._order(doc_lang)[0] != self.query_lang
        for path in places.files("dataset.gold", place):
            for number, line in read_lines(path, "dataset.gold"):
                ids = line.split("\t")
                if len(ids) != 2:
                    raise DataError(f"{path}:{number}: expected two ids separated by a tab, found {line[:80]!r}")
                query_id, doc_id = reversed(ids) if turned else ids
                yield Qrel(parse_id(path, number, "id", query_id), parse_id(path, number, "id", doc_id), 1)
