"""`clir translate`: a file in, a file out, and its quality against a reference."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from clir_cli import compose, config
from clir_cli.errors import ConfigError, DataError, LanguageError
from clir_cli.stages import Stages
from clir_cli.store import Store
from clir_cli.text.translation import Leg
from clir_cli.verbs.translation_quality import run_translate, tokenizer, translate_file, warning

TATOEBA = Path(__file__).parents[2] / "shared" / "data" / "tatoeba"
needs_apertium = pytest.mark.skipif(shutil.which("apertium") is None, reason="apertium is not installed")


@dataclass(frozen=True)
class Shout:
    def directions(self, source: str, target: str) -> str | None:
        return None

    def translate(self, texts, source, target):
        return [text.upper() for text in texts]


def save(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_line_n_of_the_output_is_line_n_of_the_input_also_where_it_is_empty(tmp_path: Path):
    source = save(tmp_path / "in.txt.gz", "\none. Two.\n\nthree\n\n")
    outcome = run_translate([Leg(Shout(), "en", "de")], source, tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "\nONE. TWO.\n\nTHREE\n\n"
    assert outcome.counts["sentences"] == 3


def test_bleu_and_chrf_are_sacrebleus_with_their_signatures(tmp_path: Path):
    import sacrebleu

    texts, reference = ["the house is red", "the dog eats"], ["THE HOUSE IS GREEN", "THE DOG EATS MEAT"]
    source = save(tmp_path / "in.txt", "\n".join(texts) + "\n")
    outcome = run_translate([Leg(Shout(), "en", "de")], source, None, save(tmp_path / "ref.txt", "\n".join(reference)))
    said = [text.upper() for text in texts]
    bleu, chrf = outcome.scores
    assert bleu.value == sacrebleu.corpus_bleu(said, [reference]).score
    assert chrf.value == sacrebleu.corpus_chrf(said, [reference]).score
    assert bleu.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2")
    assert chrf.signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2")
    assert outcome.report().splitlines()[0].startswith("BLEU    ")
    assert outcome.record()["scores"][0] == {"measure": "BLEU", "value": bleu.value, "signature": bleu.signature}


@pytest.mark.parametrize(
    ("target", "name"),
    [("en", "13a"), ("ar", "13a"), ("zh", "zh"), ("ja", "ja-mecab"), ("ko", "ko-mecab"), ("th", "flores200")],
)
def test_words_are_counted_by_the_tokenizer_of_the_target_language(target: str, name: str):
    assert tokenizer(target) == name


def test_a_language_whose_segmenter_is_not_here_is_scored_by_characters_and_says_so(tmp_path: Path):
    source, reference = save(tmp_path / "in.txt", "水\n"), save(tmp_path / "ref.txt", "水です\n")
    outcome = run_translate([Leg(Shout(), "zh", "ja")], source, None, reference)
    assert "tok:char" in outcome.scores[0].signature or "tok:ja-mecab" in outcome.scores[0].signature


def test_a_reference_of_another_length_is_refused_before_anything_is_translated(tmp_path: Path):
    @dataclass(frozen=True)
    class Never(Shout):
        def translate(self, texts, source, target):
            raise AssertionError("translated")

    source, reference = save(tmp_path / "in.txt", "a\nb\n"), save(tmp_path / "ref.txt", "A\n")
    with pytest.raises(DataError, match=r"in\.txt has 2 lines and .*ref\.txt 1"):
        run_translate([Leg(Never(), "en", "de")], source, None, reference)
    with pytest.raises(DataError, match="has no text"):
        run_translate([Leg(Never(), "en", "de")], save(tmp_path / "empty.txt", "\n \n"))
    with pytest.raises(DataError, match=r"--input: .*none\.txt does not exist"):
        run_translate([Leg(Never(), "en", "de")], tmp_path / "none.txt")


def test_a_warning_is_one_line(tmp_path: Path):
    outcome = run_translate([Leg(Shout(), "en", "de")], save(tmp_path / "in.txt", "1949\nYes.\n"))
    assert warning(outcome) == "of 2 translations 1 copied as they were"


# As composed -----------------------------------------------------------------------------------------------------------------


def translated(tmp_path: Path, source: str, target: str, file: Path, *overrides: str, reference: Path | None = None):
    (cell,) = compose.cells(overrides)
    return translate_file(cell, Store(tmp_path / "runs", eager=True), source, target, file, None, reference)


@needs_apertium
def test_apertium_is_measured_on_tatoeba_and_asked_for_each_sentence_once(tmp_path: Path):
    if not TATOEBA.exists():
        pytest.skip("needs shared/data/tatoeba beside the project")
    source, reference = tmp_path / "es.txt", tmp_path / "en.txt"
    for name, path in (("spa", source), ("eng", reference)):
        save(path, "".join((TATOEBA / f"tatoeba.spa-eng.{name}").read_text().splitlines(keepends=True)[:200]))
    first = translated(tmp_path, "es", "en", source, "translator=apertium", reference=reference)
    again = translated(tmp_path, "es", "en", source, "translator=apertium", reference=reference)
    assert again.lines == first.lines
    assert (first.counts["from_cache"], again.counts["from_cache"]) == (0, first.counts["unique"])
    bleu, chrf = first.scores
    assert 15 < bleu.value < 60, "rules translate Tatoeba's short sentences passably"
    assert 35 < chrf.value < 80


@needs_apertium
def test_a_pivot_is_a_setting_of_any_translator(tmp_path: Path):
    source = save(tmp_path / "eu.txt", "Etxea gorria da.\n")
    try:
        outcome = translated(tmp_path, "eu", "es", source, "translator=apertium", "translator.pivot=en")
    except LanguageError as error:
        pytest.skip(str(error))
    assert "casa" in outcome.lines[0].lower()
    assert outcome.counts["sentences"] == 2, "one sentence, two legs"
    straight = translated(tmp_path, "eu", "en", source, "translator=apertium")
    assert straight.counts["from_cache"] == 1, "the first leg is the direct translation"


def test_what_looks_translations_up_cannot_translate_a_file(tmp_path: Path):
    source = save(tmp_path / "in.txt", "x\n")
    with pytest.raises(ConfigError, match="choose one with translator="):
        translated(tmp_path, "es", "en", source, "translator=provided")


def test_a_pivot_makes_another_translation_and_the_languages_own_pivot_does_not():
    def step(*more: str) -> tuple[str, str]:
        (cell,) = compose.cells(["retriever=bm25_dt", "translator=nllb_600m", f"translator.revision={'a' * 40}", *more])
        store = Store(Path("runs-of-nobody"))
        cfg = config.built(cell.plain)
        made = Stages(store).translated_docs(cfg, cfg.translator, "de", "en")
        return store.promise(made), made.label

    (straight, _), (through, _) = step(), step("translator.pivot=fr")
    assert straight != through
    assert step("translator.pivot=en")[0] == straight
