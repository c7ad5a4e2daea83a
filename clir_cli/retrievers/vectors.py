"""Exact search over vectors on disk: every document is scored, in blocks, with flat memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clir_cli.errors import DataError
from clir_cli.types import Run

if TYPE_CHECKING:
    import numpy as np
    import torch

SCORES = 1 << 24  # scores held at once (64 MB): the block gets shorter as the queries get more
CACHED = 1 << 20  # numbers of a block on a CPU (4 MB): converted and multiplied while they are in its cache
ROWS = 64  # blocks are padded to a multiple: equal vectors then get equal scores wherever they stand in a block


class Shard(NamedTuple):
    """Some documents' vectors, row by row."""

    ids: list[str]
    vectors: Any  # (documents, dimensions) float16 or int8, memory-mapped, or Signs


class Signs:
    """Packed signs (documents, dimensions / 8) uint8, read as +1 and -1 (documents, dimensions) int8 where rows are taken."""

    def __init__(self, packed: np.ndarray) -> None:
        self.packed = packed
        self.shape = (len(packed), 8 * packed.shape[1])

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, rows: Any) -> np.ndarray:
        import numpy as np

        return np.unpackbits(self.packed[rows], axis=1).astype(np.int8) * 2 - 1


def write_shard(folder: Path, ids: Sequence[str], vectors: np.ndarray, langs: Sequence[str] = ()) -> None:
    """Write `vectors.npy` and `ids.txt`, rows in the same order, and `langs.json`, how many follow in which language."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "vectors.npy", vectors, allow_pickle=False)
    (folder / "ids.txt").write_text("".join(f"{i}\n" for i in ids), encoding="utf-8", newline="\n")
    counted = [[lang, len(list(same))] for lang, same in itertools.groupby(langs)]
    (folder / "langs.json").write_text(json.dumps(counted) + "\n", encoding="utf-8")


def shard_folders(folder: Path) -> list[Path]:
    """`folder/shards/00000`, ..., in order."""
    return sorted(path for path in (folder / "shards").iterdir() if path.name.isdigit())


def read_langs(shard: Path) -> list[tuple[str, int, int]]:
    """(language, first row, row after its last) for the rows of a shard, in order. DataError where it does not say."""
    file, rows = shard / "langs.json", len(read_vectors(shard))
    counted = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    ends = list(itertools.accumulate(count for _, count in counted))
    if (ends[-1] if ends else 0) != rows:
        raise DataError(
            f"{shard} does not say which of its {rows} documents are in which language: build the index again"
        )
    return [(lang, end - count, end) for (lang, count), end in zip(counted, ends, strict=True)]


def read_ids(shard: Path) -> list[str]:
    return (shard / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1]


def read_vectors(shard: Path) -> Any:
    """The rows of a shard, as in `Shard`."""
    import numpy as np

    found = np.load(shard / "vectors.npy", mmap_mode="r", allow_pickle=False)
    return Signs(found) if found.dtype == np.uint8 else found


def read_shards(folder: Path) -> Iterator[Shard]:
    """The shards of an index in order."""
    for path in shard_folders(folder):
        ids, vectors = read_ids(path), read_vectors(path)
        if len(ids) != len(vectors):
            raise DataError(
                f"{path}: ids.txt names {len(ids)} documents and vectors.npy holds {len(vectors)}; build the index again"
            )
        yield Shard(ids, vectors)


def read_rows(folder: Path, wanted: Collection[str], size: int = 1 << 14) -> Iterator[tuple[list[str], np.ndarray]]:
    """The ids and vectors (documents, dimensions) float32 of the documents `wanted`, at most `size` at once."""
    import numpy as np

    wanted = frozenset(wanted)
    for ids, vectors in read_shards(folder):
        rows = [row for row, doc in enumerate(ids) if doc in wanted]
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield [ids[row] for row in part], np.asarray(vectors[part], np.float32)


def search_exact(
    folder: Path,
    query_ids: Sequence[str],
    queries: np.ndarray,
    depth: int,
    *,
    cosine: bool = False,
    device: str = "cpu",
) -> Run:
    """The `depth` documents of largest inner product with each row of `queries` (queries, dimensions) float32.

    Vectors are up-cast to float32 block by block, in one buffer that stays in the cache; `cosine` divides by the documents'
    lengths. Of documents with equal scores at the cut those with the larger doc_id stay, as trec_eval orders them.
    """
    import torch

    query = torch.from_numpy(queries).to(device)
    size = _block(len(queries), queries.shape[1], device)
    block = torch.zeros(size, queries.shape[1], device=device)
    products = torch.empty(len(queries), size, device=device)
    best = _Best(len(queries), depth, device)
    offset = 0
    for ids, vectors in read_shards(folder):
        check_dimensions(folder, queries, vectors)
        best.shard(ids, offset)
        for start in range(0, len(ids), size):
            part = _tensor(vectors[start : start + size])
            block[: len(part)].copy_(part)
            block[len(part) :] = 0  # the product keeps its shape: see ROWS
            if cosine:
                block /= block.norm(dim=1, keepdim=True).clamp_min(1e-12)
            torch.mm(query, block.T, out=products)
            best.add(products[:, : len(part)], offset + start)
        offset += len(ids)
    scores, docs = best.found()
    return as_run(query_ids, scores, docs)


def _block(queries: int, dimensions: int, device: str) -> int:
    """Documents scored at once: few on a CPU, so that they stay in its cache, many on a GPU; a multiple of ROWS."""
    held = (CACHED if device == "cpu" else SCORES) // max(1, dimensions)
    return max(1024, min(65_536, held, SCORES // max(1, queries))) // ROWS * ROWS


def _tensor(rows: np.ndarray) -> torch.Tensor:
    """The rows of a read-only file without a copy; they are only read."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(rows)


class _Best:
    """The `depth` largest scores of every query so far.

    A block's scores are compared with each query's lowest kept score first: the few that reach it are gathered, and sorted
    in when they are as many as those kept.
    """

    def __init__(self, queries: int, depth: int, device: str) -> None:
        import torch

        self.depth = depth
        self.scores = torch.empty(queries, 0, device=device)  # (queries, up to depth), the lowest last once it is full
        self.rows = torch.empty(queries, 0, dtype=torch.int64, device=device)  # counted over all shards
        self.names: dict[int, str] = {}  # of the rows of finished shards
        self.ids: list[str] = []
        self.offset = 0
        self.waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # (query, row, score) of each

    def name(self, row: int) -> str:
        return self.ids[row - self.offset] if row >= self.offset else self.names[row]

    def shard(self, ids: list[str], offset: int) -> None:
        """The rows from here on are those of `ids`, from `offset`."""
        import torch

        self._merge()
        self.names = {row: self.name(row) for row in torch.unique(self.rows).tolist()}
        self.ids, self.offset = ids, offset

    def add(self, products: torch.Tensor, first: int) -> None:
        """The scores (queries, documents) of the rows from `first`."""
        import torch

        if self.scores.shape[1] < self.depth:
            rows = torch.arange(first, first + products.shape[1], device=products.device).expand(len(products), -1)
            self._keep(products, rows)
            return
        query, at = (products >= self.scores[:, -1:]).nonzero(as_tuple=True)
        if len(query):
            self.waiting.append((query, at + first, products[query, at]))
            if sum(len(query) for query, _, _ in self.waiting) >= len(self.scores) * self.depth:
                self._merge()

    def found(self) -> tuple[list[list[float]], list[list[str]]]:
        self._merge()
        return self.scores.tolist(), [[self.name(row) for row in rows] for rows in self.rows.tolist()]

    def _merge(self) -> None:
        """Sort in what waits, laid out as one row per query."""
        import torch

        if not self.waiting:
            return
        query, row, score = (torch.cat(parts) for parts in zip(*self.waiting, strict=True))
        self.waiting = []
        order = torch.argsort(query, stable=True)
        counts = torch.bincount(query, minlength=len(self.scores))
        begins = counts.cumsum(0) - counts
        query = query[order]
        place = torch.arange(len(query), device=query.device) - begins[query]
        scores = self.scores.new_full(
            (len(self.scores), int(counts.max())), -torch.inf
        )  # never kept: `depth` are there
        rows = torch.full_like(scores, -1, dtype=torch.int64)
        scores[query, place], rows[query, place] = score[order], row[order]
        self._keep(scores, rows)

    def _keep(self, scores: torch.Tensor, rows: torch.Tensor) -> None:
        import torch

        if scores.shape[1] > self.depth:  # first by themselves: a block is much wider than what is kept
            scores, rows = _best(scores, rows, self.depth, self.name)
        scores, rows = torch.cat([self.scores, scores], 1), torch.cat([self.rows, rows], 1)
        self.scores, self.rows = _best(scores, rows, self.depth, self.name)


def _best(scores: torch.Tensor, rows: torch.Tensor, depth: int, name: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The `depth` largest scores of every query, the lowest last, and their rows; ties at the cut go to the larger names."""
    values, at = scores.topk(min(depth + 1, scores.shape[1]), dim=1)
    if scores.shape[1] <= depth:
        return values, rows.gather(1, at)
    at = at[:, :depth].clone()
    for q in (values[:, depth - 1] == values[:, depth]).nonzero().flatten().tolist():
        lowest = values[q, depth - 1]
        if lowest == -float("inf"):
            continue
        above = (scores[q] > lowest).nonzero().flatten().tolist()
        tied = (scores[q] == lowest).nonzero().flatten().tolist()
        order = rows[q].tolist()
        tied.sort(key=lambda i: name(order[i]), reverse=True)
        at[q] = at.new_tensor((above + tied)[:depth])
    return scores.gather(1, at), rows.gather(1, at)


def check_dimensions(folder: Path, queries: np.ndarray, vectors: np.ndarray) -> None:
    """Raise DataError where queries and documents have vectors of different lengths."""
    if queries.shape[1] != vectors.shape[1]:
        raise DataError(
            f"{folder} holds vectors of {vectors.shape[1]} numbers and the model gives queries {queries.shape[1]}: "
            "it was built by another model; build the index again"
        )


def as_run(query_ids: Sequence[str], scores: Sequence[Sequence[float]], docs: Sequence[Sequence[str]]) -> Run:
    """The Run of each query's documents and their scores."""
    import pandas as pd

    from clir_cli import runs

    found = [
        (q, doc, score)
        for q, s, d in zip(query_ids, scores, docs, strict=True)
        for doc, score in zip(d, s, strict=True)
    ]
    return runs.ranked(pd.DataFrame(found, columns=["query_id", "doc_id", "score"]))
