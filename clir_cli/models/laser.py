"""LASER2 and LASER3 from the files that Meta publishes: how a text is read, and the two networks, without fairseq.

Followed: facebookresearch/LASER at 74bc6ae (laser_encoders 0.0.2: laser_tokenizer.py, models.py; nllb/README.md) and the
transformer encoder of facebookresearch/fairseq at 3d262bb. LASER2: a BiLSTM (Artetxe & Schwenk 2019; 93 languages).
LASER3: a transformer for each of 147 languages, trained to say what LASER2 says (Heffernan et al. 2022, arXiv:2205.12654).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from clir_cli.errors import MissingModel

if TYPE_CHECKING:
    import torch

ADDRESS = "https://dl.fbaipublicfiles.com/nllb/laser"  # of every file (laser_encoders' download_models.py)
WIDTH = 1024  # numbers in a vector of the published encoders
BOS, PAD, EOS, UNK = range(4)  # fairseq's special symbols
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")

# LASER3's languages by FLORES-200's names, as nllb/README.md lists them; with a star those that have .spm and .cvocab of
# their own (nllb/download_models.sh): the others read by LASER2's
_LANGUAGES = """
ace_Latn aka_Latn als_Latn amh_Ethi* asm_Beng awa_Deva ayr_Latn* azb_Arab azj_Latn* bak_Cyrl* bam_Latn ban_Latn
bel_Cyrl* bem_Latn ben_Beng bho_Deva bjn_Latn bod_Tibt* bug_Latn ceb_Latn cjk_Latn ckb_Arab* crh_Latn* cym_Latn
dik_Latn* diq_Latn dyu_Latn dzo_Tibt* ewe_Latn fao_Latn fij_Latn fon_Latn fur_Latn* fuv_Latn* gaz_Latn gla_Latn gle_Latn
grn_Latn* guj_Gujr hat_Latn hau_Latn hin_Deva hne_Deva hye_Armn ibo_Latn ilo_Latn ind_Latn jav_Latn kab_Latn* kac_Latn*
kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor kaz_Cyrl* kbp_Latn kea_Latn khk_Cyrl khm_Khmr kik_Latn kin_Latn kir_Cyrl*
kmb_Latn kmr_Latn* knc_Arab knc_Latn kon_Latn lao_Laoo lij_Latn* lim_Latn* lin_Latn lmo_Latn* ltg_Latn* ltz_Latn
lua_Latn lug_Latn luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mlt_Latn mni_Beng mos_Latn mri_Latn
mya_Mymr* npi_Deva nso_Latn nus_Latn nya_Latn ory_Orya pag_Latn pan_Guru pap_Latn pbt_Arab* pes_Arab* plt_Latn prs_Arab*
quy_Latn run_Latn sag_Latn san_Deva sat_Beng* scn_Latn* shn_Mymr sin_Sinh smo_Latn sna_Latn snd_Arab som_Latn sot_Latn
srd_Latn* ssw_Latn sun_Latn swh_Latn szl_Latn* tam_Taml taq_Latn* tat_Cyrl tel_Telu tgk_Cyrl* tgl_Latn tha_Thai
tir_Ethi* tpi_Latn tsn_Latn tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng* uig_Arab umb_Latn urd_Arab uzn_Latn
vec_Latn* war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn zsm_Latn zul_Latn
"""
LASER3 = {name.rstrip("*"): name.endswith("*") for name in _LANGUAGES.split()}


# The files ------------------------------------------------------------------------------------------------------------


class Files(NamedTuple):
    """What an encoder is read from."""

    weights: Path
    pieces: Path  # the SentencePiece model
    symbols: Path | None  # the pieces' numbers, a fairseq dictionary; LASER2's stand in its weights


def files(folder: Path, language: str | None) -> Files:
    """Those of a language's LASER3 encoder (by its FLORES name), or of LASER2 (None).

    Raises MissingModel saying where the ones that are not in `folder` come from.
    """
    stem = "laser2" if language is None else f"laser3-{language}.v1"
    vocabulary = stem if language is not None and LASER3[language] else "laser2"
    found = Files(
        folder / f"{stem}.pt",
        folder / f"{vocabulary}.spm",
        None if language is None else folder / f"{vocabulary}.cvocab",
    )
    if missing := [path.name for path in found if path is not None and not path.is_file()]:
        addresses = " ".join(f"{ADDRESS}/{name}" for name in missing)
        raise MissingModel(
            f"LASER's {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not in {folder} (retriever.folder)\n"
            f"  Meta publishes them as plain files: curl -fL --create-dirs --output-dir {folder} --remote-name-all {addresses}"
        )
    return found


# How a text is read ---------------------------------------------------------------------------------------------------

# Moses' normalize-punctuation.perl for English, in its order, as laser_encoders runs it for every language (sacremoses
# 0.1.0 with perl_parity, and ‘ and ‚ made double quotes). \xa0: no-break space. What no text has any more by then (\r,
# pairs of ´) is left out. tests/test_laser.py holds examples; 200,000 random texts came out as by sacremoses.
_PUNCTUATION = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\(", " ("), (r"\)", ") "), (r" +", " "), (r"\) ([.!:?;,])", r")\1"), (r"\( ", "("), (r" \)", ")"),
        (r"(\d) %", r"\1%"), (r" :", ":"), (r" ;", ";"),
        (r"`", "'"), (r"''", ' " '), (r"[„“”]", '"'), (r"–", "-"), (r"—", " - "), (r" +", " "), (r"´", "'"),
        (r"([a-zA-Z])‘([a-zA-Z])", r"\1'\2"), (r"([a-zA-Z])’([a-zA-Z])", r"\1'\2"), (r"[‘‚’]", '"'), (r"''", '"'),
        (r"…", "..."), ("\xa0«\xa0", ' "'), ("«\xa0?", '"') , ("\xa0»\xa0", '" '), ("\xa0?»", '"'),
        ("\xa0%", "%"), ("nº\xa0", "nº "), ("\xa0:", ":"), ("\xa0ºC", " ºC"), ("\xa0cm", " cm"), ("\xa0([?!;])", r"\1"),
        (",\xa0", ", "), (r" +", " "), (r'"([,.]+)', r'\1"'), ("(\\d)\xa0(\\d)", r"\1.\2"),
    )
]  # fmt: skip


def readable(text: str) -> str:
    """The text as LASER's SentencePiece models get it, whatever its language.

    What is not printed (Unicode's category C, line breaks and joiners among it) becomes a blank, punctuation is made
    Moses', everything lower case.
    """
    text = "".join(" " if unicodedata.category(c)[0] == "C" else c for c in text)
    for pattern, replacement in _PUNCTUATION:
        text = pattern.sub(replacement, text)
    return text.strip().lower()


class Encoder:
    """A network and its vocabulary, in the shape that `encoding.batches` runs."""

    def __init__(
        self, net: Network, pieces: Any, symbols: Mapping[str, int], bos: bool, side: Literal["left", "right"], on: str
    ) -> None:
        import torch

        self.net, self.pieces, self.bos, self.padding_side = net, pieces, bos, side
        self.symbols = {**symbols, **{symbol: i for i, symbol in enumerate(SPECIAL)}}
        self.device = torch.device(on)
        self.tokenizer = self  # batches asks it for `padding_side`

    def tokens(self, text: str, most: int | None) -> list[str]:
        """The pieces of a text with its special symbols, at most `most`, the closing one always."""
        found = " ".join(self.pieces.encode(readable(text), out_type=str)).split()
        opening = ["<s>"] if self.bos else []
        return [*opening, *(found if most is None else found[: max(0, most - 1 - len(opening))]), "</s>"]

    def ids(self, tokens: Sequence[str]) -> list[int]:
        return [self.symbols.get(token, UNK) for token in tokens]

    def preprocess(self, texts: Sequence[str], most: int | None = None) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (texts, tokens)."""
        import torch

        rows = [torch.tensor(self.ids(self.tokens(text, most))) for text in texts]
        ids = torch.nn.utils.rnn.pad_sequence(rows, True, PAD, self.padding_side)
        return {"input_ids": ids, "attention_mask": ids.ne(PAD).long()}

    def __call__(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`sentence_embedding` (texts, width): padding is in no maximum."""
        import torch

        ids, read = features["input_ids"], features["attention_mask"].bool()
        states = self.net.states(ids, read)
        if self.net.pooling == "cls":
            return {
                "sentence_embedding": states[torch.arange(len(ids), device=ids.device), ids.eq(BOS).int().argmax(1)]
            }
        return {"sentence_embedding": states.masked_fill(~read[..., None], -math.inf).amax(1)}


# The networks ---------------------------------------------------------------------------------------------------------


class Network:
    """`states` gives (texts, tokens, width) of ids (texts, tokens), of which `read` are no padding."""

    parts: torch.nn.ModuleDict  # under the names that the files give the weights
    width: int
    most: int | None = None  # tokens it has positions for
    pooling: Literal["max", "cls"] = "max"

    def states(self, ids: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class BiLSTM(Network):
    """LASER2: 5 layers of 512 units in each direction, as the file's `params` say."""

    def __init__(
        self, num_embeddings: int, padding_idx: int, embed_dim: int = 320, hidden_size: int = 512, num_layers: int = 1,
        bidirectional: bool = False, left_pad: bool = True, padding_value: float = 0.0,
    ) -> None:  # fmt: skip
        from torch import nn

        self.width = hidden_size * (2 if bidirectional else 1)
        lstm = nn.LSTM(embed_dim, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional)
        self.parts = nn.ModuleDict({"embed_tokens": nn.Embedding(num_embeddings, embed_dim, padding_idx), "lstm": lstm})

    def states(self, ids: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

        given, lengths = self.parts["embed_tokens"](ids), read.sum(1).cpu()
        packed = pack_padded_sequence(given, lengths, batch_first=True, enforce_sorted=False)
        found, _ = pad_packed_sequence(self.parts["lstm"](packed)[0], batch_first=True, total_length=ids.shape[1])
        return found


class Transformer(Network):
    """LASER3: fairseq's transformer encoder, as the Namespace of its training says; what that leaves out has fairseq's default.

    `rows`: symbols it knows.
    """

    def __init__(self, said: Any, weights: Mapping[str, torch.Tensor], rows: int) -> None:
        from torch import nn

        def option(name: str, default: Any) -> Any:
            return getattr(said, name, default)

        self.width = width = option("encoder_embed_dim", 512)
        self.pooling = "cls" if said.sentemb_criterion == "cls" else "max"
        self.scale = 1.0 if option("no_scale_embedding", False) else math.sqrt(width)
        before = option("encoder_normalize_before", False)
        layers = [
            nn.TransformerEncoderLayer(
                width, option("encoder_attention_heads", 8), option("encoder_ffn_embed_dim", 2048),
                activation=option("activation_fn", "relu"), batch_first=True, norm_first=before,
            )
            for _ in range(option("encoder_layers", 6))
        ]  # fmt: skip
        self.parts = nn.ModuleDict({"embed_tokens": nn.Embedding(rows, width, PAD), "layers": nn.ModuleList(layers)})
        self.counts = not option("no_token_positional_embeddings", False)
        if self.counts and option("encoder_learned_pos", False):
            self.most = option("max_source_positions", 1024)
            self.parts["embed_positions"] = nn.Embedding(self.most + PAD + 1, width, PAD)
        if option("layernorm_embedding", False):
            self.parts["layernorm_embedding"] = nn.LayerNorm(width)
        if before or "layer_norm.weight" in weights:
            self.parts["layer_norm"] = nn.LayerNorm(width)

    def states(self, ids: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        x = self.scale * self.parts["embed_tokens"](ids)
        if self.counts:
            x = x + self._positions(read.int().cumsum(1) * read + PAD)  # the first token's is PAD + 1 on either side
        if "layernorm_embedding" in self.parts:
            x = self.parts["layernorm_embedding"](x)
        for layer in self.parts["layers"].children():
            x = layer(x, src_key_padding_mask=~read)
        return x if "layer_norm" not in self.parts else self.parts["layer_norm"](x)  # type: ignore[no-any-return]

    def _positions(self, places: torch.Tensor) -> torch.Tensor:
        import torch

        if "embed_positions" in self.parts:
            learned: torch.Tensor = self.parts["embed_positions"](places)
            return learned
        half = self.width // 2
        waves = torch.exp(torch.arange(half, device=places.device) * -(math.log(10000) / (half - 1)))
        angles = places[..., None] * waves
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


# Loading --------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)  # a query's encoder and a document's
def load(found: Files, on: str) -> Encoder:
    """An encoder in evaluation mode, float32, on device `on`; kept with the one used before.

    Raises MissingModel naming the file for what does not load, does not fit, or would have to run code.
    """
    state = _unpickled(found.weights)
    net: Network
    try:
        if found.symbols is None:
            weights, symbols = state["model"], state["dictionary"]
            net, bos, left = BiLSTM(**state["params"]), False, False  # as the package reads, whatever left_pad says
        else:
            weights = dict(_encoder_weights(state["model"]))
            said = state["cfg"]["model"] if "cfg" in state else state["args"]
            symbols = _symbols(found.symbols)
            if "layer_norm.weight" in weights:  # how laser_encoders knows that there is one symbol more
                symbols.setdefault("<mask>", len(symbols))
            net, bos, left = Transformer(said, weights, len(symbols)), said.prepend_bos, said.left_pad_source
            if net.pooling == "cls" and not bos:
                raise ValueError("the vector is that of <s>, and prepend_bos=False puts none before a text")
        net.parts.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        kind = "LASER2" if found.symbols is None else "LASER3"
        beside = "" if found.symbols is None else f" with the symbols of {found.symbols.name}"
        raise MissingModel(
            f"{found.weights} is no {kind} encoder{beside} ({type(error).__name__}: {' '.join(str(error).split())[:300]})\n"
            f"  it is another model's file under this name, or another version: {ADDRESS}/{found.weights.name}"
        ) from error
    net.parts.eval().to(on)
    return Encoder(net, _pieces(found.pieces), symbols, bool(bos), "left" if left else "right", on)


def _unpickled(path: Path) -> dict[str, Any]:
    """A checkpoint: tensors, plain values and argparse.Namespace; nothing else is unpickled, no code of the file runs."""
    import argparse
    import pickle

    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        if named := re.search(r"GLOBAL (\S+)", str(error)):  # torch's own words go on to advise weights_only=False
            raise MissingModel(
                f"{path} holds a {named[1]}, and clir unpickles tensors, plain values and argparse.Namespace only\n"
                f"  it is not the published file, or another version: {ADDRESS}/{path.name}"
            ) from error
        raise MissingModel(
            f"{path} is no checkpoint of torch ({type(error).__name__}); download it again: {ADDRESS}/{path.name}"
        ) from error
    if not isinstance(found, dict):
        raise MissingModel(f"{path} holds a {type(found).__name__}, no checkpoint of LASER: {ADDRESS}/{path.name}")
    return found


def _encoder_weights(weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The encoder's, under torch's names: `q`, `k` and `v` in one matrix."""
    import torch

    names = {"fc1": "linear1", "fc2": "linear2", "self_attn_layer_norm": "norm1", "final_layer_norm": "norm2"}
    for key, value in weights.items():
        if key.startswith("decoder."):
            continue
        name = key.removeprefix("encoder.")
        if name in {"version", "embed_positions._float_tensor", "embed_positions.weights"}:
            continue  # fairseq's bookkeeping
        if ".q_proj." in name:
            parts = [weights[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            yield re.sub(r"\.q_proj\.", ".in_proj_", name), torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            yield re.sub(r"^(layers\.\d+\.)(\w+)", lambda m: m[1] + names.get(m[2], m[2]), name), value


def _symbols(path: Path) -> dict[str, int]:
    """The numbers of a fairseq dictionary's symbols: a line is `symbol count`, the first number after the special ones."""
    found = {symbol: i for i, symbol in enumerate(SPECIAL)}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            symbol, _, count = line.rstrip().rpartition(" ")
            if not symbol or not count.isdigit() or symbol in found:
                raise MissingModel(
                    f"{path}:{number}: expected a new symbol and its count, got {line.rstrip()[:80]!r}; "
                    f"download it again: {ADDRESS}/{path.name}"
                )
            found[symbol] = len(found)
    return found


def _pieces(path: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise MissingModel(
            f"{path} is no SentencePiece model ({str(error)[:200]}); download it again: {ADDRESS}/{path.name}"
        ) from error
