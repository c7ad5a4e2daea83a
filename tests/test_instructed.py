"""Prompts in many languages, and what is read from the answers to them."""

from __future__ import annotations

import random
from string import Formatter

import pytest

from clir_cli.errors import LanguageError
from clir_cli.prompts.instructed import Grade, Order, Pick, WriteQuery, language_name, wording
from clir_cli.prompts.listwise import LETTERS
from clir_cli.types import Shown

QUERY = Shown("Wer baute die Brücke?", "de")
ONE = [Shown("Silta rakennettiin 1931.", "fi")]
MIXED = [Shown("Silta rakennettiin 1931.", "fi"), Shown("The bridge was built in 1931.", "en"), Shown("Мост построен.", "ru")]  # fmt: skip


def text(prompt: object) -> str:
    return prompt[0].content  # type: ignore[index,no-any-return]


@pytest.mark.parametrize("lang", wording())
def test_every_language_says_the_same_with_the_same_holes(lang: str) -> None:
    assert wording()[lang].keys() == wording()["en"].keys()
    for name, words in wording()[lang].items():
        holes = [{hole for _, hole, _, _ in Formatter().parse(said) if hole} for said in (words, wording()["en"][name])]
        assert holes[0] == holes[1], name


@pytest.mark.parametrize("lang", [*wording(), "query", "doc"])
def test_a_prompt_shows_query_and_passages_in_any_language_of_instruction(lang: str) -> None:
    for prompt in (Pick(language=lang), Order(language=lang)):
        said = text(prompt.messages(QUERY, MIXED))
        assert all(passage.text in said for passage in MIXED)
        assert QUERY.text in said
        assert "{" not in said
    for single in (Grade(language=lang), Grade(language=lang, scale="graded"), WriteQuery(language=lang)):
        said = text(single.messages(QUERY, ONE))
        assert ONE[0].text in said
        assert "{" not in said


def test_the_model_is_told_which_languages_it_sees() -> None:
    assert "Language of the query: German. Language of the passages: Finnish." in text(Grade().messages(QUERY, ONE))
    assert "Kyselyn kieli: saksa. Katkelmien kieli: suomi." in text(Grade(language="doc").messages(QUERY, ONE))
    assert "Language" not in text(Grade(tell_languages=False).messages(QUERY, ONE))
    assert language_name("de+sw", "en") == "German + Swahili"
    assert language_name("sw", "fi") == "swahili"


def test_in_a_list_of_several_languages_each_passage_is_marked_with_its_own() -> None:
    said = text(Pick().messages(QUERY, MIXED))
    assert "[A] (Finnish) Silta" in said
    assert "[C] (Russian) Мост" in said
    assert "[A] Silta" in text(Pick().messages(QUERY, ONE * 2))
    assert "[A] Silta" in text(Pick(tell_languages=False).messages(QUERY, MIXED))


def test_query_languages_of_one_topic_share_the_beginning_where_documents_come_first() -> None:
    prompt = Order(layout="documents_first")
    german, english = (text(prompt.messages(q, MIXED)) for q in (QUERY, Shown("Who built the bridge?", "en")))
    shared = next(i for i, (a, b) in enumerate(zip(german, english, strict=False)) if a != b)
    assert all(passage.text in german[:shared] for passage in MIXED)


def test_instructions_in_a_language_that_is_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="language must be query, doc or one of en, de"):
        Pick(language="xx")
    with pytest.raises(LanguageError, match="'am'"):
        Pick(language="query").check_languages(["am"], ["en"])
    with pytest.raises(LanguageError, match=r"prompt\.language=doc"):
        Order(language="doc").check_languages(["en"], ["fa", "ru"])
    Pick(language="query").check_languages(["yo"], ["am"])


def test_what_a_prompt_says_is_part_of_its_identity() -> None:
    assert Pick(language="fi").texts() != Pick(language="sw").texts()
    assert set(Pick(language="query").texts()) == set(wording())


@pytest.mark.parametrize(
    ("answer", "picked", "status"),
    [
        ("B", 1, "ok"),
        (" b.\n", 1, "ok"),
        ("[B]", 1, "ok"),
        ("**C**", 2, "ok"),
        ("Ｂ", 1, "ok"),
        ("<think>A is good, but C ...</think>B", 1, "ok"),
        ("Passage B", 1, "repaired"),
        ("The most relevant passage is [C].", 2, "repaired"),
        ("Passage: A", 0, "repaired"),
        ("Das ist Textstelle C, weil sie die Brücke nennt.", 2, "repaired"),
        ("Ответ: B", 1, "repaired"),
        ("Passage A is better than Passage B", None, "failed"),
        ("[A] or [B]", None, "failed"),
        ("D", None, "failed"),
        ("I cannot say.", None, "failed"),
        ("", None, "failed"),
        ("<think>B is", None, "failed"),
        ("I'd say C", 2, "repaired"),
    ],
)
def test_the_passage_that_an_answer_names(answer: str, picked: int | None, status: str) -> None:
    found = Pick().read(answer, 3)
    assert found.status == status
    assert sorted(found.order) == [0, 1, 2]
    assert picked is None or found.order[0] == picked


def test_ten_thousand_answers_of_any_shape_never_lose_a_passage() -> None:
    draw = random.Random(1)
    pieces = [*LETTERS[:6], "[", "]", " > ", "Passage ", "1", "٣", "\n", ".", "<think>", "</think>", "é", " is ", ", "]
    for _ in range(10_000):
        answer = "".join(draw.choices(pieces, k=draw.randint(0, 12)))
        for prompt in (Pick(), Order(), Order(labels="letters")):
            assert sorted(prompt.read(answer, 5).order) == list(range(5))


@pytest.mark.parametrize(
    ("prompt", "answer", "label", "status"),
    [
        (Grade(), "Yes", 0, "ok"),
        (Grade(), "No.", 1, "ok"),
        (Grade(), "Yes, it names the builder.", 0, "repaired"),
        (Grade(), "Yes and no", None, "failed"),
        (Grade(), "maybe", None, "failed"),
        (Grade(language="yo"), "Bẹ́ẹ̀ni", 0, "ok"),
        (Grade(language="ha"), "A'a", 1, "ok"),
        (Grade(language="zh"), "是", 0, "ok"),
        (Grade(language="hi"), "नहीं", 1, "ok"),
        (Grade(scale="graded"), "3", 3, "ok"),
        (Grade(scale="graded"), "٢", 2, "ok"),
        (Grade(scale="graded"), "Grade: 1", 1, "repaired"),
        (Grade(words=("true", "false")), "false", 1, "ok"),
    ],
)
def test_the_grade_that_an_answer_gives(prompt: Grade, answer: str, label: int | None, status: str) -> None:
    labels = prompt.labels(QUERY, ONE)
    assert prompt.read(answer, labels) == (label, status)
    assert len(labels) == len(prompt.values)
