"""Texts are translated sentence by sentence, each sentence once, and remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest

from clir_cli.errors import ConfigError, DataError, LanguageError, MissingModel, RunError
from clir_cli.segments import Segments
from clir_cli.text.translation import (
    Counts,
    Made,
    Pieced,
    Translated,
    chained,
    complaint,
    legs,
    places,
    read_alignment,
    split,
    translate_texts,
    translate_through,
    write_alignment,
)
from clir_cli.translators.provided import Provided

DICTIONARY = {
    "Good day.": "Guten Tag.",
    "Rain falls.": "Es regnet.",
    "Yes.": "Ja.",
    "Bonn 1949": "Bonn 1949",
    "Hush.": "",
    "The government announced new measures.": "Ja.",
    "Long sentence.": "Langer Satz.",
}


@dataclass(frozen=True)
class Dictionary:
    """A translator that knows a few English sentences, and remembers what it was asked."""

    unit: str = "sentence"
    asked: list[list[str]] = field(default_factory=list)

    def directions(self, source: str, target: str) -> str | None:
        return None if source == "en" else f"only en, not {source}"

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        self.asked.append(list(texts))
        return [f"<{text}>" if target == "zh" else DICTIONARY.get(text, text.upper()) for text in texts]

    def answers(self, texts: Sequence[str], source: str, target: str) -> list[Made]:
        translations = self.translate(texts, source, target)
        return [Made(t, 7 * text.startswith("Long")) for text, t in zip(texts, translations, strict=True)]

    def sizes(self, texts: Sequence[str], source: str, target: str) -> list[int]:
        return [len(text.split()) + 2 for text in texts]


@dataclass(frozen=True)
class Forgetful:
    """A translator that loses or invents answers."""

    says: tuple[object, ...] = ()

    def directions(self, source: str, target: str) -> str | None:
        return None

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        return list(self.says)  # type: ignore[arg-type]


def german(texts: Sequence[str], translator: Dictionary, memory: Segments | None = None, identity: str = "dictionary"):
    translated, counts = translate_texts(texts, translator, "en", "de", memory, identity)
    return [made.text for made in translated], counts


def test_a_text_is_translated_sentence_by_sentence_and_joined_in_order():
    texts, counts = german(["Good day. Rain falls.", "Rain falls. Good day."], Dictionary())
    assert texts == ["Guten Tag. Es regnet.", "Es regnet. Guten Tag."]
    assert counts == Counts(sentences=4, unique=2, language_not_checked=2)


def test_a_sentence_is_sent_once_however_often_the_collection_repeats_it():
    translator = Dictionary()
    german(["Yes. Yes. Good day.", "Good day. Yes.", " Yes. "], translator)
    assert translator.asked == [["Yes.", "Good day."]]


def test_a_text_without_words_stays_empty_and_is_not_sent():
    translator = Dictionary()
    assert german(["", "  \n ", "Yes.", ""], translator)[0] == ["", "", "Ja.", ""]
    assert german(["", ""], translator) == (["", ""], Counts())
    assert german([], translator) == ([], Counts())
    assert translator.asked == [["Yes."]]


def test_chinese_sentences_are_joined_without_spaces():
    (made,), _ = translate_texts(["Yes. Good day."], Dictionary(), "en", "zh", None, "d")
    assert made == Translated("<Yes.><Good day.>", ((0, 0), (5, 6)))


def test_a_translator_of_whole_documents_gets_whole_documents():
    translator = Dictionary(unit="document")
    assert german(["Yes. Good day.", "", " Yes. "], translator)[0] == ["YES. GOOD DAY.", "", "Ja."]
    assert translator.asked == [["Yes. Good day.", "Yes."]]


def test_what_was_translated_once_is_never_asked_again(tmp_path: Path):
    first, later = Dictionary(), Dictionary()
    before = german(["Yes. Long sentence.", "Hush."], first, Segments(tmp_path))
    texts, counts = german(["Yes. Long sentence.", "Hush.", "Yes. Good day."], later, Segments(tmp_path))
    assert texts == [*before[0], "Ja. Guten Tag."]
    assert later.asked == [["Good day."]]
    assert (counts.unique, counts.from_cache, counts.cut, counts.empty) == (4, 3, 1, 1)
    again = Dictionary()
    assert german(["Yes. Long sentence.", "Hush."], again, Segments(tmp_path))[0] == before[0]
    assert again.asked == []


@pytest.mark.parametrize(
    ("source", "target", "identity"), [("en", "fr", "dictionary"), ("en", "de", "dictionary of 1950")]
)
def test_another_language_or_translator_does_not_get_the_remembered_answer(
    tmp_path: Path, source: str, target: str, identity: str
):
    german(["Yes."], Dictionary(), Segments(tmp_path))
    translator = Dictionary()
    translate_texts(["Yes."], translator, source, target, Segments(tmp_path), identity)
    assert translator.asked == [["Yes."]]


def test_a_call_is_remembered_in_one_line_so_that_a_crash_leaves_all_of_it_or_nothing(tmp_path: Path):
    memory = Segments(tmp_path)
    german(["Yes. Good day. Rain falls."], Dictionary(), memory)
    memory.close()
    (file,) = tmp_path.glob("*.jsonl")
    assert file.read_bytes().count(b"\n") == 1
    file.write_bytes(file.read_bytes()[:-10])
    translator = Dictionary()
    german(["Yes. Good day. Rain falls."], translator, Segments(tmp_path))
    assert translator.asked == [["Yes.", "Good day.", "Rain falls."]]


@pytest.mark.parametrize("answers", [(), ("Ja.",), ("Ja.", "Guten Tag.", "Es regnet.")])
def test_a_translator_must_answer_every_sentence(tmp_path: Path, answers: tuple[str, ...]):
    with pytest.raises(RunError, match=rf"Forgetful was given 2 texts \(en to de\) and returned {len(answers)}"):
        german(["Yes. Good day."], Forgetful(answers), Segments(tmp_path))
    assert not list(tmp_path.glob("*.jsonl")), "nothing of a broken answer is kept"


def test_no_answer_is_not_an_empty_translation():
    with pytest.raises(RunError, match=r"returned None instead of a translation of 'Good day\.'"):
        german(["Yes. Good day."], Forgetful(("Ja.", None)))


def test_a_direction_that_the_translator_lacks_is_refused_before_it_is_asked():
    translator = Dictionary()
    with pytest.raises(LanguageError, match="only en, not fi"):
        translate_texts(["Hyvää päivää."], translator, "fi", "de", None, "d")
    assert translator.asked == []


def test_suspicious_translations_are_counted():
    texts, counts = german(
        ["Bonn 1949", "Hush. Long sentence.", "The government announced new measures."], Dictionary()
    )
    assert texts == ["Bonn 1949", "Langer Satz.", "Ja."]
    expected = Counts(sentences=4, unique=4, empty=1, copied=1, length_ratio_outliers=1, language_not_checked=3)
    assert counts == replace(expected, cut=1, tokens_cut=7)
    assert complaint(asdict(counts)) == (
        "of 4 translations 1 empty, 1 copied as they were, 1 cut at the model's limit, 1 of unlikely length"
    )


def test_a_chinese_character_says_as_much_as_three_letters():
    @dataclass(frozen=True)
    class Chinese(Dictionary):
        def answers(self, texts: Sequence[str], source: str, target: str) -> list[Made]:
            return [Made("政府宣布新措施。")]

    sentence = ["The government announced new measures."]  # 38 letters for 8 characters: a ratio of 0.21 by count
    assert translate_texts(sentence, Chinese(), "en", "zh", None, "d")[1].length_ratio_outliers == 0


def test_the_counts_of_shards_add_up():
    assert Counts(sentences=2, cut=1) + Counts(sentences=3, empty=4) == Counts(sentences=5, empty=4, cut=1)


# Where sentences stand -----------------------------------------------------------------------------------------------------


def test_every_sentence_is_found_again_in_the_translation():
    text = "  Good day.\n\nRain falls.  Hush. Yes. Rain falls. "
    (made,), _ = translate_texts([text], Dictionary(), "en", "de", None, "d")
    assert made.text == "Guten Tag. Es regnet. Ja. Es regnet."
    assert [(text[a:].partition(".")[0], made.text[b:].partition(".")[0]) for a, b in made.starts] == [
        ("Good day", "Guten Tag"), ("Rain falls", "Es regnet"), ("Hush", "Ja"), ("Yes", "Ja"), ("Rain falls", "Es regnet"),
    ]  # fmt: skip


def test_what_comes_back_empty_at_the_end_starts_where_the_text_ends():
    (made,), _ = translate_texts(["Yes. Hush."], Dictionary(), "en", "de", None, "d")
    assert made == Translated("Ja.", ((0, 0), (5, 3)))
    assert translate_texts(["", "Hush."], Dictionary(), "en", "de", None, "d")[0] == [("", ()), ("", ((0, 0),))]


def test_an_alignment_is_read_again_by_doc_id(tmp_path: Path):
    odd = 'a ","fields": b'
    rows = [("d1", {"title": ((0, 0),), "text": ((0, 0), (5, 7))}), (odd, {"text": ()}), ("d1x", {"text": ((1, 1),)})]
    write_alignment(rows, tmp_path / "alignment.jsonl")
    assert read_alignment(tmp_path, ["d1", odd, "d9"]) == dict(rows[:2])
    assert read_alignment(tmp_path / "provided", ["d1"]) == {}


# Units and the way -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunker(Dictionary):
    unit: str = "chunk"
    max_tokens: int = 6


def test_a_chunk_holds_as_many_sentences_as_the_model_reads_and_keeps_their_order():
    text = "Good day. Yes.\nRain falls. A sentence that alone is longer than the limit. Yes."
    translator = Chunker()
    (made,), counts = translate_texts([text], translator, "en", "de", None, "d")
    long = "A sentence that alone is longer than the limit."
    assert translator.asked == [["Good day. Yes.", "Rain falls.", long, "Yes."]]
    assert [text[a:][:9] for a, _ in made.starts] == ["Good day.", "Rain fall", "A sentenc", "Yes."]
    assert counts.sentences == 4
    assert translate_texts([text], Chunker(max_tokens=99), "en", "de", None, "d")[0][0].starts == ((0, 0),)


def test_chunks_need_a_translator_that_counts_tokens():
    @dataclass(frozen=True)
    class Blind(Forgetful):
        unit: str = "chunk"

    with pytest.raises(ConfigError, match="Blind counts no tokens"):
        translate_texts(["Yes."], Blind(), "en", "de", None, "d")


@dataclass(frozen=True)
class Spell(Pieced):
    """Writes every word's target language behind it."""

    name: str = "spell"

    def directions(self, source: str, target: str) -> str | None:
        return None if "en" in (source, target) else f"not {source} to {target}"

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        return [" ".join(f"{word.rstrip('.')}-{target}" for word in text.split()) + "." for text in texts]


def test_a_pivot_goes_through_another_language_and_keeps_the_sentences_apart():
    way = legs(Spell(pivot="en"), "fi", "sw")
    assert [(leg.translator, leg.source, leg.target) for leg in way] == [(Spell(), "fi", "en"), (Spell(), "en", "sw")]
    text = "Yksi kaksi. Kolme."
    (made,), counts = translate_through([text], way)
    assert made.text == "Yksi-en-sw kaksi-en-sw. Kolme-en-sw."
    assert made.starts == ((0, 0), (12, made.text.index("Kolme")))
    assert (counts.sentences, counts.unique) == (4, 4), "two legs of two sentences"


def test_the_second_leg_may_be_another_translator_and_a_direction_with_the_pivot_goes_straight():
    mixed = Spell(pivot="en", onward=Spell(name="other"))
    assert [leg.translator.name for leg in legs(mixed, "fi", "sw")] == ["spell", "other"]
    assert [leg[:3] for leg in legs(mixed, "fi", "en")] == [(Spell(), "fi", "en")]
    assert [leg[:3] for leg in legs(mixed, "en", "sw")] == [(Spell(name="other"), "en", "sw")]
    with pytest.raises(ValueError, match="say which language is the `pivot`"):
        Spell(onward=Spell())
    with pytest.raises(LanguageError, match="not a language code"):
        Spell(pivot="english")


def test_a_sentence_that_the_second_leg_swallows_has_no_place_of_its_own():
    assert chained(((0, 0), (9, 4), (20, 11)), ((0, 0), (11, 30))) == ((0, 0), (20, 30))
    assert chained(((2, 0),), ((0, 0),)) == ((2, 0),)
    assert chained(((2, 1),), ((0, 0),)) == ((2, 0),), "the beginning stays"


def test_a_splitter_is_rules_marks_or_a_wtpsplit_model(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="splitter must be rules, marks or wtpsplit:MODEL"):
        Spell(splitter="nltk")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wanted = Spell(splitter="wtpsplit:segment-any-text/sat-3l-sm")
    assert wanted.engines == ("wtpsplit",)
    with pytest.raises((MissingModel, ConfigError), match="segment-any-text/sat-3l-sm"):
        translate_texts(["Yksi."], wanted, "fi", "en", None, "d")


# Answers that do not come ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unsteady(Dictionary):
    """A server that is asked for two at a time, and fails at one."""

    at_once: int = 2

    def answers(self, texts: Sequence[str], source: str, target: str) -> list[Made]:
        self.asked.append(list(texts))
        return [Made("", error="time-out") if text == "Yes." else Made(text.upper()) for text in texts]


def test_what_was_answered_before_a_failure_is_kept(tmp_path: Path):
    with pytest.raises(RunError, match=r"Unsteady: no answer to 1 of 2 texts, for example to 'Yes\.': time-out"):
        german(["Good day. Rain falls. Hush. Yes. Bonn 1949"], Unsteady(), Segments(tmp_path))
    again = Dictionary()
    german(["Good day. Rain falls. Hush. Yes. Bonn 1949"], again, Segments(tmp_path))
    assert again.asked == [["Yes.", "Bonn 1949"]]


# Translations that exist already ----------------------------------------------------------------------------------------------


def test_a_version_of_the_topics_has_a_short_name():
    names = {
        "parallel": None,
        "human": None,
        "mt:google translate": "google translate",
        "google translate": "google translate",
    }
    assert {source: Provided(source=source).edition for source in names} == names


def test_one_of_several_files_is_chosen_by_source(tmp_path: Path):
    for name, text in (("nllb", "tide"), ("human", "high tide")):
        (tmp_path / f"{name}.de-en.tsv").write_text(f"d1\t{text}\n")
    file = f"{tmp_path}/{{name}}.{{source}}-{{target}}.tsv"
    assert Provided(source="human", file=file).read_file("de", "en") == {"d1": {"text": "high tide"}}
    with pytest.raises(DataError, match=r"translator\.source=opus: .* does not exist; there are: human, nllb"):
        Provided(source="opus", file=file).read_file("de", "en")


def test_wtpsplits_sentences_are_its_own_and_keep_their_places(tmp_path: Path):
    """A SaT model of the true architecture with random weights, which cuts anywhere."""
    wtpsplit = pytest.importorskip("wtpsplit", reason="pip install wtpsplit")
    import torch
    from test_seq2seq import ENGLISH, SPANISH
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast
    from wtpsplit.configs import SubwordXLMConfig
    from wtpsplit.models import SubwordXLMForTokenClassification

    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    special = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=list(special.values()), unk_token="<unk>", show_progress=False
    )
    unigram.train_from_iterator(SPANISH + ENGLISH, trainer)
    unigram.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(tokenizer_object=unigram, cls_token="<s>", sep_token="</s>", **special).save_pretrained(
        tmp_path
    )
    torch.manual_seed(0)
    config = SubwordXLMConfig(
        vocab_size=unigram.get_vocab_size(), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=514, num_labels=1, pad_token_id=1,
    )  # fmt: skip
    SubwordXLMForTokenClassification(config).save_pretrained(tmp_path)
    texts = ["La lluvia llenó el embalse. ¿Dónde nace el río?\nHola.", ""]
    alone = wtpsplit.SaT(str(tmp_path), tokenizer_name_or_path=str(tmp_path)).split(texts)
    found = split(texts, f"wtpsplit:{tmp_path}")
    assert found == [[piece.strip() for piece in pieces if piece.strip()] for pieces in alone]
    assert places(texts[0], found[0])[0] == 0
    assert "".join(found[0]) == "".join(texts[0].split())
