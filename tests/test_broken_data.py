"""A folder of broken examples for every format: each gives one error with file and line, or a counted and named warning."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clir_cli import compose, config, schema
from clir_cli.docstore import Docstore
from clir_cli.errors import DataError
from clir_cli.evaluation import read_qrels
from clir_cli.stages import Stages
from clir_cli.store import Store

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
        {"documents": 2, "empty": 1, "duplicates": 0}, "fire.hi: 1 documents without text",
    ),
    "BEIR, null passages": (
        "beir", "docs", "corpus.jsonl", line(_id="d1", title=None, text=None) + line(_id="d2", title="", text="a"),
        {"documents": 2, "empty": 1, "duplicates": 0}, "beir.de: 1 documents without text",
    ),
    "SGML topics of which one has no text": (
        "sgml", "topics", "topics.en.txt", TOPIC.format(1, 1) + "<top>\n<num>2</num>\n</top>\n",
        {"queries": 2, "empty": 1}, "topics without text (warn)",
    ),
    "BEIR queries of which one is null": (
        "beir", "topics", "queries.jsonl", line(_id="1", text="a") + line(_id="2", text=None),
        {"queries": 2, "empty": 1}, "topics without text (warn)",
    ),
    "HC4 topics of which one is in another language": (
        "hc4", "topics", "hc4.jsonl", line(topic_id="1", topics=[HC4]) + line(topic_id="2", topics=[{**HC4, "lang": "fas"}]),
        {"queries": 1, "empty": 0}, "1 of 2 topics without a version 'original' or 'human translation' in 'en': left out",
    ),
    "qrels that say a thing twice": (
        "sgml", "qrels", "qrels.hi.txt", "1 0 d0 1\n1 0 d0 1\n", {"judgments": 1}, "1 judgment stands there twice, with the same grade",
    ),
    "qrels with negative grades": ("sgml", "qrels", "qrels.hi.txt", "1 0 d0 -2\n2 0 d1 1\n", {"judgments": 2}, ""),
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
