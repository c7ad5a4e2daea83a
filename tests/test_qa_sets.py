"""Question answering sets as retrieval sets: paragraphs, sentences and answers become documents and judgments."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import XQUAD, Clir, needs_shared
from hypothesis import given
from hypothesis import strategies as st

from clir_cli import answers, compose, config, evaluation
from clir_cli.datasets import open_qa
from clir_cli.datasets.open_qa import OpenQuestions
from clir_cli.datasets.qa import QuestionAnswering
from clir_cli.errors import ConfigError, DataError
from clir_cli.experiment import read_rows
from clir_cli.types import Doc, Qrel, Query

LANGS = {
    "ar": 1222,
    "de": 1276,
    "el": 1234,
    "en": 1180,
    "es": 1215,
    "hi": 1244,
    "ru": 1219,
    "th": 852,
    "tr": 1167,
    "vi": 1209,
    "zh": 1196,
}  # fmt: skip  candidates, as LAReQA's README counts them


def squad(*paragraphs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": "River", "paragraphs": list(paragraphs)}], **more}


def asked(identifier: str, question: str, *found: tuple[str, int], **more: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "question": question,
        "answers": [{"text": t, "answer_start": s} for t, s in found],
        **more,
    }


NILE = "The Nile is long. It flows north. It ends in Egypt."
NIL = "Der Nil ist lang. Er fließt nach Norden. Er endet in Ägypten."
OIL = "Palm oil is red."


def written(folder: Path, lang: str, content: Any) -> Path:
    path = folder / f"{lang}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def rivers(tmp_path: Path) -> Path:
    written(tmp_path, "en", squad(
        {"context": NILE, "qas": [asked("q1", "Where  does it\nflow?", ("north", 27)), asked("q2", "Who owns it?", is_impossible=True)]},
        {"context": OIL, "qas": [asked("q3", "Which colour?", ("red", 12))]},
    ))  # fmt: skip
    written(tmp_path, "de", squad(
        {"context": NIL, "qas": [asked("q1", "Wohin fließt er?", ("Norden", 33)), asked("q2", "Wem gehört er?", is_impossible=True)]},
        {"context": "Palmöl ist rot.", "qas": [asked("q3", "Welche Farbe?", ("rot", 11)), asked("q4", "Und sonst?", ("Palmöl", 0))]},
    ))  # fmt: skip
    return tmp_path


def dataset(folder: Path, query_lang: str = "en", doc_lang: Any = "de", **more: Any) -> QuestionAnswering:
    return QuestionAnswering(docs=f"{folder}/{{lang}}.json", query_lang=query_lang, doc_lang=doc_lang, **more)


# The converter --------------------------------------------------------------------------------------------------------


def test_a_question_finds_the_paragraph_that_answers_it_in_the_other_language(rivers: Path) -> None:
    data = dataset(rivers, parallel=True)
    assert list(data.read_docs("de")) == [
        Doc("de-a01-p1", {"text": NIL}, "de", "a01-p1"),
        Doc("de-a01-p2", {"text": "Palmöl ist rot."}, "de", "a01-p2"),
    ]
    assert data.read_topics("en")[0] == Query("q1", {"text": "Where does it flow?"}, "en")
    assert data.read_qrels("answers") == [
        Qrel("q1", "de-a01-p1", 1), Qrel("q2", "de-a01-p1", 0), Qrel("q3", "de-a01-p2", 1),
    ], "q2 is unanswerable: a topic without a relevant document; q4 is not asked in English"  # fmt: skip


def test_in_a_pool_the_answer_is_relevant_in_every_language(rivers: Path) -> None:
    data = dataset(rivers, doc_lang=("de", "en"), unit="sentence")
    assert [row for row in data.read_qrels("answers") if row.relevance] == [
        Qrel("q1", "de-a01-p1-s2", 1), Qrel("q3", "de-a01-p2-s1", 1),
        Qrel("q1", "en-a01-p1-s2", 1), Qrel("q3", "en-a01-p2-s1", 1),
    ]  # fmt: skip
    assert [doc.fields["text"] for doc in data.read_docs("en")] == [
        "The Nile is long.", "It flows north.", "It ends in Egypt.", "Palm oil is red.",
    ]  # fmt: skip
    assert Qrel("q2", "de-a01-p1-s1", 0) in data.read_qrels("answers")


def test_sentences_are_those_of_the_file_where_it_says_them(tmp_path: Path) -> None:
    paragraph = {"context": NILE, "qas": [asked("q1", "?", ("Egypt", 45))], "sentence_breaks": [[0, 33], [34, 51]]}
    written(tmp_path, "en", squad(paragraph))
    data = dataset(tmp_path, "en", "en", unit="sentence")
    assert [doc.fields["text"] for doc in data.read_docs("en")] == [NILE[:33], NILE[34:]]
    assert data.read_qrels("answers") == [Qrel("q1", "en-a01-p1-s2", 1)]


def test_titles_are_a_field_where_they_are_asked_for(rivers: Path) -> None:
    assert next(dataset(rivers, titles=True).read_docs("de")).fields == {"title": "River", "text": NIL}


def test_an_answer_that_stands_elsewhere_is_found_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, "en", squad({"context": NILE, "qas": [
        asked("q1", "?", ("north", 3)), asked("q2", "?", ("yes", -1)), asked("q3", "Long?", ("long", 12)),
    ]}))  # fmt: skip
    assert dataset(tmp_path, "en", "en", unit="sentence").read_qrels("answers") == [
        Qrel("q1", "en-a01-p1-s2", 1), Qrel("q2", "en-a01-p1-s1", 0), Qrel("q3", "en-a01-p1-s1", 1),
    ]  # fmt: skip
    said = capsys.readouterr().err
    assert "1 answer does not stand where the file says; where it stands first counts" in said
    assert "1 answer stands nowhere in its paragraph (yes, no, a rounded number)" in said
    assert Qrel("q2", "en-a01-p1", 1) in dataset(tmp_path, "en", "en").read_qrels("answers")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"data": [', r"en\.json:1: not JSON"),
        ('{"data": [{"paragraphs": NaN}]}', r"article 1: expected a list of objects as 'paragraphs'"),
        ({"rows": []}, r"the file: expected a list of objects as 'data'; is it in SQuAD's format\?"),
        (squad({"context": 3, "qas": []}), r"article 1, paragraph 1: expected text as 'context', found 3"),
        (squad({"context": NILE}), r"article 1, paragraph 1: expected a list of objects as 'qas'"),
        (squad({"context": NILE, "qas": [asked("q 1", "?")]}), r"article 1, paragraph 1, question 1: expected an id without blanks as 'id'"),
        (squad({"context": NILE, "qas": [asked("q", "a?"), asked("q", "b?")]}), r"question 2: the id 'q' is another question's too: 'a\?'"),
        (squad({"context": NILE, "qas": [{"id": "q", "question": "?", "answers": [{"text": "x"}]}]}), "question 1: expected answers with text and answer_start"),
        (squad({"context": "ab", "qas": [], "sentence_breaks": [[0, 9]]}), "the sentence_breaks do not lie one after another within 2"),
        (squad({"context": "ab", "qas": [], "sentence_breaks": [[0, 2]], "sentences": []}), "0 sentences, but 1 sentence_breaks"),
        ({"data": []}, "holds no paragraphs"),
    ],
)  # fmt: skip
def test_what_is_no_squad_is_named_by_its_place(content: Any, words: str, tmp_path: Path) -> None:
    written(tmp_path, "en", content)
    with pytest.raises(DataError, match=words):
        dataset(tmp_path, "en", "en").read_topics("en")


def test_a_null_passage_is_an_empty_document(tmp_path: Path) -> None:
    written(tmp_path, "en", squad({"context": None, "qas": [asked("q", "?")]}))
    assert next(dataset(tmp_path, "en", "en").read_docs("en")).fields == {"text": ""}


def test_what_is_no_part_of_the_set_is_refused(rivers: Path) -> None:
    with pytest.raises(ConfigError, match="no judgments 'pools'; there are: answers"):
        dataset(rivers).read_qrels("pools")
    with pytest.raises(ValueError, match=r"docs: \{year\} is no place"):
        QuestionAnswering(docs="{year}.json", query_lang="en", doc_lang="de")
    with pytest.raises(DataError, match=r"fr\.json does not exist"):
        list(dataset(rivers, doc_lang="fr").read_docs("fr"))


# XQuAD-R: the real texts in their original format -----------------------------------------------------------------------


def lines(path: Path) -> list[str]:
    """A line ends with a line feed only: the texts hold what Unicode calls line breaks."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


def lareqa(folder: Path, lang: str) -> Path:
    """LAReQA's file, put together again from ../shared: its paragraphs, sentences and questions, in one article each."""
    sentences: dict[str, list[str]] = {}
    for line in lines(XQUAD / "sentences" / f"corpus.{lang}.jsonl"):
        row = json.loads(line)
        sentences.setdefault(row["docid"].rpartition("-s")[0], []).append(row["text"])
    questions = dict(line.split("\t") for line in lines(XQUAD / f"topics.{lang}.tsv"))
    about: dict[str, list[tuple[str, int]]] = {}
    for line in lines(XQUAD / "sentences" / f"qrels.{lang}.txt"):
        query_id, _, sentence, _ = line.split()
        paragraph, _, number = sentence.rpartition("-s")
        about.setdefault(paragraph, []).append((query_id, int(number)))
    articles: dict[str, list[dict[str, Any]]] = {}
    for line in lines(XQUAD / f"corpus.{lang}.jsonl"):
        row = json.loads(line)
        at, breaks = 0, []
        for text in sentences[row["docid"]]:
            begin = max(row["text"].find(text, at), at)  # once LAReQA writes a sentence otherwise than its paragraph
            at = begin + len(text)
            breaks.append([begin, at])
        qas = [
            asked(q, questions[q], (row["text"][breaks[n - 1][0] : breaks[n - 1][0] + 3], breaks[n - 1][0]))
            for q, n in about.get(row["docid"], ())
        ]
        paragraph = {
            "context": row["text"],
            "qas": qas,
            "sentence_breaks": breaks,
            "sentences": sentences[row["docid"]],
        }
        articles.setdefault(row["docid"].split("-")[1], []).append(paragraph)
    return written(folder, lang, {"data": [{"paragraphs": paragraphs} for paragraphs in articles.values()]})


def xquad_qrels(path: Path) -> list[tuple[str, str, int]]:
    return sorted((q, d, int(r)) for q, _, d, r in map(str.split, lines(path)))


@needs_shared(XQUAD)
def test_xquad_r_has_its_true_counts_ids_and_judgments_in_every_language(tmp_path: Path) -> None:
    for lang, sentences in LANGS.items():
        lareqa(tmp_path, lang)
        data = dataset(tmp_path, lang, lang, parallel=True)
        found = {doc.doc_id: doc.fields["text"] for doc in data.read_docs(lang)}
        rows = map(json.loads, lines(XQUAD / f"corpus.{lang}.jsonl"))
        assert found == {row["docid"]: row["text"] for row in rows}
        assert len(found) == 240
        topics = {query.query_id: query.fields["text"] for query in data.read_topics(lang)}
        assert topics == dict(line.split("\t") for line in lines(XQUAD / f"topics.{lang}.tsv"))
        assert len(topics) == 1190
        assert sorted(data.read_qrels("answers")) == xquad_qrels(XQUAD / f"qrels.{lang}.txt")
        whole = dataset(tmp_path, lang, lang, unit="sentence")
        found = {doc.doc_id: doc.fields["text"] for doc in whole.read_docs(lang)}
        rows = map(json.loads, lines(XQUAD / "sentences" / f"corpus.{lang}.jsonl"))
        assert found == {row["docid"]: row["text"] for row in rows}
        assert len(found) == sentences
        assert sorted(whole.read_qrels("answers")) == xquad_qrels(XQUAD / "sentences" / f"qrels.{lang}.txt")


@needs_shared(XQUAD)
def test_lareqas_pool_of_sentences_has_one_answer_in_every_language(tmp_path: Path) -> None:
    pool = ("de", "ar", "th")
    for lang in ("en", *pool):
        lareqa(tmp_path, lang)
    judged = dataset(tmp_path, "en", pool, unit="sentence").read_qrels("answers")
    assert len(judged) == 3 * 1190
    by_query: dict[str, list[str]] = {}
    for row in judged:
        by_query.setdefault(row.query_id, []).append(row.doc_id[:2])
    assert all(langs == list(pool) for langs in by_query.values())


@needs_shared(XQUAD)
def test_a_qa_set_runs_as_any_collection(clir: Clir) -> None:
    for lang in ("en", "es"):
        lareqa(clir.folder, lang)
    folder = clir.experiment(
        "dataset=xquad_r", f"dataset.docs={clir.folder}/{{lang}}.json", "dataset.pair=en-es", "retriever=bm25_dt",
        "translator=provided", "dataset.limit_queries=50",
    )  # fmt: skip
    with (folder / "metrics.csv").open() as rows:
        found = {row["measure"]: float(row["value"]) for row in csv.DictReader(rows) if row["stage"] == "final"}
    assert found["RR@10"] > 0.9, "the paragraphs of English, by their places, stand for the Spanish ones"


# MLQA and AfriQA ------------------------------------------------------------------------------------------------------


def preset(name: str, *overrides: str) -> Any:
    (cell,) = compose.cells([f"dataset={name}", *overrides])
    return config.built(cell.plain).dataset


def test_mlqa_asks_only_what_is_asked_in_the_query_language(tmp_path: Path) -> None:
    both = [asked("q1", "Wohin?", ("Norden", 33)), asked("q2", "Was?", ("Nil", 4))]
    for context, question, qas in (("de", "de", both), ("de", "es", [asked("q2", "¿Qué?", ("Nil", 4))])):
        written(tmp_path, f"test-context-{context}-question-{question}", squad({"context": NIL, "qas": qas}))
    data = preset(
        "mlqa_r", "dataset.pair=es-de", f"dataset.docs={tmp_path}/{{split}}-context-{{lang}}-question-{{lang}}.json",
        f"dataset.topics={tmp_path}/{{split}}-context-{{doc_lang}}-question-{{lang}}.json",
    )  # fmt: skip
    assert [doc.doc_id for doc in data.read_docs("de")] == ["de-a01-p1"]
    assert data.read_topics("es") == [Query("q2", {"text": "¿Qué?"}, "es")]
    assert data.read_qrels("answers") == [Qrel("q2", "de-a01-p1", 1)]
    assert [file.name for file in data.source("qrels", "", "answers").files] == [
        "test-context-de-question-de.json", "test-context-de-question-es.json",
    ]  # fmt: skip


def test_afriqa_shares_a_passage_between_its_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def row(number: int, question: Any, context: str, *found: tuple[str, int]) -> dict[str, Any]:
        answer = {"answer_start": [start for _, start in found], "text": [text for text, _ in found]}
        return {
            "answer_pivot": answer, "context": context, "id": str(number), "question_lang": question,
            "question_translated": f"english {number}", "title": "River", "answer_lang": "",
        }  # fmt: skip

    rows = [
        row(0, "Unatiririka wapi?", NILE, ("north", 27)), row(1, "Ni mrefu?", NILE, ("yes", -1)), row(2, float("nan"), OIL),
        row(3, "Rangi gani?", OIL, ("red", 12)),
    ]  # fmt: skip
    (tmp_path / "swa.en.test.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = preset(
        "afriqa", f"dataset.docs={tmp_path}/{{query_iso3}}.{{lang}}.{{split}}.json",
        f"dataset.topics={tmp_path}/{{iso3}}.{{doc_lang}}.{{split}}.json",
    )  # fmt: skip
    assert list(data.read_docs("en")) == [
        Doc("en-p1", {"title": "River", "text": NILE}, "en"), Doc("en-p2", {"title": "River", "text": OIL}, "en"),
    ]  # fmt: skip
    assert [query.fields["text"] for query in data.read_topics("sw")] == [
        "Unatiririka wapi?",
        "Ni mrefu?",
        "",
        "Rangi gani?",
    ]
    assert data.read_topics("en")[3] == Query("3", {"text": "english 3"}, "en"), "what translator=provided asks for"
    assert data.read_qrels("answers") == [
        Qrel("0", "en-p1", 1), Qrel("1", "en-p1", 1), Qrel("2", "en-p2", 0), Qrel("3", "en-p2", 1),
    ]  # fmt: skip
    assert "1 text is NaN, which is no text: it is read as empty" in capsys.readouterr().err


# Open questions: whatever holds an answer ---------------------------------------------------------------------------------


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    """As DPR's passages are written: `1 TAB "Aaron ( or ; ""Ahärôn"") is ..." TAB Aaron`."""
    rows = [("p1", "Nile", NILE), ("p2", "Oil", OIL), ("p3", "Cairo", "CAIRO lies in Egypt, on the Nile.")]
    lines = [f'{i}\t"{text.replace(chr(34), chr(34) * 2)}"\t{title}\n' for i, title, text in rows]
    (tmp_path / "p.tsv").write_text("id\ttext\ttitle\n" + "".join(lines))
    return tmp_path / "p.tsv"


def test_dpr_s_passages_are_read_without_their_quotation_marks(passages: Path) -> None:
    topics = passages.parent / "xor.jsonl"
    topics.write_text('{"id": "1", "question": "?", "answers": ["Cairo"], "lang": "ja"}\n')
    asked = (f"dataset.docs={passages}", f"dataset.topics={topics}")
    docs = list(preset("xor_tydi", *asked).read_docs("en"))
    assert len(docs) == 3 and docs[1] == Doc("p2", {"title": "Oil", "text": OIL}, "en")
    passages.write_text('id\ttext\ttitle\np1\tSo it is.\tNile\np2\t"Oil" is red.\tOil\n')
    with pytest.raises(
        DataError, match=r"p\.tsv:3: not quoted as CSV is; dataset\.docs_quoted=false reads quotation marks"
    ):
        list(preset("xor_tydi", *asked).read_docs("en"))
    plain = list(preset("xor_tydi", *asked, "dataset.docs_quoted=false").read_docs("en"))
    assert plain[1].fields["text"] == '"Oil" is red.'


def test_xor_tydi_judges_what_holds_an_answer(passages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": "1", "question": "カイロは?", "answers": ["Cairo", "Le Caire"], "lang": "ja", "split": "dev"},
        {"id": "2", "question": "Mikä?", "answers": ["red"], "lang": "fi", "split": "dev"},
        {"id": "3", "question": "エジプト?", "answers": ["egypt"], "lang": "ja", "split": "dev"},
        {"id": "4", "question": "いつ?", "answers": ["in 1492"], "lang": "ja", "split": "dev"},
        {"id": "5", "question": "本当?", "answers": ["yes"], "lang": "ja", "split": "dev"},
    ]
    topics = passages.parent / "xor.jsonl"
    topics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = preset("xor_tydi", f"dataset.docs={passages}", f"dataset.topics={topics}")
    assert [query.query_id for query in data.read_topics("ja")] == ["1", "3", "4"]
    assert sorted(data.read_qrels("answers")) == [
        Qrel("1", "p3", 1), Qrel("3", "p1", 1), Qrel("3", "p3", 1), Qrel("4", "p1", 0),
    ]  # fmt: skip
    said = capsys.readouterr().err
    assert "1 of 3 questions without an answer in the collection: counted" in said
    assert "1 question has no answer but yes or no: left out" in said


def test_mkqa_takes_answers_and_aliases_in_the_language_of_the_documents(passages: Path) -> None:
    rows = [
        {
            "example_id": -56, "query": "where", "queries": {"en": "where", "de": "Wo?", "zh_cn": "在哪"},
            "answers": {"en": [{"type": "entity", "entity": "Q1", "text": "Misr", "aliases": ["Egypt"]}], "de": [{"type": "entity", "text": "Ägypten"}]},
        },
        {
            "example_id": 7, "query": "why", "queries": {"en": "why", "de": "Warum?", "zh_cn": "为什么"},
            "answers": {"en": [{"type": "unanswerable", "text": None}], "de": [{"type": "unanswerable", "text": None}]},
        },
    ]  # fmt: skip
    topics = passages.parent / "mkqa.jsonl.gz"
    topics.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    data = preset("mkqa", f"dataset.docs={passages}", f"dataset.topics={topics}", "dataset.pair=zh-en")
    assert data.read_topics("zh") == [Query("-56", {"text": "在哪"}, "zh"), Query("7", {"text": "为什么"}, "zh")]
    assert data.read_answers() == {"-56": ("Misr", "Egypt"), "7": ()}
    assert data.read_qrels("answers") == [Qrel("-56", "p1", 1), Qrel("-56", "p3", 1), Qrel("7", "p1", 0)]


def test_judgments_of_a_large_collection_are_made_once_and_kept(
    passages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLIR_DATA", str(passages.parent / "data"))
    monkeypatch.setattr(open_qa, "LARGE", 0)
    topics = passages.parent / "q.jsonl"
    topics.write_text(json.dumps({"id": 1, "question": "Wo?", "answers": ["Egypt"], "lang": "fi"}) + "\n")
    data = preset("xor_tydi", f"dataset.docs={passages}", f"dataset.topics={topics}", "dataset.pair=fi-en")
    made = data.read_qrels("answers")
    assert made == [Qrel("1", "p1", 1), Qrel("1", "p3", 1)] == data.read_qrels("answers")
    (kept,) = (passages.parent / "data" / "judged").glob("*.txt")
    kept.write_text("1 0 p2 1\n")
    assert data.read_qrels("answers") == [Qrel("1", "p2", 1)], "read, not made again"
    topics.write_text(json.dumps({"id": 1, "question": "Wo?", "answers": ["Cairo!"], "lang": "fi"}) + "\n")
    assert data.read_qrels("answers") == [Qrel("1", "p1", 0)], "made again for other answers: `!` stands in no passage"


def test_answers_written_as_a_python_list_are_read(passages: Path) -> None:
    (passages.parent / "q.jsonl").write_text(
        json.dumps({"id": 0, "question": "?", "answers": "['Oginga', \"d'Egypt\"]"}) + "\n"
    )
    data = OpenQuestions(
        docs=str(passages), topics=str(passages.parent / "q.jsonl"), query_lang="sw", doc_lang="en", answers="answers",
        docs_columns={"doc_id": "id", "text": "text"}, topics_columns={"query_id": "id", "text": "question"},
    )  # fmt: skip
    assert data.read_answers() == {"0": ("Oginga", "d'Egypt")}


def test_an_answer_is_a_run_of_words_whatever_its_case_and_composition() -> None:
    search = answers.Answers({"a": ["New York"], "b": ["york"], "c": ["Zürich"], "d": ["new-york"], "e": [""]})
    assert search.answered("In NEW YORK and Zu\u0308rich") == {"a", "b", "c"}
    assert search.answered("newyork") == set()


def test_r_at_2kt_reads_the_first_two_thousand_tokens_as_xor_retrieve_does() -> None:
    pytest.importorskip("nltk")
    filler = "word " * 1999
    assert answers.within([filler, "Cairo lies there"], ["Cairo"], 2000)
    assert not answers.within([filler, "the Cairo"], ["Cairo"], 2000)
    assert answers.within(["It is not U.S. money, isn't it?"], ["U.S.", "is n't"], 2000)
    texts = {"d1": "no", "d2": "Cairo."}
    ranking, judgments = pd.DataFrame({"doc_id": ["d1", "d2"]}), pd.DataFrame({"query_id": ["1"]})
    value = answers.recall_at(2)
    with answers.known({"1": ["Cairo"]}, lambda ids: [texts[i] for i in ids]):
        assert value(judgments, ranking) == 1.0
        assert value(judgments, ranking[:1]) == value(pd.DataFrame({"query_id": ["2"]}), ranking) == 0.0
    with pytest.raises(ConfigError, match="R@2kt is for datasets with answers"):
        value(judgments, ranking)


@pytest.fixture
def punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Punkt's data where NLTK looks for it: made by NLTK of the English passages of the demo, in the form it is published in."""
    nltk = pytest.importorskip("nltk")
    from nltk.tokenize import punkt

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    place = tmp_path / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    place.mkdir(parents=True)
    trained = punkt.PunktTrainer("\n".join([*ENGLISH, ABBREVIATED * 20]))
    punkt.save_punkt_params(trained.get_params(), str(place))
    for cached in (answers._punkt, nltk.tokenize._get_punkt_tokenizer):
        cached.cache_clear()
    yield
    for cached in (answers._punkt, nltk.tokenize._get_punkt_tokenizer):
        cached.cache_clear()


ABBREVIATED = "The co. was old. A new co. came. It is the co. of the town. The co. grew! "
ENGLISH = [
    json.loads(line)["text"]
    for line in (Path(open_qa.__file__).parent / "demo" / "docs.en.jsonl").read_text("utf-8").splitlines()
]


def test_with_punkt_the_tokens_are_those_that_xor_retrieves_script_counts(punkt: None) -> None:
    import nltk

    texts = [
        *ENGLISH,
        'He wrote, e.g. in No. 5 of 1998.[2] "So be it,"\n"then" said J. A. Smith et al. of the co. Ltd.',
        "",
    ]
    assert [answers.treebank(text, "punkt") for text in texts] == [nltk.word_tokenize(text) for text in texts]
    assert answers.treebank("The co. It is old.", "punkt") == ["The", "co", ".", "It", "is", "old", "."]


def test_r_at_2kt_by_punkt_is_a_measure_of_its_own_name(punkt: None) -> None:
    cites = "It ran well.[2] They left."
    assert answers.treebank(cites) != answers.treebank(cites, "punkt"), "a sentence ends before a bracket, or does not"
    judgments, ranking = pd.DataFrame({"query_id": ["1"]}), pd.DataFrame({"doc_id": ["d"]})
    assert evaluation.parse_measures(["R(punkt)@2kt", "R@2kt"]) and not {"R(punkt)@2kt", "R@2kt"} - set(evaluation.OWN)
    with answers.known({"1": ["well ."]}, lambda ids: [cites for _ in ids]):
        assert evaluation.OWN["R(punkt)@2kt"](judgments, ranking) == 1.0
        assert evaluation.OWN["R@2kt"](judgments, ranking) == 0.0


def test_without_the_data_of_punkt_its_measure_is_refused_and_the_other_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [])
    answers._punkt.cache_clear()
    with pytest.raises(ConfigError, match=r"whose data is not on this machine\n  python -m nltk\.downloader punkt_tab"):
        evaluation.parse_measures(["R(punkt)@2kt"])
    assert str(evaluation.parse_measures(["R@5kt"])[0]) == "R@5kt"


@given(st.lists(st.text("ab,.:;!?'\"()[]-1’“%n't ", max_size=8).map(str.strip).filter(bool), max_size=8))
def test_where_sentences_are_cut_matters_only_at_full_stops_and_straight_quotes(parts: list[str]) -> None:
    tokenize = pytest.importorskip("nltk.tokenize").NLTKWordTokenizer().tokenize
    ends, begins = re.compile(r"[.][])}>\"'»”’ ]*$"), re.compile(r"^(\"|'')")
    texts = [parts[0]] if parts else []
    for part in parts[1:]:
        if ends.search(texts[-1]) or begins.search(part):
            texts[-1] = f"{texts[-1]} {part}"  # no place where the two ways agree without asking
        else:
            texts.append(part)
    assert tokenize(" ".join(texts)) == [token for text in texts for token in tokenize(text)]


def test_questions_without_an_answer_do_not_count_where_spans_alone_do(tmp_path: Path) -> None:
    rows = [("1", ["Egypt"]), ("2", ["yes"]), ("3", []), ("4", ["no", "Sudan"])]
    topics, docs = tmp_path / "q.jsonl", tmp_path / "d.jsonl"
    topics.write_text(
        "".join(json.dumps({"id": i, "question": "?", "lang": "fi", "answers": a}) + "\n" for i, a in rows)
    )
    docs.write_text(json.dumps({"id": "d", "title": "", "text": "Sudan"}) + "\n")
    (cell,) = compose.cells(
        ["dataset=xor_tydi", f"dataset.docs={docs}", f"dataset.topics={topics}", "dataset.pair=fi-en"]
    )
    data = config.built(cell.plain).dataset
    assert data.read_answers() == {"1": ("Egypt",), "4": ("Sudan",)}
    assert data.read_qrels("answers") == [Qrel("4", "d", 1), Qrel("1", "d", 0)]


def test_xor_tydi_is_run_and_scored_by_the_first_two_thousand_tokens(passages: Path, clir: Clir) -> None:
    pytest.importorskip("nltk", reason="needs the package nltk")
    topics = passages.parent / "xor.jsonl"
    rows = [
        {"id": "f1", "question": "Where does the Nile end?", "lang": "fi", "answers": ["Egypt"]},
        {"id": "f2", "question": "Where does the Nile rise?", "lang": "fi", "answers": ["Lake Victoria"]},
    ]
    topics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [f"dataset.docs={passages}", f"dataset.topics={topics}", "dataset.pair=fi-en", "retrieve.doc=en"]
    folder = clir.experiment("dataset=xor_tydi", *asked, "retriever=bm25", "retriever.analyser=en")
    found = {(r["stage"], r["query_id"]): r for r in read_rows(folder / "per_query.csv") if r["measure"] == "R@2kt"}
    metrics = {r["measure"]: r for r in read_rows(folder / "metrics.csv") if r["stage"] == "final"}
    assert {"R@2kt", "R@5kt", "Success@20"} <= set(metrics)
    assert {key: float(row["value"]) for key, row in found.items() if key[0] == "final"} == {
        ("final", "f1"): 1.0,
        ("final", "f2"): 0.0,
    }
