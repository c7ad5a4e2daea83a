"""Question answering sets as retrieval sets: find the paragraph, or the sentence, that answers the question."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clir_cli.datasets import places
from clir_cli.datasets.collection import Source, TestCollection
from clir_cli.errors import ConfigError, DataError, MissingData, many
from clir_cli.lines import as_id, content, decoded, parse_json, parse_object, read_lines
from clir_cli.progress import say
from clir_cli.text.languages import split_sentences
from clir_cli.types import Doc, Qrel, Query

JUDGMENTS = "answers"
MISPLACED, ABSENT, NAN = "misplaced", "absent", "nan"
ODD = {  # what is counted and told of a file: of one, of several
    MISPLACED: (
        "answer does not stand where the file says; where it stands first counts",
        "answers do not stand where the file says; where they stand first counts",
    ),
    ABSENT: (
        "answer stands nowhere in its paragraph (yes, no, a rounded number): the paragraph counts, no sentence does",
        "answers stand nowhere in their paragraph (yes, no, a rounded number): the paragraph counts, no sentence does",
    ),
    NAN: (
        "text is NaN, which is no text: it is read as empty",
        "texts are NaN, which is no text: they are read as empty",
    ),
}


class Question(NamedTuple):
    """A question under a paragraph; `starts` are where its answers begin in it: none where they are no part of it (yes)."""

    id: str
    text: str
    translated: str | None  # the question in the paragraph's language, where the file brings it (AfriQA)
    answered: bool
    starts: tuple[int, ...]


class Paragraph(NamedTuple):
    """A paragraph with its questions.

    `breaks`: (begin, end) of its sentences where the file says them (LAReQA); `written`: the sentences themselves, which
    that file says too, and once not as the paragraph has them.
    """

    id: str  # `a01-p2`, without the language
    title: str
    text: str
    breaks: tuple[tuple[int, int], ...] | None
    written: tuple[str, ...] | None
    questions: tuple[Question, ...]

    def spans(self) -> tuple[tuple[int, int], ...]:
        return self.breaks if self.breaks is not None else tuple(_split(self.text))

    def sentences(self) -> tuple[str, ...]:
        return self.written or tuple(self.text[begin:end] for begin, end in self.spans())


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(TestCollection):
    """Roy et al. 2020 (LAReQA): paragraphs or their sentences are documents, questions topics, the answering one relevant.

    A question that its paragraph does not answer is a topic without a relevant document: the paragraph is judged 0. The
    judgments are of the questions that there are in the query language, in every language of the documents.
    Formats: `squad` (XQuAD, MLQA, SQuAD 2; LAReQA's `sentence_breaks`), `afriqa` (gold passages, JSONL).
    """

    docs: (
        str  # a path, `hub:OWNER/NAME/path` or an address; places: {lang} {iso3} {query_lang} {query_iso3} ... {split}
    )
    topics: str | None = None  # the file with the questions; None: the documents' file in the query language
    layout: Literal["squad", "afriqa"] = "squad"
    unit: Literal["paragraph", "sentence"] = "paragraph"
    titles: bool = False  # whether the article's title is a field of the documents (XQuAD's are English everywhere)
    parallel: bool = False  # paragraphs (not sentences) at the same place of two files are translations of each other
    codes: Mapping[str, str] | None = None  # {zh: cmn}: how the names of files write a language
    measures: tuple[str, ...] = ("nDCG@10", "AP", "RR@10")

    def __post_init__(self) -> None:
        TestCollection.__post_init__(self)
        for lang in self.doc_langs:
            self._place("docs", lang, self.query_lang)
        self._topics(self.query_lang)

    @property
    def judgment_names(self) -> tuple[str, ...]:
        return (JUDGMENTS,) if self.judgments is None else self.judgments

    # Where things are

    def _place(self, part: Literal["docs", "topics"], doc_lang: str, query_lang: str) -> str:
        text, own = self.docs, doc_lang
        if part == "topics":
            text, own = (self.docs, query_lang) if self.topics is None else (self.topics, query_lang)
            doc_lang = query_lang if self.topics is None else doc_lang
        values: dict[str, str | None] = {
            **places.languages("", own, self.codes), **places.languages("query_", query_lang, self.codes),
            **places.languages("doc_", doc_lang, self.codes), "split": self.split,
            "path": "{path}",
        }  # fmt: skip
        return places.filled(part, text, values)

    def _topics(self, lang: str) -> list[str]:
        """The places of the questions in one language: MLQA has a file for each language of the documents."""
        if self._is_translation(lang):
            return [self._place("docs", lang, self.query_lang)]
        return list(dict.fromkeys(self._place("topics", code, lang) for code in self.doc_langs))

    def _is_translation(self, lang: str) -> bool:
        """Whether questions are asked for in the language of AfriQA's passages, which its files bring too."""
        return self.layout == "afriqa" and lang != self.query_lang and lang in self.doc_langs

    def source(self, part: Literal["docs", "topics", "qrels"], lang: str, name: str = "") -> Source:
        """The files of one part; judgments are made from both sides."""
        reading: dict[str, object] = {"kind": "qa", "layout": self.layout}
        if part != "topics":
            reading["unit"] = self.unit
        if part == "qrels":
            self._check_name(name)
            wanted = [
                *(self._place("docs", code, self.query_lang) for code in self.doc_langs),
                *self._topics(self.query_lang),
            ]
            reading["langs"] = [self.query_lang, self.doc_label]
        else:
            wanted = [self._place("docs", lang, self.query_lang)] if part == "docs" else self._topics(lang)
            reading |= {"lang": lang, "on_empty": self.on_empty, "on_duplicate": self.on_duplicate}
            reading |= {"titles": self.titles, "parallel": self.parallel} if part == "docs" else {}
        wanted = [places.rooted(place, self.root) for place in wanted]
        reading["places"] = [place for place in wanted if places.is_remote(place)]
        return Source(tuple(dict.fromkeys(f for place in wanted for f in places.fingerprinted(place))), reading)

    def _check_name(self, name: str) -> None:
        if name != JUDGMENTS:
            raise ConfigError(f"dataset.judgments: no judgments {name!r}; there are: {JUDGMENTS}")

    # Reading

    def _paragraphs(self, lang: str) -> list[Paragraph]:
        return self._read("dataset.docs", self._place("docs", lang, self.query_lang))

    def _read(self, option: str, place: str) -> list[Paragraph]:
        files = places.files(option, places.rooted(place, self.root))
        if len(files) > 1:
            raise DataError(f"{option}: {place} are {len(files)} files; name one")
        stat = files[0].stat()
        return list(_read(self.layout, files[0], (stat.st_size, stat.st_mtime_ns)))

    def read_docs(self, lang: str) -> Iterator[Doc]:
        """Every paragraph, or every sentence of every paragraph, in the file's order. DataError names the place."""
        for paragraph in self._paragraphs(lang):
            head = {"title": paragraph.title} if self.titles else {}
            if self.unit == "paragraph":
                shared = paragraph.id if self.parallel else None
                yield Doc(f"{lang}-{paragraph.id}", {**head, "text": paragraph.text}, lang, shared)
                continue
            for number, sentence in enumerate(paragraph.sentences(), 1):
                yield Doc(f"{lang}-{paragraph.id}-s{number}", {**head, "text": sentence}, lang)

    def read_topics(self, lang: str, source: str | None = None) -> list[Query]:
        """Every question once, white space collapsed."""
        if source:
            raise ConfigError(f"dataset.topics has one version of its questions, there is no {source!r}")
        found: dict[str, Query] = {}
        translated = self._is_translation(lang)
        for place in self._topics(lang):
            for paragraph in self._read("dataset.topics", place):
                for question in paragraph.questions:
                    text = " ".join(((question.translated or "") if translated else question.text).split())
                    first = found.setdefault(question.id, Query(question.id, {"text": text}, lang))
                    if first.fields["text"] != text:
                        raise DataError(
                            f"{place}: question {question.id!r} reads {first.fields['text']!r} and {text!r}"
                        )
        if not found:
            raise DataError(f"{', '.join(self._topics(lang))}: no questions")
        return list(found.values())

    def read_qrels(self, name: str) -> list[Qrel]:
        """Which documents answer each question that there is in the query language; 0 where its paragraph does not."""
        self._check_name(name)
        asked = {query.query_id for query in self.read_topics(self.query_lang)}
        judged: dict[tuple[str, str], int] = {}
        for lang in self.doc_langs:
            for paragraph in self._paragraphs(lang):
                for question in paragraph.questions:
                    if question.id in asked:
                        for doc_id, grade in self._judged(paragraph, question):
                            key = (question.id, f"{lang}-{doc_id}")
                            judged[key] = max(grade, judged.get(key, 0))
        if not judged:
            raise DataError(
                f"no question in {self.query_lang!r} is about a paragraph in {self.doc_label!r}: {self.docs}"
            )
        return [Qrel(query_id, doc_id, grade) for (query_id, doc_id), grade in judged.items()]

    def _judged(self, paragraph: Paragraph, question: Question) -> Iterator[tuple[str, int]]:
        if self.unit == "paragraph":
            yield paragraph.id, int(question.answered)
            return
        breaks = paragraph.spans()
        if not question.starts:
            yield f"{paragraph.id}-s1", 0
        for start in question.starts:
            within = [number for number, (begin, _) in enumerate(breaks, 1) if begin <= start]
            yield f"{paragraph.id}-s{within[-1] if within else 1}", 1


def _split(text: str) -> Iterator[tuple[int, int]]:
    """Where clir's own rules see sentences, for a file that does not say it."""
    at = 0
    for sentence in split_sentences(text, max_chars=len(text) + 1):
        if sentence.strip():
            begin = text.index(sentence.strip(), at)
            at = begin + len(sentence.strip())
            yield begin, at


# Files ----------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)  # documents, topics and judgments of one run read the same files
def _read(layout: Literal["squad", "afriqa"], path: Path, state: tuple[int, int]) -> tuple[Paragraph, ...]:
    """The paragraphs of a file. `state`: its size and time, so that a changed file is read again."""
    odd = Counter[str]()
    found = tuple(_squad(path, odd) if layout == "squad" else _afriqa(path, odd))
    for what, count in odd.items():
        say(f"{path}: {many(count, *ODD[what])}")
    if not found:
        raise DataError(f"{path} holds no paragraphs")
    return found


def _squad(path: Path, odd: Counter[str]) -> Iterator[Paragraph]:
    """{data: [{title, paragraphs: [{context, qas: [{id, question, answers: [{text, answer_start}]}]}]}]}."""
    seen: dict[str, str] = {}
    for a, article in enumerate(_list(f"{path}: the file", _json(path), "data"), 1):
        for p, paragraph in enumerate(_list(f"{path}: article {a}", article, "paragraphs"), 1):
            where = f"{path}: article {a}, paragraph {p}"
            text = _text(where, paragraph, "context", odd)
            questions = []
            for q, asked in enumerate(_list(where, paragraph, "qas"), 1):
                place = f"{where}, question {q}"
                identifier = as_id(asked.get("id"))
                question = _text(place, asked, "question", odd)
                _see(seen, place, identifier, question)
                answers = [] if asked.get("is_impossible") else _answers(place, asked.get("answers") or [])
                starts = _starts(text, answers, odd)
                questions.append(Question(identifier, question, None, bool(answers), starts))
            breaks = _breaks(where, paragraph.get("sentence_breaks"), len(text))
            written = _written(where, paragraph.get("sentences"), breaks)
            title = str(article.get("title") or "")
            yield Paragraph(f"a{a:02}-p{p}", title, text, breaks, written, tuple(questions))


def _afriqa(path: Path, odd: Counter[str]) -> Iterator[Paragraph]:
    """One question a line, each with its passage; a passage that several lines hold is one document."""
    passages: dict[str, tuple[str, list[Question]]] = {}
    seen: dict[str, str] = {}
    for number, line in read_lines(path, "dataset.docs"):
        row, place = parse_object(path, number, line), f"{path}:{number}"
        identifier = as_id(row.get("id"))
        text, answers = _text(place, row, "context", odd), _answers(place, row.get("answer_pivot") or [])
        starts = _starts(text, answers, odd)
        question, translated = (_text(place, row, name, odd) for name in ("question_lang", "question_translated"))
        _see(seen, place, identifier, question)
        asked = Question(identifier, question, translated, bool(answers), starts)
        passages.setdefault(text, (str(row.get("title") or ""), []))[1].append(asked)
    for n, (text, (title, questions)) in enumerate(passages.items(), 1):
        yield Paragraph(f"p{n}", title, text, None, None, tuple(questions))


def _see(seen: dict[str, str], where: str, identifier: str, question: str) -> None:
    if not identifier:
        raise DataError(f"{where}: expected an id without blanks as 'id'")
    if seen.setdefault(identifier, question) != question:
        raise DataError(f"{where}: the id {identifier!r} is another question's too: {seen[identifier]!r}")


def _json(path: Path) -> Any:
    if not path.is_file():
        raise MissingData(f"dataset.docs: {path} does not exist")
    text = decoded(path, 1, content(path))
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}:{getattr(error, 'lineno', 1)}: not JSON ({error})") from error


def _list(where: str, node: Any, name: str) -> list[dict[str, Any]]:
    value = node.get(name) if isinstance(node, dict) else None
    if not isinstance(value, list) or not all(isinstance(element, dict) for element in value):
        raise DataError(f"{where}: expected a list of objects as {name!r}; is it in SQuAD's format?")
    return value


def _text(where: str, node: Mapping[str, Any], name: str, odd: Counter[str]) -> str:
    value = node.get(name)
    if value is None and name in node:
        return ""  # a null passage: no text, and counted as such where it is stored
    if isinstance(value, float) and math.isnan(value):
        odd[NAN] += 1
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: expected text as {name!r}, found {value!r}")
    return value


def _answers(where: str, given: Any) -> list[tuple[str, int]]:
    """(text, where it begins) of answers: a list of {text, answer_start}, or one such object of two lists (AfriQA, the hub)."""
    if isinstance(given, dict):
        columns = given.get("text") or [], given.get("answer_start") or []
        if all(isinstance(column, list) for column in columns) and len(columns[0]) == len(columns[1]):
            given = [{"text": text, "answer_start": start} for text, start in zip(*columns, strict=True)]
    found: list[Any] = [(row.get("text"), row.get("answer_start")) for row in given if isinstance(row, dict)]
    if not isinstance(given, list) or len(found) < len(given) or any(type(t) is not str or type(s) is not int for t, s in found):  # fmt: skip
        raise DataError(f"{where}: expected answers with text and answer_start, found {str(given)[:80]!r}")
    return found


def _starts(text: str, answers: Sequence[tuple[str, int]], odd: Counter[str]) -> tuple[int, ...]:
    """Where the answers begin. One that stands elsewhere than the file says is looked for, and counted in `odd`."""
    found = []
    for words, start in answers:
        if not words:
            continue
        if start >= 0 and text[start : start + len(words)] == words:
            found.append(start)
        elif words in text:
            odd[MISPLACED] += 1
            found.append(text.index(words))
        else:
            odd[ABSENT] += 1
    return tuple(dict.fromkeys(found))


def _breaks(where: str, breaks: Any, length: int) -> tuple[tuple[int, int], ...] | None:
    """LAReQA's [begin, end] of each sentence."""
    if breaks is None:
        return None
    try:
        found = tuple((int(begin), int(end)) for begin, end in breaks)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: expected [[begin, end], ...] as sentence_breaks") from error
    ends = [0, *(end for _, end in found)]
    if any(not (before <= begin < end <= length) for before, (begin, end) in zip(ends, found, strict=False)):
        raise DataError(f"{where}: the sentence_breaks do not lie one after another within {length} characters")
    return found


def _written(where: str, sentences: Any, breaks: Sequence[Any] | None) -> tuple[str, ...] | None:
    """LAReQA's sentences as it writes them; as many as it has breaks."""
    if sentences is None or breaks is None:
        return None
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        raise DataError(f"{where}: expected a list of texts as sentences")
    if len(sentences) != len(breaks):
        raise DataError(f"{where}: {len(sentences)} sentences, but {len(breaks)} sentence_breaks")
    return tuple(sentences)
