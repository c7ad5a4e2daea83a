"""How to find the best of many documents by asking about few at a time: the algorithms of LLM reranking, without an LLM.

Every algorithm is a generator over the positions 0 .. n-1 of a query's candidates, best first as they came. It yields
rounds: lists of requests that do not depend on each other. It is sent the answers in the same order, and returns the
final order, a permutation. With a judge that never errs the first `top` positions are exact, whatever n is, but for
`tournaments` and `blocks`, which say so. Ties and what was never compared keep their prior order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from heapq import merge
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias


class Order(NamedTuple):
    """Put these documents in order; the answer is the same positions, best first.

    `shuffled`: the order they stand in means nothing, so an unusable answer is no answer, None, and not this order.
    """

    docs: tuple[int, ...]
    shuffled: bool = False


class Pick(NamedTuple):
    """Name the best `most` of these documents; the answer is their positions, best first."""

    docs: tuple[int, ...]
    most: int = 1
    shuffled: bool = False


class Compare(NamedTuple):
    """Which of two documents is better; the answer is 1 for the first, 0 for the second, 0.5 where that is undecided."""

    first: int
    second: int


class Score(NamedTuple):
    """How relevant one document is; the answer is a number, or None."""

    doc: int


Request: TypeAlias = Order | Pick | Compare | Score
Round: TypeAlias = list[Request]
Sort: TypeAlias = Generator[Round, list[Any], list[int]]


def play(
    sorts: Sequence[Sort], answer: Callable[[list[tuple[int, Request]]], list[Any]], memo: bool = True
) -> tuple[list[list[int]], list[int]]:
    """The final order of every sort and the rounds it took.

    Round by round the requests of all sorts that are still open are answered together: `answer` is given (number of the
    sort, request). Within a sort equal requests are asked once, unless `memo` is false.
    """
    orders: list[list[int]] = [[] for _ in sorts]
    rounds = [0] * len(sorts)
    known: list[dict[Request, Any]] = [{} for _ in sorts]
    sent: dict[int, list[Any] | None] = dict.fromkeys(range(len(sorts)))
    while sent:
        asked: dict[int, Round] = {}
        for at, answers in sent.items():
            try:
                asked[at] = next(sorts[at]) if answers is None else sorts[at].send(answers)
            except StopIteration as done:
                orders[at] = done.value
        if not memo:
            known = [{} for _ in sorts]
        new = [(at, r) for at, requests in asked.items() for r in dict.fromkeys(requests) if r not in known[at]]
        for (at, request), said in zip(new, answer(new) if new else [], strict=True):
            known[at][request] = said
        for at in {at for at, _ in new}:
            rounds[at] += 1
        sent = {at: [known[at][r] for r in requests] for at, requests in asked.items()}
    return orders, rounds


# Pointwise ------------------------------------------------------------------------------------------------------------


def pointwise(n: int) -> Sort:
    """By a score for each: n calls, one round. One without a score stays behind its neighbour in the prior ranking."""
    scores = yield [Score(i) for i in range(n)]
    known = [score for score in scores if score is not None]
    last = max(known, default=0.0)
    filled = [last := score if score is not None else last for score in scores]
    return sorted(range(n), key=lambda i: (-filled[i], i))


# Listwise -------------------------------------------------------------------------------------------------------------


def windows(n: int, window: int, step: int) -> list[tuple[int, int]]:
    """(start, end) of the windows over n documents from back to front: 1 + ceil((n - window) / step) of them.

    The front window ends a step before its neighbour and starts at 0, however n falls, so every document is seen.
    """
    if n < 2:
        return []
    backwards = [(end - window, end) for end in range(n, window, -step)]
    return [*backwards, (0, n - step * len(backwards))]


def whole_windows(n: int, window: int, step: int) -> list[tuple[int, int]]:
    """As RankGPT's and llm-rankers' code cuts them: none that would begin before the first document.

    Where n - window is no multiple of `step` the front is never seen; of fewer than a window nothing is.
    """
    return [(end - window, end) for end in range(n, window - 1, -step)]


Windows: TypeAlias = Callable[[int, int, int], list[tuple[int, int]]]


def sliding_window(n: int, window: int, step: int, repeats: int = 1, cut: Windows = windows) -> Sort:
    """Windows slide from the back to the front, so that the best `step` rise with them (Sun et al. 2023).

    Calls: repeats * (1 + ceil((n - window) / step)), each its own round. Exact for the first `step`.
    """
    order = list(range(n))
    for _ in range(repeats):
        for start, end in cut(n, window, step):
            (order[start:end],) = yield [Order(tuple(order[start:end]))]
    return order


def top_down(n: int, window: int, top: int) -> Sort:
    """Top-down partitioning (Parry et al. 2024) with all partitions of a level in one round.

    The first window is ordered; its document at rank `top` is the pivot that every group of the rest is ordered with.
    What comes before the pivot makes, with the documents above it, the next, smaller problem; nothing does: done. The
    pivot follows, then what is below it, in the order of each group, groups merged by prior rank.

    Calls depend on the first stage: of 100 documents, 20 and 10, on average 9 in 5 rounds where its ranks correlate with
    relevance by .3, 7 in 3 where by .8, 11 in 6 where they say nothing; 31 where all that follow a pivot beat it.
    """
    return (yield from _top_down(list(range(n)), window, top))


def _top_down(docs: list[int], window: int, top: int) -> Sort:
    if len(docs) < 2:
        return docs
    (first,) = yield [Order(tuple(docs[:window]))]
    rest = docs[window:]
    if not rest:
        return list(first)
    best, below = list(first[:top]), [list(first[top:])]
    pivot, above = best[-1], list[int]()
    groups = _groups(rest, window - 1)
    for ordered in (yield [Order((pivot, *group)) for group in groups]):
        at = ordered.index(pivot)
        above += ordered[:at]
        below.append(list(ordered[at + 1 :]))
    if above:
        best = [*(yield from _top_down([*best[:-1], *sorted(above)], window, top)), pivot]
    return [*best, *_merged(below)]


def _groups(docs: Sequence[int], most: int) -> list[list[int]]:
    """As few groups as hold at most `most` each, dealt like cards, so that each has its share of the prior ranking's top."""
    count = math.ceil(len(docs) / most)
    return [list(docs[at::count]) for at in range(count)]


def _merged(lists: Iterable[Sequence[int]]) -> list[int]:
    """Lists as one that keeps the order of each, by the prior ranks at their heads."""
    raised = ([(max(docs[: at + 1]), doc) for at, doc in enumerate(docs)] for docs in lists)
    return [doc for _, doc in merge(*raised)]


def knock_out(n: int, window: int, top: int) -> Sort:
    """Groups of a window are ordered at once and keep their first `top`, until one window is left.

    Calls: sum of ceil(n_j / window), n_(j+1) = top * ceil(n_j / window); 11 in 4 rounds for 100, 20 and 10, whatever the
    judge says. A group of no more than `top` moves on unasked. Who leaves later is better; of one round, by its place in
    its group.
    """
    if 2 * top > window:  # two groups of just over half a window would ask nothing and move on whole, for ever
        raise ValueError(f"top={top} must be at most half of window={window}, or nobody leaves")
    left, gone = list(range(n)), list[list[int]]()
    while len(left) > window:
        groups = _groups(left, window)
        ordered = yield [Order(tuple(group)) for group in groups if len(group) > top]
        answers = iter(ordered)
        groups = [list(next(answers)) if len(group) > top else group for group in groups]
        losers = [(at, group[at]) for group in groups for at in range(top, len(group))]
        gone.append([doc for _, doc in sorted(losers)])
        left = sorted(doc for group in groups for doc in group[:top])
    if len(left) > 1:
        (left,) = yield [Order(tuple(left))]
    return [*left, *(doc for losers in reversed(gone) for doc in losers)]


def tournaments(n: int, window: int, rounds: int = 1, seed: int = 0) -> Sort:
    """TourRank (Chen et al. 2024): in each of `rounds` tournaments, played side by side, shuffled groups send their best on.

    The stages leave 1/2, 1/5, 1/10, 1/20 and 1/50 of n (100, 50, 20, 10, 5, 2 in the paper: 13 calls in 5 rounds); a
    document has a point for every stage that it passes, and the points of all tournaments are summed. Not exact: in one
    group may be more good documents than may go on.
    """
    draw = random.Random(seed)
    points = [0] * n
    playing = [list(range(n)) for _ in range(rounds)]
    for count, left in tournament_stages(n, window):
        asked: Round = []
        for docs in playing:
            draw.shuffle(docs)
            parts = [docs[at::count] for at in range(count)]
            quotas = [left // count + (at < left % count) for at in range(count)]
            asked += [Pick(tuple(part), quota) for part, quota in zip(parts, quotas, strict=True) if quota]
        answers = yield asked
        per = len(asked) // rounds
        playing = [[doc for picked in answers[at * per : (at + 1) * per] for doc in picked] for at in range(rounds)]
        for docs in playing:
            for doc in docs:
                points[doc] += 1
    return sorted(range(n), key=lambda i: (-points[i], i))


def tournament_stages(n: int, window: int) -> list[tuple[int, int]]:
    """(groups, documents that go on) of every stage; a group of which none may go on is not asked about."""
    stages, size = list[tuple[int, int]](), n
    for share in (2, 5, 10, 20, 50):
        left = math.ceil(n / share)
        if left >= size or size < 2:
            continue
        # groups stay as many as there were while they shrink below a window, and become one when that can hold all
        count = 1 if size <= window else max(math.ceil(n / window) if share == 5 else 1, math.ceil(size / window))
        stages.append((count, left))
        size = left
    return stages


def blocks(n: int, block: int, replicas: int = 2, seed: int = 0) -> Sort:
    """JointRank: every document in `replicas` random blocks, all ordered in one round.

    Calls: replicas * ceil(n / block). The pairs that the blocks imply are joined by PageRank on the graph of losses. Not
    exact: documents that never met are compared through others; with a perfect judge some .8 to .9 of the top 10 are found.
    """
    draw = random.Random(seed)
    asked: Round = []
    for _ in range(replicas):
        docs = list(range(n))
        draw.shuffle(docs)
        asked += [Order(tuple(group)) for group in _groups(docs, block) if len(group) > 1]
    if not asked:
        return list(range(n))
    ordered = yield asked
    rank = _page_rank(n, ordered)
    return sorted(range(n), key=lambda i: (-rank[i], i))


def _page_rank(n: int, ordered: Iterable[Sequence[int]], damping: float = 0.85, iterations: int = 100) -> list[float]:
    """A document passes its weight on to those that beat it, in equal parts."""
    winners: list[list[int]] = [[] for _ in range(n)]
    for docs in ordered:
        for at, doc in enumerate(docs):
            winners[doc] += docs[:at]
    rank = [1 / n] * n
    for _ in range(iterations):
        new = [(1 - damping) / n] * n
        free = sum(rank[i] for i in range(n) if not winners[i])
        for i, better in enumerate(winners):
            for j in better:
                new[j] += damping * rank[i] / len(better)
        rank = [value + damping * free / n for value in new]
    return rank


def self_consistent(sort: Sort, permutations: int, seed: int = 0) -> Sort:
    """Permutation self-consistency (Tang et al. 2024) around any algorithm: every list is asked about in several orders.

    Of `permutations` random presentations the answers become one: an order by mean place (Borda), which is the central
    ranking's usual stand-in; of picks the most frequent.
    """
    draw = random.Random(seed)
    try:
        requests = next(sort)
        while True:
            asked: Round = []
            for request in requests:
                asked += _presentations(request, permutations, draw)
            answers, said, at = (yield asked), list[Any](), 0
            for request in requests:
                count = permutations if isinstance(request, Order | Pick) else 1
                said.append(_agreed(request, answers[at : at + count]))
                at += count
            requests = sort.send(said)
    except StopIteration as done:
        order: list[int] = done.value
        return order


def _presentations(request: Request, count: int, draw: random.Random) -> Round:
    if not isinstance(request, Order | Pick):
        return [request]
    docs = [tuple(draw.sample(request.docs, len(request.docs))) for _ in range(count)]
    return [request._replace(docs=shown, shuffled=True) for shown in docs]


def _agreed(request: Request, answers: Sequence[Any]) -> Any:
    if not isinstance(request, Order | Pick):
        return answers[0]
    place: dict[int, float] = dict.fromkeys(request.docs, 0.0)
    for said in (a for a in answers if a is not None):
        for doc in request.docs:  # of a pick all that were not named share the last place
            place[doc] += said.index(doc) if doc in said else len(request.docs)
    order = sorted(request.docs, key=lambda doc: (place[doc], request.docs.index(doc)))
    return order if isinstance(request, Order) else order[: request.most]


# Pairwise -------------------------------------------------------------------------------------------------------------


def all_pairs(n: int, released: bool = False) -> Sort:
    """PRP-allpair (Qin et al. 2024): every pair is compared, n (n - 1) / 2 comparisons in one round; a document's wins rank it.

    Of equal wins the better prior rank stands first; `released`, as in llm-rankers, who had a point first, pairs taken in
    their prior order.
    """
    pairs = [Compare(i, j) for i in range(n) for j in range(i + 1, n)]
    answers = (yield [*pairs]) if pairs else []
    wins = [0.0] * n
    scored: dict[int, None] = {}
    for (i, j), won in zip(pairs, answers, strict=True):
        wins[i] += won
        wins[j] += 1 - won
        scored |= {doc: None for doc, points in ((i, won), (j, 1 - won)) if points}
    first = range(n) if not released else [*scored, *(doc for doc in range(n) if doc not in scored)]
    return sorted(first, key=lambda i: -wins[i])


def bubble(n: int, top: int) -> Sort:
    """PRP-sliding-K (Qin et al. 2024): `top` passes from the back to the front, each carries one document up; a swap needs a clear win.

    At most k n - k (k + 1) / 2 comparisons. A pass starts as soon as the one before it is two places ahead, so there
    are n + 2 k - 3 rounds and not k n, with the same comparisons.
    """
    order = list(range(n))
    passes = min(top, n - 1)
    for time in range(n - 1 + 2 * (passes - 1) if n > 1 else 0):
        places = [(n - 1 - (time - 2 * p)) for p in range(passes) if 0 <= time - 2 * p < n - 1 - p]
        if not places:
            continue
        # The one lower in the prior ranking is asked about first: it must win to pass
        for place, won in zip(places, (yield [Compare(order[j], order[j - 1]) for j in places]), strict=True):
            if won > 0.5:
                order[place - 1 : place + 1] = reversed(order[place - 1 : place + 1])
    return order


def heap_pairs(n: int, top: int, released: bool = False) -> Sort:
    """PRP-sorting: a binary heap by comparisons, at most 2 n + 2 k log2 n of them, the first `top` taken off it.

    Of two that the judge cannot tell apart the better prior rank is above; `released`, as in llm-rankers, who is.
    """
    return (yield from _heap(n, top, 2, _best_of_pairs, released))


def quick_select(n: int, top: int) -> Sort:
    """Partition by a pivot, all comparisons with it in one round, until the first `top` stand alone, then sort those alike.

    About 2 n + top log2 top comparisons in some 2 log2 n rounds; never more than all pairs. The pivot is the document at
    rank `top` of the prior ranking, or in the middle of a part; what the judge cannot tell from it stays on the pivot's
    side of the prior order.
    """
    return (yield from _quick(list(range(n)), top))


def _quick(docs: list[int], top: int) -> Sort:
    """The documents, the first `top` in exact order, the rest as the partitions left them."""
    if len(docs) < 2 or top < 1:
        return docs
    pivot = docs[min(top - 1, len(docs) // 2)]
    others = [doc for doc in docs if doc != pivot]
    better, worse = list[int](), list[int]()
    for doc, won in zip(others, (yield [Compare(doc, pivot) for doc in others]), strict=True):
        (better if won > 0.5 or (won == 0.5 and doc < pivot) else worse).append(doc)
    better = yield from _quick(better, top)
    worse = yield from _quick(worse, top - len(better) - 1)
    return [*better, pivot, *worse]


# Setwise --------------------------------------------------------------------------------------------------------------


def heap_sets(n: int, top: int, children: int, released: bool = False) -> Sort:
    """Setwise heapsort (Zhuang et al. 2024): one pick says which of a node and its `children` is best.

    Nodes of one level are independent, so building the heap takes a round per level and not one per node. A set is shown
    in its prior order; `released`, as in llm-rankers, as it stands in the heap, the node first.
    """
    return (yield from _heap(n, top, children, _best_of_set, released))


def _best_of_set(docs: tuple[int, ...]) -> Generator[Round, list[Any], int]:
    ((best,),) = yield [Pick(docs)]
    return int(best)


def _best_of_pairs(docs: tuple[int, ...]) -> Generator[Round, list[Any], int]:
    best = docs[0]
    for doc in docs[1:]:
        (won,) = yield [Compare(best, doc)]
        best = doc if won < 0.5 else best
    return best


Best: TypeAlias = Callable[[tuple[int, ...]], Generator[Round, list[Any], int]]


def _heap(n: int, top: int, children: int, best_of: Best, node_first: bool) -> Sort:
    """First in a set, and so the winner where there is none, is the better prior rank, or the node."""
    heap = list(range(n))

    def sift(at: int, size: int) -> Generator[Round, list[Any], None]:
        while (first := children * at + 1) < size:
            places = [at, *range(first, min(first + children, size))]
            docs = [heap[p] for p in places]
            best = yield from best_of(tuple(docs if node_first else sorted(docs)))
            if best == heap[at]:
                return
            down = next(p for p in places if heap[p] == best)
            heap[at], heap[down] = heap[down], heap[at]
            at = down

    parents = range((n - 2) // children, -1, -1)  # nodes that have a child, the deepest first
    for _, level in groupby(parents, key=lambda node: _depth(node, children)):
        yield from together([sift(at, n) for at in level])
    taken: list[int] = []
    for size in range(n, max(n - top, 0), -1):
        taken.append(heap[0])
        heap[0] = heap[size - 1]
        if len(taken) < top:
            yield from sift(0, size - 1)
    kept = set(taken)
    return [*taken, *(doc for doc in range(n) if doc not in kept)]


def _depth(node: int, children: int) -> int:
    depth = 0
    while node > 0:
        node, depth = (node - 1) // children, depth + 1
    return depth


def together(parts: Sequence[Generator[Round, list[Any], Any]]) -> Generator[Round, list[Any], None]:
    """Several that do not depend on each other, as one: their requests of a round are asked in one round."""
    sent: Mapping[int, list[Any] | None] = dict.fromkeys(range(len(parts)))
    while sent:
        asked: dict[int, Round] = {}
        for at, answers in sent.items():
            try:
                asked[at] = next(parts[at]) if answers is None else parts[at].send(answers)
            except StopIteration:
                continue
        said = (yield [r for requests in asked.values() for r in requests]) if asked else []
        given = iter(said)
        sent = {at: [next(given) for _ in requests] for at, requests in asked.items()}


def bubble_sets(n: int, top: int, children: int) -> Sort:
    """Setwise bubble sort: `top` passes of picks from the back to the front, each carries the best of the rest up.

    At most top * ceil((n - 1) / children) calls. Every pass looks at every document, unlike the released code, which skips some.
    """
    order = list(range(n))
    for done in range(min(top, n - 1)):
        end = n
        while end - 1 > done:
            start = max(end - 1 - children, done)
            best = yield from _best_of_set(tuple(order[start:end]))
            at = order.index(best)
            order[start : at + 1] = [best, *order[start:at]]
            end = start + 1
    return order


def skipping_bubble_sets(n: int, top: int, children: int) -> Sort:
    """Setwise bubble sort as llm-rankers' code runs it: a pass begins where the one before first changed something.

    What lies behind is never looked at again, so with a good first stage documents of the first `top` are lost; and a
    winner changes places with the first of its set. Sets of one document, which that code asks about, are not asked about.
    """
    order, last = list(range(n)), n - 1 - children  # where a pass begins
    for done in range(min(top, n)):
        start, changed = last, False
        while True:
            end, start = start + children + 1, max(start, done)
            docs = order[start:end]
            if len(docs) > 1 and (at := docs.index((yield from _best_of_set(tuple(docs))))):
                order[start], order[start + at] = order[start + at], order[start]
                if not changed and last != n - 1 - children and at == len(docs) - 1:
                    last += len(docs) - 1
                changed = True
            if start == done:
                break
            if not changed:
                last -= children
            start -= children
    kept = set(order[:top])
    return [*order[:top], *(doc for doc in range(n) if doc not in kept)]


def insertion_sets(n: int, top: int, children: int) -> Sort:
    """Setwise insertion (arXiv 2504.10509): the first `top` are sorted, then each group of others must beat the last of them.

    The prior ranking makes it cheap: most groups of `children` are dismissed by one pick, with the document at rank
    `top` shown first. A winner is inserted by binary search and its group asked again.
    """
    best = list(range(min(top, n)))
    sort = _heap(len(best), len(best), children, _best_of_set, False)
    best = yield from sort
    out: list[int] = []
    for start in range(top, n, children):
        group = list(range(start, min(start + children, n)))
        while group:
            winner = yield from _best_of_set((best[-1], *group))
            if winner == best[-1]:
                out += group
                break
            group.remove(winner)
            low, high = 0, len(best) - 1
            while low < high:
                middle = (low + high) // 2
                better = yield from _best_of_set((best[middle], winner))
                low, high = (low, middle) if better == winner else (middle + 1, high)
            best.insert(low, winner)
            out.append(best.pop())
    kept = set(best)
    return [*best, *(doc for doc in range(n) if doc not in kept)]
