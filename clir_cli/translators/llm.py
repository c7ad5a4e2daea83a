"""Translation by asking a language model: any component of llms/, one prompt per piece."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from clir_cli.errors import ConfigError
from clir_cli.text.languages import language
from clir_cli.text.translation import Made, Pieced
from clir_cli.types import Message, Prompt, neutral

PLACES = frozenset({"text", "source", "target", "source_name", "target_name"})
SPARE = 16  # tokens that a prompt may be longer than its parts
AT_ONCE = 256  # prompts asked for before the answers of a paid server are kept

_THOUGHT = re.compile(
    r"\A.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE
)  # the opening may be the prompt's
_OPEN = re.compile(r"\A\s*<(?:think|thinking|reasoning)>", re.IGNORECASE)
_QUOTES = {'"': '"', "“": "”", "«": "»", "„": "“", "'": "'", "「": "」"}


@dataclass(frozen=True)
class LLMTranslator(Pieced):
    """Translate by a prompt with the languages' names; what surrounds the translation in the answer is taken away.

    `prompt` and `system` may hold {source_name} and {target_name} (English names), {source} and {target} (codes), and
    the `prompt` the {text}. Reasoning (up to </think>) and echoes of the text or of the prompt are removed and counted.
    `answer` is a regular expression whose first group is the translation (`<translate>(.*?)</translate>`); an answer
    without it is kept whole and counted as malformed.
    """

    llm: Any
    prompt: str = (
        "Translate the following {source_name} text into {target_name}. Answer with the translation alone.\n\n{text}"
    )
    system: str = ""
    answer: str | None = None
    max_tokens: int = 512  # of a piece; the rest is cut off and counted
    max_new_tokens: int = 512  # of an answer, its reasoning included
    languages: tuple[str, ...] | None = neutral(None)  # those it translates between; null: it is asked for any

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, template in (("prompt", self.prompt), ("system", self.system)):
            unknown = {place for _, place, _, _ in Formatter().parse(template) if place is not None} - PLACES
            if unknown:
                raise ValueError(
                    f"{name} may hold {', '.join(sorted(PLACES))}, not {{{min(unknown)}}}; {{{{ is a brace"
                )
        if "{text}" not in self.prompt:
            raise ValueError("prompt must hold the {text}")
        if self.max_tokens < 1 or self.max_new_tokens < 1:
            raise ValueError("max_tokens and max_new_tokens are at least 1")
        if self.answer is not None:
            try:
                groups = re.compile(self.answer).groups
            except re.error as error:
                raise ValueError(f"answer is not a regular expression: {error}") from error
            if groups < 1:
                raise ValueError("answer needs a group: what is in ( ) is the translation")

    @property
    def at_once(self) -> int | None:
        """A server's answers are paid for: they are kept every so many. A local model gets all, to batch them well."""
        return AT_ONCE if hasattr(self.llm, "ask") else None

    def directions(self, source: str, target: str) -> str | None:
        """None if it is asked for both languages, else which it has."""
        asked = [language(source).code, language(target).code]
        if self.languages is not None and (lacking := [lang for lang in asked if lang not in self.languages]):
            return f"translator.languages has {', '.join(self.languages)}, not {' and '.join(lacking)}"
        return None

    def check(self, source: str, target: str) -> None:
        """Refuse, before anything runs, what the language model refuses (no key), and a context that is too short."""
        if hasattr(self.llm, "check"):
            self.llm.check()
        needs = sum(self.llm.count_tokens([turn.content for turn in self._asked("", source, target)]))
        if needs + SPARE + self.max_tokens + self.max_new_tokens > self.llm.context:
            raise ConfigError(
                f"a prompt of {needs} tokens with {SPARE} to spare, a text of {self.max_tokens} and an answer of "
                f"{self.max_new_tokens} do not fit llm.context={self.llm.context}\n"
                "  lower translator.max_tokens or translator.max_new_tokens"
            )

    def sizes(self, texts: Sequence[str], source: str, target: str) -> list[int]:
        """Tokens of each text."""
        return list(self.llm.count_tokens(texts))

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """As many translations as texts; an answer that failed is empty."""
        return [made.text for made in self.answers(texts, source, target)]

    def answers(self, texts: Sequence[str], source: str, target: str) -> list[Made]:
        """The translations, each with what was taken away around it, and what it cost."""
        if not texts:
            return []
        self.check(source, target)
        sizes = self.sizes(texts, source, target)
        cut = [max(0, size - self.max_tokens) for size in sizes]
        long = [i for i, n in enumerate(cut) if n]
        shown = list(texts)
        for i, text in zip(long, self.llm.cut([texts[i] for i in long], self.max_tokens) if long else [], strict=True):
            shown[i] = text
        prompts = [self._asked(text, source, target) for text in shown]
        found = []
        for text, prompt, n, said in zip(
            shown, prompts, cut, self.llm.generate(prompts, self.max_new_tokens), strict=True
        ):
            made = read_answer(said.text, text, prompt[-1].content, language(target).name, self.answer)
            found.append(
                made._replace(
                    tokens_cut=n, unfinished=said.truncated, prompt_tokens=said.prompt_tokens,
                    output_tokens=said.output_tokens, error=said.error,
                )
            )  # fmt: skip
        return found

    def _asked(self, text: str, source: str, target: str) -> Prompt:
        places = {
            "text": text, "source": source, "target": target,
            "source_name": language(source).name, "target_name": language(target).name,
        }  # fmt: skip
        turns = (("system", self.system), ("user", self.prompt))
        return tuple(Message(role, template.format_map(places)) for role, template in turns if template)  # type: ignore[arg-type]


def read_answer(answer: str, text: str, prompt: str, target_name: str, pattern: str | None = None) -> Made:
    """The translation in an answer: without reasoning, an echo of the prompt or the text, a label, quotes around it."""
    said = _THOUGHT.sub("", answer)
    reasoning = said != answer
    if not reasoning and _OPEN.match(said):  # it thought until its limit
        return Made("", reasoning=True)
    malformed = False
    if pattern is not None:
        found = re.search(pattern, said, re.DOTALL)
        malformed, said = found is None, found[1] or "" if found else said
    said, echo = said.strip(), False
    for repeated in (prompt.strip(), text.strip()):
        rest = said.removeprefix(repeated)
        if rest != said and rest[:1].isspace():  # else the translation only begins as the text does
            said, echo = rest.strip(), True
    label = re.match(rf"(?:{re.escape(target_name)}|translation)\s*[:：]\s*", said, re.IGNORECASE)
    if label and not text.lower().startswith(label[0].rstrip().lower()):
        said = said[label.end() :].strip()
    return Made(_unquoted(said, text), reasoning=reasoning, echo=echo, malformed=malformed)


def _unquoted(said: str, text: str) -> str:
    """Without the quotation marks around all of it, which the text does not have."""
    if (
        len(said) > 1
        and _QUOTES.get(said[0]) == said[-1]
        and said[0] not in said[1:-1]
        and text.strip()[:1] not in _QUOTES
    ):
        return said[1:-1].strip()
    return said
