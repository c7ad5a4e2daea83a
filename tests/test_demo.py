"""The shipped collection is what its README promises: parallel, judged, clean, and small."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache

import pytest

from clir_cli import compose, config
from clir_cli.datasets.files import Files
from clir_cli.types import Doc, Qrel, Query

DOC_LANGS = ("en", "de", "es", "sw")
QUERY_LANGS = ("en", "de", "es", "sw", "fi", "ru")


@cache
def demo(query_lang: str = "en", doc_lang: str = "de") -> Files:
    (cell,) = compose.cells(["dataset=demo", f"dataset.pair={query_lang}-{doc_lang}", "retriever=bm25"])
    dataset = config.built(cell.plain).dataset
    assert isinstance(dataset, Files)
    return dataset


@cache
def docs(lang: str) -> list[Doc]:
    return list(demo(doc_lang=lang).read_docs(lang))


@cache
def topics(lang: str) -> list[Query]:
    return demo(lang).read_topics(lang)


@cache
def qrels(lang: str) -> list[Qrel]:
    return demo(doc_lang=lang).read_qrels("qrels")


@pytest.mark.parametrize("lang", DOC_LANGS)
def test_60_passages_have_a_title_and_20_to_120_words(lang: str) -> None:
    assert len(docs(lang)) == 60
    assert [d.doc_id for d in docs(lang) if list(d.fields) != ["title", "text"] or not d.fields["title"].strip()] == []
    assert {d.doc_id: n for d in docs(lang) if not 20 <= (n := len(d.fields["text"].split())) <= 120} == {}


def test_passages_are_parallel_under_ids_that_differ_in_the_language_only() -> None:
    aligned = {lang: [d.aligned for d in docs(lang)] for lang in DOC_LANGS}
    assert len(set(aligned["en"])) == 60 and all(ids == aligned["en"] for ids in aligned.values())
    assert all(d.doc_id == f"{lang}-{d.aligned}" for lang in DOC_LANGS for d in docs(lang))


@pytest.mark.parametrize("lang", QUERY_LANGS)
def test_36_topics_have_a_title_and_a_description_in_six_languages(lang: str) -> None:
    assert [q.query_id for q in topics(lang)] == [q.query_id for q in topics("en")]
    assert len({q.query_id for q in topics(lang)}) == len(topics(lang)) == 36
    assert [
        q.query_id for q in topics(lang) if [*q.fields] != ["title", "description"] or not all(q.fields.values())
    ] == []
    assert {q.query_id: n for q in topics(lang) if not 1 <= (n := len(q.fields["title"].split())) <= 7} == {}
    script = {"LATIN"} if lang != "ru" else {"CYRILLIC"}
    letters = "".join(c for q in topics(lang) for c in " ".join(q.fields.values()) if c.isalpha())
    scripts = Counter(unicodedata.name(c).split()[0] for c in letters)
    assert sum(scripts[name] for name in script) / len(letters) > 0.98


def test_every_text_is_clean_composed_unicode_in_one_line() -> None:
    texts = [t for lang in DOC_LANGS for d in docs(lang) for t in (d.doc_id, *d.fields.values())]
    texts += [t for lang in QUERY_LANGS for q in topics(lang) for t in (q.query_id, *q.fields.values())]
    assert [t for t in texts if unicodedata.normalize("NFC", t) != t] == []
    assert [t for t in texts if re.search(r"[\x00-\x1f\x7f\u200b-\u200f\ufeff\ufffd]|  ", t) or t != t.strip()] == []


def test_no_two_texts_are_equal() -> None:
    texts = [d.fields["text"] for lang in DOC_LANGS for d in docs(lang)]
    assert len(set(texts)) == len(texts) == 240
    for lang in QUERY_LANGS:
        for field in ("title", "description"):
            assert len({q.fields[field] for q in topics(lang)}) == 36, f"{lang} {field}"
    for lang in DOC_LANGS:
        assert len({d.fields["title"] for d in docs(lang)}) == 60, lang


@pytest.mark.parametrize("lang", DOC_LANGS)
def test_every_topic_has_two_to_four_relevant_passages_one_that_answers_it_and_some_that_do_not(lang: str) -> None:
    grades: dict[str, list[int]] = {q.query_id: [] for q in topics("en")}
    for row in qrels(lang):
        grades[row.query_id].append(row.relevance)
    assert {grade for found in grades.values() for grade in found} == {0, 1, 2}
    assert {q: found for q, found in grades.items() if not 2 <= sum(g > 0 for g in found) <= 4 or 2 not in found} == {}
    assert {q: found for q, found in grades.items() if found.count(0) < 3} == {}


@pytest.mark.parametrize("lang", DOC_LANGS)
def test_judgments_are_the_same_in_every_language_and_judge_passages_that_exist(lang: str) -> None:
    assert {row.doc_id for row in qrels(lang)} <= {d.doc_id for d in docs(lang)}
    aligned = {(r.query_id, r.doc_id.removeprefix(f"{lang}-"), r.relevance) for r in qrels(lang)}
    assert aligned == {(r.query_id, r.doc_id.removeprefix("en-"), r.relevance) for r in qrels("en")}


def test_a_third_of_the_topics_do_not_name_what_they_look_for_as_the_passages_title_does() -> None:
    titles = {d.doc_id: set(re.findall(r"\w{4,}", d.fields["title"].lower())) for d in docs("en")}
    best = {row.query_id: titles[row.doc_id] for row in qrels("en") if row.relevance == 2}
    paraphrased = [
        q for q in topics("en") if not best[q.query_id] & set(re.findall(r"\w{4,}", q.fields["title"].lower()))
    ]
    assert len(paraphrased) >= 12
