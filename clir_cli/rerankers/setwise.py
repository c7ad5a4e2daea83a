"""Setwise reranking: a language model picks the best of a few documents (Zhuang et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clir_cli.prompts.listwise import Status
from clir_cli.rerankers import sorting
from clir_cli.rerankers.engine import Call, LLMReranker, Passages, PickPrompt, Reading
from clir_cli.rerankers.sorting import Pick, Request, Sort
from clir_cli.types import LLM, Answer, Shown, added, neutral


@dataclass(frozen=True)
class Setwise(LLMReranker):
    """Find the `top` best documents by picks of the best among a document and `children` others.

    `heap`: heapsort; `bubble`: bubble sort; `insertion`: the prior ranking's first `top` sorted, then each group of
    others against the last of them (arXiv 2504.10509), the cheapest where the first stage is good. What is not among the
    first `top` keeps its prior order.
    """

    llm: LLM
    prompt: PickPrompt
    sort_by: Literal["heap", "bubble", "insertion"] = "heap"
    children: int = 3  # documents that a document is compared with at once (Zhuang et al. 2024)
    top: int = 10
    answer: Literal["labels", "text", "token"] = "labels"
    # labels: the most probable; text: what the written answer names; token: the one token written, else none (llm-rankers)
    permutations: int = 1  # more: each set is shown in so many random orders, and the most frequent pick counts
    seed: int = neutral(0)  # of what is drawn; the stage gives its own, rerank.seed, which is part of the identity
    flow: Literal["exact", "released"] = added("exact", "exact")
    # released: as llm-rankers' code runs. heap: a node is shown before its children, whatever the first stage said, and wins
    # where an answer names none; bubble: what lies behind the last change is skipped, and with it some of the first `top`

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.children < 2 or self.top < 1 or self.permutations < 1:
            raise ValueError("children must be at least 2, top and permutations at least 1")
        if self.flow == "released" and self.sort_by == "insertion":
            raise ValueError("flow=released is for sort_by=heap and bubble: llm-rankers has no insertion")

    def sort(self, n: int) -> Sort:
        released = self.flow == "released"
        if self.sort_by == "heap":
            sort = sorting.heap_sets(n, self.top, self.children, released)
        elif self.sort_by == "bubble":
            bubble = sorting.skipping_bubble_sets if released else sorting.bubble_sets
            sort = bubble(n, self.top, self.children)
        else:
            sort = sorting.insertion_sets(n, self.top, self.children)
        return sort if self.permutations == 1 else sorting.self_consistent(sort, self.permutations, self.seed)

    def largest(self) -> Request:
        return Pick(tuple(range(self.children + 1)))

    def ask(self, query: Shown, request: Request, passages: Passages) -> list[Call]:
        prompt = self.prompt.messages(query, passages)
        if self.answer == "labels":
            return [Call(prompt, labels=tuple(self.prompt.label(i) for i in range(len(passages))))]
        return [Call(prompt, max_tokens=1 if self.answer == "token" else self.prompt.answer_tokens(self.llm))]

    def read(self, request: Request, calls: Sequence[Call], answers: Sequence[Answer]) -> Reading:
        assert isinstance(request, Pick)
        (answer,) = answers
        best, status = best_label(self.prompt, calls[0], answer, len(request.docs))
        if best is None:
            return Reading(None, status)
        return Reading([request.docs[best]], status, (best,))

    def again(self, call: Call) -> Call:
        return call if call.scored else call._replace(prompt=self.prompt.reminder(call.prompt))

    def calls(self, candidates: int) -> int:
        """An upper bound: building a heap takes less than 2 n / children picks, taking one off it two a level."""
        n, c, k = candidates, self.children, min(self.top, candidates)
        if n < 2:
            return 0
        sets = math.ceil((n - 1) / c)
        depth = math.ceil(math.log(n, c)) + 1
        bound = {"heap": 2 * sets + k * depth, "bubble": k * sets, "insertion": 2 * k * depth + n * (1 + depth)}
        return self.permutations * bound[self.sort_by]


def best_label(prompt: PickPrompt, call: Call, answer: Answer, n: int) -> tuple[int | None, Status]:
    """Which of n passages an answer names: by the labels' probabilities, or, where there are none, by its words."""
    if call.scored and answer.scores is not None and any(map(math.isfinite, answer.scores)):
        scores = answer.scores
        return max(range(n), key=lambda i: (scores[i], -i)), "ok"
    if call.max_tokens == 1:  # a token is a label or none, whatever its case and the blanks around it
        said, labels = answer.text.strip().upper(), [prompt.label(i) for i in range(n)]
        return (labels.index(said), "ok") if said in labels else (None, "failed")
    order, status = prompt.read(answer.text, n)
    if status == "failed":
        return None, status
    return order[0], "ok" if status == "partial" else status  # one label is all that was asked for
