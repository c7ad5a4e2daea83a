"""The engine around any Translator: sentences, each translated once, remembered over all experiments, joined again."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from clir_cli.errors import LanguageError, RunError
from clir_cli.languages import join_sentences, split_sentences
from clir_cli.types import Memory, Translator

LENGTH_RATIO = (0.3, 3.0)  # characters of a translation per character of its sentence; outside it is worth a look


@dataclass(frozen=True)
class Counts:
    """What became of the sentences; every number but the first counts a sentence once, cached or not."""

    sentences: int = 0  # in all texts, repetitions too
    unique: int = 0
    from_cache: int = 0  # not asked again
    empty: int = 0  # came back without text
    copied: int = 0  # came back as it went: names and numbers, or a language that the translator cannot read
    cut: int = 0  # longer than the model's limit: the rest was not translated
    length_ratio_outliers: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def translate_texts(
    texts: Sequence[str], translator: Translator, source: str, target: str, memory: Memory | None, identity: str
) -> tuple[list[str], Counts]:
    """The texts in language `target`, in their order, and what was counted; an empty text stays empty and is not sent.

    A text is split into sentences, unless `translator.unit` is "text". What `memory` lacks is translated in one call and
    kept in one put, so a killed call leaves all of it or nothing. `identity` names all that decides a translation but
    the languages: the translator's settings, its model's revision, its engine's version.
    Raises LanguageError if the translator cannot do the direction, RunError if it does not answer every sentence.
    """
    if reason := translator.directions(source, target):
        raise LanguageError(reason)
    whole = getattr(translator, "unit", "sentence") == "text"
    pieces = [[text.strip()] if whole else split_sentences(text) for text in texts]
    pieces = [[piece for piece in text if piece] for text in pieces]
    unique = list(dict.fromkeys(piece for text in pieces for piece in text))
    keys = {piece: _key(identity, source, target, piece) for piece in unique}
    known = {piece: value for piece in unique if memory is not None and (value := memory.get(keys[piece])) is not None}
    missing = [piece for piece in unique if piece not in known]
    fresh = _translate(missing, translator, source, target) if missing else {}
    if memory is not None and fresh:
        memory.put({keys[piece]: value for piece, value in fresh.items()})
    done = known | fresh
    translated = [join_sentences([t for piece in text if (t := done[piece]["text"])], target) for text in pieces]
    return translated, Counts(
        sentences=sum(map(len, pieces)),
        unique=len(unique),
        from_cache=len(known),
        empty=sum(not value["text"] for value in done.values()),
        copied=sum(value["text"] == piece for piece, value in done.items()),
        cut=sum(value["cut"] for value in done.values()),
        length_ratio_outliers=sum(_is_outlier(piece, value["text"]) for piece, value in done.items()),
    )


def _key(identity: str, source: str, target: str, piece: str) -> str:
    return hashlib.sha256(json.dumps([identity, source, target, piece]).encode()).hexdigest()


def _translate(pieces: list[str], translator: Translator, source: str, target: str) -> dict[str, dict[str, Any]]:
    """What the memory keeps of every piece: its translation, and whether the model saw all of it."""
    answers = translator.translate(pieces, source, target)
    name = type(translator).__name__
    if len(answers) != len(pieces):
        raise RunError(f"{name} was given {len(pieces)} texts ({source} to {target}) and returned {len(answers)}")
    for piece, answer in zip(pieces, answers, strict=True):
        if not isinstance(answer, str):
            raise RunError(
                f"{name} returned {answer!r} instead of a translation of {piece[:80]!r} ({source} to {target})"
            )
    too_long = getattr(translator, "too_long", None)  # a translator without a limit has no such method
    cut = too_long(pieces, source, target) if too_long else [False] * len(pieces)
    return {p: {"text": a.strip(), "cut": c} for p, a, c in zip(pieces, answers, cut, strict=True)}


def _is_outlier(piece: str, translation: str) -> bool:
    low, high = LENGTH_RATIO
    return bool(translation) and not low <= _length(translation) / _length(piece) <= high


def _length(text: str) -> int:
    """Characters; an East Asian wide one counts three, about what it takes to say as much in an alphabet."""
    return sum(3 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
