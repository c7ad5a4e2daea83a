"""Pointwise, pairwise, setwise and listwise rerankers with a judge that knows, and with a small local model."""

from __future__ import annotations

import csv
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import Clir
from test_transformers_llm import llama, t5  # noqa: F401  fixtures

from clir_cli.errors import ConfigError, RunError
from clir_cli.prompts.instructed import Grade, Order, Pick, WriteQuery
from clir_cli.rerankers.engine import LLMReranker
from clir_cli.rerankers.listwise import Listwise
from clir_cli.rerankers.pairwise import Pairwise
from clir_cli.rerankers.pointwise import Pointwise, QueryLikelihood, expected_value
from clir_cli.rerankers.setwise import Setwise
from clir_cli.types import LLM, Answer, Candidates, Journal, Prompt, Reranker, ScoresLabels, ScoresTexts, Text

CONFIGS = Path(__file__).parents[1] / "configs" / "reranker"
RERANKERS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@dataclass
class Judge:
    """An LLM whose tokens are words and whose passages say how good they are; it never errs, unless `say` or `hide` do."""

    context: int = 100_000
    say: Callable[[str], str] | None = None  # what it writes instead of a right answer
    hidden: bool = False  # gives no probabilities, as some servers
    prompts: list[Prompt] = field(default_factory=list)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        return [" ".join(text.split()[:tokens]) for text in texts]

    def worths(self, prompt: Prompt) -> dict[str, float]:
        text = prompt[-1].content
        found = re.findall(r"^(?:\[(\w+)\]|Passage:) .*worth (-?\d+)", text, re.MULTILINE)
        return {label: float(worth) for label, worth in found}

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        self.prompts += prompts
        answers = []
        for prompt in prompts:
            worths = self.worths(prompt)
            best_first = sorted(worths, key=lambda label: -worths[label])
            text = prompt[-1].content
            right = (
                " > ".join(f"[{label}]" for label in best_first) if "Order these" in text
                else best_first[0] if best_first[0] else "Yes" if worths[""] > 0 else "No"
            )  # fmt: skip
            answers.append(Answer(right if self.say is None else self.say(right), 10, 0, 1, 0.5))
        return answers

    def check_labels(self, labels: Sequence[str]) -> None:
        if len(set(labels)) < len(labels):
            raise ConfigError("labels must differ")

    def score_labels(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[Answer]:
        if self.hidden:
            return self.generate(prompts, 1)
        self.prompts += prompts
        answers = []
        for worths in map(self.worths, prompts):
            alone = worths.get("")
            scores = (
                [worths[label] for label in labels] if alone is None else [alone * (i == 0) for i in range(len(labels))]
            )
            if labels[0] == "0":
                scores = [-(((alone or 0) / 34 - i) ** 2) for i in range(4)]
            answers.append(Answer(labels[0], 10, 4, 1, 0.5, scores=tuple(scores)))
        return answers

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Answer]:
        return [Answer("", 10, 0, 2, 0.5, scores=(2 * self.worths(p)[""] - 1000,)) for p in prompts]


def candidates(n: int, seed: int = 0, name: str = "q") -> Candidates:
    worths = random.Random(seed).sample(range(1, 101), n)
    docs = [Text(f"{name}-d{i}", (("fi", f"Teksti numero {i} worth {worth}"),)) for i, worth in enumerate(worths)]
    return Candidates(Text(name, (("en", f"question {name}"),)), docs)


def ideal(query: Candidates) -> list[str]:
    return [d.id for d in sorted(query.docs, key=lambda doc: -int(doc.text.rpartition(" ")[2]))]


def ranked(reranker: LLMReranker, *queries: Candidates, journal: Journal | None = None) -> dict[str, list[str]]:
    run = reranker.rerank(queries, journal or Journal())
    return {query.query.id: list(run[run["query_id"] == query.query.id]["doc_id"]) for query in queries}


def families(llm: LLM, answer: Any = "labels") -> dict[str, LLMReranker]:
    letters = Order(labels="letters")
    return {
        "yes or no": Pointwise(llm, Grade(), answer=answer),
        **{f"pairwise {way}": Pairwise(llm, Pick(), sort_by=way, answer=answer) for way in ("all_pairs", "heap", "bubble", "quick_select")},
        "one order": Pairwise(llm, Pick(), both_orders=False, answer=answer),
        **{f"setwise {way}": Setwise(llm, Pick(), sort_by=way, answer=answer) for way in ("heap", "bubble", "insertion")},
        "voted": Setwise(llm, Pick(), permutations=3, answer=answer),
        **{f"listwise {way}": Listwise(llm, letters, sort_by=way, answer=answer) for way in ("sliding", "top_down", "knock_out")},
    }  # type: ignore[arg-type]  # fmt: skip


NAMES = list(families(Judge()))


ASKED = [(name, answer) for name in NAMES for answer in ("labels", "text") if (name, answer) != ("yes or no", "text")]


@pytest.mark.parametrize(("name", "answer"), ASKED)
def test_a_judge_that_knows_puts_the_best_ten_first_for_every_query(name: str, answer: str) -> None:
    reranker = families(Judge(), answer)[name]
    reranker.check()
    assert isinstance(reranker, Reranker)
    queries = [candidates(n, n, f"q{n}") for n in (0, 1, 2, 19, 20, 21, 45, 100)]
    journal = Journal()
    for query, order in zip(queries, ranked(reranker, *queries, journal=journal).values(), strict=True):
        assert order[:10] == ideal(query)[:10]
        assert sorted(order) == sorted(doc.id for doc in query.docs)
        spent = journal.queries[query.query.id]
        assert spent.get("calls", 0) <= reranker.calls(len(query.docs))
        assert spent["rounds"] <= max(1, spent.get("calls", 0))


def test_query_likelihood_ranks_by_the_mean_over_the_querys_tokens() -> None:
    reranker, query = QueryLikelihood(Judge(), WriteQuery()), candidates(30)
    reranker.check()
    assert ranked(reranker, query)["q"] == ideal(query)


def test_grades_are_expected_values_under_the_labels_probabilities() -> None:
    query = candidates(30)
    assert ranked(Pointwise(Judge(), Grade(scale="graded")), query)["q"][:3] == ideal(query)[:3]
    assert expected_value([0.0, 0.0, 0.0, 0.0], [0, 1, 2, 3]) == pytest.approx(1.5)
    assert expected_value([math.log(3), 0.0], [1.0, 0.0]) == pytest.approx(math.log(3))
    assert expected_value([0.0, -80.0], [1.0, 0.0]) < expected_value([0.0, -81.0], [1.0, 0.0])  # no tie at certainty


def test_written_yes_and_no_rank_yes_first_and_keep_the_prior_order() -> None:
    docs = [Text(f"d{i}", (("fi", f"Teksti worth {worth}"),)) for i, worth in enumerate([-1, 5, -2, 7])]
    query = Candidates(Text("q", (("en", "what?"),)), docs)
    assert ranked(Pointwise(Judge(), Grade(), answer="text"), query)["q"] == ["d1", "d3", "d0", "d2"]


def test_a_server_that_hides_probabilities_is_read_by_its_words() -> None:
    query = candidates(30)
    for name in ("setwise heap", "pairwise heap", "listwise top_down"):
        assert ranked(families(Judge(hidden=True))[name], query)["q"][:10] == ideal(query)[:10]


def test_all_queries_are_asked_together() -> None:
    judge = Judge()
    queries = [candidates(100, i, f"q{i}") for i in range(8)]
    journal = Journal()
    ranked(Setwise(judge, Pick()), *queries, journal=journal)
    calls = sum(row["calls"] for row in journal.queries.values())
    rounds = max(row["rounds"] for row in journal.queries.values())
    assert rounds < calls / 8


def test_a_pair_that_is_judged_differently_in_the_two_orders_keeps_its_prior_order() -> None:
    class First(Judge):
        def score_labels(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[Answer]:
            return [Answer("A", scores=(-0.1, -3.0)) for _ in prompts]

    query = candidates(20)
    for way in ("all_pairs", "heap", "bubble", "quick_select"):
        assert ranked(Pairwise(First(), Pick(), sort_by=way), query)["q"] == [doc.id for doc in query.docs]


def test_an_answer_that_says_nothing_is_asked_for_again_and_then_counted() -> None:
    query, journal = candidates(12), Journal()
    reranker = Setwise(Judge(say=lambda right: "I cannot say"), Pick(), answer="text", max_failed_answers=1.0)
    assert ranked(reranker, query, journal=journal)["q"] == [doc.id for doc in query.docs]
    assert journal.queries["q"]["failed"] * 2 == journal.queries["q"]["calls"]
    with pytest.raises(RunError, match="requests got no usable answer"):
        ranked(Setwise(Judge(say=lambda right: "no"), Pick(), answer="text"), query)


def test_the_share_that_failed_is_of_what_was_asked_and_not_of_what_might_have_been() -> None:
    query, silent = candidates(2), Judge(say=lambda right: "no")
    reranker = Setwise(silent, Pick(), answer="text", max_failed_answers=0.5)
    assert reranker.calls(2) > 2, "one of so many would be less than half"
    with pytest.raises(RunError, match="1 of 1 requests got no usable answer"):
        ranked(reranker, query)


def test_a_server_that_may_answer_labels_in_words_gets_room_for_them() -> None:
    class Wordy(Judge):
        label_tokens = 12

    assert Setwise(Judge(context=1000), Pick(), children=2).budget() * 3 - Setwise(
        Wordy(context=1000), Pick(), children=2
    ).budget() * 3 in (9, 12)


def test_shuffled_lists_without_an_answer_do_not_become_the_order_they_were_shown_in() -> None:
    query = candidates(15)
    reranker = Listwise(Judge(say=lambda right: "?"), Order(), permutations=4, max_failed_answers=1.0)
    assert ranked(reranker, query)["q"] == [doc.id for doc in query.docs]


def test_passages_get_what_the_context_leaves_whatever_the_language_of_the_instructions() -> None:
    for lang in ("en", "yo", "zh"):
        reranker = Setwise(Judge(context=1000), Pick(language=lang))
        budget = reranker.budget()
        assert 100 < budget < 220  # four passages, the query twice, the instructions
    with pytest.raises(ConfigError, match="does not fit"):
        Setwise(Judge(context=200), Pick()).check()


def test_a_model_without_probabilities_is_refused_before_anything_runs() -> None:
    class Words:
        context = 4096

        def count_tokens(self, texts: Sequence[str]) -> list[int]:
            return [len(t) for t in texts]

        def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
            return [t[:tokens] for t in texts]

        def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
            return [Answer("A") for _ in prompts]

    assert not isinstance(Words(), ScoresLabels | ScoresTexts)
    with pytest.raises(ConfigError, match=r"reranker\.answer=text"):
        Setwise(Words(), Pick()).check()
    with pytest.raises(ConfigError, match="probability of a text"):
        QueryLikelihood(Words(), WriteQuery()).check()
    Setwise(Words(), Pick(), answer="text").check()


NO_LLM = {"none", "oracle", "cascade"}
LOCAL = [name for name in RERANKERS if name not in NO_LLM and "llm: ${llm}" in (CONFIGS / f"{name}.yaml").read_text()]


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_every_llm_reranker_of_the_repository_runs_with_a_small_local_model(
    kind: str,
    clir: Clir,
    llama: Path,  # noqa: F811
    t5: Path,  # noqa: F811
) -> None:
    seq2seq = [name for name in LOCAL if name.endswith("aya101")]
    names = seq2seq if kind == "seq2seq" else [name for name in LOCAL if name not in seq2seq]
    clir(
        "run", "-m", f"reranker={','.join(names)}", "llm=transformers", f"llm.model={t5 if kind == 'seq2seq' else llama}",
        "llm.context=1024", f"llm.kind={kind}", *(["llm.template=plain"] if kind == "seq2seq" else []), "llm.device=cpu",
        "llm.dtype=float32", "reranker.passage_tokens=20", "reranker.query_tokens=16", "reranker.max_failed_answers=1.0",
        "reranker.window=4", "reranker.step=2", "reranker.top=2", "rerank.depth=6", "prompt.spare_tokens=4", "prompt.scale=graded",
        "dataset.limit_queries=2",
    )  # fmt: skip
    with next(clir.runs.glob("sweeps/*/cells.csv")).open(encoding="utf-8") as cells:
        assert [row["status"] for row in csv.DictReader(cells)] == ["done"] * len(names)
    for folder in [path.parent for path in clir.runs.glob("demo*/*/answers.jsonl.gz")]:
        first, final = ((folder / f"{name}.trec").read_text().splitlines() for name in ("first_stage", "run"))
        assert sorted(line.split()[2] for line in first) == sorted(line.split()[2] for line in final)
