"""Learned sparse retrieval: a model weighs terms of its vocabulary, documents are ranked by the inner product."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

from clir_cli import progress
from clir_cli.errors import ConfigError, MissingModel, RunError
from clir_cli.models import bge_m3, encoding, hub
from clir_cli.search import inverted
from clir_cli.text import truncation
from clir_cli.types import Run, Text, model, neutral, searched

if TYPE_CHECKING:
    import numpy as np

Task: TypeAlias = Literal["query", "document"]
Weights: TypeAlias = "tuple[np.ndarray, np.ndarray]"  # vocabulary ids int64, ascending, and weights above 0, float32
GPU_TOKENS = 4096  # a batch has a score for every token and vocabulary entry: 4 GB at 250,000 entries


class Weighed(NamedTuple):
    """What the model says of one text."""

    at: int  # which text
    ids: np.ndarray  # of the vocabulary, ascending
    weights: np.ndarray  # above 0, float32
    tokens: int
    cut: bool


@dataclass(frozen=True)
class LearnedSparse:
    """Rank documents by the sum over common terms of query weight x document weight, exactly, by an inverted index.

    Weights are stored as the model gives them, float32, 8 bytes a posting with the document's number; nothing is
    quantised, and sums are float64. `query_terms` and `doc_terms` keep a text's largest weights, of equal ones the smaller
    ids. A base: subclasses say in `weigh` where weights come from.
    """

    engines: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers")  # whose versions decide the result

    model: str = model()  # hub id, local folder or package:NAME
    revision: str | None = None  # of a hub model: commit, tag or branch; null: what models.lock or the hub's main says
    query_tokens: int | None = searched(None)  # longer texts are cut; null: the model's own limit
    doc_tokens: int | None = None
    query_terms: int | None = searched(None)  # null: what the model's folder says, mostly all
    doc_terms: int | None = None
    languages: tuple[str, ...] | None = neutral(None)  # that the model reads; null: many, nothing is refused
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the weights
    trust_remote_code: bool = False  # run the Python files of the model's repository; only with a commit as revision
    batch_tokens: int | None = neutral(None)  # padded tokens a batch; null: 1024 on a CPU, 4096 on a GPU
    device: str = neutral("auto")  # auto: the GPU if there is one; cpu, cuda, cuda:1, mps

    def __post_init__(self) -> None:
        encoding.check_source(self.model, self.revision, self.trust_remote_code)
        for name in ("query_tokens", "doc_tokens", "query_terms", "doc_terms", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for a language that is not in `languages`."""
        encoding.check_languages("retriever", self.model, self.languages, [*query_langs, *doc_langs])

    @property
    def shard_docs(self) -> int:
        """Documents per shard; fixed, because batches are formed inside a shard and the weights depend on them."""
        return 50_000

    def weigh(self, texts: Sequence[str], task: Task) -> Iterator[Weighed]:
        """Every text's weights, in no particular order."""
        raise NotImplementedError

    def tokenizer(self) -> Any:
        """The loaded model's."""
        raise NotImplementedError

    def index_shard(self, docs: Sequence[Text], folder: Path) -> None:
        """Write the postings of vocabulary ids (inverted.py) and `report.json` {texts, tokens, cut, postings}.

        Raises RunError naming a document that gets a weight that is NaN or infinite.
        """
        found, report = self._weights(docs, "document")
        pairs = ((doc.id, _by_id(weights)) for doc, weights in zip(docs, found, strict=True))
        inverted.write_shard(folder, pairs, counts=False, facts={"vocabulary": self._vocabulary()})
        report["postings"] = sum(len(ids) for ids, _ in found)
        (folder / "report.json").write_text(json.dumps(report) + "\n", encoding="utf-8")

    def search(self, folder: Path, queries: Sequence[Text], depth: int) -> Run:
        """The `depth` best documents of every query; equal scores by doc_id descending; none without a common term.

        Raises DataError where the index is of a model with another vocabulary.
        """
        inverted.check_facts(folder, {"vocabulary": self._vocabulary()})
        found, _ = self._weights(queries, "query")
        features = [(query.id, dict(zip(*weights, strict=True))) for query, weights in zip(queries, found, strict=True)]
        wanted = {i: inverted.Wanted({i: 1.0}, _same) for _, weights in features for i in weights}
        return inverted.search(folder, features, wanted, depth)

    def _weights(self, texts: Sequence[Text], task: Task) -> tuple[list[Weights], dict[str, int]]:
        import numpy as np

        most = self.query_terms if task == "query" else self.doc_terms
        found: list[Weights] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(texts)
        report = {"texts": len(texts), "tokens": 0, "cut": 0}
        was_cut = [False] * len(texts)
        weighed = self.weigh([text.text for text in texts], task)
        unit = "documents" if task == "document" else "queries"
        for at, ids, weights, tokens, cut in progress.track(weighed, len(texts), "encode", unit):
            if not np.isfinite(weights).all():
                raise RunError(
                    f"{self.model} gives {texts[at].id} a weight that is NaN or infinite: {texts[at].text[:80]!r}\n"
                    "  try retriever.dtype=float32"
                )
            if most is not None and len(ids) > most:
                kept = _largest(weights, most)
                ids, weights = ids[kept], weights[kept]
            found[at] = ids, weights
            report["tokens"] += tokens
            report["cut"] += cut
            was_cut[at] = cut
        languages = truncation.by_language((text.lang, cut) for text, cut in zip(texts, was_cut, strict=True))
        if task == "query":
            truncation.warn(self.model, "queries", languages, self.query_tokens)
        return found, {**report, **languages}

    def _vocabulary(self) -> str:
        words = sorted(self.tokenizer().get_vocab().items())
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]

    def _budget(self) -> int | None:
        on_cpu = encoding.device(self.device).startswith("cpu")
        return self.batch_tokens or (None if on_cpu else GPU_TOKENS)


@dataclass(frozen=True)
class Splade(LearnedSparse):
    """Learned sparse retrieval by SPLADE (Formal et al. 2021) and whatever else sentence-transformers' SparseEncoder loads.

    A folder of its modules, or a plain masked language model, which is read as SPLADE-max: of every vocabulary entry the
    largest ln(1 + max(0, logit)) over the text's tokens. Prompts are those that the folder declares. Another backbone has
    no weights for a vocabulary and is refused.
    """

    def weigh(self, texts: Sequence[str], task: Task) -> Iterator[Weighed]:
        import numpy as np

        loaded = self.load()
        asked = self.query_tokens if task == "query" else self.doc_tokens
        field = "retriever.query_tokens" if task == "query" else "retriever.doc_tokens"
        limit = encoding.limit(loaded, asked, field)
        options: dict[str, Any] = {} if limit is None else {"processing_kwargs": {"text": {"max_length": limit}}}
        names = ["query"] if task == "query" else ["document", "passage", "corpus"]
        prompt = next((loaded.prompts[name] for name in names if loaded.prompts.get(name)), "")
        found = encoding.batches(
            loaded, texts, "sentence_embedding", self._budget(), limit, prompt=prompt, task=task, **options
        )
        for batch in found:
            values = batch.values.numpy()  # (texts, vocabulary)
            for at, row, tokens, cut in zip(batch.at, values, batch.tokens, batch.cut, strict=True):
                ids = np.flatnonzero(row)
                weights = row[ids]
                if loaded.max_active_dims is not None and len(ids) > loaded.max_active_dims:
                    kept = _largest(weights, loaded.max_active_dims)
                    ids, weights = ids[kept], weights[kept]
                yield Weighed(at, ids, weights, tokens, cut)

    def tokenizer(self) -> Any:
        return self.load().tokenizer

    def load(self) -> Any:
        """The SparseEncoder, loaded once while no other is asked for."""
        folder = hub.folder(self.model, self.revision)
        return _sparse_encoder(folder, self.dtype, encoding.device(self.device), self.trust_remote_code)


@dataclass(frozen=True)
class BGEM3Sparse(LearnedSparse):
    """Learned sparse retrieval by BGE-M3's lexical weights (Chen et al. 2024), in more than 100 languages.

    Of every token id of a text the largest max(0, w h + b) over its places; see bge_m3.py. No term is added to a text, so
    texts in two languages meet only in tokens that both write alike.
    """

    def weigh(self, texts: Sequence[str], task: Task) -> Iterator[Weighed]:
        asked = self.query_tokens if task == "query" else self.doc_tokens
        field = "retriever.query_tokens" if task == "query" else "retriever.doc_tokens"
        for said in bge_m3.encode(self.load(), texts, asked, self.batch_tokens, field):
            yield Weighed(said.at, said.ids, said.values, said.tokens, said.cut)

    def tokenizer(self) -> Any:
        return self.load().tokenizer

    def load(self) -> bge_m3.WithHead:
        """Encoder and head, loaded once while no other is asked for."""
        folder = hub.folder(self.model, self.revision)
        on = encoding.device(self.device)
        return bge_m3.load(folder, "sparse", dtype=self.dtype, on=on, trust_remote_code=self.trust_remote_code)


def _by_id(weights: Weights) -> dict[int, float]:
    return dict(zip(weights[0].tolist(), weights[1].tolist(), strict=True))


def _largest(weights: np.ndarray, most: int) -> np.ndarray:
    """Where the `most` largest are, ascending; of equal ones the first."""
    import numpy as np

    return np.sort(np.argsort(-weights, kind="stable")[:most])


def _same(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return values


@lru_cache(maxsize=1)
def _sparse_encoder(folder: Path, dtype: encoding.DType, on: str, trust_remote_code: bool) -> Any:
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SparseEncoder

    kind, architectures = _kind(folder)
    if kind != "SparseEncoder" and not any(name.endswith("ForMaskedLM") for name in architectures):
        raise ConfigError(
            f"{folder} is no sparse encoder: it holds a {kind or architectures or 'model without architecture'}, not "
            "sentence-transformers' SparseEncoder and not a ...ForMaskedLM; its weights for a vocabulary would be random"
        )
    try:
        loaded = SparseEncoder(
            str(folder),
            device=on,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs={"dtype": getattr(torch, dtype)},
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise MissingModel(
            f"the model in {folder} does not load: {error}; copy or download all its files again"
        ) from error
    if loaded.similarity_fn_name not in {None, "dot"}:
        raise ConfigError(
            f"{folder} compares by {loaded.similarity_fn_name}; learned sparse retrieval here is by inner product"
        )
    return loaded.to(getattr(torch, dtype)).eval()


def _kind(folder: Path) -> tuple[str | None, list[str]]:
    said: list[Mapping[str, Any]] = []
    for name in ("config_sentence_transformers.json", "config.json"):
        try:
            said.append(json.loads((folder / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            said.append({})
        except ValueError as error:
            raise MissingModel(f"{folder / name} is not JSON ({error}); download it again") from error
    modules = (folder / "modules.json").exists()
    kind = said[0].get("model_type", "SentenceTransformer") if modules else None
    return kind, list(said[1].get("architectures") or [])
