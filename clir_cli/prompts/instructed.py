"""Prompts for any model that follows instructions: in one of many languages, and telling which languages it will see."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar, Literal

from clir_cli.errors import LanguageError
from clir_cli.prompts.listwise import LETTERS, Ranking, Status, plain, read_ranking
from clir_cli.text.languages import LANGUAGES
from clir_cli.types import LLM, Message, Prompt, Shown


@cache
def wording() -> Mapping[str, Mapping[str, str]]:
    """The instructions by language code (prompts/wording.yaml)."""
    import yaml

    text = files("clir_cli.prompts").joinpath("wording.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def language_name(code: str, reader: str) -> str:
    """What `code` (de, or de+en) is called in language `reader`, by the Unicode CLDR; in English where that has no name."""
    from babel import Locale, UnknownLocaleError

    names = []
    for each in code.split("+"):
        try:
            name = Locale.parse(reader).languages.get(each)
        except UnknownLocaleError:
            name = None
        names.append(name or LANGUAGES[each].name)
    return " + ".join(names)


@dataclass(frozen=True, kw_only=True)
class Instructed:
    """A base: one user turn of instruction, query and passages, worded as prompts/wording.yaml has it.

    The note on languages names those of the query and of the passages shown; in a list of passages in several languages
    each is marked with its own.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # which instructions of the wording it gives

    language: str = "en"  # of the instructions: a code, `query` (the query's), or `doc` (the documents')
    layout: Literal["query_first", "documents_first"] = "query_first"
    # documents_first: query languages of one topic share the beginning of their prompts
    tell_languages: bool = True  # say in which languages query and passages are
    spare_tokens: int = 8  # that an answer may spend on words beside the label; thousands for a model that thinks

    def __post_init__(self) -> None:
        if self.language not in (*wording(), "query", "doc"):
            raise ValueError(f"language must be query, doc or one of {', '.join(wording())}; got {self.language!r}")
        if self.spare_tokens < 0:
            raise ValueError(f"spare_tokens must be at least 0, got {self.spare_tokens}")

    def texts(self) -> Any:
        """What it says, as far as it is not in its fields: a part of its identity."""
        spoken = wording() if self.language in ("query", "doc") else {self.language: wording()[self.language]}
        return {
            code: [words[name] for name in ("query", "passage", "languages", *self.needs)]
            for code, words in spoken.items()
        }

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError where there are no instructions in the language asked for, or in no single one."""
        if self.language == "doc" and len(doc_langs) > 1:
            raise LanguageError(
                f"prompt.language=doc, and the documents are in {', '.join(doc_langs)}: choose prompt.language=query or a code"
            )
        langs = {"query": query_langs[:1], "doc": doc_langs[:1]}.get(self.language, [])
        for lang in langs:
            if lang not in wording():
                raise LanguageError(
                    f"prompt.language={self.language} means {lang!r}, and there are instructions in {', '.join(wording())} only: "
                    "choose one of these as prompt.language"
                )

    def _words(self, query: Shown, passages: Sequence[Shown]) -> tuple[str, Mapping[str, str]]:
        shown = {"query": query.lang, "doc": passages[0].lang}.get(self.language, self.language)
        code = shown.split("+")[0]
        return code, wording()[code]

    def _prompt(self, query: Shown, passages: Sequence[Shown], labels: Sequence[str], task: str, answer: str) -> Prompt:
        """`labels` stand before the passages; none: there is one, which needs no name."""
        code, words = self._words(query, passages)
        langs = list(dict.fromkeys(passage.lang for passage in passages))
        asked = f"{words['query']}: {query.text}"
        lines = []
        for at, passage in enumerate(passages):
            mark = f"({language_name(passage.lang, code)}) " if len(langs) > 1 and self.tell_languages else ""
            name = f"[{labels[at]}]" if labels else f"{words['passage']}:"
            lines.append(f"{name} {mark}{passage.text}")
        parts = [task.format(num=len(passages))]
        if self.tell_languages:
            names = ", ".join(language_name(lang, code) for lang in langs)
            parts.append(words["languages"].format(query=language_name(query.lang, code), passages=names))
        if self.layout == "documents_first":
            text = "\n".join([*lines, "", asked, *parts, answer])
        else:
            text = "\n".join(
                [*parts, asked, "", *lines, "", asked, answer] if labels else [*parts, asked, "", *lines, "", answer]
            )
        return (Message("user", text),)

    def answer_tokens(self, llm: LLM) -> int:
        """Tokens that a written answer may have: a label's few, and the spare ones."""
        return 4 + self.spare_tokens

    def reminder(self, prompt: Prompt) -> Prompt:
        """The prompt once more, with its last line, the form of the answer, repeated: greedy decoding would repeat itself."""
        *before, last = prompt
        return (*before, last._replace(content=f"{last.content}\n{last.content.splitlines()[-1]}"))


@dataclass(frozen=True, kw_only=True)
class Pick(Instructed):
    """Which of these passages, labelled A, B, C, ..., is the most relevant? For pairs and sets."""

    needs: ClassVar[tuple[str, ...]] = ("pick", "pick_answer")

    @property
    def most(self) -> int:
        return len(LETTERS)

    def label(self, position: int) -> str:
        return LETTERS[position]

    def messages(self, query: Shown, passages: Sequence[Shown]) -> Prompt:
        _, words = self._words(query, passages)
        return self._prompt(query, passages, LETTERS, words["pick"], words["pick_answer"])

    def read(self, answer: str, n: int) -> Ranking:
        """The passage an answer names, first in the order: a letter alone, in brackets, or after a word like Passage.

        ok: the letter and nothing else; repaired: with other words; failed: no letter, or several different ones.
        """
        text = plain(answer).strip()
        bare = text.strip(" \t\n.,:;!?*_`'\"[](){}<>«»。")
        valid = LETTERS[:n]
        if len(bare) == 1 and bare.upper() in valid:
            return _picked(valid.index(bare.upper()), n, "ok")
        ways = (
            rf"\[\s*([{valid}])\s*\]",
            rf"\w[\w']+\s*[:：]?\s*[*_\"'(]*([{valid}])\b(?!')",
            rf"(?<!\w)([{valid}])(?!\w|')",
        )
        for way in ways:
            found = set(re.findall(way, text))
            if len(found) == 1:
                return _picked(valid.index(found.pop()), n, "repaired")
        return Ranking(list(range(n)), "failed")


def _picked(at: int, n: int, status: Status) -> Ranking:
    return Ranking([at, *(i for i in range(n) if i != at)], status)


@dataclass(frozen=True, kw_only=True)
class Order(Instructed):
    """Order these passages: numbers or letters in brackets, as `[2] > [1] > [3]`."""

    needs: ClassVar[tuple[str, ...]] = ("order", "order_answer", "number", "letter")

    labels: Literal["numbers", "letters"] = "numbers"
    spare_tokens: int = 64

    @property
    def most(self) -> int:
        return len(LETTERS) if self.labels == "letters" else 10**6

    def label(self, position: int) -> str:
        return LETTERS[position] if self.labels == "letters" else str(position + 1)

    def expected(self, n: int) -> str:
        return " > ".join(f"[{self.label(i)}]" for i in range(n))

    def messages(self, query: Shown, passages: Sequence[Shown]) -> Prompt:
        _, words = self._words(query, passages)
        names = [self.label(i) for i in range(len(passages))]
        example = "[B] > [A] > [C]" if self.labels == "letters" else "[2] > [1] > [3]"
        form = words["order_answer"].format(label=words[self.labels.removesuffix("s")], example=example)
        return self._prompt(query, passages, names, words["order"], form)

    def read(self, answer: str, n: int) -> Ranking:
        return read_ranking(answer, n, self.labels)


@dataclass(frozen=True, kw_only=True)
class Grade(Instructed):
    """How relevant is this passage? Yes or no, in the words of the prompt's language or others; or 0 to 3."""

    needs: ClassVar[tuple[str, ...]] = ("yes_no", "word_yes", "word_no", "yes_no_answer", "graded", "graded_answer")

    scale: Literal["yes_no", "graded"] = "yes_no"
    words: tuple[str, str] | None = None  # for yes and no; null: the language's own

    def labels(self, query: Shown, passages: Sequence[Shown]) -> tuple[str, ...]:
        if self.scale == "graded":
            return ("0", "1", "2", "3")
        _, words = self._words(query, passages)
        return self.words or (words["word_yes"], words["word_no"])

    @property
    def values(self) -> tuple[float, ...]:
        return (0.0, 1.0, 2.0, 3.0) if self.scale == "graded" else (1.0, 0.0)

    def messages(self, query: Shown, passages: Sequence[Shown]) -> Prompt:
        _, words = self._words(query, passages)
        answer = words[f"{self.scale}_answer"]
        if self.words and self.scale == "yes_no":
            answer = answer.replace(words["word_yes"], self.words[0]).replace(words["word_no"], self.words[1])
        return self._prompt(query, passages, (), words[self.scale], answer)

    def read(self, answer: str, labels: Sequence[str]) -> tuple[int | None, Status]:
        """Which label an answer gives: alone; else as its first or, where that is none, its last word. Several: none."""
        text = plain(answer)
        said = re.findall(r"\w+(?:'\w+)?", text.casefold())
        wanted = [re.findall(r"\w+(?:'\w+)?", plain(label).casefold()) for label in labels]
        if said in wanted:
            return wanted.index(said), "ok"
        found = {i for i, words in enumerate(wanted) if len(words) == 1 and words[0] in said}
        if len(found) == 1:
            return found.pop(), "repaired"
        return None, "failed"


@dataclass(frozen=True, kw_only=True)
class WriteQuery(Instructed):
    """Shows a passage and asks for a query that it answers; the real query's probability is the score."""

    needs: ClassVar[tuple[str, ...]] = ("write_query",)

    def messages(self, query: Shown, passages: Sequence[Shown]) -> Prompt:
        code, words = self._words(query, passages)
        task = words["write_query"].format(query=language_name(query.lang, code))
        return (Message("user", f"{words['passage']}: {passages[0].text}\n{task}"),)
