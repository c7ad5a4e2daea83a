"""BGE-M3's three outputs (Chen et al. 2024, arXiv:2402.03216): a vector, a weight per token id, a vector per token.

The folder is that of `BAAI/bge-m3`: an XLM-R encoder, and beside it the heads `sparse_linear.pt` and `colbert_linear.pt`,
which sentence-transformers does not read. A fine-tuned model of the same layout does as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from clir_cli.errors import ConfigError, MissingModel
from clir_cli.models import encoding

if TYPE_CHECKING:
    import numpy as np

Output: TypeAlias = Literal["dense", "sparse", "multi"]
FILES = {"sparse": "sparse_linear.pt", "multi": "colbert_linear.pt"}


class Encoded(NamedTuple):
    """What the model said of one text."""

    at: int  # which text
    values: np.ndarray  # float32; dense: (dimensions,), sparse: (tokens,), multi: (tokens - 1, dimensions)
    ids: np.ndarray  # sparse: (tokens,) int64, the token id of each value; else empty
    tokens: int  # special tokens included
    cut: bool  # whether the text was longer than the model reads


@lru_cache(maxsize=1)
def load(folder: Path, output: Output, *, dtype: encoding.DType, on: str, trust_remote_code: bool = False) -> WithHead:
    """The encoder with the head of `output`, in evaluation mode on device `on`; kept while no other is asked for.

    Raises MissingModel where the folder lacks the head, ConfigError where head and encoder do not fit.
    """
    plain = not (folder / "modules.json").exists()
    head = None if output == "dense" else _head(folder, FILES[output])
    model = encoding.encoder(
        folder,
        pooling="cls" if plain else "model",
        dtype=dtype,
        compiled=False,
        on=on,
        trust_remote_code=trust_remote_code,
    )
    return WithHead(model, output, head, folder)


def encode(
    model: WithHead, texts: Sequence[str], max_tokens: int | None, batch_tokens: int | None, field: str
) -> Iterator[Encoded]:
    """Every text's output, batch by batch, in no particular order; `field` names `max_tokens` in errors.

    dense: the hidden state of the first token, at length 1. sparse: max(0, w h + b) of every token, of each token id the
    largest; ids cls, eos, pad and unk and weights of 0 are left out; ids ascend. multi: W h + b of every token but the
    first, each at length 1; the closing token's is among them, as in the authors' FlagEmbedding.
    """
    limit = encoding.limit(model.encoder, max_tokens, field)
    options = {} if limit is None else {"processing_kwargs": {"text": {"max_length": limit}}}
    for batch in encoding.batches(model, texts, model.output, batch_tokens, limit, **options):
        values = batch.values.numpy()
        for at, row, tokens, cut in zip(batch.at, values, batch.tokens, batch.cut, strict=True):
            yield _encoded(model, at, row, tokens, cut)


def _encoded(model: WithHead, at: int, row: np.ndarray, tokens: int, cut: bool) -> Encoded:
    import numpy as np

    none = np.empty(0, np.int64)
    if model.output == "dense":
        return Encoded(at, row, none, tokens, cut)
    if model.output == "multi":
        return Encoded(at, row[: max(0, tokens - 1)].copy(), none, tokens, cut)
    ids, weights = row[:tokens, 0].astype(np.int64), row[:tokens, 1]
    kept = (weights > 0) & ~np.isin(ids, model.unused)
    distinct, where = np.unique(ids[kept], return_inverse=True)
    largest = np.zeros(len(distinct), np.float32)
    np.maximum.at(largest, where, weights[kept])
    return Encoded(at, largest, distinct, tokens, cut)


class WithHead:
    """An encoder as `encoding.batches` calls it: texts to features, features to the one output that is asked for."""

    def __init__(self, encoder: Any, output: Output, head: Any, folder: Path) -> None:
        import torch

        self.encoder, self.output = encoder, output
        self.tokenizer, self.device, self.preprocess = encoder.tokenizer, encoder.device, encoder.preprocess
        if self.tokenizer.padding_side != "right":
            raise ConfigError(f"{folder} pads on the left; the model family of BGE-M3 pads on the right")
        named = (
            self.tokenizer.cls_token_id,
            self.tokenizer.eos_token_id,
            self.tokenizer.pad_token_id,
            self.tokenizer.unk_token_id,
        )
        self.unused = [i for i in named if i is not None]
        self.head = None
        if head is not None:
            width = encoder[0].get_embedding_dimension()
            rows, columns = head["weight"].shape
            if columns != width or (output == "sparse" and rows != 1):
                raise ConfigError(
                    f"{folder / FILES[output]} holds a layer from {columns} to {rows} numbers; the encoder gives {width}"
                    + (" and a token has 1 weight" if output == "sparse" else "")
                )
            self.head = torch.nn.Linear(columns, rows, bias="bias" in head)
            self.head.load_state_dict(head)
            self.head.to(encoder.device, next(encoder.parameters()).dtype).eval()

    def __call__(self, features: dict[str, Any]) -> dict[str, Any]:
        """{output: dense (texts, dimensions), sparse (texts, tokens, 2: id and weight) or multi (texts, tokens - 1, dimensions)}."""
        import torch

        ids = features["input_ids"]
        hidden = self.encoder[0](features)["token_embeddings"]  # (texts, tokens, width)
        if self.output == "dense":
            return {"dense": torch.nn.functional.normalize(hidden[:, 0], dim=-1)}
        assert self.head is not None
        if self.output == "multi":
            return {"multi": torch.nn.functional.normalize(self.head(hidden[:, 1:]), dim=-1)}
        weights = torch.relu(self.head(hidden))[..., 0].float()
        return {"sparse": torch.stack([ids.float(), weights], dim=-1)}  # float32 holds every id below 2**24


def _head(folder: Path, name: str) -> dict[str, Any]:
    import pickle

    import torch

    path = folder / name
    if not path.is_file():
        raise MissingModel(
            f"{path} is missing: the folder is no complete BGE-M3 ({', '.join(FILES.values())} beside the encoder's files); "
            "copy or download all its files"
        )
    try:
        head = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise MissingModel(f"{path} does not load ({str(error)[:200]}); download it again") from error
    if not isinstance(head, dict) or not {"weight"} <= set(head) <= {"weight", "bias"}:
        raise MissingModel(f"{path} holds no linear layer (weight, bias)")
    return dict(head)
