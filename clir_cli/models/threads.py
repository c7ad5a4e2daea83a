"""A CPU's cores side by side: one batch each, rather than all of them on one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Batch = TypeVar("Batch")
Value = TypeVar("Value")


def side_by_side(
    compute: Callable[[Batch], Value], batches: Sequence[Batch], device: str = "cpu"
) -> Iterator[tuple[Batch, Value]]:
    """Every batch with what `compute` makes of it, in order; on a CPU as many at once as torch has threads, each on one.

    Small models spend much of a batch in operations that two threads do no faster than one, or that wait for each other.
    Where there are fewer batches than threads they share them; else the number of threads changes nothing that comes out.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    import torch

    count = min(torch.get_num_threads(), len(batches)) if device == "cpu" else 1
    if count <= 1:
        yield from ((batch, compute(batch)) for batch in batches)
        return
    before = torch.get_num_threads()
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(before // count,)) as pool:
        running: deque[tuple[Batch, Future[Value]]] = deque()
        try:
            for batch in batches:
                running.append((batch, pool.submit(compute, batch)))
                if len(running) > 2 * count:  # flat memory, and no thread waits for the reader of the first
                    yield running[0][0], running.popleft()[1].result()
            while running:
                yield running[0][0], running.popleft()[1].result()
        finally:
            for _, waiting in running:
                waiting.cancel()
            torch.set_num_threads(before)  # MKL's number is the process's
