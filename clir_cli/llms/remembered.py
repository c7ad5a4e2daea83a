"""Answers are asked for once: a language model with a memory over all experiments."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from clir_cli.ledger import Ledger
from clir_cli.prompts import length
from clir_cli.types import LLM, Answer, Memory, Prompt, ScoresLabels, ScoresTexts


@runtime_checkable
class Served(Protocol):
    """An LLM whose answers cost money and arrive one by one."""

    def ask(
        self,
        prompts: Sequence[Prompt],
        wanted: int | Sequence[str],
        arrived: Callable[[int, Answer], None],
        ledgers: Sequence[Ledger] = (),
    ) -> list[Answer]:
        """As `generate` with so many tokens, or `score_labels` with these labels; `arrived` is told of each answer.

        Every call is paid out of all `ledgers`. Raises OverBudget instead of the first call that one of them forbids.
        """
        ...

    def cost(self, answers: Sequence[Answer]) -> float | None:
        """Dollars for all of them; None where the price, or how many tokens one had, is not known."""
        ...


@dataclass(frozen=True)
class Remembered:
    """The answers of `llm`, taken from `memory` where it has them; an LLM itself.

    `identity` says which model answers and how (with what makes one repetition differ from another): an answer belongs
    to it, the messages, and the length or the labels. A served answer is kept the moment it comes, local ones after each
    call. What failed is never kept. Answers that came from memory say `cached` and what they once cost.
    """

    llm: LLM
    memory: Memory
    identity: str
    ledgers: Sequence[Ledger] = ()
    _given: list[Answer] = field(default_factory=list, compare=False, repr=False)  # by a served model, for `costs`
    _counts: Counter[str] = field(default_factory=Counter, compare=False, repr=False)

    @property
    def context(self) -> int:
        return self.llm.context

    @property
    def force_length(self) -> bool:
        return isinstance(self.llm, length.Forced) and self.llm.force_length

    @property
    def label_tokens(self) -> int:
        return getattr(self.llm, "label_tokens", 1)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.llm.count_tokens(texts)

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        return self.llm.cut(texts, tokens)

    def count_prompts(self, prompts: Sequence[Prompt]) -> list[int]:
        return length.count_prompts(self.llm, prompts)

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        return self._ask(prompts, max_tokens)

    def check_labels(self, labels: Sequence[str]) -> None:
        assert isinstance(self.llm, ScoresLabels)
        self.llm.check_labels(labels)

    def score_labels(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[Answer]:
        answers = self._ask(prompts, tuple(labels))
        self._counts["without_scores"] += sum(answer.scores is None and answer.error is None for answer in answers)
        return answers

    def _ask(self, prompts: Sequence[Prompt], wanted: int | tuple[str, ...]) -> list[Answer]:
        kind = wanted if isinstance(wanted, int) else {"labels": list(wanted)}
        keys = [self._key(prompt, kind) for prompt in prompts]

        def ask(missing: Mapping[str, int]) -> list[Answer]:
            llm, names, new = self.llm, list(missing), [prompts[i] for i in missing.values()]
            if isinstance(llm, Served):
                return llm.ask(new, wanted, lambda at, answer: self._keep([names[at]], [answer]), self.ledgers)
            if isinstance(wanted, int):
                return llm.generate(new, wanted)
            assert isinstance(llm, ScoresLabels)
            return llm.score_labels(new, wanted)

        answers = self._answers(keys, ask)
        if isinstance(self.llm, Served):
            self._given.extend(answer._replace(text="") for answer in answers)
        return answers

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Answer]:
        llm = self.llm
        assert isinstance(llm, ScoresTexts)
        keys = [self._key(p, {"text": text}) for p, text in zip(prompts, continuations, strict=True)]

        def ask(missing: Mapping[str, int]) -> list[Answer]:
            return llm.log_likelihood(
                [prompts[i] for i in missing.values()], [continuations[i] for i in missing.values()]
            )

        return self._answers(keys, ask)

    def costs(self) -> dict[str, float]:
        """usd: of the answers that were asked for; usd_from_cache: what the others once cost; without_scores: answers.

        A number that is not known is not there, rather than 0.
        """
        counts: dict[str, float] = {}
        if isinstance(self.llm, Served):
            for name, cached in (("usd", False), ("usd_from_cache", True)):
                of = [answer for answer in self._given if answer.cached == cached and answer.error is None]
                if (cost := self.llm.cost(of)) is not None:
                    counts[name] = cost
        return counts | {name: count for name, count in self._counts.items() if count}

    def _answers(self, keys: Sequence[str], ask: Callable[[Mapping[str, int]], list[Answer]]) -> list[Answer]:
        """The answers under `keys`; `ask` is given those that are missing, each once, with the number of its prompt."""
        known = {key: _answer(value) for key in dict.fromkeys(keys) if (value := self.memory.get(key)) is not None}
        missing: dict[str, int] = {}
        for i, key in enumerate(keys):
            if key not in known:
                missing.setdefault(key, i)
        if missing:
            fresh = ask(missing)
            self._keep(list(missing), fresh)
            fresh_by_key = dict(zip(missing, fresh, strict=True))
        answers = []
        for key in keys:
            answers.append(known.get(key) or fresh_by_key[key])
            known[key] = answers[-1]._replace(cached=answers[-1].error is None)  # the same prompt twice was asked once
        return answers

    def _keep(self, keys: Sequence[str], answers: Sequence[Answer]) -> None:
        new = {key: answer for key, answer in zip(keys, answers, strict=True) if answer.error is None}
        self.memory.put({key: answer._asdict() for key, answer in new.items() if self.memory.get(key) is None})

    def _key(self, prompt: Prompt, wanted: Any) -> str:
        said = json.dumps([self.identity, prompt, wanted], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(said.encode(errors="surrogatepass")).hexdigest()


def _answer(kept: Mapping[str, Any]) -> Answer:
    scores = kept.get("scores")
    return Answer(**{**kept, "cached": True, "scores": None if scores is None else tuple(map(float, scores))})
