"""What a translation step says about its translations, and where it says where sentences stand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import SHARED, Clir

from clir_cli.text import language_id
from clir_cli.text.languages import LANGUAGES, split_sentences
from clir_cli.text.translation import Made, complaint, examined, loops, read_alignment

XQUAD = SHARED / "data" / "xquad-r"

# Languages -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "asked", "wrong"),
    [
        ("The government announced new measures for small farmers.", "en", 0),
        ("El gobierno anunció nuevas medidas para los agricultores.", "en", 1),
        ("Vlada je najavila nove mjere za male poljoprivrednike.", "sr", 0),  # Croatian, which no sentence tells apart
        ("Serikali ilitangaza hatua mpya kwa wakulima wadogo.", "sw", 0),
        ("政府宣布了保护小农的新措施。", "ja", 1),
    ],
)
def test_a_sentence_in_another_language_is_found(text: str, asked: str, wrong: int):
    assert language_id.check([text], asked) == (1, wrong)


def test_what_cannot_be_checked_is_not_wrong():
    assert language_id.check(["Bonn 1949", "Ja.", ""], "en") == (0, 0)
    text = "Bɔnn abɛɛfo a wɔyɛ akuafo no ho nneɛma."
    assert not language_id.knows("tw")
    assert language_id.check([text], "tw") == (0, 0)
    counts = examined({"a": Made(text), "b": Made("")}, "tw")
    assert (counts.wrong_language, counts.language_not_checked, counts.empty) == (0, 1, 1)


def test_half_of_our_languages_are_known_and_all_but_three_of_those_that_test_collections_translate():
    unknown = [code for code in LANGUAGES if not language_id.knows(code)]
    assert unknown[:3] == ["ti", "tw", "wo"]  # of the first 98 of the table
    assert list(LANGUAGES).index(unknown[3]) >= 98
    assert len(LANGUAGES) - len(unknown) > 120


def test_of_many_translations_a_seeded_sample_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(language_id, "SAMPLE", 10)
    texts = [f"The house number {n} is red and old." for n in range(20)] + ["La casa es roja y muy vieja."] * 20
    assert language_id.check(texts, "en") == language_id.check(texts, "en")
    checked, wrong = language_id.check(texts, "en")
    assert checked == 10
    assert 0 < wrong < 10


@pytest.mark.skipif(not XQUAD.exists(), reason="needs shared/data/xquad-r beside the project")
@pytest.mark.parametrize("lang", ["ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"])
def test_xquads_sentences_are_in_their_language_and_in_no_other(lang: str):
    rows = [json.loads(line) for line in (XQUAD / f"corpus.{lang}.jsonl").read_text().splitlines()[:60]]
    sentences = [
        s for row in rows for s in split_sentences(next(v for k, v in row.items() if "text" in k or "content" in k))
    ]
    checked, wrong = language_id.check(sentences, lang)
    assert checked > 100
    assert wrong <= 0.01 * checked
    checked, wrong = language_id.check(sentences, "fr")
    assert wrong >= 0.99 * checked


# Loops ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "the house of the house of the house of the house of the house",
        "The minister said that " + "and that " * 8,
        "他说" + "我们知道" * 9,
        "नमस्ते " * 12,
        "a" * 60,
    ],
)
def test_a_decoder_that_hangs_is_noticed(text: str):
    assert loops(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No, no, no, no!",
        "Very very short",
        "................................................",
        "1 000 000 000 000 000 000 000 000 000 000 000",
        "The house is red, and the house of my father is red, and the house of his father was red too, it is said.",
        "सरकार ने छोटे किसानों को सूखे से बचाने के लिए नए उपायों की घोषणा की, और किसानों ने इन उपायों का स्वागत किया।",
    ],
)
def test_a_sentence_that_repeats_words_is_no_loop(text: str):
    assert not loops(text)


def test_a_loop_that_stands_in_the_text_is_not_the_translators():
    song = "la la la la la la la la la la la la la"
    assert examined({song: Made("na na na na na na na na na na na na na")}, "en").loops == 0
    assert examined({"a song": Made("na na na na na na na na na na na na na")}, "en").loops == 1


def test_nothing_wrong_is_no_line():
    assert complaint({"unique": 7, "from_cache": 7, "language_not_checked": 2}) is None


# A step ---------------------------------------------------------------------------------------------------------------------

DOCS = """d1\tLa casa es roja.  ¿Qué? La casa es roja.
d2\t1949
d3\tEl perro come carne.
"""


@pytest.mark.skipif(shutil.which("apertium") is None, reason="apertium is not installed")
def test_a_step_counts_what_it_made_and_says_where_sentences_stand(tmp_path: Path):
    for name, text in (("docs.tsv", DOCS), ("topics.tsv", "q1\tred house\n"), ("qrels.txt", "q1 0 d1 1\n")):
        (tmp_path / name).write_text(text)
    clir = Clir(tmp_path)
    done = clir(
        "run", "dataset=files", "dataset.docs=docs.tsv", "dataset.topics=topics.tsv", "dataset.qrels=qrels.txt",
        "dataset.query_lang=en", "dataset.doc_lang=es", "retriever=bm25_dt", "translator=apertium",
    )  # fmt: skip
    (folder,) = (tmp_path / "runs" / "steps" / "translate").iterdir()
    counts = json.loads((folder / "step.json").read_text())["counts"]
    wanted = {"sentences": 5, "unique": 4, "copied": 1, "wrong_language": 0, "loops": 0, "empty": 0, "tokens_cut": 0}
    assert {name: counts[name] for name in wanted} == wanted
    assert "of 4 translations 1 copied as they were" in done.stderr
    lines = (folder / "alignment.jsonl").read_text().splitlines()
    assert [json.loads(line)["doc_id"] for line in lines] == ["d1", "d2", "d3"]
    (field,) = read_alignment(folder, ["d1"])["d1"].items()
    assert field[1] == ((0, 0), (18, 18), (24, 24))  # The house is red. What? The house is red.
