"""Pointwise reranking: a language model says of each document alone how relevant it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clir_cli.rerankers import sorting
from clir_cli.rerankers.engine import Call, GradePrompt, LLMReranker, Passages, QueryPrompt, Reading
from clir_cli.rerankers.sorting import Request, Score, Sort
from clir_cli.types import LLM, Answer, Shown


@dataclass(frozen=True)
class Pointwise(LLMReranker):
    """Rank by the grade that a model gives each document.

    The prompt's grades are labels with values: yes 1 and no 0, or 0 to 3. `answer=labels`: the expected value under the
    labels' probabilities, sum of p(label) value(label) with p a softmax over the labels alone; for yes and no it orders
    like log p(yes) - log p(no). `answer=text`: the value of the label that it writes.
    """

    llm: LLM
    prompt: GradePrompt
    answer: Literal["labels", "text"] = "labels"

    def sort(self, n: int) -> Sort:
        return sorting.pointwise(n)

    def largest(self) -> Request:
        return Score(0)

    def ask(self, query: Shown, request: Request, passages: Passages) -> list[Call]:
        prompt = self.prompt.messages(query, passages)
        limit = self.prompt.answer_tokens(self.llm) if self.answer == "text" else 0
        return [Call(prompt, limit, self.prompt.labels(query, passages))]

    def read(self, request: Request, calls: Sequence[Call], answers: Sequence[Answer]) -> Reading:
        (call,), (answer,), values = calls, answers, self.prompt.values
        if call.scored and answer.scores is not None and any(map(math.isfinite, answer.scores)):
            return Reading(expected_value(answer.scores, values), "ok")
        label, status = self.prompt.read(answer.text, call.labels)
        return Reading(None if label is None else values[label], status)

    def again(self, call: Call) -> Call:
        return call if call.scored else call._replace(prompt=self.prompt.reminder(call.prompt))

    def calls(self, candidates: int) -> int:
        return candidates


@dataclass(frozen=True)
class QueryLikelihood(LLMReranker):
    """Rank by the mean log-probability of the query's tokens after the document (UPR, Sachan et al. 2022)."""

    llm: LLM
    prompt: QueryPrompt

    def sort(self, n: int) -> Sort:
        return sorting.pointwise(n)

    def largest(self) -> Request:
        return Score(0)

    def ask(self, query: Shown, request: Request, passages: Passages) -> list[Call]:
        return [Call(self.prompt.messages(query, passages), continuation=query.text)]

    def read(self, request: Request, calls: Sequence[Call], answers: Sequence[Answer]) -> Reading:
        (answer,) = answers
        if answer.scores is None or not math.isfinite(answer.scores[0]):
            return Reading(None, "failed")
        return Reading(answer.scores[0] / max(1, answer.output_tokens), "ok")

    def calls(self, candidates: int) -> int:
        return candidates


def expected_value(scores: Sequence[float], values: Sequence[float]) -> float:
    """sum of softmax(scores) * values; for two labels monotone in their difference and never saturated to a tie.

    Yes and no are taken as log-odds, since p(yes) rounds to 1 for everything that is surely relevant.
    """
    if sorted(values) == [0.0, 1.0]:
        yes, no = (next(s for s, v in zip(scores, values, strict=True) if v == which) for which in (1.0, 0.0))
        return max(-1e9, min(1e9, yes - no))
    most = max(scores)
    weights = [math.exp(score - most) for score in scores]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
