"""What a reranking reports of its judge: order flips, picks by place, and which languages it moved up."""

from __future__ import annotations

import csv
import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Clir
from test_llm_rerankers import Judge, candidates, ranked
from test_transformers_llm import llama  # noqa: F401  fixture

from clir_cli import reranking, runs
from clir_cli.prompts.instructed import Grade, Order, Pick
from clir_cli.rerankers.bias import of_languages
from clir_cli.rerankers.listwise import Listwise
from clir_cli.rerankers.pairwise import Pairwise
from clir_cli.rerankers.pointwise import Pointwise
from clir_cli.rerankers.setwise import Setwise
from clir_cli.types import Answer, Candidates, Journal, Prompt, Text


class LikesTheFirst(Judge):
    """Prefers what stands first, whatever it says."""

    def score_labels(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[Answer]:
        return [Answer(labels[0], scores=tuple(-float(i) for i in range(len(labels)))) for _ in prompts]


class LikesSwahili(Judge):
    """Gives passages that say they are in Swahili a hundred more."""

    def worths(self, prompt: Prompt) -> dict[str, float]:
        text = prompt[-1].content.replace("worth", "worth ")
        found = super().worths(prompt)
        lines = [line for line in text.splitlines() if "worth" in line]
        return {
            label: worth + 100 * ("maneno" in line) for (label, worth), line in zip(found.items(), lines, strict=True)
        }


def counts(reranker, *queries: Candidates) -> dict[str, float]:
    journal = Journal()
    ranked(reranker, *queries, journal=journal)
    return reranking.totals(journal)


def test_a_step_has_as_many_rounds_as_its_longest_query_in_however_many_shards_its_queries_are(tmp_path: Path) -> None:
    """65 queries of 9 rounds took 18 in costs.csv, and 64 took 9: calls add up over shards, rounds do not."""
    costs = dict.fromkeys(("calls", "rounds"), 0.0)
    for query, rounds in (("short", 4), ("long", 9)):
        journal, doc = Journal(), Text("d", (("fi", "sanoja"),))
        journal.add(query, calls=rounds, rounds=rounds)
        (tmp_path / query).mkdir()
        asked = [Candidates(Text(query, (("fi", "kysymys"),)), [doc])]
        reranking.write_shard(runs.from_hits({query: [("d", 1.0)]}), asked, journal, tmp_path / query)
        costs = {name: amount + reranking.totals(journal).get(name, 0) for name, amount in costs.items()}
    joined = reranking.join_shards([tmp_path / "short", tmp_path / "long"], tmp_path)
    assert joined == {"rounds": 9} and costs == {"calls": 13, "rounds": 0}


def mixed(seed: int, n: int = 20) -> Candidates:
    """Finnish and Swahili candidates by turns, no language better than the other."""
    worths = random.Random(seed).sample(range(1, 100), n)
    docs = [
        Text(f"d{i}", (("sw", f"maneno worth {worth}") if i % 2 else ("fi", f"sanoja worth {worth}"),))
        for i, worth in enumerate(worths)
    ]
    return Candidates(Text(f"q{seed}", (("fi", "kysymys"),)), docs)


@pytest.mark.parametrize("way", ["all_pairs", "heap", "bubble", "quick_select"])
def test_a_judge_that_likes_what_it_reads_first_flips_every_pair(way: str) -> None:
    biased = counts(Pairwise(LikesTheFirst(), Pick(), sort_by=way), candidates(20))
    assert biased["pairs"] == biased["flips"] > 0
    assert biased["picked_first"] == biased["picks"] == 2 * biased["picked_first_by_chance"] == 2 * biased["pairs"]


def test_a_judge_that_knows_flips_none_and_picks_each_place_half_the_time() -> None:
    fair = counts(Pairwise(Judge(), Pick()), candidates(20), candidates(20, 1, "other"))
    assert fair["flips"] == 0 < fair["pairs"]
    assert fair["picked_first"] == fair["picked_first_by_chance"] == fair["pairs"]


def test_one_order_alone_tells_no_flips() -> None:
    single = counts(Pairwise(Judge(), Pick(), both_orders=False), candidates(20))
    assert "pairs" not in single
    assert single["picks"] == single["calls"] == 2 * single["picked_first_by_chance"]


def test_sets_in_random_orders_show_a_position_bias_as_more_first_picks_than_by_chance() -> None:
    queries = [candidates(40, i, f"q{i}") for i in range(4)]
    fair, biased = (counts(Setwise(llm, Pick(), permutations=4), *queries) for llm in (Judge(), LikesTheFirst()))
    assert fair["picked_first"] == pytest.approx(fair["picked_first_by_chance"], rel=0.15)
    assert biased["picked_first"] == biased["picks"] == biased["calls"]
    assert biased["picked_first_by_chance"] < 0.3 * biased["picks"]


def test_how_far_an_ordering_judge_moves_what_it_is_shown() -> None:
    letters = Order(labels="letters")
    copied = counts(Listwise(LikesTheFirst(), letters, answer="labels"), candidates(20))
    assert (copied["placed"], copied["moved"], copied["picked_first"], copied["picks"]) == (20, 0, 1, 1)
    turned = counts(Listwise(Judge(say=lambda right: "[4] > [3] > [2] > [1]"), Order()), candidates(4))
    assert (turned["placed"], turned["moved"], turned["picked_first"]) == (4, 3 + 1 + 1 + 3, 0)


def test_answers_that_say_nothing_are_in_no_count() -> None:
    silent = Setwise(Judge(say=lambda right: "I cannot say"), Pick(), answer="text", max_failed_answers=1.0)
    assert "picks" not in counts(silent, candidates(12))
    once = iter([False])
    hesitant = Judge(say=lambda right: right if next(once, True) else "?")
    found = counts(Setwise(hesitant, Pick(), answer="text"), candidates(12))
    assert found["picks"] == found["calls"] - 1


def test_the_language_that_a_judge_likes_gains_what_the_other_loses() -> None:
    for reranker in (
        Pointwise(LikesSwahili(), Grade()),
        Listwise(LikesSwahili(), Order(labels="letters"), answer="labels"),
    ):
        found = counts(reranker, mixed(0))
        assert found["mixed_pairs_sw"] == found["mixed_pairs_fi"] == 100
        assert (found["mixed_before_sw"], found["mixed_after_sw"]) == (45, 100)
        assert (found["mixed_before_fi"], found["mixed_after_fi"]) == (55, 0)
        assert found["mixed_after_query_lang"] == found["mixed_after_fi"]


def test_a_judge_that_knows_favours_no_language() -> None:
    found = counts(Pointwise(Judge(), Grade()), *(mixed(seed, 60) for seed in range(20)))
    assert abs(found["mixed_after_sw"] - found["mixed_before_sw"]) < 0.1 * found["mixed_pairs_sw"]
    assert not any(name.startswith("mixed") for name in counts(Pointwise(Judge(), Grade()), candidates(20)))


def test_language_counts_are_those_of_all_pairs_in_different_languages() -> None:
    draw = random.Random(3)
    for _ in range(20):
        langs = draw.choices(["sw", "fi", "yo"], k=15)
        order = draw.sample(range(15), 15)
        found = of_languages("yo", langs, order)
        across = [(a, b) for a, b in itertools.combinations(range(15), 2) if langs[a] != langs[b]]
        for lang in set(langs):
            assert found[f"mixed_pairs_{lang}"] == sum(lang in (langs[a], langs[b]) for a, b in across)
            assert found[f"mixed_before_{lang}"] == sum(langs[a] == lang for a, _ in across)
            ahead = [a if order.index(a) < order.index(b) else b for a, b in across]
            assert found[f"mixed_after_{lang}"] == sum(langs[i] == lang for i in ahead)


def test_an_early_stop_is_told_by_the_calls_that_were_not_needed() -> None:
    best_first = Candidates(
        Text("q", (("en", "question"),)), [Text(f"d{i}", (("fi", f"teksti worth {100 - i}"),)) for i in range(100)]
    )
    found = counts(Listwise(Judge(), Order(labels="letters"), answer="labels", sort_by="top_down"), best_first)
    assert found["calls"] == 6 < found["calls_at_most"] == 31


def test_a_step_keeps_what_its_judge_did_and_the_tables_keep_their_columns(clir: Clir, llama: Path) -> None:  # noqa: F811
    folder = clir.experiment(
        "reranker=pairwise", "llm=transformers", f"llm.model={llama}", "llm.context=600", "llm.device=cpu",
        "reranker.passage_tokens=20", "reranker.top=2", "rerank.depth=4", "dataset.limit_queries=2",
    )  # fmt: skip
    (record,) = [json.loads(path.read_text()) for path in clir.runs.rglob("step.json") if "/rerank/" in str(path)]
    found = record["counts"]
    assert 0 <= found["flips"] <= found["pairs"] == found["picks"] / 2 == found["calls"] / 2
    assert found["passage_tokens_allowed"] / found["texts"] == 20
    assert found["calls"] <= found["calls_at_most"]
    assert sum(n for name, n in found.items() if name.startswith("texts_") and name != "texts_cut") == found["texts"]
    with (folder / "queries.csv").open(encoding="utf-8") as file:
        assert csv.DictReader(file).fieldnames == [
            "experiment", "query_id", "calls", "rounds", "prompt_tokens", "output_tokens", "seconds", "repaired", "failed", "cut_share"
        ]  # fmt: skip
