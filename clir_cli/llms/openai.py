"""Any server that speaks OpenAI's chat completions: OpenAI itself, vLLM, `transformers serve`, Ollama, OpenRouter, ..."""

from __future__ import annotations

import asyncio
import bisect
import email.utils
import json
import os
import random
import re
import string
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clir_cli.errors import ConfigError, RunError
from clir_cli.llms import tokens as model_tokens
from clir_cli.progress import say, track
from clir_cli.types import Answer, Prompt, content, neutral

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

LETTERS = (string.ascii_letters + string.whitespace).encode()
ASCII = bytes(range(128))
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}  # statuses that may pass; any other is final
LONGEST_WAIT = 600.0  # seconds: a server that asks for more is given up


@dataclass(frozen=True, kw_only=True)
class OpenAI:
    """A model behind an OpenAI-compatible server, asked for many answers at once.

    What may pass (429, 5xx, time-outs, cut connections, answers that are no JSON) is tried again with exponential
    back-off and jitter, or after the server's Retry-After; an answer that never comes has `error` set. Anything else
    (400, 401, 403, 404, an exhausted quota) raises RunError. The key stands in no message.
    """

    model: str  # the name that is sent
    context: int  # tokens that prompt and answer may have together; the server's limit, or less
    served_revision: str | None = None  # what the server runs under that name, where you know it; only for the identity
    base_url: str | None = neutral(None)  # e.g. http://127.0.0.1:8000/v1; null: OpenAI's
    api_key_env: str | None = neutral(
        "OPENAI_API_KEY"
    )  # environment variable with the key; null: the server wants none
    temperature: float | None = 0.0  # null: not sent, for models that refuse it
    seed: int | None = None
    limit_name: Literal["max_tokens", "max_completion_tokens"] = neutral(
        "max_tokens"
    )  # some models know the second only
    extra: Mapping[str, object] = field(default_factory=dict)  # sent in the request as it is
    tokenizer: str | None = content(None)  # a model folder, to count and cut exactly; null: an estimate (count_tokens)
    max_concurrency: int = neutral(8)
    timeout: float = neutral(60.0)  # seconds for one try
    retries: int = neutral(6)
    backoff: float = neutral(0.5)  # seconds before the first retry, doubled each time up to a minute

    def __post_init__(self) -> None:
        if self.max_concurrency < 1 or self.retries < 0 or self.timeout <= 0 or self.backoff < 0 or self.context < 1:
            raise ValueError("context, max_concurrency and timeout must be positive, retries and backoff not negative")

    # Length ------------------------------------------------------------------------------------------------------------

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """By the tokenizer; without one a careful estimate: three ASCII letters or blanks a token, any other ASCII
        character one, two bytes of any other script (a Cyrillic or Arabic letter one, a Chinese or Hindi one 1.5)."""
        if self.tokenizer is not None:
            return model_tokens.count(model_tokens.load(Path(self.tokenizer)), texts)
        return [_estimate(text) for text in texts]

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        if self.tokenizer is not None:
            return model_tokens.cut(model_tokens.load(Path(self.tokenizer)), texts, tokens)
        return [
            text[: bisect.bisect(range(1, len(text) + 1), tokens, key=lambda end: _estimate(text[:end]))]
            for text in texts
        ]

    # Asking ------------------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        return self.ask(prompts, max_tokens, lambda at, answer: None)

    def ask(self, prompts: Sequence[Prompt], max_tokens: int, arrived: Callable[[int, Answer], None]) -> list[Answer]:
        """As `generate`; `arrived` is told of each answer as it comes, also of those that come after another failed."""
        key = self._key()
        return asyncio.run(self._ask(prompts, max_tokens, arrived, key)) if prompts else []

    @cached_property
    def served(self) -> Counter[tuple[str | None, str | None]]:
        """(model, system fingerprint) as the server named them, counted over this object's answers."""
        return Counter()

    @property
    def changes(self) -> int:
        """Answers that did not come from the (model, fingerprint) that answered first."""
        return sum(list(self.served.values())[1:])

    def check(self) -> None:
        """Raise ConfigError if the key is not set, or is none."""
        self._key()

    def _key(self) -> str:
        if self.api_key_env is None:
            return "none"
        if key := os.environ.get(self.api_key_env, "").strip():
            if not re.fullmatch(r"[!-~]+", key):  # else the HTTP library refuses it, quoting it in its message
                raise ConfigError(
                    f"the key in {self.api_key_env} (llm.api_key_env) holds a blank, a line break or a letter that no key has:"
                    " export the key alone"
                )
            return key
        raise ConfigError(
            f"the environment variable {self.api_key_env} (llm.api_key_env) is not set, and {self.model} is asked with a key\n"
            f"  export {self.api_key_env}=...   or, for a server that wants none: llm.api_key_env=null"
        )

    async def _ask(
        self, prompts: Sequence[Prompt], max_tokens: int, arrived: Callable[[int, Answer], None], key: str
    ) -> list[Answer]:
        from openai import AsyncOpenAI

        slots, final = asyncio.Semaphore(self.max_concurrency), asyncio.Event()
        progress = iter(track(range(len(prompts)), len(prompts), f"asking {self.model}", "prompts"))
        next(progress)

        async def one(at: int) -> Answer | None:
            async with slots:
                if final.is_set():  # another request was refused for good: start nothing new
                    return None
                try:
                    answer = await self._answer(client, prompts[at], max_tokens, final)
                except BaseException:
                    final.set()
                    raise
            arrived(at, answer)
            next(progress, None)
            return answer

        async with AsyncOpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=0) as client:
            got = await asyncio.gather(*(one(at) for at in range(len(prompts))), return_exceptions=True)
        for failure in got:  # only now: what was under way has been paid for, and is kept
            if isinstance(failure, BaseException):
                raise failure
        return [answer for answer in got if isinstance(answer, Answer)]

    async def _answer(self, client: AsyncOpenAI, prompt: Prompt, max_tokens: int, final: asyncio.Event) -> Answer:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        why = ""
        for attempt in range(self.retries + 1):
            begun, wait = time.monotonic(), None
            try:
                raw = await client.chat.completions.with_raw_response.create(**self._request(prompt, max_tokens))
                return self._read(raw.text, time.monotonic() - begun)
            except APIStatusError as error:
                if error.code == "content_filter":  # this prompt's own fate, not the run's
                    why = f"refused by the server's content filter: {self._said(error)}"
                    break
                if error.status_code not in AGAIN or error.code == "insufficient_quota":
                    raise self._refusal(client.base_url.host, error) from None  # its text may quote the key
                why, wait = f"status {error.status_code}: {self._said(error)}", _retry_after(error.response.headers)
            except APITimeoutError:
                why = f"no answer within llm.timeout={self.timeout:g} seconds"
            except APIConnectionError as error:
                why = f"the connection failed: {error.__cause__ or error}"
            except _NoAnswer as error:
                why = f"the answer is no chat completion: {self._hidden(str(error))[:200]!r}"
            if final.is_set() or attempt == self.retries or (wait or 0) > LONGEST_WAIT:
                break
            await asyncio.sleep(min(60.0, self.backoff * 2**attempt) * random.uniform(0.5, 1) if wait is None else wait)
        return Answer("", error=f"{client.base_url.host}: {why} (tried {attempt + 1} times)")

    def _request(self, prompt: Prompt, max_tokens: int) -> dict[str, Any]:
        sampling = {"temperature": self.temperature, "seed": self.seed}
        return {
            "model": self.model,
            "messages": [turn._asdict() for turn in prompt],
            self.limit_name: max_tokens,
            **{name: value for name, value in sampling.items() if value is not None},
            **({"extra_body": dict(self.extra)} if self.extra else {}),
        }

    def _read(self, body: str, seconds: float) -> Answer:
        """The answer in a response's body. Raises _NoAnswer where it is no chat completion."""
        try:
            said = json.loads(body)
            choice, usage = said["choices"][0], said.get("usage") or {}
            text = choice["message"].get("content") or ""  # null where the model only thought, or refused
            if not isinstance(text, str):
                raise TypeError
            answer = Answer(
                text=text,
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                cached_prefix_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
                output_tokens=int(usage.get("completion_tokens") or 0),
                seconds=seconds,
                model=said.get("model"),
                truncated=choice.get("finish_reason") == "length",
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            raise _NoAnswer(body) from None
        self._watch(answer.model, said.get("system_fingerprint"))
        return answer

    def _watch(self, model: str | None, fingerprint: str | None) -> None:
        if self.served and (model, fingerprint) not in self.served and len(self.served) == 1:
            first = next(iter(self.served))
            say(
                f"warning: {self.model} was answered by {first} and now by {(model, fingerprint)}: one ranking of two models"
            )
        self.served[model, fingerprint] += 1

    def _refusal(self, host: str, error: APIStatusError) -> RunError:
        step = {
            400: "the request does not suit the server: check llm.context, reranker.passage_tokens and llm.temperature",
            401: f"check the key in {self.api_key_env or 'no variable: llm.api_key_env is null'}",
            403: f"the key in {self.api_key_env or 'no variable: llm.api_key_env is null'} may not use {self.model}",
            404: "check llm.model and llm.base_url (which mostly ends in /v1)",
            429: "the account has no credit left",
        }.get(error.status_code, "this will not pass by itself: check llm.base_url and llm.model")
        return RunError(f"{host} refused {self.model} with status {error.status_code}: {self._said(error)}\n  {step}")

    def _said(self, error: APIStatusError) -> str:
        """The server's own words."""
        body = error.body if isinstance(error.body, Mapping) else {}
        return self._hidden(str(body.get("message") or body.get("detail") or error.message))[:500]

    def _hidden(self, text: str) -> str:
        """A text without the key that a server may quote: before it is cut, or half a key would stay."""
        return text if self.api_key_env is None else text.replace(self._key(), "***")


class _NoAnswer(Exception):
    """The body of a response that is no chat completion."""


def _estimate(text: str) -> int:
    data = text.encode(errors="surrogatepass")
    other = data.translate(None, ASCII)
    letters = len(data) - len(data.translate(None, LETTERS))
    return -(-letters // 3) + (len(data) - len(other) - letters) + -(-len(other) // 2)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: a number, or a date."""
    if not (said := headers.get("retry-after", "").strip()):
        return None
    if said.replace(".", "", 1).isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None
