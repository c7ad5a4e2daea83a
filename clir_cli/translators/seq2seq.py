"""Encoder-decoder translation models of the hub: NLLB, M2M100, mBART-50, and OPUS-MT's one model per direction."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from clir_cli import hub
from clir_cli.errors import ConfigError, LanguageError, MissingModel, RunError
from clir_cli.languages import LANGUAGES, language
from clir_cli.progress import track
from clir_cli.types import model, neutral

_COLUMNS = {"nllb": "flores", "m2m100": "m2m100", "mbart": "mbart"}  # the column of languages.py that holds its codes


@dataclass(frozen=True)
class Seq2Seq:
    """Translate with a transformers sequence-to-sequence model: greedy or beam search, deterministic.

    `model` of a one-direction family holds {source} and {target} (Helsinki-NLP/opus-mt-{source}-{target}); a single
    one-direction model says its languages in `source` and `target`. `model_for` is the model of a direction.
    """

    engines: ClassVar[tuple[str, ...]] = ("transformers",)  # whose versions decide the result

    model: str = model()
    revision: str | None = None
    codes: Literal["none", "nllb", "m2m100", "mbart"] = "none"  # whose names of languages it takes; none: one direction
    source: str | None = None
    target: str | None = None
    unit: Literal["sentence", "text"] = "sentence"  # these models drop what follows the first sentences of a paragraph
    beams: int = 1  # 1: greedy
    max_tokens: int = 256  # of a sentence with its special tokens; the rest is cut off and counted
    max_new_tokens: int | None = 256  # of a translation; null: what the model's generation_config says
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: int | None = neutral(None)  # padded tokens a batch; null: 1536 on a CPU, 16384 on a GPU
    device: str = neutral("auto")  # auto: the GPU if there is one; cpu, cuda, cuda:1, mps

    def __post_init__(self) -> None:
        if self.codes != "none" and (self.source or self.target or self._has_places):
            raise ValueError(
                f"codes={self.codes} is for one model of many languages: no source, target or {{source}} in it"
            )
        if self.codes == "none" and not self._has_places and not (self.source and self.target):
            raise ValueError(
                "codes=none needs {source} and {target} in `model`, or the model's own `source` and `target`"
            )
        amounts = (self.beams, self.max_tokens, self.max_new_tokens, self.batch_tokens)
        if any(amount is not None and amount < 1 for amount in amounts):
            raise ValueError("beams, max_tokens, max_new_tokens and batch_tokens are at least 1")

    @property
    def _has_places(self) -> bool:
        return "{source}" in self.model and "{target}" in self.model

    def model_for(self, source: str, target: str) -> str:
        """The hub id or folder that translates source to target."""
        return self.model.replace("{source}", source).replace("{target}", target)

    def directions(self, source: str, target: str) -> str | None:
        """None if the model has both languages, else which it has; whether an OPUS-MT model exists only the hub knows."""
        asked = (language(source), language(target))
        if self.codes == "none":
            if self._has_places or (source, target) == (self.source, self.target):
                return None
            return f"{self.model} translates {self.source} to {self.target}, not {source} to {target}"
        column = _COLUMNS[self.codes]
        lacking = " and ".join(row.code for row in asked if getattr(row, column) is None)
        known = ", ".join(code for code, row in LANGUAGES.items() if getattr(row, column))
        return f"{self.model} has no language {lacking}; it has {known}" if lacking else None

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """As many translations as texts. The same texts in one call form the same batches, whatever their order."""
        if not texts:
            return []
        import torch

        tokenizer, net = self._ready(source, target)
        rows = self._encode(tokenizer, texts)
        batches = list(_batches(rows, self.batch_tokens or (1536 if net.device.type == "cpu" else 16384)))
        translated: dict[tuple[int, ...], str] = {}
        with torch.inference_mode():
            for batch in track(batches, len(batches), f"translate {source}-{target}", "batches"):
                width = len(batch[-1])
                ids = [[*row, *[tokenizer.pad_token_id] * (width - len(row))] for row in batch]
                mask = [[1] * len(row) + [0] * (width - len(row)) for row in batch]
                written = net.generate(  # the mask by hand: transformers >= 5 infers none and would read the padding
                    input_ids=torch.tensor(ids, device=net.device), attention_mask=torch.tensor(mask, device=net.device)
                )
                translated.update(zip(batch, self._decode(tokenizer, net, written.tolist()), strict=True))
        return [translated[row] for row in rows]

    def too_long(self, texts: Sequence[str], source: str, target: str) -> list[bool]:
        """Which texts are longer than `max_tokens`, so that only their beginning is translated."""
        tokenizer, _ = self._ready(source, target)
        return [len(ids) > self.max_tokens for ids in tokenizer(list(texts), verbose=False)["input_ids"]]

    def _ready(self, source: str, target: str) -> tuple[Any, Any]:
        """The tokenizer, reading `source`, and the model, writing `target` as this component says."""
        if reason := self.directions(source, target):
            raise LanguageError(reason)
        name = self.model_for(source, target)
        tokenizer, net, own = _load(hub.folder(name, self.revision), self.dtype, self.device)
        longest = getattr(net.config, "max_position_embeddings", None)
        if longest and longest < max(self.max_tokens, self.max_new_tokens or 1):
            raise ConfigError(f"{name} has {longest} positions: max_tokens and max_new_tokens cannot be more")
        net.generation_config = generation = copy.deepcopy(own)
        generation.num_beams, generation.do_sample = self.beams, False
        if self.beams == 1:
            generation.early_stopping = False  # a rule for beams: without them it is only warned about
        if self.max_new_tokens:
            generation.max_new_tokens, generation.max_length = self.max_new_tokens, None
        if self.codes != "none":
            self._token(tokenizer, source)
            tokenizer.src_lang = getattr(language(source), _COLUMNS[self.codes])
            generation.forced_bos_token_id = self._token(tokenizer, target)
        return tokenizer, net

    def _token(self, tokenizer: Any, code: str) -> int:
        """The id of the token that names a language."""
        name = getattr(language(code), _COLUMNS[self.codes])
        token = f"__{name}__" if self.codes == "m2m100" else name
        number = tokenizer.convert_tokens_to_ids(token)
        if number is None or number == tokenizer.unk_token_id:
            raise LanguageError(
                f"the tokenizer of {self.model} has no token {token!r} for {code}: is it a {self.codes} model?"
            )
        return int(number)

    def _encode(self, tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
        rows = tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        for row, text in zip(rows, texts, strict=True):
            if tokenizer.eos_token_id not in row:  # without it the translation does not end where the sentence does
                raise RunError(f"the tokenizer of {self.model} puts no end-of-sentence token after {text[:80]!r}")
        return [tuple(row) for row in rows]

    def _decode(self, tokenizer: Any, net: Any, rows: list[list[int]]) -> list[str]:
        if self.codes != "none":  # M2M100's tokenizer does not count the language's name among its special tokens
            forced = net.generation_config.forced_bos_token_id
            rows = [[number for number in row if number != forced] for row in rows]
        return list(tokenizer.batch_decode(rows, skip_special_tokens=True))


def _batches(rows: Sequence[tuple[int, ...]], batch_tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Every different row once, by length, then by ids; as many together as `batch_tokens` holds with their padding."""
    batch: list[tuple[int, ...]] = []
    for row in sorted(set(rows), key=lambda row: (len(row), row)):
        if batch and (len(batch) + 1) * len(row) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@lru_cache(maxsize=2)  # queries and documents may be translated in opposite directions
def _load(folder: Path, dtype: str, device: str) -> tuple[Any, Any, Any]:
    """Tokenizer, model and the model's own generation config, once per process."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # progress.py says what is done
    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        net = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(where)
        return AutoTokenizer.from_pretrained(folder), net, net.generation_config
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingModel(f"{folder} does not load as a translation model with its tokenizer: {error}") from error
