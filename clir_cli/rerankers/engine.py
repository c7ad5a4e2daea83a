"""What every LLM reranker shares: texts cut to a budget, all queries asked together, every answer accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from clir_cli.errors import ConfigError, RunError
from clir_cli.progress import say
from clir_cli.prompts.length import count_prompts
from clir_cli.prompts.listwise import Ranking, Status, line
from clir_cli.rerankers import bias
from clir_cli.rerankers.sorting import Compare, Order, Pick, Request, Score, Sort, play
from clir_cli.text import truncation
from clir_cli.types import (
    LLM,
    Answer,
    Candidates,
    Journal,
    LanguageAware,
    Prompt,
    Run,
    ScoresLabels,
    ScoresTexts,
    Shown,
    added,
    neutral,
)


class Call(NamedTuple):
    """One question to the model: for words (`max_tokens`), for the probabilities of labels, or for that of a text."""

    prompt: Prompt
    max_tokens: int = 0  # of generated words; 0: none are
    labels: tuple[str, ...] = ()
    continuation: str | None = None

    @property
    def scored(self) -> bool:
        return bool(self.labels) and not self.max_tokens


class Reading(NamedTuple):
    """What the answers to a request mean; `value` is what sorting.py expects, None where they say nothing usable."""

    value: Any
    status: Status
    firsts: tuple[int, ...] = ()  # the place, among the passages shown, of the one that each answer puts first


@runtime_checkable
class Checked(Protocol):
    """What can tell before anything runs that it would not work; `check` raises ConfigError."""

    def check(self) -> None: ...


Passages: TypeAlias = Sequence[Shown]


@runtime_checkable
class PickPrompt(Protocol):
    """Asks which of some labelled passages is best."""

    def label(self, position: int) -> str: ...
    def messages(self, query: Shown, passages: Passages) -> Prompt: ...
    def reminder(self, prompt: Prompt) -> Prompt: ...
    def answer_tokens(self, llm: LLM) -> int:
        """Tokens that a written answer may have."""
        ...

    def read(self, answer: str, n: int) -> Ranking:
        """The passage that an answer names, first in the order; status failed where it names none."""
        ...


@runtime_checkable
class OrderPrompt(Protocol):
    """Asks for an order of some labelled passages."""

    @property
    def labels(self) -> str:
        """numbers or letters"""
        ...

    @property
    def most(self) -> int:
        """The most passages that have distinct labels."""
        ...

    @property
    def spare_tokens(self) -> int: ...
    def label(self, position: int) -> str: ...
    def expected(self, n: int) -> str:
        """A complete answer for n passages: what the answer's tokens are counted on."""
        ...

    def messages(self, query: Shown, passages: Passages) -> Prompt: ...
    def reminder(self, prompt: Prompt) -> Prompt: ...
    def read(self, answer: str, n: int) -> Ranking: ...


@runtime_checkable
class GradePrompt(Protocol):
    """Asks how relevant one passage is."""

    @property
    def values(self) -> tuple[float, ...]:
        """What each label is worth: 1 and 0 for yes and no, or grades."""
        ...

    def labels(self, query: Shown, passages: Passages) -> tuple[str, ...]: ...
    def messages(self, query: Shown, passages: Passages) -> Prompt: ...
    def reminder(self, prompt: Prompt) -> Prompt: ...
    def answer_tokens(self, llm: LLM) -> int: ...
    def read(self, answer: str, labels: Sequence[str]) -> tuple[int | None, Status]: ...


@runtime_checkable
class QueryPrompt(Protocol):
    """Shows a passage and asks for a query, which is then not written but measured."""

    def messages(self, query: Shown, passages: Passages) -> Prompt: ...


@dataclass(frozen=True, kw_only=True)
class LLMReranker:
    """A base: subclasses say how documents are sorted, how a request is asked, and how its answers are read.

    The ranking is a permutation of the candidates whatever the model says; an unusable answer is asked for once more,
    then what it was about keeps its order and is counted as failed.
    """

    if TYPE_CHECKING:

        @property
        def llm(self) -> LLM: ...
        @property
        def prompt(self) -> Any: ...

    passage_tokens: int | Literal["auto"] = "auto"  # auto: the most that always fits, whatever the texts; see `budget`
    query_tokens: int = 128
    retries: int = 1  # how often an unusable answer is asked for again
    max_failed_answers: float = neutral(
        0.01
    )  # share of requests; more of them fail the step instead of making a result
    passage_words: int | None = added(None, None)
    # words between blanks in place of tokens, fewer where a prompt does not fit; RankGPT's and rank_llm's 300 (see `_Judge`)

    def __post_init__(self) -> None:
        if self.retries < 0 or self.query_tokens < 1:
            raise ValueError("query_tokens must be at least 1, retries at least 0")
        if self.passage_tokens != "auto" and self.passage_tokens < 1:
            raise ValueError(f"passage_tokens must be auto or at least 1, got {self.passage_tokens}")
        if self.passage_words is not None and (self.passage_words < 1 or self.passage_tokens != "auto"):
            raise ValueError(
                "passage_words must be at least 1, with passage_tokens=auto: passages are cut by one of them"
            )

    # What a subclass says ---------------------------------------------------------------------------------------------

    def sort(self, n: int) -> Sort:
        """How n documents are put in order."""
        raise NotImplementedError

    def largest(self) -> Request:
        """A request of as many documents as this reranker ever shows at once."""
        raise NotImplementedError

    def ask(self, query: Shown, request: Request, passages: Passages) -> list[Call]:
        """The questions that settle a request about `passages`, which stand in the request's order."""
        raise NotImplementedError

    def read(self, request: Request, calls: Sequence[Call], answers: Sequence[Answer]) -> Reading:
        """What the answers to `ask`'s questions mean."""
        raise NotImplementedError

    def again(self, call: Call) -> Call:
        """The question once more, after an unusable answer."""
        return call

    def calls(self, candidates: int) -> int:
        """Calls per query at most, for so many candidates, when every answer is usable."""
        raise NotImplementedError

    # What they share --------------------------------------------------------------------------------------------------

    def rerank(self, candidates: Sequence[Candidates], journal: Journal) -> Run:
        """Each query's candidates, all of them once, with scores n, n - 1, ..., 1.

        Raises ConfigError where passages do not fit the context, RunError where too many answers failed.
        """
        from clir_cli.runs import from_hits

        judge = _Judge(self, candidates, self._shown(candidates, journal), journal)
        orders, rounds = play([self.sort(len(docs)) for _, docs in candidates], judge.answer)
        judge.accept()
        for (query, docs), order, count in zip(candidates, orders, rounds, strict=True):
            journal.add(query.id, rounds=count, calls_at_most=self.calls(len(docs)))
            journal.add(query.id, **bias.of_languages(query.lang, [doc.lang for doc in docs], order))
        return from_hits(
            {
                query.id: [(docs[i].id, float(len(order) - at)) for at, i in enumerate(order)]
                for (query, docs), order in zip(candidates, orders, strict=True)
            }
        )

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError where the prompt has no instructions in the language that it is to be in."""
        if isinstance(self.prompt, LanguageAware):
            self.prompt.check_languages(query_langs, doc_langs)

    def check(self) -> None:
        """Raise ConfigError before anything is made: no key, passages that do not fit, a model that cannot say labels."""
        if isinstance(self.llm, Checked):
            self.llm.check()
        for call in self._bare():
            if call.scored and not isinstance(self.llm, ScoresLabels):
                raise ConfigError(
                    f"{type(self.llm).__name__} gives no probabilities of labels: set reranker.answer=text"
                )
            if call.continuation is not None and not isinstance(self.llm, ScoresTexts):
                raise ConfigError(f"{type(self.llm).__name__} gives no probability of a text: choose llm=transformers")
            if call.scored and isinstance(self.llm, ScoresLabels):
                self.llm.check_labels(call.labels)
        self.budget()

    def budget(self) -> int:
        """Tokens that each passage is cut at, in the model's own tokens: (context - all the rest) / passages per prompt.

        The same for every query, language and view, since it is computed without texts. Raises ConfigError when
        `passage_tokens` is more than fits.
        """
        passages = len(_docs(self.largest()))
        fits, taken = 1 << 30, (0, 0, 0)
        for call in self._bare():
            fixed = count_prompts(self.llm, [self.again(call).prompt])[0]
            queries = sum(turn.content.count(_QUERY) for turn in call.prompt) + (call.continuation is not None)
            answer = self._answer_tokens(call)
            free = self.llm.context - fixed - self.query_tokens * queries - answer
            if (
                here := free // passages - 1
            ) < fits:  # that token and the dot's: texts may split otherwise where they meet
                fits, taken = here, (fixed, queries, answer)
        if fits < 1 or (self.passage_tokens != "auto" and self.passage_tokens > fits):
            raise ConfigError(
                f"reranker.passage_tokens={self.passage_tokens} does not fit: llm.context={self.llm.context} leaves "
                f"{max(fits, 0)} for each of {passages} passages\n"
                f"  (the instructions take {taken[0]}, the query {self.query_tokens} x {taken[1]}, the answer {taken[2]})\n"
                "  raise llm.context if the model takes more, or lower reranker.window, reranker.passage_tokens or reranker.query_tokens"
            )
        return fits if self.passage_tokens == "auto" else self.passage_tokens

    def _answer_tokens(self, call: Call) -> int:
        """Tokens to leave for the answer; a server that is asked for labels may need words instead."""
        return call.max_tokens or getattr(self.llm, "label_tokens", 1)

    def _bare(self) -> list[Call]:
        """The largest request with next to nothing in it."""
        request = self.largest()
        return self.ask(Shown(_QUERY, "en"), request, [Shown(".", "en")] * len(_docs(request)))

    def _shown(self, candidates: Sequence[Candidates], journal: Journal) -> list[tuple[Shown, list[Shown]]]:
        """The texts as lines, cut; each text is cut once, however many queries have it."""
        budget = self.budget()
        docs = {doc.text: line(doc.text) for _, docs in candidates for doc in docs}
        if self.passage_words is None:
            cut = dict(zip(docs, self.llm.cut(list(docs.values()), budget), strict=True))
        else:
            cut = {text: first_words(shown, self.passage_words) for text, shown in docs.items()}
        lines = [line(query.text) for query, _ in candidates]
        queries = self.llm.cut(lines, self.query_tokens)
        if long := sum(a != b for a, b in zip(lines, queries, strict=True)):
            say(
                f"{long} of {len(lines)} queries are longer than reranker.query_tokens={self.query_tokens} and were cut"
            )
        for query, found in candidates:
            shortened = [cut[doc.text] != docs[doc.text] for doc in found]
            languages = truncation.by_language(zip((doc.lang for doc in found), shortened, strict=True))
            journal.add(query.id, texts=len(found), texts_cut=sum(shortened), **languages)
            if self.passage_words is None:  # of `texts` together: the budget of one is this / texts
                journal.add(query.id, passage_tokens_allowed=budget * len(found))
        return [
            (Shown(text, query.lang), [Shown(cut[doc.text], doc.lang) for doc in found])
            for text, (query, found) in zip(queries, candidates, strict=True)
        ]


def first_words(text: str, count: int) -> str:
    """The first words of a line, words being what stands between blanks: a Chinese or Thai sentence is one."""
    return " ".join(text.split(" ")[:count])


_QUERY = "\u2047"  # stands for the query where a bare prompt is measured; no prompt's own words hold it


def _docs(request: Request) -> tuple[int, ...]:
    match request:
        case Compare(first, second):
            return first, second
        case Score(doc):
            return (doc,)
        case _:
            return request.docs


def _prior(request: Request) -> Any:
    """What stands where the model gave no usable answer: the prior order; None where the request had none."""
    match request:
        case Order(docs, shuffled):
            return None if shuffled else docs
        case Pick(docs, most, shuffled):
            return None if shuffled else docs[:most]
        case Compare():
            return 0.5
        case Score():
            return None


class _Judge:
    """Has the model answer requests, and keeps the books of one `rerank`."""

    def __init__(
        self,
        reranker: LLMReranker,
        candidates: Sequence[Candidates],
        shown: list[tuple[Shown, list[Shown]]],
        journal: Journal,
    ) -> None:
        self.reranker, self.candidates, self.shown, self.journal = reranker, candidates, shown, journal
        self.planned = sum(reranker.calls(len(docs)) for _, docs in candidates)
        self.asked = self.failed = 0

    def answer(self, asked: list[tuple[int, Request]]) -> list[Any]:
        """Each (query, request) as the model settles it; as the prior order does where it does not."""
        self.asked += len(asked)
        calls = []
        for at, request in asked:
            query, passages = self.shown[at]
            calls.append(self._fitting(at, query, request, [passages[i] for i in _docs(request)]))
        settled: dict[int, Reading] = {}
        todo = list(range(len(asked)))
        for attempt in range(self.reranker.retries + 1):
            answers = dict(zip(todo, self._answers([calls[i] for i in todo]), strict=True))
            for i, said in answers.items():
                settled[i] = self._read(said, calls[i], *asked[i], attempt)
            todo = [i for i in todo if settled[i].value is None]
            if not todo:
                break
            if attempt == 0:  # what never arrived is asked for as it was
                for i in todo:
                    calls[i] = [
                        call if answer.error else self.reranker.again(call)
                        for call, answer in zip(calls[i], answers[i], strict=True)
                    ]
        for i in todo:
            self._give_up(answers[i], self.candidates[asked[i][0]].query.id)
            settled[i] = Reading(_prior(asked[i][1]), "failed")
        return [settled[i].value for i in range(len(asked))]

    def _fitting(self, at: int, query: Shown, request: Request, passages: list[Shown]) -> list[Call]:
        """The questions about a request; with `passage_words`, after all its passages lost words until they fit.

        As rank_llm does: the tokens too many, divided by 4 and by the passages, in words, again and again. Where words
        are not divided by blanks nothing may be left. Counted as `texts_shrunk` and `texts_emptied`, each showing once.
        """
        reranker, words = self.reranker, self.reranker.passage_words
        calls = reranker.ask(query, request, passages)
        if words is None:
            return calls
        shown = passages
        while words and (over := self._overflow(calls)) > 0:
            words = max(0, words - max(1, over // (4 * len(passages))))
            shown = [Shown(first_words(text, words), lang) for text, lang in passages]
            calls = reranker.ask(query, request, shown)
        self.journal.add(
            self.candidates[at].query.id,
            texts_shrunk=sum(a != b for a, b in zip(shown, passages, strict=True)),
            texts_emptied=sum(bool(a.text) and not b.text for a, b in zip(passages, shown, strict=True)),
        )
        return calls

    def _overflow(self, calls: Sequence[Call]) -> int:
        """Tokens by which the longest prompt and its answer exceed the context, also when asked again."""
        reranker = self.reranker
        tokens = count_prompts(reranker.llm, [reranker.again(call).prompt for call in calls])
        spent = [
            reranker._answer_tokens(call) if call.continuation is None else reranker.query_tokens for call in calls
        ]
        return max(map(sum, zip(tokens, spent, strict=True))) - reranker.llm.context

    def _answers(self, calls: Sequence[list[Call]]) -> list[list[Answer]]:
        """One call of the model for all questions of a kind."""
        flat = [call for each in calls for call in each]
        kinds: dict[tuple[int, tuple[str, ...], bool], list[int]] = {}
        for i, call in enumerate(flat):
            labels = call.labels if call.scored else ()
            kinds.setdefault((call.max_tokens, labels, call.continuation is not None), []).append(i)
        answers: dict[int, Answer] = {}
        for (max_tokens, labels, likelihood), at in kinds.items():
            prompts, llm = [flat[i].prompt for i in at], self.reranker.llm
            if likelihood:
                assert isinstance(llm, ScoresTexts)
                got = llm.log_likelihood(prompts, [flat[i].continuation or "" for i in at])
            elif labels:
                assert isinstance(llm, ScoresLabels)
                got = llm.score_labels(prompts, labels)
            else:
                got = llm.generate(prompts, max_tokens)
            answers |= zip(at, got, strict=True)
        given = iter(range(len(flat)))
        return [[answers[next(given)] for _ in each] for each in calls]

    def _read(self, answers: list[Answer], calls: list[Call], at: int, request: Request, attempt: int) -> Reading:
        query, docs = self.candidates[at]
        lost = any(answer.error for answer in answers)
        reading = Reading(None, "failed") if lost else self.reranker.read(request, calls, answers)
        for answer in answers:
            self.journal.answer(
                query.id, reading.status, answer, attempt=attempt, docs=[docs[i].id for i in _docs(request)]
            )
            self.journal.add(
                query.id,
                calls=1,
                calls_from_cache=int(answer.cached),
                prompt_tokens=answer.prompt_tokens,
                cached_prefix_tokens=answer.cached_prefix_tokens,
                output_tokens=answer.output_tokens,
                seconds=answer.seconds,
            )
        self.journal.add(query.id, repaired=int(reading.status in ("partial", "repaired")))
        if reading.value is not None:
            self.journal.add(query.id, **bias.of_places(request, reading.value, reading.firsts))
        return reading

    def _give_up(self, answers: Sequence[Answer], query_id: str) -> None:
        self.journal.add(query_id, failed=1)
        self.failed += 1
        self.last = answers, query_id
        self._bound(self.planned)  # no number of good answers to come would make it good

    def accept(self) -> None:
        """Raise RunError if too large a share of what was asked got no usable answer."""
        self._bound(self.asked)

    def _bound(self, requests: int) -> None:
        if self.failed <= self.reranker.max_failed_answers * requests:
            return
        answers, query_id = self.last
        error = next((answer.error for answer in answers if answer.error), None)
        why = error or f"nothing usable in {answers[-1].text[:200]!r}"
        step = "run again to ask only for the rest" if error else "another prompt or rerank.repeat asks the model anew"
        raise RunError(
            f"{self.failed} of {requests} requests got no usable answer, more than reranker.max_failed_answers="
            f"{self.reranker.max_failed_answers:g} allows\n"
            f"  the last one, for query {query_id}: {why}\n"
            f"  the answers that came are kept: {step}, or raise reranker.max_failed_answers"
        )
