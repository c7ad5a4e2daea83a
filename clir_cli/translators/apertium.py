"""Apertium: rule-based machine translation from Debian packages; no model, no network, the same answer every time."""

from __future__ import annotations

import atexit
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from clir_cli.errors import LanguageError, RunError
from clir_cli.progress import track
from clir_cli.text.languages import LANGUAGES, language
from clir_cli.text.translation import Pieced
from clir_cli.types import neutral

# Debian 12's pair packages with their modes (the files in /usr/share/apertium/modes), to name the one that is missing.
_DEBIAN = """
afr-nld:afr-nld,nld-afr  arg-cat:arg-cat,cat-arg  bel-rus:bel-rus,rus-bel  br-fr:br-fr  cat-ita:cat-ita,ita-cat
cat-srd:cat-srd  dan-nor:dan-nno,dan-nob,nno-dan,nob-dan  en-gl:en-gl,gl-en  eng-cat:eng-cat,cat-eng
eng-spa:eng-spa,spa-eng  eo-ca:ca-eo  eo-en:eo-en,en-eo  eo-es:es-eo  eo-fr:fr-eo  es-gl:es-gl,gl-es
es-pt:es-pt,pt-es  es-ro:ro-es  eu-en:eu-en  eu-es:eu-es  fr-es:fr-es,es-fr  fra-cat:fra-cat,cat-fra
hbs-eng:hbs-eng,eng-hbs,eng-hbs_BS,eng-hbs_HR,eng-hbs_SR,Cyrl-Latn  hbs-mkd:hbs-mkd,mkd-hbs  hbs-slv:hbs-slv,slv-hbs
ind-zlm:ind-zlm,zlm-ind  isl-eng:isl-eng  isl-swe:isl-swe,swe-isl  mkd-bul:mkd-bul,bul-mkd  mkd-eng:mkd-eng
nno-nob:nno-nob,nob-nno  oc-ca:oc-ca,ca-oc  oc-es:oc-es,es-oc  oci-fra:oci-fra,fra-oci  pol-szl:pol-szl,szl-pol
por-cat:por-cat,cat-por  pt-gl:pt-gl,gl-pt  rus-ukr:rus-ukr,ukr-rus  spa-arg:spa-arg,arg-spa  spa-ast:spa-ast
spa-cat:spa-cat,cat-spa  spa-ita:spa-ita,ita-spa  srd-ita:ita-srd  swe-dan:swe-dan,dan-swe
swe-nor:swe-nno,swe-nob,nno-swe,nob-swe  urd-hin:urd-hin,hin-urd
"""
_PACKAGES = {
    mode: f"apertium-{name}"
    for name, _, modes in (p.partition(":") for p in _DEBIAN.split())
    for mode in modes.split(",")
}


@dataclass(frozen=True)
class Apertium(Pieced):
    """Translate by Apertium's shallow-transfer rules (Forcada et al. 2011); words it does not know stay as they are.

    Serbian comes out in the Latin alphabet and may come in in either. One process per direction stays open for as long
    as Python runs.
    """

    program: str = neutral("apertium")  # a name in PATH or a path; what decides the result is in `engine`
    timeout: float = neutral(60.0)  # seconds without any output until the program counts as hung; it starts in one

    def directions(self, source: str, target: str) -> str | None:
        """None if source to target is installed, else the package to install and what there is."""
        installed = _installed(self.program)
        if _chain(source, target, installed):
            return None
        packages = next((p for chain in chains(source, target) if (p := lacking(chain, installed))), None)
        spoken = [code for code, row in LANGUAGES.items() if row.apertium]
        have = ", ".join(f"{s}-{t}" for s, t in product(spoken, repeat=2) if _chain(s, t, installed))
        return f"apertium does not translate {source} to {target} here; installed: {have or 'nothing'}\n  " + (
            f"apt-get install apertium {packages}" if packages else "no Debian package has this direction"
        )

    def engine(self, source: str, target: str) -> str:
        """The versions that decide a translation: `apertium 3.8.3, lttoolbox 3.7.1-1+b2, apertium-eng-spa 0.8.1-2`."""
        packages = dict.fromkeys(_owner(mode) for mode in self._modes(source, target))
        return ", ".join([_run(self.program, "-V").strip().lower(), _versions("lttoolbox", *packages)])

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """As many translations as texts. Raises RunError with the program's last words if it dies or hangs."""
        translated = list(texts)
        for mode in self._modes(source, target):
            translated = _pipe(self.program, mode).translate(translated, self.timeout)
        return translated

    def _modes(self, source: str, target: str) -> tuple[str, ...]:
        if modes := _chain(source, target, _installed(self.program)):
            return modes
        raise LanguageError(self.directions(source, target))


# Modes ----------------------------------------------------------------------------------------------------------------


def chains(source: str, target: str) -> list[tuple[str, ...]]:
    """The modes that would translate source to target one after another, the most specific first."""
    cyrillic = language(source).script == "Cyrl"
    pairs = product(language(source).apertium, language(target).apertium)
    return [
        ("Cyrl-Latn", f"{s}-{t}") if cyrillic and s == "hbs" else (f"{s}-{t}",) for s, t in pairs
    ]  # hbs reads Latin only


def _chain(source: str, target: str, installed: frozenset[str]) -> tuple[str, ...] | None:
    return next((chain for chain in chains(source, target) if installed.issuperset(chain)), None)


def lacking(chain: tuple[str, ...], installed: frozenset[str]) -> str | None:
    """The Debian packages that would complete the chain; None if Debian has none for some mode."""
    packages = [_PACKAGES.get(mode) for mode in chain if mode not in installed]
    return None if None in packages else " ".join(dict.fromkeys(map(str, packages)))


@lru_cache
def _installed(program: str) -> frozenset[str]:
    try:
        return frozenset(_run(program, "-l").split())
    except FileNotFoundError:
        return frozenset()


@lru_cache
def _owner(mode: str) -> str:
    return _PACKAGES.get(mode) or _run("dpkg-query", "-S", f"*/apertium/modes/{mode}.mode").partition(":")[0]


@lru_cache
def _versions(*packages: str) -> str:
    return ", ".join(_run("dpkg-query", "-W", "-f", "${Package} ${Version}\n", *packages).splitlines())


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


# Text in Apertium's stream: what is in [brackets] is format and passes through every stage of the pipeline as it is ----

_FORMAT = re.compile(r"(?P<special>[\\\[\]{}<>^$@/])|~|[\t\n\r\v\f ]{2,}|[\t\n\r\v\f]")
_STREAM = re.compile(r"\\(.)|\[((?:\\.|[^\]\\])*)\]", re.DOTALL)


def _to_stream(text: str, number: int) -> bytes:
    """A text as apertium-destxt would write it, its number in the final format; NUL and U+FFFF, which end one, are spaces."""
    escaped = _FORMAT.sub(lambda m: f"\\{m[0]}" if m["special"] else f"[{m[0]}]", re.sub("[\0\uffff]", " ", text))
    return f"{escaped}.[{number}]\0".encode(errors="replace")  # the full stop ends the sentence; lone surrogates are ?


def _from_stream(answer: str, number: int) -> str | None:
    """The text of an answer as apertium-retxt would write it; None if it answers another number."""
    text, bracket, answered = answer.rpartition("[")
    if not bracket or answered != f"{number}]":
        return None
    return _STREAM.sub(lambda m: m[1] or m[2] or "", text.removesuffix("."))


# One pipeline per direction, kept open --------------------------------------------------------------------------------

PUSH = 0.02  # seconds of silence after which a text that is held back is pushed on


class _Pipe:
    """A running `apertium` for one mode: a text and a NUL go in, its translation and a NUL come out (null flush)."""

    def __init__(self, program: str, mode: str) -> None:
        import tempfile

        self.mode, self.owner, self.lock, self.ended = mode, os.getpid(), threading.Lock(), False
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - a file, since nobody reads it before the program's end
        try:
            self.process = subprocess.Popen(
                [program, "-z", "-u", "-f", "none", mode],  # none: the text is already in Apertium's stream format
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
                start_new_session=True,  # a group of its own: ten programs to be ended together
            )
        except OSError as error:
            self.errors.close()
            raise RunError(f"cannot start {program!r}: {error.strerror}; apt-get install apertium") from error
        assert self.process.stdin and self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def translate(self, texts: Sequence[str], timeout: float) -> list[str]:
        with self.lock:
            data = b"".join(_to_stream(text, number) for number, text in enumerate(texts))
            writer = threading.Thread(target=self._write, args=(data,), daemon=True)  # else both sides block
            writer.start()
            try:
                return list(track(self._read(texts, timeout, writer), len(texts), f"apertium {self.mode}", "sentences"))
            except BaseException:  # also Ctrl-C: half an answer may be under way, so nobody may use this pipe again
                self._end()
                raise
            finally:
                writer.join()

    def is_usable(self) -> bool:
        return self.owner == os.getpid() and not self.ended and self.process.poll() is None

    def close(self) -> None:
        if self.owner == os.getpid():  # a forked child leaves its parent's pipe alone
            self.stdin.close()  # the end of its input ends every program of the pipeline
            with suppress(subprocess.TimeoutExpired):  # unless somebody else holds the pipe's other end
                self.process.wait(timeout=5)
                self.ended = True
            self._end()
            for file in (self.stdout, self.errors):
                file.close()

    def _end(self) -> None:
        if self.ended:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):  # TERM lets the script remove its temporary file
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
                break
        self.ended = True

    def _write(self, data: bytes) -> None:
        rest = memoryview(data + b"\0" * 16)
        with suppress(BrokenPipeError):  # the program has died, or was ended: the reader says so
            while rest:
                rest = rest[self.stdin.write(rest) :]

    def _push(self) -> None:
        """gawk, twice in the script, holds a text back until it has read some more."""
        with suppress(BrokenPipeError):
            if select.select([], [self.stdin], [], 0)[1]:
                self.stdin.write(b"\0")

    def _read(self, texts: Sequence[str], timeout: float, writer: threading.Thread) -> Iterator[str]:
        poll, rest, number = select.poll(), b"", 0
        poll.register(self.stdout, select.POLLIN)
        heard = time.monotonic()
        while number < len(texts):
            if not poll.poll(PUSH * 1000):
                if time.monotonic() - heard > timeout:
                    raise self._failure(f"has been silent for {timeout:g} s", texts, number)
                if not writer.is_alive():
                    self._push()
                continue
            heard = time.monotonic()
            chunk = os.read(self.stdout.fileno(), 1 << 16)
            if not chunk:
                raise self._failure("has died", texts, number)
            *answers, rest = (rest + chunk).split(b"\0")
            for answer in filter(None, answers):  # an empty one answers an earlier push
                text = _from_stream(answer.decode(errors="replace"), number)
                if text is None or number == len(texts):
                    raise self._failure(f"answered out of turn: {answer[-80:]!r}", texts, number)
                yield text
                number += 1

    def _failure(self, what: str, texts: Sequence[str], number: int) -> RunError:
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip()[-500:]
        at = f", at {texts[number][:200]!r}" if number < len(texts) else ""
        return RunError(
            f"apertium {self.mode} {what} after {number} of {len(texts)} texts{at}\n  it said: {said or 'nothing'}\n"
            "  the next call starts it afresh; `timeout` is how long it may be silent"
        )


_PIPES: dict[tuple[str, str], _Pipe] = {}


def _pipe(program: str, mode: str) -> _Pipe:
    pipe = _PIPES.get((program, mode))
    if pipe is None or not pipe.is_usable():
        if pipe is not None:
            pipe.close()
        pipe = _PIPES[program, mode] = _Pipe(program, mode)
    return pipe


@atexit.register
def close() -> None:
    """End the programs that are kept open; the next translation starts its own."""
    while _PIPES:
        _PIPES.popitem()[1].close()
