"""Seq2Seq against plain `generate` on small models of the true architectures, with seeded random weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from clir_cli.errors import ConfigError, LanguageError, MissingModel, RunError
from clir_cli.segments import Segments
from clir_cli.text.translation import translate_texts
from clir_cli.translators.seq2seq import Seq2Seq, _batches

pytestmark = pytest.mark.filterwarnings(  # Marian's tokenizer asks for a normaliser that it never calls when encoding
    "ignore:Recommended. pip install sacremoses:UserWarning"
)

SPANISH = [
    "Las cigüeñas vuelven al pueblo en febrero.",
    "Nadie sabe quién pintó el puente.",
    "Hola.",
    "El museo abre los lunes, pero los jueves cierra a las nueve y media de la noche.",
    "¿Dónde nace el río?",
    "La lluvia de anoche llenó el embalse.",
    "Vendieron la casa de su abuela por muy poco dinero.",
    "¡Qué frío!",
]
ENGLISH = [
    "Storks return to the village in February.",
    "Nobody knows who painted the bridge.",
    "The museum opens on Mondays but closes at half past nine on Thursdays.",
    "Where does the river rise?",
    "Last night's rain filled the reservoir.",
    "They sold their grandmother's house for very little money.",
]
SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "init_std": 0.5,  # large, so that different sentences become different texts
    "tie_word_embeddings": False,
}


def sentencepiece(folder: Path) -> list[str]:
    """Train folder/spm.model on the sentences above; its pieces without the special ones."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    SentencePieceTrainer.train(
        sentence_iterator=iter(SPANISH + ENGLISH),
        model_prefix=str(folder / "spm"),
        vocab_size=120,
        minloglevel=2,
        num_threads=1,
    )
    spm = SentencePieceProcessor(model_file=str(folder / "spm.model"))
    return [spm.id_to_piece(i) for i in range(3, spm.get_piece_size())]


def save(model: Any, tokenizer: Any, folder: Path) -> str:
    # What published models say about their beams, which greedy search must not inherit.
    model.generation_config.update(num_beams=4, early_stopping=True, max_length=40)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def m2m100(folder: Path) -> str:
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sentencepiece(folder)]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "spm.model"))
    torch.manual_seed(1)
    config = M2M100Config(vocab_size=len(pieces) + 108, decoder_start_token_id=2, **SIZES)
    return save(M2M100ForConditionalGeneration(config), tokenizer, folder / "model")


def nllb(folder: Path) -> str:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    bpe.train_from_iterator(
        SPANISH + ENGLISH, trainers.BpeTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    )
    trained = json.loads(bpe.to_str())["model"]
    tokenizer = NllbTokenizer(vocab=trained["vocab"], merges=[tuple(merge) for merge in trained["merges"]])
    torch.manual_seed(1)
    config = M2M100Config(vocab_size=len(tokenizer), decoder_start_token_id=2, **SIZES)
    return save(M2M100ForConditionalGeneration(config), tokenizer, folder / "model")


def mbart(folder: Path) -> str:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import MBart50Tokenizer, MBartConfig, MBartForConditionalGeneration

    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    unigram.train_from_iterator(SPANISH + ENGLISH, trainer)
    tokenizer = MBart50Tokenizer(vocab=json.loads(unigram.to_str())["model"]["vocab"])
    torch.manual_seed(1)
    config = MBartConfig(vocab_size=len(tokenizer), decoder_start_token_id=2, **SIZES)
    return save(MBartForConditionalGeneration(config), tokenizer, folder / "model")


def marian(folder: Path) -> str:
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    pieces = ["</s>", "<unk>", *sentencepiece(folder), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    spm = str(folder / "spm.model")
    tokenizer = MarianTokenizer(spm, spm, str(folder / "vocab.json"))
    pad = len(pieces) - 1
    torch.manual_seed(1)
    config = MarianConfig(
        vocab_size=len(pieces),
        pad_token_id=pad,
        eos_token_id=0,
        decoder_start_token_id=pad,
        forced_eos_token_id=0,
        **SIZES,
    )
    model = MarianMTModel(config)
    model.generation_config.bad_words_ids = [[pad]]
    return save(model, tokenizer, folder / "opus-mt-es-en")


def madlad(folder: Path) -> str:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>", "<2en>", "<2fr>", "<2iw>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    unigram.train_from_iterator(SPANISH + ENGLISH, trainer)
    vocab = [tuple(entry) for entry in json.loads(unigram.to_str())["model"]["vocab"]]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0, additional_special_tokens=special[3:])
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, initializer_factor=8.0, pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return save(T5ForConditionalGeneration(config), tokenizer, folder / "model")


MAKE: dict[str, Callable[[Path], str]] = {
    "m2m100": m2m100, "nllb": nllb, "mbart": mbart, "none": marian, "madlad": madlad,
}  # fmt: skip
CODES = {"m2m100": ("es", "en"), "nllb": ("spa_Latn", "eng_Latn"), "mbart": ("es_XX", "en_XX")}


def by_length(rows: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return sorted(set(rows), key=lambda row: (len(row), row))


@pytest.fixture(scope="module")
def translators(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Callable[[str], Seq2Seq]:
    made: dict[str, Seq2Seq] = {}

    def translator(codes: str) -> Seq2Seq:
        if codes not in made:
            folder = MAKE[codes](tmp_path_factory.mktemp(codes))
            languages = {"source": "es", "target": "en"} if codes == "none" else {}
            made[codes] = Seq2Seq(
                folder,
                codes=codes,
                max_tokens=64,
                max_new_tokens=12,
                device="cpu",
                **languages,  # type: ignore[arg-type]
            )
        return made[codes]

    return translator


@cache
def loaded(folder: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    return AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


def plainly(translator: Seq2Seq, text: str, beams: int = 1, max_tokens: int = 64) -> str:
    """One sentence through the library's own calls: no batch, no padding."""
    tokenizer, model = loaded(translator.model)
    forced = {}
    if translator.codes in CODES:
        tokenizer.src_lang, name = CODES[translator.codes]
        forced = {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(name)}
    if translator.codes == "m2m100":
        forced = {"forced_bos_token_id": tokenizer.get_lang_id("en")}
    if translator.codes == "madlad":
        text = f"<2en> {text}"
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_tokens)
    ids = model.generate(**inputs, num_beams=beams, do_sample=False, max_new_tokens=12, max_length=None, **forced)
    kept = [i for i in ids[0].tolist() if i not in forced.values()]
    return str(tokenizer.decode(kept, skip_special_tokens=True))


@pytest.mark.parametrize("codes", MAKE)
def test_a_batch_says_what_plain_generate_says_sentence_by_sentence(translators, codes: str):
    translator = translators(codes)
    translated = translator.translate(SPANISH, "es", "en")
    assert translated == [plainly(translator, text) for text in SPANISH]
    assert len(set(translated)) > len(SPANISH) / 2, "the small model reads its input"


@pytest.mark.parametrize("codes", ["nllb", "none"])
def test_beam_search_says_what_plain_beam_search_says(translators, codes: str):
    translator = replace(translators(codes), beams=3)
    assert translator.translate(SPANISH, "es", "en") == [plainly(translator, text, beams=3) for text in SPANISH]


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_the_size_of_a_batch_does_not_change_a_translation(translators, batch_tokens: int):
    translator = translators("nllb")
    small = replace(translator, batch_tokens=batch_tokens)
    assert small.translate(SPANISH, "es", "en") == translator.translate(SPANISH, "es", "en")


def test_the_same_sentences_form_the_same_batches_in_any_order():
    rows = [(5, 2), (7, 8, 9, 2), (4, 2), (7, 8, 2), (5, 2)]
    assert list(_batches(by_length(rows), 6)) == [[(4, 2), (5, 2)], [(7, 8, 2)], [(7, 8, 9, 2)]]
    assert by_length(rows[::-1]) == by_length(rows)


@pytest.mark.parametrize("codes", ["m2m100", "nllb", "mbart"])
def test_both_languages_reach_the_model(translators, codes: str):
    translator = translators(codes)
    es_en = translator.translate(SPANISH, "es", "en")
    assert translator.translate(SPANISH, "es", "fr") != es_en
    assert translator.translate(SPANISH, "fr", "en") != es_en
    assert translator.translate(SPANISH, "es", "en") == es_en, "nothing of the other directions is left behind"


def test_a_translation_says_nothing_about_the_models_own_settings(translators, capfd: pytest.CaptureFixture[str]):
    translators("m2m100").translate(SPANISH, "es", "en")
    assert "max_length" not in capfd.readouterr().err


def test_a_long_sentence_is_cut_before_its_end_mark_and_counted(translators, tmp_path: Path):
    translator = replace(translators("nllb"), max_tokens=10)
    long, short = " ".join(SPANISH[3].split()[:-1] * 4), "Hola."
    whole, _ = translator.sizes([long, short], "es", "en")
    assert [made.tokens_cut for made in translator.answers([long, short], "es", "en")] == [whole - 10, 0]
    assert translator.translate([long], "es", "en") == [plainly(translator, long, max_tokens=10)]
    tokenizer = translator._reader("es", "en")
    ((row,), _) = translator._encode(tokenizer, [long], "en")
    assert (len(row), row[0], row[-1]) == (10, tokenizer.convert_tokens_to_ids("spa_Latn"), tokenizer.eos_token_id)
    for _ in range(2):  # the second time from memory
        _, counts = translate_texts([long, short], translator, "es", "en", Segments(tmp_path), "small nllb")
        assert (counts.cut, counts.tokens_cut) == (1, whole - 10)


def test_a_model_that_forgets_where_sentences_end_is_refused(translators, tmp_path: Path):
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(translators("nllb").model, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    broken = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(broken))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert tokenizer.eos_token == "</s>"
    with pytest.raises(RunError, match=r"puts no end-of-sentence token after 'Hola\.'"):
        Seq2Seq(str(folder), source="es", target="en", max_tokens=64, max_new_tokens=12).translate(
            ["Hola."], "es", "en"
        )


def test_one_model_per_direction_is_found_by_its_languages(translators):
    fixed = translators("none")
    family = Seq2Seq(
        str(Path(fixed.model).with_name("opus-mt-{source}-{target}")), max_tokens=64, max_new_tokens=12, device="cpu"
    )
    assert family.model_for("es", "en") == fixed.model
    assert family.translate(SPANISH, "es", "en") == fixed.translate(SPANISH, "es", "en")
    with pytest.raises(ConfigError, match="opus-mt-en-fi' does not exist"):
        family.translate(["Hello."], "en", "fi")


def test_a_language_that_the_model_lacks_is_refused_while_planning():
    assert Seq2Seq("facebook/nllb-200-1.3B", codes="nllb").directions("so", "en") is None
    reason = Seq2Seq("facebook/mbart-large-50-many-to-many-mmt", codes="mbart").directions("so", "yo")
    assert str(reason).startswith(
        "facebook/mbart-large-50-many-to-many-mmt has no language so and yo; it has en, de, es"
    )
    one = Seq2Seq("Helsinki-NLP/opus-mt-en-jap", source="en", target="ja")
    assert one.directions("en", "ja") is None
    assert one.directions("ja", "en") == "Helsinki-NLP/opus-mt-en-jap translates en to ja, not ja to en"
    with pytest.raises(LanguageError, match="not a language code"):
        one.directions("english", "ja")


def test_a_model_that_does_not_know_a_languages_name_is_refused(translators):
    marian_as_nllb = Seq2Seq(translators("none").model, codes="nllb", max_tokens=64, max_new_tokens=12)
    with pytest.raises(LanguageError, match="no token 'spa_Latn' for es: is it a nllb model"):
        marian_as_nllb.translate(["Hola."], "es", "en")


def test_more_tokens_than_the_model_has_positions_are_refused(translators):
    with pytest.raises(ConfigError, match="has 64 positions"):
        replace(translators("nllb"), max_tokens=65).translate(["Hola."], "es", "en")


def test_a_model_that_is_not_here_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingModel, match="hf download nobody/no-such-model"):
        Seq2Seq("nobody/no-such-model", codes="nllb").translate(["Hola."], "es", "en")


def test_a_folder_that_holds_no_translation_model_is_an_error_of_the_users(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(MissingModel, match=r"does not load as a translation model.*it lacks the tokenizer"):
        Seq2Seq(str(tmp_path), codes="nllb").translate(["Hola."], "es", "en")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_folder_that_lacks_a_file_is_refused_before_anything_runs(translators, tmp_path: Path, lost: str):
    translator = translators("nllb")
    translator.check("es", "en")
    folder = Path(shutil.copytree(translator.model, tmp_path / "model"))
    (folder / lost).unlink()
    with pytest.raises(MissingModel, match=rf"it lacks [^\n]*{lost}"):
        replace(translator, model=str(folder)).check("es", "en")


def test_a_lost_part_of_the_weights_is_named(translators, tmp_path: Path):
    folder = Path(shutil.copytree(translators("nllb").model, tmp_path / "model"))
    parts = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(parts))
    with pytest.raises(MissingModel, match=r"it lacks model-00002-of-00002\.safetensors"):
        Seq2Seq(str(folder), codes="nllb").check("es", "en")


def test_a_revision_of_a_local_folder_means_nothing(translators):
    with pytest.raises(ValueError, match="is a local folder"):
        replace(translators("nllb"), revision="main")


def test_sonars_decoder_sees_one_vector_for_a_sentence(translators):
    """As the port's authors decode: the mean of the encoder's states, alone, as encoder_outputs."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    translator = replace(translators("nllb"), pooled=True)
    tokenizer, model = loaded(translator.model)
    tokenizer.src_lang = "spa_Latn"
    forced, expected = tokenizer.convert_tokens_to_ids("eng_Latn"), []
    for text in SPANISH:
        with torch.no_grad():
            states = model.model.encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state
        ids = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states.mean(1, keepdim=True)), forced_bos_token_id=forced,
            attention_mask=torch.ones(1, 1, dtype=torch.long), num_beams=1, do_sample=False, max_new_tokens=12, max_length=None,
        )  # fmt: skip
        kept = [i for i in ids[0].tolist() if i != forced]
        expected.append(tokenizer.decode(kept, skip_special_tokens=True))
    assert translator.translate(SPANISH, "es", "en") == expected
    assert expected != translators("nllb").translate(SPANISH, "es", "en")


def test_madlads_names_of_languages_are_its_own(translators):
    translator = translators("madlad")
    assert len(translator.translate(SPANISH, "es", "he")) == len(SPANISH)
    assert translator.translate(SPANISH, "es", "fr") != translator.translate(SPANISH, "es", "en")
    with pytest.raises(LanguageError, match="no token '<2sw>' for sw: is it a madlad model"):
        translator.check("es", "sw")


def test_a_model_of_some_directions_says_which():
    wmt21 = Seq2Seq("facebook/wmt21-dense-24-wide-en-x", codes="m2m100", sources=("en",), targets=("cs", "de"))
    assert wmt21.directions("en", "cs") is None
    assert wmt21.directions("de", "en") == "facebook/wmt21-dense-24-wide-en-x reads en, not de"
    assert wmt21.directions("en", "fr") == "facebook/wmt21-dense-24-wide-en-x writes cs, de, not fr"


def test_a_translation_that_does_not_end_is_counted(translators):
    translator = translators("nllb")
    tokenizer, model = loaded(translator.model)
    tokenizer.src_lang = "spa_Latn"
    for text, made in zip(SPANISH, translator.answers(SPANISH, "es", "en"), strict=True):
        ids = model.generate(
            **tokenizer(text, return_tensors="pt"), num_beams=1, do_sample=False, max_new_tokens=12, max_length=None,
            forced_bos_token_id=tokenizer.convert_tokens_to_ids("eng_Latn"),
        )  # fmt: skip
        assert made.unfinished == (tokenizer.eos_token_id not in ids[0].tolist()[1:])
    assert any(made.unfinished for made in translator.answers(SPANISH, "es", "en"))


def test_a_full_gpu_halves_the_batch_and_says_so(translators, monkeypatch: pytest.MonkeyPatch, capsys):
    import torch
    from transformers import M2M100ForConditionalGeneration

    translator, most = translators("nllb"), 3
    whole, generate = translator.translate(SPANISH, "es", "en"), M2M100ForConditionalGeneration.generate

    def small_gpu(self: Any, **given: Any) -> Any:
        if len(given["input_ids"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, **given)

    monkeypatch.setattr(M2M100ForConditionalGeneration, "generate", small_gpu)
    assert translator.translate(SPANISH, "es", "en") == whole
    assert "is out of memory with 8 x" in capsys.readouterr().err
    most = 0
    with pytest.raises(RunError, match="one text of 6 tokens does not fit into the memory"):
        translator.translate(["Hola."], "es", "en")


def test_half_precision_and_nothing_to_translate_are_fine(translators):
    for codes in MAKE:
        assert len(replace(translators(codes), dtype="bfloat16").translate(SPANISH, "es", "en")) == len(SPANISH)
        assert translators(codes).translate([], "es", "en") == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "codes=none needs"),
        ({"source": "en"}, "codes=none needs"),
        ({"codes": "nllb", "source": "en", "target": "de"}, "one model of many languages"),
        ({"source": "en", "target": "de", "beams": 0}, "at least 1"),
        ({"source": "en", "target": "de", "max_new_tokens": 0}, "at least 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        Seq2Seq("owner/model", **settings)


def test_planning_needs_no_torch():
    code = (
        "import sys\n"
        "from clir_cli.translators.seq2seq import Seq2Seq\n"
        "from clir_cli.translators.apertium import Apertium\n"
        "import clir_cli.text.translation\n"
        "assert Seq2Seq('facebook/nllb-200-1.3B', codes='nllb').directions('es', 'en') is None\n"
        "Apertium().directions('es', 'en')\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
