"""Smaller and approximate copies of stored vectors: int8, signs, faiss indexes; never encoded again, always measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clir_cli.errors import ConfigError, DataError
from clir_cli.progress import say, track
from clir_cli.search import vectors
from clir_cli.types import Run

if TYPE_CHECKING:
    import numpy as np

BLOCK = 1 << 14  # vectors in memory at once
TRAIN = 1 << 18  # vectors that a faiss index is trained on at most: a seeded sample


# Quantised ------------------------------------------------------------------------------------------------------------


def quantise(stored: Path, folder: Path, kind: Literal["int8", "binary"]) -> dict[str, float]:
    """Copy the vectors in `stored` to `folder` in the same layout; returns documents, dimensions, bytes_per_document.

    int8: each dimension's range over all documents in 255 steps (`ranges.npy`: lowest value, step), as
    sentence_transformers.quantize_embeddings calibrates, but rounded to the nearest step.
    binary: one bit per dimension, whether it is above 0; dimensions are filled up to a multiple of 8.
    """
    import numpy as np

    shards = {path: vectors.read_vectors(path) for path in vectors.shard_folders(stored)}
    width = next(iter(shards.values())).shape[1] if shards else 0
    ranges = np.zeros((2, width), np.float32)
    if kind == "int8" and shards:
        blocks = [(rows, start) for rows in shards.values() for start in range(0, len(rows), BLOCK)]
        low, high = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
        for rows, start in blocks:
            block = rows[start : start + BLOCK].astype(np.float32)
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        ranges = np.stack([low, np.maximum((high - low) / 255, np.float32(1e-12))])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "ranges.npy", ranges)
    documents, stride = 0, 0
    for path, rows in track(shards.items(), len(shards), f"quantise to {kind}", "shards"):
        codes = np.empty(
            (len(rows), width if kind == "int8" else -(-width // 8)), np.int8 if kind == "int8" else np.uint8
        )
        for start in range(0, len(codes), BLOCK):
            block = rows[start : start + BLOCK].astype(np.float32)
            if kind == "int8":
                codes[start : start + BLOCK] = np.clip(np.rint((block - ranges[0]) / ranges[1]) - 128, -128, 127)
            else:
                codes[start : start + BLOCK] = np.packbits(block > 0, axis=1)
        vectors.write_shard(folder / "shards" / path.name, vectors.read_ids(path), codes)
        documents, stride = documents + len(codes), codes.shape[1]
    return {"documents": documents, "dimensions": width, "bytes_per_document": stride}


def search_quantised(
    folder: Path, kind: Literal["int8", "binary"], ids: Sequence[str], queries: np.ndarray, depth: int, device: str
) -> Run:
    """The `depth` documents of largest inner product of the query, in full precision, with the document's quantised vector."""
    import numpy as np

    if kind == "binary":
        filled = np.pad(queries, ((0, 0), (0, -queries.shape[1] % 8)))
        return vectors.search_exact(folder, ids, filled, depth, device=device)
    low, step = np.load(folder / "ranges.npy")
    run = vectors.search_exact(folder, ids, queries * step, depth, device=device)
    rest = dict(zip(ids, (queries @ (low + 128 * step)).tolist(), strict=True))  # what every document has alike
    return run.assign(score=run["score"] + run["query_id"].map(rest))


def rescored(run: Run, stored: Path, ids: Sequence[str], queries: np.ndarray, depth: int) -> Run:
    """The `depth` best of each query's documents by the inner product with their stored 16-bit vectors."""
    import numpy as np
    import pandas as pd

    from clir_cli import runs

    code, names = pd.factorize(run["doc_id"])
    order = np.argsort(code, kind="stable")
    start = np.searchsorted(code[order], np.arange(len(names) + 1))  # each document's rows of the run, in `order`
    position = {name: i for i, name in enumerate(names)}
    asked = run["query_id"].map({query: i for i, query in enumerate(ids)}).to_numpy()
    scores = np.zeros(len(run))
    for docs, found in vectors.read_rows(stored, position.keys()):
        spans = [order[start[position[doc]] : start[position[doc] + 1]] for doc in docs]
        rows, own = np.concatenate(spans), np.repeat(np.arange(len(docs)), [len(span) for span in spans])
        for at in range(0, len(rows), BLOCK):
            part = rows[at : at + BLOCK]
            scores[part] = np.einsum("ij,ij->i", queries[asked[part]], found[own[at : at + BLOCK]])
    again = runs.ranked(run.assign(score=scores)[["query_id", "doc_id", "score"]])
    return runs.cut(again, depth)


# faiss ----------------------------------------------------------------------------------------------------------------


def faiss_module() -> Any:
    """faiss. Raises ConfigError naming the extra where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "retriever.faiss_factory: faiss is not installed: pip install 'clir[faiss]', or faiss_factory=null (exact)"
        ) from error
    return faiss


def build_faiss(stored: Path, file: Path, factory: str) -> dict[str, float]:
    """Build the index of inner products that `factory` describes (faiss.index_factory) over the vectors in `stored`.

    Trained on at most TRAIN vectors, a seeded sample, and filled in collection order, on one thread: the same vectors
    make the same index. It is built in memory. Returns documents, dimensions, bytes_per_document.
    """
    import numpy as np

    faiss = faiss_module()
    shards = [vectors.read_vectors(path) for path in vectors.shard_folders(stored)]
    documents, width = sum(map(len, shards)), shards[0].shape[1] if shards else 1
    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ConfigError(
            f"retriever.faiss_factory={factory!r} makes no index for vectors of {width} numbers: {_reason(error)}\n"
            "  for example HNSW32, IVF1024,Flat, IVF1024,PQ48 (the number after PQ divides that of the dimensions), SQ8"
        ) from error
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        if documents and not index.is_trained:
            chosen = np.sort(np.random.default_rng(0).permutation(documents)[:TRAIN])
            ends = np.cumsum([len(rows) for rows in shards])
            parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
            sample = np.concatenate(
                [rows[part - (end - len(rows))] for rows, part, end in zip(shards, parts, ends, strict=True)]
            )
            say(f"faiss: training {factory} on {len(sample)} of {documents} vectors")
            index.train(sample.astype(np.float32))
        blocks = [(rows, start) for rows in shards for start in range(0, len(rows), BLOCK)]
        for rows, start in track(blocks, len(blocks), f"faiss {factory}", "blocks"):
            index.add(rows[start : start + BLOCK].astype(np.float32))
    except RuntimeError as error:
        raise ConfigError(
            f"retriever.faiss_factory={factory!r} with {documents} documents: {_reason(error)}"
        ) from error
    finally:
        faiss.omp_set_num_threads(threads)
    faiss.write_index(index, str(file))
    return {
        "documents": documents,
        "dimensions": width,
        "bytes_per_document": round(file.stat().st_size / max(1, documents), 1),
    }


def search_faiss(
    stored: Path, file: Path, ids: Sequence[str], queries: np.ndarray, depth: int, settings: Mapping[str, object]
) -> Run:
    """The documents that the faiss index finds, its lists memory-mapped where its kind allows that.

    `settings` are faiss.ParameterSpace's: nprobe, efSearch, ... Raises ConfigError for one that the index does not have.
    """
    import numpy as np

    faiss = faiss_module()
    index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    for name, value in settings.items():
        try:
            faiss.ParameterSpace().set_index_parameter(index, name, float(str(value)))
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"retriever.faiss_search: {name}={value!r} does not suit the index: {_reason(error)}"
            ) from error
    if index.d != queries.shape[1]:
        raise DataError(
            f"{file} holds vectors of {index.d} numbers and the model gives queries {queries.shape[1]}: index again"
        )
    scores, rows = index.search(queries, max(1, min(depth, index.ntotal)))
    names, wanted, offset = {-1: ""}, np.unique(rows), 0  # -1: it found fewer
    for shard in vectors.shard_folders(stored):
        docs = vectors.read_ids(shard)
        inside = wanted[(wanted >= offset) & (wanted < offset + len(docs))]
        names.update({int(row): docs[row - offset] for row in inside})
        offset += len(docs)
    if offset != index.ntotal:
        raise DataError(f"{file} holds {index.ntotal} vectors of {offset} documents: it was derived from another index")
    kept = [[at for at, row in enumerate(found) if row >= 0] for found in rows.tolist()]
    return vectors.as_run(
        ids,
        [[float(scores[q, at]) for at in found] for q, found in enumerate(kept)],
        [[names[int(rows[q, at])] for at in found] for q, found in enumerate(kept)],
    )


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].split("Error: ")[-1][:200]


def recall(run: Run, exact: Run, depth: int) -> float:
    """The share of the `depth` best documents of `exact` that are among the `depth` best of `run`, mean over queries."""
    from clir_cli import runs

    best = {query: set(rows["doc_id"]) for query, rows in runs.cut(exact, depth).groupby("query_id")}
    found = {query: set(rows["doc_id"]) for query, rows in runs.cut(run, depth).groupby("query_id")}
    return sum(len(docs & found.get(query, set())) / len(docs) for query, docs in best.items()) / max(1, len(best))
