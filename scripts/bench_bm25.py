"""BM25 beside Pyserini's own two commands: seconds from documents to run file, all start-up counted; and its memory.

    python scripts/bench_bm25.py --java-home /a/full/jdk    # 100,000 documents of 100 words, 500 queries
    python scripts/bench_bm25.py --memory                   # peak memory at 10,000 and 200,000 documents

Words are drawn by Zipf's law from 200,000; queries lack the 99 commonest, as real ones lack stop words. Pyserini's commands need a full JDK >= 21 (JAVA_HOME, or --java-home).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from clir_cli.retrievers.bm25 import BM25  # noqa: E402
from clir_cli.types import Text  # noqa: E402


def texts(count: int, words: int, seed: int, commonest: int = 1) -> Iterator[str]:
    """Texts of so many words, without the words that are more common than rank `commonest`."""
    import numpy as np

    rng, vocabulary = np.random.default_rng(seed), 200_000
    shares = np.cumsum(1 / np.arange(commonest, vocabulary + 1))
    for _ in range(count):
        yield " ".join(f"w{n + commonest:x}" for n in np.searchsorted(shares, rng.random(words) * shares[-1]))


def ours(folder: Path, depth: int) -> None:
    """What `clir run` does between its documents and its run file."""

    def docs() -> Iterator[Text]:
        with (folder / "docs" / "docs.jsonl").open() as lines:
            for line in lines:
                row = json.loads(line)
                yield Text(row["id"], (("en", row["contents"]),))

    index = folder / "ours"
    index.mkdir()
    BM25().index(docs(), index)
    rows = [line.split("\t") for line in (folder / "topics.tsv").read_text().splitlines()]
    run = BM25().search(index, [Text(query, (("en", text),)) for query, text in rows], depth)
    from clir_cli.runs import write_trec

    write_trec(run, folder / "ours.trec", "bm25")


def memory(count: int) -> None:
    """Index documents that are made one by one, and say the peak of this process."""
    with tempfile.TemporaryDirectory() as folder:
        BM25().index((Text(str(n), (("en", text),)) for n, text in enumerate(texts(count, 100, 0))), Path(folder))
    print(f"{count:>8} documents: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def seconds(*command: str, **environment: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *command], env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def speed(count: int, queries: int, depths: list[int], java_home: str) -> None:
    for depth in depths:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "docs").mkdir()
            with (folder / "docs" / "docs.jsonl").open("w") as file:
                for n, text in enumerate(texts(count, 100, 0)):
                    file.write(json.dumps({"id": f"d{n}", "contents": text}) + "\n")
            (folder / "topics.tsv").write_text(
                "".join(f"{n}\t{text}\n" for n, text in enumerate(texts(queries, 8, 1, commonest=100)))
            )
            mine = seconds(__file__, "--ours", name, "--depths", str(depth))
            env = {"JAVA_HOME": java_home, "OPENAI_API_KEY": "not used"}
            command = [
                "-m",
                "pyserini.index.lucene",
                "--collection",
                "JsonCollection",
                "--input",
                f"{name}/docs",
                "--index",
            ]
            indexed = seconds(
                *command, f"{name}/theirs", "--generator", "DefaultLuceneDocumentGenerator", "--threads", "2", **env
            )
            command = [
                "-m",
                "pyserini.search.lucene",
                "--index",
                f"{name}/theirs",
                "--topics",
                f"{name}/topics.tsv",
                "--bm25",
            ]
            command += [
                "--output",
                f"{name}/theirs.trec",
                "--hits",
                str(depth),
                "--threads",
                "2",
                "--batch-size",
                "100",
            ]
            theirs = indexed + seconds(*command, **env)
            mine_rows, their_rows = (
                [line.split()[:3:2] for line in (folder / f"{side}.trec").read_text().splitlines()]
                for side in ("ours", "theirs")
            )
            same = "the same rankings" if mine_rows == their_rows else "OTHER RANKINGS"
            print(
                f"{count} documents, {queries} queries, depth {depth}: {mine:.1f} s, Pyserini {theirs:.1f} s, {theirs / mine:.2f}x; {same}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--depths", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--java-home", default=os.environ.get("JAVA_HOME"))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--index-only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        ours(options.ours, options.depths[0])
    elif options.index_only:
        memory(options.index_only)
    elif options.memory:
        for count in (10_000, 200_000):
            subprocess.run([sys.executable, __file__, "--index-only", str(count)], check=True)
    elif options.java_home:
        speed(options.documents, options.queries, options.depths, options.java_home)
    else:
        parser.error("Pyserini's commands need a full JDK >= 21: --java-home")


if __name__ == "__main__":
    main()
