"""Where a ranking loses and what is wrong with its texts: collections with known faults, rankings checked by hand."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import pytest
import small_encoders
from conftest import Clir

from clir_cli.diagnosis import inspection, tokens
from clir_cli.diagnosis.finished import opened
from clir_cli.diagnosis.losses import Losses

Values = dict[tuple[str, str, str, str], float]  # (section, part, lang, measure)


def inspect(clir: Clir, *arguments: str) -> dict[str, Values]:
    """experiment -> its rows of the inspect.csv that the verb names last."""
    done = clir("inspect", *arguments)
    with (clir.folder / done.stdout.splitlines()[-1]).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["experiment", "section", "part", "lang", "measure", "value"]
    found: dict[str, Values] = {}
    for r in rows:
        found.setdefault(r["experiment"], {})[r["section"], r["part"], r["lang"], r["measure"]] = float(r["value"])
    return found


# Words and losses -----------------------------------------------------------------------------------------------------


def test_words_are_told_apart_without_what_surrounds_them() -> None:
    split = tokens.words_of("de")
    assert split is not None and split("«Der Fluß, 5-mal!» — O'Neill's") == ["der", "fluss", "5-mal", "o'neill's"]
    hindi = tokens.words_of("hi")
    assert hindi is not None and hindi("नदी, पानी।") == ["नदी", "पानी"], "vowel signs belong to their word"


def test_words_of_a_script_without_spaces_need_icu() -> None:
    pytest.importorskip("icu")
    split = tokens.words_of("th")
    assert split is not None and len(split("แมวนั่งบนเสื่อ")) == 4


def test_the_parts_of_a_loss_add_up() -> None:
    loss = Losses("AP", ideal=1.0, found=0.8, candidates=0.7, first_stage=0.3, final=0.45)
    assert sum(loss.parts().values()) == pytest.approx(1.0 - 0.45)
    assert dict(loss.rows())["reranker_gain"] == pytest.approx(0.15)


# A collection with known faults, ranked by hand -------------------------------------------------------------------------

GERMAN = {
    "d1": "Der Fluss ist im Frühling sehr breit und tief.",
    "d2": "Die Brücke über den Fluss wurde im letzten Jahr gebaut.",
    "d3": "Die Brücke über den Fluss wurde im letzten Jahr gebaut.",
    "d4": "",
    "d5": "The river is very wide and very deep in the spring time.",
    "d6": "Im Winter liegt auf den Bergen viel Schnee.",
}
TOPICS = {"q1": "river bridge spring", "q2": "the bergen and snow on them", "q3": "winter"}
QRELS = "q1 0 d1 1\nq1 0 d2 2\nq1 0 d6 1\nq2 0 d6 1\nq2 0 d1 0\nq3 0 d2 1\n"
RUN = {"q1": ["d5", "d1", "d3", "d2"], "q2": ["d1", "d2", "d6", "d3"]}


@pytest.fixture
def faulty(clir: Clir) -> Clir:
    (clir.folder / "docs.de.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in GERMAN.items()))
    (clir.folder / "topics.en.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in TOPICS.items()))
    (clir.folder / "qrels.txt").write_text(QRELS)
    lines = [f"{q} Q0 {d} {n} {9 - n} x\n" for q, docs in RUN.items() for n, d in enumerate(docs, 1)]
    (clir.folder / "run.trec").write_text("".join(lines))
    return clir


FAULTY = [
    "dataset=files", "dataset.label=faulty", "dataset.docs=docs.{lang}.tsv", "dataset.topics=topics.{lang}.tsv", "dataset.qrels=qrels.txt",
    "dataset.pair=en-de", "dataset.measures=[AP,RR,R@3]",
]  # fmt: skip
BY_HAND = ["retriever=run_file", "retriever.path=run.trec", "retriever.label=by_hand", "retrieve.depth=4"]


def test_faults_of_texts_and_losses_of_rankings_are_counted(faulty: Clir) -> None:
    folder = faulty.experiment(*FAULTY, *BY_HAND, "reranker=oracle", "rerank.depth=3", "rerank.tail=keep")
    (found,) = inspect(faulty, str(folder)).values()
    assert (folder / "inspect.csv").exists()
    of_docs = {m: v for (section, part, _, m), v in found.items() if (section, part) == ("texts", "docs")}
    assert (of_docs["texts"], of_docs["empty_texts"], of_docs["duplicates"]) == (6, 1, 1)
    assert of_docs["language_checked"] == 5 and of_docs["wrong_language"] == 0.2, "one document is English"

    words = {m: v for (section, _, lang, m), v in found.items() if section == "vocabulary" and lang == "en"}
    # bridge, snow, on and them stand nowhere; river, spring, the and and in the English document, bergen and winter in German
    assert words == {"different_words": 10, "in_no_document": 0.4}

    ranking = {(part, m): v for (section, part, _, m), v in found.items() if section == "ranking"}
    assert ranking["first_stage", "topics"] == 3 and ranking["first_stage", "topics_without_results"] == 1
    assert ranking["first_stage", "unjudged@10"] == 4 / 8
    assert ranking["first_stage", "recall_of_found"] == pytest.approx((2 / 3 + 1 + 0) / 3), "a mean over the topics"
    assert ranking["first_stage", "recall_of_candidates"] == pytest.approx((1 / 3 + 1 + 0) / 3), "d2 stands at rank 4"
    assert ranking["first_stage", "recall_of_candidates"] == pytest.approx(found["losses", "R@3", "", "candidates"])

    ap = {m: v for (section, part, _, m), v in found.items() if (section, part) == ("losses", "AP")}
    assert ap["ideal"] == 1
    assert ap["found"] == pytest.approx((2 / 3 + 1 + 0) / 3), "q3 found nothing"
    assert ap["candidates"] == pytest.approx(((1 + 2 / 4) / 3 + 1 + 0) / 3), "d2 stays fourth, behind what was reranked"
    assert ap["first_stage"] == pytest.approx(((1 / 2 + 2 / 4) / 3 + 1 / 3) / 3)
    assert ap["final"] == ap["candidates"], "an oracle reaches the ceiling"
    assert ap["loss_order"] == 0 and ap["loss_depth"] == pytest.approx(ap["found"] - ap["candidates"])
    assert ap["loss_retrieval"] + ap["loss_depth"] + ap["loss_order"] == pytest.approx(1 - ap["final"])
    with (folder / "metrics.csv").open(newline="") as lines:
        written = {(r["stage"], r["measure"]): float(r["value"]) for r in csv.DictReader(lines)}
    for stage in ("first_stage", "final"):
        for measure in ("AP", "RR", "R@3"):
            assert found["losses", measure, "", stage] == written[stage, measure]


def test_a_tail_that_is_cut_lowers_the_ceiling(faulty: Clir) -> None:
    kept = faulty.experiment(*FAULTY, *BY_HAND, "reranker=oracle", "rerank.depth=3")
    cut = faulty.experiment(*FAULTY, *BY_HAND, "reranker=oracle", "rerank.depth=3", "rerank.tail=cut")
    found = inspect(faulty, str(kept), str(cut))
    ceilings = [values["losses", "AP", "", "candidates"] for values in found.values()]
    assert ceilings[0] - ceilings[1] == pytest.approx(2 / 4 / 3 / 3), "d2 is lost"


def test_words_are_looked_for_in_documents_spread_over_a_large_collection(
    faulty: Clir, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = faulty.experiment(*FAULTY, *BY_HAND)
    monkeypatch.setattr(inspection, "BLOCKS", 2)
    monkeypatch.setattr(inspection, "BLOCK", 1)
    monkeypatch.chdir(faulty.folder)
    found = inspection.inspected(opened([folder]), 10)
    unseen = [row.value for row in found.rows if row.measure == "in_no_document"]
    assert unseen == [1.0], "the first and the fourth document hold no word of the queries"
    assert "AP loses 0.778: of that 57 % was not retrieved, 43 % is order" in inspection.table(found)


def test_truncation_and_fertility_are_counted_by_language(faulty: Clir, tmp_path: Path) -> None:
    model = small_encoders.bert(tmp_path / "bert")
    dense = ["retriever=dense", f"retriever.model={model}", "retriever.pooling=mean", "retriever.doc_tokens=12"]
    (found,) = inspect(faulty, str(faulty.experiment(*FAULTY, *dense))).values()
    cut = {(part.split()[0], lang): v for (section, part, lang, _), v in found.items() if section == "truncation"}
    assert cut["index", "de"] == pytest.approx(5 / 6), "all but the empty document"
    assert cut["retrieve", "en"] == 0
    fertility = {lang: v for (section, part, lang, m), v in found.items() if (section, m) == ("tokens", "fertility")}
    assert fertility["de"] > 1 and fertility["en"] > 1
    assert all(not math.isnan(value) for value in found.values())


# Translation ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("apertium") is None, reason="needs the Debian packages apertium and apertium-eng-spa")
def test_the_cost_of_translation_is_seen_beside_human_translations(clir: Clir) -> None:
    demo = ["dataset.pair=en-es", "retriever=bm25_dt"]
    machine = clir.experiment(*demo, "translator=apertium")
    alone = clir("inspect", str(machine))
    assert "make one with translator=provided" in alone.stdout
    human = clir.experiment(*demo, "translator=provided")
    found = inspect(clir, str(machine), str(human))
    by_machine, by_people = (found[f"{folder.parent.name}/{folder.name}"] for folder in (machine, human))
    lost = by_machine["losses", "AP", "", "translation_loss"]
    assert (
        lost == pytest.approx(by_people["losses", "AP", "", "final"] - by_machine["losses", "AP", "", "final"])
        and lost > 0
    )
    parts = [v for (_, of, _, m), v in by_machine.items() if of == "AP" and m.endswith("_by_translation")]
    assert sum(parts) == pytest.approx(lost)
    assert 0 < by_machine["losses", "AP", "", "translation_share"] < 1
    assert ("losses", "AP", "", "translation_loss") not in by_people
    where = ("translation", "docs, translated from es", "en")
    assert by_machine[(*where, "copied_words")] > by_people[(*where, "copied_words")] > 0, (
        "names; and words left in Spanish"
    )
    assert by_machine[(*where, "pieces")] > 100 and 0 <= by_machine[(*where, "wrong_language")] < 0.05
    unseen = [values["vocabulary", "query words", "en", "in_no_document"] for values in (by_machine, by_people)]
    assert unseen[0] > unseen[1], "machine translation knows fewer of the queries' words"
