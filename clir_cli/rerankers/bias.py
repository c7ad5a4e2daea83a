"""How a judge leans: to places in the prompt and to languages. Counts that can be summed over queries, shares made of them later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from clir_cli.rerankers.sorting import Compare, Order, Request, Score


def of_places(request: Request, value: Any, firsts: Sequence[int]) -> dict[str, float]:
    """What the answers to a request say about places; `firsts`: the place shown, from 0, of what each puts first.

    pairs, flips: comparisons asked in both orders, and those judged differently in the two (order-flip rate flips / pairs).
    picks, picked_first, picked_first_by_chance: answers, those that prefer what stands first, and the sum of 1 / passages
    shown. An unbiased judge has picked_first = picked_first_by_chance where both orders or random orders are shown; in
    lists in prior order, better passages stand first, and more is not yet bias.
    placed, moved: documents in ordered lists, and the sum of |place shown - place answered|; 0 for a judge that copies.
    """
    found: dict[str, float] = {}
    if isinstance(request, Compare) and len(firsts) == 2:
        found |= {"pairs": 1, "flips": float(firsts[0] == firsts[1])}
    if firsts:
        shown = 1 if isinstance(request, Score) else 2 if isinstance(request, Compare) else len(request.docs)
        found |= {
            "picks": len(firsts), "picked_first": sum(place == 0 for place in firsts),
            "picked_first_by_chance": len(firsts) / shown,
        }  # fmt: skip
    if isinstance(request, Order):
        places = {doc: place for place, doc in enumerate(request.docs)}
        found |= {"placed": len(value), "moved": sum(abs(places[doc] - place) for place, doc in enumerate(value))}
    return found


def of_languages(query: str, langs: Sequence[str], order: Sequence[int]) -> dict[str, float]:
    """What a reranking did for each language: `langs` of the candidates in prior order, `order` the positions afterwards.

    Of all pairs of candidates in different languages: `mixed_pairs_sw`, those with a Swahili document; `mixed_before_sw`
    and `mixed_after_sw`, those in which it stands ahead in the prior and in the new ranking. (after - before) / pairs, from
    -1 to 1, is what the language gained; it is a bias as far as the languages are equally relevant. `query_lang` in place
    of a language: the query's own, whichever it is, where candidates have it. One language: nothing.
    """
    if len(total := Counter(langs)) < 2:
        return {}
    before, after = _ahead(langs), _ahead([langs[i] for i in order])
    found: dict[str, float] = {}
    for name, lang in [*((lang, lang) for lang in sorted(total)), *([("query_lang", query)] if query in total else [])]:
        found[f"mixed_pairs_{name}"] = total[lang] * (len(langs) - total[lang])
        found[f"mixed_before_{name}"] = before[lang]
        found[f"mixed_after_{name}"] = after[lang]
    return found


def _ahead(langs: Sequence[str]) -> Counter[str]:
    """Language -> pairs in which its document stands before one in another language."""
    behind, found = Counter(langs), Counter[str]()
    for place, lang in enumerate(langs):
        found[lang] += len(langs) - place - behind[lang]
        behind[lang] -= 1
    return found
