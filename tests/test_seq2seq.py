"""Seq2Seq against plain `generate` on small models of the true architectures, with seeded random weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clir_cli.errors import ConfigError, LanguageError, MissingModel
from clir_cli.segments import Segments
from clir_cli.translation import translate_texts
from clir_cli.translators.seq2seq import Seq2Seq

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
        vocab_size=len(pieces), pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad, forced_eos_token_id=0, **SIZES
    )
    model = MarianMTModel(config)
    model.generation_config.bad_words_ids = [[pad]]
    return save(model, tokenizer, folder / "opus-mt-es-en")


MAKE: dict[str, Callable[[Path], str]] = {"m2m100": m2m100, "nllb": nllb, "mbart": mbart, "none": marian}
CODES = {"m2m100": ("es", "en"), "nllb": ("spa_Latn", "eng_Latn"), "mbart": ("es_XX", "en_XX")}


@pytest.fixture(scope="module")
def translators(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Seq2Seq]:
    made: dict[str, Seq2Seq] = {}

    def translator(codes: str) -> Seq2Seq:
        if codes not in made:
            folder = MAKE[codes](tmp_path_factory.mktemp(codes))
            languages = {"source": "es", "target": "en"} if codes == "none" else {}
            made[codes] = Seq2Seq(
                folder, codes=codes, max_tokens=64, max_new_tokens=12, device="cpu", **languages  # type: ignore[arg-type]
            )
        return made[codes]

    return translator


def plainly(translator: Seq2Seq, text: str, beams: int = 1) -> str:
    """One sentence through the library's own calls: no batch, no padding."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(translator.model)
    model = AutoModelForSeq2SeqLM.from_pretrained(translator.model).eval()
    forced = {}
    if translator.codes != "none":
        tokenizer.src_lang, target = CODES[translator.codes]
        name = tokenizer.get_lang_token(target) if translator.codes == "m2m100" else target
        forced = {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(name)}
    ids = model.generate(**tokenizer(text, return_tensors="pt"), num_beams=beams, do_sample=False, max_new_tokens=12, **forced)
    kept = [i for i in ids[0].tolist() if i not in forced.values()]
    return str(tokenizer.decode(kept, skip_special_tokens=True))


@pytest.mark.parametrize("codes", MAKE)
def test_a_batch_says_what_plain_generate_says_sentence_by_sentence(translators, codes: str):
    translator = translators(codes)
    translated = translator.translate(SPANISH, "es", "en")
    assert translated == [plainly(translator, text) for text in SPANISH]
    assert len(set(translated)) > len(SPANISH) / 2, "the small model reads its input"
