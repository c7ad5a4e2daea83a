"""Published habits that change numbers: each can be switched on alone, and changes exactly what it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_llm_rerankers import Judge, candidates, ideal, ranked

from clir_cli import compose, config
from clir_cli.fingerprints import Fingerprints
from clir_cli.prompts.instructed import Order, Pick
from clir_cli.rerankers.listwise import Listwise, read_digits
from clir_cli.rerankers.pairwise import Pairwise
from clir_cli.rerankers.setwise import Setwise
from clir_cli.steps import identity
from clir_cli.types import Candidates, Journal, Prompt, Text

QUIRKS = {name: yaml.safe_load(path.read_text("utf-8")) for name, path in compose.choices("quirk").items()}
BESIDE = {  # what the command in its first line chooses beside the quirk
    name: [word for word in compose.description(path)[0].split()[2:] if not word.startswith(("-m", "quirk="))]
    for name, path in compose.choices("quirk").items()
}


def flat(node: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {name: node}
    return {k: v for key, value in node.items() for k, v in flat(value, f"{name}.{key}".strip(".")).items()}


@pytest.mark.parametrize("name", QUIRKS)
def test_a_quirk_changes_its_own_values_and_nothing_else(name: str) -> None:
    corrected, quirky = (flat(compose.cells([*BESIDE[name], *more])[0].plain) for more in ([], [f"quirk={name}"]))
    changed = {
        k for k in corrected.keys() | quirky.keys() if corrected.get(k) != quirky.get(k) and not k.startswith("names.")
    }
    own = flat(QUIRKS[name])
    assert changed <= {*own, *(f"reranker.{key}" for key in own), *(k for k in changed if k.startswith("labels."))}
    assert all(quirky[key] == value for key, value in own.items() if key in quirky)
    assert any(quirky[k] != corrected.get(k) for k in own.keys() & quirky.keys() or changed)


@pytest.mark.parametrize("name", QUIRKS)
def test_with_and_without_it_stand_side_by_side_in_one_sweep(name: str) -> None:
    without, with_it = compose.cells([*BESIDE[name], f"quirk=null,{name}"], multirun=True)
    assert vars(config.built(without.plain)) | {"plain": 0} != vars(config.built(with_it.plain)) | {"plain": 0}
    assert (without.plain["names"]["quirk"], with_it.plain["names"]["quirk"]) == ("none", name)


def test_an_option_at_its_corrected_value_is_in_no_identity_and_a_quirk_is(tmp_path: Path) -> None:
    def said(*overrides: str) -> str:
        (cell,) = compose.cells(["reranker=rank_gpt", *overrides])
        return str(identity(config.built(cell.plain).reranker, Fingerprints(tmp_path)))

    assert not any(option in said() for option in ("passage_words", "parsing", "rest"))
    assert said() != said("quirk=digits_parsing") != said("quirk=words_truncation") != said("quirk=context_4096")


CHATTER = "I ranked the 20 passages. The top 3 are: [7] > [2]"


def test_with_digits_every_number_of_the_chatter_is_a_passage() -> None:
    assert read_digits(CHATTER, 20).order[:4] == [19, 2, 6, 1]
    assert Order().read(CHATTER, 20).order[:2] == [6, 1]
    assert read_digits("10.3.7.12:8000 after 3 retries", 20).order[:4] == [9, 2, 6, 11]
    assert read_digits("I cannot do that.", 3) == ([0, 1, 2], "partial")
    assert read_digits("² [２] > [١]", 2) == ([1, 0], "ok")
    query, journal = candidates(12), Journal()
    refusing = Listwise(Judge(say=lambda right: "I cannot do that."), Order(), parsing="digits")
    assert ranked(refusing, query, journal=journal)["q"] == [doc.id for doc in query.docs]
    assert (journal.queries["q"]["calls"], journal.queries["q"].get("failed", 0)) == (1, 0)
    with pytest.raises(ValueError, match="labels are numbers"):
        Listwise(Judge(), Order(labels="letters"), parsing="digits")


def test_the_first_passage_wins_where_an_answer_says_nothing() -> None:
    query, journal = candidates(30), Journal()
    strict = Setwise(Judge(say=lambda right: "none of them"), Pick(), answer="text")
    lenient = Setwise(
        Judge(say=lambda right: "none of them"), Pick(), answer="text", **QUIRKS["first_wins_parsing"]["reranker"]
    )
    assert ranked(lenient, query, journal=journal)["q"] == [doc.id for doc in query.docs]
    assert journal.queries["q"]["failed"] == journal.queries["q"]["calls"]
    with pytest.raises(Exception, match="no usable answer"):
        ranked(strict, query)


@pytest.mark.parametrize("way", ["bubble", "quick_select", "heap", "all_pairs"])
def test_only_the_first_ten_move_and_the_rest_is_the_first_stage(way: Any) -> None:
    query = candidates(40)
    prior = [doc.id for doc in query.docs]
    quirk = ranked(Pairwise(Judge(), Pick(), sort_by=way, **QUIRKS["k10_pairwise"]["reranker"]), query)["q"]
    usual = ranked(Pairwise(Judge(), Pick(), sort_by=way), query)["q"]
    assert quirk[:10] == usual[:10] == ideal(query)[:10]
    assert quirk[10:] == [doc for doc in prior if doc not in quirk[:10]]
    assert (usual[10:] == quirk[10:]) == (way == "heap")  # which never knew more


class Letters(Judge):
    """An LLM whose tokens are characters, blanks too."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        return [text[:tokens] for text in texts]


def texts(prompts: Sequence[Prompt]) -> list[str]:
    return [
        line.partition("] ")[2] for line in prompts[0][-1].content.splitlines() if line.startswith("[") and "]" in line
    ]


def shown_of(passage: str, words: int | None, context: int) -> tuple[list[str], dict[str, float]]:
    """How four passages stand in the prompt, and the query's counts."""
    llm, journal = Letters(context=context, say=lambda right: "[1] > [2] > [3] > [4]"), Journal()
    docs = [Text(f"d{i}", (("en", passage),)) for i in range(4)]
    reranker = Listwise(llm, Order(tell_languages=False), window=4, step=2, query_tokens=20, passage_words=words)
    reranker.rerank([Candidates(Text("q", (("en", "query"),)), docs)], journal)
    return texts(llm.prompts), journal.queries["q"]


def test_words_are_cut_at_their_number_and_shrink_until_the_prompt_fits() -> None:
    passage = " ".join(f"w{i}" for i in range(500))
    shown, found = shown_of(passage, 300, 100_000)
    assert shown == [" ".join(passage.split()[:300])] * 4
    assert (found["texts_cut"], found["texts_shrunk"], found["texts_emptied"]) == (4, 0, 0)
    shown, found = shown_of(passage, 300, 2000)
    assert 30 < len(shown[0].split()) < 300 and passage.startswith(shown[0])
    assert (found["texts_shrunk"], found["texts_emptied"]) == (4, 0)
    assert "passage_tokens_allowed" not in found


def test_nothing_is_left_of_text_without_blanks_that_does_not_fit_but_its_tokens_would_be() -> None:
    thai = "รัฐบาลประกาศมาตรการใหม่เพื่อช่วยเหลือเกษตรกร" * 20
    shown, found = shown_of(thai, 300, 2000)
    assert shown == [""] * 4
    assert found["texts_emptied"] == 4
    shown, found = shown_of(thai, None, 2000)
    assert all(len(text) > 100 for text in shown)
    assert found["passage_tokens_allowed"] / found["texts"] == len(shown[0])


def test_words_and_tokens_are_not_cut_together() -> None:
    with pytest.raises(ValueError, match="one of them"):
        Listwise(Judge(), Order(), passage_tokens=100, passage_words=300)


def test_a_context_of_4096_leaves_less_for_each_passage() -> None:
    cut, whole = (Listwise(Judge(context=context), Order()).budget() for context in (4096, 128_000))
    assert 100 < cut < 200 < whole
