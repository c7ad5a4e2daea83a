"""Progress on stderr: a bar with rate and remaining time on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
_silent: ContextVar[bool] = ContextVar("silent", default=False)
EVERY = 10.0  # seconds between lines where stderr is no terminal


@contextmanager
def silence(on: bool = True) -> Iterator[None]:
    """No progress inside (`--quiet`)."""
    token = _silent.set(on)
    try:
        yield
    finally:
        _silent.reset(token)


def track(items: Iterable[T], total: int | None, what: str, unit: str, size: int = 1) -> Iterator[T]:
    """Yield `items`, showing how many `unit`s are done; each item stands for `size` of them."""
    if _silent.get():
        yield from items
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=what, unit=f" {unit}", leave=False, dynamic_ncols=True, delay=0.3) as bar:
            for item in items:
                yield item
                bar.update(min(size, total - bar.n) if total else size)
    else:
        yield from _lines(items, total, what, unit, size)


def _lines(items: Iterable[T], total: int | None, what: str, unit: str, size: int) -> Iterator[T]:
    begun = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done = min(done + size, total) if total else done + size
        now = time.monotonic()
        if now - last >= EVERY:
            rate = done / (now - begun)
            left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
            print(
                f"{what}: {done}{f'/{total}' if total else ''} {unit}, {rate:.1f} {unit}/s{left}",
                file=sys.stderr,
                flush=True,
            )
            last = now


def say(line: str) -> None:
    """A line of progress on stderr, unless silenced."""
    if not _silent.get():
        print(line, file=sys.stderr, flush=True)
