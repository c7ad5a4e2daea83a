"""How many texts of each language were cut: a tokenizer needs more tokens for some languages than for others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from clir_cli.files import read_json
from clir_cli.progress import say
from clir_cli.text.languages import LANGUAGES

TEXTS, CUT = "texts_", "cut_"  # before a language: the counts that a step keeps of it


def by_language(found: Iterable[tuple[str, bool]]) -> dict[str, int]:
    """`texts_th` and `cut_th` for every language of (language, whether the text was cut)."""
    counts: Counter[str] = Counter()
    for lang, cut in found:
        counts[f"{TEXTS}{lang}"] += 1
        counts[f"{CUT}{lang}"] += cut
    return dict(counts)


def shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Language -> share of its texts that were cut."""
    langs = {
        name.removeprefix(TEXTS) for name in counts if name.startswith(TEXTS) and f"{CUT}{name[len(TEXTS) :]}" in counts
    }
    return {lang: counts[f"{CUT}{lang}"] / max(counts[f"{TEXTS}{lang}"], 1) for lang in sorted(langs)}


def warn(who: str, what: str, counts: Mapping[str, float], tokens: int | None = None) -> None:
    """A line for every language of which something was cut: labse: 12 % of the Thai documents are longer than ..."""
    limit = f"{tokens} tokens" if tokens else "it reads"
    for lang, share in shares(counts).items():
        if share:
            name = LANGUAGES[lang].name if lang in LANGUAGES else lang
            shown = f"{share:.0%}".replace("%", " %") if share >= 0.005 else "less than 1 %"
            say(f"{who}: {shown} of the {name} {what} are longer than {limit} and were cut")


def of_shards(shards: Iterable[Path]) -> dict[str, float]:
    """The counts by language that the shards of a step kept, summed."""
    total: Counter[str] = Counter()
    for shard in shards:
        counts = read_json(shard / "counts.json")
        total.update({name: n for name, n in counts.items() if name.startswith((TEXTS, CUT))})
    return dict(total)
