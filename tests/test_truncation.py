"""What a model does not read of a text is counted by language, and the run says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from clir_cli.compose import cells
from clir_cli.launchers.serial import execute
from clir_cli.plan import planned
from clir_cli.store import Store
from clir_cli.text import truncation


def test_cut_texts_are_counted_by_language() -> None:
    counts = truncation.by_language([("th", True), ("th", False), ("de", False), ("de+en", True)])
    assert counts == {"texts_th": 2, "cut_th": 1, "texts_de": 1, "cut_de": 0, "texts_de+en": 1, "cut_de+en": 1}
    assert truncation.shares({**counts, "texts_cut": 7, "texts": 4}) == {"de": 0.0, "de+en": 1.0, "th": 0.5}


def test_a_language_of_which_something_was_cut_gets_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"texts_th": 25, "cut_th": 3, "texts_de": 9, "cut_de": 0, "texts_sw": 999, "cut_sw": 1}
    truncation.warn("labse", "documents", counts, 256)
    assert capsys.readouterr().err.splitlines() == [
        "labse: less than 1 % of the Swahili documents are longer than 256 tokens and were cut",
        "labse: 12 % of the Thai documents are longer than 256 tokens and were cut",
    ]


def test_an_index_and_a_search_say_what_the_encoder_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [
        "retriever=minilm_en", "retrieve.doc=en", "retriever.doc_tokens=64", "retriever.query_tokens=3",
        "retriever.device=cpu", "dataset.limit_queries=3",
    ]  # fmt: skip
    store = Store(tmp_path)
    (outcome,) = execute(planned(cells(overrides), store))
    assert outcome.error is None and outcome.cell.experiment is not None
    said = capsys.readouterr().err
    assert "of the English documents are longer than 64 tokens and were cut" in said
    assert "of the English queries are longer than 3 tokens and were cut" in said
    (index,) = [step for step in outcome.cell.experiment.steps if step.stage == "index"]
    counts = store.record(index)["counts"]
    assert counts["texts_en"] == counts["texts"] == 60 and 0 < counts["cut_en"] == counts["cut"] < 60
