"""Listwise reranking: a language model orders windows of documents (Sun et al. 2023, Pradeep et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from clir_cli.errors import ConfigError, RunError
from clir_cli.progress import say
from clir_cli.prompts.length import Forced, count_prompts
from clir_cli.prompts.listwise import ListwisePrompt, Ranking, line
from clir_cli.types import LLM, Answer, Candidates, Journal, Prompt, Run, neutral

Window: TypeAlias = list[int]  # positions in a query's candidates
Sort: TypeAlias = Generator[Window, Window, list[int]]  # yields a window, is sent its order, returns the final order


class Shown(NamedTuple):
    """A query and its candidates as the model sees them: one line each, cut."""

    query: str
    passages: list[str]


def windows(n: int, window: int, step: int) -> list[tuple[int, int]]:
    """(start, end) of the windows over n documents from back to front: 1 + ceil((n - window) / step) of them.

    The front window ends a step before its neighbour and starts at 0, however n falls, so every document is seen.
    """
    if n < 2:
        return []
    backwards = [(end - window, end) for end in range(n, window, -step)]
    return [*backwards, (0, n - step * len(backwards))]


def sliding_window(n: int, window: int, step: int, repeats: int = 1) -> Sort:
    """Order n documents by windows that slide from the back to the front, so that the best `step` rise with them."""
    order = list(range(n))
    for _ in range(repeats):
        for start, end in windows(n, window, step):
            order[start:end] = yield order[start:end]
    return order


def play(sorts: Sequence[Sort], answer: Callable[[list[tuple[int, Window]]], list[Window]]) -> list[list[int]]:
    """The final order of every sort: round by round, the windows of all that are still open are answered together.

    `answer` is given (number of the sort, window) and returns each window ordered; as many rounds as the longest sort.
    """
    results: list[list[int]] = [[] for _ in sorts]
    sent: dict[int, Window | None] = dict.fromkeys(range(len(sorts)))
    while sent:
        asked: list[tuple[int, Window]] = []
        for at, ordered in sent.items():
            try:
                asked.append((at, next(sorts[at]) if ordered is None else sorts[at].send(ordered)))
            except StopIteration as done:
                results[at] = done.value
        answers = answer(asked) if asked else []
        sent = {at: ordered for (at, _), ordered in zip(asked, answers, strict=True)}
    return results


@runtime_checkable
class Checked(Protocol):
    """What can tell before anything runs that it would not work; `check` raises ConfigError."""

    def check(self) -> None: ...


@dataclass(frozen=True)
class Listwise:
    """Rank by a language model that orders a sliding window of passages, back to front, all queries at once.

    The ranking is a permutation of the candidates whatever the model says; an unusable answer is asked for once more,
    then the window keeps its order and is counted as failed.
    """

    llm: LLM
    prompt: ListwisePrompt
    window: int = 20  # documents per prompt (Sun et al. 2023)
    step: int = 10  # how far the window moves to the front
    repeats: int = 1  # passes over the candidates
    passage_tokens: int | Literal["auto"] = "auto"  # auto: the most that always fits, whatever the texts; see `budget`
    query_tokens: int = 128
    retries: int = 1  # how often an unusable answer is asked for again
    max_failed_answers: float = neutral(0.01)  # share of windows; more of them fail the step instead of making a result

    def __post_init__(self) -> None:
        if not 2 <= self.window <= self.prompt.most:
            raise ValueError(
                f"window must be from 2 to {self.prompt.most} with labels={self.prompt.labels}, got {self.window}"
            )
        if not 1 <= self.step <= self.window:
            raise ValueError(f"step must be from 1 to window={self.window}, or documents are skipped; got {self.step}")
        if self.repeats < 1 or self.retries < 0 or self.query_tokens < 1:
            raise ValueError("repeats and query_tokens must be at least 1, retries at least 0")
        if self.passage_tokens != "auto" and self.passage_tokens < 1:
            raise ValueError(f"passage_tokens must be auto or at least 1, got {self.passage_tokens}")

    def rerank(self, candidates: Sequence[Candidates], journal: Journal) -> Run:
        """Each query's candidates, all of them once, with scores n, n - 1, ..., 1.

        Raises ConfigError where passages do not fit the context, RunError where too many answers failed.
        """
        from clir_cli.runs import from_hits

        judge = _Judge(self, candidates, self._shown(candidates, journal), journal)
        sorts = [sliding_window(len(docs), self.window, self.step, self.repeats) for _, docs in candidates]
        orders = play(sorts, judge.order)
        return from_hits(
            {
                query.id: [(docs[i].id, float(len(order) - at)) for at, i in enumerate(order)]
                for (query, docs), order in zip(candidates, orders, strict=True)
            }
        )

    def budget(self) -> int:
        """Tokens that each passage is cut at, in the model's own tokens: (context - all the rest) / window.

        The same for every query, language and view, since it is computed without texts. Raises ConfigError when
        `passage_tokens` is more than fits.
        """
        bare = self.prompt.reminder(self.prompt.messages(".", ["."] * self.window))
        fixed = count_prompts(self.llm, [bare])[0]
        free = self.llm.context - fixed - self.query_tokens * self.prompt.query_shown - self.answer_tokens(self.window)
        fits = free // self.window - 1  # that token and the dot's: texts may split otherwise where they meet
        if fits < 1 or (self.passage_tokens != "auto" and self.passage_tokens > fits):
            raise ConfigError(
                f"reranker.passage_tokens={self.passage_tokens} does not fit: llm.context={self.llm.context} leaves "
                f"{max(fits, 0)} for each of {self.window} passages\n"
                f"  (the instructions take {fixed}, the query {self.query_tokens} x {self.prompt.query_shown}, "
                f"the answer {self.answer_tokens(self.window)})\n"
                "  raise llm.context if the model takes more, or lower reranker.window, reranker.passage_tokens or reranker.query_tokens"
            )
        return fits if self.passage_tokens == "auto" else self.passage_tokens

    def check(self) -> None:
        """Raise ConfigError before anything is made: for a key that is not set, for passages that do not fit."""
        if isinstance(self.llm, Checked):
            self.llm.check()
        self.budget()

    def calls(self, candidates: int) -> int:
        """Calls per query that order so many candidates, when every answer is usable: 9 for 100 by windows of 20."""
        return self.repeats * len(windows(candidates, self.window, self.step))

    def answer_tokens(self, n: int) -> int:
        """What a ranking of n passages takes, and what the prompt allows for words beside it."""
        return self.llm.count_tokens([self.prompt.expected(n)])[0] + self.prompt.spare_tokens

    def _shown(self, candidates: Sequence[Candidates], journal: Journal) -> list[Shown]:
        """The texts as lines, cut; each text is cut once, however many queries have it."""
        budget = self.budget()
        docs = {doc.text: line(doc.text) for _, docs in candidates for doc in docs}
        cut = dict(zip(docs, self.llm.cut(list(docs.values()), budget), strict=True))
        lines = [line(query.text) for query, _ in candidates]
        queries = self.llm.cut(lines, self.query_tokens)
        if long := sum(a != b for a, b in zip(lines, queries, strict=True)):
            say(
                f"{long} of {len(lines)} queries are longer than reranker.query_tokens={self.query_tokens} and were cut"
            )
        for query, found in candidates:
            journal.add(query.id, texts=len(found), texts_cut=sum(cut[doc.text] != docs[doc.text] for doc in found))
        return [
            Shown(query, [cut[doc.text] for doc in found])
            for query, (_, found) in zip(queries, candidates, strict=True)
        ]


class _Judge:
    """Has the model order windows, and keeps the books of one `rerank`."""

    def __init__(
        self, reranker: Listwise, candidates: Sequence[Candidates], shown: list[Shown], journal: Journal
    ) -> None:
        self.reranker, self.candidates, self.shown, self.journal = reranker, candidates, shown, journal
        self.planned = sum(reranker.calls(len(docs)) for _, docs in candidates)  # windows
        self.failed = 0

    def order(self, asked: list[tuple[int, Window]]) -> list[Window]:
        """Each (query, window) in the order that the model gives it; in the prior one where it gives none."""
        prompt = self.reranker.prompt
        requests = [
            prompt.messages(self.shown[at].query, [self.shown[at].passages[i] for i in window]) for at, window in asked
        ]
        rankings: dict[int, Ranking] = {}
        todo = list(range(len(asked)))
        for attempt in range(self.reranker.retries + 1):
            answers = dict(
                zip(todo, self._generate([requests[i] for i in todo], [len(asked[i][1]) for i in todo]), strict=True)
            )
            rankings |= {i: self._read(answer, *asked[i], attempt) for i, answer in answers.items()}
            todo = [i for i in todo if rankings[i].status == "failed"]
            if not todo:
                break
            if attempt == 0:  # what never arrived is asked for as it was
                requests = [
                    prompt.reminder(r) if i in todo and not answers[i].error else r for i, r in enumerate(requests)
                ]
        for i in todo:
            self._give_up(answers[i], self.candidates[asked[i][0]].query.id)
        return [[window[i] for i in rankings[at].order] for at, (_, window) in enumerate(asked)]

    def _generate(self, requests: list[Prompt], sizes: list[int]) -> list[Answer]:
        """One call of the model for all windows; where it must fill an answer's length, one for each size of window."""
        reranker, answers = self.reranker, dict[int, Answer]()
        exact = isinstance(reranker.llm, Forced) and reranker.llm.force_length
        longest = sizes if exact else [reranker.window] * len(sizes)
        for size in sorted(set(longest)):
            at = [i for i, n in enumerate(longest) if n == size]
            got = reranker.llm.generate([requests[i] for i in at], reranker.answer_tokens(size))
            answers |= zip(at, got, strict=True)
        return [answers[i] for i in range(len(requests))]

    def _read(self, answer: Answer, at: int, window: Window, attempt: int) -> Ranking:
        query, docs = self.candidates[at]
        ranking = self.reranker.prompt.read("" if answer.error else answer.text, len(window))
        self.journal.answer(query.id, ranking.status, answer, attempt=attempt, docs=[docs[i].id for i in window])
        self.journal.add(
            query.id,
            calls=1,
            calls_from_cache=int(answer.cached),
            rounds=1,
            prompt_tokens=answer.prompt_tokens,
            cached_prefix_tokens=answer.cached_prefix_tokens,
            output_tokens=answer.output_tokens,
            seconds=answer.seconds,
            repaired=int(ranking.status in ("partial", "repaired")),
        )
        return ranking

    def _give_up(self, answer: Answer, query_id: str) -> None:
        self.journal.add(query_id, failed=1)
        self.failed += 1
        if self.failed > self.reranker.max_failed_answers * self.planned:
            why = answer.error or f"no ranking in {answer.text[:200]!r}"
            step = (
                "run again to ask only for the rest"
                if answer.error
                else "another prompt or rerank.repeat asks the model anew"
            )
            raise RunError(
                f"{self.failed} of {self.planned} windows got no usable answer, more than reranker.max_failed_answers="
                f"{self.reranker.max_failed_answers:g} allows\n"
                f"  the last one, for query {query_id}: {why}\n"
                f"  the answers that came are kept: {step}, or raise reranker.max_failed_answers"
            )
