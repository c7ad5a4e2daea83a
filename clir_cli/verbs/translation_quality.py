"""`clir translate`: a text file line by line in another language, and BLEU and chrF of it against a reference."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from clir_cli import config
from clir_cli.errors import ConfigError, DataError, many
from clir_cli.lines import raw_lines, read_lines
from clir_cli.stages import Stages
from clir_cli.text.languages import language
from clir_cli.text.translation import Leg, Translated, complaint, translate_through
from clir_cli.translators.provided import Provided

if TYPE_CHECKING:
    from clir_cli.compose import Cell
    from clir_cli.store import Store

# BLEU counts words, and these languages write none: sacrebleu's own tokenizers; FLORES' pieces for the rest without spaces.
_TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
_PACKAGES = {"ja-mecab": "MeCab", "ko-mecab": "mecab_ko"}


@dataclass(frozen=True)
class Score:
    """A measure of a translation, 0 to 100, with the signature that lets others repeat it (Post 2018)."""

    measure: str
    value: float
    signature: str


@dataclass(frozen=True)
class Outcome:
    """What `clir translate` made: the lines, what was counted, and with a reference the scores."""

    translated: list[Translated]
    counts: dict[str, int]
    scores: tuple[Score, ...] = ()

    @property
    def lines(self) -> list[str]:
        return [" ".join(made.text.split("\n")) for made in self.translated]

    def record(self) -> dict[str, Any]:
        """Scores and counts for machines."""
        return {"scores": [asdict(score) for score in self.scores], "counts": self.counts}

    def report(self) -> str:
        """The scores with their signatures, then the counts that are not 0, one a line."""
        rows = [f"{score.measure:<6} {score.value:6.2f}   {score.signature}" for score in self.scores]
        return "\n".join([*rows, *(f"{name:<22} {count}" for name, count in self.counts.items() if count)])


def translate_file(
    cell: Cell, store: Store, source_lang: str, target_lang: str,
    source: Path | None, output: Path | None = None, reference: Path | None = None,
) -> Outcome:  # fmt: skip
    """`run_translate` with the translator of a composed cell and the store's memory of translations.

    Raises ConfigError for a translator that looks documents up instead of translating, MissingModel for a hub model
    whose revision cannot be resolved.
    """
    lock, stages = store.root / "models.lock", Stages(store)

    def translator() -> Any:
        config.pin_revisions(cell.plain, lock)
        return config.built(cell.plain).translator

    if isinstance(translator(), Provided | type(None)):
        raise ConfigError("clir translate needs a translator that translates: choose one with translator=...")
    if unresolved := stages.open_models(translator(), source_lang, target_lang):
        config.resolve_revisions(cell.plain, unresolved, lock)
    with stages.way(translator(), source_lang, target_lang) as way:
        return run_translate(way, source, output, reference)


def run_translate(
    way: Sequence[Leg], source: Path | None, output: Path | None = None, reference: Path | None = None
) -> Outcome:
    """Translate the lines of `source` (None: stdin), write them to `output` (None: nowhere), score them on `reference`.

    A line is a text: it is split into sentences as the translator says, and an empty one stays empty. Raises DataError
    for a reference of another length and before anything is translated; LanguageError for a direction that is not there.
    """
    texts = _lines(source, "--input") if source else [line.rstrip("\r\n") for line in sys.stdin]
    expected = _lines(reference, "--evaluate") if reference else None
    if expected is not None and len(expected) != len(texts):
        raise DataError(
            f"{source or 'stdin'} has {many(len(texts), 'line')} and {reference} {len(expected)}: line n of one is line n of the other"
        )
    if not any(map(str.strip, texts)):
        raise DataError(f"{source or 'stdin'} has no text")
    target = way[-1].target
    metrics = _metrics(target) if expected is not None else []
    for leg in way:
        if hasattr(leg.translator, "check"):
            leg.translator.check(leg.source, leg.target)
    translated, counts = translate_through(texts, way)
    outcome = Outcome(translated, asdict(counts))
    if output is not None:
        with output.open("w", encoding="utf-8") as out:
            write_lines(outcome, out)
    if expected is not None:
        scores = tuple(_score(metric, outcome.lines, expected) for metric in metrics)
        return Outcome(translated, outcome.counts, scores)
    return outcome


def write_lines(outcome: Outcome, out: TextIO) -> None:
    """One line per line that was read."""
    out.writelines(f"{line}\n" for line in outcome.lines)


def warning(outcome: Outcome) -> str | None:
    """One line about what is worth a look, None if nothing is."""
    return complaint(outcome.counts)


def _lines(path: Path, option: str) -> list[str]:
    """All lines of a text file (gzipped too), the empty ones as well."""
    filled = dict(read_lines(path, option))  # it leaves empty ones out
    return [filled.get(number, "") for number, _ in raw_lines(path)]


# Scores -----------------------------------------------------------------------------------------------------------------


def tokenizer(target: str) -> str:
    """The name of sacrebleu's tokenizer for BLEU in a language."""
    if target in _TOKENIZERS:
        return _TOKENIZERS[target]
    return "13a" if language(target).spaces else "flores200"


def _metrics(target: str) -> list[Any]:
    """BLEU and chrF as sacrebleu computes them; refused here, before anything is translated, where a part is missing."""
    import importlib.util

    if importlib.util.find_spec("sacrebleu") is None:
        raise ConfigError("--evaluate needs sacrebleu: pip install 'clir[translate]'")
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    name = tokenizer(target)
    if (needed := _PACKAGES.get(name)) and importlib.util.find_spec(needed) is None:
        name = "char"  # as WMT does without a segmenter; the signature says it
    try:
        return [BLEU(tokenize=name), CHRF()]
    except Exception as error:  # flores200 downloads its model; what stops it has many names
        raise ConfigError(
            f"BLEU in {target!r} wants sacrebleu's tokenizer {name!r}, and it cannot be had: {error}\n"
            "  it is downloaded once, with a network, into ~/.sacrebleu (SACREBLEU moves it)"
        ) from error


def _score(metric: Any, lines: Sequence[str], expected: Sequence[str]) -> Score:
    found = metric.corpus_score(lines, [list(expected)])
    return Score(found.name, float(found.score), str(metric.get_signature()))
