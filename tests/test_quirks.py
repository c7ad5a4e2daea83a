"""Published habits that change numbers: each can be switched on alone, and changes exactly what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Clir
from judge_server import JudgeServer, serving
from test_llm_rerankers import Judge, candidates, ideal, ranked

from clir_cli import compose, config, reranking, runs
from clir_cli.experiment import read_rows
from clir_cli.fingerprints import Fingerprints
from clir_cli.prompts.instructed import Order, Pick
from clir_cli.rerankers.listwise import Listwise, read_digits
from clir_cli.rerankers.pairwise import Pairwise
from clir_cli.rerankers.setwise import Setwise
from clir_cli.retrievers.hybrid import Hybrid
from clir_cli.steps import identity
from clir_cli.store import read_lists
from clir_cli.text import translation
from clir_cli.types import Candidates, Journal, Prompt, Run, Text

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


# One token, and nothing else


def test_one_token_is_a_label_or_a_tie() -> None:
    query, journal = candidates(4), Journal()
    quirk = QUIRKS["written_pairs"]["reranker"]
    for said, moved in (("B", True), (" b", True), ("B.", False), ("Passage", False), ("", False)):
        llm = Judge(say=lambda right, said=said: said if right == "B" else said.replace("B", "A").replace("b", "a"))
        order = ranked(Pairwise(llm, Pick(), sort_by="bubble", **quirk), query, journal=journal)["q"]
        assert (order == ideal(query)) is moved, said
        assert moved or order == [doc.id for doc in query.docs]
    assert journal.queries["q"]["failed"] > 0, "ties of answers without a label are counted"
    usual = Pairwise(Judge(say=lambda right: f"{right}."), Pick(), sort_by="bubble", answer="text")
    assert ranked(usual, query)["q"] == ideal(query)


def test_a_set_s_first_passage_wins_where_the_token_is_no_label() -> None:
    query = candidates(30)
    reranker = Setwise(
        Judge(say=lambda right: "The"), Pick(), answer="token", **QUIRKS["first_wins_parsing"]["reranker"]
    )
    assert ranked(reranker, query)["q"] == [doc.id for doc in query.docs]


# How texts reach the second stage, and what becomes of its scores


def test_a_text_with_a_quotation_mark_is_shown_as_csv_quotes_it() -> None:
    """As pandas writes a TSV that is then read by splitting at tabs."""
    shown = {
        "plain, with 'commas'; and more": "plain, with 'commas'; and more",
        'He said "no" twice': '"He said ""no"" twice"',
        '"': '""""',
        'ends with "it"': '"ends with ""it"""',
        "«guillemets» and “curls”": "«guillemets» and “curls”",
    }
    for text, quoted in shown.items():
        assert reranking.csv_quoted(Text("d", (("en", text),))).text == quoted
    both = reranking.csv_quoted(Text("d", (("de", 'ein "Wort"'), ("en", "a word"))))
    assert both.parts == (("de", '"ein ""Wort"""'), ("en", "a word"))


def run_of(*scored: tuple[str, float]) -> Run:
    return runs.from_hits({"q": list(scored)})


def order_of(run: Run) -> list[str]:
    return list(run["doc_id"])


def test_a_place_keeps_its_score_and_equal_ones_are_sorted_by_doc_id(tmp_path: Path) -> None:
    """What trec_eval makes of a run that rank_llm wrote: the model's order is lost where the first stage had ties."""
    first = run_of(("a", 0.5), ("b", 0.25), ("c", 0.25), ("d", 0.25), ("e", 0.125))
    runs.write_trec(first, tmp_path / "run.trec")
    prior = runs.read_made(tmp_path / "run.trec")
    ordered = run_of(("e", 5), ("b", 4), ("a", 3), ("d", 2), ("c", 1))
    assert order_of(runs.in_slots(ordered, prior)) == ["e", "d", "b", "a", "c"]
    assert order_of(runs.in_slots(run_of(("c", 3), ("b", 2), ("a", 1)), prior)) == ["c", "b", "a"], "d, e were dropped"
    without_ties = run_of(("a", 5.0), ("b", 4.0), ("c", 3.0), ("d", 2.0), ("e", 1.0))
    assert order_of(runs.in_slots(ordered, without_ties)) == order_of(ordered)


def test_six_decimals_tie_documents_that_reciprocal_ranks_tell_apart() -> None:
    """1/68 + 1/74 = .02821940 and 1/63 + 1/81 = .02821869 are both .028219, and trec_eval sorts by falling doc_id."""
    places = ({8: "a", 3: "b"}, {14: "a", 21: "b"})
    lists = [
        run_of(*((place.get(rank, f"{name}{rank}"), -float(rank)) for rank in range(1, 25)))
        for name, place in zip("xy", places, strict=True)
    ]
    whole, cut = (Hybrid(("x", "y"), decimals=decimals).fuse(lists, "doc_id") for decimals in (None, 6))
    assert order_of(whole)[:2] == ["a", "b"] and order_of(cut)[:2] == ["b", "a"]
    assert list(cut["score"][:2]) == [0.028219] * 2
    assert identity(Hybrid(("x", "y")), Fingerprints(Path("unused"))) == identity(
        Hybrid(("x", "y"), decimals=None), Fingerprints(Path("unused"))
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Clir:
    """Six documents, one of them without text and two of them with quotation marks, as one retriever ranked them."""
    clir = Clir(tmp_path_factory.mktemp("quirks"))
    texts = {"d1": 'a "b" c', "d2": "", "d3": "plain", "d4": 'what "he" said', "d5": "more", "d6": "last"}
    (clir.folder / "docs.jsonl").write_text(
        "".join(json.dumps({"doc_id": d, "text": text}) + "\n" for d, text in texts.items())
    )
    (clir.folder / "topics.tsv").write_text("query_id\ttext\nq\ta question\n")
    (clir.folder / "qrels.txt").write_text("q 0 d3 2\nq 0 d4 1\nq 0 d2 0\nq 0 d6 1\n")
    scores = {"d1": 0.5, "d2": 0.5, "d3": 0.25, "d4": 0.25, "d5": 0.25, "d6": 0.125}
    (clir.folder / "first.trec").write_text(
        "".join(f"q Q0 {d} {rank} {score} x\n" for rank, (d, score) in enumerate(scores.items(), 1))
    )
    return clir


ASKED = [
    "dataset=files", "dataset.docs=docs.jsonl", "dataset.topics=topics.tsv", "dataset.qrels=qrels.txt",
    "dataset.query_lang=en", "dataset.doc_lang=en", "dataset.measures=[AP]", "retriever=run_file",
    "retriever.path=first.trec", "retriever.order=any",
]  # fmt: skip


def final(folder: Path) -> list[str]:
    return read_lists(folder / "run.trec")["q"]


def test_documents_without_text_leave_the_ranking_and_are_not_its_tail_either(small: Clir) -> None:
    """The first stage, by score and doc_id, is d2 d1 d5 d4 d3 d6; the oracle puts what is relevant first."""
    kept, dropped, deep = (
        small.experiment(*ASKED, "reranker=oracle", f"rerank.depth={depth}", *more)
        for depth, more in ((4, []), (4, ["rerank.empty=drop"]), (100, ["rerank.empty=drop"]))
    )
    assert final(kept) == ["d4", "d2", "d1", "d5", "d3", "d6"]
    assert final(dropped) == ["d4", "d1", "d5", "d3", "d6"], "three were ordered, the others are the tail"
    assert final(deep) == ["d3", "d4", "d6", "d1", "d5"] and len({kept.name, dropped.name, deep.name}) == 3


def test_slot_scores_undo_a_reranker_where_the_first_stage_had_ties(small: Clir) -> None:
    own, prior = (small.experiment(*ASKED, "reranker=oracle", *more) for more in ([], ["rerank.scores=prior"]))
    assert final(own) == ["d3", "d4", "d6", "d2", "d1", "d5"]
    assert final(prior) == ["d4", "d3", "d6", "d2", "d1", "d5"], "the first two had one score, and so they have"
    assert "scores: (absent) -> prior" in small("why", str(own), str(prior)).stdout


def test_the_judge_reads_the_quotation_marks_of_a_csv_file(small: Clir) -> None:
    """Both run beside each other; `clir diff` measures what the marks do."""
    judge = JudgeServer({"a question": {}})
    with serving(judge) as served:
        asked = [
            *ASKED, "reranker=pairwise", "llm=openai", "llm.model=judge", f"llm.base_url={served.url}",
            "llm.api_key_env=JUDGE_KEY", "llm.context=4000", "reranker.answer=text", "rerank.empty=drop",
        ]  # fmt: skip
        env = {"JUDGE_KEY": "sk-none", "NO_PROXY": "127.0.0.1"}
        folders = small("run", "--quiet", "-m", *asked, "quirk=null,csv_quotes", env=env).stdout.split()
    said = ["\n".join(turn["content"] for turn in body["messages"]) for body in judge.requests]
    shown = {text for prompt in said for text in re.findall(r"^\[[AB]\] (.*)$", prompt, re.MULTILINE)}
    assert {'a "b" c', 'what "he" said', '"a ""b"" c"', '"what ""he"" said"'} <= shown
    assert {"plain", "more", "last"} <= shown and "" not in shown
    assert "pairwise" in Path(folders[0]).name and "quirk=csv_quotes" in (Path(folders[1]) / "metrics.csv").read_text()
    assert "quotes" in small("diff", *folders).stdout


def test_the_judge_is_shown_no_title_and_told_no_language(small: Clir) -> None:
    (small.folder / "titled.jsonl").write_text(
        "".join(json.dumps({"doc_id": d, "title": f"Title of {d}", "text": f"text {d}"}) + "\n" for d in ("d3", "d4"))
    )
    (small.folder / "two.trec").write_text("q Q0 d3 1 2 x\nq Q0 d4 2 1 x\n")
    asked = [word for word in ASKED if not word.startswith(("dataset.docs=", "retriever.path="))]
    judge = JudgeServer({"a question": {}})
    with serving(judge) as served:
        asked += [
            "dataset.docs=titled.jsonl", "retriever.path=two.trec", "reranker=pairwise", "reranker.answer=text",
            "llm=openai", "llm.model=judge", f"llm.base_url={served.url}", "llm.api_key_env=JUDGE_KEY", "llm.context=4000",
        ]  # fmt: skip
        env = {"JUDGE_KEY": "sk-none", "NO_PROXY": "127.0.0.1"}
        small("run", "--quiet", "-m", *asked, "quirk=null,text_only,no_language_note", env=env)
    said = {"\n".join(turn["content"] for turn in body["messages"]) for body in judge.requests}
    assert all("text d3" in prompt for prompt in said)
    shown = sorted(("Title of d3" in prompt, "English" in prompt) for prompt in said)
    assert shown == [*[(False, True)] * 2, *[(True, False)] * 2, *[(True, True)] * 2], "each asks in both orders"


def test_average_precision_ends_at_rank_100_and_counts_topics_without_relevant_documents(clir: Clir) -> None:
    """One of two relevant documents is first, the other has rank 110; the second topic has none."""
    ids = [f"d{rank}" for rank in range(1, 121)]
    (clir.folder / "docs.tsv").write_text("".join(f"{d}\ta text\n" for d in ids))
    (clir.folder / "topics.tsv").write_text("q\ta question\nempty\tanother\n")
    (clir.folder / "qrels.txt").write_text("q 0 d1 1\nq 0 d110 1\nempty 0 d2 0\n")
    lines = [f"{q} Q0 {d} {rank} {-rank} x\n" for q in ("q", "empty") for rank, d in enumerate(ids, 1)]
    (clir.folder / "first.trec").write_text("".join(lines))
    asked = [f"dataset.{part}={part}.tsv" for part in ("docs", "topics")] + ["dataset.qrels=qrels.txt"]
    asked += ["dataset.header=false", "dataset.query_lang=en", "dataset.doc_lang=en", "retriever=run_file"]
    sweep = ["experiment=zuo2025/corrected", "dataset=files", *asked, "retriever.path=first.trec"]
    folders = clir("run", "--quiet", "-m", *sweep, "quirk=null,top_100,judged_topics").stdout.split()
    rows = [read_rows(Path(folder) / "metrics.csv") for folder in folders]
    found = [float(row["value"]) for of in rows for row in of if (row["stage"], row["measure"]) == ("final", "AP")]
    assert found == pytest.approx([(1 + 2 / 110) / 2, 1 / 2, (1 + 2 / 110) / 4])
    refused = clir("diff", folders[0], folders[2], code=2).stderr
    assert "they differ in evaluate.topics: relevant -> judged; quirk: - -> judged_topics" in refused


# Sentences


def test_without_punkt_every_mark_before_white_space_ends_a_sentence_and_no_line_does() -> None:
    text = "Dr. Meyer kam am 3. Mai… Er blieb!\nUnd ging  wieder\n\nGanz."
    by_rules, by_marks = translation.split([text])[0], translation.split([text], "marks")[0]
    assert by_rules == ["Dr. Meyer kam am 3. Mai…", "Er blieb!", "Und ging  wieder", "Ganz."]
    assert by_marks == ["Dr.", "Meyer kam am 3.", "Mai…", "Er blieb!", "Und ging  wieder\n\nGanz."]
    assert translation.split(["", "  \n"], "marks") == [[], []]
    with pytest.raises(ValueError, match="splitter must be rules, marks or wtpsplit"):
        translation.Pieced(splitter="punkt")
