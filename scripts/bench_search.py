"""Exact search beside reading the vectors once and beside faiss' IndexFlatIP (float32 in memory), in one run.

python scripts/bench_search.py                            # 1 M x 768 in float16: 1.5 GB of disk, 6 GB of memory
python scripts/bench_search.py --documents 200000 --no-faiss
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from clir_cli.search import vectors

SHARD = 50_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--documents", type=int, default=1_000_000)
    options.add_argument("--dimensions", type=int, default=768)
    options.add_argument("--queries", type=int, nargs="+", default=[1, 4, 16, 200, 1000])
    options.add_argument("--depth", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument(
        "--folder", type=Path, help="where the vectors are written and deleted; else the temporary one"
    )
    options.add_argument("--no-faiss", action="store_true")
    options.add_argument("--threads", type=int, help="1: the CPU time does not mind other work on the machine")
    asked = options.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        generate(folder, asked.documents, asked.dimensions)
        index = None if asked.no_faiss else flat(folder, asked.dimensions)
        print(
            f"{asked.documents} x {asked.dimensions}, depth {asked.depth}, {torch.get_num_threads()} threads, "
            f"{asked.repeats} repeats; median (least)"
        )
        for count in asked.queries:
            compare(folder, index, count, asked)


def generate(folder: Path, documents: int, dimensions: int) -> None:
    draw = np.random.default_rng(0)
    for start in range(0, documents, SHARD):
        part = draw.standard_normal((min(SHARD, documents - start), dimensions), np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        at = folder / "shards" / f"{start // SHARD:05}"
        at.mkdir(parents=True)
        vectors.write_shard(at, [f"d{i:07}" for i in range(start, start + len(part))], part.astype(np.float16))


def flat(folder: Path, dimensions: int) -> object:
    import faiss

    index = faiss.IndexFlatIP(dimensions)
    for _, part in vectors.read_shards(folder):
        index.add(np.asarray(part, np.float32))
    return index


def read_once(folder: Path) -> int:
    """All bytes of the files that a search opens, the vectors with all threads, by the same memory map."""
    total = 0
    for ids, part in vectors.read_shards(folder):
        total += len(ids) + int(vectors._tensor(part).view(torch.int64).sum())
    return total


def compare(folder: Path, index: object, count: int, asked: argparse.Namespace) -> None:
    queries = np.random.default_rng(1).standard_normal((count, asked.dimensions), np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    names = [f"q{i}" for i in range(count)]
    ways: dict[str, Callable[[], object]] = {
        "reading once": lambda: read_once(folder),
        "search_exact": lambda: vectors.search_exact(folder, names, queries, asked.depth),
    }
    if index is not None:
        ids = np.array([doc for shard, _ in vectors.read_shards(folder) for doc in shard], object)

        def ranked() -> object:
            scores, rows = index.search(queries, asked.depth)  # type: ignore[attr-defined]
            return vectors._run(names, asked.depth, scores.ravel().astype(float), ids[rows].ravel())

        ways["faiss IndexFlatIP"] = lambda: index.search(queries, asked.depth)  # type: ignore[attr-defined]
        ways["faiss and its Run"] = ranked
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(asked.repeats + 1):
        for name, way in ways.items():
            clock, process = time.perf_counter(), time.process_time()
            way()
            if repeat:  # the first pass warms the page cache
                wall[name].append(time.perf_counter() - clock)
                cpu[name].append(time.process_time() - process)
    for name in ways:
        of = [1000 * number for times in (wall[name], cpu[name]) for number in (statistics.median(times), min(times))]
        print(f"{count:5} queries, {name:18}" + " {:8.0f} ({:.0f}) ms, CPU {:.0f} ({:.0f}) ms".format(*of), flush=True)


if __name__ == "__main__":
    main()
