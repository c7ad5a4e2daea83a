"""Small models of the architectures that encoders are made of: seeded random weights, a tokenizer trained on TEXTS."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

TEXTS = [
    "Die Katze sitzt auf der Matte.",
    "The cat sits on the mat, and the dog barks at the moon all night long because nobody lets it in.",
    "Кошка сидит на коврике.",
    "Paka ameketi juu ya mkeka.",
    "猫が座っている",
    "A short one",
    "Mvua kubwa ilinyesha jana usiku katika mji wa Nairobi na barabara nyingi zilijaa maji",
]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,  # large, so that different texts have clearly different vectors
}


def save_tokenizer(
    folder: Path, template: str = "<s> $A </s>", added: tuple[str, ...] = (), pair: str | None = None, **options: Any
) -> Any:
    """A Unigram tokenizer that puts `template` around a text; `added` are further special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", *added]
    trained.train_from_iterator(
        TEXTS * 4,
        trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    if template:
        known = [(token, special.index(token)) for token in sorted(set(template.split()) & set(special))]
        trained.post_processor = processors.TemplateProcessing(single=template, pair=pair, special_tokens=known)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>", additional_special_tokens=list(added), **options,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def save(folder: Path, model_class: Any, config: Any, seed: int = 0, **options: Any) -> Path:
    import torch

    torch.manual_seed(seed)
    model_class(config, **options).save_pretrained(folder)
    return folder


def bert(folder: Path, *, pooler: bool = True, seed: int = 0) -> Path:
    from transformers import BertConfig, BertModel

    tokenizer = save_tokenizer(folder)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=1, **SIZES)
    return save(folder, BertModel, config, seed, add_pooling_layer=pooler)


def labse(folder: Path) -> Path:
    """LaBSE's modules: Transformer, Pooling by the first token, Dense with tanh, Normalize."""
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    plain = bert(Path(tempfile.mkdtemp()))
    parts = [Transformer(str(plain)), Pooling(32, "cls"), Dense(32, 32), Normalize()]
    return save_modules(folder, parts)


def save_modules(folder: Path, parts: list[Any], **options: Any) -> Path:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=parts, device="cpu", **options).save(str(folder), create_model_card=False)
    return folder


def xlmr(folder: Path, *, pooler: bool = True, seed: int = 0) -> Path:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    tokenizer = save_tokenizer(folder)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        type_vocab_size=1, **SIZES,
    )  # fmt: skip
    return save(folder, XLMRobertaModel, config, seed, add_pooling_layer=pooler)


def qwen3(folder: Path, *, closed: bool = True) -> Path:
    """A Qwen3 decoder with a tokenizer that pads left and, where `closed`, ends a text with its closing token."""
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = save_tokenizer(folder, "$A </s>" if closed else "", padding_side="left")
    config = Qwen3Config(
        vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, max_position_embeddings=256, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, **SIZES,
    )  # fmt: skip
    return save(folder, Qwen3Model, config)


def llama(folder: Path) -> Path:
    """A Llama whose tokenizer opens a text and does not close it, as Llama 2's."""
    from transformers import LlamaConfig, LlamaModel

    tokenizer = save_tokenizer(folder, "<s> $A")
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=4, max_position_embeddings=256, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, **SIZES,
    )  # fmt: skip
    return save(folder, LlamaModel, config)


def bloom(folder: Path) -> Path:
    """A BLOOM with the four role markers of Udever."""
    from transformers import BloomConfig, BloomModel

    tokenizer = save_tokenizer(folder, "", ("[BOQ]", "[EOQ]", "[BOD]", "[EOD]"), padding_side="left")
    config = BloomConfig(
        vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3, pad_token_id=1
    )
    return save(folder, BloomModel, config)


def m2m100(folder: Path, *, whole: bool) -> Path:
    """An NLLB checkpoint (encoder and decoder), or its encoder alone as SONAR is published, with NLLB's tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=150, special_tokens=special, show_progress=False))
    trained = json.loads(bpe.to_str())["model"]
    tokenizer = NllbTokenizer(vocab=trained["vocab"], merges=[tuple(merge) for merge in trained["merges"]])
    tokenizer.save_pretrained(folder)
    config = M2M100Config(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        decoder_start_token_id=2, init_std=0.3,
    )  # fmt: skip
    return save(folder, M2M100ForConditionalGeneration if whole else M2M100Encoder, config)


def m2m100_of_its_own_names(folder: Path) -> Path:
    """An M2M100 checkpoint with M2M100's tokenizer, whose languages are __de__ and its kin."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
    from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer

    place = Path(tempfile.mkdtemp())
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(place / "spm"), vocab_size=80, minloglevel=2, num_threads=1
    )
    spm = SentencePieceProcessor(model_file=str(place / "spm.model"))
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *(spm.id_to_piece(i) for i in range(3, spm.get_piece_size()))]
    (place / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    M2M100Tokenizer(str(place / "vocab.json"), str(place / "spm.model")).save_pretrained(folder)
    config = M2M100Config(
        vocab_size=len(pieces) + 108, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=128,
        decoder_start_token_id=2, init_std=0.3,
    )  # fmt: skip
    return save(folder, M2M100ForConditionalGeneration, config)


def xmod(folder: Path) -> Path:
    from transformers import XmodConfig, XmodModel

    tokenizer = save_tokenizer(folder)
    config = XmodConfig(
        vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        type_vocab_size=1, languages=["en_XX", "de_DE", "sw_KE"], default_language="en_XX", **SIZES,
    )  # fmt: skip
    return save(folder, XmodModel, config)


def t5(folder: Path) -> Path:
    """A T5 with encoder and decoder, as published."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = save_tokenizer(folder, "$A </s>")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, initializer_factor=2.0,
    )  # fmt: skip
    return save(folder, T5ForConditionalGeneration, config)


def lora(folder: Path, base: Path, seed: int, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> Path:
    """A LoRA adapter of a plain base, with weights that change its output."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=list(targets), task_type="FEATURE_EXTRACTION")
    wrapped = get_peft_model(AutoModel.from_pretrained(base), config)
    for name, weight in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    wrapped.save_pretrained(folder)
    return folder
