"""What a user's documents, topics and judgments may look like, and with which words they are refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED, XQUAD, needs_shared

from clir_cli import compose, config
from clir_cli.datasets import collection as collection_module
from clir_cli.datasets.files import Files
from clir_cli.docstore import Docstore
from clir_cli.errors import ConfigError, DataError
from clir_cli.evaluation import read_qrels
from clir_cli.stages import Stages
from clir_cli.store import Store
from clir_cli.translators.provided import Provided
from clir_cli.types import Doc, Qrel, Query
from clir_cli.views import read_queries

PATAPSCO = SHARED / "data" / "patapsco-samples"
TREC = SHARED / "data" / "trec-formats"
XQUAD_LANGS = ["ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"]


def save(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def collection(folder: Path, docs: str | bytes = "d1\tein Text\n", name: str = "docs.tsv", **settings: Any) -> Files:
    """A German collection with English topics, as `dataset=files` builds it."""
    given = {"docs": str(save(folder / name, docs)), "topics": str(save(folder / "topics.tsv", "q1\ta query\n"))}
    return Files(**{**given, "query_lang": "en", "doc_lang": "de", **settings})


def with_topics(folder: Path, topics: str | bytes, name: str = "t.tsv", **settings: Any) -> Files:
    return collection(folder, topics=str(save(folder / name, topics)), **settings)


def docs(folder: Path, content: str | bytes, name: str = "docs.tsv", **settings: Any) -> list[Doc]:
    return list(collection(folder, content, name, **settings).read_docs("de"))


def refused(folder: Path, content: str | bytes, name: str = "docs.tsv", **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        docs(folder, content, name, **settings)
    message = str(caught.value)
    assert str(folder / name) in message, "an error names the file"
    return message.replace(str(folder / name), name)


def texts(found: Sequence[Doc]) -> dict[str, str]:
    return {doc.doc_id: " | ".join(doc.fields.values()) for doc in found}


# Formats --------------------------------------------------------------------------------------------------------------


def test_jsonl_tsv_and_their_gzipped_forms_say_the_same(tmp_path: Path) -> None:
    rows = jsonl({"doc_id": "d1", "title": "Ebbe", "text": "Flut"}, {"doc_id": "d2", "title": "", "text": "Strom"})
    table = "d1\tEbbe\tFlut\nd2\t\tStrom\n"
    read = [
        docs(tmp_path, content, name)
        for content, name in ((rows, "a.jsonl"), (rows, "a.jsonl.gz"), (table, "a.tsv"), (table, "a.tsv.gz"))
    ]
    assert read[0] == [
        Doc("d1", {"title": "Ebbe", "text": "Flut"}, "de"),
        Doc("d2", {"title": "", "text": "Strom"}, "de"),
    ]
    assert all(one == read[0] for one in read)


def test_the_format_follows_the_name_unless_it_is_said(tmp_path: Path) -> None:
    assert texts(docs(tmp_path, jsonl({"id": "1", "text": "a"}), "docs.dat", format="jsonl")) == {"1": "a"}
    assert texts(docs(tmp_path, "1\ta\n", "docs.json", format="tsv")) == {"1": "a"}
    assert texts(docs(tmp_path, "1\ta\n", "docs")) == {"1": "a"}


@pytest.mark.parametrize("name", ["doc_id", "docid", "id", "_id", "docno"])
def test_an_id_goes_by_the_names_the_field_gives_it(name: str, tmp_path: Path) -> None:
    assert texts(docs(tmp_path, jsonl({"url": "http://x", "text": "a", name: "7"}), "d.jsonl")) == {"7": "a"}
    assert texts(docs(tmp_path, f"{name}\ttext\n7\ta\n")) == {"7": "a"}


def test_the_title_comes_first_wherever_it_stands_and_other_columns_are_no_text(tmp_path: Path) -> None:
    row = {"text": "body", "cc_file": "x.warc", "id": 3, "date": "2016", "title": "head"}
    (doc,) = docs(tmp_path, jsonl(row), "d.jsonl")
    assert (doc.doc_id, list(doc.fields.items())) == ("3", [("title", "head"), ("text", "body")])


def test_a_first_line_is_a_header_if_it_begins_with_an_id_s_name_or_as_told(tmp_path: Path) -> None:
    assert texts(docs(tmp_path, "doc_id\ttext\nd1\ta\n")) == {"d1": "a"}
    assert texts(docs(tmp_path, "d0\ttext\nd1\ta\n")) == {"d0": "text", "d1": "a"}
    assert texts(docs(tmp_path, "id\ttext\nd1\ta\n", header=False)) == {"id": "text", "d1": "a"}
    named = {"doc_id": "nr", "text": "inhalt"}
    assert texts(docs(tmp_path, "nr\tinhalt\n1\ta\n", header=True, docs_columns=named)) == {"1": "a"}
    assert texts(docs(tmp_path, "nr\tinhalt\n1\ta\n", docs_columns=named)) == {"1": "a"}, "named columns need a header"


def test_columns_are_chosen_by_name_or_by_number_from_1_with_or_without_a_header(tmp_path: Path) -> None:
    table = "x\tein Titel\td1\tein Text\n"
    by_number = {"doc_id": 3, "text": 4, "title": 2}
    (doc,) = docs(tmp_path, table, docs_columns=by_number)
    assert (doc.doc_id, list(doc.fields.items())) == ("d1", [("text", "ein Text"), ("title", "ein Titel")]), "in order"
    assert docs(tmp_path, "a\tb\tc\td\n" + table, docs_columns=by_number, header=True) == [doc]
    assert docs(tmp_path, "a\tb\tc\td\n" + table, docs_columns={"doc_id": "c", "text": 4, "title": "b"}) == [doc]
    row = {"nr": "d1", "kopf": "ein Titel", "inhalt": "ein Text"}
    by_name = {"doc_id": "nr", "text": "inhalt", "title": "kopf"}
    assert docs(tmp_path, jsonl(row), "d.jsonl", docs_columns=by_name) == [doc]


def test_topics_have_columns_of_their_own(tmp_path: Path) -> None:
    plain = with_topics(tmp_path, "q1\ttides\tWhy do tides happen?\n")
    assert plain.read_topics("en") == [Query("q1", {"title": "tides", "description": "Why do tides happen?"}, "en")]
    chosen = with_topics(tmp_path, "tides\tq1\n", topics_columns={"query_id": 2, "title": 1})
    assert chosen.read_topics("en") == [Query("q1", {"title": "tides"}, "en")]


def test_tsv_is_never_unquoted(tmp_path: Path) -> None:
    table = 'd1\t"Kon-Tiki\nd2\tsagte "nein"\nd3\t"ganz"\n'
    assert texts(docs(tmp_path, table)) == {"d1": '"Kon-Tiki', "d2": 'sagte "nein"', "d3": '"ganz"'}


def test_byte_order_mark_windows_line_ends_and_a_missing_last_line_break_lose_nothing(tmp_path: Path) -> None:
    table = b"\xef\xbb\xbfd1\tein Text\r\n\r\nd2\tzwei"
    assert texts(docs(tmp_path, table)) == {"d1": "ein Text", "d2": "zwei"}
    assert texts(docs(tmp_path, b"\xef\xbb\xbf" + jsonl({"id": "1", "text": "a"}).encode(), "d.jsonl")) == {"1": "a"}
    assert texts(docs(tmp_path, b"\xef\xbb\xbfdoc_id\ttext\r\nd1\ta")) == {"d1": "a"}


def test_only_a_line_feed_ends_a_line_and_a_mark_inside_a_text_is_text(tmp_path: Path) -> None:
    strange = "eins\u2028zwei\x85drei\x0bvier\ufeff"
    assert texts(docs(tmp_path, f"d1\t{strange}\nd2\t\ufeffx\n")) == {"d1": strange, "d2": "\ufeffx"}


def test_ids_keep_what_looks_like_a_comment_a_missing_value_a_number_or_a_quotation(tmp_path: Path) -> None:
    ids = ["TUKO#13640#0", "#1", "NA", "nan", "None", "007", "1e5", "a\u00a0b", "ü", '"x"']
    assert list(texts(docs(tmp_path, "".join(f"{i}\tt\n" for i in ids)))) == ids
    assert list(texts(docs(tmp_path, jsonl(*({"id": i, "text": "t"} for i in ids)), "d.jsonl"))) == ids


def test_a_missing_text_is_an_empty_one(tmp_path: Path) -> None:
    (doc,) = docs(tmp_path, jsonl({"id": "1", "title": None, "text": "a"}), "d.jsonl")
    assert doc.fields == {"title": "", "text": "a"}


# What does not parse --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"d1\ta\nd2\tM\xfcller\n", "d.tsv", ["d.tsv:2:", "expected UTF-8", r"b'\xfcll", "at byte 4", "iconv"]),
        ('{"id": "1", "text": "a"}\n{"id": "2", "text"\n', "d.jsonl", ["d.jsonl:2:", "one JSON object", '"2"']),
        ('["d1", "a"]\n', "d.jsonl", ["d.jsonl:1:", "one JSON object per line", '["d1", "a"]']),
        ('{"id": "1", "text": "\\ud83d"}\n', "d.jsonl", ["d.jsonl:1:", "surrogates not allowed"]),
        ("d1\ta\td\nd2\tb\n", "d.tsv", ["d.tsv:2:", "expected 3 columns", "doc_id, title, text", "found 2", "d2"]),
        ("doc_id\ttext\nd1\ta\tb\n", "d.tsv", ["d.tsv:2:", "expected 2 columns", "found 3"]),
        ("1\t2\t3\t4\n", "d.tsv", ["d.tsv:1:", "2 or 3 columns", "found 4", "dataset.docs_columns={doc_id: 1"]),
        ("just a text\n", "d.tsv", ["d.tsv:1:", "2 or 3 columns", "found 1"]),
        ("doc_id\ttext\ttext\n1\ta\tb\n", "d.tsv", ["d.tsv:1:", "'text' twice"]),
        ("d 1\ta\n", "d.tsv", ["d.tsv:1:", "id without blanks as doc_id", "'d 1'"]),
        ("\ta\n", "d.tsv", ["d.tsv:1:", "id without blanks", "''"]),
        (jsonl({"id": ["1"], "text": "a"}), "d.jsonl", ["d.jsonl:1:", "id without blanks as id", "['1']"]),
        (jsonl({"id": True, "text": "a"}), "d.jsonl", ["d.jsonl:1:", "id without blanks", "True"]),
        (jsonl({"id": "1", "text": ["a"]}), "d.jsonl", ["d.jsonl:1:", "expected text as text", "list", "['a']"]),
        (jsonl({"id": "1", "text": 5}), "d.jsonl", ["d.jsonl:1:", "expected text as text", "int: '5'"]),
        (jsonl({"key": "1", "text": "a"}), "d.jsonl", ["d.jsonl:1:", "no doc_id", "key, text", "dataset.docs_columns"]),
        (jsonl({"id": "1", "body": "a"}), "d.jsonl", ["d.jsonl:1:", "no text", "id, body", "dataset.docs_columns"]),
    ],
)  # fmt: skip
def test_a_line_that_does_not_fit_is_named_with_what_was_expected_and_found(
    content: str | bytes, name: str, words: list[str], tmp_path: Path
) -> None:
    message = refused(tmp_path, content, name)
    assert [word for word in words if word not in message] == [], message


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    message = refused(tmp_path, "nr\ttext\n1\ta\n", docs_columns={"doc_id": "id", "text": "text"}, header=True)
    assert "docs.tsv:2: no column 'id' (dataset.docs_columns); there are: nr, text" in message
    assert "no column '3'" in refused(tmp_path, "1\ta\n", docs_columns={"doc_id": 1, "text": 3})


def test_a_gzip_file_that_is_cut_off_or_none_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"d%d\t%d\n" % (i, i * 7919) for i in range(1000)))
    for bad in (whole[:-200], whole[:30], b"d1\ta\n"):
        (tmp_path / "d.tsv.gz").write_bytes(bad)
        dataset = Files(
            docs=str(tmp_path / "d.tsv.gz"), topics=str(tmp_path / "topics.tsv"), query_lang="en", doc_lang="de"
        )
        with pytest.raises(DataError, match=r"d\.tsv\.gz is not a complete gzip file"):
            list(dataset.read_docs("de"))


def test_a_file_that_is_not_there_names_its_option(tmp_path: Path) -> None:
    gone, folder = collection(tmp_path, docs="x"), tmp_path
    (tmp_path / "docs.tsv").unlink()
    with pytest.raises(DataError, match=r"dataset\.docs: .*docs\.tsv does not exist"):
        list(gone.read_docs("de"))
    with pytest.raises(DataError, match=r"dataset\.topics: .* is not a file"):
        collection(tmp_path, topics=str(folder)).read_topics("en")


def test_topics_without_topics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no topics in 'en'"):
        with_topics(tmp_path, "").read_topics("en")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"docs": "docs.{langs}.tsv"}, "docs: {langs} is no place in a path; there are: {lang} {iso3} {name} {split}"),
        ({"topics": "t.{split}.tsv"}, "topics: the path holds {split}: choose one with dataset.split=..."),
        ({"qrels": {"a": "q.{nome}.txt"}}, "qrels: {nome} is no place"),
        ({"docs": "docs.{}.tsv"}, "docs: {} is no place"),
        ({"doc_lang": ("de", "sw"), "docs": "d.tsv"}, "doc_lang is a pool (de+sw), but docs='d.tsv' holds no {lang}"),
        ({"doc_lang": ("de", "sw"), "docs": "{lang}", "topics": "{doc_lang}"}, "doc_lang is a pool (de+sw)"),
        ({"doc_lang": ("de", "de"), "docs": "d.{lang}.tsv"}, "names a language twice"),
        ({"aligned": "[a-z]+-.*"}, "a pattern with one group"),
        ({"aligned": "([a-z"}, "aligned is no regular expression"),
        ({"docs_columns": {"text": 2}}, "docs_columns must name doc_id and at least one field"),
        ({"topics_columns": {"query_id": 1}}, "topics_columns must name query_id and at least one field"),
        ({"sample_docs": 0}, "sample_docs must be at least 1"),
        ({"limit_queries": -1}, "limit_queries must be at least 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_anything_is_read(settings: Any, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        Files(**{"docs": "d.tsv", "topics": "t.tsv", "query_lang": "en", "doc_lang": "de", **settings})
    assert words in str(caught.value)


# Languages and places -------------------------------------------------------------------------------------------------


def test_places_in_paths_stand_for_languages_and_split(tmp_path: Path) -> None:
    paths = {
        "docs": f"{tmp_path}/{{lang}}-{{iso3}}-{{doc_lang}}-for-{{query_lang}}-{{split}}.tsv",
        "topics": f"{tmp_path}/{{query_lang}}-{{iso3}}-{{lang}}-on-{{doc_lang}}.tsv",
        "qrels": f"{tmp_path}/{{query_lang}}-{{doc_lang}}-{{iso3}}.txt",
    }
    dataset = Files(**paths, query_lang="en", doc_lang="sw", split="test-b")  # type: ignore[arg-type]
    assert Path(dataset.place("docs", "sw")).name == "sw-swa-sw-for-en-test-b.tsv"
    assert Path(dataset.place("topics", "en")).name == "en-eng-en-on-sw.tsv"
    assert Path(dataset.place("topics", "sw")).name == "sw-swa-sw-on-sw.tsv", "human translations of the topics"
    assert Path(dataset.place("qrels", "sw", "qrels")).name == "en-sw-swa.txt"


def test_a_pool_reads_each_language_from_its_file_and_all_of_their_judgments(tmp_path: Path) -> None:
    for lang in ("de", "sw"):
        save(tmp_path / f"d.{lang}.tsv", f"{lang}-1\tText\n")
        save(tmp_path / f"q.{lang}.txt", f"q1 0 {lang}-1 1\n")
    pool = Files(
        docs=f"{tmp_path}/d.{{lang}}.tsv", topics="t.tsv", qrels=f"{tmp_path}/q.{{doc_lang}}.txt",
        query_lang="en", doc_lang=("de", "sw"),
    )  # fmt: skip
    assert [d.doc_id for lang in pool.doc_langs for d in pool.read_docs(lang)] == ["de-1", "sw-1"]
    assert pool.read_qrels("qrels") == [Qrel("q1", "de-1", 1), Qrel("q1", "sw-1", 1)]
    save(tmp_path / "q.sw.txt", "q1 0 de-1 0\n")
    with pytest.raises(DataError, match=r"q\.sw\.txt: 'de-1' is judged 0 for query 'q1', and 1 in another"):
        pool.read_qrels("qrels")


def test_judgments_of_a_pool_in_one_file_count_once(tmp_path: Path) -> None:
    save(tmp_path / "q.txt", "q1 0 de-1 1\nq1 0 sw-1 0\n")
    pool = Files(docs="{lang}", topics="t", qrels=f"{tmp_path}/q.txt", query_lang="en", doc_lang=("de", "sw"))
    assert pool.read_qrels("qrels") == [Qrel("q1", "de-1", 1), Qrel("q1", "sw-1", 0)]


MIXED = "d1\tde\tEbbe\nd2\tsw\tMaji\nd3\tdeu\tFlut\n"
LANG_COLUMN = {"doc_id": 1, "lang": 2, "text": 3}


def test_one_file_of_several_languages_is_told_apart_by_its_lang_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = collection(tmp_path, MIXED, docs_columns=LANG_COLUMN, doc_lang=("de", "sw"))
    assert {lang: list(texts(list(pool.read_docs(lang)))) for lang in ("de", "sw")} == {
        "de": ["d1", "d3"],
        "sw": ["d2"],
    }
    said = capsys.readouterr().err
    assert "docs.tsv: read for de; there are also: 1 in sw" in said, "nothing is left out silently"


def test_a_language_column_that_disagrees_with_the_path_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "d.de.tsv", MIXED)
    dataset = Files(
        docs=f"{tmp_path}/d.{{lang}}.tsv", topics="t", query_lang="en", doc_lang="de", docs_columns=LANG_COLUMN
    )
    with pytest.raises(DataError, match=r"d\.de\.tsv:2: 'd2' says it is in 'sw', but the path says 'de'"):
        list(dataset.read_docs("de"))


def test_a_file_in_one_language_is_not_taken_for_another(tmp_path: Path) -> None:
    dataset = collection(tmp_path)
    with pytest.raises(
        ConfigError, match=r"dataset\.docs has none in 'en': .* all of it is in de\n.*translator=(?s:.)*retriever=bm25"
    ):
        dataset.source("docs", "en")
    for ask in (lambda: dataset.source("topics", "fi"), lambda: dataset.read_topics("fi")):
        with pytest.raises(ConfigError, match=r"dataset\.topics has none in 'fi'"):
            ask()


def test_aligned_is_the_part_of_an_id_that_translations_share(tmp_path: Path) -> None:
    (doc,) = docs(tmp_path, "de-a01-p1\tx\n", aligned="[a-z]+-(.*)")
    assert doc.aligned == "a01-p1"
    message = refused(tmp_path, "de-1\tx\n17\tx\n", aligned="[a-z]+-(.*)")
    assert "docs.tsv:2: doc_id '17' does not match dataset.aligned='[a-z]+-(.*)'" in message


# HC4 topics -----------------------------------------------------------------------------------------------------------


def hc4(topic_id: object, *versions: tuple[str, str, str]) -> dict[str, Any]:
    topics = [{"lang": lang, "source": source, "topic_title": title} for lang, source, title in versions]
    return {"topic_id": topic_id, "topics": topics}


def test_hc4_topics_are_the_original_or_the_human_translation_unless_a_source_is_named(tmp_path: Path) -> None:
    line = hc4("5", ("eng", "original", "tides"), ("deu", "mt", "Gezeit"), ("deu", "human translation", "Gezeiten"))
    dataset = with_topics(tmp_path, jsonl(line), "t.jsonl")
    assert dataset.read_topics("en") == [Query("5", {"title": "tides"}, "en")]
    assert dataset.read_topics("de") == [Query("5", {"title": "Gezeiten"}, "de")]
    assert dataset.read_topics("de", "mt") == [Query("5", {"title": "Gezeit"}, "de")]
    machine = with_topics(tmp_path, jsonl(line), "t.jsonl", topic_source="mt")
    assert machine.read_topics("de") == [Query("5", {"title": "Gezeit"}, "de")]


def test_a_missing_source_lists_what_there_is(tmp_path: Path) -> None:
    dataset = with_topics(tmp_path, jsonl(hc4("5", ("deu", "mt 1", "a"), ("deu", "mt 2", "b"))), "t.jsonl")
    with pytest.raises(DataError) as caught:
        dataset.read_topics("de")
    message = str(caught.value)
    assert "t.jsonl: no topic in 'de' has a version 'original' or 'human translation'" in message
    assert "there are: 'mt 1', 'mt 2'; choose with dataset.topic_source=" in message
    with pytest.raises(ConfigError, match="versions only in HC4's JSONL, there is no 'mt'"):
        collection(tmp_path, topic_source="mt").read_topics("en")


def test_topics_without_the_version_in_the_language_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in HC4, where people translated each topic into the languages in which it is judged, and machines into all."""
    by_people, by_machine = ("zho", "human translation", "c"), ("zho", "mt", "C")
    lines = jsonl(
        hc4("1", ("eng", "original", "a"), by_machine), hc4("2", ("deu", "original", "b"), by_people, by_machine)
    )
    dataset = with_topics(tmp_path, lines, "t.jsonl")
    without = "t.jsonl: 1 of 2 topics without a version 'original' or 'human translation' in "
    assert [q.query_id for q in dataset.read_topics("en")] == ["1"]
    assert f"{without}'en': left out" in capsys.readouterr().err
    assert dataset.read_topics("zh") == [Query("2", {"title": "c"}, "zh")]
    assert f"{without}'zh': left out" in capsys.readouterr().err
    assert [q.query_id for q in dataset.read_topics("zh", "mt")] == ["1", "2"]
    with pytest.raises(DataError, match="no topics in 'sw'"):
        dataset.read_topics("sw")


def test_an_hc4_topic_without_an_id_or_with_strange_texts_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.jsonl:1: expected an id without blanks as topic_id, found None"):
        with_topics(tmp_path, jsonl(hc4(None, ("eng", "original", "a"))), "t.jsonl").read_topics("en")
    strange = {"lang": "eng", "source": "original", "topic_title": ["a"]}
    with pytest.raises(DataError, match=r"t\.jsonl:1: topic '1' in 'en': expected text as topic_title, found \['a'\]"):
        with_topics(tmp_path, jsonl({"topic_id": "1", "topics": [strange]}), "t.jsonl").read_topics("en")


# Judgments, and which topics and documents are used -------------------------------------------------------------------


def test_judgments_are_one_file_or_several_by_name(tmp_path: Path) -> None:
    shallow, pools = save(tmp_path / "s.txt", "q1 0 d1 1\n"), save(tmp_path / "p.txt", "q1 0 d1 1\nq1 0 d2 1\n")
    one = collection(tmp_path, qrels=str(shallow))
    assert (one.judgment_names, len(one.read_qrels("qrels"))) == (("qrels",), 1)
    both = collection(tmp_path, qrels={"shallow": str(shallow), "pools": str(pools)})
    assert (both.judgment_names, len(both.read_qrels("pools"))) == (("shallow", "pools"), 2)
    assert collection(tmp_path, qrels=both.qrels, judgments=("pools",)).judgment_names == ("pools",)
    with pytest.raises(ConfigError, match="no judgments 'deep'; there are: shallow, pools"):
        both.read_qrels("deep")
    with pytest.raises(ConfigError, match=r"there are: none \(dataset.qrels is not set\)"):
        collection(tmp_path).read_qrels("qrels")


FILES = {"docs": "docs.tsv", "topics": "topics.tsv", "qrels": "qrels.txt"}


class Own:
    """30 documents and 6 topics of which 4 are judged, as `dataset=files` on the command line has them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "runs")
        save(folder / "docs.tsv", "".join(f"d{i}\tText {i}\n" for i in range(30)))
        save(folder / "topics.tsv", "".join(f"q{i}\tquery {i}\n" for i in range(6)))
        save(folder / "qrels.txt", "".join(f"q{i} 0 d{i} 1\nq{i} 0 d{i + 10} 0\n" for i in range(4)))

    def _cfg(self, *overrides: str) -> config.Config:
        files = {name: self.folder / file for name, file in FILES.items()}
        given = {"query_lang": "en", "doc_lang": "de", **files, **dict(o.split("=", 1) for o in overrides)}
        (cell,) = compose.cells(["dataset=files", "retriever=bm25", *(f"dataset.{k}={v}" for k, v in given.items())])
        return config.built(cell.plain)

    def queries(self, *overrides: str) -> list[str]:
        step = Stages(self.store).topics(self._cfg(*overrides))
        self.store.make(step)
        return [q.query_id for q in read_queries(self.store.folder(step) or Path())]

    def docs(self, *overrides: str) -> list[str]:
        return [doc.doc_id for doc in Docstore(self.made(*overrides)).rows()]

    def made(self, *overrides: str) -> Path:
        step = Stages(self.store).docs(self._cfg(*overrides), "de")
        self.store.make(step)
        return self.store.folder(step) or Path()

    def counts(self, *overrides: str) -> dict[str, float]:
        record = json.loads((self.made(*overrides) / "step.json").read_text())
        return dict(record["counts"])


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def test_topics_are_the_judged_ones_all_or_those_that_a_file_or_a_list_names(own: Own) -> None:
    assert own.queries() == ["q0", "q1", "q2", "q3"]
    assert own.queries("queries=all") == [f"q{i}" for i in range(6)]
    assert own.queries("qrels=null") == [f"q{i}" for i in range(6)], "without judgments: all"
    chosen = save(own.folder / "chosen.txt", "q5\nq1\n")
    assert own.queries(f"queries={chosen}") == ["q1", "q5"], "in the topics' order"
    assert own.queries("queries=[q4,q2]") == ["q2", "q4"]
    assert own.queries("limit_queries=2") == ["q0", "q1"]
    with pytest.raises(DataError, match=r"dataset\.queries: 1 id is no topic, for example 'q9'"):
        own.queries("queries=[q1,q9]")


def test_ids_on_the_command_line_may_look_like_numbers(own: Own) -> None:
    topics = save(own.folder / "numbered.tsv", "11\ta\n237\tb\n007\tc\n")
    assert own.queries(f"topics={topics}", "queries=[237,007]") == ["237", "007"]


def test_a_sample_holds_every_judged_document_and_n_others_whatever_the_order_of_the_file(own: Own) -> None:
    judged = {f"d{i}" for i in (0, 1, 2, 3, 10, 11, 12, 13)}
    sample = own.docs("sample_docs=5")
    assert judged < set(sample) and len(sample) == 13
    assert sample == sorted(sample, key=lambda doc_id: int(doc_id[1:])), "in the collection's order"
    turned = save(own.folder / "turned.tsv", "".join(f"d{i}\tText {i}\n" for i in reversed(range(30))))
    assert set(own.docs("sample_docs=5", f"docs={turned}")) == set(sample)
    assert set(own.docs("sample_docs=5", "sample_seed=1")) != set(sample)
    assert set(sample) < set(own.docs("sample_docs=6")), "a larger sample holds the smaller"
    assert len(own.docs("sample_docs=500")) == 30


def test_documents_without_text_are_kept_and_counted_dropped_and_counted_or_refused(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(own.folder / "holes.tsv", "d1\ta\nd2\t\nd3\t  \n")
    docs = f"docs={path}"
    assert own.counts(docs) == {"documents": 3, "empty": 2, "duplicates": 0}
    assert "2 documents without text" in capsys.readouterr().err
    assert own.counts(docs, "on_empty=drop") == {"documents": 1, "empty": 2, "duplicates": 0}
    with pytest.raises(DataError, match=r"document 'd2' \(de\) has no text in text\n.*on_empty=warn keeps"):
        own.made(docs, "on_empty=error")


def test_an_id_that_occurs_twice_is_refused_or_the_first_kept_and_the_others_counted(own: Own) -> None:
    path = save(own.folder / "twice.tsv", "d1\ta\nd2\tb\nd1\tc\n")
    docs = f"docs={path}"
    with pytest.raises(
        DataError, match=r"twice\.tsv:3: doc_id 'd1' \(de\) occurs twice, first in line 1\n.*on_duplicate=first keeps"
    ):
        own.made(docs)
    assert own.docs(docs, "on_duplicate=first") == ["d1", "d2"]
    assert own.counts(docs, "on_duplicate=first") == {"documents": 2, "empty": 0, "duplicates": 1}


def test_a_repeated_id_is_refused_with_both_lines_and_beyond_those_that_are_remembered_without(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = save(own.folder / "twice.tsv", "query_id\ttext\nq1\ta\nq2\tb\nq1\tc\n")
    with pytest.raises(DataError, match=r"twice\.tsv:4: topic 'q1' is listed twice \(en\), first in line 2\n"):
        own.queries(f"topics={topics}")
    assert own.queries(f"topics={topics}", "on_duplicate=first") == ["q1", "q2"]
    monkeypatch.setattr(collection_module, "KEPT", 1)
    docs = save(own.folder / "docs.tsv", "d1\ta\nd2\tb\nd2\tc\n")
    with pytest.raises(
        DataError, match=r"doc_id 'd2' \(de\) occurs twice: documents 2 and 3; 1 document repeats an id"
    ):
        own.made(f"docs={docs}")


def test_topics_that_are_not_those_of_the_judgments_are_shown_beside_them(own: Own) -> None:
    qrels = save(own.folder / "others.txt", "".join(f"20{i} 0 d1 1\n" for i in range(5)))
    with pytest.raises(DataError) as caught:
        own.queries(f"qrels={qrels}")
    assert str(caught.value).splitlines() == [
        "no topics are left of 6 after dataset.queries=judged: no id is on both sides",
        "  topics: 'q0', 'q1', 'q2', ... (6)",
        "  judged: '200', '201', '202', ... (5)",
    ]


def test_all_files_that_are_not_there_are_named_at_once(own: Own) -> None:
    gone = [f"{part}={own.folder / 'gone'}.{part}" for part in ("docs", "topics", "qrels")]
    for ask in (own.queries, own.made):
        with pytest.raises(DataError) as caught:
            ask(*gone)
        head, *named = str(caught.value).splitlines()
        assert head == "3 files do not exist:" and named == [f"  dataset.{g.replace('=', ': ')}" for g in gone]
    with pytest.raises(DataError, match=r"gone\.topics does not exist"):
        own.queries(gone[1])


def test_a_split_that_no_path_holds_is_refused(tmp_path: Path) -> None:
    paths: dict[str, Any] = {"docs": "d.tsv", "topics": "t.tsv", "query_lang": "en", "doc_lang": "de", "split": "test"}
    with pytest.raises(ValueError, match=r"dataset\.split=test: no path holds \{split\}"):
        Files(**paths)
    assert Files(**{**paths, "topics": {"en": "t.{split}.tsv"}}).split == "test"
    assert Files(**paths, qrels={"a": "a.txt", "b": "b.txt"}, qrels_splits={"b": ("test",)}).judgment_names == (
        "a",
        "b",
    )
    assert Files(**paths, about={"splits": {"test": "all there is"}}).split == "test", "its yaml says what it is"


# Provided translations in a file --------------------------------------------------------------------------------------


def test_a_file_of_translations_is_jsonl_or_tsv_and_may_hang_on_the_direction(tmp_path: Path) -> None:
    save(tmp_path / "de-en.tsv", 'd1\tthe "tide"\n')
    save(tmp_path / "de-en.jsonl.gz", jsonl({"id": "d1", "title": "tide", "text": "flood"}))
    by_direction = Provided(file=f"{tmp_path}/{{source}}-{{target}}.tsv")
    assert by_direction.read_file("de", "en") == {"d1": {"text": 'the "tide"'}}
    assert Provided(file=f"{tmp_path}/de-en.jsonl.gz").read_file("de", "en") == {
        "d1": {"title": "tide", "text": "flood"}
    }
    with pytest.raises(ValueError, match=r"file may hold \{source\} and \{target\} only"):
        Provided(file="{lang}.tsv")


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("d1\ta\nd1\tb\n", "t.tsv", "t.tsv:2: 'd1' is translated twice"),
        ("d1 a\n", "t.tsv", "t.tsv:1: expected id TAB text"),
        ("d 1\ta\n", "t.tsv", "t.tsv:1: expected an id without blanks"),
        ('{"id": "d1"}\n', "t.jsonl", "t.jsonl:1: expected an id (id, doc_id"),
        ('{"id": "d1", "text": "a"\n', "t.jsonl", "t.jsonl:1: expected one JSON object per line"),
        (b"d1\t\xff\n", "t.tsv", "t.tsv:1: expected UTF-8"),
    ],
)
def test_a_file_of_translations_that_does_not_parse_is_named_by_line(
    content: str | bytes, name: str, words: str, tmp_path: Path
) -> None:
    path = save(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        Provided(file=str(path)).read_file("de", "en")
    assert words in str(caught.value)
    with pytest.raises(DataError, match=r"translator\.file: .* does not exist"):
        Provided(file=str(tmp_path / "none.tsv")).read_file("de", "en")


# Real collections -----------------------------------------------------------------------------------------------------


@needs_shared(XQUAD)
@pytest.mark.parametrize("lang", XQUAD_LANGS)
def test_xquad_r_is_read_whole_in_every_language(lang: str) -> None:
    dataset = Files(
        docs=f"{XQUAD}/corpus.{{lang}}.jsonl", topics=f"{XQUAD}/topics.{{lang}}.tsv",
        qrels=f"{XQUAD}/qrels.{{doc_lang}}.txt", query_lang="en", doc_lang=lang, aligned="[a-z]+-(.*)",
    )  # fmt: skip
    found, topics, qrels = list(dataset.read_docs(lang)), dataset.read_topics(lang), dataset.read_qrels("qrels")
    assert (len(found), len({d.doc_id for d in found}), len({d.aligned for d in found})) == (240, 240, 240)
    assert (len(topics), len({q.query_id for q in topics}), len(qrels)) == (1190, 1190, 1190)
    assert {q.query_id for q in topics} == {row.query_id for row in qrels}
    assert {row.doc_id for row in qrels} <= {d.doc_id for d in found}


@needs_shared(XQUAD)
def test_the_byte_order_marks_inside_59_paragraphs_of_xquad_r_stay_text() -> None:
    marked = []
    for lang in XQUAD_LANGS:
        dataset = Files(docs=f"{XQUAD}/corpus.{{lang}}.jsonl", topics="t", query_lang="en", doc_lang=lang)
        marked += [lang for doc in dataset.read_docs(lang) if "\ufeff" in doc.fields["text"]]
    assert (len(marked), sorted(set(marked))) == (59, ["ar", "de", "el", "es", "hi", "ru", "th", "tr", "vi", "zh"])


@needs_shared(PATAPSCO)
@pytest.mark.parametrize(
    ("lang", "source"), [("en", None), *((code, "google translate") for code in ("fa", "ru", "zh"))]
)
def test_the_patapsco_sample_is_read_by_its_iso_639_3_names(lang: str, source: str | None) -> None:
    dataset = Files(
        docs=f"{PATAPSCO}/{{iso3}}_mini_docs.jsonl", topics=f"{PATAPSCO}/eng_mini_topics.jsonl",
        qrels=f"{PATAPSCO}/eng_mini_qrels", query_lang="en", doc_lang=lang,
    )  # fmt: skip
    found, topics = list(dataset.read_docs(lang)), dataset.read_topics(lang, source)
    assert (len(found), found[0].lang, list(found[0].fields)) == (20, lang, ["title", "text"])
    assert [(q.query_id, q.lang, list(q.fields)) for q in topics] == [
        (i, lang, ["title", "description"]) for i in ("001", "002")
    ]
    qrels = dataset.read_qrels("qrels")
    assert (len(qrels), {row.relevance for row in qrels}) == (40, {0, 3})
    assert {row.doc_id for row in qrels} == {doc.doc_id for doc in found}


@needs_shared(PATAPSCO)
def test_chinese_news_and_the_hc4_topics_on_them_are_read_whole() -> None:
    dataset = Files(
        docs=f"{PATAPSCO}/cc-news-zho-1000.jsonl.gz", topics=f"{PATAPSCO}/dev.topics.v1-0.jsonl",
        qrels=f"{PATAPSCO}/zho.toy-dev.qrels.v1-0.txt", query_lang="en", doc_lang="zh",
    )  # fmt: skip
    found, qrels = list(dataset.read_docs("zh")), dataset.read_qrels("qrels")
    assert len({doc.doc_id for doc in found}) == len(found) == 998
    assert (len(qrels), {row.relevance for row in qrels}) == (44, {0, 1, 3})
    assert {row.doc_id for row in qrels} <= {doc.doc_id for doc in found}
    human, machine = dataset.read_topics("zh"), dataset.read_topics("zh", "20211005-scale21-sockeye2-tm1")
    assert [q.query_id for q in human] == [q.query_id for q in machine] and human != machine
    assert human[0].fields["title"] == "尼日利亚当局应对博科圣地组织"
    assert len(dataset.read_topics("fa")) == 1, "the other is not judged in Persian, so nobody translated it"


CIRAL_TOPICS = {
    "dev": {"ha": 10, "so": 10, "sw": 10, "yo": 10},
    "test-a": {"ha": 80, "so": 99, "sw": 85, "yo": 100},
    "test-b": {"ha": 312, "so": 239, "sw": 113, "yo": 554},
}


def ciral(query_lang: str, doc_lang: str, split: str, pools: bool = False) -> Files:
    native = query_lang == doc_lang
    gz = ".gz" if (pools or (doc_lang, split) in {("ha", "test-b"), ("yo", "test-b")}) else ""
    return Files(
        docs="none", topics=f"{TREC}/topics/topics.ciral-v1.0-{{doc_lang}}-{{split}}{'-native' if native else ''}.tsv",
        qrels=f"{TREC}/qrels/qrels.ciral-v1.0-{{doc_lang}}-{{split}}{'-pools' if pools else ''}.tsv{gz}",
        query_lang=query_lang, doc_lang=doc_lang, split=split, on_duplicate="first",
    )  # fmt: skip


@needs_shared(TREC)
@pytest.mark.parametrize("split", CIRAL_TOPICS)
def test_ciral_s_topics_are_complete_also_where_the_last_line_break_is_missing(split: str) -> None:
    native = {lang: len(ciral(lang, lang, split).read_topics(lang)) for lang in CIRAL_TOPICS[split]}
    assert native == CIRAL_TOPICS[split]
    if split != "dev":
        english = {lang: len(ciral("en", lang, split).read_topics("en")) for lang in CIRAL_TOPICS[split]}
        assert english == CIRAL_TOPICS[split]


@needs_shared(TREC)
def test_ciral_s_quotation_marks_belong_to_the_text() -> None:
    quoted = [
        query
        for lang in ("ha", "sw", "yo", "so")
        for query in ciral("en", lang, "test-b").read_topics("en")
        if '"' in query.fields["text"]
    ]
    assert len(quoted) == 16


@needs_shared(TREC)
def test_ciral_s_judgments_keep_their_hashes_and_counts() -> None:
    assert {lang: len(ciral(lang, lang, "test-a").read_qrels("qrels")) for lang in ("ha", "so", "sw", "yo")} == {
        "ha": 1447, "so": 1798, "sw": 1656, "yo": 1921,
    }  # fmt: skip
    assert {lang: len(ciral(lang, lang, "test-a", True).read_qrels("qrels")) for lang in ("ha", "so", "sw", "yo")} == {
        "ha": 7288, "so": 9094, "sw": 8079, "yo": 8311,
    }  # fmt: skip
    assert {lang: len(ciral(lang, lang, "test-b").read_qrels("qrels")) for lang in ("ha", "so", "sw", "yo")} == {
        "ha": 5930, "so": 4324, "sw": 2175, "yo": 10569,
    }  # fmt: skip
    assert all("#" in row.doc_id for row in ciral("sw", "sw", "test-b").read_qrels("qrels"))


@needs_shared(TREC)
def test_ciral_s_swahili_topic_237_is_listed_twice_and_23_is_judged_without_being_a_topic(own: Own) -> None:
    native, english = ciral("sw", "sw", "test-b"), ciral("en", "sw", "test-b")
    ids = [q.query_id for q in native.read_topics("sw")]
    judged = {row.query_id for row in native.read_qrels("qrels")}
    assert (len(ids), len(set(ids)), ids.count("237"), len(judged)) == (113, 112, 2, 114)
    assert judged - {q.query_id for q in english.read_topics("en")} == {"23"}
    topics = f"topics={native.place('topics', 'sw')}"
    qrels = f"qrels={native.place('qrels', 'sw', 'qrels')}"
    with pytest.raises(DataError, match=r"topic '237' is listed twice"):
        own.queries(topics, qrels, "query_lang=sw")
    assert len(own.queries(topics, qrels, "query_lang=sw", "on_duplicate=first")) == 112


@needs_shared(TREC)
def test_hc4_and_neuclir_topics_and_judgments_have_their_published_counts() -> None:
    def topics(name: str, lang: str) -> list[Query]:
        return Files(docs="none", topics=f"{TREC}/topics/{name}", query_lang=lang, doc_lang="fa").read_topics(lang)

    assert [len(topics(f"topics.hc4-v1.0-{lang}.dev.desc.title.tsv", lang)) for lang in ("fa", "ru", "zh")] == [
        10,
        4,
        10,
    ]
    assert [len(read_qrels(TREC / f"qrels/qrels.hc4-v1.0-{lang}.dev.txt")) for lang in ("fa", "ru", "zh")] == [
        565,
        265,
        466,
    ]
    english, human = (
        topics("topics.neuclir22-en.original-title.txt", "en"),
        topics("topics.neuclir22-fa.ht-title.txt", "fa"),
    )
    assert len(english) == len(human) == 114 and english[0] == Query(
        "0", {"text": "Iranian female athletes refugees"}, "en"
    )
    qrels = read_qrels(TREC / "qrels/qrels.neuclir22-fa.txt.gz")
    assert (len(qrels), len({row.query_id for row in qrels})) == (34174, 46)
    assert len({q.query_id for q in english} - {row.query_id for row in qrels}) == 68
    with pytest.raises(DataError, match=r"fire12en.*:1: expected 2 or 3 columns"):
        topics("topics.fire12en.176-225.txt", "en")
