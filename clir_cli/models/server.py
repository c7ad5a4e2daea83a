"""Asking an OpenAI-compatible server: a key that nobody reads, retries that wait, refusals that explain themselves."""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import re
import string
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from clir_cli.errors import ConfigError, RunError

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

T = TypeVar("T")
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}  # statuses that may pass; any other is final
LONGEST_WAIT = 600.0  # seconds: a server that asks for more is given up
LETTERS = (string.ascii_letters + string.whitespace).encode()
ASCII = bytes(range(128))


class NoAnswer(Exception):
    """The body of a response that is not what was asked for; it is asked for again."""


@dataclass
class Server:
    """One server and how it is asked; `node` is the configuration node that its options stand in, for errors."""

    node: str
    model: str
    base_url: str | None
    api_key_env: str | None
    max_concurrency: int
    timeout: float
    retries: int
    backoff: float
    advice: Mapping[int, str] = field(default_factory=dict)  # status -> what to do about it
    retried: int = 0  # requests that had to be sent again

    def key(self) -> str:
        """The key in `api_key_env`, `none` where the server wants none. Raises ConfigError if it is not set, or is none."""
        if self.api_key_env is None:
            return "none"
        if key := os.environ.get(self.api_key_env, "").strip():
            if not re.fullmatch(r"[!-~]+", key):  # else the HTTP library refuses it, quoting it in its message
                raise ConfigError(
                    f"the key in {self.api_key_env} ({self.node}.api_key_env) holds a blank, a line break or a letter that "
                    "no key has: export the key alone"
                )
            return key
        raise ConfigError(
            f"the environment variable {self.api_key_env} ({self.node}.api_key_env) is not set, and {self.model} is asked "
            f"with a key\n  export {self.api_key_env}=...   or, for a server that wants none: {self.node}.api_key_env=null"
        )

    def ask_all(
        self, requests: Sequence[Any], ask: Callable[[AsyncOpenAI, Any], Awaitable[T]], done: Callable[[], object]
    ) -> list[T]:
        """The answers to all requests, `max_concurrency` at once.

        `ask` sends one and reads the answer, raising NoAnswer where it is none. What may pass (429, 5xx, time-outs, cut
        connections, no answers) is tried again with exponential back-off and jitter, or after the server's Retry-After.
        Raises RunError for the first request that is refused or never answered; nothing new is sent after it.
        """
        return asyncio.run(self._ask_all(requests, ask, done, self.key())) if requests else []

    async def _ask_all(
        self,
        requests: Sequence[Any],
        ask: Callable[[AsyncOpenAI, Any], Awaitable[T]],
        done: Callable[[], object],
        key: str,
    ) -> list[T]:
        from openai import AsyncOpenAI

        slots, final = asyncio.Semaphore(self.max_concurrency), asyncio.Event()

        async def one(request: Any) -> T | None:
            async with slots:
                if final.is_set():
                    return None
                try:
                    answer = await self._persistently(client, request, ask, final)
                except BaseException:
                    final.set()
                    raise
            done()
            return answer

        async with AsyncOpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=0) as client:
            got = await asyncio.gather(*(one(request) for request in requests), return_exceptions=True)
        for failure in got:
            if isinstance(failure, BaseException):
                raise failure
        return [answer for answer in got if answer is not None and not isinstance(answer, BaseException)]

    async def _persistently(
        self, client: AsyncOpenAI, request: Any, ask: Callable[[AsyncOpenAI, Any], Awaitable[T]], final: asyncio.Event
    ) -> T:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        host, why, attempt = client.base_url.host, "", 0
        for attempt in range(self.retries + 1):
            wait = None
            try:
                return await ask(client, request)
            except APIStatusError as error:
                if error.status_code not in AGAIN or error.code == "insufficient_quota":
                    raise self.refusal(host, error) from None  # its text may quote the key
                why, wait = f"status {error.status_code}: {self.said(error)}", retry_after(error.response.headers)
            except APITimeoutError:
                why = f"no answer within {self.node}.timeout={self.timeout:g} seconds"
            except APIConnectionError as error:
                why = f"the connection failed: {error.__cause__ or error}"
            except NoAnswer as error:
                why = self.hidden(str(error))[:300]
            if final.is_set() or attempt == self.retries or (wait or 0) > LONGEST_WAIT:
                break
            self.retried += 1
            await self.pause(attempt, wait)
        raise RunError(
            f"{host} did not answer for {self.model}: {why} (tried {attempt + 1} times)\n"
            "  finished shards are kept: run again to go on"
        )

    async def pause(self, attempt: int, wait: float | None) -> None:
        """Exponential back-off with jitter, at most a minute, or the `wait` that the server asked for."""
        await asyncio.sleep(min(60.0, self.backoff * 2**attempt) * random.uniform(0.5, 1) if wait is None else wait)

    def refusal(self, host: str, error: APIStatusError) -> RunError:
        """What a status that will not pass means, and what to do."""
        named = self.api_key_env or f"no variable: {self.node}.api_key_env is null"
        step = {
            401: f"check the key in {named}",
            403: f"the key in {named} may not use {self.model}",
            404: f"check {self.node}.model and {self.node}.base_url (which mostly ends in /v1)",
            429: "the account has no credit left",
            **self.advice,
        }.get(error.status_code, f"this will not pass by itself: check {self.node}.base_url and {self.node}.model")
        return RunError(f"{host} refused {self.model} with status {error.status_code}: {self.said(error)}\n  {step}")

    def said(self, error: APIStatusError) -> str:
        """The server's own words."""
        body = error.body if isinstance(error.body, Mapping) else {}
        return self.hidden(str(body.get("message") or body.get("detail") or error.message))[:500]

    def hidden(self, text: str) -> str:
        """A text without the key that a server may quote: before it is cut, or half a key would stay."""
        return text if self.api_key_env is None else text.replace(self.key(), "***")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: a number, or a date."""
    if not (said := headers.get("retry-after", "").strip()):
        return None
    if said.replace(".", "", 1).isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None


def estimate_tokens(text: str) -> int:
    """A careful guess: three ASCII letters or blanks a token, any other ASCII character one, two bytes of other scripts."""
    data = text.encode(errors="surrogatepass")
    other = data.translate(None, ASCII)
    letters = len(data) - len(data.translate(None, LETTERS))
    return -(-letters // 3) + (len(data) - len(other) - letters) + -(-len(other) // 2)
