"""LASER's files in small: the published names and layouts, a SentencePiece model trained on TEXTS, seeded random weights."""

from __future__ import annotations

import io
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

TEXTS = [
    "Die Katze sitzt auf der Matte (und schläft) .",
    "The cat sits on the mat, and the dog barks at the moon all night long because nobody lets it in.",
    "Кошка сидит на коврике.",
    "Paka ameketi juu ya mkeka.",
    "Kyanwa tana zaune a kan tabarma; kare yana haushi.",
    "“Où est le chat ?” – « Sur le tapis » … 100 %",
    "ድመቷ ምንጣፉ ላይ ተቀምጣለች።",
    "A short one",
]
WIDTH = 16


def pieces(path: Path, size: int = 150) -> list[str]:
    """Train a SentencePiece model on the texts, lower case; its pieces without the special ones."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    made = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in TEXTS] * 3), model_writer=made, vocab_size=size,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    path.write_bytes(made.getvalue())
    model = SentencePieceProcessor(model_proto=made.getvalue())
    return [
        model.id_to_piece(i)
        for i in range(model.get_piece_size())
        if not model.is_unknown(i) and not model.is_control(i)
    ]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * 0.4


def vocabulary(folder: Path, stem: str, **options: Any) -> list[str]:
    """`.spm` and `.cvocab`; not every piece has a number, so some are unknown."""
    found = pieces(folder / f"{stem}.spm", **options)[5:]
    (folder / f"{stem}.cvocab").write_text("".join(f"{piece} {9999 - i}\n" for i, piece in enumerate(found)), "utf-8")
    return found


def laser2(folder: Path, *, seed: int = 0, layers: int = 2, width: int = WIDTH) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    known = vocabulary(folder, "laser2")
    torch.manual_seed(seed)
    params = {
        "num_embeddings": len(known) + 4, "padding_idx": 1, "embed_dim": 12, "hidden_size": width // 2,
        "num_layers": layers, "bidirectional": True, "left_pad": True, "padding_value": 0.0,
    }  # fmt: skip
    weights = {"embed_tokens.weight": random(len(known) + 4, 12)}
    for layer in range(layers):
        for way in ("", "_reverse"):
            into = 12 if layer == 0 else width
            for name, shape in (("weight_ih", (2 * width, into)), ("weight_hh", (2 * width, width // 2)), ("bias_ih", (2 * width,)), ("bias_hh", (2 * width,))):  # fmt: skip
                weights[f"lstm.{name}_l{layer}{way}"] = random(*shape)
    symbols = {name: i for i, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", *known])}
    torch.save({"params": params, "model": weights, "dictionary": symbols}, folder / "laser2.pt")
    return folder


def laser3(
    folder: Path, name: str, *, seed: int = 1, whole: bool = False, half: bool = False, old: bool = False, **said: Any
) -> Path:
    """`laser3-NAME.v1.pt`; `whole`: with its decoder, as it was trained; `half`: weights in 16 bits;
    `old`: the Namespace under `args`, as fairseq had it before `cfg`."""
    options = Namespace(
        **{
            "encoder_embed_dim": WIDTH, "encoder_ffn_embed_dim": 24, "encoder_layers": 3, "encoder_attention_heads": 4,
            "encoder_normalize_before": True, "encoder_learned_pos": False, "activation_fn": "relu", "dropout": 0.3,
            "max_source_positions": 40, "sentemb_criterion": "maxpool", "prepend_bos": False, "left_pad_source": True,
            "arch": "laser_transformer", **said,
        }
    )  # fmt: skip
    own = folder / f"laser3-{name}.v1.cvocab"
    lines = (own if own.exists() else folder / "laser2.cvocab").read_text("utf-8").splitlines()
    torch.manual_seed(seed)
    mask = options.encoder_normalize_before  # the dictionary then has <mask>
    weights = {"version": torch.tensor([3.0]), "embed_tokens.weight": random(len(lines) + 4 + mask, WIDTH)}
    if options.encoder_learned_pos:
        weights["embed_positions.weight"] = random(options.max_source_positions + 2, WIDTH)
    elif not getattr(options, "no_token_positional_embeddings", False):
        weights["embed_positions._float_tensor"] = torch.zeros(1)
    for at in range(options.encoder_layers):
        for part, (out, into) in {
            **{f"self_attn.{kind}_proj": (WIDTH, WIDTH) for kind in ("k", "v", "q", "out")},
            "fc1": (options.encoder_ffn_embed_dim, WIDTH), "fc2": (WIDTH, options.encoder_ffn_embed_dim),
        }.items():  # fmt: skip
            weights[f"layers.{at}.{part}.weight"], weights[f"layers.{at}.{part}.bias"] = random(out, into), random(out)
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            weights[f"layers.{at}.{norm}.weight"], weights[f"layers.{at}.{norm}.bias"] = (
                1 + random(WIDTH),
                random(WIDTH),
            )
    if options.encoder_normalize_before:
        weights |= {"layer_norm.weight": 1 + random(WIDTH), "layer_norm.bias": random(WIDTH)}
    if getattr(options, "layernorm_embedding", False):
        weights |= {"layernorm_embedding.weight": 1 + random(WIDTH), "layernorm_embedding.bias": random(WIDTH)}
    if half:
        weights = {key: value.half() for key, value in weights.items()}
    if whole:
        weights = {f"encoder.{key}": value for key, value in weights.items()} | {"decoder.version": torch.tensor([3.0]), "decoder.embed_tokens.weight": random(3, WIDTH)}  # fmt: skip
    described = {"args": options} if old else {"cfg": {"_name": None, "model": options}}
    torch.save({**described, "model": weights}, folder / f"laser3-{name}.v1.pt")
    return folder
