"""Words and tokens: how many tokens a model's tokenizer makes of a language, and which words nobody knows."""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clir_cli.errors import ConfigError, MissingModel
from clir_cli.models import hub
from clir_cli.text.languages import LANGUAGES

_NO_LETTER = ("P", "S", "Z", "C")  # Unicode's punctuation, symbols, separators, controls


# Words ----------------------------------------------------------------------------------------------------------------


def words_of(lang: str) -> Callable[[str], list[str]] | None:
    """What takes a text of this language apart into case-folded words, the same on every machine that can.

    Between white space, without punctuation around them; where the script has no spaces by ICU's dictionaries, and None
    where PyICU is not installed.
    """
    if lang not in LANGUAGES or LANGUAGES[lang].spaces:
        return _spaced
    if importlib.util.find_spec("icu") is None:
        return None
    from clir_cli.text import analysis

    analyse = analysis.analyser("icu")
    return lambda text: analyse([text])[0]


def _spaced(text: str) -> list[str]:
    return [word for part in text.casefold().split() if (word := _bare(part))]


def _bare(word: str) -> str:
    start, end = 0, len(word)
    while start < end and unicodedata.category(word[start])[0] in _NO_LETTER:
        start += 1
    while end > start and unicodedata.category(word[end - 1])[0] in _NO_LETTER:
        end -= 1
    return word[start:end]


# Tokens ---------------------------------------------------------------------------------------------------------------


class Tokenizer(NamedTuple):
    """A model's own: `encode` gives each text's token ids without special tokens, whole; `unknown` is its [UNK], if any."""

    model: str
    encode: Callable[[Sequence[str]], list[list[int]]]
    unknown: int | None


class Counted(NamedTuple):
    """Sums over texts; `words` is 0 where the language's words cannot be told."""

    texts: int
    characters: int
    words: int
    tokens: int
    unknown: int

    @property
    def shares(self) -> dict[str, float]:
        """fertility: tokens per word (Rust et al. 2021); characters_per_token; unknown_share: of all tokens."""
        found = {"fertility": self.tokens / self.words} if self.words else {}
        if self.tokens:
            found["characters_per_token"] = self.characters / self.tokens
            found["unknown_share"] = self.unknown / self.tokens
        return found


def count(tokenizer: Tokenizer, texts: Sequence[str], lang: str) -> Counted:
    """Texts, characters without white space, words, tokens and unknown tokens of some texts in one language."""
    split = words_of(lang)
    ids = tokenizer.encode(texts)
    return Counted(
        len(texts), sum(len("".join(text.split())) for text in texts), sum(len(split(t)) for t in texts) if split else 0,
        sum(map(len, ids)), sum(part.count(tokenizer.unknown) for part in ids) if tokenizer.unknown is not None else 0,
    )  # fmt: skip


def tokenizers_of(components: Iterable[Any]) -> list[Tokenizer | str]:
    """The tokenizers of components that name a model and of those inside them (an llm, an ensemble's encoders), each once.

    A line in place of one that cannot be read here.
    """
    found: dict[str, Tokenizer | str] = {}
    for part in components:
        for one in _with_parts(part):
            names = [f.name for f in fields(one) if f.name == "model" and f.metadata.get("role") == "model"]
            value = getattr(one, "model", None) if names else None
            if isinstance(value, str) and value and value not in found:
                found[value] = read(value, getattr(one, "revision", None))
    return list(found.values())


def _with_parts(value: Any) -> Iterator[Any]:
    """A component and the components in its fields."""
    if is_dataclass(value) and not isinstance(value, type):
        yield value
        for f in fields(value):
            yield from _with_parts(getattr(value, f.name))
    elif isinstance(value, Mapping | tuple | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _with_parts(inner)


def read(model: str, revision: str | None) -> Tokenizer | str:
    """The tokenizer in a model's folder; nothing is downloaded. A line saying why where there is none."""
    try:
        here = hub.local_folder(model) is not None or hub.cached_revision(model, revision) is not None
        folder = hub.folder(model, revision) if here else None
    except (ConfigError, MissingModel):
        folder = None
    if folder is None:
        return f"{model} is not on this machine: its tokenizer is not counted"
    file = next((f for f in [folder / "tokenizer.json", *sorted(folder.glob("*/tokenizer.json"))] if f.exists()), None)
    return _slow(model, folder) if file is None else _fast(model, file)


def _fast(model: str, file: Path) -> Tokenizer:
    import tokenizers

    loaded = tokenizers.Tokenizer.from_file(str(file))
    loaded.no_truncation()
    loaded.no_padding()
    inner = json.loads(file.read_text(encoding="utf-8"))["model"]
    unknown = inner.get("unk_id")
    if unknown is None and inner.get("unk_token") is not None:
        unknown = loaded.token_to_id(inner["unk_token"])

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in loaded.encode_batch(list(texts), add_special_tokens=False)]

    return Tokenizer(model, encode, unknown)


def _slow(model: str, folder: Path) -> Tokenizer | str:
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        return f"{model} has no tokenizer that can be read ({type(error).__name__}): it is not counted"

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in loaded(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]

    return Tokenizer(model, encode, loaded.unk_token_id)
