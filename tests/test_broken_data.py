"""A folder of broken examples for every format: each gives one error with file and line, or a counted and named warning."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet as pq

from clir_cli import compose, config, grid, schema
from clir_cli.datasets.bitext import Bitext
from clir_cli.datasets.files import Files
from clir_cli.datasets.open_qa import OpenQuestions
from clir_cli.datasets.qa import QuestionAnswering
from clir_cli.datasets.rows import Rows
from clir_cli.docstore import Docstore
from clir_cli.errors import ConfigError, DataError
from clir_cli.evaluation import read_qrels
from clir_cli.retrievers.precomputed import _mapped
from clir_cli.runs import read_trec
from clir_cli.selection import ids_in
from clir_cli.stages import Stages
from clir_cli.store import Store
from clir_cli.text import translation_table
from clir_cli.translators.provided import Provided
from clir_cli.types import Qrel

GOOD = "<DOC>\n<DOCNO>d{}</DOCNO>\n<TEXT>\nText {}\n</TEXT>\n</DOC>\n"
TOPIC = "<top>\n<num>{}</num>\n<title>title {}</title>\n<desc>desc</desc>\n<narr>narr</narr>\n</top>\n"
HC4 = {"lang": "eng", "source": "original", "topic_title": "a title", "topic_description": "a description"}


def line(**row: Any) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


class Formats:
    """Small whole collections of each format, in which one file is broken at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "runs")
        (folder / "docs.hi").mkdir()
        self.save("docs.hi/a.sgml", "".join(GOOD.format(i, i) for i in range(3)))
        self.save("topics.en.txt", TOPIC.format(1, 1) + TOPIC.format(2, 2))
        self.save("qrels.hi.txt", "1 0 d0 1\n2 0 d1 0\n")
        (folder / "qrels").mkdir()
        self.save("corpus.jsonl", "".join(line(_id=f"d{i}", title="", text=f"Text {i}") for i in range(3)))
        self.save("queries.jsonl", line(_id="1", text="one") + line(_id="2", text="two"))
        self.save("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\td0\t1\n2\td1\t0\n")
        (folder / "zho").mkdir()
        self.save("zho/hc4_docs.jsonl", "".join(line(id=f"d{i}", title="t", text=f"Text {i}") for i in range(3)))
        self.save("hc4.jsonl", line(topic_id="1", topics=[HC4]) + line(topic_id="2", topics=[HC4]))
        self.save("hc4.qrels", "1 0 d0 3\n2 0 d1 0\n")

    def save(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def overrides(self, kind: str) -> list[str]:
        given = {
            "sgml": ["dataset=fire", "dataset.pair=en-hi"],
            "beir": ["dataset=beir", "dataset.doc_lang=de"],
            "hc4": ["dataset=hc4", f"dataset.topics={self.folder}/hc4.jsonl", f"dataset.qrels={self.folder}/hc4.qrels"],
        }[kind]
        return [*given, f"dataset.path={self.folder}", "retriever=bm25"]

    def config(self, kind: str, *more: str) -> config.Config:
        (cell,) = compose.cells([*self.overrides(kind), *more])
        return config.built(cell.plain)

    def read(self, kind: str, part: str, *more: str) -> dict[str, float]:
        """What a step says it counted."""
        cfg = self.config(kind, *more)
        stages = Stages(self.store)
        if part == "qrels":
            return {"judgments": len(cfg.dataset.read_qrels("qrels"))}
        step = stages.docs(cfg, cfg.dataset.doc_lang) if part == "docs" else stages.topics(cfg)
        self.store.make(step)
        folder = self.store.folder(step)
        assert folder is not None
        counts: dict[str, float] = json.loads((folder / "step.json").read_text())["counts"]
        assert part != "docs" or counts["documents"] == len(Docstore(folder))
        return counts

    def refused(self, kind: str, part: str, *more: str) -> str:
        with pytest.raises(DataError) as caught:
            self.read(kind, part, *more)
        return str(caught.value).replace(f"{self.folder}/", "")


@pytest.fixture
def formats(tmp_path: Path) -> Formats:
    return Formats(tmp_path)


@pytest.mark.parametrize("kind", ["sgml", "beir", "hc4"])
def test_the_whole_examples_are_read(formats: Formats, kind: str) -> None:
    assert formats.read(kind, "docs") == {"documents": 3, "empty": 0, "duplicates": 0}
    assert formats.read(kind, "topics") == {"queries": 2, "empty": 0}
    assert formats.read(kind, "qrels") == {"judgments": 2}


# One error, with file and line ----------------------------------------------------------------------------------------

CUT = gzip.compress(b"x" * 10_000)[:-20]
BROKEN: dict[str, tuple[str, str, str, str | bytes, str]] = {
    # what is broken: format, part, file, its content, the words
    "SGML, the last document is cut off": (
        "sgml", "docs", "docs.hi/a.sgml", GOOD.format(1, 1) + "<DOC>\n<DOCNO>d2</DOCNO>\n<TEXT>\nText",
        "docs.hi/a.sgml:7: <DOC> has no </DOC> before the file ends; is the file complete?",
    ),
    "SGML, a document without its end tag": (
        "sgml", "docs", "docs.hi/a.sgml", GOOD.format(1, 1).replace("</DOC>\n", "") + GOOD.format(2, 2),
        "docs.hi/a.sgml:1: <DOC> has no </DOC> before the next one begins in line 6",
    ),
    "SGML, an end tag without a document": (
        "sgml", "docs", "docs.hi/a.sgml", GOOD.format(1, 1) + "</DOC>\n", "docs.hi/a.sgml:7: </DOC> without a <DOC> before it",
    ),
    "SGML, a field without its end tag": (
        "sgml", "docs", "docs.hi/a.sgml", GOOD.format(1, 1) + GOOD.format(2, 2).replace("</TEXT>", ""),
        "docs.hi/a.sgml:9: <TEXT> has no </TEXT>",
    ),
    "SGML, a document without an id": (
        "sgml", "docs", "docs.hi/a.sgml", GOOD.format(1, 1).replace("DOCNO", "DOCID"), "docs.hi/a.sgml:1: a <DOC> without <DOCNO>",
    ),
    "SGML, an empty id": (
        "sgml", "docs", "docs.hi/a.sgml", GOOD.format("", 1).replace("d<", " <"), "docs.hi/a.sgml:1: a <DOC> without <DOCNO>",
    ),
    "SGML, an id with a blank": (
        "sgml", "docs", "docs.hi/a.sgml", GOOD.format(" 1", 1), "docs.hi/a.sgml:1: expected an id without blanks as <DOCNO>, found 'd 1'",
    ),
    "SGML, an id twice": (
        "sgml", "docs", "docs.hi/a.sgml", GOOD.format(1, 1) + GOOD.format(1, 2), "a.sgml:7: doc_id 'd1' (hi) occurs twice, first in line 1",
    ),
    "SGML, another encoding in the middle": (
        "sgml", "docs", "docs.hi/a.sgml", GOOD.format(1, 1).encode() + GOOD.format(2, "für").encode("iso-8859-1"),
        "docs.hi/a.sgml:10: expected utf-8, found b'\\xfcr",
    ),
    "SGML, a gzip file that is cut off": (
        "sgml", "docs", "docs.hi/b.sgml.gz", CUT, "docs.hi/b.sgml.gz is not a complete gzip file",
    ),
    "SGML, no documents at all": ("sgml", "docs", "docs.hi/a.sgml", "nothing\n", "docs.hi/a.sgml: no documents"),
    "SGML topics without a number": (
        "sgml", "topics", "topics.en.txt", TOPIC.format(1, 1) + TOPIC.format(2, 2).replace("num>", "no>"),
        "topics.en.txt:7: a topic without <num>",
    ),
    "SGML topics without any text": (
        "sgml", "topics", "topics.en.txt", TOPIC.format(1, 1).replace("title>", "EN-title>").replace("desc>", "EN-desc>").replace("narr>", "EN-narr>"),
        "topics.en.txt: no topic has text in <title>, <desc>, <narr>; are the tags those of 'en'?",
    ),
    "SGML topics, none": ("sgml", "topics", "topics.en.txt", "", "topics.en.txt: no topics between <top> and </top>"),
    "SGML topics, the last cut off": (
        "sgml", "topics", "topics.en.txt", TOPIC.format(1, 1) + "<top>\n<num>2</num>\n", "topics.en.txt:7: <top> has no </top> before the file ends",
    ),
    "SGML topics, an id twice": ("sgml", "topics", "topics.en.txt", TOPIC.format(1, 1) * 2, "topic '1' is listed twice (en), first in line 1"),
    "BEIR, a field is missing": (
        "beir", "docs", "corpus.jsonl", line(_id="d1", title="", text="a") + line(_id="d2", title=""),
        "corpus.jsonl:2: no column 'text' (dataset.docs_columns); there are: _id, title",
    ),
    "BEIR, NaN where text should be": (
        "beir", "docs", "corpus.jsonl", line(_id="d1", title="", text="a") + '{"_id": "d2", "title": "", "text": NaN}\n',
        "corpus.jsonl:2: expected text as text, found float: 'nan'",
    ),
    "BEIR, NaN as an id": (
        "beir", "docs", "corpus.jsonl", '{"_id": NaN, "title": "", "text": "a"}\n', "corpus.jsonl:1: expected an id without blanks as _id, found nan",
    ),
    "BEIR, a list where text should be": (
        "beir", "docs", "corpus.jsonl", line(_id="d1", title="", text=["a"]), "corpus.jsonl:1: expected text as text, found list: \"['a']\"",
    ),
    "BEIR, JSON that ends in the middle": (
        "beir", "docs", "corpus.jsonl", line(_id="d1", title="", text="a") + '{"_id": "d2", "ti', "corpus.jsonl:2: expected one JSON object per line",
    ),
    "BEIR, a JSON array in place of lines": (
        "beir", "docs", "corpus.jsonl", '[{"_id": "d1"}]\n', "corpus.jsonl:1: expected one JSON object per line, found",
    ),
    "BEIR, another encoding": (
        "beir", "docs", "corpus.jsonl", line(_id="d1", title="", text="für").encode("iso-8859-1"), "corpus.jsonl:1: expected UTF-8, found b'\\xfcr",
    ),
    "BEIR, an id twice": (
        "beir", "docs", "corpus.jsonl", line(_id="d1", title="", text="a") * 2, "corpus.jsonl:2: doc_id 'd1' (de) occurs twice, first in line 1",
    ),
    "BEIR qrels with floats": (
        "beir", "qrels", "qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\td0\t0.5\n", "qrels/test.tsv:2: expected an integer as relevance, got '0.5'",
    ),
    "TREC qrels with floats": ("sgml", "qrels", "qrels.hi.txt", "1 0 d0 1.0\n", "qrels.hi.txt:1: expected an integer as relevance, got '1.0'"),
    "TREC qrels whose only three columns have no header": (
        "sgml", "qrels", "qrels.hi.txt", "1 d0 0.5\n2 d1 1\n", "qrels.hi.txt:1: expected 4 fields",
    ),
    "TREC qrels with a grade that no evaluator has room for": (
        "sgml", "qrels", "qrels.hi.txt", "1 0 d0 3000000000\n",
        "qrels.hi.txt:1: expected relevance from -1000000 to 1000000, got '3000000000': '1 0 d0 3000000000'",
    ),
    "TREC qrels in UTF-16": (
        "sgml", "qrels", "qrels.hi.txt", "1 0 d0 1\n".encode("utf-16"), "qrels.hi.txt:1: a NUL byte, which no text has: is the file damaged, or in UTF-16",
    ),
    "SGML, a NUL byte": (
        "sgml", "docs", "docs.hi/a.sgml", GOOD.format(1, 1) + GOOD.format(2, "a\0b"), "docs.hi/a.sgml:10: a NUL byte, which no text has",
    ),
    "SGML, no document has text": (
        "sgml", "docs", "docs.hi/a.sgml", "<DOC>\n<DOCNO>d1</DOCNO>\n</DOC>\n", "docs.hi/a.sgml: none of 1 document has text; are the fields the right ones?",
    ),
    "BEIR, gzipped under another name": (
        "beir", "docs", "corpus.jsonl", gzip.compress(line(_id="d1", title="", text="a").encode()),
        "corpus.jsonl is gzipped, and its name does not say so: let it end in .gz",
    ),
    "BEIR, an id with a NUL": (
        "beir", "docs", "corpus.jsonl", line(_id="d\0", title="", text="a"), "corpus.jsonl:1: expected an id without blanks as _id, found 'd\\x00'",
    ),
    "BEIR, JSON that is nested too deep": (
        "beir", "docs", "corpus.jsonl", "[" * 100_000 + "\n", "corpus.jsonl:1: expected one JSON object per line, found '[[[",
    ),
    "BEIR queries without any text": (
        "beir", "topics", "queries.jsonl", line(_id="1", text=None) + line(_id="2", text=""), "queries.jsonl: none of 2 topics has text",
    ),
    "TREC qrels with five columns": ("sgml", "qrels", "qrels.hi.txt", "1 0 d0 1\n1 0 d1 1 x\n", "qrels.hi.txt:2: expected 4 fields"),
    "TREC qrels that contradict each other": (
        "sgml", "qrels", "qrels.hi.txt", "1 0 d0 1\n1 0 d0 0\n", "qrels.hi.txt:2: judged 1 before, now 0",
    ),
    "TREC qrels, none": ("sgml", "qrels", "qrels.hi.txt", "\n", "qrels.hi.txt holds no judgments"),
    "HC4, a title that is a number": (
        "hc4", "docs", "zho/hc4_docs.jsonl", line(id="d1", title=3, text="a"), "zho/hc4_docs.jsonl:1: expected text as title, found int: '3'",
    ),
    "HC4 topics without the language": (
        "hc4", "topics", "hc4.jsonl", line(topic_id="1", topics=[{**HC4, "lang": "fas"}]), "hc4.jsonl: no topics in 'en'",
    ),
    "HC4 topics whose text is a list": (
        "hc4", "topics", "hc4.jsonl", line(topic_id="1", topics=[{**HC4, "topic_title": ["a"]}]), "hc4.jsonl:1: topic '1' in 'en': expected text as topic_title",
    ),
    "HC4 topics without an id": (
        "hc4", "topics", "hc4.jsonl", line(topics=[HC4]), "hc4.jsonl:1: expected an id without blanks as topic_id, found None",
    ),
    "HC4 topics in a version that nobody asked for": (
        "hc4", "topics", "hc4.jsonl", line(topic_id="1", topics=[{**HC4, "source": "mt"}]),
        "hc4.jsonl: no topic in 'en' has a version 'original' or 'human translation'\n  there are: 'mt'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_refused_with_file_and_line(formats: Formats, what: str) -> None:
    kind, part, name, content, words = BROKEN[what]
    formats.save(name, content)
    assert words in formats.refused(kind, part)


# Counted and named ----------------------------------------------------------------------------------------------------

COUNTED: dict[str, tuple[str, str, str, str, dict[str, float], str]] = {
    # what is odd: format, part, file, its content, what is counted, the warning
    "SGML, a document without text": (
        "sgml", "docs", "docs.hi/a.sgml", GOOD.format(1, 1) + "<DOC>\n<DOCNO>d2</DOCNO>\n</DOC>\n",
        {"documents": 2, "empty": 1, "duplicates": 0}, "fire.hi: 1 document without text",
    ),
    "BEIR, null passages": (
        "beir", "docs", "corpus.jsonl", line(_id="d1", title=None, text=None) + line(_id="d2", title="", text="a"),
        {"documents": 2, "empty": 1, "duplicates": 0}, "beir.de: 1 document without text",
    ),
    "SGML topics of which one has no text": (
        "sgml", "topics", "topics.en.txt", TOPIC.format(1, 1) + "<top>\n<num>2</num>\n</top>\n",
        {"queries": 2, "empty": 1}, "1 topic without text (warn)",
    ),
    "BEIR queries of which one is null": (
        "beir", "topics", "queries.jsonl", line(_id="1", text="a") + line(_id="2", text=None),
        {"queries": 2, "empty": 1}, "1 topic without text (warn)",
    ),
    "HC4 topics of which one is in another language": (
        "hc4", "topics", "hc4.jsonl", line(topic_id="1", topics=[HC4]) + line(topic_id="2", topics=[{**HC4, "lang": "fas"}]),
        {"queries": 1, "empty": 0}, "1 of 2 topics without a version 'original' or 'human translation' in 'en': left out",
    ),
    "qrels that say a thing twice": (
        "sgml", "qrels", "qrels.hi.txt", "1 0 d0 1\n1 0 d0 1\n", {"judgments": 1}, "1 judgment stands there twice, with the same grade",
    ),
    "qrels with negative grades": ("sgml", "qrels", "qrels.hi.txt", "1 0 d0 -2\n2 0 d1 1\n", {"judgments": 2}, "qrels.hi.txt: 1 grade is below 0: judged and not relevant"),
    "a byte order mark and no last line break": (
        "sgml", "docs", "docs.hi/a.sgml", "\ufeff" + (GOOD.format(1, 1) + GOOD.format(2, 2)).rstrip("\n"),
        {"documents": 2, "empty": 0, "duplicates": 0}, "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", COUNTED)
def test_what_is_odd_is_counted_and_named(formats: Formats, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind, part, name, content, counts, words = COUNTED[what]
    formats.save(name, content)
    assert formats.read(kind, part) == counts
    said = capsys.readouterr().err
    assert words in said if words else "WARN" not in said


def test_what_is_odd_is_refused_or_dropped_where_the_options_say_so(formats: Formats) -> None:
    formats.save("docs.hi/a.sgml", GOOD.format(1, 1) * 2 + "<DOC>\n<DOCNO>d2</DOCNO>\n</DOC>\n")
    first = formats.read("sgml", "docs", "dataset.on_duplicate=first", "dataset.on_empty=drop")
    assert first == {"documents": 1, "empty": 1, "duplicates": 1}
    assert "'d2'" in formats.refused("sgml", "docs", "dataset.on_duplicate=first", "dataset.on_empty=error")
    formats.save("topics.en.txt", TOPIC.format(1, 1) + "<top>\n<num>2</num>\n</top>\n")
    assert formats.read("sgml", "topics", "dataset.on_empty=drop") == {"queries": 1, "empty": 1}
    assert "1 topic without text; dataset.on_empty=warn keeps them" in formats.refused(
        "sgml", "topics", "dataset.on_empty=error"
    )


def test_no_line_break_at_the_end_loses_no_judgment_and_a_hash_is_no_comment(tmp_path: Path) -> None:
    path = tmp_path / "q.tsv"
    path.write_bytes(b"7\tQ0\tVOA#1#2\t1\n7\tQ0\tVOA#1#3\t0")
    assert [row.doc_id for row in read_qrels(path)] == ["VOA#1#2", "VOA#1#3"]


def test_every_preset_with_files_of_its_own_names_the_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder is refused by the name of what lacks, not by a traceback."""
    monkeypatch.setenv("CLIR_OFFLINE", "1")
    monkeypatch.setenv("CLIR_DATA", str(tmp_path / "data"))
    for name in (
        "clef2000",
        "clef2001",
        "clef2002",
        "clef2003",
        "clef2006_fr",
        "fire",
        "trec_arabic",
        "trec_mandarin",
        "beir",
        "hc4",
    ):
        node = {**yaml.safe_load(compose.choices("dataset")[name].read_text()), "path": str(tmp_path)}
        problems: list[Any] = []
        collection = schema.build(node, "dataset", problems)
        assert not problems, (name, problems)
        readers: list[Callable[[], Any]] = [
            lambda c=collection: list(c.read_docs(c.doc_langs[0])), lambda c=collection: c.read_topics(c.query_lang),
            lambda c=collection: c.read_qrels("qrels"),
        ]  # fmt: skip
        for reader in readers:
            with pytest.raises(DataError):
                reader()


# What is no collection ------------------------------------------------------------------------------------------------

ANSWER = {"text": "north", "answer_start": 27}
NILE = "The Nile is long. It flows north."


def squad(**asked: Any) -> str:
    asked = {"id": "q1", "question": "Where?", "answers": [ANSWER], **asked}
    return json.dumps({"data": [{"title": "", "paragraphs": [{"context": NILE, "qas": [asked]}]}]})


def afriqa(**row: Any) -> str:
    asked = {"id": "q1", "question_lang": "Wapi?", "question_translated": "Where?", "context": NILE}
    return line(**{**asked, **row})


def questions(path: Path, layout: Any = "squad") -> Any:
    return QuestionAnswering(docs=str(path), query_lang="en", doc_lang="en", layout=layout).read_qrels("answers")


def open_questions(path: Path) -> Any:
    columns = {"docs_columns": {"doc_id": "id", "text": "text"}, "topics_columns": {"query_id": "id", "text": "text"}}
    return OpenQuestions(
        docs=str(path), topics=str(path), answers="answers", query_lang="en", doc_lang="en", **columns
    ).read_answers()


def bitext(path: Path, gold: str) -> Any:
    (path.parent / "gold").write_text(gold)
    (path.parent / "x.de").write_text("d1\teins\n")
    found = Bitext(texts=f"{path.parent}/x.{{lang}}", gold=f"{path.parent}/gold", query_lang="de", doc_lang="en")
    return [*found.read_docs("en")], found.read_qrels("lines")


def rows(path: Path) -> Any:
    return [r.text(n, row, "text") for r in [Rows(path, "dataset.docs", columns=("id", "text"))] for n, row in r]


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def npy(values: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=True)
    return out.getvalue()


NOT_UTF8 = pa.Array.from_buffers(pa.string(), 2, pa.array([b"one", b"\xff"]).buffers())
Reader = Callable[[Path], Any]
REFUSED: dict[str, tuple[str, str | bytes, Reader, str]] = {
    # what is broken: file, its content, who reads it, the words
    "a run with a rank beyond all integers": (
        "r.trec", "q1 Q0 d1 1e30 1 x\n", read_trec, "r.trec:1: expected an integer as rank, got '1e30'",
    ),
    "a run that lists a document twice": (
        "r.trec", "q1 Q0 d1 1 2 x\nq1 Q0 d1 2 1 x\n", read_trec, "r.trec:2: document 'd1' is listed twice for query 'q1' (1 such line)",
    ),
    "a run in UTF-16": ("r.trec", "q1 Q0 d1 1 2 x\n".encode("utf-16"), read_trec, "r.trec:1: a NUL byte"),
    "a list of topics that is no UTF-8": ("ids", b"q1\nq\xfc\n", ids_in, "ids:2: expected UTF-8, found b'\\xfc\\n' at byte 1"),
    "SQuAD, gzip with a byte changed": (
        "a.json.gz", (packed := gzip.compress(squad().encode()))[:30] + b"\xff\xff\xff" + packed[33:], questions, "a.json.gz is not a complete gzip file",
    ),
    "SQuAD, another encoding": ("a.json", b'{"data":\n "f\xfcr"}', questions, "a.json:2: expected UTF-8, found b'\\xfcr\"}' at byte 3"),
    "SQuAD, half a surrogate pair": ("a.json", squad(question="a").replace('"a"', '"\\ud800"'), questions, "a.json:1: not JSON ('utf-8' codec"),
    "SQuAD, nested too deep": ("a.json", "[" * 100_000, questions, "a.json:1: not JSON (nested too deep)"),
    "SQuAD, answers that are words": (
        "a.json", squad(answers=["north"]), questions, "a.json: article 1, paragraph 1, question 1: expected answers with text and answer_start, found \"['north']\"",
    ),
    "SQuAD, null among the answers": ("a.json", squad(answers=[None]), questions, "question 1: expected answers with text and answer_start, found '[None]'"),
    "AfriQA, an answer that is a word": (
        "a.json", afriqa(answer_pivot="north"), lambda p: questions(p, "afriqa"), "a.json:1: expected answers with text and answer_start, found 'north'",
    ),
    "AfriQA, more answers than places": (
        "a.json", afriqa(answer_pivot={"text": ["a", "b"], "answer_start": [1]}), lambda p: questions(p, "afriqa"), "a.json:1: expected answers with text",
    ),
    "open questions, an answer that is a number": (
        "a.jsonl", line(id="q1", text="?", answers=[{"text": 5}]), open_questions, "a.jsonl:1: expected text or a list of texts as answers, found '5'",
    ),
    "open questions, aliases that are a text": (
        "a.jsonl", line(id="q1", text="?", answers=[{"text": "a", "aliases": "abc"}]), open_questions, "a.jsonl:1: expected text or a list of texts as answers",
    ),
    "bitext, an id twice": (
        "x.en", "e1\tone\ne1\ttwo\n", lambda p: bitext(p, "d1\te1\n"), "x.en:2: id 'e1' (en) occurs twice, first in line 1",
    ),
    "bitext, no pairs": ("x.en", "e1\tone\n", lambda p: bitext(p, ""), "gold: no pairs of ids"),
    "translations, none": ("t.tsv", "", lambda p: Provided(file=str(p)).read_file("de", "en"), "t.tsv holds no translations"),
    "translations, a number": (
        "t.jsonl", line(id="d1", title="a", text=5), lambda p: Provided(file=str(p)).read_file("de", "en"), "t.jsonl:1: expected text as text, found 5",
    ),
    "translations, a zero": (
        "t.jsonl", line(id="d1", text=0), lambda p: Provided(file=str(p)).read_file("de", "en"), "t.jsonl:1: expected text as text, found 0",
    ),
    "a table, nested too deep": ("t.json", "[" * 100_000, translation_table.read, "t.json:1: not JSON (nested too deep)"),
    "parallel lines, a gzip file that is cut off": (
        "p.gz", CUT, lambda p: list(translation_table.read_parallel([p, p])), "p.gz is not a complete gzip file",
    ),
    "parquet, none of the columns": (
        "d.parquet", parquet(a=["x"]), rows, "d.parquet: no column 'id' (dataset.docs_columns); there are: a",
    ),
    "parquet, text that is no UTF-8": (
        "d.parquet", parquet(id=["1", "2"], text=NOT_UTF8), rows, "d.parquet: a text from row 1 on is not UTF-8",
    ),
    "vectors in an archive": ("v.npy", b"PK\x03\x04 and more", _mapped, "v.npy is no .npy file of numbers (the magic string is not correct"),
    "vectors of objects": ("v.npy", npy(np.array([["a", 1]], object)), _mapped, "v.npy is no .npy file of numbers (Array can't be memory-mapped"),
    "a sweep with a key twice": ("s.yaml", "axes:\n  a: [1]\n  a: [2]\n", grid.read, "s.yaml is not yaml: 'a' stands there twice line 3, column 3"),
    "a sweep in another encoding": ("s.yaml", b"axes: {a: [f\xfcr]}\n", grid.read, "s.yaml is not yaml: 'utf-8' codec can't decode byte 0xfc"),
    "a sweep that is empty": ("s.yaml", "", grid.read, "s.yaml is empty; a sweep has axes, zip, constraints, overrides"),
    "a sweep over a number": ("s.yaml", "axes: {3: [a]}\n", grid.read, "s.yaml: axes has a key that is no text: 3"),
    "a configuration in another encoding": ("c.yaml", b"a: \xfc\n", config.load, "c.yaml is not yaml: 'utf-8' codec"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_such_file_is_refused_by_its_reader(tmp_path: Path, what: str) -> None:
    name, content, reader, words = REFUSED[what]
    (path := tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises((DataError, ConfigError)) as caught:
        reader(path)
    assert words in str(caught.value)


def test_a_cell_of_csv_may_be_as_long_as_a_book(tmp_path: Path) -> None:
    (path := tmp_path / "d.csv").write_text(f'id,text\n1,"{"a, " * 100_000}"\n')
    assert [len(text) for text in rows(path)] == [300_000]


def test_answers_may_be_written_as_two_lists(tmp_path: Path) -> None:
    (path := tmp_path / "a.json").write_text(squad(answers={"text": ["north"], "answer_start": [27]}))
    assert questions(path) == [Qrel("q1", "en-a01-p1", 1)]


def test_rows_that_lack_a_text_of_the_others_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "d.jsonl").write_text(line(id="1", title="a", text="b") + line(id="2", title="c"))
    list(Files(docs=str(path), topics=str(path), query_lang="en", doc_lang="en").read_docs("en"))
    assert (
        "d.jsonl: not all rows have the same texts: 1 row has title+text (first in line 1), "
        "1 row has title (first in line 2)\n  dataset.docs_columns names what every row must have"
    ) in capsys.readouterr().err


def test_pairs_of_bitext_that_stand_there_twice_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "x.en").write_text("e1\tone\n")
    assert bitext(path, "d1\te1\nd1\te1\n")[1] == [Qrel("d1", "e1", 1)]
    assert "dataset.gold: 1 judgment stands there twice" in capsys.readouterr().err


def test_a_translation_without_text_is_null_and_no_other_column_stands_for_it(tmp_path: Path) -> None:
    (path := tmp_path / "t.jsonl").write_text(line(id="d1", title="a title", text=None))
    assert Provided(file=str(path)).read_file("de", "en") == {"d1": {"title": "a title", "text": ""}}


@pytest.mark.parametrize(
    ("yaml_text", "words"),
    [
        ("_target_: [\n", "retriever=mine: while parsing a flow node"),
        ("_target_: clir_cli.retrievers.bm25.BM25\nk1: 1\nk1: 2\n", "found duplicate key k1"),
        ("k1: 1\n", "retriever: the yaml of 'mine' names no component: _target_ is missing"),
    ],
)
def test_a_component_whose_yaml_does_not_parse_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, yaml_text: str, words: str
) -> None:
    (tmp_path / "configs" / "retriever").mkdir(parents=True)
    (tmp_path / "configs" / "retriever" / "mine.yaml").write_text(yaml_text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(words)):
        compose.cells(["retriever=mine"])
