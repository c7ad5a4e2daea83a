"""Answers in ranked passages: which passages hold an answer, and R@2kt, where in the ranking the first one stands."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from clir_cli.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

WORDS = r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]"  # words, and every other visible character: DPR's tokens
YES_NO = frozenset({"yes", "no"})  # no span of a passage: XOR-Retrieve does not ask for them


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


def within(passages: Iterable[str], answers: Sequence[str], tokens: int) -> bool:
    """Whether an answer stands within the first `tokens` tokens of the ranked passages (Asai et al. 2021, R@2kt).

    As XOR-Retrieve's script does: passages are read until their tokens suffice, the tokens are cut, joined by blanks, and
    searched for the answer as it is written.
    """
    read: list[str] = []
    for passage in passages:
        read += treebank(passage)
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


def recall_at(kilotokens: int) -> Callable[[pd.DataFrame, pd.DataFrame], float]:
    """R@2kt or R@5kt as a measure of one topic's judgments and ranking (evaluation.OWN): 1 or 0. Wants `known`."""

    def value(judgments: pd.DataFrame, ranking: pd.DataFrame) -> float:
        if (context := _context.get()) is None:
            raise ConfigError(f"R@{kilotokens}kt is for datasets with answers, such as xor_tydi and mkqa")
        answers, passages = context
        ranked = passages(ranking["doc_id"].tolist())
        return float(within(ranked, answers.get(str(judgments["query_id"].iloc[0]), ()), kilotokens * 1000))

    return value


def spans(answers: Iterable[str]) -> tuple[str, ...]:
    """The answers that can stand in a passage: XOR-Retrieve leaves out questions that are answered by yes or no only."""
    return tuple(text for text in answers if text not in YES_NO)


# Tokens of the Penn Treebank, as NLTK 3 cuts them -------------------------------------------------------------------------


def treebank(text: str) -> list[str]:
    """Words and punctuation marks. Sentences are cut by clir's own rules, words by NLTK's where it is installed.

    Raises ConfigError where it is not: R@2kt counts NLTK's tokens, and others would be another measure.
    """
    from clir_cli.text.languages import split_sentences

    tokenize = _nltk()
    return [token for sentence in split_sentences(text, max_chars=len(text) + 1) for token in tokenize(sentence)]


@cache
def _nltk() -> Callable[[str], list[str]]:
    try:
        from nltk.tokenize import NLTKWordTokenizer
    except ImportError as error:
        raise ConfigError("R@2kt counts the tokens of NLTK: pip install nltk") from error
    tokenize: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize
    return tokenize
