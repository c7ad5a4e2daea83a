"""Answers are asked for once: a language model with a memory over all experiments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from clir_cli.prompts import length
from clir_cli.types import LLM, Answer, Memory, Prompt


@runtime_checkable
class Served(Protocol):
    """An LLM whose answers cost money and arrive one by one: `ask` tells of each as it comes, then is `generate`."""

    def ask(
        self, prompts: Sequence[Prompt], max_tokens: int, arrived: Callable[[int, Answer], None]
    ) -> list[Answer]: ...


@dataclass(frozen=True)
class Remembered:
    """The answers of `llm`, taken from `memory` where it has them; an LLM itself.

    `identity` says which model answers and how (with what makes one repetition differ from another): an answer belongs
    to it, the messages and the length. A served answer is kept the moment it comes, local ones after each `generate`.
    What failed is never kept. Calls that were answered from memory say `cached` and what they once cost.
    """

    llm: LLM
    memory: Memory
    identity: str

    @property
    def context(self) -> int:
        return self.llm.context

    @property
    def force_length(self) -> bool:
        return isinstance(self.llm, length.Forced) and self.llm.force_length

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.llm.count_tokens(texts)

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        return self.llm.cut(texts, tokens)

    def count_prompts(self, prompts: Sequence[Prompt]) -> list[int]:
        return length.count_prompts(self.llm, prompts)

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        keys = [self._key(prompt, max_tokens) for prompt in prompts]
        known = {
            key: Answer(**value)._replace(cached=True)
            for key in set(keys)
            if (value := self.memory.get(key)) is not None
        }
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in known}
        fresh = dict(zip(missing, self._ask(missing, max_tokens), strict=True)) if missing else {}
        answers = []
        for key in keys:
            answers.append(known.get(key) or fresh[key])
            known[key] = answers[-1]._replace(cached=answers[-1].error is None)  # the same prompt twice was asked once
        return answers

    def _ask(self, missing: dict[str, Prompt], max_tokens: int) -> list[Answer]:
        names, prompts = list(missing), list(missing.values())
        if isinstance(self.llm, Served):
            return self.llm.ask(prompts, max_tokens, lambda at, answer: self._keep([names[at]], [answer]))
        answers = self.llm.generate(prompts, max_tokens)
        self._keep(names, answers)
        return answers

    def _keep(self, keys: Sequence[str], answers: Sequence[Answer]) -> None:
        self.memory.put(
            {key: answer._asdict() for key, answer in zip(keys, answers, strict=True) if answer.error is None}
        )

    def _key(self, prompt: Prompt, max_tokens: int) -> str:
        said = json.dumps([self.identity, prompt, max_tokens], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(said.encode(errors="surrogatepass")).hexdigest()
