"""Our algorithms beside our own transcriptions of published control flow, on the decisions of one small local model.

The transcriptions follow what llm-rankers (setwise.py, pairwise.py), RankGPT (sliding_windows) and rank_llm do step by step,
their bugs included. The judge is a decoder with seeded random weights: it contradicts itself, which no perfect judge does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
from test_transformers_llm import TEXTS, llama  # noqa: F401  llama is a fixture

from clir_cli.llms.transformers import Transformers
from clir_cli.prompts.instructed import Grade, Order, Pick
from clir_cli.rerankers import sorting
from clir_cli.rerankers.listwise import Listwise, read_digits
from clir_cli.rerankers.pairwise import Pairwise
from clir_cli.rerankers.pointwise import Pointwise
from clir_cli.rerankers.setwise import Setwise
from clir_cli.types import Candidates, Journal, Shown, Text

pytestmark = pytest.mark.usefixtures("one_thread")

Best = Callable[[list[int]], int]  # the place of the best of some documents, in the order they are shown
Beats = Callable[[int, int], bool]  # whether the first wins when it is A and when it is B


# What others do ---------------------------------------------------------------------------------------------------------


def their_output(sorted_docs: list[int], n: int, k: int) -> list[int]:
    """The first k as sorted, the others as the first stage had them."""
    top = sorted_docs[:k]
    return [*top, *(doc for doc in range(n) if doc not in top)]


def their_heap(n: int, k: int, children: int, largest_of: Callable[[list[int]], int]) -> list[int]:
    """A k-ary max-heap in one array, and k swaps of its root to the end; `largest_of` gets the root and its children."""
    docs = list(range(n))

    def heapify(size: int, at: int) -> None:
        places = [at, *range(children * at + 1, min(children * (at + 1) + 1, size))]
        if len(places) > 1:
            largest = places[largest_of([docs[p] for p in places])]
            if largest != at:
                docs[at], docs[largest] = docs[largest], docs[at]
                heapify(size, largest)

    for at in range(n // children, -1, -1):
        heapify(n, at)
    for done, end in enumerate(range(n - 1, 0, -1), 1):
        docs[0], docs[end] = docs[end], docs[0]
        if done == k:
            break
        heapify(end, 0)
    return their_output(docs[::-1], n, k)


def their_setwise_bubble(n: int, k: int, children: int, best: Best) -> list[int]:
    """Windows of a document and its children; later passes start where the one before first changed something."""
    docs, start_next = list(range(n)), n - children - 1
    for done in range(k):
        start, end, changed = start_next, start_next + children + 1, False
        while True:
            start = max(start, done)
            shown = docs[start:end]
            winner = best(shown) if shown else 0
            if winner:
                docs[start], docs[start + winner] = docs[start + winner], docs[start]
                if not changed:
                    changed = True
                    if start_next != n - children - 1 and winner == len(shown) - 1:
                        start_next += len(shown) - 1
            if start == done:
                break
            if not changed:
                start_next -= children
            start, end = start - children, end - children
    return their_output(docs, n, k)


def their_pairwise_bubble(n: int, k: int, beats: Beats) -> list[int]:
    """Passes from the bottom; a pass starts just below where the one before it first changed something."""
    docs, bottom = list(range(n)), n - 1
    for done in range(min(k, n)):
        at, changed = bottom, False
        while at > done:
            if beats(docs[at], docs[at - 1]):
                docs[at - 1], docs[at] = docs[at], docs[at - 1]
                if not changed:
                    changed = True
                    bottom += bottom != n - 1
            if not changed:
                bottom -= 1
            at -= 1
    return their_output(docs, n, k)


def their_points(n: int, beats: Beats) -> list[float]:
    """All pairs: a point for a win in both orders, half a point each where the orders disagree."""
    points = [0.0] * n
    for a, b in combinations(range(n), 2):
        first, second = beats(a, b), beats(b, a)
        points[a] += 1.0 if first else 0.0 if second else 0.5
        points[b] += 1.0 if second else 0.0 if first else 0.5
    return points


def their_all_pairs(n: int, k: int, beats: Beats) -> list[int]:
    """By points; a document is listed when it has its first, and of equal points who was listed first stands first."""
    points: dict[int, float] = {}
    for a, b in combinations(range(n), 2):
        first, second = beats(a, b), beats(b, a)
        for doc, won in ((a, 1.0), (b, 0.0)) if first else ((b, 1.0), (a, 0.0)) if second else ((a, 0.5), (b, 0.5)):
            if won:
                points[doc] = points.get(doc, 0.0) + won
    return their_output(sorted(points, key=lambda doc: -points[doc]), n, k)


def their_windows(n: int, window: int, step: int) -> list[tuple[int, int]]:
    """RankGPT's: from the back, and none that would begin before the first document."""
    start, end, found = n - window, n, []
    while start >= 0:
        found.append((start, end))
        start, end = start - step, end - step
    return found


def rank_llms_windows(n: int, window: int, step: int) -> list[tuple[int, int]]:
    """rank_llm's: as RankGPT's, but the front window is clipped at the first document."""
    start, end, found = n - window, n, []
    while end > 0 and start + step != 0:
        start = max(start, 0)
        found.append((start, end))
        start, end = start - step, end - step
    return found


# The judge --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def llm(llama: Path) -> Transformers:  # noqa: F811
    return Transformers(model=str(llama), context=1024, device="cpu")


def candidates(n: int, seed: int = 0) -> Candidates:
    draw = random.Random(seed)
    docs = [Text(f"d{i}", (("en", " ".join(draw.sample(TEXTS[:6], 1)) + f" {i}"),)) for i in range(n)]
    return Candidates(Text(f"q{seed}", (("en", "fishing and farmers"),)), docs)


def ours(reranker, query: Candidates) -> list[int]:
    run = reranker.rerank([query], Journal())
    return [int(doc[1:]) for doc in run["doc_id"]]


def picks(llm: Transformers, query: Candidates) -> Best:
    """The most probable label, one prompt at a time, by the same words."""
    shown = {i: Shown(doc.text, "en") for i, doc in enumerate(query.docs)}

    @cache
    def best(docs: tuple[int, ...]) -> int:
        prompt = Pick().messages(Shown(query.query.text, "en"), [shown[i] for i in docs])
        (answer,) = llm.score_labels([prompt], [Pick().label(i) for i in range(len(docs))])
        scores = answer.scores or ()
        return scores.index(max(scores))

    return lambda docs: best(tuple(docs))


def worths(llm: Transformers, query: Candidates) -> list[float]:
    """A judge that does not contradict itself: what the same model says of each document alone."""
    reranker = Pointwise(llm, Grade(words=("A", "B")), query_tokens=20)
    order = ours(reranker, query)
    return [-float(order.index(i)) for i in range(len(query.docs))]


# Side by side -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 9, 30])
@pytest.mark.parametrize("children", [2, 3])
def test_setwise_heapsort_is_llm_rankers_ranking_document_by_document(llm: Transformers, n: int, children: int) -> None:
    """With sets shown in prior order, as we do: they show the node first, and a judge with a position bias then differs."""
    query, k = candidates(n, n), 5
    best = picks(llm, query)

    def in_prior_order(docs: list[int]) -> int:
        return docs.index(sorted(docs)[best(sorted(docs))])

    theirs = their_heap(n, k, children, in_prior_order)
    assert ours(Setwise(llm, Pick(), children=children, top=k, query_tokens=20), query) == theirs
    worth = worths(llm, query)
    node_first = their_heap(n, k, children, by(worth))
    assert best_of(sorting.heap_sets(n, k, children), worth) == node_first


def by(worth: list[float]) -> Best:
    """A judge that picks the document with the most worth, the first of equals."""
    return lambda docs: docs.index(max(docs, key=lambda i: worth[i]))


def best_of(sort: sorting.Sort, worth: list[float]) -> list[int]:
    """The order of one sort by a judge that only looks at worths."""

    def answer(asked: list[tuple[int, sorting.Request]]) -> list[object]:
        said: list[object] = []
        for _, request in asked:
            match request:
                case sorting.Pick(docs, most, _):
                    said.append(sorted(docs, key=lambda i: -worth[i])[:most])
                case sorting.Compare(a, b):
                    said.append(float(worth[a] > worth[b]))
        return said

    return sorting.play([sort], answer)[0][0]


def test_setwise_bubble_sort_is_right_also_where_the_released_code_skips_documents(llm: Transformers) -> None:
    n, k, c = 40, 10, 3
    wrong = 0
    for seed in range(60):
        worth = [-i + 12 * random.Random(100 * seed + i).random() for i in range(n)]  # a good first stage
        right = sorted(range(n), key=lambda i: -worth[i])[:k]
        theirs = their_setwise_bubble(n, k, c, by(worth))
        assert best_of(sorting.bubble_sets(n, k, c), worth)[:k] == right
        wrong += theirs[:k] != right
    assert wrong > 0  # the skip, engines.md fact 7
    query = candidates(20, 4)
    worth = worths(llm, query)
    theirs = their_setwise_bubble(20, 1, c, by(worth))
    assert best_of(sorting.bubble_sets(20, 1, c), worth)[:1] == theirs[:1]  # the first pass skips nothing


@pytest.mark.parametrize("n", [2, 9, 24])
def test_pairwise_bubble_sort_is_llm_rankers_ranking_by_the_same_decisions(llm: Transformers, n: int) -> None:
    query, k = candidates(n, n), 4
    beats = both_orders(llm, query)
    theirs = their_pairwise_bubble(n, k, beats)
    assert ours(Pairwise(llm, Pick(), sort_by="bubble", top=k, rest="prior"), query) == theirs


def both_orders(llm: Transformers, query: Candidates) -> Beats:
    best = picks(llm, query)
    return lambda a, b: best([a, b]) == 0 and best([b, a]) == 1


def released(sort: sorting.Sort, decide: Callable[[sorting.Request], object]) -> list[int]:
    """The order of one sort by a judge that answers a request as `decide` does."""
    return sorting.play([sort], lambda asked: [decide(request) for _, request in asked])[0][0]


@pytest.mark.parametrize("seed", range(60))
def test_released_setwise_sorts_are_theirs_whatever_the_judge_says(seed: int) -> None:
    """A judge that likes what stands first and contradicts itself; the skips and the sets' order are llm-rankers'."""
    draw = random.Random(seed)
    n, k, children = draw.randint(2, 40), draw.randint(1, 12), draw.choice([2, 3, 5])

    @cache
    def best(docs: tuple[int, ...]) -> int:
        return random.Random(f"{seed} {docs}").choice([0, 0, 0, *range(len(docs))]) if len(docs) > 1 else 0

    def decide(request: sorting.Request) -> object:
        assert isinstance(request, sorting.Pick)
        return [request.docs[best(request.docs)]]

    theirs = their_setwise_bubble(n, k, children, lambda docs: best(tuple(docs)))
    assert released(sorting.skipping_bubble_sets(n, k, children), decide) == theirs
    theirs = their_heap(n, k, children, lambda docs: best(tuple(docs)))
    assert released(sorting.heap_sets(n, k, children, released=True), decide) == theirs


@pytest.mark.parametrize("seed", range(60))
def test_released_pairwise_sorts_give_ties_as_theirs_do(seed: int) -> None:
    draw = random.Random(seed)
    n, k = draw.randint(2, 30), draw.randint(1, 12)
    said = {
        (a, b): draw.random() < 0.5 for a in range(n) for b in range(n)
    }  # whether the first of a prompt is preferred

    def beats(a: int, b: int) -> bool:
        return said[a, b] and not said[b, a]

    def decide(request: sorting.Request) -> object:
        assert isinstance(request, sorting.Compare)
        first, second = request
        return 1.0 if beats(first, second) else 0.0 if beats(second, first) else 0.5

    def largest(docs: list[int]) -> int:
        at = 0
        for child in range(1, len(docs)):
            at = child if beats(docs[child], docs[at]) else at
        return at

    order = released(sorting.heap_pairs(n, k, released=True), decide)
    assert their_output(order, n, k) == their_heap(n, k, 2, largest)
    order = released(sorting.all_pairs(n, released=True), decide)
    assert their_output(order, n, k) == their_all_pairs(n, k, beats)


def test_where_no_pair_can_be_told_apart_the_released_heap_turns_the_ranking_round() -> None:
    def undecided(request: sorting.Request) -> object:
        return 0.5

    assert released(sorting.heap_pairs(12, 5), undecided)[:5] == [0, 1, 2, 3, 4]
    assert released(sorting.heap_pairs(12, 5, released=True), undecided)[:5] == [0, 11, 10, 9, 8]


def test_of_equal_points_the_released_code_puts_first_who_had_some_first() -> None:
    wins = {(1, 0), (0, 2), (2, 1)}  # one win each; the first pair is won by 1

    def decide(request: sorting.Request) -> object:
        assert isinstance(request, sorting.Compare)
        return 1.0 if tuple(request) in wins else 0.0

    assert released(sorting.all_pairs(3), decide) == [0, 1, 2]
    assert released(sorting.all_pairs(3, released=True), decide) == [1, 0, 2]


def test_released_windows_are_rank_gpts_for_every_number_of_candidates() -> None:
    for window, step in ((20, 10), (20, 15), (10, 3), (4, 2)):
        for n in range(1, 130):
            assert sorting.whole_windows(n, window, step) == their_windows(n, window, step)


@pytest.mark.parametrize("n", [5, 7, 12])
def test_a_released_sliding_window_leaves_the_front_as_it_was(llm: Transformers, n: int) -> None:
    query, prompt = candidates(n, n), Order(spare_tokens=40)
    exact, theirs = (
        Listwise(llm, prompt, window=4, step=2, parsing="digits", query_tokens=20, flow=flow)  # type: ignore[arg-type]
        for flow in ("exact", "released")
    )
    unseen = n % 2  # documents before the last whole window
    assert ours(theirs, query)[:unseen] == list(range(unseen))
    assert theirs.calls(n) == len(their_windows(n, 4, 2)) == exact.calls(n) - unseen
    assert (ours(theirs, query) == ours(exact, query)) or unseen


def test_a_flow_that_no_released_code_has_is_refused(llm: Transformers) -> None:
    for made, way in ((Pairwise, "bubble"), (Pairwise, "quick_select"), (Setwise, "insertion")):
        with pytest.raises(ValueError, match="flow=released is for sort_by="):
            made(llm, Pick(), sort_by=way, flow="released")  # type: ignore[operator]
    with pytest.raises(ValueError, match="flow=released is for sort_by=sliding"):
        Listwise(llm, Order(), sort_by="top_down", flow="released")


def test_pairwise_bubble_sort_is_theirs_whatever_the_judge_says() -> None:
    for seed in range(100):
        draw = random.Random(seed)
        wins = {pair: draw.random() < 0.4 for pair in ((a, b) for a in range(25) for b in range(25))}
        k = draw.choice([1, 3, 10, 25])

        def answer(asked: list[tuple[int, sorting.Request]], wins: dict = wins) -> list[float]:
            return [float(wins[r.first, r.second]) for _, r in asked if isinstance(r, sorting.Compare)]

        order = sorting.play([sorting.bubble(25, k)], answer)[0][0]
        assert their_output(order, 25, k) == their_pairwise_bubble(25, k, lambda a, b, w=wins: w[a, b])


def test_all_pairs_give_llm_rankers_points_and_ties_their_prior_order(llm: Transformers) -> None:
    query = candidates(12, 7)
    points = their_points(12, both_orders(llm, query))
    assert ours(Pairwise(llm, Pick(), sort_by="all_pairs"), query) == sorted(range(12), key=lambda i: (-points[i], i))
    assert len(set(points)) > 1


@pytest.mark.parametrize("n", [2, 9, 30])
def test_pairwise_heapsort_is_llm_rankers_ranking_where_no_pair_is_a_tie(llm: Transformers, n: int) -> None:
    """With ties theirs keeps the node, wherever it came from, and ours the better prior rank."""
    worth, k = worths(llm, candidates(n, n)), 5

    assert best_of(sorting.heap_pairs(n, k), worth) == their_heap(n, k, 2, by(worth))
    tied = [0.0] * n
    assert sorting.play([sorting.heap_pairs(n, k)], lambda asked: [0.5] * len(asked))[0][0] == list(range(n))
    assert n < 3 or their_heap(n, k, 2, by(tied)) != list(range(n))


def test_windows_are_rank_llms_for_every_number_of_candidates_and_rank_gpts_where_these_reach_the_front() -> None:
    for window, step in ((20, 10), (20, 5), (4, 2), (10, 10)):
        for n in range(window, 130):
            found = sorting.windows(n, window, step)
            assert found == rank_llms_windows(n, window, step)
            theirs = their_windows(n, window, step)
            assert found[: len(theirs)] == theirs
            assert (len(found) == len(theirs)) == ((n - window) % step == 0)


@pytest.mark.parametrize("n", [25, 95])
def test_where_rank_gpt_never_looks_at_the_first_five_we_do(n: int) -> None:
    assert min(start for start, _ in their_windows(n, 20, 10)) == 5
    assert sorting.windows(n, 20, 10)[-1] == (0, 15)
    assert their_windows(15, 20, 10) == []
    assert sorting.windows(15, 20, 10) == [(0, 15)]


@pytest.mark.parametrize("n", [4, 6, 12])
def test_sliding_window_permutations_are_rank_gpts_on_a_models_own_words(llm: Transformers, n: int) -> None:
    query, prompt = candidates(n, n), Order(spare_tokens=40)
    shown = [Shown(doc.text, "en") for doc in query.docs]
    reranker = Listwise(llm, prompt, window=4, step=2, parsing="digits", query_tokens=20)
    order = list(range(n))
    for start, end in their_windows(n, 4, 2):
        part = order[start:end]
        asked = prompt.messages(Shown(query.query.text, "en"), [shown[i] for i in part])
        (answer,) = llm.generate([asked], reranker.answer_tokens(4))
        order[start:end] = their_permutation(answer.text, part)
    assert ours(reranker, query) == order


def their_permutation(answer: str, docs: list[int]) -> list[int]:
    """RankGPT's: digits stay, the rest is blank; numbers of no passage fall out, forgotten passages follow."""
    said: list[int] = []
    for number in "".join(c if c in "0123456789" else " " for c in answer).split():
        if int(number) - 1 not in said and 0 <= int(number) - 1 < len(docs):
            said.append(int(number) - 1)
    return [docs[i] for i in [*said, *(i for i in range(len(docs)) if i not in said)]]


def test_digits_are_read_as_rank_gpt_reads_them() -> None:
    draw = random.Random(5)
    for _ in range(500):
        answer = "".join(draw.choices("0123456789 [],>\nabc", k=draw.randint(0, 40)))
        assert read_digits(answer, 9).order == their_permutation(answer, list(range(9)))
