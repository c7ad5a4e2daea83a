"""Pairwise reranking: a language model says which of two documents is better (PRP, Qin et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clir_cli.prompts.listwise import Status
from clir_cli.rerankers import sorting
from clir_cli.rerankers.engine import Call, LLMReranker, Passages, PickPrompt, Reading
from clir_cli.rerankers.setwise import best_label
from clir_cli.rerankers.sorting import Compare, Request, Sort
from clir_cli.types import LLM, Answer, Shown, added


@dataclass(frozen=True)
class Pairwise(LLMReranker):
    """Sort by comparisons of two documents, each asked in both orders: a document wins that is preferred in both.

    `all_pairs`: every pair, documents ranked by their wins; `heap`: heapsort; `bubble`: `top` passes from the back to the
    front (PRP-sliding-K); `quick_select`: partitions by a pivot, all comparisons with it at once. But for all_pairs, what
    is not among the first `top` keeps the order that the algorithm left it in (sorting.py).
    """

    llm: LLM
    prompt: PickPrompt
    sort_by: Literal["all_pairs", "heap", "bubble", "quick_select"] = "heap"
    top: int = 10
    both_orders: bool = True  # false: half the calls, and the judge's position bias decides close cases
    answer: Literal["labels", "text", "token"] = "labels"
    # labels: the more probable; text: what the written answer names; token: the one token written, else a tie (llm-rankers)
    rest: Literal["sorted", "prior"] = added("sorted", "sorted")
    # what is not among the first `top`: as the algorithm left it, or in its prior order (llm-rankers, whatever it did)
    flow: Literal["exact", "released"] = added("exact", "exact")
    # released: as llm-rankers' code runs, whose ties go to the one that is above in the heap, whatever the first stage said,
    # and equal points (all_pairs) to the one that had some first

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if self.flow == "released" and self.sort_by not in ("heap", "all_pairs"):
            raise ValueError(f"flow=released is for sort_by=heap and all_pairs: it changes nothing of {self.sort_by}")

    def sort(self, n: int) -> Sort:
        if self.sort_by == "all_pairs":
            order = yield from sorting.all_pairs(n, self.flow == "released")
        elif self.sort_by == "heap":
            order = yield from sorting.heap_pairs(n, self.top, self.flow == "released")
        else:
            way = {"bubble": sorting.bubble, "quick_select": sorting.quick_select}
            order = yield from way[self.sort_by](n, self.top)
        return order if self.rest == "sorted" else [*order[: self.top], *sorted(order[self.top :])]

    def largest(self) -> Request:
        return Compare(0, 1)

    def ask(self, query: Shown, request: Request, passages: Passages) -> list[Call]:
        shown = [passages, passages[::-1]] if self.both_orders else [passages]
        if self.answer == "labels":
            labels = self.prompt.label(0), self.prompt.label(1)
            return [Call(self.prompt.messages(query, pair), labels=labels) for pair in shown]
        limit = 1 if self.answer == "token" else self.prompt.answer_tokens(self.llm)
        return [Call(self.prompt.messages(query, pair), max_tokens=limit) for pair in shown]

    def read(self, request: Request, calls: Sequence[Call], answers: Sequence[Answer]) -> Reading:
        picks = [best_label(self.prompt, call, answer, 2) for call, answer in zip(calls, answers, strict=True)]
        firsts = tuple(pick for pick, _ in picks if pick is not None)
        if len(firsts) < len(picks):
            return Reading(None, "failed")
        status: Status = next((status for _, status in picks if status != "ok"), "ok")
        if len(firsts) == 1:
            return Reading(1.0 - firsts[0], status, firsts)
        first, second = firsts[0] == 0, firsts[1] == 1  # whether the first document was preferred
        return Reading((first + second) / 2, status, firsts)

    def again(self, call: Call) -> Call:
        return call if call.scored else call._replace(prompt=self.prompt.reminder(call.prompt))

    def calls(self, candidates: int) -> int:
        """Calls per query at most; quick_select usually asks a tenth of them."""
        n, k = candidates, min(self.top, candidates)
        if n < 2:
            return 0
        log = math.ceil(math.log2(n))
        comparisons = {
            "all_pairs": n * (n - 1) // 2, "quick_select": n * (n - 1) // 2, "heap": 2 * n + 2 * k * log,
            "bubble": k * n - k * (k + 1) // 2,
        }  # fmt: skip
        return (1 + self.both_orders) * comparisons[self.sort_by]
