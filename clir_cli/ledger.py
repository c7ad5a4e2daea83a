"""Hard budgets for what is asked of served models: a call that might cost more than is left is not made."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from filelock import SoftFileLease, Timeout

from clir_cli.errors import RunError

LEASE = 30.0  # seconds without a heartbeat after which another host may take the lock over
POLL = 0.01  # seconds between two tries to get it
DUST = 1e-9  # dollars that sums of floats may be wrong by


class OverBudget(RunError):
    """The next call might break a budget, and was not made."""


class Amount(NamedTuple):
    """What calls cost: tokens are those of prompts and answers together, cached ones too."""

    calls: int = 0
    tokens: int = 0
    usd: float = 0.0

    def plus(self, other: Amount) -> Amount:
        return Amount(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)

    def minus(self, other: Amount) -> Amount:
        return Amount(self.calls - other.calls, self.tokens - other.tokens, self.usd - other.usd)


@dataclass(frozen=True)
class Budget:
    """The most that may be spent, None without limit; `options` are what the user calls the three, for errors."""

    max_calls: int | None = None
    max_tokens: int | None = None
    max_usd: float | None = None
    options: tuple[str, str, str] = ("llm.max_calls", "llm.max_total_tokens", "llm.max_usd")

    def __post_init__(self) -> None:
        if any(limit is not None and limit < 0 for limit in self.limits):
            raise ValueError(f"a budget cannot be negative: {self.limits}")

    @property
    def limits(self) -> tuple[int | None, int | None, float | None]:
        return self.max_calls, self.max_tokens, self.max_usd

    def __bool__(self) -> bool:
        """Whether it limits anything."""
        return any(limit is not None for limit in self.limits)

    def check(self, taken: Amount, more: Amount) -> None:
        """Raise OverBudget if `more` does not fit beside what is taken."""
        for option, limit, sum_ in zip(self.options, self.limits, taken.plus(more), strict=True):
            if limit is not None and sum_ > limit + DUST:
                dollars = f", ${taken.usd:.4f}" if taken.usd or more.usd else ""
                may = f" and ${more.usd:.4f}" if more.usd else ""
                raise OverBudget(
                    f"the budget {option}={limit} would be exceeded by the next call, which was not made\n"
                    f"  spent or reserved: {taken.calls} calls, {taken.tokens} tokens{dollars}; the call may take "
                    f"{more.tokens} tokens{may}\n"
                    f"  everything so far is kept: raise {option} and run again to ask only for the rest"
                )


@runtime_checkable
class Budgeted(Protocol):
    """An LLM that has a budget of its own, for each step that asks it."""

    @property
    def budget(self) -> Budget: ...


class Ledger:
    """Reservations and what they came to, in an append-only file that many processes on many machines write.

    Everything is written under the file's lock and reading begins by opening the file, so that the sum that a
    reservation is checked against is the true one, on a shared disk too. What a call really cost (`settle`) is written
    with the next reservation or by `flush`; until then others count the reservation, as they do for ever where a process
    was killed: nobody knows whether its last calls were billed. Without a path it is this process's alone.
    """

    def __init__(self, path: Path | None, budget: Budget) -> None:
        self.path, self.budget = path, budget
        self._name, self._count = uuid.uuid4().hex[:12], 0
        self._open: dict[str, Amount] = {}
        self._taken = Amount()
        self._read_to = 0  # bytes
        self._settled: deque[tuple[str, Amount]] = deque()  # not yet written
        self._one = threading.Lock()

    def reserve(self, amount: Amount) -> str:
        """A name for the reservation. Raises OverBudget where it does not fit beside what all have reserved and spent."""
        with self._one, self._locked():
            self._read()
            self.budget.check(self._now(), amount)
            self._count += 1
            name = f"{self._name}-{self._count}"
            self._write([["reserve", name, *amount]])
        return name

    def settle(self, name: str, amount: Amount) -> None:
        """What the reserved call came to: more or less than was reserved, or nothing. Never waits."""
        self._settled.append((name, amount))

    def flush(self) -> None:
        """Write what was settled."""
        if self._settled:
            with self._one, self._locked():
                self._write([])

    def taken(self) -> Amount:
        """All that is spent or reserved now, of all processes."""
        with self._one, self._locked():
            self._write([])
            return self._taken

    def _locked(self) -> AbstractContextManager[object]:
        if self.path is None:
            return nullcontext()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            return SoftFileLease(lock, lease_duration=LEASE, poll_interval=POLL, timeout=4 * LEASE).acquire()
        except Timeout:
            raise RunError(
                f"{lock} has been locked for {4 * LEASE:g} seconds: remove it if no run of clir is alive"
            ) from None

    def _now(self) -> Amount:
        """All that is spent or reserved, with what was settled here and is not yet written."""
        taken = self._taken
        for name, amount in tuple(self._settled):
            taken = taken.plus(amount).minus(self._open[name])
        return taken

    def _write(self, entries: list[list[Any]]) -> None:
        """Append what was settled and `entries`, in one line; the lock is held, and all lines before it are read."""
        self._read()
        settled = tuple(self._settled)
        entries = [*(["settle", name, *amount] for name, amount in settled), *entries]
        if self.path is None:
            self._take(entries)
        elif entries:
            self._append(entries)
            self._read()
        for _ in settled:
            self._settled.popleft()

    def _append(self, entries: list[list[Any]]) -> None:
        assert self.path is not None
        line = (json.dumps(entries, separators=(",", ":")) + "\n").encode()
        out = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            view = memoryview(line)
            while view:  # a full disk raises here; the torn line counts for nothing
                view = view[os.write(out, view) :]
            os.fsync(out)
        finally:
            os.close(out)

    def _read(self) -> None:
        """Take in what was written since the last time; a torn last line is ended, and is nothing."""
        if self.path is None:
            return
        with os.fdopen(
            os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "rb+"
        ) as file:  # O_CREAT asks the file server
            file.seek(self._read_to)
            data = file.read()
            if data and not data.endswith(b"\n"):
                file.write(b"\n")
                data += b"\n"
        self._read_to += len(data)
        for line in data.splitlines():
            try:
                entries = json.loads(line)
            except ValueError:
                continue
            self._take(entries)

    def _take(self, entries: list[list[Any]]) -> None:
        for kind, name, *amount in entries:
            before = self._open.pop(name, Amount())
            if kind == "reserve":
                self._open[name] = Amount(*amount)
            self._taken = self._taken.plus(Amount(*amount)).minus(before)


def of_step(llm: object, draft: Path | None, *others: Ledger) -> tuple[Ledger, ...]:
    """The ledgers that a step pays from: its own, in its folder if it has one, where `llm` has a budget; and the sweep's."""
    if isinstance(llm, Budgeted) and llm.budget:
        return (Ledger(draft and draft / "ledger.jsonl", llm.budget), *others)
    return others


class Purse:
    """Pays the calls of one event loop out of several ledgers at once. Use it as an async context manager.

    A call that does not fit waits while others of this purse are under way: most come to less than was reserved.
    """

    def __init__(self, ledgers: Sequence[Ledger]) -> None:
        import asyncio  # here: planning needs budgets, and no event loop

        self.ledgers = ledgers
        self._under_way, self._settlements, self._settled = 0, 0, asyncio.Event()
        self._clerk = ThreadPoolExecutor(1)  # waits for locks while answers arrive

    async def __aenter__(self) -> Purse:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._clerk.shutdown()
        for ledger in self.ledgers:
            ledger.flush()

    async def reserve(self, amount: Amount) -> tuple[str, ...]:
        """Raises OverBudget where it does not fit into one of the ledgers, and nothing is under way any more."""
        import asyncio

        if not self.ledgers:
            return ()
        while True:
            before = self._settlements
            self._settled.clear()
            try:
                names = await asyncio.get_running_loop().run_in_executor(self._clerk, self._reserve, amount)
            except OverBudget:
                if self._settlements == before:
                    if not self._under_way:
                        raise
                    await self._settled.wait()
            else:
                self._under_way += 1
                return names

    def _reserve(self, amount: Amount) -> tuple[str, ...]:
        names: list[str] = []
        for ledger in self.ledgers:
            try:
                name = ledger.reserve(amount)
            except BaseException:
                for paid, given in zip(self.ledgers, names, strict=False):
                    paid.settle(given, Amount())
                raise
            names.append(name)
        return tuple(names)

    def settle(self, names: tuple[str, ...], amount: Amount) -> None:
        if names:
            for ledger, name in zip(self.ledgers, names, strict=True):
                ledger.settle(name, amount)
            self._under_way -= 1
            self._settlements += 1
            self._settled.set()
