"""The engine around any Translator: pieces of texts, each translated once, remembered over all experiments, joined again."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from clir_cli.errors import ConfigError, LanguageError, RunError
from clir_cli.text import language_id
from clir_cli.text.languages import join_sentences, language, split_sentences
from clir_cli.types import Memory, Translator, added

LENGTH_RATIO = (0.3, 3.0)  # characters of a translation per character of its piece; outside it is worth a look
WTPSPLIT = "wtpsplit:"
Starts: TypeAlias = tuple[tuple[int, int], ...]  # (where a piece starts in the source, where its translation starts)


@dataclass(frozen=True, kw_only=True)
class Pieced:
    """What any translator that makes its translations says: how a text is taken apart, and which way it goes.

    `pivot=en` goes through English: into it with this translator, and on with `onward` (null: this one again). A
    direction that begins or ends in the pivot goes straight.
    """

    unit: Literal["sentence", "chunk", "document"] = added("sentence", "sentence")
    splitter: str = added("rules", "rules")
    # rules (languages.py), marks (wherever white space follows .!?…), or wtpsplit:MODEL, a SaT model's folder or hub id
    pivot: str | None = added(None, None)
    onward: Any = added(None, None)  # noqa: RUF009 - a dataclass's field, whatever its type

    @property
    def engines(self) -> tuple[str, ...]:
        """The packages whose versions decide the result."""
        return ("wtpsplit",) if self.splitter.startswith(WTPSPLIT) else ()

    def __post_init__(self) -> None:
        if self.splitter not in ("rules", "marks") and not self.splitter.startswith(WTPSPLIT):
            raise ValueError(f"splitter must be rules, marks or {WTPSPLIT}MODEL, got {self.splitter!r}")
        if self.pivot is not None:
            language(self.pivot)
        elif self.onward is not None:
            raise ValueError("`onward` translates from the pivot: say which language is the `pivot`")


class Made(NamedTuple):
    """A translation and what its making was like."""

    text: str
    tokens_cut: int = 0  # tokens of the piece beyond what the model reads: they were not translated
    unfinished: bool = False  # the model wrote until its limit and had not ended
    reasoning: bool = False  # the model thought aloud; that was taken away
    echo: bool = False  # it repeated the text or the question before its answer; that was taken away
    malformed: bool = False  # the answer had not the form that was asked for
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None  # no answer came, and why


class Translated(NamedTuple):
    """A text in the other language, and where in it the translation of each piece starts, in the pieces' order.

    Every pair is (character in the source, character in `text`); both rise. A piece that came back empty starts where
    the next one does.
    """

    text: str
    starts: Starts


@dataclass(frozen=True)
class Counts:
    """What became of the pieces (sentences, chunks or documents: `unit`). All but the first count a piece of a call once.

    Numbers of shards add up; those of the two legs of a pivot too.
    """

    sentences: int = 0  # in all texts, repetitions too
    unique: int = 0
    from_cache: int = 0  # not asked again
    empty: int = 0  # came back without text
    copied: int = 0  # came back as it went: names and numbers, or a language that the translator cannot read
    cut: int = 0  # longer than the model's limit: the rest was not translated
    tokens_cut: int = 0
    unfinished: int = 0  # the model was stopped at its limit
    loops: int = 0  # the same words over and over, which the piece does not have
    wrong_language: int = 0
    language_not_checked: int = 0  # too short, copied, or the target is none that the identifier knows
    length_ratio_outliers: int = 0
    reasoning_removed: int = 0
    echoes_removed: int = 0  # the text or the question, repeated before the answer
    malformed: int = 0  # answers without the form that was asked for, kept as they were
    prompt_tokens: int = 0  # of what was asked now, not of what came from the cache
    output_tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


_WORTH_A_LINE = {
    "empty": "empty", "copied": "copied as they were", "cut": "cut at the model's limit", "unfinished": "not ended by the model",
    "loops": "repeating themselves", "wrong_language": "in another language", "length_ratio_outliers": "of unlikely length",
    "reasoning_removed": "with reasoning, removed", "echoes_removed": "after an echo, removed", "malformed": "not of the asked form",
}  # fmt: skip


def complaint(counts: Mapping[str, float]) -> str | None:
    """One line about what is worth a look in a translation, None if nothing is."""
    said = [f"{int(counts[name])} {text}" for name, text in _WORTH_A_LINE.items() if counts.get(name)]
    return f"of {int(counts['unique'])} translations {', '.join(said)}" if said else None


# Translating ----------------------------------------------------------------------------------------------------------


class Leg(NamedTuple):
    """One direction of a translation; `identity` names all that decides it but the languages: the translator's
    settings, its model's revision, its engine's version."""

    translator: Translator
    source: str
    target: str
    memory: Memory | None = None
    identity: str = ""


def legs(translator: Any, source: str, target: str) -> list[Leg]:
    """What leads from source to target: one direction, or two through the translator's pivot."""
    pivot = getattr(translator, "pivot", None)
    if pivot is None:
        return [Leg(translator, source, target)]
    first = replace(translator, pivot=None, onward=None)
    onward = first if translator.onward is None else translator.onward
    if pivot in (source, target):
        return [Leg(onward if pivot == source else first, source, target)]
    return [Leg(first, source, pivot), Leg(onward, pivot, target)]


def translate_through(texts: Sequence[str], way: Sequence[Leg]) -> tuple[list[Translated], Counts]:
    """The texts at the end of the way, aligned with where they began, and the counts of all its legs together."""
    found, counts = translate_texts(texts, *way[0])
    for leg in way[1:]:
        onward, more = translate_texts([t.text for t in found], *leg)
        found = [Translated(b.text, chained(a.starts, b.starts)) for a, b in zip(found, onward, strict=True)]
        counts += more
    return found, counts


def translate_texts(
    texts: Sequence[str], translator: Translator, source: str, target: str, memory: Memory | None, identity: str
) -> tuple[list[Translated], Counts]:
    """The texts in language `target`, in their order, each with where its pieces start, and what was counted.

    A text is split into sentences, or as `translator.unit` and `splitter` say; an empty text stays empty and is not
    sent. What `memory` lacks is translated in one call and kept in one put, so a killed call leaves all of it or
    nothing; a translator with `at_once` (a paid server) is asked for that many at a time. Raises LanguageError if the
    translator cannot do the direction, RunError if it does not answer every piece: what came is kept.
    """
    if reason := translator.directions(source, target):
        raise LanguageError(reason)
    pieces = _pieces(texts, translator, source, target)
    unique = list(dict.fromkeys(piece for text in pieces for piece in text))
    keys = _keys(unique, identity, source, target)
    done: dict[str, Made] = {}
    if memory is not None:
        done = {piece: _read(kept) for piece in unique if (kept := memory.get(keys[piece])) is not None}
    missing = [piece for piece in unique if piece not in done]
    from_cache = len(done)
    size = getattr(translator, "at_once", None) or max(len(missing), 1)
    for begin in range(0, len(missing), size):
        fresh = _translate(missing[begin : begin + size], translator, source, target)
        if memory is not None:
            memory.put({keys[piece]: _kept(made) for piece, made in fresh.items() if made.error is None})
        _refuse_holes(fresh, translator)
        done |= fresh
    aligned = [_joined(text, parts, done, target) for text, parts in zip(texts, pieces, strict=True)]
    asked = [done[piece] for piece in missing]
    return aligned, replace(
        examined({piece: done[piece] for piece in unique}, target),
        sentences=sum(map(len, pieces)), from_cache=from_cache,
        prompt_tokens=sum(made.prompt_tokens for made in asked), output_tokens=sum(made.output_tokens for made in asked),
    )  # fmt: skip


def _keys(pieces: Sequence[str], identity: str, source: str, target: str) -> dict[str, str]:
    """What memory knows a piece under: the sha256 of [identity, source, target, piece] as JSON."""
    begun = hashlib.sha256((json.dumps([identity, source, target])[:-1] + ", ").encode())
    keys = {}
    for piece in pieces:
        ended = begun.copy()
        ended.update((json.dumps(piece) + "]").encode())
        keys[piece] = ended.hexdigest()
    return keys


_FLAGS = ("unfinished", "reasoning", "echo", "malformed")  # of Made, in its order; kept only where they are so


def _read(kept: Mapping[str, Any]) -> Made:
    return Made(kept["text"], int(kept["cut"]), *(kept.get(name, False) for name in _FLAGS))


def _kept(made: Made) -> dict[str, Any]:
    flags = {name: True for name in _FLAGS if getattr(made, name)}
    return {"text": made.text, "cut": made.tokens_cut, **flags}


def _translate(pieces: list[str], translator: Any, source: str, target: str) -> dict[str, Made]:
    """Every piece's translation; a translator that has more to say than the text has a method `answers`."""
    if hasattr(translator, "answers"):
        answers = translator.answers(pieces, source, target)
    else:
        answers = [Made(text) for text in translator.translate(pieces, source, target)]
    name = type(translator).__name__
    if len(answers) != len(pieces):
        raise RunError(f"{name} was given {len(pieces)} texts ({source} to {target}) and returned {len(answers)}")
    for piece, made in zip(pieces, answers, strict=True):
        if not isinstance(made.text, str):
            raise RunError(
                f"{name} returned {made.text!r} instead of a translation of {piece[:80]!r} ({source} to {target})"
            )
    return {piece: made._replace(text=made.text.strip()) for piece, made in zip(pieces, answers, strict=True)}


def _refuse_holes(fresh: Mapping[str, Made], translator: Any) -> None:
    failed = [(piece, made.error) for piece, made in fresh.items() if made.error is not None]
    if failed:
        raise RunError(
            f"{type(translator).__name__}: no answer to {len(failed)} of {len(fresh)} texts, for example to "
            f"{failed[0][0][:80]!r}: {failed[0][1]}\n  what was answered is kept: run again to ask for the rest"
        )


# Pieces and their places ----------------------------------------------------------------------------------------------


def _pieces(texts: Sequence[str], translator: Any, source: str, target: str) -> list[list[str]]:
    """Every text's pieces in order, stripped and never empty: nothing but white space lies between them."""
    unit = getattr(translator, "unit", "sentence")
    if unit == "document":
        return [[stripped] if (stripped := text.strip()) else [] for text in texts]
    found = split(texts, getattr(translator, "splitter", "rules"))
    return found if unit == "sentence" else _chunks(texts, found, translator, source, target)


def split(texts: Sequence[str], splitter: str = "rules") -> list[list[str]]:
    """The sentences of every text, by the rules of its scripts, by marks alone, or by a wtpsplit model (`wtpsplit:MODEL`)."""
    if splitter == "rules":
        return [split_sentences(text) for text in texts]
    if splitter == "marks":
        return [re.split(r"(?<=[.!?…])\s+", stripped) if (stripped := text.strip()) else [] for text in texts]
    model = _wtpsplit(splitter.removeprefix(WTPSPLIT))
    return [[piece for part in parts if (piece := part.strip())] for parts in model.split(list(texts))]


@lru_cache(maxsize=1)
def _wtpsplit(model: str) -> Any:
    """A SaT model (Frohmann et al. 2024); its tokenizer is XLM-R's, which the folder holds or the hub gives."""
    import importlib.util

    from clir_cli.errors import MissingModel
    from clir_cli.models import hub

    if importlib.util.find_spec("wtpsplit") is None:
        raise ConfigError(f"translator.splitter={WTPSPLIT}{model} needs the package: pip install 'clir[wtpsplit]'")
    folder = hub.folder(model)
    from wtpsplit import SaT

    own = (folder / "tokenizer.json").exists() or (folder / "sentencepiece.bpe.model").exists()
    tokenizer = {"tokenizer_name_or_path": str(folder if own else hub.folder("facebookAI/xlm-roberta-base"))}
    try:
        return SaT(str(folder), from_pretrained_kwargs={"local_files_only": True}, **tokenizer)
    except (OSError, ValueError, KeyError) as error:
        raise MissingModel(f"{folder} does not load as a wtpsplit SaT model: {error}") from error


def _chunks(texts: Sequence[str], found: list[list[str]], translator: Any, source: str, target: str) -> list[list[str]]:
    """Sentences one after another, as many together as `translator.max_tokens` holds, as they stand in the text."""
    if not hasattr(translator, "sizes"):
        raise ConfigError(f"{type(translator).__name__} counts no tokens: translator.unit must be sentence or document")
    unique = list(dict.fromkeys(piece for pieces in found for piece in pieces))
    sizes = translator.sizes([*unique, ""], source, target)
    special = sizes[-1]  # what an empty text takes
    tokens = {piece: size - special for piece, size in zip(unique, sizes, strict=False)}
    return [
        [text[begin:end] for begin, end in _packed(places(text, pieces), pieces, tokens, translator.max_tokens - special)]
        for text, pieces in zip(texts, found, strict=True)
    ]  # fmt: skip


def _packed(
    starts: Sequence[int], pieces: Sequence[str], tokens: Mapping[str, int], room: int
) -> Iterable[tuple[int, int]]:
    """(begin, end) of every chunk; a sentence that is longer than the room is a chunk of its own."""
    chunks: list[list[int]] = []
    used = 0
    for start, piece in zip(starts, pieces, strict=True):
        end, size = start + len(piece), tokens[piece]
        if chunks and used + size <= room:
            chunks[-1][1], used = end, used + size
        else:
            chunks.append([start, end])
            used = size
    return [(begin, end) for begin, end in chunks]


def places(text: str, pieces: Sequence[str]) -> list[int]:
    """Where each piece starts. Between pieces is white space only and none begins with it: the next match is the place."""
    starts, at = [], 0
    for piece in pieces:
        at = text.index(piece, at)
        starts.append(at)
        at += len(piece)
    return starts


def _joined(text: str, pieces: Sequence[str], done: Mapping[str, Made], target: str) -> Translated:
    """The translations of a text's pieces as one text, and where each of them starts."""
    if len(pieces) == 1:
        return Translated(done[pieces[0]].text, ((text.index(pieces[0]), 0),))
    gap = len(join_sentences(["", ""], target))
    translations = [done[piece].text for piece in pieces]
    at, starts = 0, []
    for start, translation in zip(places(text, pieces), translations, strict=True):
        starts.append((start, at))
        if translation:
            at += len(translation) + gap
    joined = join_sentences([t for t in translations if t], target)
    return Translated(joined, tuple((start, min(place, len(joined))) for start, place in starts))


def chained(first: Starts, second: Starts) -> Starts:
    """Where the pieces of the first leg start at the end of the second.

    A piece that begins inside a piece of the second leg has no place of its own there and is left out, but for the first.
    """
    onward = dict(reversed(second))  # of several at one place the first
    found = [(start, onward[place]) for start, place in first if place in onward]
    if first and (not found or found[0][0] != first[0][0]):
        found.insert(0, (first[0][0], 0))
    return tuple(found)


# Alignment at rest: alignment.jsonl beside the documents of a translate step ----------------------------------------------

ALIGNMENT = "alignment.jsonl"


def write_alignment(rows: Iterable[tuple[str, Mapping[str, Starts]]], path: Path) -> None:
    """One line per document in the collection's order: {"doc_id": ..., "fields": {field: [[source, target], ...]}}."""
    with path.open("w", encoding="utf-8") as out:
        for doc_id, fields in rows:
            row = {"doc_id": doc_id, "fields": fields}
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_alignment(folder: Path, doc_ids: Iterable[str]) -> dict[str, dict[str, Starts]]:
    """doc_id -> field -> (start of a source piece, start of its translation) pairs, of a translate step's folder.

    Characters of the field as it stands in the original's and in the translation's docstore. A translation that was
    provided has none: the folder has no such file, and nothing is found.
    """
    path = folder / ALIGNMENT
    if not path.exists():
        return {}
    wanted = {f'{{"doc_id":{json.dumps(doc_id, ensure_ascii=False)}' for doc_id in doc_ids}
    found = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line[: line.index(',"fields":')] in wanted:  # quotes inside an id are escaped, so this is not in it
                row = json.loads(line)
                found[row["doc_id"]] = {f: tuple((a, b) for a, b in pairs) for f, pairs in row["fields"].items()}
    return found


# What came back -------------------------------------------------------------------------------------------------------

_LOOP = re.compile(r"(\S.{0,59}?)(?:\s*\1){3,}", re.DOTALL)  # the same words four times on end
_LOOP_CHARS = 12


def examined(done: Mapping[str, Made], target: str) -> Counts:
    """The counts of what became of different pieces, each with its translation."""
    texts = [(piece, made.text) for piece, made in done.items()]
    to_check = [text for piece, text in texts if text and text != piece]
    checked, wrong = language_id.check(to_check, target)
    return Counts(
        unique=len(done),
        empty=sum(not text for _, text in texts),
        copied=sum(text == piece for piece, text in texts),
        cut=sum(made.tokens_cut > 0 for made in done.values()),
        tokens_cut=sum(made.tokens_cut for made in done.values()),
        unfinished=sum(made.unfinished for made in done.values()),
        loops=sum(loops(text) and not loops(piece) for piece, text in texts),
        wrong_language=wrong,
        language_not_checked=sum(1 for _, text in texts if text) - checked,
        length_ratio_outliers=sum(_is_outlier(piece, text) for piece, text in texts),
        reasoning_removed=sum(made.reasoning for made in done.values()),
        echoes_removed=sum(made.echo for made in done.values()),
        malformed=sum(made.malformed for made in done.values()),
    )


def loops(text: str) -> bool:
    """Whether words or syllables come four times on end, and twelve characters of it: a decoder that hangs.

    Looked for only where zlib halves the text, as it does with repetition.
    """
    data = text.encode(errors="replace")
    if len(data) < _LOOP_CHARS or len(data) < 2 * len(zlib.compress(data, 1)):
        return False
    return any(len(found[0]) >= _LOOP_CHARS and any(map(str.isalpha, found[1])) for found in _LOOP.finditer(text))


def _is_outlier(piece: str, translation: str) -> bool:
    low, high = LENGTH_RATIO
    return bool(translation) and not low <= _length(translation) / _length(piece) <= high


def _length(text: str) -> int:
    """Characters; an East Asian wide one counts three, about what it takes to say as much in an alphabet."""
    if not text or max(text) < "\u1100":  # the first wide one, of Hangul
        return len(text)
    return sum(3 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
