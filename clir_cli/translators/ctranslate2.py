"""CTranslate2 under Seq2Seq: models converted on first use, kept beside the hub's cache, run in its own batches."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from clir_cli.errors import ConfigError, MissingModel
from clir_cli.models import hub
from clir_cli.models.room import Room
from clir_cli.progress import say, track

Row = tuple[int, ...]  # the tokens of a text


class Written(NamedTuple):
    """What a model wrote: its tokens without those that begin and fill up, and whether it came to an end."""

    tokens: list[int]
    ended: bool


CALL = 4096  # rows in a call: CTranslate2 sorts and batches them itself


def cache_folder() -> Path:
    """Where converted models are: beside the hub's cache (HF_HOME or HF_HUB_CACHE moves both)."""
    return hub.cache_folder().parent / "clir-ctranslate2"


def converted(folder: Path, dtype: str) -> Path:
    """The converted copy of a model folder, made if it is not here; of two jobs that need it one makes it.

    It is found by the folder, its files' sizes and times, `dtype` and CTranslate2's version. Raises MissingModel for a
    model that CTranslate2 does not take.
    """
    import ctranslate2
    from filelock import SoftFileLease

    files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file())
    said = json.dumps([str(folder), files, dtype, ctranslate2.__version__])
    name = f"{_name(folder)}-{dtype}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    made = cache_folder() / name
    if made.is_dir():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    with SoftFileLease(made.with_name(f".{name}.lock"), lease_duration=60):
        if not made.is_dir():
            say(f"converting {_name(folder)} for CTranslate2 ({dtype}), once, into {made}")
            draft = made.with_name(f".{name}.{os.getpid()}")
            try:
                _convert(folder, draft, dtype)
                draft.rename(made)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return made


def _name(folder: Path) -> str:
    """`facebook--nllb-200-distilled-600M` of a snapshot in the hub's cache, else the folder's own name."""
    return folder.parent.parent.name.removeprefix("models--") if folder.parent.name == "snapshots" else folder.name


def _convert(folder: Path, into: Path, dtype: str) -> None:
    from ctranslate2.converters import TransformersConverter

    converter = TransformersConverter(str(folder), load_as_float16="float16" in dtype)
    load_tokenizer = converter.load_tokenizer

    def with_languages(*arguments: Any, **more: Any) -> Any:
        """M2M100's tokenizer in transformers >= 5 leaves the languages out of what CTranslate2 takes for its words."""
        tokenizer = load_tokenizer(*arguments, **more)
        if languages := getattr(tokenizer, "lang_token_to_id", None):
            words = {**tokenizer.get_vocab(), **languages}
            tokenizer.get_vocab = lambda: words
        return tokenizer

    converter.load_tokenizer = with_languages
    try:
        converter.convert(str(into), quantization=dtype)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise MissingModel(
            f"{folder} cannot be converted for CTranslate2: {error}\n  translator.backend=transformers runs it as it is"
        ) from error


@lru_cache(maxsize=2)
def load(folder: Path, dtype: str, on: str, threads: int) -> Any:
    """A ctranslate2.Translator of the converted model. Raises ConfigError for a dtype that the device does not compute."""
    import ctranslate2

    kind, _, index = on.partition(":")
    if kind not in {"cpu", "cuda"}:
        raise ConfigError(f"translator.device={on}: CTranslate2 runs on cpu and cuda")
    try:
        computes = ctranslate2.get_supported_compute_types(kind, int(index or 0))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"translator.device={on}: CTranslate2 cannot use it: {error}") from error
    if dtype not in computes:
        raise ConfigError(
            f"translator.dtype={dtype}: CTranslate2 computes {', '.join(sorted(computes))} on this {kind}"
        )
    return ctranslate2.Translator(
        str(converted(folder, dtype)),
        device=kind,
        device_index=int(index or 0),
        compute_type=dtype,
        intra_threads=threads,
    )


def write(
    translator: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    what: str,
    room: Room,
    forced: int | None,
    **search: Any,
) -> dict[Row, Written]:
    """What the model writes for every row. `forced`: the token that a translation begins with, given as its prefix."""
    written: dict[Row, Written] = {}
    prefix = None if forced is None else [tokenizer.convert_ids_to_tokens(forced)]
    end = tokenizer.eos_token_id
    for begin in track(range(0, len(rows), CALL), len(rows), what, "sentences", CALL):
        part = rows[begin : begin + CALL]
        words = [tokenizer.convert_ids_to_tokens(row) for row in part]
        while True:
            try:
                found = translator.translate_batch(
                    words, target_prefix=None if prefix is None else [prefix] * len(part), max_batch_size=room.tokens,
                    batch_type="tokens", max_input_length=0, return_end_token=True, **search,
                )  # fmt: skip
                break
            except RuntimeError as error:
                longest = max(map(len, part))
                room.halve(max(1, room.tokens // longest), longest, translator.device, error)
        for row, result in zip(part, found, strict=True):
            tokens = tokenizer.convert_tokens_to_ids(result.hypotheses[0])
            written[row] = Written(tokens, tokens[-1:] == [end])
    return written
