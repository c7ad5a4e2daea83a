"""Texts are translated sentence by sentence, each sentence once, and remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clir_cli.errors import LanguageError, RunError
from clir_cli.segments import Segments
from clir_cli.translation import Counts, translate_texts

DICTIONARY = {
    "Good day.": "Guten Tag.",
    "Rain falls.": "Es regnet.",
    "Yes.": "Ja.",
    "Bonn 1949": "Bonn 1949",
    "Hush.": "",
    "The government announced new measures.": "Ja.",
    "Long sentence.": "Langer Satz.",
}


@dataclass(frozen=True)
class Dictionary:
    """A translator that knows a few English sentences, and remembers what it was asked."""

    unit: str = "sentence"
    asked: list[list[str]] = field(default_factory=list)

    def directions(self, source: str, target: str) -> str | None:
        return None if source == "en" else f"only en, not {source}"

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        self.asked.append(list(texts))
        return [f"<{text}>" if target == "zh" else DICTIONARY.get(text, text.upper()) for text in texts]

    def too_long(self, texts: Sequence[str], source: str, target: str) -> list[bool]:
        return [text.startswith("Long") for text in texts]


@dataclass(frozen=True)
class Forgetful(Dictionary):
    """A translator that loses or invents answers."""

    answers: tuple[object, ...] = ()

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        return list(self.answers)  # type: ignore[arg-type]


def german(texts: Sequence[str], translator: Dictionary, memory: Segments | None = None, identity: str = "dictionary"):
    return translate_texts(texts, translator, "en", "de", memory, identity)


def test_a_text_is_translated_sentence_by_sentence_and_joined_in_order():
    texts, counts = german(["Good day. Rain falls.", "Rain falls. Good day."], Dictionary())
    assert texts == ["Guten Tag. Es regnet.", "Es regnet. Guten Tag."]
    assert counts == Counts(sentences=4, unique=2)


def test_a_sentence_is_sent_once_however_often_the_collection_repeats_it():
    translator = Dictionary()
    german(["Yes. Yes. Good day.", "Good day. Yes.", " Yes. "], translator)
    assert translator.asked == [["Yes.", "Good day."]]


def test_a_text_without_words_stays_empty_and_is_not_sent():
    translator = Dictionary()
    assert german(["", "  \n ", "Yes.", ""], translator)[0] == ["", "", "Ja.", ""]
    assert german(["", ""], translator) == (["", ""], Counts())
    assert german([], translator) == ([], Counts())
    assert translator.asked == [["Yes."]]


def test_chinese_sentences_are_joined_without_spaces():
    assert translate_texts(["Yes. Good day."], Dictionary(), "en", "zh", None, "d")[0] == ["<Yes.><Good day.>"]


def test_a_translator_of_whole_texts_gets_whole_texts():
    translator = Dictionary(unit="text")
    assert german(["Yes. Good day.", "", " Yes. "], translator)[0] == ["YES. GOOD DAY.", "", "Ja."]
    assert translator.asked == [["Yes. Good day.", "Yes."]]


def test_what_was_translated_once_is_never_asked_again(tmp_path: Path):
    first, later = Dictionary(), Dictionary()
    before = german(["Yes. Long sentence.", "Hush."], first, Segments(tmp_path))
    texts, counts = german(["Yes. Long sentence.", "Hush.", "Yes. Good day."], later, Segments(tmp_path))
    assert texts == [*before[0], "Ja. Guten Tag."]
    assert later.asked == [["Good day."]]
    assert (counts.unique, counts.from_cache, counts.cut, counts.empty) == (4, 3, 1, 1)
    again = Dictionary()
    assert german(["Yes. Long sentence.", "Hush."], again, Segments(tmp_path))[0] == before[0]
    assert again.asked == []


@pytest.mark.parametrize(
    ("source", "target", "identity"), [("en", "fr", "dictionary"), ("en", "de", "dictionary of 1950")]
)
def test_another_language_or_translator_does_not_get_the_remembered_answer(
    tmp_path: Path, source: str, target: str, identity: str
):
    german(["Yes."], Dictionary(), Segments(tmp_path))
    translator = Dictionary()
    translate_texts(["Yes."], translator, source, target, Segments(tmp_path), identity)
    assert translator.asked == [["Yes."]]


def test_a_call_is_remembered_in_one_line_so_that_a_crash_leaves_all_of_it_or_nothing(tmp_path: Path):
    memory = Segments(tmp_path)
    german(["Yes. Good day. Rain falls."], Dictionary(), memory)
    memory.close()
    (file,) = tmp_path.glob("*.jsonl")
    assert file.read_bytes().count(b"\n") == 1
    file.write_bytes(file.read_bytes()[:-10])
    translator = Dictionary()
    german(["Yes. Good day. Rain falls."], translator, Segments(tmp_path))
    assert translator.asked == [["Yes.", "Good day.", "Rain falls."]]


@pytest.mark.parametrize("answers", [(), ("Ja.",), ("Ja.", "Guten Tag.", "Es regnet.")])
def test_a_translator_must_answer_every_sentence(tmp_path: Path, answers: tuple[str, ...]):
    with pytest.raises(RunError, match=rf"Forgetful was given 2 texts \(en to de\) and returned {len(answers)}"):
        german(["Yes. Good day."], Forgetful(answers=answers), Segments(tmp_path))
    assert not list(tmp_path.glob("*.jsonl")), "nothing of a broken answer is kept"


def test_no_answer_is_not_an_empty_translation():
    with pytest.raises(RunError, match=r"returned None instead of a translation of 'Good day\.'"):
        german(["Yes. Good day."], Forgetful(answers=("Ja.", None)))


def test_a_direction_that_the_translator_lacks_is_refused_before_it_is_asked():
    translator = Dictionary()
    with pytest.raises(LanguageError, match="only en, not fi"):
        translate_texts(["Hyvää päivää."], translator, "fi", "de", None, "d")
    assert translator.asked == []


def test_suspicious_translations_are_counted():
    texts, counts = german(
        ["Bonn 1949", "Hush. Long sentence.", "The government announced new measures."], Dictionary()
    )
    assert texts == ["Bonn 1949", "Langer Satz.", "Ja."]
    assert counts == Counts(sentences=4, unique=4, empty=1, copied=1, cut=1, length_ratio_outliers=1)


def test_a_chinese_character_says_as_much_as_three_letters():
    @dataclass(frozen=True)
    class Chinese(Dictionary):
        def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
            return ["政府宣布新措施。"]

    sentence = ["The government announced new measures."]  # 38 letters for 8 characters: a ratio of 0.21 by count
    assert translate_texts(sentence, Chinese(), "en", "zh", None, "d")[1].length_ratio_outliers == 0


def test_the_counts_of_shards_add_up():
    assert Counts(sentences=2, cut=1) + Counts(sentences=3, empty=4) == Counts(sentences=5, empty=4, cut=1)
