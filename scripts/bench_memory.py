"""What a collection costs in memory: `clir run` over generated passages on disk, at several sizes, step by step.

    python scripts/bench_memory.py                                   # BM25, 100,000 and 1,000,000 passages of 50 words
    python scripts/bench_memory.py --retriever dense --model FOLDER  # an encoder, such as ../shared/models/static-multi
    python scripts/bench_memory.py --format parquet --sizes 100000   # read through dataset=hub

Words are drawn by Zipf's law from 200,000. Memory of the process that runs is sampled: `anon` is what it holds, `file`
the pages of files that the system may take back at any time. A size that grows tenfold should leave `anon` where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHUNK = 10_000


def passages(count: int, words: int) -> Iterator[list[str]]:
    """Texts in chunks."""
    import numpy as np

    rng, vocabulary = np.random.default_rng(7), 200_000
    names = np.array([f"w{n:x}" for n in range(vocabulary)])
    shares = np.cumsum(1 / np.arange(1, vocabulary + 1))
    for begin in range(0, count, CHUNK):
        size = min(CHUNK, count - begin)
        drawn = np.searchsorted(shares, rng.random((size, words)) * shares[-1])
        yield [" ".join(row) for row in names[drawn]]


def write(folder: Path, count: int, words: int, kind: str) -> list[str]:
    """A collection of so many passages, and the overrides that read it."""
    path = folder / f"docs.{kind}"
    if kind == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        schema = pa.schema([("_id", pa.string()), ("text", pa.string())])
        with parquet.ParquetWriter(path, schema) as out:
            for n, texts in enumerate(passages(count, words)):
                ids = [f"d{n * CHUNK + i}" for i in range(len(texts))]
                out.write_table(pa.table({"_id": ids, "text": texts}, schema=schema))
    else:
        with path.open("w") as out:
            for n, texts in enumerate(passages(count, words)):
                out.writelines(f"d{n * CHUNK + i}\t{text}\n" for i, text in enumerate(texts))
    (folder / "topics.tsv").write_text("_id\ttext\nq1\tw64 w1f4 w2\n")
    common = [
        f"dataset.docs={path}",
        f"dataset.topics={folder}/topics.tsv",
        "dataset.query_lang=en",
        "dataset.doc_lang=en",
    ]
    if kind == "parquet":
        columns = "{doc_id: _id, text: text}"
        return ["dataset=hub", "dataset.repo=null", f"dataset.docs_columns={columns}", *common]
    return ["dataset=files", *common]


def run(command: list[str], runs: Path) -> tuple[float, float, float]:
    """Seconds, and the most MB of anonymous and of file memory that the process had."""
    begun, anon, file = time.perf_counter(), 0.0, 0.0
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    whole = [sys.executable, "-m", "clir_cli", *command, "--runs", str(runs)]
    with subprocess.Popen(whole, env=env, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            held = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Rss"))
            anon = max(anon, float(held.get("RssAnon", "0 kB").split()[0]) / 1024)
            file = max(file, float(held.get("RssFile", "0 kB").split()[0]) / 1024)
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"clir failed: {' '.join(command)}")
    return time.perf_counter() - begun, anon, file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--words", type=int, default=50)
    parser.add_argument("--format", choices=["tsv", "parquet"], default="tsv")
    parser.add_argument("--retriever", choices=["bm25", "dense"], default="bm25")
    parser.add_argument("--model", help="the encoder of --retriever dense")
    parser.add_argument("overrides", nargs="*", help="more settings of the run, such as retriever.heap=256m")
    given = parser.parse_intermixed_args()
    chosen = [
        f"retriever={given.retriever}",
        *([f"retriever.model={given.model}"] if given.model else []),
        *given.overrides,
    ]
    print(f"{'passages':>10} {'seconds':>8} {'anon MB':>8} {'file MB':>8}   steps: seconds, peak MB so far")
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            overrides = write(folder, size, given.words, given.format)
            seconds, anon, file = run(["run", "--quiet", *overrides, *chosen], folder / "runs")
            steps = [json.loads(path.read_text()) for path in sorted(folder.glob("runs/steps/*/*/step.json"))]
            said = ", ".join(f"{s['stage']} {s['seconds']:.0f} {s['peak_memory_mb']:.0f}" for s in steps)
            print(f"{size:>10} {seconds:>8.1f} {anon:>8.0f} {file:>8.0f}   {said}", flush=True)


if __name__ == "__main__":
    main()
