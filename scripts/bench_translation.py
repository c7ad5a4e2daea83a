"""How much clir adds to an engine: translate_texts against the engine alone, on the same sentences.

python scripts/bench_translation.py [SENTENCES] [--hidden 512] [--layers 6]

Apertium spa-eng on real sentences, CTranslate2 on an NLLB-shaped model of random weights; runs alternate, the medians
of CPU and wall seconds are compared: on a shared machine the CPU says more.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from clir_cli.progress import silence  # noqa: E402
from clir_cli.segments import Segments  # noqa: E402
from clir_cli.text.translation import translate_texts  # noqa: E402

ROUNDS = 3
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


def seconds(work: Callable[[], object], who: int) -> tuple[float, float]:
    """(CPU, wall) seconds; the CPU of this process, or of those that ended inside `work` (resource.RUSAGE_...)."""

    def cpu() -> float:
        use = resource.getrusage(who)
        return use.ru_utime + use.ru_stime

    begun, wall = cpu(), time.perf_counter()
    work()
    return cpu() - begun, time.perf_counter() - wall


def compare(
    name: str, alone: Callable[[], object], ours: Callable[[], object], count: int, apart: bool = False
) -> None:
    """Print medians of runs that alternate. `apart`: the engine is another process, whose CPU is what it takes alone."""
    engine = resource.RUSAGE_CHILDREN if apart else resource.RUSAGE_SELF
    found = [(seconds(alone, engine), seconds(ours, resource.RUSAGE_SELF)) for _ in range(ROUNDS)]
    for at, what in ((0, "CPU"), (1, "wall")):
        a, b = (statistics.median(pair[side][at] for pair in found) for side in (0, 1))
        b += a if apart and what == "CPU" else 0
        print(
            f"{name:<12} {what:<4}  alone {a:6.2f} s   clir {b:6.2f} s   {b / a:.3f} x   {count / b:6.0f} sentences/s"
        )


def apertium(texts: list[str]) -> None:
    """The plain command on a file of lines, and translate_texts."""
    from clir_cli.translators.apertium import Apertium

    translator = Apertium()
    env = {**os.environ, "LC_ALL": "C.UTF-8"}

    def alone() -> None:
        command = ["apertium", "-u", "spa-eng"]
        subprocess.run(
            command, input="\n".join(f"{text} ." for text in texts), text=True, env=env, check=True, capture_output=True
        )

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            translate_texts(texts, translator, "es", "en", Segments(Path(folder)), "bench")

    compare("Apertium", alone, ours, len(texts), apart=True)


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

        ours()  # loads what is loaded once
        compare("CTranslate2", alone, ours, len(texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", type=int, nargs="?", default=600)
    parser.add_argument("--hidden", type=int, default=512, help="width of the random model (NLLB 600M: 1024)")
    parser.add_argument("--layers", type=int, default=3, help="layers of its encoder and decoder (NLLB 600M: 12)")
    asked = parser.parse_args()
    texts = sentences(asked.sentences)
    with silence():
        translate_texts(texts[:50], _Echo(), "es", "en", None, "")  # the language identifier is loaded once
        if shutil.which("apertium"):
            apertium(texts)
        ctranslate2(texts, asked.hidden, asked.layers)


class _Echo:
    def directions(self, source: str, target: str) -> None:
        return None

    def translate(self, texts: list[str], source: str, target: str) -> list[str]:
        return [f"{text} indeed" for text in texts]


if __name__ == "__main__":
    main()
