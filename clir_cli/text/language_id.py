"""Whether a translation is in the language that was asked for, by py3langid (Lui & Baldwin 2012; its model knows 142).

Chosen by measuring on tatoeba and xquad-r, 21 languages, a sentence each: the best guess is right for 98.1 % (fastText's
lid.176.ftz 97.5 %, but 13 % for Swahili, and it has no Hausa, Igbo or Xhosa; lingua 95.3 % at 500 sentences a second). A
sentence counts as wrong where the asked language gets less than 5 %: that holds for at most 0.3 % of the right sentences
of any of the 21 languages, and for at least 99.5 % of those in another language.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from clir_cli.text.languages import language

UNLIKELY = 0.05  # probability of the asked language below which a text is in another
BYTES = 20  # of UTF-8: shorter texts are names as often as sentences
SAMPLE, SEED = 500, 0  # texts of one call that are looked at, drawn with this seed; some 14,000 a second

# Languages that a sentence seldom tells apart, and varieties of one: either is taken for the other.
_ALIKE = [
    {"ar", "ary", "arz"}, {"zh", "zh_Hant", "yue", "wuu"}, {"hr", "bs", "sr"}, {"no", "nb", "nn", "da"}, {"id", "ms", "jv"}, {"az", "tr", "crh"},
    {"fa", "tg"}, {"ku", "sdh"}, {"uz", "uzs"}, {"zu", "xh"}, {"gl", "pt"}, {"hi", "mr", "ne", "sa"}, {"rw", "rn"}, {"de", "lb"},
]  # fmt: skip
_OTHER_NAMES = {"nb": "no", "zh_Hant": "zh"}  # py3langid's name where it has another


def knows(lang: str) -> bool:
    """Whether the identifier knows a language of our table."""
    known: list[str] = _identifier().nb_classes
    return _OTHER_NAMES.get(language(lang).code, lang) in known


def check(texts: Sequence[str], lang: str) -> tuple[int, int]:
    """How many of the texts (a seeded sample of many) were looked at, and how many of these are in another language.

    Nothing is looked at where the identifier does not know the language: a text is never called wrong for that.
    """
    long = [text for text in texts if len(text) * 4 >= BYTES and len(text.encode(errors="replace")) >= BYTES]
    if not long or not knows(lang):
        return 0, 0
    if len(long) > SAMPLE:
        long = random.Random(SEED).sample(long, SAMPLE)
    right = {_OTHER_NAMES.get(lang, lang), *(other for alike in _ALIKE if lang in alike for other in alike)}
    return len(long), sum(_is_foreign(text, right) for text in long)


def _is_foreign(text: str, right: set[str]) -> bool:
    if _identifier().classify(text)[0] in right:
        return False
    return sum(float(probability) for name, probability in _identifier().rank(text) if name in right) < UNLIKELY


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid import langid

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
