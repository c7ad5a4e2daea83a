"""Listwise reranking: windows, answers of every shape, and the books."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clir_cli import compose, config
from clir_cli.errors import ConfigError, RunError
from clir_cli.llms.transformers import Transformers
from clir_cli.prompts.listwise import ListwisePrompt, line
from clir_cli.rerankers.listwise import Listwise
from clir_cli.rerankers.none import Keep
from clir_cli.rerankers.oracle import JudgedReranker, Oracle
from clir_cli.rerankers.sorting import windows
from clir_cli.types import LLM, Answer, Candidates, Journal, Prompt, Qrel, Reranker, Shown, Text

CONFIGS = Path(__file__).parents[1] / "configs"
PROMPT = ListwisePrompt(intro="{num} passages for: {query}", passage="[{id}] {passage}", outro="Rank for: {query}")
LETTERS = ListwisePrompt(intro="For: {query}", passage="[{id}] {passage}", outro="Rank.", labels="letters")


def preset(name: str) -> ListwisePrompt:
    said = yaml.safe_load((CONFIGS / "prompt" / f"{name}.yaml").read_text())
    return ListwisePrompt(**{key: value for key, value in said.items() if key != "_target_"})


def test_first_reads_rank_zephyr_s_prompt_with_letters_and_its_answer_behind_a_bracket() -> None:
    numbers = replace(preset("rank_zephyr"), labels="letters")
    intro = numbers.intro.replace("a numerical", "an alphabetical")
    assert preset("rank_zephyr_letters") == replace(
        numbers, intro=intro, outro=numbers.outro.replace("[2] > [1]", "[B] > [A]")
    )
    (cell,) = compose.cells(["reranker=first_mistral"])
    reranker = config.built(cell.plain).reranker
    assert (
        isinstance(reranker, Listwise)
        and reranker.answer == "labels"
        and reranker.prompt == preset("rank_zephyr_letters")
    )
    assert isinstance(reranker.llm, Transformers) and reranker.llm.answer_start == "["


@dataclass
class WordLLM:
    """An LLM whose tokens are words; `say` answers the numbered passages of a prompt."""

    say: Callable[[dict[int, str]], str]
    context: int = 4096
    asked: list[int] = field(default_factory=list)  # prompts per call
    prompts: list[Prompt] = field(default_factory=list)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        return [" ".join(text.split()[:tokens]) for text in texts]

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        self.asked.append(len(prompts))
        self.prompts += prompts
        return [self.answer(prompt) for prompt in prompts]

    def answer(self, prompt: Prompt) -> Answer:
        text = "\n".join(turn.content for turn in prompt)
        passages = {int(i): passage for i, passage in re.findall(r"^\[(\d+)\] (.*)$", text, re.MULTILINE)}
        return Answer(self.say(passages), prompt_tokens=len(text.split()), output_tokens=len(passages), seconds=0.5)


def judge(passages: dict[int, str]) -> str:
    """The passages say how good they are."""
    best_first = sorted(passages, key=lambda i: -int(passages[i].rpartition(" ")[2]))
    return " > ".join(f"[{i}]" for i in best_first)


def query(name: str, goodness: Sequence[int]) -> Candidates:
    docs = [Text(f"{name}-d{at}", (("de", f"Text Nummer {at} {good}"),)) for at, good in enumerate(goodness)]
    return Candidates(Text(name, (("en", f"question {name}"),)), docs)


def shown(text: str) -> Shown:
    return Shown(text, "en")


def ranked_ids(run, name: str) -> list[str]:
    return list(run[run["query_id"] == name]["doc_id"])


def test_the_words_of_this_room_keep_the_protocols():
    assert isinstance(WordLLM(judge), LLM)
    assert isinstance(Listwise(WordLLM(judge), PROMPT), Reranker)
    assert isinstance(Keep(), Reranker)
    assert isinstance(Oracle(), JudgedReranker)


# Windows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (0, []),
        (1, []),
        (2, [(0, 2)]),
        (19, [(0, 19)]),
        (20, [(0, 20)]),
        (21, [(1, 21), (0, 11)]),
        (25, [(5, 25), (0, 15)]),
        (45, [(25, 45), (15, 35), (5, 25), (0, 15)]),
    ],
)
def test_windows_slide_from_the_back_to_the_front(n, expected):
    assert windows(n, 20, 10) == expected


def test_a_hundred_candidates_are_nine_windows():
    assert windows(100, 20, 10) == [(start, start + 20) for start in range(80, -1, -10)]
    assert len(windows(95, 20, 10)) == 9  # the published loop leaves the first five of 95 unseen


@given(st.integers(2, 130), st.integers(2, 30), st.data())
def test_every_document_is_seen_and_calls_are_as_the_formula_says(n, window, data):
    step = data.draw(st.integers(1, window))
    found = windows(n, window, step)
    assert set().union(*(range(start, end) for start, end in found)) == set(range(n))
    assert len(found) == 1 + max(0, -(-(n - window) // step))
    assert all(end - start <= window for start, end in found)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 19, 20, 21, 25, 45, 95, 100, 103])
def test_a_perfect_judge_finds_the_ideal_top_ten_at_every_depth(n):
    goodness = random.Random(n).sample(range(1000), n)
    reranker, journal = Listwise(WordLLM(judge), PROMPT), Journal()
    run = reranker.rerank([query("q", goodness)], journal)
    ideal = sorted(range(n), key=lambda i: -goodness[i])
    assert ranked_ids(run, "q")[:10] == [f"q-d{i}" for i in ideal[:10]]
    assert sorted(ranked_ids(run, "q")) == sorted(f"q-d{i}" for i in range(n))
    assert journal.queries["q"].get("calls", 0) == len(windows(n, 20, 10))
    assert list(run["score"]) == list(range(n, 0, -1))


def test_two_passes_order_what_one_pass_cannot():
    goodness = list(range(100))  # the worst first
    once = Listwise(WordLLM(judge), PROMPT).rerank([query("q", goodness)], Journal())
    twice = Listwise(WordLLM(judge), PROMPT, repeats=2).rerank([query("q", goodness)], Journal())
    ideal = [f"q-d{i}" for i in reversed(range(100))]
    assert ranked_ids(once, "q")[:10] == ideal[:10]
    assert ranked_ids(once, "q")[:20] != ideal[:20]
    assert ranked_ids(twice, "q")[:20] == ideal[:20]


def test_rounds_do_not_grow_with_the_number_of_queries():
    llm, journal = WordLLM(judge), Journal()
    queries = [query(f"q{i}", random.Random(i).sample(range(1000), 100)) for i in range(12)]
    run = Listwise(llm, PROMPT).rerank(queries, journal)
    assert llm.asked == [12] * 9  # nine calls of the model, each with all queries
    assert all(row["calls"] == row["rounds"] == 9 for row in journal.queries.values())
    alone = Listwise(WordLLM(judge), PROMPT).rerank([queries[7]], Journal())
    assert ranked_ids(run, "q7") == ranked_ids(alone, "q7")


def test_queries_of_different_depths_share_their_rounds():
    llm = WordLLM(judge)
    sizes = {"none": 0, "one": 1, "short": 5, "long": 40}
    run = Listwise(llm, PROMPT).rerank([query(name, list(range(n))) for name, n in sizes.items()], Journal())
    assert [len(ranked_ids(run, name)) for name in sizes] == [0, 1, 5, 40]
    assert sum(llm.asked) == 4  # one window of `short`, three of `long`


def test_equal_texts_are_different_documents():
    same = Candidates(
        Text("q", (("en", "a question"),)), [Text(f"d{i}", (("en", "the same text 1"),)) for i in range(30)]
    )
    backwards = WordLLM(lambda passages: " > ".join(f"[{i}]" for i in reversed(passages)))
    run = Listwise(backwards, PROMPT, window=30).rerank([same], Journal())
    assert list(run["doc_id"]) == [f"d{i}" for i in reversed(range(30))]


# Answers ----------------------------------------------------------------------------------------------------------------

ANSWERS = [
    ("[2] > [1] > [3]", "213", "ok"),
    ("[2], [1], [3]", "213", "ok"),
    ("[2] [1]\n[3]", "213", "ok"),
    ("[2]>[1]>[3].", "213", "ok"),
    ("[ 2 ] > [ 1 ] > [ 3 ]", "213", "ok"),
    ("**[2]** > **[1]** > **[3]**", "213", "ok"),
    ("[2] = [1] > [3]", "213", "ok"),
    ("1. [2]\n2. [1]\n3. [3]", "213", "ok"),
    ("2 > 1 > 3", "213", "ok"),
    ("2, 1, 3", "213", "ok"),
    ("2 1 3", "213", "ok"),
    ("2\n1\n3", "213", "ok"),
    ("[2, 1, 3]", "213", "ok"),
    ('["2", "1", "3"]', "213", "ok"),
    ("[٢] > [١] > [٣]", "213", "ok"),
    ("［２］＞［１］＞［３］", "213", "ok"),
    ("【2】【1】【3】", "213", "ok"),
    ("२ > १ > ३", "213", "ok"),
    ("<think>maybe [3] > [2] > [1]?</think>\n[2] > [1] > [3]", "213", "ok"),
    ("thought [3] > [2] > [1]</think>[2] > [1] > [3]", "213", "ok"),
    ("Ranking: 2 > 1 > 3", "213", "repaired"),
    ("Sure! [2] > [1] > [3]", "213", "repaired"),
    ("Passage [2] > Passage [1] > Passage [3]", "213", "repaired"),
    ("I compared [1] and [3] first.\n[2] > [1] > [3]", "213", "repaired"),
    ("The form is [2] > [1]. Mine: [2] > [3] > [1]", "231", "repaired"),
    ("[2] > [1] > [3]\nbecause [3] says nothing", "213", "repaired"),
    ("[2] is best.\n[1] comes next.\n[3] is last.", "213", "repaired"),
    ("[2] > [1] > [2] > [3] > [1]", "213", "repaired"),
    ("[2] > [9] > [1] > [0] > [3]", "213", "repaired"),
    ("I ranked the 3 passages. The top 1 are: [2] > [1]", "213", "partial"),
    ("[3] > [1", "312", "partial"),
    ("[3] > [1] (by far) > [2]", "312", "repaired"),
    ("[2]", "213", "partial"),
    ("[2] > [2] > [2]", "213", "partial"),
    ("2", "213", "partial"),
    ("[2] > [99999999999999999999]", "213", "partial"),
    ("In [2020] there was\n3 > 1 > 2", "312", "repaired"),
    ("[9]", "123", "failed"),
    ("I cannot rank these 3 passages.", "123", "failed"),
    ("There are 2 relevant passages out of 3.", "123", "failed"),
    ("Error: 10.3.7.12:8000 after 3 retries", "123", "failed"),
    ("status: 3", "123", "failed"),
    ("²nd > 1st", "123", "failed"),
    ("<think>[2] > [1] > [3] or", "123", "failed"),
    ("B > A > C", "123", "failed"),
    ("", "123", "failed"),
    ("[]", "123", "failed"),
]


@pytest.mark.parametrize(("answer", "order", "status"), ANSWERS)
def test_an_answer_is_read_as_documented(answer, order, status):
    ranking = PROMPT.read(answer, 3)
    assert "".join(str(i + 1) for i in ranking.order) == order
    assert ranking.status == status


@pytest.mark.parametrize(
    ("answer", "order", "status"),
    [
        ("[B] > [A] > [C]", "BAC", "ok"),
        ("B > A > C", "BAC", "ok"),
        ("B, A", "BAC", "partial"),
        ("A cat", "ABC", "failed"),
    ],
)
def test_letters_are_read_where_the_prompt_gives_letters(answer, order, status):
    ranking = LETTERS.read(answer, 3)
    assert ("".join("ABC"[i] for i in ranking.order), ranking.status) == (order, status)


SHAPES = [
    " > ",
    ", ",
    "\n",
    "<think>",
    "</think>",
    "[",
    "]",
    "１",
    "²",
    "½",
    "٣",
    "passage ",
    "1. ",
    ":",
    "A",
    "IV",
    "⑳",
    "[٣]",
]
PIECES = st.one_of(
    st.integers(-3, 40).map(lambda i: f"[{i}]"), st.integers(0, 40).map(str), st.characters(), st.sampled_from(SHAPES)
)


def is_a_permutation(answer: str, n: int, prompt: ListwisePrompt) -> bool:
    ranking = prompt.read(answer, n)
    return sorted(ranking.order) == list(range(n)) and (ranking.status != "failed" or ranking.order == list(range(n)))


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join), st.integers(0, 25), st.sampled_from([PROMPT, LETTERS]))
def test_no_answer_loses_or_doubles_a_document(answer, n, prompt):
    assert is_a_permutation(answer, n, prompt)


def test_ten_thousand_garbled_answers_lose_and_double_nothing():
    chance = random.Random(7)
    pieces = [*SHAPES, *(f"[{i}]" for i in range(-2, 30)), *map(str, range(30))]
    for _ in range(10_000):
        answer = "".join(chance.choices(pieces, k=chance.randrange(40)))
        assert is_a_permutation(answer, chance.randrange(26), chance.choice([PROMPT, LETTERS])), answer


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=20).map("".join), min_size=1, max_size=5), st.integers(0, 45))
def test_listwise_returns_every_candidate_once_whatever_the_model_says(answers, n):
    said = iter(answers * 20)
    reranker = Listwise(WordLLM(lambda passages: next(said)), PROMPT, max_failed_answers=1.0)
    run = reranker.rerank([query("q", range(n))], Journal())
    assert sorted(run["doc_id"]) == sorted(f"q-d{i}" for i in range(n))


def test_an_unusable_answer_is_asked_for_once_more_insisting_on_the_form():
    said = iter(["I would rather not.", "[2] > [1] > [3]"])
    llm, journal = WordLLM(lambda passages: next(said)), Journal()
    run = Listwise(llm, PROMPT).rerank([query("q", [1, 2, 3])], journal)
    assert ranked_ids(run, "q") == ["q-d1", "q-d0", "q-d2"]
    assert llm.prompts[1][-1].content == f"{llm.prompts[0][-1].content}\n\n{PROMPT.again}"
    assert [(a["status"], a["text"], a["docs"]) for a in journal.answers] == [
        ("failed", "I would rather not.", ["q-d0", "q-d1", "q-d2"]),
        ("ok", "[2] > [1] > [3]", ["q-d0", "q-d1", "q-d2"]),
    ]
    assert (journal.queries["q"]["calls"], journal.queries["q"]["repaired"], journal.queries["q"].get("failed")) == (
        2,
        0,
        None,
    )


def test_too_many_unusable_answers_fail_instead_of_making_a_result():
    with pytest.raises(RunError, match=r"(?s)1 of 9 requests .* for query q: nothing usable in 'no'"):
        Listwise(WordLLM(lambda passages: "no"), PROMPT).rerank([query("q", range(100))], Journal())


def test_failures_that_are_allowed_keep_the_prior_order_and_are_counted():
    journal = Journal()
    run = Listwise(WordLLM(lambda passages: "no"), PROMPT, max_failed_answers=1.0).rerank(
        [query("q", range(30))], journal
    )
    assert ranked_ids(run, "q") == [f"q-d{i}" for i in range(30)]
    assert journal.queries["q"]["failed"] == 2
    assert journal.queries["q"]["calls"] == 4


def test_the_books_add_up():
    journal = Journal()
    Listwise(WordLLM(judge), PROMPT).rerank([query("q", range(30))], journal)
    row = journal.queries["q"]
    assert (row["calls"], row["calls_from_cache"], row["rounds"], row["seconds"]) == (2, 0, 2, 1.0)
    assert (row["output_tokens"], row["texts"], row["texts_cut"]) == (40, 30, 0)
    assert row["prompt_tokens"] == sum(a["prompt_tokens"] for a in journal.answers)


# Texts ------------------------------------------------------------------------------------------------------------------


def test_a_passage_cannot_speak_in_identifiers():
    assert line("see [12] and\n[ 3 ] and [b] but [sic]") == "see (12) and (3) and (b) but [sic]"


def test_braces_in_texts_stay_braces():
    assert (
        PROMPT.messages(shown("what is {num}?"), [shown("a {passage}")])[0].content
        == "1 passages for: what is {num}?\n[1] a {passage}\nRank for: what is {num}?"
    )


def test_passages_share_what_the_context_leaves_whatever_the_language():
    reranker = Listwise(WordLLM(judge, context=1000), PROMPT, query_tokens=20)
    long = Candidates(
        Text("q", (("en", "why " * 50),)), [Text(f"d{i}", (("de", f"Wort {i} " * 100),)) for i in range(20)]
    )
    journal = Journal()
    with pytest.raises(RunError):
        replace(reranker, llm=(llm := WordLLM(lambda passages: "no", context=1000))).rerank([long], journal)
    first, asked_again = llm.prompts
    passages = re.findall(r"^\[\d+\] (.*)$", first[0].content, re.MULTILINE)
    assert {len(text.split()) for text in passages} == {reranker.budget()}
    assert first[0].content.count("why") == 2 * 20
    assert journal.queries["q"]["texts_cut"] == 20
    assert 850 < sum(llm.count_tokens([turn.content for turn in asked_again])) + reranker.answer_tokens(20) <= 1000


def test_a_budget_that_does_not_fit_is_refused():
    llm = WordLLM(judge, context=1000)
    fits = Listwise(llm, PROMPT).budget()
    assert Listwise(llm, PROMPT, passage_tokens=fits).budget() == fits
    with pytest.raises(ConfigError, match=f"passage_tokens={fits + 1} does not fit.* leaves {fits} for each of 20"):
        Listwise(llm, PROMPT, passage_tokens=fits + 1).budget()
    with pytest.raises(ConfigError, match="passage_tokens=auto does not fit"):
        Listwise(WordLLM(judge, context=200), PROMPT).budget()


def test_cut_passages_are_counted():
    journal = Journal()
    Listwise(WordLLM(judge), PROMPT, passage_tokens=4).rerank([query("q", range(5))], journal)
    assert journal.queries["q"]["texts_cut"] == 0
    Listwise(WordLLM(lambda passages: "[1] > [2]"), PROMPT, passage_tokens=3).rerank([query("r", range(5))], journal)
    assert journal.queries["r"]["texts_cut"] == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 1}, "window must be from 2"),
        ({"step": 21}, "documents are skipped"),
        ({"step": 0}, "step must be from 1"),
        ({"window": 27, "prompt": LETTERS}, "from 2 to 26 with labels=letters"),
        ({"passage_tokens": 0}, "passage_tokens must be auto"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Listwise(**({"llm": WordLLM(judge), "prompt": PROMPT} | settings))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"intro": "{nmu} {query}"}, r"intro may hold \{num\} \{query\}, not \{nmu\}"),
        ({"passage": "{passage}"}, "must hold {id} and {passage}"),
        ({"intro": "x", "outro": "y"}, "must hold {query}"),
        ({"intro": "{query"}, "write {{ and }} for braces"),
        ({"multi_turn": True}, "needs intro_reply"),
    ],
)
def test_a_prompt_that_cannot_be_filled_is_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        ListwisePrompt(**({"intro": "{query}", "passage": "[{id}] {passage}", "outro": "x"} | texts))


def test_the_shipped_prompts_are_laid_out_as_published():
    zephyr = preset("rank_zephyr").messages(shown("Why?"), [shown("one"), shown("two")])
    assert [turn.role for turn in zephyr] == ["system", "user"]
    assert zephyr[1].content.splitlines()[1:4] == ["", "[1] one", "[2] two"]
    assert zephyr[1].content.count("Why?") == 2
    gpt = preset("rankgpt").messages(shown("Why?"), [shown("one"), shown("two")])
    assert [turn.role for turn in gpt] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert [gpt[3].content, gpt[4].content, gpt[5].content] == ["[1] one", "Received passage [1].", "[2] two"]


# The bounds -------------------------------------------------------------------------------------------------------------


def test_the_oracle_puts_the_most_relevant_first_and_leaves_the_rest_in_order():
    qrels = [
        Qrel("q", "q-d3", 2),
        Qrel("q", "q-d1", 1),
        Qrel("q", "q-d4", 1),
        Qrel("q", "q-d0", 0),
        Qrel("other", "q-d2", 3),
    ]
    run = Oracle().rerank_judged([query("q", [0] * 5)], qrels)
    assert ranked_ids(run, "q") == ["q-d3", "q-d1", "q-d4", "q-d0", "q-d2"]
    assert list(run["score"]) == [5, 4, 3, 2, 1]


def test_no_reranker_keeps_the_first_stage():
    assert ranked_ids(Keep().rerank([query("q", [1, 3, 2])], Journal()), "q") == ["q-d0", "q-d1", "q-d2"]
