"""Encoders and cross-encoders: loading them, and running texts through them in token-budget batches."""

from __future__ import annotations

import json
import logging
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from clir_cli import progress
from clir_cli.errors import ConfigError, LanguageError, MissingModel
from clir_cli.models import accelerated, assembly, composition, hub, threads
from clir_cli.models.assembly import AS_IT_IS, Assembly
from clir_cli.models.composition import Composition
from clir_cli.models.room import Room

if TYPE_CHECKING:
    import torch

DType: TypeAlias = Literal["float32", "bfloat16", "float16"]
Weights: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]  # int8: as accelerated.py says
Pooling: TypeAlias = Literal["model", "mean", "cls", "last", "max"]
Input: TypeAlias = str | tuple[str, str]  # a text, or a query and a document that are read together

CHUNK_TEXTS = 2048  # texts tokenised at once
CHUNK_CHARACTERS = 1 << 22  # texts x the longest: some 100 MB of token ids at most, also for 8,192-token models
CPU_TOKENS = 1024  # padded tokens per batch; 512 to 2048 are fastest, 8192 takes twice as long (scripts/bench_dense.py)
GPU_TOKENS = 32_768  # fills a large GPU with a base model; halved when it does not fit


class Batch(NamedTuple):
    """What a model said of some of the inputs."""

    at: list[int]  # which inputs
    values: torch.Tensor  # (inputs, width) float32 on the CPU
    tokens: list[int]  # of each input, special tokens and prefix included
    cut: list[bool]  # whether the input was longer than the model reads


def batches(
    model: Any, inputs: Sequence[Input], output: str, budget: int | None, limit: int | None, **preprocess: Any
) -> Iterator[Batch]:
    """The model's `output` for every input, in batches of at most `budget` padded tokens (None: by the device).

    Inputs are sorted by characters, tokenised in chunks (the next one while this one is computed) and sorted by tokens,
    so that little is padding and memory stays flat. On a CPU each thread computes a batch of its own. The same inputs and
    budget make the same batches; equal inputs are computed once, so that they get equal values. A batch that does not fit
    into a GPU's memory is halved. `limit` is the number of tokens the model reads; an input at the limit counts as cut
    where the tokenizer (a slow one) does not say.
    """
    from concurrent.futures import ThreadPoolExecutor

    places: dict[Input, list[int]] = {}
    for i, text in enumerate(inputs):
        places.setdefault(text, []).append(i)
    distinct = list(places)

    def tokenised(chunk: list[int]) -> Any:
        return model.preprocess([distinct[i] for i in chunk], **preprocess)

    room = Room(budget or (CPU_TOKENS if model.device.type == "cpu" else GPU_TOKENS))
    chunks = _chunks(distinct)
    with ThreadPoolExecutor(1) as tokenizer:
        upcoming = tokenizer.submit(tokenised, chunks[0]) if chunks else None
        for number, chunk in enumerate(chunks, 1):
            assert upcoming is not None
            features = upcoming.result()
            upcoming = tokenizer.submit(tokenised, chunks[number]) if number < len(chunks) else None
            tokens, cut = _lengths(features, limit)
            for rows, values in _forward(model, features, tokens, output, room, task=preprocess.get("task")):
                found = [(i, at, row) for at, row in enumerate(rows) for i in places[distinct[chunk[row]]]]
                yield Batch(
                    [i for i, _, _ in found],
                    values[[at for _, at, _ in found]],
                    [tokens[row] for _, _, row in found],
                    [cut[row] for _, _, row in found],
                )


def _chunks(inputs: Sequence[Input]) -> list[list[int]]:
    sizes = [len(text) if isinstance(text, str) else sum(map(len, text)) for text in inputs]
    order = sorted(range(len(inputs)), key=sizes.__getitem__, reverse=True)
    chunks, start = [], 0
    while start < len(order):
        count = max(1, min(CHUNK_TEXTS, CHUNK_CHARACTERS // max(1, sizes[order[start]])))
        chunks.append(order[start : start + count])
        start += count
    return chunks


def _lengths(features: Any, limit: int | None) -> tuple[list[int], list[bool]]:
    if "offsets" in features:  # a static model: all texts in one row, read whole
        ends = [*features["offsets"].tolist()[1:], len(features["input_ids"])]
        tokens = [end - start for start, end in zip(features["offsets"].tolist(), ends, strict=True)]
        return tokens, [False] * len(tokens)
    tokens = features["attention_mask"].sum(1).tolist()
    encodings = getattr(features, "encodings", None)
    if encodings:
        return tokens, [bool(encoding.overflowing) for encoding in encodings]
    return tokens, [limit is not None and count >= limit for count in tokens]


def _forward(
    model: Any, features: Any, tokens: list[int], output: str, room: Room, *, task: str | None
) -> Iterator[tuple[list[int], torch.Tensor]]:
    import torch

    options = {} if task is None else {"task": task}
    rows = {name: value for name, value in features.items() if torch.is_tensor(value) and value.ndim > 1}
    rest = {name: value for name, value in features.items() if name not in rows}
    if not rows:
        with torch.no_grad():
            moved = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in rest.items()}
            yield list(range(len(tokens))), model(moved, **options)[output].float().cpu()
        return
    left = getattr(model.tokenizer, "padding_side", "right") == "left"

    def computed(at: list[int]) -> torch.Tensor:
        longest = max(1, tokens[at[0]])
        batch = {name: v[at, -longest:] if left else v[at, :longest] for name, v in rows.items()}
        with torch.no_grad():  # not inference_mode: torch.compile with frozen weights does not take it
            moved = {name: value.to(model.device) for name, value in batch.items()}
            values: torch.Tensor = model({**rest, **moved}, **options)[output].float().cpu()
            return values

    order = sorted(range(len(tokens)), key=tokens.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        try:
            for at, values in threads.side_by_side(
                computed, list(_cut(order[start:], tokens, room)), model.device.type
            ):
                yield at, values
                start += len(at)
        except torch.OutOfMemoryError as error:
            at = next(_cut(order[start:], tokens, room))
            room.halve(len(at), tokens[at[0]], model.device, error)


def _cut(order: list[int], tokens: list[int], room: Room) -> Iterator[list[int]]:
    """Rows that come by length, the longest first, as many together as there is room for with their padding."""
    start = 0
    while start < len(order):
        at = order[start : start + max(1, room.tokens // max(1, tokens[order[start]]))]
        yield at
        start += len(at)


def closed(model: Any, text: str, prefix: str, suffix: str, limit: int | None) -> tuple[str, bool]:
    """The text with `suffix` behind it, shortened so that the suffix is still within `limit` tokens; whether it was.

    Raises ConfigError where prefix and suffix alone fill the limit.
    """
    tokenizer = model.tokenizer
    if not tokenizer.is_fast:
        raise ConfigError(f"a suffix ({suffix!r}) needs a fast tokenizer, and this is a {type(tokenizer).__name__}")

    def count(shown: str) -> int:
        return len(tokenizer(prefix + shown + suffix, truncation=False, verbose=False)["input_ids"])

    if limit is None or count(text) <= limit:
        return text + suffix, False
    ends = [
        end
        for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
    ]
    kept = limit - count("")
    while kept > 0 and count(text[: ends[kept - 1]]) > limit:  # at a seam two tokens may be one, or one two
        kept -= 1
    if kept < 1:
        raise ConfigError(f"{limit} tokens leave no room for a text between {prefix!r} and {suffix!r}")
    return text[: ends[kept - 1]] + suffix, True


# Loading --------------------------------------------------------------------------------------------------------------


def check_source(model: str, revision: str | None, trust_remote_code: bool) -> None:
    """Raise ValueError for a revision that means nothing or remote code that is not pinned."""
    local = model.startswith(hub.PACKAGE) or Path(model).expanduser().is_dir()
    if local and revision is not None:
        raise ValueError(
            f"revision {revision!r} is for hub models; {model} is a local folder, known by its bytes: revision=null"
        )
    if trust_remote_code and not local and not re.fullmatch("[0-9a-f]{40}", revision or ""):
        raise ValueError(
            f"trust_remote_code runs the code of {model}: pin the commit you have read as revision (40 hex digits)"
        )


def check_languages(node: str, model: str, reads: tuple[str, ...] | None, langs: Sequence[str]) -> None:
    """Raise LanguageError for the first language that a model with `reads` (None: many) does not read."""
    for lang in langs:
        if reads is not None and lang not in reads:
            raise LanguageError(
                f"{node}.model {model} reads {', '.join(reads)}, not {lang!r}\n"
                f"  translate the text into {reads[0]} (retrieve.query, retrieve.doc, rerank.query, rerank.doc), choose a multilingual model, "
                f"or say {node}.languages=null to use it all the same"
            )


def device(name: str) -> str:
    """The device that `auto` means here: the GPU if there is one, else the CPU; any other name is torch's."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def limit(model: Any, asked: int | None, field: str, own: int | None = None) -> int | None:
    """The tokens that a loaded model reads of a text: `asked`, else its `own` for this task, else its general limit.

    None: all (a static model, which cannot be told otherwise). Raises ConfigError naming `field` where the model has no
    positions for that many.
    """
    from torch import nn

    tables = [p for n, p in model.named_modules() if n.endswith("position_embeddings") and isinstance(p, nn.Embedding)]
    # RoBERTa's positions start behind its padding index
    most = min(
        (t.num_embeddings - (0 if t.padding_idx is None else t.padding_idx + 1) for t in tables), default=1 << 30
    )
    if asked is None:
        asked = min(own or model.max_seq_length or most, most)
        return None if asked >= 1 << 30 else int(asked)
    if model.max_seq_length == float("inf"):
        raise ConfigError(
            f"{field}={asked}: a static model ({type(model[0]).__name__}) reads whole texts; leave it null"
        )
    if asked > most:
        raise ConfigError(f"{field}={asked}: the model has positions for {most} tokens")
    return asked


_encoders: OrderedDict[Any, Any] = OrderedDict()  # in memory, the one used last at the end
_M2M100_ENCODER = {r"^model\.shared\.": "embed_tokens.", r"^model\.encoder\.": ""}  # of NLLB; else it is random weights
_MODES = {"mean": "mean", "cls": "cls", "last": "lasttoken", "max": "max"}  # as sentence-transformers calls them


def encoder(
    folder: Path,
    *,
    pooling: Pooling,
    dtype: Weights,
    compiled: bool,
    on: str,
    trust_remote_code: bool,
    parts: Assembly = AS_IT_IS,
    together: int = 1,
) -> Any:
    """A sentence-transformers model in evaluation mode on device `on`, kept in memory with the last `together` ones.

    `pooling="model"` takes the folder's modules; a plain transformers folder has none and is refused. Raises ConfigError
    or MissingModel naming the folder.
    """
    asked = (folder, pooling, dtype, compiled, on, trust_remote_code, parts)
    if asked not in _encoders:
        while len(_encoders) >= together:
            _encoders.popitem(last=False)
        _encoders[asked] = _assembled(*asked)
    _encoders.move_to_end(asked)
    return _encoders[asked]


def _assembled(
    folder: Path, pooling: Pooling, dtype: Weights, compiled: bool, on: str, trust_remote_code: bool, parts: Assembly
) -> Any:
    import torch

    floating: DType = "bfloat16" if dtype == "int8" else dtype
    read_as: DType = "float32" if parts.average else floating  # a mean of rounded weights is rounded twice

    def load(other: Path) -> Any:
        return _sentence_encoder(other, pooling, read_as, on, trust_remote_code, parts.attention)

    model = assembly.assemble(load(folder), folder, parts, load)
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None and getattr(tokenizer, "pad_token", "") is None:  # Llama has none; the mask hides it
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if not parts.suffixed:
        _check_last_token(model, folder, pooling)
    if floating == "bfloat16" and on == "cpu" and not _has_bfloat16():
        progress.say("this CPU computes in bfloat16 by detours: float32 is several times as fast here")
    model.to(getattr(torch, floating)).to(on).eval()
    if dtype == "int8":
        accelerated.quantise(model, "retriever.dtype=int8")
    if compiled:
        _compile(model)
    return model


def _has_bfloat16() -> bool:
    """Whether the CPU has instructions for it; of others than x86 nothing is known."""
    import platform

    import torch

    known = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return known or platform.machine() not in ("x86_64", "AMD64")


def _sentence_encoder(
    folder: Path, pooling: Pooling, dtype: DType, on: str, trust_remote_code: bool, attention: str | None
) -> Any:
    """What is in the folder, its token vectors pooled as asked."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    _check_folder(folder, trust_remote_code)
    own = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    weights: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if attention is not None:
        weights["attn_implementation"] = attention
    if _config(folder).get("model_type") == "m2m_100":
        weights["key_mapping"] = _M2M100_ENCODER
    if (folder / "modules.json").exists():
        _check_kind(folder)
        with loading(folder, unused=("pooler",)):
            model = SentenceTransformer(str(folder), device=on, model_kwargs=weights, **own)
        if pooling != "model":
            for pool in assembly.poolings(model, f"retriever.pooling={pooling}"):
                pool.pooling_mode = _MODES[pooling]
        return model
    if pooling == "model":
        raise ConfigError(
            f"{folder} is a plain transformers model: nothing in it says how token vectors become a text's vector\n"
            "  say it with retriever.pooling=mean, cls, last or max, as the model was trained"
        )
    with loading(folder, unused=("pooler",)):
        body = modules.Transformer(
            str(folder),
            model_kwargs={**weights, **own},
            processor_kwargs=dict(own),
            config_kwargs=dict(own),
            modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            module_output_name="token_embeddings",  # given, so that a chat template never wraps the texts
        )
        pool = modules.Pooling(body.get_embedding_dimension(), _MODES[pooling])
        return SentenceTransformer(modules=[body, pool], device=on)


@lru_cache(maxsize=1)
def cross_encoder(
    folder: Path, *, dtype: DType, on: str, trust_remote_code: bool, parts: Composition = composition.AS_IT_IS
) -> Any:
    """A sentence-transformers CrossEncoder with one score per pair, in evaluation mode on device `on`.

    Raises ConfigError for a folder without a trained scoring head (one would be made up at random) unless an adapter
    brings it, or with several labels, and for one that is a repository's own code, unless it is trusted.
    """
    brought = composition.brought_head(parts)

    def load(other: Path) -> Any:
        return _one_score(other, dtype, on, trust_remote_code, brought)

    model = load(folder)
    composition.compose(model, folder, parts, load)
    return model.eval()


def _one_score(folder: Path, dtype: DType, on: str, trust_remote_code: bool, brought: tuple[str, ...]) -> Any:
    import torch
    from sentence_transformers import CrossEncoder

    config = _read_json(folder / "config.json")
    named = config.get("architectures") or ["no architecture"]
    if not brought and not named[0].endswith("ForSequenceClassification"):
        raise ConfigError(
            f"{folder} is no cross-encoder: its config.json names {named[0]}, not a ...ForSequenceClassification"
        )
    own = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        with loading(folder, unused=brought):
            model = CrossEncoder(str(folder), device=on, model_kwargs={"dtype": getattr(torch, dtype)}, **own)
    except MissingModel as error:
        if trust_remote_code or "AutoModelForSequenceClassification" not in config.get("auto_map", {}):
            raise
        raise ConfigError(
            f"{folder} needs Python code of its own repository ({named[0]}), and clir runs none that you have not read\n"
            "  read it, then: reranker.trust_remote_code=true reranker.revision=COMMIT (the 40 hex digits of what you read)"
        ) from error
    if model.num_labels != 1:
        raise ConfigError(
            f"{folder} gives {model.num_labels} labels per pair: a reranker needs a model with one (num_labels=1)"
        )
    return model


@contextmanager
def loading(folder: Path, unused: tuple[str, ...] = ()) -> Iterator[None]:
    """Without the libraries' own progress bars; a folder that does not load, or only in part, is an error of ours.

    Weights that the folder lacks are made up at random by transformers; those whose name holds one of `unused` may be.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging as theirs

    bars, report = theirs.is_progress_bar_enabled(), _LoadReport()
    logger = logging.getLogger("transformers.modeling_utils")
    level = theirs.get_verbosity()
    theirs.disable_progress_bar()
    logger.addFilter(report)
    theirs.set_verbosity(min(level, logging.WARNING))  # the report is a warning; without it nobody would know
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise MissingModel(
            f"the model in {folder} does not load: {error}\n  the folder holds {found}; copy or download all its files again"
        ) from error
    finally:
        theirs.set_verbosity(level)
        logger.removeFilter(report)
        if bars:
            theirs.enable_progress_bar()
    if lacking := [name for name in report.missing if not any(part in name for part in unused)]:
        raise MissingModel(
            f"{folder} lacks weights of the model that its config.json describes: {', '.join(lacking[:3])}"
            f"{f' and {len(lacking) - 3} more' if len(lacking) > 3 else ''}; transformers made them up at random\n"
            "  it is another architecture's checkpoint, or not whole: copy or download all its files again"
        )


class _LoadReport(logging.Filter):
    """Takes transformers' report of a loading out of its log and keeps which weights were missing."""

    def __init__(self) -> None:
        super().__init__()
        self.missing: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "LOAD REPORT" not in text:
            return True
        rows = (re.sub(r"\x1b\[[0-9;]*m", "", line).split("|") for line in text.splitlines())
        self.missing += [row[0].strip() for row in rows if len(row) > 1 and row[1].strip() == "MISSING"]
        return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise MissingModel(f"{path} cannot be read ({error}); is {path.parent} a model's folder?") from error


def _config(folder: Path) -> dict[str, Any]:
    """The transformers configuration in a model's folder; empty where it has none (static vectors)."""
    return _read_json(folder / "config.json") if (folder / "config.json").exists() else {}


def _check_folder(folder: Path, trust_remote_code: bool) -> None:
    """Refuse a lone adapter and, unless it is trusted, a model that is the repository's own code."""
    if (path := folder / "adapter_config.json").exists() and not (folder / "modules.json").exists():
        base = _read_json(path).get("base_model_name_or_path") or "a model that it does not name"
        raise ConfigError(
            f"{folder} is a peft adapter of {base}: take that as retriever.model, "
            "and the adapter as retriever.query_adapter and retriever.doc_adapter"
        )
    if trust_remote_code:
        return
    from transformers import CONFIG_MAPPING

    config = _config(folder)
    modules = json.loads((folder / "modules.json").read_text()) if (folder / "modules.json").exists() else []
    own = [str(part.get("type")) for part in modules if not str(part.get("type")).startswith("sentence_transformers.")]
    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
        own.append(str(config.get("model_type")))
    if own:
        raise ConfigError(
            f"{folder} needs Python code of its own repository ({', '.join(own)}), and clir runs none that you have not read\n"
            "  read it, then: retriever.trust_remote_code=true retriever.revision=COMMIT (the 40 hex digits of what you read)"
        )


def _check_kind(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    kind = _read_json(path).get("model_type", "SentenceTransformer") if path.exists() else "SentenceTransformer"
    if kind != "SentenceTransformer":
        raise ConfigError(f"{folder} is a {kind}, not an encoder with one vector per text")


def _check_last_token(model: Any, folder: Path, pooling: Pooling) -> None:
    """Last-token pooling reads the closing token: transformers >= 5 adds none unless the tokenizer's file says so."""
    if not any(getattr(part, "pooling_mode", None) == "lasttoken" for part in model):
        return
    tokenizer = model.tokenizer
    ids = tokenizer("a")["input_ids"]
    if _is_closed(tokenizer, ids):
        return
    if pooling == "model" or tokenizer.eos_token is None:
        raise ConfigError(
            f"{folder} pools the last token, and its tokenizer closes a text with no special token: the vector would be that of the last word\n"
            "  retriever.pooling=last adds the tokenizer's closing token (eos), where it has one"
        )
    tokenizer.add_bos_token = ids[0] == tokenizer.bos_token_id
    tokenizer.add_eos_token = True


def _is_closed(tokenizer: Any, ids: Sequence[int]) -> bool:
    return ids[-1] in tokenizer.all_special_ids and ids[-1] != tokenizer.unk_token_id


def check_suffix(model: Any, suffix: str, field: str) -> None:
    """Raise ConfigError where the model pools the last token and `suffix` does not end in a special one."""
    if not any(getattr(part, "pooling_mode", None) == "lasttoken" for part in model):
        return
    tokenizer = model.tokenizer
    ids = tokenizer(f"a{suffix}")["input_ids"]
    if not _is_closed(tokenizer, ids):
        last = tokenizer.convert_ids_to_tokens(ids)[-1]
        raise ConfigError(
            f"{field}={suffix!r}: the model pools the last token, and its tokenizer reads that as {last!r}, no special token\n"
            "  it is another model's closing token, or misspelt"
        )


def _compile(model: Any) -> None:
    import shutil

    import torch
    import torch._inductor.config as inductor

    if not hasattr(model[0], "model"):
        raise ConfigError(f"retriever.compile: {type(model[0]).__name__} is no transformer; set it to false")
    if not shutil.which("c++") and not shutil.which("g++") and not shutil.which("clang++"):
        raise ConfigError(
            "retriever.compile needs a C++ compiler (g++), and there is none on the PATH; set it to false"
        )
    inductor.freezing = True  # weights become constants: most of the gain on a CPU
    model[0].model = torch.compile(model[0].model, dynamic=True)
