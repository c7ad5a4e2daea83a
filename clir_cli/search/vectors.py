"""Exact search over vectors on disk: every document is scored, in blocks, with flat memory."""

from __future__ import annotations

import bisect
import functools
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clir_cli.errors import DataError
from clir_cli.lines import Lines
from clir_cli.models import threads
from clir_cli.types import Run

if TYPE_CHECKING:
    import numpy as np
    import torch

SCORES = 1 << 22  # scores held at once (16 MB): the block gets shorter as the queries get more
CACHED = 1 << 20  # numbers of a block on a CPU (4 MB): converted and multiplied while they are in its cache
ALONE = 10_000  # documents that one thread searches before the next one begins
HELD = 1 << 25  # scores that all threads hold at once, each with its row (400 MB)
FEW = 4  # queries for which reading 16-bit numbers as they are is faster than converting them once
ROWS = 64  # blocks are padded to a multiple: equal vectors then get equal scores wherever they stand in a block


class Shard(NamedTuple):
    """Some documents' vectors, row by row."""

    ids: Sequence[str]
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


def read_ids(shard: Path) -> Sequence[str]:
    return Lines(shard / "ids.txt")


def read_vectors(shard: Path) -> Any:
    """The rows of a shard, as in `Shard`."""
    import numpy as np

    found = np.load(shard / "vectors.npy", mmap_mode="r", allow_pickle=False)
    return Signs(found) if found.dtype == np.uint8 else found


def read_shards(folder: Path) -> Iterator[Shard]:
    """The shards of an index in order."""
    yield from map(read_shard, shard_folders(folder))


def read_shard(shard: Path) -> Shard:
    ids, vectors = read_ids(shard), read_vectors(shard)
    if len(ids) != len(vectors):
        raise DataError(
            f"{shard}: ids.txt names {len(ids)} documents and vectors.npy holds {len(vectors)}; build the index again"
        )
    return Shard(ids, vectors)


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
    import numpy as np
    import torch

    shards = shard_folders(folder)
    opened = [read_vectors(shard) for shard in shards]
    for vectors in opened:
        check_dimensions(folder, queries, vectors)
    ends = [0, *itertools.accumulate(map(len, opened))]
    if not len(queries) or not ends[-1]:
        return as_run([], [], [])
    names = _Names(shards, ends)
    query = torch.from_numpy(queries).to(device)
    depth = min(depth, ends[-1])
    size = _block(len(queries), queries.shape[1], device)

    def best(part: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        block = torch.empty(size, queries.shape[1], device=device)
        products = torch.empty(len(queries), size, device=device)

        def scores(vectors: np.ndarray) -> torch.Tensor:
            rows = _tensor(vectors)
            block[: len(rows)].copy_(rows)
            block[len(rows) :] = 0  # the product keeps its shape: see ROWS
            if cosine:
                block.div_(block.norm(dim=1, keepdim=True).clamp_min(1e-12))
            return torch.mm(query, block.T, out=products)[:, : len(rows)]

        if len(queries) <= FEW and device == "cpu" and not cosine:
            nearest = [rows for q in queries if (rows := _nearest_16_bit(opened, ends, part, q, depth)) is not None]
            if len(nearest) == len(queries):
                again = [
                    torch.cat([scores(opened[n][at])[[q]] for n, at in _by_shard(rows, ends, size)], 1)
                    for q, rows in enumerate(nearest)
                ]
                return torch.cat(again), torch.from_numpy(np.stack(nearest))
        best = _Best(len(queries), depth, size, device, names)
        for number, start, end in _blocks(ends, *part, size):
            best.add(scores(opened[number][start:end]), ends[number] + start)
        return best.found()

    parts = _parts(ends[-1], len(queries) * (depth + max(depth, size) + size), device)
    found = [part for _, part in threads.side_by_side(best, parts)]
    scores, rows = (torch.cat(kind, 1) for kind in zip(*found, strict=True))
    scores, rows = best_rows(scores, rows, depth, names)
    docs = names.of(rows.cpu().numpy())
    return _run(query_ids, depth, scores.double().cpu().numpy().ravel(), docs.ravel())


def _nearest_16_bit(
    opened: Sequence[Any], ends: Sequence[int], part: tuple[int, int], query: np.ndarray, depth: int
) -> np.ndarray | None:
    """The rows of `part` with the `depth` largest products, in order, by faiss' product of 32-bit with 16-bit numbers.

    It copies nothing: a query takes little more than reading the vectors. None without faiss, for vectors that are not
    16-bit floats, and where documents tie at the cut, of which it keeps any.
    """
    import numpy as np

    if find_spec("faiss") is None or any(getattr(vectors, "dtype", None) != np.float16 for vectors in opened):
        return None
    import faiss

    kept = min(depth + 1, part[1] - part[0])
    scores, found = np.full(kept, -np.inf, np.float32), np.full(kept, -1, np.int64)  # a heap, the lowest first
    quantiser: Any = faiss.ScalarQuantizer(len(query), faiss.ScalarQuantizer.QT_fp16)
    scanner = quantiser.select_InvertedListScanner(faiss.METRIC_INNER_PRODUCT, None, True, None)
    query = np.ascontiguousarray(query, np.float32)
    scanner.set_query(faiss.swig_ptr(query))
    blocks = list(_blocks(ends, *part, part[1]))
    for at, (number, start, end) in enumerate(blocks):
        scanner.set_list(at, 0.0)
        codes = np.ascontiguousarray(opened[number][start:end]).view(np.uint8)
        heap = faiss.swig_ptr(scores), faiss.swig_ptr(found)
        scanner.scan_codes(end - start, faiss.swig_ptr(codes), None, *heap, kept)
    if (found < 0).any():  # NaN is larger than nothing
        return None
    firsts = np.array([ends[number] + start for number, start, _ in blocks])
    order = np.argsort(-scores)[:depth]
    if depth < kept and scores[order[-1]] == scores.min():
        return None
    return np.sort(firsts[found[order] >> 32] + (found[order] & 0xFFFFFFFF))


def _by_shard(rows: np.ndarray, ends: Sequence[int], size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(shard, rows of it), at most `size` at once, for rows in order that are counted over all shards."""
    for number, (first, end) in enumerate(itertools.pairwise(ends)):
        here = rows[(rows >= first) & (rows < end)] - first
        for start in range(0, len(here), size):
            yield number, here[start : start + size]


def _parts(documents: int, held: int, device: str) -> list[tuple[int, int]]:
    """First row and row after the last of what each of the CPU's threads searches, `held` scores in memory at once.

    One part, which all threads work on together, on a GPU, for few documents, or where so many scores do not fit.
    """
    import torch

    count = torch.get_num_threads() if device == "cpu" and documents >= ALONE else 1
    count = max(1, min(count, HELD // held))
    return [(documents * part // count, documents * (part + 1) // count) for part in range(count)]


def _blocks(ends: Sequence[int], first: int, last: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(shard, its first row, the row after its last) for the rows from `first` to before `last`, at most `size` at once."""
    for number, (begin, end) in enumerate(itertools.pairwise(ends)):
        for start in range(max(first, begin), min(last, end), size):
            yield number, start - begin, min(start + size, last, end) - begin


def _block(queries: int, dimensions: int, device: str) -> int:
    """Documents scored at once: few on a CPU, so that they stay in its cache, many on a GPU; a multiple of ROWS."""
    held = (CACHED if device == "cpu" else 4 * SCORES) // max(1, dimensions)
    return max(1024, min(65_536, held, SCORES // max(1, queries))) // ROWS * ROWS


def _tensor(rows: np.ndarray) -> torch.Tensor:
    """The rows of a read-only file without a copy; they are only read."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(rows)


class _Names:
    """The doc_ids of rows counted over all shards, read where they are asked for: only what ties and what is found."""

    def __init__(self, shards: Sequence[Path], ends: Sequence[int]) -> None:
        self.shards, self.ends = shards, ends  # `ends` begins with 0
        self.ids = functools.lru_cache(maxsize=8)(lambda number: read_shard(shards[number]).ids)

    def __call__(self, row: int) -> str:
        number = bisect.bisect_right(self.ends, row) - 1
        return self.ids(number)[row - self.ends[number]]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` (any shape) as an array of str."""
        import numpy as np

        found = np.empty(rows.shape, object)
        for number, (first, end) in enumerate(itertools.pairwise(self.ends)):
            here = (rows >= first) & (rows < end)
            if here.any():
                wanted, ids = (rows[here] - first).tolist(), self.ids(number)
                ids = list(ids) if len(wanted) > len(ids) // 10 else ids  # for many it is faster to decode them all
                found[here] = [ids[row] for row in wanted]
        return found


class _Best:
    """The `depth` largest scores of every query so far, and some that came later.

    A block's scores are compared with what each query's `depth`-th best was at the last merge; the few that reach it are
    gathered, and the largest of all chosen when a query has no more room.
    """

    def __init__(self, queries: int, depth: int, size: int, device: str, names: _Names) -> None:
        import torch

        self.depth, self.names = depth, names
        width = depth + max(depth, size)  # a block of `size` fits after every merge
        self.scores = torch.full((queries, width), -torch.inf, device=device)
        self.rows = torch.zeros(queries, width, dtype=torch.int64, device=device)
        self.held = torch.zeros(queries, dtype=torch.int64, device=device)  # how many of `scores` are taken
        self.lowest: Any = None  # (queries, 1): the lowest score kept by the last merge

    def add(self, products: torch.Tensor, first: int) -> None:
        """The scores (queries, documents) of the rows from `first`."""
        import torch

        if self.lowest is None:  # until the first merge all are kept
            used, end = int(self.held[0]), int(self.held[0]) + products.shape[1]
            if end <= self.scores.shape[1]:
                self.scores[:, used:end] = products
                self.rows[:, used:end] = torch.arange(first, first + end - used, device=products.device)
                self.held.fill_(end)
                return
            self._merge()
        reached = _true(products >= self.lowest)
        if not len(reached):
            return
        query = reached // products.shape[1]
        counts = torch.bincount(query, minlength=len(products))
        held = self.held + counts
        if int(held.max()) > self.scores.shape[1]:
            self._merge()
            self.add(products, first)
            return
        place = torch.arange(len(query), device=query.device) + (held - counts.cumsum(0))[query]
        place += query * self.scores.shape[1]
        self.scores.view(-1)[place] = products.reshape(-1)[reached]
        self.rows.view(-1)[place] = reached - query * products.shape[1] + first
        self.held = held

    def found(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and rows (queries, depth or as many as there were), in no order."""
        if int(self.held.max()) > self.depth:
            self._merge()
        kept = int(self.held.max())
        return self.scores[:, :kept], self.rows[:, :kept]

    def _merge(self) -> None:
        used = int(self.held.max())
        scores, rows = best_rows(self.scores[:, :used], self.rows[:, :used], self.depth, self.names)
        self.scores[:, : self.depth], self.rows[:, : self.depth] = scores, rows
        self.scores[:, self.depth :] = -float("inf")
        self.lowest = scores.amin(1, keepdim=True)
        self.held.fill_(self.depth)


def _true(mask: torch.Tensor) -> torch.Tensor:
    """Where a mask (rows, columns) is true, counted over all rows; on a CPU by numpy, which is three times as fast."""
    import numpy as np
    import torch

    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().flatten()


def best_rows(
    scores: torch.Tensor, rows: torch.Tensor, depth: int, name: Callable[[int], str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `depth` largest scores of every query, in no order, and their rows; ties at the cut go to the larger names."""
    if scores.shape[1] <= depth:
        return scores, rows
    values, at = scores.topk(depth, dim=1, sorted=False)
    lowest = values.amin(1, keepdim=True)
    for q in ((scores >= lowest).sum(1) > depth).nonzero().flatten().tolist():
        above = (scores[q] > lowest[q]).nonzero().flatten().tolist()
        tied = (scores[q] == lowest[q]).nonzero().flatten().tolist()
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
    import numpy as np

    counts = [len(found) for found in docs]
    return _run(query_ids, counts, np.array(list(itertools.chain(*scores)), float), list(itertools.chain(*docs)))


def _run(
    query_ids: Sequence[str], counts: int | Sequence[int], scores: np.ndarray, docs: Sequence[str] | np.ndarray
) -> Run:
    """The Run of `counts` documents of every query, all one after the other."""
    import numpy as np
    import pandas as pd

    from clir_cli import runs

    names = np.repeat(np.array(query_ids, object), counts)
    return runs.ranked(pd.DataFrame({"query_id": names, "doc_id": docs, "score": scores}))
