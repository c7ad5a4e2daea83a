"""Apertium translates for real here: from Debian packages, without a model or a network."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from clir_cli.errors import LanguageError, RunError
from clir_cli.text.translation import translate_texts
from clir_cli.translators.apertium import Apertium, _pipe

if shutil.which("apertium") is None:
    pytest.skip(
        "apertium is not installed (apt-get install apertium apertium-eng-spa apertium-hbs-eng)",
        allow_module_level=True,
    )

TATOEBA = Path(__file__).parents[2] / "shared" / "data" / "tatoeba"
SPANISH = [f"El perro número {n} come carne en la casa roja de mi padre." for n in range(2000)]


def needs(source: str, target: str) -> None:
    if reason := Apertium().directions(source, target):
        pytest.skip(reason)


@pytest.fixture
def es_en() -> Apertium:
    needs("es", "en")
    return Apertium()


def plain(text: str, mode: str) -> str:
    """What the `apertium` command itself makes of a text."""
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    command = ["apertium", "-u", mode]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, env=env).stdout


def test_spanish_becomes_english_and_english_spanish(es_en: Apertium):
    assert es_en.translate(["La casa es roja.", "El perro come carne."], "es", "en") == [
        "The house is red.",
        "The dog eats flesh.",
    ]
    assert es_en.translate(["The house is red."], "en", "es") == ["La casa es roja."]


def test_a_document_is_translated_sentence_by_sentence(es_en: Apertium):
    texts, counts = translate_texts(["La casa es roja. ¿Qué?", ""], es_en, "es", "en", None, es_en.engine("es", "en"))
    assert [made.text for made in texts] == ["The house is red. What?", ""]
    assert counts.sentences == 2


def test_two_thousand_sentences_neither_block_nor_lose_their_order(es_en: Apertium):
    translated = es_en.translate(SPANISH, "es", "en")
    assert [int("".join(filter(str.isdigit, text))) for text in translated] == list(range(2000))


def test_a_translation_does_not_depend_on_what_was_translated_before_it(es_en: Apertium):
    some = [*SPANISH[:50], "Vino.", "El vino tinto vino ayer.", "¿Sobre qué?", "sin fin", "Fin"]
    together = es_en.translate(some, "es", "en")
    assert es_en.translate(some[::-1], "es", "en")[::-1] == together
    assert [es_en.translate([text], "es", "en")[0] for text in some[-5:]] == together[-5:]


@pytest.mark.parametrize(
    "text",
    [
        "El perro come [carne] ^x$ /y @z \\ <b>no</b> {a} ~b~ *c #d +e.",
        "[[t:b:1]]hola[[/]] \\[ [<STREAMCMD:FLUSH>] ]] [x",
        "Sr. López: «sí» — 3,5 % (aprox.)...",
        "sin fin",
        "uno\ndos\n tres\t cuatro  cinco ",
        "😀 中文 שלום",
        " ",
    ],
)
def test_a_sentence_becomes_what_the_plain_command_makes_of_it(es_en: Apertium, text: str):
    assert es_en.translate([text], "es", "en") == [plain(text, "spa-eng")]


@pytest.mark.parametrize("text", ["^$[]{}@/\\<>~", "[", "\\", "\\]", "*", "", "\n", "\r\n", "\x01\x1f\x85\u2028\ufeff"])
def test_signs_that_mean_something_to_apertium_survive(es_en: Apertium, text: str):
    assert es_en.translate([text, "hola"], "es", "en") == [text, "hello"]


def test_what_would_end_a_text_for_apertium_is_a_space(es_en: Apertium):
    assert es_en.translate(["casa\0roja", "casa\uffffroja", "x\ud800"], "es", "en") == ["Red house", "Red house", "x?"]


def test_a_thousand_real_sentences_equal_the_plain_command_on_the_same_text(es_en: Apertium):
    if not TATOEBA.exists():
        pytest.skip(f"no {TATOEBA}")
    sentences = (TATOEBA / "tatoeba.spa-eng.spa").read_text(encoding="utf-8").splitlines()
    started = time.perf_counter()
    ours = es_en.translate(sentences, "es", "en")
    half = time.perf_counter()
    theirs = plain("\n\n".join(sentences), "spa-eng").split("\n\n")
    print(f"ours {half - started:.2f} s, plain command {time.perf_counter() - half:.2f} s, with both programs' start")
    assert ours == theirs


@pytest.mark.parametrize("text", ["Влада је најавила нове мере.", "Vlada je najavila nove mere."])
def test_serbian_is_read_in_either_alphabet(text: str):
    needs("sr", "en")
    assert Apertium().translate([text], "sr", "en") == ["Reigns announced new measure."]


def test_a_killed_program_is_an_error_with_the_place_and_the_next_call_starts_another(es_en: Apertium):
    first = es_en.translate(["hola"], "es", "en")
    killer = threading.Timer(0.3, os.killpg, [_pipe("apertium", "spa-eng").process.pid, signal.SIGKILL])
    killer.start()
    with pytest.raises(RunError, match=r"apertium spa-eng has died after \d+ of 100000 texts, at 'El perro"):
        es_en.translate(SPANISH * 50, "es", "en")
    killer.join()
    assert es_en.translate(["hola"], "es", "en") == first


def test_a_program_that_died_while_nobody_asked_is_started_again(es_en: Apertium):
    first = es_en.translate(["hola"], "es", "en")
    old = _pipe("apertium", "spa-eng").process
    os.killpg(old.pid, signal.SIGKILL)
    old.wait()
    assert es_en.translate(["hola"], "es", "en") == first
    assert _pipe("apertium", "spa-eng").process.pid != old.pid


def impostor(folder: Path, does: str) -> str:
    """A program that lists a mode as apertium does, and then misbehaves."""
    program = folder / "impostor"
    program.write_text(f'#!/bin/sh\nif [ "$1" = -l ]; then echo spa-eng; exit; fi\n{does}\n')
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("does", "complaint"),
    [
        (
            "echo cannot open transducer >&2; exit 3",
            "has died after 0 of 2 texts, at 'uno'\n  it said: cannot open transducer",
        ),
        ("echo thinking >&2; sleep 60", "has been silent for 0.5 s after 0 of 2 texts, at 'uno'\n  it said: thinking"),
        (r"printf 'one.[0]\0two.[7]\0'; sleep 60", r"answered out of turn: b'two.\[7\]' after 1 of 2 texts, at 'dos'"),
        (r"printf 'one.[0]\0two'", "has died after 1 of 2 texts, at 'dos'\n  it said: nothing"),
    ],
)
def test_a_program_that_fails_hangs_or_loses_count_is_an_error_not_a_translation(
    tmp_path: Path, does: str, complaint: str
):
    with pytest.raises(RunError, match=complaint):
        Apertium(impostor(tmp_path, does), timeout=0.5).translate(["uno", "dos"], "es", "en")


def alive(group: int) -> bool:
    """Whether a process of the group still runs; one that only waits to be reaped does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


def test_no_process_outlives_python(es_en: Apertium):
    code = (
        "from clir_cli.translators.apertium import Apertium, _pipe; Apertium().translate(['hola'], 'es', 'en');"
        "print(_pipe('apertium', 'spa-eng').process.pid)"
    )
    group = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    until = time.monotonic() + 10
    while alive(group) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(group)


def hola() -> tuple[list[str], int]:
    return Apertium().translate(["hola"], "es", "en"), _pipe("apertium", "spa-eng").process.pid


def test_a_worker_process_starts_its_own_program(es_en: Apertium):
    ours = hola()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        theirs = pool.apply(hola)
    assert theirs[0] == ours[0]
    assert theirs[1] != ours[1]
    assert hola() == ours


def test_a_missing_direction_names_the_package_and_what_is_there(es_en: Apertium):
    if (reason := es_en.directions("ca", "en")) is None:
        pytest.skip("apertium-eng-cat is installed")
    assert reason.startswith("apertium does not translate ca to en here; installed: ")
    assert "es-en" in reason
    assert reason.endswith("apt-get install apertium apertium-eng-cat")
    with pytest.raises(LanguageError, match="apertium-eng-cat"):
        es_en.translate(["casa"], "ca", "en")


def test_a_direction_that_nobody_packaged_says_so():
    assert "no Debian package has this direction" in str(Apertium().directions("fi", "sw"))


def test_without_the_program_the_way_out_is_to_install_it():
    reason = Apertium(program="no-such-apertium").directions("es", "en")
    assert reason == (
        "apertium does not translate es to en here; installed: nothing\n  apt-get install apertium apertium-eng-spa"
    )


def test_the_engine_names_every_version_that_decides_a_translation(es_en: Apertium):
    if shutil.which("dpkg-query") is None:
        pytest.skip("no dpkg-query")
    names = [part.rpartition(" ")[0] for part in es_en.engine("es", "en").split(", ")]
    assert sorted(names) == ["apertium", "apertium-eng-spa", "lttoolbox"]
