"""The listwise prompt: passages with identifiers go in, a ranking of the identifiers comes out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Literal, NamedTuple, TypeAlias

from clir_cli.types import Message, Prompt, Shown

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Status: TypeAlias = Literal["ok", "partial", "repaired", "failed"]


class Ranking(NamedTuple):
    """What an answer says: every position 0 .. n-1 exactly once, best first, and how it was understood.

    ok: a complete ranking and nothing else; repaired: complete after repeated, invented or chatty parts were dropped;
    partial: forgotten positions were appended in their prior order; failed: nothing usable, the prior order.
    """

    order: list[int]
    status: Status


@dataclass(frozen=True)
class ListwisePrompt:
    """Passages [1] [2] ... to be listed as `[2] > [1]` (Sun et al. 2023); the wording is the preset's, so it is identity.

    One user turn of intro, passages and outro; or, `multi_turn`, a conversation that hands over one passage a turn.
    Texts may hold {query} and {num} (how many passages), `passage` {id} and {passage}, `passage_reply` {id}.
    """

    intro: str
    passage: str
    outro: str
    system: str = ""  # empty: no system turn
    again: str = "Answer with the identifiers only."  # appended where an unusable answer is asked for once more
    labels: Literal["numbers", "letters"] = "numbers"
    multi_turn: bool = False
    intro_reply: str = ""
    passage_reply: str = ""
    spare_tokens: int = 64  # that an answer may spend on words beside the ranking; thousands for a model that thinks

    def __post_init__(self) -> None:
        holes = {
            "intro": {"query", "num"},
            "outro": {"query", "num"},
            "passage": {"id", "passage"},
            "passage_reply": {"id"},
        }
        for name, valid in holes.items():
            try:
                used = {hole for _, hole, _, _ in Formatter().parse(getattr(self, name)) if hole is not None}
            except ValueError as error:
                raise ValueError(f"{name}: {error}; write {{{{ and }}}} for braces") from error
            if wrong := used - valid:
                raise ValueError(f"{name} may hold {_braces(valid)}, not {_braces(wrong)}")
        if "{passage}" not in self.passage or "{id}" not in self.passage:
            raise ValueError("passage must hold {id} and {passage}, such as '[{id}] {passage}'")
        if not self.query_shown:
            raise ValueError("intro or outro must hold {query}")
        if self.multi_turn and not (self.intro_reply and self.passage_reply):
            raise ValueError("multi_turn needs intro_reply and passage_reply, the turns between the passages")

    @property
    def query_shown(self) -> int:
        """How often the query stands in the prompt."""
        return (self.intro + self.outro).count("{query}")

    @property
    def most(self) -> int:
        """The most passages that have distinct identifiers."""
        return len(LETTERS) if self.labels == "letters" else 10**6

    def label(self, position: int) -> str:
        return LETTERS[position] if self.labels == "letters" else str(position + 1)

    def expected(self, n: int) -> str:
        """A complete answer for n passages: what the answer's tokens are counted on."""
        return " > ".join(f"[{self.label(i)}]" for i in range(n))

    def messages(self, query: Shown, passages: Sequence[Shown]) -> Prompt:
        """The request to rank `passages`, which are plain lines (see `line`), for the query."""
        intro, outro = (text.format(query=query.text, num=len(passages)) for text in (self.intro, self.outro))
        lines = [self.passage.format(id=self.label(i), passage=each.text) for i, each in enumerate(passages)]
        system = (Message("system", self.system),) if self.system else ()
        if not self.multi_turn:
            return (*system, Message("user", "\n".join([intro, *lines, outro])))
        turns = [Message("user", intro), Message("assistant", self.intro_reply)]
        for i, text in enumerate(lines):
            turns += [Message("user", text), Message("assistant", self.passage_reply.format(id=self.label(i)))]
        return (*system, *turns, Message("user", outro))

    def reminder(self, prompt: Prompt) -> Prompt:
        """The prompt once more, insisting on the form: a model that decodes greedily would only repeat itself."""
        *before, last = prompt
        return (*before, last._replace(content=f"{last.content}\n\n{self.again}"))

    def read(self, answer: str, n: int) -> Ranking:
        return read_ranking(answer, n, self.labels)


Labels: TypeAlias = Literal["numbers", "letters"]


def read_ranking(answer: str, n: int, labels: Labels) -> Ranking:
    """The ranking of n passages that an answer gives: a permutation whatever it says.

    Thinking is removed and digits of all scripts are read. Where there are bracketed identifiers, the longest run
    like `[2] > [1]` counts, then what follows it; if none follows another directly, all in their order. Else the
    longest line that holds nothing but bare identifiers (one a line: these lines). Numbers in prose never count.
    """
    text = plain(answer)
    found: list[int] = []
    usable: list[int] = []
    chatty = False
    for way in (_bracketed, _bare):
        found, chatty = way(text, labels)
        if usable := list(dict.fromkeys(i for i in found if 0 <= i < n)):
            break
    missing = [i for i in range(n) if i not in set(usable)]
    if not usable:
        return Ranking(missing, "failed")
    if missing:
        return Ranking([*usable, *missing], "partial")
    return Ranking(usable, "repaired" if chatty or len(found) > n else "ok")


_IDENTIFIER: dict[Labels, str] = {"letters": "[A-Z]", "numbers": "[0-9]+"}


def _bracketed(text: str, labels: Labels) -> tuple[list[int], bool]:
    """Positions by bracketed identifiers, and whether the answer said more."""
    one = rf"\[\s*(?:{_IDENTIFIER[labels]})\s*\]"
    between = r"[^\w\[\]]*(?:\d+[.):][^\w\[\]]*)?"  # `>`, commas, new lines, the numbers of a list
    runs = [re.findall(one, run) for run in re.findall(rf"{one}(?:{between}{one})*", text)]
    longest = max((len(run) for run in runs), default=0)
    first = 0 if longest < 2 else max(at for at, run in enumerate(runs) if len(run) == longest)
    chatty = len(runs) > 1 or bool(re.search(r"\w", re.sub(rf"{between}{one}", "", text)))
    return [_position(name.strip("[] \n\t"), labels) for run in runs[first:] for name in run], chatty


def _bare(text: str, labels: Labels) -> tuple[list[int], bool]:
    """Positions by the lines that hold nothing but identifiers, and whether the answer said more."""
    alone = _IDENTIFIER[labels]
    ranking = rf"(?:{alone})(?:[\s>,;|=]+(?:{alone}))+"
    lines = [re.sub(r"[\[\](){}*_`'\"]", " ", said).strip(" \t.,;>|-") for said in text.splitlines()]
    rankings = [found[0] for said in lines if (found := re.findall(rf"(?:^|:)\s*({ranking})$", said))]
    names = (
        re.findall(alone, max(rankings, key=len)) if rankings else [said for said in lines if re.fullmatch(alone, said)]
    )
    return [_position(name, labels) for name in names], len(re.findall(r"\w+", text)) > len(names)


def _position(name: str, labels: Labels) -> int:
    return LETTERS.find(name) if labels == "letters" else int(name[:9]) - 1


def line(text: str) -> str:
    """A text as one line whose own `[12]` cannot be taken for an identifier: it becomes `(12)`."""
    return re.sub(r"\[\s*(\d+|[A-Za-z])\s*\]", r"(\1)", " ".join(text.split()))


def plain(answer: str) -> str:
    """The answer without its thinking (also unfinished), with ASCII digits and brackets."""
    answer = answer.rpartition("</think>")[2].partition("<think>")[0]
    text = unicodedata.normalize("NFKC", answer).replace("【", "[").replace("】", "]")
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def _braces(names: set[str]) -> str:
    return " ".join(f"{{{name}}}" for name in sorted(names))
