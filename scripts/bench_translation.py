"""How much clir adds to an engine: translate_texts against the engine alone, on the same sentences.

python scripts/bench_translation.py [SENTENCES] [--hidden 512] [--layers 6]

Apertium spa-eng on real sentences, CTranslate2 on an NLLB-shaped model of random weights. Runs alternate, and the least CPU
and wall seconds are compared: others on a shared machine only add to them. CPU is that of all processes of a run, from
their start to their end.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from clir_cli.progress import silence  # noqa: E402
from clir_cli.segments import Segments  # noqa: E402
from clir_cli.text.translation import translate_texts  # noqa: E402

ROUNDS = 5
TATOEBA = ROOT.parent / "shared" / "data" / "tatoeba" / "tatoeba.spa-eng.spa"


def sentences(count: int) -> list[str]:
    """Different Spanish sentences of Tatoeba, joined by twos: some ten words each."""
    lines = TATOEBA.read_text(encoding="utf-8").splitlines()
    pairs = (
        f"{a.rstrip('.!?')}, {b[0].lower()}{b[1:]}"
        for gap in range(1, 50)
        for a, b in zip(lines, lines[gap:], strict=False)
    )
    return list(dict.fromkeys(pairs))[:count]


class Seconds(NamedTuple):
    CPU: float  # of this process and of those that ended meanwhile
    wall: float
    own: float  # CPU of this process


def seconds(work: Callable[[], object]) -> Seconds:
    def cpu(who: int) -> float:
        use = resource.getrusage(who)
        return use.ru_utime + use.ru_stime

    own, ended, wall = cpu(resource.RUSAGE_SELF), cpu(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    wall, own = time.perf_counter() - wall, cpu(resource.RUSAGE_SELF) - own
    return Seconds(own + cpu(resource.RUSAGE_CHILDREN) - ended, wall, own)


def compare(
    name: str, alone: Callable[[], object], ours: Callable[[], object], count: int, apart: bool = False
) -> None:
    """Print the least of runs that alternate, after one of each that is not counted.

    `apart`: the engine runs in processes of its own, so that clir's part is also known by itself.
    """
    alone(), ours()  # files are in the disk's cache, what is loaded once is loaded
    found = [(seconds(alone), seconds(ours)) for _ in range(ROUNDS)]
    engine, whole = ([min(column) for column in zip(*side, strict=True)] for side in zip(*found, strict=True))
    for what, a, b in zip(Seconds._fields[:2], engine, whole, strict=False):
        print(
            f"{name:<12} {what:<4}  alone {a:6.2f} s   clir {b:6.2f} s   {b / a:.3f} x   {count / b:6.0f} sentences/s"
        )
    if apart:
        print(f"{name:<12} of it clir's own process: {whole[2]:.3f} s, {whole[2] / engine[0]:.1%} of the engine's CPU")


def apertium(texts: list[str]) -> None:
    """translate_texts, whose pipeline is started and ended in every run too, against two ways to call the command.

    Each sentence by itself, ended by a NUL: what clir asks, so that an answer depends on its sentence alone. And a plain
    file of lines, where the program need not empty ten pipes after every sentence.
    """
    from clir_cli.translators import apertium as module

    translator = module.Apertium()
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    stream = b"".join(module._to_stream(text, number) for number, text in enumerate(texts))
    lines = "\n".join(f"{text} ." for text in texts).encode()

    def run(*options: str, data: bytes) -> None:
        subprocess.run(["apertium", "-u", *options, "spa-eng"], input=data, env=env, check=True, capture_output=True)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            translate_texts(texts, translator, "es", "en", Segments(Path(folder)), "bench")
        module.close()

    compare("Apertium", lambda: run("-z", "-f", "none", data=stream), ours, len(texts), apart=True)
    compare("as lines", lambda: run(data=lines), ours, len(texts), apart=True)


def ctranslate2(texts: list[str], hidden: int, layers: int) -> None:
    """translate_batch on the tokenizer's tokens, decoded again, and translate_texts with the same settings."""
    import ctranslate2 as engine
    import test_seq2seq
    from transformers import AutoTokenizer

    from clir_cli.translators import ctranslate2 as module
    from clir_cli.translators import seq2seq

    with tempfile.TemporaryDirectory() as home:
        os.environ["HF_HOME"] = home
        os.environ.pop("HF_HUB_CACHE", None)
        test_seq2seq.SIZES |= {
            "d_model": hidden, "encoder_layers": layers, "decoder_layers": layers, "encoder_ffn_dim": 4 * hidden,
            "decoder_ffn_dim": 4 * hidden, "init_std": 0.02, "max_position_embeddings": 256,
        }  # fmt: skip
        folder = test_seq2seq.nllb(Path(home))
        translator = seq2seq.Seq2Seq(
            folder,
            codes="nllb",
            backend="ctranslate2",
            dtype="int8",
            max_tokens=128,
            max_new_tokens=16,
            threads=1,
            device="cpu",
        )
        loaded = module.load(Path(folder), "int8", "cpu", 1)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.src_lang = "spa_Latn"
        assert isinstance(loaded, engine.Translator)

        def alone() -> None:
            words = [tokenizer.convert_ids_to_tokens(row) for row in tokenizer(texts)["input_ids"]]
            results = loaded.translate_batch(
                words, target_prefix=[["eng_Latn"]] * len(words), max_batch_size=seq2seq.CPU_TOKENS, batch_type="tokens",
                beam_size=1, max_decoding_length=16,
            )  # fmt: skip
            rows = [tokenizer.convert_tokens_to_ids(result.hypotheses[0][1:]) for result in results]
            tokenizer.batch_decode(rows, skip_special_tokens=True)

        def ours() -> None:
            with tempfile.TemporaryDirectory() as memory:
                translate_texts(texts, translator, "es", "en", Segments(Path(memory)), "bench")

        compare("CTranslate2", alone, ours, len(texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", type=int, nargs="?", default=2000, help="for Apertium; CTranslate2 gets a quarter")
    parser.add_argument("--hidden", type=int, default=512, help="width of the random model (NLLB 600M: 1024)")
    parser.add_argument("--layers", type=int, default=3, help="layers of its encoder and decoder (NLLB 600M: 12)")
    asked = parser.parse_args()
    texts = sentences(asked.sentences)
    with silence():
        translate_texts(texts[:50], _Echo(), "es", "en", None, "")  # the language identifier is loaded once
        if shutil.which("apertium"):
            apertium(texts)
        ctranslate2(texts[: len(texts) // 4], asked.hidden, asked.layers)


class _Echo:
    def directions(self, source: str, target: str) -> None:
        return None

    def translate(self, texts: list[str], source: str, target: str) -> list[str]:
        return [f"{text} indeed" for text in texts]


if __name__ == "__main__":
    main()
