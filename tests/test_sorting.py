"""The algorithms of LLM reranking with a judge that never errs, and with one that does."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from clir_cli.rerankers import sorting
from clir_cli.rerankers.listwise import Listwise
from clir_cli.rerankers.pairwise import Pairwise
from clir_cli.rerankers.setwise import Setwise
from clir_cli.rerankers.sorting import Compare, Order, Pick, Request, Score, Sort

TOP, WINDOW = 10, 20
Algorithm = Callable[[int], Sort]

EXACT: dict[str, Algorithm] = {
    "pointwise": sorting.pointwise,
    "sliding window": lambda n: sorting.sliding_window(n, WINDOW, 10),
    "full context": lambda n: sorting.sliding_window(n, max(n, 2), max(n, 2)),
    "top-down partitioning": lambda n: sorting.top_down(n, WINDOW, TOP),
    "knock-out": lambda n: sorting.knock_out(n, WINDOW, TOP),
    "all pairs": sorting.all_pairs,
    "bubble of pairs": lambda n: sorting.bubble(n, TOP),
    "heap of pairs": lambda n: sorting.heap_pairs(n, TOP),
    "quick select": lambda n: sorting.quick_select(n, TOP),
    "setwise heap, 3 children": lambda n: sorting.heap_sets(n, TOP, 3),
    "setwise heap, 9 children": lambda n: sorting.heap_sets(n, TOP, 9),
    "setwise bubble": lambda n: sorting.bubble_sets(n, TOP, 3),
    "setwise insertion": lambda n: sorting.insertion_sets(n, TOP, 3),
    "self-consistent sliding window": lambda n: sorting.self_consistent(sorting.sliding_window(n, WINDOW, 10), 3),
    "self-consistent setwise heap": lambda n: sorting.self_consistent(sorting.heap_sets(n, TOP, 3), 3),
}
INEXACT: dict[str, Algorithm] = {
    "one tournament": lambda n: sorting.tournaments(n, WINDOW),
    "ten tournaments": lambda n: sorting.tournaments(n, WINDOW, 10),
    "blocks": lambda n: sorting.blocks(n, WINDOW),
}
SIZES = [0, 1, 2, 3, 5, 9, 10, 11, 19, 20, 21, 25, 30, 37, 50, 95, 99, 100, 101, 123]


class Perfect:
    """A judge that knows how relevant every document is, and counts what it is asked."""

    def __init__(self, worth: list[float]) -> None:
        self.worth, self.calls, self.seen = worth, 0, set[int]()

    def __call__(self, asked: list[tuple[int, Request]]) -> list[Any]:
        self.calls += len(asked)
        return [self.answer(request) for _, request in asked]

    def answer(self, request: Request) -> Any:
        best_first = lambda docs: sorted(docs, key=lambda i: -self.worth[i])  # noqa: E731
        match request:
            case Order(docs, _):
                self.seen |= set(docs)
                return best_first(docs)
            case Pick(docs, count, _):
                self.seen |= set(docs)
                return best_first(docs)[:count]
            case Compare(a, b):
                self.seen |= {a, b}
                return 0.5 if self.worth[a] == self.worth[b] else float(self.worth[a] > self.worth[b])
            case Score(doc):
                self.seen.add(doc)
                return self.worth[doc]


def drawn(n: int, seed: int, correlation: float = 0.6) -> list[float]:
    """Worths of n documents whose prior order says as much about them as `correlation`."""
    draw = random.Random(seed)
    true = [draw.gauss(0, 1) for _ in range(n)]
    prior = [correlation * t + (1 - correlation**2) ** 0.5 * draw.gauss(0, 1) for t in true]
    return [true[i] for i in sorted(range(n), key=lambda i: -prior[i])]


def run(algorithm: Algorithm, judge: Perfect) -> tuple[list[int], int]:
    orders, rounds = sorting.play([algorithm(len(judge.worth))], judge)
    return orders[0], rounds[0]


def best(worth: list[float], top: int = TOP) -> list[int]:
    return sorted(range(len(worth)), key=lambda i: -worth[i])[:top]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95])
def test_a_perfect_judge_gives_the_exact_top_whatever_the_number_of_candidates(name: str, correlation: float) -> None:
    for n in SIZES:
        for seed in range(3):
            judge = Perfect(drawn(n, seed, correlation))
            order, _ = run(EXACT[name], judge)
            assert order[:TOP] == best(judge.worth), n
            assert sorted(order) == list(range(n))
            assert n < 2 or judge.seen == set(range(n))


@pytest.mark.parametrize("name", INEXACT)
def test_random_groups_give_a_permutation_in_which_every_document_was_seen(name: str) -> None:
    for n in SIZES:
        judge = Perfect(drawn(n, n))
        order, _ = run(INEXACT[name], judge)
        assert sorted(order) == list(range(n))
        assert n < 3 or judge.seen == set(range(n))


@pytest.mark.parametrize("name", [*EXACT, *INEXACT])
def test_equally_good_documents_keep_their_prior_order_at_the_top(name: str) -> None:
    n = 40
    orders, _ = sorting.play([({**EXACT, **INEXACT})[name](n)], Perfect([1.0] * n))
    assert sorted(orders[0]) == list(range(n))
    if name not in INEXACT and not name.startswith("self"):
        assert orders[0][:TOP] == list(range(TOP))


def costs(algorithm: Algorithm, correlation: float, n: int = 100) -> tuple[float, float]:
    """Mean calls and rounds."""
    found = []
    for seed in range(40):
        judge = Perfect(drawn(n, seed, correlation))
        _, rounds = run(algorithm, judge)
        found.append((judge.calls, rounds))
    calls, rounds = zip(*found, strict=True)
    return statistics.mean(calls), statistics.mean(rounds)


@pytest.mark.parametrize(
    ("name", "calls", "rounds"),
    [
        ("pointwise", 100, 1),
        ("sliding window", 9, 9),
        ("top-down partitioning", 9, 5),
        ("knock-out", 11, 4),
        ("all pairs", 4950, 1),
        ("bubble of pairs", 945, 117),
        ("heap of pairs", 267, 267),
        ("setwise heap, 3 children", 81, 81),
        ("setwise heap, 9 children", 31, 31),
        ("setwise bubble", 10 * 33, 10 * 33),
        ("one tournament", 13, 5),
        ("ten tournaments", 130, 5),
        ("blocks", 10, 1),
    ],
)
@pytest.mark.parametrize("correlation", [0.3, 0.6, 0.9])
def test_calls_and_rounds_are_at_most_the_formula(name: str, calls: float, rounds: float, correlation: float) -> None:
    asked, turns = costs({**EXACT, **INEXACT}[name], correlation)
    assert asked <= calls
    assert turns <= rounds


class Numbered:
    labels, most = "numbers", 99


BOUNDED = [
    *(Listwise(llm=None, prompt=Numbered(), sort_by=by) for by in ("sliding", "top_down", "knock_out", "blocks")),
    *(Listwise(llm=None, prompt=Numbered(), sort_by="tournaments", repeats=r) for r in (1, 3)),
    *(Setwise(llm=None, prompt=Numbered(), sort_by=by) for by in ("heap", "bubble", "insertion")),
    *(
        Pairwise(llm=None, prompt=Numbered(), sort_by=by, top=top, both_orders=False)
        for by in ("heap", "bubble", "quick_select", "all_pairs")
        for top in (1, 10)
    ),
]


@pytest.mark.parametrize("reranker", BOUNDED, ids=lambda r: f"{type(r).__name__} {r.sort_by} {r.top}")
def test_no_first_stage_however_bad_costs_more_calls_than_are_planned(reranker: Any) -> None:
    for n in (0, 1, 2, 5, 11, 20, 21, 30, 61, 100):
        upside_down, zigzag = list(range(n)), [i % 2 * n + i for i in range(n)]
        for worth in (upside_down, upside_down[::-1], zigzag, drawn(n, n, -0.8), drawn(n, n, 0.0)):
            judge = Perfect([float(w) for w in worth])
            run(reranker.sort, judge)
            assert judge.calls <= reranker.calls(n), (n, worth)


def test_partitions_ask_more_the_less_the_first_stage_knows() -> None:
    (some, in_some), (none, in_none) = (costs(EXACT["top-down partitioning"], c) for c in (0.8, 0.0))
    assert (round(some), round(in_some), round(none), round(in_none)) == (7, 3, 11, 6)
    judge = Perfect([float(i) for i in range(100)])
    assert (run(EXACT["top-down partitioning"], judge)[0][:TOP], judge.calls) == (best(judge.worth), 31)


def test_groups_that_would_never_shrink_are_refused() -> None:
    with pytest.raises(ValueError, match="at most half of window=20, or nobody leaves"):
        sorting.play([sorting.knock_out(30, 20, 11)], Perfect([1.0] * 30))
    with pytest.raises(ValueError, match="at most half of window=20, or nobody leaves; got 11"):
        Listwise(llm=None, prompt=Numbered(), sort_by="knock_out", top=11)


def test_insertion_asks_less_than_a_heap_where_the_first_stage_is_good() -> None:
    insertion, heap = (costs(EXACT[f"setwise {name}"], 0.9)[0] for name in ("insertion", "heap, 3 children"))
    assert insertion < heap


def test_a_heap_is_built_level_by_level_in_fewer_rounds_than_calls() -> None:
    calls, rounds = costs(EXACT["setwise heap, 3 children"], 0.3)
    assert rounds < 0.7 * calls


@pytest.mark.parametrize(
    ("name", "low", "high"), [("one tournament", 0.9, 1), ("ten tournaments", 0.98, 1), ("blocks", 0.75, 0.95)]
)
def test_random_groups_find_the_expected_share_of_the_top(name: str, low: float, high: float) -> None:
    found = []
    for seed in range(60):
        judge = Perfect(drawn(100, seed))
        found.append(len(set(run(INEXACT[name], judge)[0][:TOP]) & set(best(judge.worth))) / TOP)
    assert low <= statistics.mean(found) <= high


@pytest.mark.parametrize(("name", "most"), [("top-down partitioning", 19), ("knock-out", 19), ("sliding window", 24)])
def test_documents_just_below_the_top_stay_near_their_place(name: str, most: float) -> None:
    places = []
    for seed in range(60):
        judge = Perfect(drawn(100, seed, 0.6))
        order, _ = run(EXACT[name], judge)
        places += [order.index(doc) + 1 for doc in best(judge.worth, 20)[10:]]
    assert statistics.mean(places) <= most


@pytest.mark.parametrize("name", [*EXACT, *INEXACT])
def test_whatever_a_judge_answers_no_document_is_lost(name: str) -> None:
    draw = random.Random(name)

    def careless(asked: list[tuple[int, Request]]) -> list[Any]:
        said: list[Any] = []
        for _, request in asked:
            match request:
                case Order(docs, _):
                    said.append(draw.sample(docs, len(docs)))
                case Pick(docs, count, _):
                    said.append(draw.sample(docs, count))
                case _:
                    said.append(draw.choice([0, 0.5, 1]))
        return said

    for n in SIZES:
        orders, _ = sorting.play([({**EXACT, **INEXACT})[name](n)] * 1, careless)
        assert sorted(orders[0]) == list(range(n))


def test_all_queries_are_asked_together_round_by_round() -> None:
    worths = [drawn(100, seed) for seed in range(5)]
    batches: list[int] = []

    def judge(asked: list[tuple[int, Request]]) -> list[Any]:
        batches.append(len(asked))
        return [Perfect(worths[at]).answer(request) for at, request in asked]

    orders, rounds = sorting.play([sorting.sliding_window(100, 20, 10) for _ in worths], judge)
    assert batches == [5] * 9
    assert rounds == [9] * 5
    assert [order[:TOP] for order in orders] == [best(worth) for worth in worths]


def test_a_question_is_asked_once_within_a_query() -> None:
    judge = Perfect(drawn(30, 1))

    def twice(n: int) -> Sort:
        (first,) = yield [Compare(0, 1)]
        again, other = yield [Compare(0, 1), Compare(1, 2)]
        assert first == again
        return list(range(n)) if other in (0, 1) else []

    run(twice, judge)
    assert judge.calls == 2


def test_a_noisy_judge_is_steadied_by_asking_in_several_orders() -> None:
    def hits(permutations: int) -> float:
        found = []
        for seed in range(30):
            worth, draw = drawn(20, seed, 0.0), random.Random(seed)

            def judge(asked: list[tuple[int, Request]], worth: list[float] = worth, draw: Any = draw) -> list[Any]:
                return [sorted(r.docs, key=lambda i: -(worth[i] + draw.gauss(0, 1))) for _, r in asked]

            sort = sorting.self_consistent(sorting.sliding_window(20, 20, 10), permutations)
            found.append(len(set(sorting.play([sort], judge, memo=False)[0][0][:5]) & set(best(worth, 5))))
        return statistics.mean(found)

    assert hits(7) > hits(1) + 0.3
