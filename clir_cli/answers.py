"""Answers in ranked passages: which passages hold an answer, and R@2kt, where in the ranking the first one stands."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias

from clir_cli.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

WORDS = r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]"  # words, and every other visible character: DPR's tokens
YES_NO = frozenset({"yes", "no"})  # no span of a passage: XOR-Retrieve does not ask for them
Sentences: TypeAlias = Literal["rules", "punkt"]  # who cuts a passage into sentences: clir, or NLTK's Punkt for English


@cache
def _words() -> Callable[[str], list[str]]:
    import regex

    findall: Callable[[str], list[str]] = regex.compile(WORDS).findall
    return findall


def words(text: str) -> list[str]:
    """The words of a text as DPR compares them: canonically decomposed, in lower case."""
    return [word.lower() for word in _words()(unicodedata.normalize("NFD", text))]


class Answers:
    """Looks for the answers of many questions in one pass over a passage: a run of words, whatever their case."""

    def __init__(self, answers: Mapping[str, Iterable[str]]) -> None:
        self._by_first: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for question, texts in answers.items():
            for answer in {tuple(words(text)) for text in texts}:
                if answer:
                    self._by_first.setdefault(answer[0], []).append((answer, question))

    def answered(self, text: str) -> set[str]:
        """The ids of the questions of which the text holds an answer."""
        found = set()
        tokens = words(text)
        for at, token in enumerate(tokens):
            for answer, question in self._by_first.get(token, ()):
                if question not in found and tuple(tokens[at : at + len(answer)]) == answer:
                    found.add(question)
        return found


def within(passages: Iterable[str], answers: Sequence[str], tokens: int, sentences: Sentences = "rules") -> bool:
    """Whether an answer stands within the first `tokens` tokens of the ranked passages (Asai et al. 2021, R@2kt).

    As XOR-Retrieve's script does: passages are read until their tokens suffice, the tokens are cut, joined by blanks, and
    searched for the answer as it is written. With `punkt` its tokens are the script's own.
    """
    read: list[str] = []
    for passage in passages:
        read += treebank(passage, sentences)
        if len(read) >= tokens:
            break
    text = " ".join(read[:tokens])
    return any(answer in text for answer in answers)


Context: TypeAlias = tuple[Mapping[str, Sequence[str]], Callable[[Sequence[str]], Iterable[str]]]
_context: ContextVar[Context | None] = ContextVar("answers", default=None)


@contextmanager
def known(answers: Mapping[str, Sequence[str]], passages: Callable[[Sequence[str]], Iterable[str]]) -> Iterator[None]:
    """Inside, R@2kt can be computed: every question's answers, and the texts of documents by their ids, in that order."""
    token = _context.set((answers, passages))
    try:
        yield
    finally:
        _context.reset(token)


def recall_at(kilotokens: int, sentences: Sentences = "rules") -> Callable[[pd.DataFrame, pd.DataFrame], float]:
    """R@2kt or R@5kt as a measure of one topic's judgments and ranking (evaluation.OWN): 1 or 0. Wants `known`."""

    def value(judgments: pd.DataFrame, ranking: pd.DataFrame) -> float:
        if (context := _context.get()) is None:
            raise ConfigError(f"R@{kilotokens}kt is for datasets with answers, such as xor_tydi and mkqa")
        answers, passages = context
        ranked = passages(ranking["doc_id"].tolist())
        mine = answers.get(str(judgments["query_id"].iloc[0]), ())
        return float(within(ranked, mine, kilotokens * 1000, sentences))

    return value


def spans(answers: Iterable[str]) -> tuple[str, ...]:
    """The answers that can stand in a passage: XOR-Retrieve leaves out questions that are answered by yes or no only."""
    return tuple(text for text in answers if text not in YES_NO)


# Tokens of the Penn Treebank, as NLTK 3 cuts them -------------------------------------------------------------------------


def treebank(text: str, sentences: Sentences = "rules") -> list[str]:
    """Words and punctuation marks of a text: its sentences, each cut into words by NLTK's tokenizer.

    With `punkt` this is NLTK's word_tokenize, which XOR-Retrieve's script calls. Of the tokenizer's rules two ask where a
    sentence ends or begins, so the two ways give other tokens only where they disagree on that, and there only
    - at a full stop: it is a token of its own where it ends a sentence and else stays with its word (`al.`, `U.S.`). Punkt
      ends more of them ("i.e. | tasks", "Vol. | 1"), and some before a bracket without a blank ("ran.[2]");
    - at a straight quotation mark that begins a sentence, which opens (``) where it would close ('') behind a line break.
    On XQuAD's 240 English paragraphs and the demo's 60, 31 of 37,992 tokens differ, in 23 passages (NLTK 3.10.4, November
    2026); no verdict of 647 questions over them does.
    """
    tokenize = _words_of_a_sentence()
    return [token for sentence in _sentences(text, sentences) for token in tokenize(sentence)]


def check_installed(sentences: Sentences) -> None:
    """Raise ConfigError, with the command that brings it, where NLTK or the data of its Punkt is missing.

    R@2kt counts NLTK's tokens, and others would be another measure.
    """
    import importlib.util

    if importlib.util.find_spec("nltk") is None:
        raise ConfigError("R@2kt counts the tokens of NLTK: pip install nltk")
    if sentences == "punkt":
        _punkt()


def _sentences(text: str, how: Sentences) -> list[str]:
    from clir_cli.text.languages import split_sentences

    return _punkt()(text) if how == "punkt" else split_sentences(text, max_chars=len(text) + 1)


@cache
def _words_of_a_sentence() -> Callable[[str], list[str]]:
    check_installed("rules")
    from nltk.tokenize import NLTKWordTokenizer

    tokenize: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize
    return tokenize


@cache
def _punkt() -> Callable[[str], list[str]]:
    from nltk.tokenize.punkt import PunktTokenizer

    try:
        split: Callable[[str], list[str]] = PunktTokenizer("english").tokenize
    except LookupError as error:
        raise ConfigError(
            "R(punkt)@2kt ends sentences where NLTK's Punkt does, whose data is not on this machine\n"
            "  python -m nltk.downloader punkt_tab brings it (NLTK_DATA names its folder); R@2kt goes by clir's own rules"
        ) from error
    return split
