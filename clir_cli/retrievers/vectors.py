"""Exact search over vectors on disk: every document is scored, in blocks, with flat memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clir_cli.errors import ConfigError, DataError
from clir_cli.types import Run

if TYPE_CHECKING:
    import numpy as np
    import torch

SCORES = 1 << 24  # scores held at once (64 MB): the block gets shorter as the queries get more
ROWS = 64  # blocks are padded to a multiple: equal vectors then get equal scores wherever they stand in a block


class Shard(NamedTuple):
    """Some documents' vectors, row by row."""

    ids: list[str]
    vectors: np.ndarray  # (documents, dimensions) float16, memory-mapped


def write_shard(folder: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    """Write `vectors.npy` and `ids.txt`, rows in the same order."""
    import numpy as np

    np.save(folder / "vectors.npy", vectors, allow_pickle=False)
    (folder / "ids.txt").write_text("".join(f"{i}\n" for i in ids), encoding="utf-8", newline="\n")


def read_shards(folder: Path) -> Iterator[Shard]:
    """The shards of an index, `folder/shards/00000`, ..., in order."""
    import numpy as np

    for path in sorted(path for path in (folder / "shards").iterdir() if path.name.isdigit()):
        ids = (path / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1]
        vectors = np.load(path / "vectors.npy", mmap_mode="r", allow_pickle=False)
        if len(ids) != len(vectors):
            raise DataError(
                f"{path}: ids.txt names {len(ids)} documents and vectors.npy holds {len(vectors)}; build the index again"
            )
        yield Shard(ids, vectors)


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

    Vectors are up-cast to float32 block by block; `cosine` divides by the documents' lengths. Of documents with equal
    scores at the cut those with the larger doc_id stay, as trec_eval orders them.
    """
    import numpy as np
    import torch

    query = torch.from_numpy(queries).to(device)
    size = max(1024, min(65_536, SCORES // max(1, len(queries)))) // ROWS * ROWS
    scores = torch.empty(len(queries), 0, device=device)  # (queries, up to depth): the best so far
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=device)  # counted over all shards
    names: dict[int, str] = {}  # the documents that `rows` holds
    offset = 0
    for ids, vectors in read_shards(folder):
        _check_dimensions(folder, queries, vectors)

        def name(row: int, ids: list[str] = ids, offset: int = offset, names: dict[int, str] = names) -> str:
            return ids[row - offset] if row >= offset else names[row]

        for start in range(0, len(ids), size):
            part = torch.from_numpy(np.array(vectors[start : start + size])).to(device).float()
            count, padding = len(part), -len(part) % ROWS
            if cosine:
                part = torch.nn.functional.normalize(part, dim=1)
            found = (query @ torch.nn.functional.pad(part, (0, 0, 0, padding)).T)[:, :count]
            here = torch.arange(offset + start, offset + start + count, device=device).expand(len(queries), -1)
            found, here = _best(found, here, depth, name)
            scores, rows = _best(torch.cat([scores, found], 1), torch.cat([rows, here], 1), depth, name)
        names = {row: name(row) for row in torch.unique(rows).tolist()}
        offset += len(ids)
    return _run(query_ids, scores.tolist(), [[names[row] for row in found] for found in rows.tolist()])


def _best(scores: torch.Tensor, rows: torch.Tensor, depth: int, name: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The `depth` largest scores of every query and their rows; ties at the cut go to the larger names."""
    if scores.shape[1] <= depth:
        return scores, rows
    values, at = scores.topk(depth + 1, dim=1)
    at = at[:, :depth].clone()
    for q in (values[:, depth - 1] == values[:, depth]).nonzero().flatten().tolist():
        lowest = values[q, depth - 1]
        above = (scores[q] > lowest).nonzero().flatten().tolist()
        tied = (scores[q] == lowest).nonzero().flatten().tolist()
        order = rows[q].tolist()
        tied.sort(key=lambda i: name(order[i]), reverse=True)
        at[q] = at.new_tensor((above + tied)[:depth])
    return scores.gather(1, at), rows.gather(1, at)


def search_faiss(
    folder: Path,
    query_ids: Sequence[str],
    queries: np.ndarray,
    depth: int,
    *,
    factory: str = "Flat",
    cosine: bool = False,
) -> Run:
    """As search_exact by a faiss index of inner products, `factory` as in faiss.index_factory, built in memory on every call.

    Flat is exact but for which of tied documents at the cut stay. Raises ConfigError where faiss is not installed.
    """
    import numpy as np

    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "retriever.search_with=faiss: faiss is not installed: pip install clir[faiss], or search_with=exact"
        ) from error

    shards = list(read_shards(folder))
    ids = [i for shard in shards for i in shard.ids]
    if not ids:
        return _run(query_ids, [[]] * len(query_ids), [[]] * len(query_ids))
    _check_dimensions(folder, queries, shards[0].vectors)
    vectors = np.concatenate([shard.vectors.astype(np.float32) for shard in shards])
    if cosine:
        faiss.normalize_L2(vectors)
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(vectors)
    index.add(vectors)
    scores, rows = index.search(queries, min(depth, len(ids)))
    kept = [
        [at for at, row in enumerate(found) if row >= 0] for found in rows.tolist()
    ]  # -1: an approximate index found fewer
    return _run(
        query_ids,
        [[float(scores[q, at]) for at in found] for q, found in enumerate(kept)],
        [[ids[rows[q, at]] for at in found] for q, found in enumerate(kept)],
    )


def _check_dimensions(folder: Path, queries: np.ndarray, vectors: np.ndarray) -> None:
    if queries.shape[1] != vectors.shape[1]:
        raise DataError(
            f"{folder} holds vectors of {vectors.shape[1]} numbers and the model gives queries {queries.shape[1]}: "
            "it was built by another model; build the index again"
        )


def _run(query_ids: Sequence[str], scores: Sequence[Sequence[float]], docs: Sequence[Sequence[str]]) -> Run:
    import pandas as pd

    from clir_cli import runs

    found = [
        (q, doc, score)
        for q, s, d in zip(query_ids, scores, docs, strict=True)
        for doc, score in zip(d, s, strict=True)
    ]
    return runs.ranked(pd.DataFrame(found, columns=["query_id", "doc_id", "score"]))
