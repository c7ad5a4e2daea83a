"""Encoder-decoder translation models of the hub: NLLB, M2M100, WMT21, mBART-50, MADLAD-400, SONAR, OPUS-MT's one per direction."""

from __future__ import annotations

import copy
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from clir_cli.errors import ConfigError, LanguageError, MissingModel, RunError
from clir_cli.files import read_json
from clir_cli.models import hub
from clir_cli.models.encoding import check_source, device
from clir_cli.models.room import Room
from clir_cli.progress import track
from clir_cli.text.languages import LANGUAGES, language
from clir_cli.text.translation import Made, Pieced
from clir_cli.translators import ctranslate2
from clir_cli.translators.ctranslate2 import Row, Written
from clir_cli.types import added, model, neutral

Codes = Literal["none", "nllb", "m2m100", "mbart", "madlad"]
DType = Literal["float32", "bfloat16", "float16", "int8", "int8_float32", "int8_float16", "int8_bfloat16"]
_COLUMNS = {"nllb": "nllb", "m2m100": "m2m100", "mbart": "mbart", "madlad": "code"}  # of languages.py, with its codes
_MADLAD = {
    "he": "iw",
    "tl": "fil",
    "nb": "no",
}  # MADLAD-400's names (Kudugunta et al. 2023) where they are not ISO 639-1
CPU_TOKENS, GPU_TOKENS = 1536, 16_384  # padded source tokens in a batch


@dataclass(frozen=True)
class Seq2Seq(Pieced):
    """Translate with a sequence-to-sequence model: greedy or beam search, deterministic, by transformers or CTranslate2.

    `model` of a one-direction family holds {source} and {target} (Helsinki-NLP/opus-mt-{source}-{target}); a single
    one-direction model says its languages in `source` and `target`. `model_for` is the model of a direction.
    CTranslate2 (Klein et al. 2020) runs a copy that is converted on first use and kept beside the hub's cache.
    """

    model: str = model()
    revision: str | None = None
    codes: Codes = "none"  # whose names of languages it takes; none: one direction
    source: str | None = None
    target: str | None = None
    sources: tuple[str, ...] | None = neutral(None)  # the languages it reads, where `codes` has more
    targets: tuple[str, ...] | None = neutral(None)  # and those it writes
    # Stands in every identity: these models drop what follows the first sentences of a paragraph.
    unit: Literal["sentence", "chunk", "document"] = field(default="sentence", kw_only=True)
    backend: Literal["transformers", "ctranslate2"] = added("transformers", "transformers")
    pooled: bool = added(
        False, False
    )  # SONAR: the decoder sees the mean of the encoder's vectors (Duquenne et al. 2023)
    beams: int = 1  # 1: greedy
    patience: float = added(1.0, 1.0)  # CTranslate2's beams: 2 waits until it has found two times as many ends
    max_tokens: int = 256  # of a piece with its special tokens; the rest is cut off and counted
    max_new_tokens: int | None = 256  # of a translation; null: what the model's generation_config says
    dtype: DType = "float32"  # int8...: CTranslate2 only
    batch_tokens: int | None = neutral(None)  # padded tokens a batch; null: 1536 on a CPU, 16384 on a GPU
    threads: int = neutral(0)  # CTranslate2's on a CPU; 0: as many as it likes
    device: str = neutral("auto")  # auto: the GPU if there is one; cpu, cuda, cuda:1, mps

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codes != "none" and (self.source or self.target or self._has_places):
            raise ValueError(
                f"codes={self.codes} is for one model of many languages: no source, target or {{source}} in it"
            )
        if self.codes == "none" and not self._has_places and not (self.source and self.target):
            raise ValueError(
                "codes=none needs {source} and {target} in `model`, or the model's own `source` and `target`"
            )
        amounts = (self.beams, self.max_tokens, self.max_new_tokens, self.batch_tokens)
        if any(amount is not None and amount < 1 for amount in amounts) or self.patience <= 0:
            raise ValueError("beams, max_tokens, max_new_tokens, batch_tokens and patience are at least 1")
        if self.backend == "transformers" and (self.dtype.startswith("int8") or self.patience != 1):
            raise ValueError(f"dtype={self.dtype} with patience={self.patience:g} is for backend=ctranslate2")
        if self.backend == "ctranslate2" and self.pooled:
            raise ValueError("pooled=true (SONAR) needs backend=transformers: CTranslate2 cannot be given a vector")
        check_source(self.model, self.revision, trust_remote_code=False)

    @property
    def engines(self) -> tuple[str, ...]:
        """The packages whose versions decide the result."""
        own = ("transformers",) if self.backend == "transformers" else ("transformers", "ctranslate2")
        return (*own, *super().engines)

    @property
    def _has_places(self) -> bool:
        return "{source}" in self.model and "{target}" in self.model

    def model_for(self, source: str, target: str) -> str:
        """The hub id or folder that translates source to target."""
        return self.model.replace("{source}", source).replace("{target}", target)

    # Languages

    def directions(self, source: str, target: str) -> str | None:
        """None if the model has both languages, else which it has; whether an OPUS-MT model exists only the hub knows."""
        asked = (language(source), language(target))
        if self.codes == "none":
            if self._has_places or (source, target) == (self.source, self.target):
                return None
            return f"{self.model} translates {self.source} to {self.target}, not {source} to {target}"
        for lang, only, does in ((source, self.sources, "reads"), (target, self.targets, "writes")):
            if only is not None and lang not in only:
                return f"{self.model} {does} {', '.join(only)}, not {lang}"
        column = _COLUMNS[self.codes]
        lacking = " and ".join(row.code for row in asked if getattr(row, column) is None)
        known = ", ".join(code for code, row in LANGUAGES.items() if getattr(row, column))
        return f"{self.model} has no language {lacking}; it has {known}" if lacking else None

    def check(self, source: str, target: str) -> None:
        """Refuse, before anything runs, a model that is not here and cannot be fetched, that lacks a file, or that does
        not know a language. Fetches the model, loads its tokenizer only."""
        if self.backend == "ctranslate2" and importlib.util.find_spec("ctranslate2") is None:
            raise ConfigError("translator.backend=ctranslate2 needs the package: pip install 'clir[ctranslate2]'")
        folder = self._folder(source, target)
        _check_files(folder)
        if self.codes != "none":
            tokenizer = _tokenizer(folder)
            self._token(tokenizer, target)
            if self.codes != "madlad":
                self._token(tokenizer, source)

    def _token(self, tokenizer: Any, code: str) -> int:
        """The id of the token that names a language."""
        name = getattr(language(code), _COLUMNS[self.codes])
        token = {"m2m100": f"__{name}__", "madlad": f"<2{_MADLAD.get(name, name)}>"}.get(self.codes, name)
        number = tokenizer.convert_tokens_to_ids(token)
        if number is None or number == tokenizer.unk_token_id:
            raise LanguageError(
                f"the tokenizer of {self.model} has no token {token!r} for {code}: is it a {self.codes} model?"
            )
        return int(number)

    # Translating

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """As many translations as texts. The same texts in one call form the same batches, whatever their order."""
        return [made.text for made in self.answers(texts, source, target)]

    def answers(self, texts: Sequence[str], source: str, target: str) -> list[Made]:
        """The translations, with the tokens that were cut off and whether the model came to an end."""
        if not texts:
            return []
        tokenizer, write = self._ready(source, target)
        rows, cut = self._encode(tokenizer, texts, target)
        different = sorted(set(rows), key=lambda row: (len(row), row))
        written = write(different, f"translate {source}-{target}")
        special = frozenset() if self.codes in {"none", "madlad"} else frozenset({self._token(tokenizer, target)})
        said = [[token for token in written[row].tokens if token not in special] for row in different]
        decoded = dict(zip(different, tokenizer.batch_decode(said, skip_special_tokens=True), strict=True))
        return [Made(decoded[row], n, not written[row].ended) for row, n in zip(rows, cut, strict=True)]

    def sizes(self, texts: Sequence[str], source: str, target: str) -> list[int]:
        """Tokens of each text with the special ones."""
        return list(map(len, self._ids(self._reader(source, target), texts, target)))

    def _reader(self, source: str, target: str) -> Any:
        """The tokenizer, reading `source`."""
        if reason := self.directions(source, target):
            raise LanguageError(reason)
        tokenizer = _tokenizer(self._folder(source, target))
        if self.codes in {"nllb", "m2m100", "mbart"}:
            self._token(tokenizer, source)
            tokenizer.src_lang = getattr(language(source), _COLUMNS[self.codes])
        return tokenizer

    def _ready(self, source: str, target: str) -> tuple[Any, Callable[[Sequence[Row], str], Mapping[Row, Written]]]:
        """The tokenizer, reading `source`, and what writes `target` as this component says."""
        tokenizer, folder = self._reader(source, target), self._folder(source, target)
        forced = None if self.codes in {"none", "madlad"} else self._token(tokenizer, target)
        self._check_positions(folder, source, target)
        on = device(self.device)
        room = Room(self.batch_tokens or (CPU_TOKENS if on == "cpu" else GPU_TOKENS))
        if self.backend == "ctranslate2":
            limit = self.max_new_tokens or _own_limit(folder)
            return tokenizer, lambda rows, what: ctranslate2.write(
                ctranslate2.load(folder, self.dtype, on, self.threads), tokenizer, rows, what, room, forced,
                beam_size=self.beams, patience=self.patience, max_decoding_length=limit,
            )  # fmt: skip
        net, own = _load(folder, self.dtype, on)
        net.generation_config = generation = copy.deepcopy(own)
        generation.num_beams, generation.do_sample = self.beams, False
        if self.beams == 1:
            generation.early_stopping = False  # a rule for beams: without them it is only warned about
        if self.max_new_tokens:
            generation.max_new_tokens, generation.max_length = self.max_new_tokens, None
        if forced is not None:
            generation.forced_bos_token_id = forced
        return tokenizer, lambda rows, what: _write(net, tokenizer.pad_token_id, rows, what, room, self.pooled)

    def _folder(self, source: str, target: str) -> Path:
        return hub.folder(self.model_for(source, target), self.revision)

    def _check_positions(self, folder: Path, source: str, target: str) -> None:
        longest = getattr(_config(folder), "max_position_embeddings", None)
        if longest and longest < max(self.max_tokens, self.max_new_tokens or 1):
            name = self.model_for(source, target)
            raise ConfigError(f"{name} has {longest} positions: max_tokens and max_new_tokens cannot be more")

    def _ids(self, tokenizer: Any, texts: Sequence[str], target: str, **how: Any) -> list[list[int]]:
        if self.codes == "madlad":
            name = f"<2{_MADLAD.get(target, target)}>"
            texts = [f"{name} {text}" for text in texts]
        return list(tokenizer(list(texts), verbose=False, **how)["input_ids"])

    def _encode(self, tokenizer: Any, texts: Sequence[str], target: str) -> tuple[list[Row], list[int]]:
        """The token ids of every text, at most `max_tokens`, and how many were cut off."""
        rows = self._ids(tokenizer, texts, target)
        cut = [max(0, len(row) - self.max_tokens) for row in rows]
        if long := [i for i, n in enumerate(cut) if n]:
            short = self._ids(tokenizer, [texts[i] for i in long], target, truncation=True, max_length=self.max_tokens)
            for i, row in zip(long, short, strict=True):
                rows[i] = row
        for row, text in zip(rows, texts, strict=True):
            if tokenizer.eos_token_id not in row:  # without it the translation does not end where the sentence does
                raise RunError(f"the tokenizer of {self.model} puts no end-of-sentence token after {text[:80]!r}")
        return [tuple(row) for row in rows], cut


# transformers ---------------------------------------------------------------------------------------------------------


def _write(net: Any, pad: int, rows: Sequence[Row], what: str, room: Room, pooled: bool) -> dict[Row, Written]:
    """What the model writes for every row; `rows` come by length, then by ids."""
    written: dict[Row, Written] = {}
    for batch, found in track(_computed(net, pad, rows, room, pooled), None, what, "batches"):
        written.update(zip(batch, found, strict=True))
    return written


def _computed(
    net: Any, pad: int, rows: Sequence[Row], room: Room, pooled: bool
) -> Iterator[tuple[list[Row], list[Written]]]:
    """Batch by batch; one that does not fit into a GPU's memory is halved, and all that follow."""
    start = 0
    while start < len(rows):
        batch = next(_batches(itertools.islice(rows, start, None), room.tokens))
        try:
            found = _generated(net, pad, batch, pooled)
        except RuntimeError as error:
            room.halve(len(batch), len(batch[-1]), net.device, error)
            continue
        yield batch, found
        start += len(batch)


def _generated(net: Any, pad: int, batch: Sequence[Row], pooled: bool) -> list[Written]:
    import torch

    width = len(batch[-1])
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in batch], device=net.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=net.device)
    with torch.inference_mode():
        # the mask by hand: transformers >= 5 infers none and would read the padding
        given = _pooled(net, ids, mask) if pooled else {"input_ids": ids, "attention_mask": mask}
        output = net.generate(**given).tolist()
    generation = net.generation_config
    end, limit = generation.eos_token_id, generation.max_new_tokens or (generation.max_length or 1 << 30) - 1
    ends = set(end) if isinstance(end, list) else {end}
    return [_ended(row[1:], pad, ends, limit if generation.forced_eos_token_id is not None else None) for row in output]


def _pooled(net: Any, ids: Any, mask: Any) -> dict[str, Any]:
    """What SONAR's decoder is given: the mean of the encoder's vectors, as the only one it can look at."""
    from transformers.modeling_outputs import BaseModelOutput

    states = net.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state  # (rows, width, dimensions)
    weights = mask.unsqueeze(-1).to(states.dtype)
    mean = (states * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)  # (rows, 1, dimensions)
    return {"encoder_outputs": BaseModelOutput(last_hidden_state=mean), "attention_mask": mask[:, :1]}


def _ended(row: list[int], pad: int, ends: set[int], forced_at: int | None) -> Written:
    """A row up to its end token; an end that was forced at the limit is none."""
    length = next((at + 1 for at, token in enumerate(row) if token in ends), None)
    if length is None:
        return Written([token for token in row if token != pad], False)
    return Written(row[:length], length != forced_at)


def _batches(rows: Iterable[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Rows that come by length, as many together as `batch_tokens` holds with their padding."""
    batch: list[Row] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


# Loading --------------------------------------------------------------------------------------------------------------


def _check_files(folder: Path) -> None:
    """Raise MissingModel naming what a model's folder lacks."""
    found = {path.name for path in folder.iterdir()}
    absent = [] if "config.json" in found else ["config.json"]
    if not any(name.endswith((".model", ".spm")) or name in {"tokenizer.json", "vocab.json"} for name in found):
        absent.append("the tokenizer (tokenizer.json, or *.spm, *.model with vocab.json)")
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if index in found:
            absent += sorted(set(read_json(folder / index)["weight_map"].values()) - found)
    if not any(
        name.startswith(("model", "pytorch_model")) and name.endswith((".safetensors", ".bin")) for name in found
    ):
        absent.append("the weights (model.safetensors or pytorch_model.bin)")
    if absent:
        raise MissingModel(
            f"{folder} does not load as a translation model with its tokenizer: it lacks {', '.join(absent)}\n"
            f"  it holds {', '.join(sorted(found)) or 'nothing'}; copy or download all files again"
        )


@lru_cache(maxsize=4)  # queries and documents may be translated in opposite directions, and through a pivot
def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    _check_files(folder)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise MissingModel(f"{folder} does not load as a translation model with its tokenizer: {error}") from error


@lru_cache(maxsize=4)
def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise MissingModel(f"{folder} does not load as a translation model with its tokenizer: {error}") from error


def _own_limit(folder: Path) -> int:
    """The tokens that the model's own generation_config lets it write."""
    from transformers import GenerationConfig

    own = GenerationConfig.from_pretrained(folder)
    return int(own.max_new_tokens or (own.max_length or 257) - 1)


@lru_cache(maxsize=2)
def _load(folder: Path, dtype: str, on: str) -> tuple[Any, Any]:
    """The model and its own generation config, once per process."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSeq2SeqLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # progress.py says what is done
    try:
        net = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(on)
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingModel(f"{folder} does not load as a translation model with its tokenizer: {error}") from error
    return net, net.generation_config
