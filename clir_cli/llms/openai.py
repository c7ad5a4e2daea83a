"""Any server that speaks OpenAI's chat completions: OpenAI itself, vLLM, `transformers serve`, Ollama, OpenRouter, ..."""

from __future__ import annotations

import asyncio
import bisect
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from clir_cli.errors import ConfigError
from clir_cli.ledger import Amount, Budget, Ledger, OverBudget, Purse
from clir_cli.llms import prices
from clir_cli.llms import tokens as model_tokens
from clir_cli.models.server import AGAIN, LONGEST_WAIT, NoAnswer, Server, estimate_tokens, retry_after
from clir_cli.progress import say, track
from clir_cli.prompts.length import count_prompts
from clir_cli.types import Answer, Prompt, added, content, neutral

if TYPE_CHECKING:
    from openai import APIConnectionError, AsyncOpenAI

LABEL_TOKENS = 12  # a label and a few words around it, where a server may give no log-probabilities
TOP = 20  # log-probabilities that OpenAI and vLLM give at most
BLANKS = " \u2581\u0120"  # how tokens begin that stand after a blank, decoded or as a vocabulary has them


class _Asked(NamedTuple):
    """A prompt, what is wanted (a text of so many tokens, or scores of labels), and the tokens that it is taken to have."""

    prompt: Prompt
    wanted: int | Sequence[str]
    length: int


@dataclass(frozen=True, kw_only=True)
class OpenAI:
    """A model behind an OpenAI-compatible server, asked for many answers at once.

    What may pass (429, 5xx, time-outs, cut connections, answers that are no JSON) is tried again with exponential
    back-off and jitter, or after the server's Retry-After; an answer that never comes has `error` set. Anything else
    (400, 401, 403, 404, an exhausted quota) raises RunError. The key stands in no message.

    Labels are scored by the log-probabilities of the answer's first token, among the 20 most probable tokens. A server
    that gives none is known by its first answers: what it writes is read then.

    `max_calls`, `max_total_tokens` and `max_usd` are of each step over all its runs. A call is counted before it is made, with
    all that it may cost: its prompt, none of it cached, and the longest answer. A call that was refused with a status costs
    nothing; one whose answer was lost on the way counts in full, since it may have been billed.
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
    logprob_token_ids: bool = added(False, False)
    # the server is a vLLM that takes `logprob_token_ids` (its pull request 43463, July 2026; run with 0.32.0's
    # server): every label's probability, however improbable; needs `tokenizer`
    price: Mapping[str, float] | None = neutral(None)
    # {input: 2, output: 8, cached_input: 0.5}: dollars per million tokens; null: what prices.yaml says, if anything
    max_calls: int | None = neutral(None)
    max_total_tokens: int | None = neutral(None)  # of prompts and answers
    max_usd: float | None = neutral(None)
    max_concurrency: int = neutral(8)
    timeout: float = neutral(60.0)  # seconds for one try
    retries: int = neutral(6)
    backoff: float = neutral(0.5)  # seconds before the first retry, doubled each time up to a minute

    def __post_init__(self) -> None:
        if self.max_concurrency < 1 or self.retries < 0 or self.timeout <= 0 or self.backoff < 0 or self.context < 1:
            raise ValueError("context, max_concurrency and timeout must be positive, retries and backoff not negative")
        if self.logprob_token_ids and self.tokenizer is None:
            raise ValueError(
                "logprob_token_ids needs tokenizer, the model's folder: the labels' numbers are read there"
            )
        if self.price is not None:
            prices.given(self.price)
        _ = self.budget

    # Length ------------------------------------------------------------------------------------------------------------

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """By the tokenizer; without one a careful estimate: three ASCII letters or blanks a token, any other ASCII
        character one, two bytes of any other script (a Cyrillic or Arabic letter one, a Chinese or Hindi one 1.5)."""
        if self.tokenizer is not None:
            return model_tokens.count(model_tokens.load(Path(self.tokenizer)), texts)
        return [estimate_tokens(text) for text in texts]

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        if self.tokenizer is not None:
            return model_tokens.cut(model_tokens.load(Path(self.tokenizer)), texts, tokens)
        return [
            text[: bisect.bisect(range(1, len(text) + 1), tokens, key=lambda end: estimate_tokens(text[:end]))]
            for text in texts
        ]

    # Asking ------------------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        return self.ask(prompts, max_tokens, lambda at, answer: None)

    def score_labels(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[Answer]:
        """`text` is the first token, or, where there are no scores, the few that the server wrote."""
        return self.ask(prompts, labels, lambda at, answer: None)

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise ConfigError unless all labels differ, and each is one token where there is a tokenizer to tell."""
        if len(set(labels)) < len(labels):
            raise ConfigError(f"labels must differ, got {', '.join(labels)}")
        if self.tokenizer is None:
            return
        numbers = self._label_ids(labels)
        if long := [label for label, ids in numbers.items() if not ids]:
            raise ConfigError(
                f"the label {long[0]!r} is several tokens to {self.model}, and its probability that of one token: choose "
                "other labels in the prompt, or reranker.answer=text"
            )
        if self.logprob_token_ids and (count := sum(map(len, numbers.values()))) > model_tokens.MOST_LABELS:
            raise ConfigError(
                f"a vLLM server takes at most {model_tokens.MOST_LABELS} logprob_token_ids, and {len(labels)} labels, with and without a "
                f"blank before, are {count}: lower reranker.window, or set llm.logprob_token_ids=false"
            )

    def ask(
        self,
        prompts: Sequence[Prompt],
        wanted: int | Sequence[str],
        arrived: Callable[[int, Answer], None],
        ledgers: Sequence[Ledger] = (),
    ) -> list[Answer]:
        """As `generate` or `score_labels`; `arrived` is told of each answer as it comes, also after another failed.

        Every try is paid out of all `ledgers`; without any a budget is that of this object. Raises OverBudget instead of the
        first that one of them forbids; what is under way then still arrives.
        """
        key, ledgers = self.server.key(), ledgers or self._own_ledger
        for ledger in ledgers:
            self._check_price(ledger.budget)
        if not prompts:
            return []
        lengths = count_prompts(self, prompts) if ledgers else [0] * len(prompts)
        asked = [_Asked(prompt, wanted, length) for prompt, length in zip(prompts, lengths, strict=True)]
        return asyncio.run(self._ask(asked, arrived, ledgers, key))

    @cached_property
    def served(self) -> Counter[tuple[str | None, str | None]]:
        """(model, system fingerprint) as the server named them, counted over this object's answers."""
        return Counter()

    @property
    def changes(self) -> int:
        """Answers that did not come from the (model, fingerprint) that answered first."""
        return sum(list(self.served.values())[1:])

    @cached_property
    def told(self) -> Counter[bool]:
        """Answers about labels, with (True) and without log-probabilities."""
        return Counter()

    def check(self) -> None:
        """Raise ConfigError if the key is not set, or is none, or dollars are limited and no price is known."""
        self.server.key()
        self._check_price(self.budget)

    # Money -------------------------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        return Budget(self.max_calls, self.max_total_tokens, self.max_usd)

    @cached_property
    def _own_ledger(self) -> tuple[Ledger, ...]:
        return (Ledger(None, self.budget),) if self.budget else ()

    def cost(self, answers: Sequence[Answer]) -> float | None:
        """Dollars for all of them; None where the price, or how many tokens one had, is not known."""
        price = self._price
        if price is None or not all(answer.prompt_tokens for answer in answers):
            return None
        return sum(price.usd(a.prompt_tokens, a.cached_prefix_tokens, a.output_tokens) for a in answers)

    @property
    def _price(self) -> prices.Price | None:
        if self.price is not None:
            return prices.given(self.price)
        url = self.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        return prices.listed(urlsplit(url).hostname or "", self.model)

    def _check_price(self, budget: Budget) -> None:
        if budget.max_usd is not None and self._price is None:
            raise ConfigError(
                f"{budget.options[2]} limits dollars, and no price of {self.model} is known: give "
                "'llm.price={input:2,output:8}', in dollars per million tokens"
            )

    def _most(self, length: int, limit: int) -> Amount:
        """The most that one call may cost."""
        price = self._price
        return Amount(1, length + limit, 0.0 if price is None else price.usd(length, 0, limit))

    def _paid(self, answer: Answer, most: Amount) -> Amount:
        if not answer.prompt_tokens:  # the server does not say
            return most
        return Amount(1, answer.prompt_tokens + answer.output_tokens, self.cost([answer]) or 0.0)

    # Requests ----------------------------------------------------------------------------------------------------------

    @cached_property
    def server(self) -> Server:
        return Server(
            "llm", self.model, self.base_url, self.api_key_env, self.max_concurrency, self.timeout, self.retries, self.backoff,
            {400: "the request does not suit the server: check llm.context, reranker.passage_tokens and llm.temperature; where it takes no "
                  "logprobs, reranker.answer=text"},
        )  # fmt: skip

    async def _ask(
        self, asked: Sequence[_Asked], arrived: Callable[[int, Answer], None], ledgers: Sequence[Ledger], key: str
    ) -> list[Answer]:
        from openai import AsyncOpenAI

        slots, final = asyncio.Semaphore(self.max_concurrency), asyncio.Event()
        progress = iter(track(range(len(asked)), len(asked), f"asking {self.model}", "prompts"))
        next(progress)

        async def one(at: int) -> Answer | None:
            async with slots:
                if final.is_set():  # another request was refused for good: start nothing new
                    return None
                try:
                    answer = await self._answer(client, asked[at], purse, final)
                except BaseException:
                    final.set()
                    raise
            arrived(at, answer)
            next(progress, None)
            return answer

        async with (
            Purse(ledgers) as purse,
            AsyncOpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=0) as client,
        ):
            got = await asyncio.gather(*(one(at) for at in range(len(asked))), return_exceptions=True)
        failures = [failure for failure in got if isinstance(failure, BaseException)]
        if failures:  # only now: what was under way has been paid for, and is kept
            raise next((failure for failure in failures if not isinstance(failure, OverBudget)), failures[0])
        return [answer for answer in got if isinstance(answer, Answer)]

    async def _answer(self, client: AsyncOpenAI, asked: _Asked, purse: Purse, final: asyncio.Event) -> Answer:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        why, attempt = "", 0
        for attempt in range(self.retries + 1):
            limit = self._limit(asked.wanted)
            spent = most = self._most(asked.length, limit)  # an answer that is lost may have been billed
            paid = await purse.reserve(most)
            begun, wait = time.monotonic(), None
            try:
                if final.is_set():
                    spent, why = Amount(), why or "another request was refused"
                    break
                raw = await client.chat.completions.with_raw_response.create(**self._request(asked, limit))
                answer = self._read(raw.text, asked.wanted, time.monotonic() - begun)
                spent = self._paid(answer, most)
            except APIStatusError as error:
                spent = Amount()
                if error.code == "content_filter":  # this prompt's own fate, not the run's
                    why = f"refused by the server's content filter: {self.server.said(error)}"
                    break
                if error.status_code not in AGAIN or error.code == "insufficient_quota":
                    raise self.server.refusal(client.base_url.host, error) from None  # its text may quote the key
                why, wait = (
                    f"status {error.status_code}: {self.server.said(error)}",
                    retry_after(error.response.headers),
                )
            except APITimeoutError as error:
                spent = Amount() if _never_sent(error) else most
                why = f"no answer within llm.timeout={self.timeout:g} seconds"
            except APIConnectionError as error:
                spent = Amount() if _never_sent(error) else most
                why = f"the connection failed: {error.__cause__ or error}"
            except NoAnswer as error:
                why = f"the answer is no chat completion: {self.server.hidden(str(error))[:200]!r}"
            else:
                return answer
            finally:
                purse.settle(paid, spent)
            if final.is_set() or attempt == self.retries or (wait or 0) > LONGEST_WAIT:
                break
            await self.server.pause(attempt, wait)
        return Answer("", error=f"{client.base_url.host}: {why} (tried {attempt + 1} times)")

    @property
    def label_tokens(self) -> int:
        """Tokens to leave for an answer that is a label: the server may have to be read by its words."""
        return LABEL_TOKENS

    def _limit(self, wanted: int | Sequence[str]) -> int:
        """Tokens that an answer may have: one for labels where the server is known to give log-probabilities."""
        if isinstance(wanted, int):
            return wanted
        return 1 if self.told[True] > self.told[False] else LABEL_TOKENS

    def _request(self, asked: _Asked, limit: int) -> dict[str, Any]:
        sampling = {"temperature": self.temperature, "seed": self.seed}
        extra, scoring = dict(self.extra), {}
        if not isinstance(asked.wanted, int):
            scoring = {"logprobs": True, "top_logprobs": TOP}
            if self.logprob_token_ids:
                ids = [i for of in self._label_ids(asked.wanted).values() for i in of]
                scoring = {"logprobs": True}
                extra |= {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}
        return {
            "model": self.model,
            "messages": [turn._asdict() for turn in asked.prompt],
            self.limit_name: limit,
            **{name: value for name, value in sampling.items() if value is not None},
            **scoring,
            **({"extra_body": extra} if extra else {}),
        }

    def _read(self, body: str, wanted: int | Sequence[str], seconds: float) -> Answer:
        """The answer in a response's body. Raises NoAnswer where it is no chat completion."""
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
                fingerprint=said.get("system_fingerprint"),
            )
            if not isinstance(wanted, int):
                answer = self._scored(answer, choice, wanted)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise NoAnswer(body) from None
        self._watch(answer.model, answer.fingerprint)
        return answer

    # Labels ------------------------------------------------------------------------------------------------------------

    def _scored(self, answer: Answer, choice: Mapping[str, Any], labels: Sequence[str]) -> Answer:
        """The answer with its labels' log-probabilities; without, where the server gave none that say anything."""
        content = (choice.get("logprobs") or {}).get("content") or []
        scores = self._scores(content[0], labels) if content else None
        if scores is None:
            if not self.told[False]:
                why = "no log-probabilities" if not content else "log-probabilities of no label"
                say(f"warning: {self.model} gave {why}: what it writes is read instead, and counted as without_scores")
        else:
            answer = answer._replace(scores=scores, truncated=False)
            if not self.logprob_token_ids:
                answer = answer._replace(text=content[0]["token"])
        self.told[scores is not None] += 1
        return answer

    def _scores(self, token: Mapping[str, Any], labels: Sequence[str]) -> tuple[float, ...] | None:
        """Log-probabilities of the labels among themselves as the answer's first token, with or without a blank before.

        None where no label is among the tokens that the server tells, or where the answer begins with a part of a label.
        """
        told = {str(t["token"]): float(t["logprob"]) for t in (token, *(token.get("top_logprobs") or ()))}
        if self.logprob_token_ids:
            names = {label: {f"token_id:{i}" for i in ids} for label, ids in self._label_ids(labels).items()}
        else:
            names = {label: {name for name in told if name.lstrip(BLANKS) == label} for label in labels}
            first = str(token["token"]).lstrip(BLANKS)
            if first and first not in labels and any(label.startswith(first) for label in labels):
                return None
        found = [_log_sum([told[name] for name in names[label] if name in told]) for label in labels]
        total = _log_sum(found)
        return tuple(score - total for score in found) if math.isfinite(total) else None

    def _label_ids(self, labels: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
        return _read_label_ids(Path(self.tokenizer or ""), tuple(labels))

    def _watch(self, model: str | None, fingerprint: str | None) -> None:
        if self.served and (model, fingerprint) not in self.served and len(self.served) == 1:
            first = next(iter(self.served))
            say(
                f"warning: {self.model} was answered by {first} and now by {(model, fingerprint)}: one ranking of two models"
            )
        self.served[model, fingerprint] += 1


def _log_sum(values: Sequence[float]) -> float:
    """log(sum(exp(values))); -inf for none. Servers write -9999 where they mean -inf."""
    told = [value for value in values if value > -9999]
    most = max(told, default=-math.inf)
    return most + math.log(sum(math.exp(value - most) for value in told)) if told else -math.inf


def _never_sent(error: APIConnectionError) -> bool:
    """Whether a request failed before the server could have seen it."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout")  # httpx or httpx2


@lru_cache(maxsize=64)
def _read_label_ids(folder: Path, labels: tuple[str, ...]) -> Mapping[str, tuple[int, ...]]:
    """The tokens that each label is, with and without a blank before it; none where it is several."""
    tokenizer = model_tokens.load(folder)
    vocabulary = tokenizer.get_vocab()
    found = {}
    for label in labels:
        rows = tokenizer([label, f" {label}"], add_special_tokens=False)["input_ids"]
        pieces = [f"{blank}{label}" for blank in ("", *BLANKS)]
        ids = {row[0] for row in rows if len(row) == 1} | {vocabulary[p] for p in pieces if p in vocabulary}
        found[label] = tuple(sorted(ids - {tokenizer.unk_token_id}))
    return found
