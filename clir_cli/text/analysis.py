"""Texts to terms, for everything that ranks or translates by terms: Lucene's analysers and the word segmenters of Python.

A kind of analyser is named by one word:

    a language code    Lucene's analyser of that language: stop words out, stemmed
    whitespace         words between white space, lower-cased (Lucene)
    whitespace_cased   the same, but not lower-cased: what Anserini has for ha so sw yo
    ngram4 (any N)     character N-grams, lower-cased (Lucene)
    icu                words by the rules of Unicode (UAX 29); by ICU's dictionaries in Chinese, Japanese, Thai, Khmer,
                       Lao and Burmese, which write no space between words. NFKC_Casefold; nothing is stemmed, accents,
                       tones and vowel marks stay. Any language: Lucene's ICUAnalyzer, which is not in Anserini's jar
    jieba              Chinese words (precise mode with its HMM), NFKC, lower-cased
    pythainlp          Thai words (newmm, its own dictionary), NFKC, lower-cased
    fugashi            Japanese words (MeCab, UniDic) in dictionary form, without particles, auxiliaries and symbols
    kiwipiepy          Korean morphemes without endings, particles, affixes and symbols
    hf                 the pieces of a Hugging Face tokenizer, as it normalises them

The last six name Python modules and run in Python. Nothing falls back: what is not installed or cannot read a language
is refused.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from clir_cli.errors import ConfigError, LanguageError
from clir_cli.text import lucene
from clir_cli.text.languages import LANGUAGES, language

Analyse: TypeAlias = Callable[[Sequence[str]], list[list[str]]]  # texts -> the terms of each, in its order


class Segmenter(NamedTuple):
    """An analyser that runs in Python: what it needs, and the languages it reads (None: all)."""

    packages: tuple[str, ...]  # on PyPI; their versions decide the terms
    languages: tuple[str, ...] | None
    install: str


SEGMENTERS: Mapping[str, Segmenter] = MappingProxyType(
    {
        "icu": Segmenter(
            ("PyICU",), None, "pip install PyICU (built from source: apt install libicu-dev pkg-config g++ first)"
        ),
        "jieba": Segmenter(("jieba",), ("zh",), "pip install jieba"),
        "pythainlp": Segmenter(("pythainlp",), ("th",), "pip install pythainlp"),
        "fugashi": Segmenter(("fugashi", "unidic-lite"), ("ja",), "pip install fugashi unidic-lite"),
        "kiwipiepy": Segmenter(("kiwipiepy", "kiwipiepy-model"), ("ko",), "pip install kiwipiepy"),
        "hf": Segmenter(("tokenizers",), None, "pip install tokenizers"),
    }
)


# What there is, without starting anything -----------------------------------------------------------------------------


def exists(kind: str) -> bool:
    """Whether `kind` names an analyser at all: of Python, of Lucene, or of a language that Lucene analyses."""
    return kind in SEGMENTERS or lucene.is_rule(kind) or (kind in LANGUAGES and LANGUAGES[kind].lucene is not None)


def in_python(kind: str) -> bool:
    return kind in SEGMENTERS


def engines(kind: str) -> tuple[str, ...]:
    """The packages of a kind, whose versions decide its terms; Lucene's are Anserini's."""
    return SEGMENTERS[kind].packages if kind in SEGMENTERS else ("anserini",)


def check(kind: str, lang: str) -> None:
    """Raise LanguageError where `kind` cannot read `lang`, ConfigError where it is not installed.

    The message names the analysers that can be chosen instead, or the command that installs it.
    """
    if kind not in SEGMENTERS:
        lucene.check_analyser(kind)
        return
    part = SEGMENTERS[kind]
    if part.languages is not None and language(lang).code not in part.languages:
        reads = ", ".join(f"{code} ({LANGUAGES[code].name})" for code in part.languages)
        raise LanguageError(
            f"retriever.analyser={kind} reads {reads}, not {lang!r} ({language(lang).name}): choose {choices(lang)}"
        )
    check_installed(kind)


def check_installed(kind: str) -> None:
    """Raise ConfigError naming the pip command where a Python analyser's packages are missing."""
    part = SEGMENTERS.get(kind)
    if part and (missing := [package for package in part.packages if _version(package) is None]):
        raise ConfigError(f"retriever.analyser={kind} needs {' and '.join(missing)}: {part.install}")


def segmenters(lang: str) -> list[str]:
    """The Python analysers made for a language, those of it alone first; `hf`, which needs a tokenizer, is left out."""
    own = [kind for kind, part in SEGMENTERS.items() if part.languages is not None and lang in part.languages]
    return [*own, "icu"]


def choices(lang: str) -> str:
    """What `retriever.analyser` can be for a language, as error messages say it."""
    return lucene.choices(lang)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(kind: str, tokenizer: Path | None = None) -> dict[str, str]:
    """What decides the terms of a kind besides its name, to be kept beside what was made of them.

    Versions of packages, of the ICU library that PyICU was built with, and the sha256 of a tokenizer; {} for Lucene's.
    """
    if kind not in SEGMENTERS:
        return {}
    check_installed(kind)
    found = {package: str(_version(package)) for package in SEGMENTERS[kind].packages}
    if kind == "icu":
        import icu

        found["ICU"] = str(icu.ICU_VERSION)
    if kind == "hf":
        found["tokenizer.json"] = hashlib.sha256(_tokenizer_file(tokenizer).read_bytes()).hexdigest()
    return found


# Analysing ------------------------------------------------------------------------------------------------------------


def analyser(kind: str, *, tokenizer: Path | None = None) -> Analyse:
    """What makes the terms of many texts at once; give it hundreds. `tokenizer` is the model folder of `hf`.

    Starts Java where the kind is Lucene's. A text without terms gives []. Raises as `check_installed` and
    `lucene.check_analyser` do, and ConfigError for a folder without tokenizer.json.
    """
    if kind not in SEGMENTERS:
        lucene.start()
        return lucene.analyse(kind)
    check_installed(kind)
    if kind == "hf":
        return _hugging_face(_tokenizer_file(tokenizer))
    made: Analyse = _MAKERS[kind]()
    return made


def _icu() -> Analyse:
    import icu

    folded = icu.Normalizer2.getNFKCCasefoldInstance()
    words = icu.BreakIterator.createWordInstance(icu.Locale.getRoot())

    def terms(text: str) -> list[str]:
        # ICU counts UTF-16 units: a text with characters beyond the BMP is cut in that encoding.
        text = str(folded.normalize(_whole(text)))
        words.setText(text)
        wide = text.encode("utf-16-le") if not text.isascii() and max(text) > "\uffff" else None
        found, start = [], 0
        for end in words:
            if words.getRuleStatus() >= 100:  # UBRK_WORD_NONE_LIMIT: below are blanks, marks and symbols
                found.append(text[start:end] if wide is None else wide[2 * start : 2 * end].decode("utf-16-le"))
            start = end
        return found

    return lambda texts: [terms(text) for text in texts]


def _jieba() -> Analyse:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for setuptools' retired pkg_resources
        import jieba

    tokenizer = jieba.Tokenizer()
    # Its own way keeps the table as marshal in the machine's shared /tmp/jieba.cache; 0.7 s without.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return lambda texts: [_worded(tokenizer.lcut(_folded(text))) for text in texts]


def _pythainlp() -> Analyse:
    from pythainlp.tokenize.newmm import segment

    return lambda texts: [_worded(segment(_folded(text))) for text in texts]


_JA_STOP = frozenset({"助詞", "助動詞", "補助記号", "記号", "空白"})  # particles, auxiliaries, marks, symbols, blanks


def _fugashi() -> Analyse:
    import fugashi
    import unidic_lite

    tagger = fugashi.Tagger(f'-d "{unidic_lite.DICDIR}"')

    def terms(text: str) -> list[str]:
        found = ((word.feature, word.surface) for word in tagger(_folded(text)) if word.feature.pos1 not in _JA_STOP)
        return _worded((feature.orthBase or surface) for feature, surface in found)

    return lambda texts: [terms(text) for text in texts]


# As Lucene's Korean analyser stops them: endings, particles, interjections, adverbs, determiners, affixes, symbols. Of
# S* the letters (SL), Han (SH) and numbers (SN) stay.
_KO_STOP = ("E", "J", "IC", "MA", "MM", "SF", "SP", "SS", "SE", "SO", "SW", "SB", "XP", "XS", "UN", "Z")


def _kiwipiepy() -> Analyse:
    import kiwipiepy

    kiwi = kiwipiepy.Kiwi()
    return lambda texts: [
        [token.form for token in tokens if not token.tag.startswith(_KO_STOP)]
        for tokens in kiwi.tokenize([_folded(text) for text in texts])
    ]


_MAKERS: Mapping[str, Callable[[], Analyse]] = {
    "icu": _icu, "jieba": _jieba, "pythainlp": _pythainlp, "fugashi": _fugashi, "kiwipiepy": _kiwipiepy,
}  # fmt: skip


def _hugging_face(file: Path) -> Analyse:
    import tokenizers

    model: Any = tokenizers.Tokenizer.from_file(str(file))
    model.no_truncation()
    model.no_padding()

    def analyse(texts: Sequence[str]) -> list[list[str]]:
        encoded = model.encode_batch([_whole(text) for text in texts], add_special_tokens=False)
        return [list(each.tokens) for each in encoded]

    return analyse


def _tokenizer_file(folder: Path | None) -> Path:
    if folder is None:
        raise ConfigError("retriever.analyser=hf needs retriever.tokenizer: a folder or hub id of a model")
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(
            f"{folder} has no tokenizer.json: transformers writes one by "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    return file


def _whole(text: str) -> str:
    """The text with U+FFFD for halves of a surrogate pair, which no encoding can say."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", _whole(text)).lower()


def _worded(terms: Iterable[str]) -> list[str]:
    """Terms that hold a letter or digit."""
    return [term for term in map(str.strip, terms) if any(map(str.isalnum, term))]
