"""Questions with answers and no judged passages: whatever passage holds an answer is relevant."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from clir_cli.answers import Answers, spans
from clir_cli.datasets import download, places
from clir_cli.datasets.collection import Source
from clir_cli.datasets.hub import Hub, Part
from clir_cli.datasets.rows import Rows
from clir_cli.errors import ConfigError, many
from clir_cli.evaluation import read_qrels
from clir_cli.files import write_text
from clir_cli.progress import say, track
from clir_cli.types import Qrel, Query

JUDGMENTS = "answers"
LARGE = 64 << 20  # bytes; the judgments of a larger collection are kept in a file


@dataclass(frozen=True, kw_only=True)
class OpenQuestions(Hub):
    """Open questions over a collection of passages (Asai et al. 2021, XOR-Retrieve; Longpre et al. 2021, MKQA).

    The judgments `answers` are made by one pass over the collection: a passage that holds an answer as a run of words,
    whatever their case, is relevant (DPR's rule, Karpukhin et al. 2020), so Success@20 is the share of questions with an
    answer among 20 passages. A question that no passage answers is kept by a 0 for the collection's first passage.
    """

    answers: str  # a column of the topics: text, a list of texts or of {text, aliases}, or a Python list as text
    spans_only: bool = False  # leave out questions with no answer but yes or no, or none, as XOR-Retrieve's script does
    measures: tuple[str, ...] = ("Success@20", "Success@100", "RR@10")

    @property
    def judgment_names(self) -> tuple[str, ...]:
        return (JUDGMENTS, *self._qrels()) if self.judgments is None else self.judgments

    def source(self, part: Part, lang: str, name: str = "") -> Source:
        """The files of one part; the judgments `answers` come from all files."""
        if part != "qrels" or name in self._qrels():
            found = Hub.source(self, part, lang, name)
            only = {"spans_only": True} if self.spans_only and part == "topics" else {}
            return found._replace(reading={**found.reading, **only})
        if name != JUDGMENTS:
            there = ", ".join((JUDGMENTS, *self._qrels()))
            raise ConfigError(f"dataset.judgments: no judgments {name!r}; there are: {there}")
        parts = [
            self.source("topics", self.query_lang),
            *(Hub.source(self, "docs", code) for code in self.doc_langs),
        ]
        reading = {"kind": "answers", "answers": self.answers, "parts": [dict(part.reading) for part in parts]}
        return Source(tuple(dict.fromkeys(file for part in parts for file in part.files)), reading)

    def _wanted(self, part: Part, lang: str) -> tuple[str, ...]:
        more = [self._column("topics", lang, self.answers, code) for code in self.doc_langs] if part == "topics" else []
        return (*Hub._wanted(self, part, lang), *more)

    def read_answers(self) -> dict[str, tuple[str, ...]]:
        """The answers of every question in the language of the documents; none for one that is unanswerable."""
        found: dict[str, tuple[str, ...]] = {}
        key = self._column("topics", self.query_lang, self.topics_columns["query_id"])
        for lang in self.doc_langs:
            column = self._column("topics", self.query_lang, self.answers, lang)
            for rows, number, row in self._records("topics", self.query_lang):
                texts = tuple(_texts(rows, number, column, rows.column(number, row, column)))
                query_id = rows.id(number, row, key)
                found[query_id] = tuple(dict.fromkeys((*found.get(query_id, ()), *texts)))
        if self.spans_only:
            return {query: spans(texts) for query, texts in found.items() if spans(texts)}
        return found

    def read_topics(self, lang: str, source: str | None = None) -> list[Query]:
        """All questions in one language, but for those that `spans_only` leaves out."""
        found = Hub.read_topics(self, lang, source)
        if not self.spans_only:
            return found
        answered = self.read_answers()
        kept = [query for query in found if query.query_id in answered]
        if left := len(found) - len(kept):
            have = many(left, "question has", "questions have")
            say(f"{have} no answer but yes or no: left out (dataset.spans_only)")
        return kept

    def read_qrels(self, name: str) -> list[Qrel]:
        """The judgments called `name`; `answers` are made here, once per process, or once where the collection is large."""
        if name != JUDGMENTS:
            return Hub.read_qrels(self, name)
        files = [path for lang in self.doc_langs for path in places.files("dataset.docs", self._found("docs", lang))]
        files += places.files("dataset.topics", self._found("topics", self.query_lang))
        state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        reading = dict(self.source("qrels", "", JUDGMENTS).reading)
        key = hashlib.sha256(json.dumps([state, reading, self.doc_label], sort_keys=True).encode()).hexdigest()[:16]
        if sum(size for _, size, _ in state) < LARGE:
            return list(_judged(_Memo(self), key))
        return self._kept(download.data_folder() / "judged" / f"{key}.txt")

    def _kept(self, path: Path) -> list[Qrel]:
        """The judgments in a file, made first where it is not there."""
        if not path.is_file():
            with download.only_one(path):
                if not path.is_file():
                    write_text(path, lambda out: out.writelines(f"{q} 0 {d} {grade}\n" for q, d, grade in self.judge()))
        return read_qrels(path)

    def judge(self) -> Iterator[Qrel]:
        """Every passage that holds an answer, by one pass over the collection."""
        answers = self.read_answers()
        search, left, first = Answers(answers), dict.fromkeys(answers), ""
        docs = (doc for lang in self.doc_langs for doc in self.read_docs(lang))
        for doc in track(docs, None, "look for answers", "documents"):
            first = first or doc.doc_id
            for query_id in sorted(search.answered(" ".join(doc.fields.values()))):
                left.pop(query_id, None)
                yield Qrel(query_id, doc.doc_id, 1)
        if left:
            say(
                f"{len(left)} of {many(len(answers), 'question')} without an answer in the collection: counted, with nothing to find"
            )
        yield from (Qrel(query_id, first, 0) for query_id in left)


class _Memo:
    """A dataset that is the same as another of equal fields, for a cache: its mappings have no hash."""

    def __init__(self, dataset: OpenQuestions) -> None:
        self.dataset = dataset

    def __hash__(self) -> int:
        return hash((self.dataset.docs, self.dataset.topics, self.dataset.query_lang, self.dataset.doc_label))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Memo) and self.dataset == other.dataset


@lru_cache(maxsize=4)
def _judged(memo: _Memo, key: str) -> tuple[Qrel, ...]:
    """`key`: over the sizes and times of the files, so that changed ones are read again."""
    return tuple(memo.dataset.judge())


def _texts(rows: Rows, number: int, column: str, value: Any) -> Iterator[str]:
    """The answers in a cell."""
    if isinstance(value, str) and value.startswith("["):  # AfriQA: "['Oginga Odinga']"
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            rows.refuse(number, f"expected a list of answers as {column}, found {value[:80]!r}")
    for answer in value if isinstance(value, list) else [value]:
        texts = [answer]
        if isinstance(answer, Mapping):  # MKQA: {type, text, aliases}
            aliases = answer.get("aliases") or []
            texts = [answer.get("text"), *(aliases if isinstance(aliases, list) else [{"aliases": aliases}])]
        for text in texts:
            if not isinstance(text, str | None):
                rows.refuse(number, f"expected text or a list of texts as {column}, found {str(text)[:80]!r}")
            if text:
                yield text
