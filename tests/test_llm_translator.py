"""A language model translates: what it is asked, and what is taken away around its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clir_cli import compose
from clir_cli.config import built
from clir_cli.errors import ConfigError, RunError
from clir_cli.segments import Segments
from clir_cli.text.translation import complaint, translate_texts
from clir_cli.translators.llm import LLMTranslator, read_answer
from clir_cli.types import Answer, Message, Prompt


@dataclass(frozen=True)
class Interpreter:
    """An LLM that answers as `says` tells it, and remembers what it was asked."""

    says: Callable[[str], str] = str.upper
    context: int = 2000
    asked: list[Prompt] = field(default_factory=list)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        return [" ".join(text.split()[:tokens]) for text in texts]

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        self.asked.extend(prompts)
        found = [self.says(prompt[-1].content.rsplit("\n", 1)[-1]) for prompt in prompts]
        return [Answer(text, prompt_tokens=9, output_tokens=3, truncated=len(text) > 60) for text in found]


def test_the_model_is_told_both_languages_by_name():
    llm = Interpreter()
    translator = LLMTranslator(llm=llm, prompt="From {source_name} ({source}) to {target_name} ({target}):\n{text}")
    assert translator.translate(["Habari {ya} leo?"], "sw", "en") == ["HABARI {YA} LEO?"]
    assert llm.asked == [(Message("user", "From Swahili (sw) to English (en):\nHabari {ya} leo?"),)]
    LLMTranslator(llm=llm, system="You translate.", prompt="{text}").translate(["Ja."], "de", "en")
    assert llm.asked[-1] == (Message("system", "You translate."), Message("user", "Ja."))


@pytest.mark.parametrize(
    ("answer", "translation", "flag"),
    [
        ("The house is red.", "The house is red.", None),
        ("<think>Casa is house, I\nthink.</think>\n\nThe house is red.", "The house is red.", "reasoning"),
        ("Casa is house.</think>The house is red.", "The house is red.", "reasoning"),
        ("<think>Casa, casa, casa", "", "reasoning"),
        ("La casa es roja.\nThe house is red.", "The house is red.", "echo"),
        ("Translate: La casa es roja. The house is red.", "The house is red.", "echo"),
        ("English: The house is red.", "The house is red.", None),
        ("Translation: “The house is red.”", "The house is red.", None),
        ('"Red" is the "house"', '"Red" is the "house"', None),
        ("La casa es roja.", "La casa es roja.", None),
        ("", "", None),
    ],
)
def test_only_the_translation_is_left_of_an_answer(answer: str, translation: str, flag: str | None):
    made = read_answer(answer, "La casa es roja.", "Translate: La casa es roja.", "English")
    assert made.text == translation
    assert [name for name in ("reasoning", "echo", "malformed") if getattr(made, name)] == ([flag] if flag else [])


def test_a_translation_that_begins_as_its_text_does_is_no_echo():
    assert (
        read_answer("Tokyo Tower is high.", "Tokyo", "To English: Tokyo", "English").text == "Tokyo Tower is high."[6:]
    )
    assert read_answer("Tokyos Turm", "Tokyo", "p", "German").text == "Tokyos Turm"


def test_a_form_that_was_asked_for_is_looked_for():
    pattern = r"<translate>(.*?)</translate>"
    made = read_answer("<think>so</think><translate>Red\nhouse.</translate> Done.", "Casa.", "p", "English", pattern)
    assert (made.text, made.reasoning, made.malformed) == ("Red\nhouse.", True, False)
    assert read_answer("Red house.", "Casa.", "p", "English", pattern) == (
        "Red house.",
        0,
        False,
        False,
        False,
        True,
        0,
        0,
        None,
    )


LONG = "The report was long and nobody in the room had read it before."


def test_what_was_taken_away_is_counted_also_from_memory(tmp_path: Path):
    llm = Interpreter(lambda text: f"<think>{text}</think> {LONG if 'long' in text else 'ok'}")
    for fresh in (True, False):
        _, counts = translate_texts(
            ["Moja. Mbili. Tatu long."], LLMTranslator(llm=llm), "sw", "en", Segments(tmp_path), "i"
        )
        assert (counts.reasoning_removed, counts.unfinished) == (3, 1)
        assert (counts.prompt_tokens, counts.output_tokens) == ((27, 9) if fresh else (0, 0))
        assert complaint(vars(counts)) == (
            "of 3 translations 1 not ended by the model, 1 of unlikely length, 3 with reasoning, removed"
        )
    assert len(llm.asked) == 3


def test_a_long_text_is_cut_and_counted():
    llm = Interpreter()
    translator = LLMTranslator(llm=llm, max_tokens=3, unit="document", prompt="{text}")
    (made,), counts = translate_texts(["one two three four five"], translator, "en", "sw", None, "i")
    assert (made.text, counts.cut, counts.tokens_cut) == ("ONE TWO THREE", 1, 2)


def test_a_context_that_is_too_short_is_refused_before_anything_is_asked():
    llm = Interpreter(context=1000)
    with pytest.raises(ConfigError, match=r"do not fit llm\.context=1000"):
        LLMTranslator(llm=llm).check("sw", "en")
    LLMTranslator(llm=llm, max_tokens=200).check("sw", "en")
    assert not llm.asked


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"prompt": "Translate to {target_name}."}, "must hold the {text}"),
        ({"prompt": "{text} {lang}"}, "not {lang}"),
        ({"answer": "("}, "not a regular expression"),
        ({"answer": "x"}, "needs a group"),
        ({"max_new_tokens": 0}, "at least 1"),
    ],
)
def test_a_template_that_cannot_work_is_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        LLMTranslator(llm=None, **settings)


def test_a_language_that_the_model_was_not_made_for_is_refused_while_planning():
    tower = component("translator=tower_instruct")
    assert tower.directions("de", "en") is None
    assert tower.directions("sw", "en") == "translator.languages has en, de, fr, es, zh, pt, it, ru, ko, nl, not sw"


def component(*overrides: str) -> LLMTranslator:
    (cell,) = compose.cells(["dataset=demo", *overrides])
    translator = built(cell.plain).translator
    assert isinstance(translator, LLMTranslator)
    return translator


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("tower_instruct", "Translate the following text from German into English.\nGerman: Ja.\nEnglish:"),
        ("seed_x", "Translate the following German sentence into English:\nJa. <en>"),
        (
            "llamax3_8b",
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
            "response that appropriately completes the request.\n### Instruction:\nTranslate the following sentences from "
            "German to English.\n### Input:\nJa.\n### Response:",
        ),
    ],
)
def test_a_preset_asks_as_its_authors_do(name: str, asked: str):
    ((turn),) = component(f"translator={name}")._asked("Ja.", "de", "en")
    assert turn == Message("user", asked)


def test_the_model_is_the_one_that_llm_names():
    translator = component(
        "translator=llm", "llm=openai", "llm.model=m", "llm.base_url=http://127.0.0.1:9/v1", "llm.api_key_env=null"
    )
    assert translator.llm.model == "m"
    assert translator.at_once == 256, "answers that are paid for are kept as they come"
    assert LLMTranslator(llm=Interpreter()).at_once is None


def test_an_answer_that_never_comes_is_no_translation():
    @dataclass(frozen=True)
    class Down(Interpreter):
        def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
            return [Answer("", error="503") for _ in prompts]

    with pytest.raises(RunError, match=r"LLMTranslator: no answer to 1 of 1 texts, for example to 'Moja\.': 503"):
        translate_texts(["Moja."], LLMTranslator(llm=Down()), "sw", "en", None, "i")
