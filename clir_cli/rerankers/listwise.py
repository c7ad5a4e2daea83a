"""Listwise reranking: a language model orders lists of documents (Sun et al. 2023, Pradeep et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clir_cli.prompts.length import Forced
from clir_cli.prompts.listwise import Ranking, Status
from clir_cli.rerankers import sorting
from clir_cli.rerankers.engine import Call, LLMReranker, OrderPrompt, Passages, Reading
from clir_cli.rerankers.sorting import Order, Pick, Request, Sort
from clir_cli.types import LLM, Answer, Shown, added, neutral


@dataclass(frozen=True)
class Listwise(LLMReranker):
    """Rank by a language model that orders lists of at most `window` passages, all queries at once.

    `sort_by` says which lists: `sliding` from the back to the front (a window of rerank.depth is the full context);
    `top_down`: partitions against a pivot, in parallel; `knock_out`: groups that send their first `top` on;
    `tournaments`: TourRank; `blocks`: JointRank. sorting.py says what each costs and when it is exact.
    """

    llm: LLM
    prompt: OrderPrompt
    window: int = 20  # documents per prompt (Sun et al. 2023)
    step: int = 10  # sliding: how far the window moves to the front
    repeats: int = 1  # sliding: passes over the candidates; tournaments: how many; blocks: how often a document is seen
    sort_by: Literal["sliding", "top_down", "knock_out", "tournaments", "blocks"] = added("sliding", "sliding")
    top: int = added(10, 10)  # top_down, knock_out: how many of the first must be right
    permutations: int = added(1, 1)  # more: every list is shown in so many random orders (permutation self-consistency)
    answer: Literal["text", "labels"] = added("text", "text")
    # labels: one forward pass, passages ordered by the probability of their letter as the next token (FIRST)
    seed: int = neutral(0)  # of what is drawn; the stage gives its own, rerank.seed, which is part of the identity
    parsing: Literal["strict", "digits"] = added("strict", "strict")
    # of written numbers. strict: as the prompt reads them; digits: every number counts, also in chatter (see `read_digits`)
    flow: Literal["exact", "released"] = added("exact", "exact")
    # released: as RankGPT's and llm-rankers' code slides: no window begins before the first document, which may stay unseen

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.window <= self.prompt.most:
            raise ValueError(
                f"window must be from 2 to {self.prompt.most} with labels={self.prompt.labels}, got {self.window}"
            )
        if not 1 <= self.step <= self.window:
            raise ValueError(f"step must be from 1 to window={self.window}, or documents are skipped; got {self.step}")
        if self.repeats < 1 or self.permutations < 1:
            raise ValueError("repeats and permutations must be at least 1")
        if not 1 <= self.top < self.window and self.sort_by in ("top_down", "knock_out"):
            raise ValueError(f"top must be from 1 to less than window={self.window}, got {self.top}")
        if self.sort_by == "knock_out" and 2 * self.top > self.window:
            raise ValueError(
                f"knock_out: top must be at most half of window={self.window}, or nobody leaves; got {self.top}"
            )
        if self.answer == "labels" and self.prompt.labels != "letters":
            raise ValueError("answer=labels needs a prompt whose labels are letters: a number may be several tokens")
        if self.parsing == "digits" and self.prompt.labels != "numbers":
            raise ValueError("parsing=digits needs a prompt whose labels are numbers")
        if self.flow == "released" and self.sort_by != "sliding":
            raise ValueError(f"flow=released is for sort_by=sliding, not for {self.sort_by}")

    def sort(self, n: int) -> Sort:
        way = {
            "sliding": lambda: sorting.sliding_window(n, self.window, self.step, self.repeats, self._windows),
            "top_down": lambda: sorting.top_down(n, self.window, self.top),
            "knock_out": lambda: sorting.knock_out(n, self.window, self.top),
            "tournaments": lambda: sorting.tournaments(n, self.window, self.repeats, self.seed),
            "blocks": lambda: sorting.blocks(n, self.window, self.repeats, self.seed),
        }[self.sort_by]()
        return way if self.permutations == 1 else sorting.self_consistent(way, self.permutations, self.seed)

    @property
    def _windows(self) -> sorting.Windows:
        return sorting.windows if self.flow == "exact" else sorting.whole_windows

    def largest(self) -> Request:
        return Order(tuple(range(self.window)))

    def ask(self, query: Shown, request: Request, passages: Passages) -> list[Call]:
        assert isinstance(request, Order | Pick)
        prompt = self.prompt.messages(query, passages)
        if self.answer == "labels":
            return [Call(prompt, labels=tuple(self.prompt.label(i) for i in range(len(passages))))]
        exact = isinstance(self.llm, Forced) and self.llm.force_length
        return [Call(prompt, max_tokens=self.answer_tokens(len(passages) if exact else self.window))]

    def read(self, request: Request, calls: Sequence[Call], answers: Sequence[Answer]) -> Reading:
        assert isinstance(request, Order | Pick)
        docs, (answer,) = request.docs, answers
        if calls[0].scored and answer.scores is not None:
            scores = answer.scores
            order = sorted(range(len(docs)), key=lambda i: (-scores[i], i))
            status: Status = "ok" if all(map(math.isfinite, scores)) else "partial"
        else:
            read = read_digits if self.parsing == "digits" else self.prompt.read
            order, status = read(answer.text, len(docs))
        if status == "failed":
            return Reading(None, status)
        most = request.most if isinstance(request, Pick) else len(docs)
        return Reading([docs[i] for i in order[:most]], status, (order[0],))

    def again(self, call: Call) -> Call:
        return call if call.scored else call._replace(prompt=self.prompt.reminder(call.prompt))

    def calls(self, candidates: int) -> int:
        """Calls per query at most, when every answer is usable; what they are but for top_down: 9 for 100 by windows of 20."""
        return self.permutations * self._calls(candidates)

    def _calls(self, n: int) -> int:
        if n < 2:
            return 0
        match self.sort_by:
            case "sliding":
                return self.repeats * len(self._windows(n, self.window, self.step))
            case "blocks":
                return self.repeats * math.ceil(n / self.window)
            case "tournaments":
                return self.repeats * sum(min(stage) for stage in sorting.tournament_stages(n, self.window))
            case "knock_out":
                total, left = 1, n
                while left > self.window:
                    groups = math.ceil(left / self.window)
                    total, left = total + groups, self.top * groups
                return total
            case "top_down":  # as if all that follow a pivot beat it
                total, left = 1, n
                while left > self.window:
                    total += 1 + math.ceil((left - self.window) / (self.window - 1))
                    left -= self.window - self.top + 1
                return total

    def answer_tokens(self, n: int) -> int:
        """What a ranking of n passages takes, and what the prompt allows for words beside it."""
        return self.llm.count_tokens([self.prompt.expected(n)])[0] + self.prompt.spare_tokens


def read_digits(answer: str, n: int) -> Ranking:
    """RankGPT's and rank_llm's reading: all numbers of the answer, whatever they are about, the forgotten in their prior order.

    It never fails: an answer without numbers, an error message or a refusal, is the prior order.
    """
    text = "".join(c if c.isdecimal() else " " for c in answer)
    found = [i for i in dict.fromkeys(int(number) - 1 for number in text.split()) if 0 <= i < n]
    missing = [i for i in range(n) if i not in set(found)]
    return Ranking([*found, *missing], "partial" if missing else "ok")
