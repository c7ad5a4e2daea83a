"""An index for late interaction after PLAID (Santhanam et al. 2022) with ColBERTv2's residuals (Santhanam et al. 2022).

A token vector is its nearest centroid and, in `nbits` per number, what is left of it; a centroid lists the documents that
have a token near it. A query reads the lists of the centroids nearest to its tokens, scores those documents by centroids
alone, and decompresses the best of them for exact MaxSim. Written in torch: fast-plaid has no build for the locked torch,
and faiss is an extra whose GPU build is another package, while k-means is thirty lines. Everything larger than the
centroids stays on disk, memory-mapped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from clir_cli import progress
from clir_cli.errors import ConfigError
from clir_cli.files import read_json
from clir_cli.lines import Lines
from clir_cli.models.multi_vector import NO_TOKENS, SCORES, Shard, TokenVectors, check_dimensions, maxsim, read_shards

if TYPE_CHECKING:
    import numpy as np
    import torch

POINTS = 64  # sampled token vectors per centroid; the sample is the only thing that is large in memory: 8 GB at 10 M passages
HELD_OUT = 50_000  # of the sample, at most a twentieth: the residuals' quantiles are theirs (ColBERTv2)
TOKENS = 1 << 16  # handled at once


class Search(NamedTuple):
    """How much of the index a query reads."""

    n_probe: int  # centroids per query token
    threshold: float | None  # centroids less similar to every query token are left out of the first scores
    n_full_scores: int  # documents decompressed


class Plaid(NamedTuple):
    """An open index."""

    folder: Path
    ids: Sequence[str]
    lengths: np.ndarray  # (documents,) int32
    ends: np.ndarray  # (documents,) int64, where a document's tokens end
    centroids: torch.Tensor  # (centroids, dimensions) float32, of length 1
    codes: np.ndarray  # (tokens,) centroid of each
    residuals: np.ndarray  # (tokens, dimensions * nbits / 8) uint8
    list_docs: np.ndarray  # documents of centroid 0, 1, ...
    list_ends: np.ndarray  # (centroids,) int64
    bytes: torch.Tensor  # (256, 8 / nbits) float32, what a byte of a residual stands for


# Building -------------------------------------------------------------------------------------------------------------


def build(
    index: Path, folder: Path, *, centroids: int | None, nbits: int, iterations: int, seed: int, on: str
) -> dict[str, float]:
    """Write the index of `index`'s token vectors; counts: documents, vectors, centroids, bytes, stored_bytes.

    The same seed gives the same bytes on the same CPU. Raises ConfigError for vectors that are not of length 1.
    """
    import numpy as np

    shards = list(read_shards(index))
    total = sum(len(shard.tokens.vectors) for shard in shards)
    if not total:
        raise ConfigError(f"{index} holds no token vectors: there is nothing to build an index of")
    dimensions = next(shard.tokens.vectors.shape[1] for shard in shards if len(shard.tokens.vectors))
    if dimensions * nbits % 8:
        raise ConfigError(f"nbits={nbits} x {dimensions} dimensions fill no whole bytes: choose another nbits")
    number = centroids or 2 ** math.floor(math.log2(16 * math.sqrt(total)))
    sample = _sample(shards, total, POINTS * number, seed)
    _check_length(sample, index)
    held = min(HELD_OUT, len(sample) // 20)
    train, rest = (sample[held:], sample[:held]) if held >= 100 else (sample, sample)  # a tiny one is its own held-out
    means = _kmeans(train, min(number, len(train)), iterations, seed, on)
    cutoffs, weights = _buckets(rest, means, nbits)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "centroids.npy", means.cpu().numpy(), allow_pickle=False)
    (folder / "buckets.json").write_text(json.dumps({"nbits": nbits, "weights": weights.tolist()}) + "\n")
    np.save(folder / "lengths.npy", np.concatenate([shard.tokens.lengths for shard in shards]), allow_pickle=False)
    ids = "".join(f"{i}\n" for shard in shards for i in shard.ids)
    (folder / "ids.txt").write_text(ids, encoding="utf-8", newline="\n")
    _compress(shards, total, folder, means, cutoffs.to(on), nbits)
    _write_lists(shards, folder, len(means))
    return {
        "documents": sum(len(shard.ids) for shard in shards),
        "vectors": total,
        "centroids": len(means),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "stored_bytes": total * dimensions * 2,
    }


def _sample(shards: Sequence[Shard], total: int, size: int, seed: int) -> torch.Tensor:
    """Some `size` token vectors (all if there are fewer) in a seeded order, float32; every shard gives its share."""
    import numpy as np
    import torch

    parts = []
    for number, shard in enumerate(shards):
        have = len(shard.tokens.vectors)
        share = min(have, math.ceil(size * have / total))
        rows = np.sort(np.random.default_rng([seed, number]).choice(have, share, replace=False))
        parts.append(np.asarray(shard.tokens.vectors[rows], np.float32))
    sample = np.concatenate(parts)
    np.random.default_rng(seed).shuffle(sample)
    return torch.from_numpy(sample)


def _check_length(sample: torch.Tensor, index: Path) -> None:
    lengths = sample.norm(dim=1)
    if float((lengths - 1).abs().max()) > 0.01:
        raise ConfigError(
            f"{index} holds token vectors of length {float(lengths.min()):.3g} to {float(lengths.max()):.3g}: PLAID is for "
            "models that give vectors of length 1\n  say retriever.search_with=exact"
        )


def _kmeans(points: torch.Tensor, number: int, iterations: int, seed: int, on: str) -> torch.Tensor:
    """(number, dimensions) means of length 1 on device `on`, by Lloyd's iterations from `number` seeded points."""
    import torch

    means = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:number]].to(on)
    for _ in progress.track(range(iterations), iterations, "k-means", "iterations"):
        sums = torch.zeros_like(means)
        for start in range(0, len(points), TOKENS):
            part = points[start : start + TOKENS].to(on)
            sums.index_add_(0, _nearest(part, means), part)
        found = sums.norm(dim=1, keepdim=True)
        means = torch.where(found > 0, sums / found.clamp_min(1e-12), means)  # a mean without points stays where it is
    return means


def _nearest(vectors: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """The number of each vector's mean of largest inner product."""
    import torch

    size = max(1, SCORES // len(means))
    return torch.cat([(vectors[i : i + size] @ means.T).argmax(1) for i in range(0, len(vectors), size)])


def _buckets(held: torch.Tensor, means: torch.Tensor, nbits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the residuals' buckets end and what each stands for: quantiles, so that all are as full (ColBERTv2)."""
    import numpy as np
    import torch

    held = held[:HELD_OUT].to(means.device)
    left = (held - means[_nearest(held, means)]).flatten().cpu().numpy()
    buckets = 2**nbits
    cutoffs = np.quantile(left, np.arange(1, buckets) / buckets)
    weights = np.quantile(left, (np.arange(buckets) + 0.5) / buckets)
    return torch.from_numpy(cutoffs).float(), torch.from_numpy(weights).float()


def _compress(
    shards: Sequence[Shard], total: int, folder: Path, means: torch.Tensor, cutoffs: torch.Tensor, nbits: int
) -> None:
    """Write `codes.npy` (tokens,) and `residuals.npy` (tokens, dimensions * nbits / 8) uint8."""
    import numpy as np
    import torch

    kind = np.uint16 if len(means) <= 1 << 16 else np.int32
    codes = np.lib.format.open_memmap(folder / "codes.npy", "w+", kind, (total,))
    width = means.shape[1] * nbits // 8
    residuals = np.lib.format.open_memmap(folder / "residuals.npy", "w+", np.uint8, (total, width))
    shifts = torch.arange(0, 8, nbits, device=means.device)
    done = 0
    for shard in progress.track(shards, len(shards), "compress", "shards"):
        for start in range(0, len(shard.tokens.vectors), TOKENS):
            part = torch.from_numpy(np.array(shard.tokens.vectors[start : start + TOKENS])).to(means.device).float()
            nearest = _nearest(part, means)
            buckets = torch.bucketize(part - means[nearest], cutoffs).view(len(part), width, 8 // nbits)
            codes[done : done + len(part)] = nearest.cpu().numpy().astype(kind)
            residuals[done : done + len(part)] = (buckets << shifts).sum(-1).to(torch.uint8).cpu().numpy()
            done += len(part)
    codes.flush()
    residuals.flush()


def _write_lists(shards: Sequence[Shard], folder: Path, number: int) -> None:
    """Write `list_docs.npy`, each centroid's documents in ascending order, and `list_ends.npy`."""
    import numpy as np

    counts = np.zeros(number, np.int64)
    for found, _ in _pairs(shards, folder):
        counts += np.bincount(found, minlength=number)
    ends = np.cumsum(counts)
    np.save(folder / "list_ends.npy", ends, allow_pickle=False)
    lists = np.lib.format.open_memmap(folder / "list_docs.npy", "w+", np.int32, (int(ends[-1]),))
    free = ends - counts  # where a centroid's next document goes
    for found, docs in _pairs(shards, folder):
        here = np.bincount(found, minlength=number)
        before = np.cumsum(here) - here
        lists[free[found] + np.arange(len(found)) - before[found]] = docs
        free += here
    lists.flush()


def _pairs(shards: Sequence[Shard], folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Shard by shard, every centroid and document that meet, once, by centroid and then by document."""
    import numpy as np

    codes = np.load(folder / "codes.npy", mmap_mode="r", allow_pickle=False)
    token = first = 0
    for shard in shards:
        size, documents = len(shard.tokens.vectors), len(shard.ids)
        docs = np.repeat(np.arange(documents, dtype=np.int64), shard.tokens.lengths)
        met = np.unique(codes[token : token + size].astype(np.int64) * documents + docs)
        yield met // documents, (met % documents + first).astype(np.int32)
        token, first = token + size, first + documents


# Searching ------------------------------------------------------------------------------------------------------------


def open_index(folder: Path, on: str) -> Plaid:
    """The index in `folder`, its centroids on device `on`."""
    import numpy as np
    import torch

    def load(name: str, mode: Literal["r"] | None = None) -> np.ndarray:
        found: np.ndarray = np.load(folder / name, mmap_mode=mode, allow_pickle=False)
        return found

    lengths = load("lengths.npy")
    return Plaid(
        folder=folder,
        ids=Lines(folder / "ids.txt"),
        lengths=lengths,
        ends=np.cumsum(lengths, dtype=np.int64),
        centroids=torch.from_numpy(load("centroids.npy")).to(on),
        codes=load("codes.npy", "r"),
        residuals=load("residuals.npy", "r"),
        list_docs=load("list_docs.npy", "r"),
        list_ends=load("list_ends.npy"),
        bytes=_bytes(torch.tensor(read_json(folder / "buckets.json")["weights"])).to(on),
    )


def search(
    folder: Path, queries: TokenVectors, depth: int, how: Search, *, on: str = "cpu"
) -> list[list[tuple[str, float]]]:
    """Every query's `depth` best of the documents that are scored in full, with their MaxSim of decompressed vectors."""
    import numpy as np

    index = open_index(folder, on)
    check_dimensions(folder, queries, index.centroids.shape[1])
    ends = np.cumsum(queries.lengths, dtype=np.int64)
    found = []
    for length, end in progress.track(zip(queries.lengths, ends, strict=True), len(ends), "plaid", "queries"):
        query = np.asarray(queries.vectors[end - length : end], np.float32)
        docs = _candidates(index, query, how) if length else np.empty(0, np.int64)
        scores = _full_scores(index, query, docs, on)
        best = sorted(zip(scores.tolist(), (index.ids[doc] for doc in docs.tolist()), strict=True), reverse=True)
        found.append([(doc, score) for score, doc in best[:depth]])
    return found


def _candidates(index: Plaid, query: np.ndarray, how: Search) -> np.ndarray:
    """The documents to score in full: those in the lists of the query's centroids that centroids alone score best."""
    import numpy as np
    import torch

    near = index.centroids @ torch.from_numpy(query).to(index.centroids.device).T  # (centroids, query tokens)
    probed = torch.unique(near.topk(min(how.n_probe, len(near)), dim=0).indices).cpu().numpy()
    similar = near.cpu().numpy()
    starts = np.concatenate([[0], index.list_ends[:-1]])
    docs = np.unique(np.concatenate([index.list_docs[starts[c] : index.list_ends[c]] for c in probed])).astype(np.int64)
    if how.threshold is not None and len(docs) > how.n_full_scores:
        scores = _centroid_scores(index, similar, docs, similar.max(1) >= how.threshold)
        docs = _largest(docs, scores, 4 * how.n_full_scores)
    if len(docs) > how.n_full_scores:
        docs = _largest(docs, _centroid_scores(index, similar, docs, None), how.n_full_scores)
    return docs


def _largest(docs: np.ndarray, scores: np.ndarray, number: int) -> np.ndarray:
    import numpy as np

    return docs if len(docs) <= number else np.sort(docs[np.argsort(-scores, kind="stable")[:number]])


def _blocks(index: Plaid, docs: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Some documents at a time: which of `docs`, the rows of their tokens, and how many each has."""
    import numpy as np

    filled = np.cumsum(index.lengths[docs], dtype=np.int64)
    start = 0
    while start < len(docs):
        before = int(filled[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(filled, before + TOKENS, side="right")))
        lengths = index.lengths[docs[start:stop]].astype(np.int64)
        first = index.ends[docs[start:stop]] - lengths
        inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        yield slice(start, stop), np.repeat(first, lengths) + inside, lengths
        start = stop


def _centroid_scores(index: Plaid, similar: np.ndarray, docs: np.ndarray, kept: np.ndarray | None) -> np.ndarray:
    """(documents,) MaxSim with every token replaced by its centroid; tokens whose centroid is not `kept` are left out."""
    import numpy as np

    scores = np.full(len(docs), NO_TOKENS, np.float32)
    for at, rows, lengths in _blocks(index, docs):
        codes = index.codes[rows]
        which = np.repeat(np.arange(len(lengths)), lengths)
        if kept is not None:
            codes, which = codes[kept[codes]], which[kept[codes]]
        if not len(codes):
            continue
        some, starts = np.unique(which, return_index=True)  # documents with a token that is kept
        best = np.maximum.reduceat(similar[codes], starts, axis=0)  # (documents, query tokens)
        scores[np.arange(at.start, at.stop)[some]] = best.sum(1)
    return scores


def _full_scores(index: Plaid, query: np.ndarray, docs: np.ndarray, on: str) -> np.ndarray:
    """(documents,) MaxSim of the query with the documents' decompressed vectors."""
    import numpy as np

    scores = np.empty(len(docs), np.float32)
    asked = TokenVectors(query, np.array([len(query)], np.int32))
    for at, rows, lengths in _blocks(index, docs):
        scores[at] = maxsim(asked, TokenVectors(decompress(index, rows), lengths.astype(np.int32)), on)[0]
    return scores


def decompress(index: Plaid, rows: np.ndarray) -> np.ndarray:
    """(rows, dimensions) float32: centroid and what the residual's buckets stand for, at length 1."""
    import numpy as np
    import torch
    from torch.nn.functional import embedding, normalize

    device = index.centroids.device
    packed = torch.from_numpy(index.residuals[rows].astype(np.int32)).to(device)
    codes = torch.from_numpy(index.codes[rows].astype(np.int32)).to(device)
    left = embedding(packed, index.bytes).flatten(1)
    return normalize(embedding(codes, index.centroids) + left, dim=1).cpu().numpy()


def _bytes(weights: torch.Tensor) -> torch.Tensor:
    """(256, 8 / nbits) float32: the numbers that a byte of a residual stands for."""
    import torch

    nbits = int(math.log2(len(weights)))
    buckets = torch.arange(256).unsqueeze(1) >> torch.arange(0, 8, nbits)
    return weights[buckets & (len(weights) - 1)]


# Checking -------------------------------------------------------------------------------------------------------------


def recall(index: Path, folder: Path, number: int, how: Search, *, seed: int, on: str, depth: int = 10) -> float:
    """The share of exact MaxSim's `depth` best that the index finds, for seeded documents asked as queries.

    A query is up to 32 token vectors of one document, as stored, which itself is left out. Real queries lie further from
    the documents, so their recall can be lower.
    """
    import numpy as np

    shards = list(read_shards(index))
    queries, own = _documents_as_queries(shards, number, seed)
    scored: list[list[tuple[float, str]]] = [[] for _ in own]
    for shard in progress.track(shards, len(shards), "recall", "shards"):
        for row, scores in enumerate(maxsim(queries, shard.tokens, on)):
            best = np.argsort(-scores, kind="stable")[: depth + 1]
            scored[row] = sorted([*scored[row], *((float(scores[i]), shard.ids[i]) for i in best)], reverse=True)[
                : depth + 1
            ]
    found = search(folder, queries, depth + 1, how, on=on)
    shares = []
    for doc, exact, hits in zip(own, scored, found, strict=True):
        wanted = [i for _, i in exact if i != doc][:depth]
        given = {i for i, _ in hits if i != doc}
        shares.append(sum(i in given for i in wanted) / max(1, len(wanted)))
    return float(np.mean(shares))


def _documents_as_queries(shards: Sequence[Shard], number: int, seed: int) -> tuple[TokenVectors, list[str]]:
    import numpy as np

    numbers = np.random.default_rng(seed)
    firsts = np.cumsum([0, *(len(shard.ids) for shard in shards)])
    chosen = np.sort(numbers.choice(int(firsts[-1]), min(number, int(firsts[-1])), replace=False))
    vectors, ids = [], []
    for doc in chosen:
        at = int(np.searchsorted(firsts, doc, side="right")) - 1
        shard, row = shards[at], int(doc - firsts[at])
        end = int(shard.tokens.lengths[: row + 1].sum())
        rows = np.arange(end - int(shard.tokens.lengths[row]), end)
        rows = np.sort(numbers.choice(rows, 32, replace=False)) if len(rows) > 32 else rows
        vectors.append(np.asarray(shard.tokens.vectors[rows], np.float32))
        ids.append(shard.ids[row])
    return TokenVectors(np.concatenate(vectors), np.array([len(v) for v in vectors], np.int32)), ids
