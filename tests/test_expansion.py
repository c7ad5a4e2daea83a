"""Queries are written for documents before they are indexed, once, and found by those who ask in another language."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_encoders
import torch
from conftest import STATIC, needs_shared

from clir_cli import runs
from clir_cli.compose import cells
from clir_cli.config import built
from clir_cli.errors import ConfigError, DataError
from clir_cli.launchers.serial import execute
from clir_cli.plan import planned
from clir_cli.retrievers.dense import Dense
from clir_cli.retrievers.expanded import Expanded
from clir_cli.stages import Stages
from clir_cli.store import At, Store
from clir_cli.text.expansion import LLMQueries, ProvidedQueries, Seq2SeqQueries, appended
from clir_cli.types import Answer, Text

TEXTS = [
    Text("a", (("de", "Die Katze sitzt auf der Matte."),)),
    Text("b", (("de", "Mvua kubwa ilinyesha jana usiku katika mji wa Nairobi. " * 20),)),
    Text("c", (("de", ""),)),
]


# Writing queries ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mT5, small, with seeded random weights."""
    from transformers import MT5Config, MT5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("mt5")
    tokenizer = small_encoders.save_tokenizer(folder, "$A </s>")
    torch.manual_seed(0)
    config = MT5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, initializer_factor=3.0, tie_word_embeddings=False,
    )  # fmt: skip
    MT5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def writer(mt5: Path, **more: Any) -> Seq2SeqQueries:
    return Seq2SeqQueries(
        **{"model": str(mt5), "n": 3, "max_new_tokens": 12, "max_tokens": 4096, "device": "cpu"} | more
    )


def test_sampled_queries_are_the_same_every_time_and_others_with_another_seed(mt5: Path) -> None:
    first, counts = writer(mt5).write(TEXTS, ["sw", "en"])
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again, _ = writer(mt5).write(TEXTS, ["sw", "en"])
    assert first == again and torch.equal(torch.get_rng_state(), state), "whatever is drawn before or after"
    assert first != writer(mt5, seed=1).write(TEXTS, ["sw", "en"])[0]
    assert [set(of) for of in first] == [{"sw", "en"}] * 3
    assert counts["written"] + counts["lacking"] == 3 * 2 * 3
    assert (counts["texts_de"], counts["cut_de"]) == (3, 0)


def test_a_long_text_is_cut_and_counted_by_language(mt5: Path) -> None:
    _, counts = writer(mt5, max_tokens=150).write(TEXTS, ["en"])
    assert (counts["texts_de"], counts["cut_de"]) == (3, 1)


def test_a_prompt_that_would_not_show_the_text_is_refused(mt5: Path) -> None:
    with pytest.raises(ValueError, match="prompt must hold"):
        writer(mt5, prompt="Generate a {lang} question")
    with pytest.raises(ValueError, match="prompt may hold lang, text in braces only"):
        writer(mt5, prompt="Generate a {language} question: {text}")


@dataclass(frozen=True)
class Echo:
    """A language model that answers with numbered lines; its tokens are words."""

    context: int = 4096

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        return [" ".join(text.split()[:tokens]) for text in texts]

    def generate(self, prompts: Any, max_tokens: int) -> list[Answer]:
        return [Answer(f"1. {prompt[0].content.split()[-1]}?\n\n2) what\n- more\nand more") for prompt in prompts]


def test_a_language_model_s_lines_are_queries() -> None:
    found, counts = LLMQueries(llm=Echo(), n=3, text_tokens=50).write(TEXTS[:2], ["sw"])
    assert found[0] == {"sw": ["Matte.?", "what", "more"]}
    assert (counts["calls"], counts["cut_de"], counts["written"]) == (2, 1, 6)


def test_queries_stand_behind_the_text_each_in_its_language() -> None:
    text = Text("d", (("de", "Ebbe"), ("en", "tide")))
    assert appended(text, {"en": ["what is a tide?", "tides"], "sw": ["bahari"], "fi": []}).parts == (
        ("de", "Ebbe"), ("en", "tide\nwhat is a tide?\ntides"), ("sw", "bahari"),
    )  # fmt: skip


# Files ----------------------------------------------------------------------------------------------------------------


def test_own_files_and_the_released_ones_are_read(tmp_path: Path) -> None:
    rows = [
        {"doc_id": "d1", "queries": {"sw": ["a", "b", "c"], "en": ["x"]}},
        {"docid": "d2", "title": "t", "generated_queries": {"sw": []}},
    ]
    with gzip.open(tmp_path / "q.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    own = ProvidedQueries(file=str(tmp_path / "q.jsonl.gz"), n=2)
    assert list(own.read(["sw"])) == [("d1", {"sw": ["a", "b"]}), ("d2", {"sw": []})]


@pytest.mark.parametrize("line", ['{"doc_id": "d1"}', '{"queries": {}}', '{"doc_id": "d", "queries": {"sw": "a"}}'])
def test_a_line_without_id_or_queries_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "q.jsonl").write_text(f'{{"doc_id": "d0", "queries": {{}}}}\n{line}\n')
    with pytest.raises(DataError, match=r"q.jsonl:2: "):
        list(ProvidedQueries(file=str(tmp_path / "q.jsonl")).read(["sw"]))


# Vectors --------------------------------------------------------------------------------------------------------------


@needs_shared(STATIC)
@pytest.mark.parametrize("alpha", [None, 0.2])
def test_a_document_s_vector_moves_towards_its_queries(alpha: float | None) -> None:
    encoder = Dense(str(STATIC), device="cpu")
    queries = {"a": {"en": ["where is the cat?", "the mat"], "sw": ["paka"]}}
    found, counts = Expanded.over(encoder, queries, alpha).encode(TEXTS[:2], "document")
    own, _ = encoder.encode(TEXTS[:2], "document")
    asked = [Text("q", (("en", q),)) for of in queries["a"].values() for q in of]
    vectors, _ = encoder.encode(asked, "query")
    mixed = (own[0] + vectors.sum(0)) / 4 if alpha is None else (1 - alpha) * own[0] + alpha * vectors.sum(0)
    assert found[0] == pytest.approx(mixed / np.linalg.norm(mixed), abs=1e-5)
    assert found[1] == pytest.approx(own[1], abs=1e-6), "a document without queries stays where it is"
    assert counts["queries_encoded"] == 3


# Experiments ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("expansion") / "runs"


@pytest.fixture(scope="module")
def file(root: Path) -> str:
    """English queries for every German document of the demo."""
    dataset = built(cells([])[0].plain).dataset
    english = {doc.aligned: doc.fields["title"] for doc in dataset.read_docs("en")}
    path = root.parent / "queries.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for doc in dataset.read_docs("de"):
            queries = {"en": [f"what is {english[doc.aligned]}?", english[doc.aligned]], "fr": ["marée"]}
            out.write(json.dumps({"doc_id": doc.doc_id, "queries": queries}) + "\n")
    return str(path)


def run(root: Path, *overrides: str) -> Path:
    (outcome,) = execute(planned(cells(overrides), Store(root)))
    if outcome.error is not None:
        raise outcome.error
    assert outcome.folder is not None
    return outcome.folder


def steps(root: Path, *overrides: str) -> dict[str, str]:
    """stage -> promise."""
    store = Store(root)
    (item,) = planned(cells(overrides), store).cells
    assert item.experiment is not None, item.error
    return {step.stage: store.promise(step) for step in item.experiment.steps}


def test_bm25_finds_what_was_written_in_the_language_of_the_query(root: Path, file: str) -> None:
    def found(*more: str) -> int:
        return len(runs.read_trec(run(root, "retriever=bm25", *more) / "run.trec"))

    assert found("experiment=xqg_file", f"retrieve.expansion.file={file}") > 1.5 * found()
    assert found("experiment=xqg_file", f"retrieve.expansion.file={file}", "retrieve.expansion.langs=[fr]") == found()


def test_passages_have_their_documents_queries(root: Path, file: str) -> None:
    cut = "retrieve.passages={unit:sentences,window:2}"
    overrides = ["retriever=bm25", "experiment=xqg_file", f"retrieve.expansion.file={file}", cut]
    run(root, *overrides)
    stages = Stages(Store(root))
    view = stages._indexed(built(cells(overrides)[0].plain))
    texts = list(view.read(At(stages.store, root), 0, 5))
    assert [text.id.rpartition("#")[2] for text in texts][:2] == ["0", "1"]
    assert all([lang for lang, _ in text.parts] == ["de", "en"] for text in texts)
    assert texts[0].parts[1] == texts[1].parts[1] and texts[0].parts[0] != texts[1].parts[0]


@needs_shared(STATIC)
def test_another_aggregate_writes_nothing_again(root: Path, file: str) -> None:
    usual = ["experiment=xqg_file", f"retrieve.expansion.file={file}", "retriever=dense", f"retriever.model={STATIC}"]
    keys = [steps(root, *usual, f"retrieve.expansion.aggregate={a}") for a in ("concat_text", "mean", "weighted")]
    assert len({k["expand"] for k in keys}) == 1 and len({k["index"] for k in keys}) == 3
    more = steps(root, *usual, "retrieve.expansion.aggregate=weighted", "retrieve.expansion.alpha=0.2")
    assert more["expand"] == keys[0]["expand"] and more["index"] != keys[2]["index"]
    assert "expand" not in steps(root, *usual[2:])
    folder = run(root, *usual, "retrieve.expansion.aggregate=mean")
    assert (folder / "run.trec").stat().st_size


def test_queries_are_written_in_shards_by_the_seq2seq_model(root: Path, mt5: Path) -> None:
    overrides = [
        "experiment=xqg", f"retrieve.expansion.model={mt5}", "retrieve.expansion.aggregate=concat_text", "retriever=bm25",
        "+retrieve.expansion.max_tokens=64", "dataset.sample_docs=1", "retrieve.expansion.max_new_tokens=6",
        "+retrieve.expansion.device=cpu", "retrieve.expansion.n=2",
    ]  # fmt: skip
    run(root, *overrides)
    store = Store(root)
    (item,) = planned(cells(overrides), store).cells
    assert item.experiment is not None
    (step,) = [s for s in item.experiment.steps if s.stage == "expand"]
    counts = store.record(step)["counts"]
    assert (
        counts["written"] + counts["lacking"] == 2 * counts["documents"] and counts["texts_de"] == counts["documents"]
    )
    assert step.work == "write 2 queries in en for each text"


def test_vectors_cannot_be_combined_where_there_are_none(root: Path, file: str) -> None:
    overrides = ["retriever=bm25", "experiment=xqg_file", f"retrieve.expansion.file={file}"]
    (item,) = planned(cells([*overrides, "retrieve.expansion.aggregate=mean"]), Store(root)).cells
    assert isinstance(item.error, ConfigError) and "BM25 does not keep one vector per text" in str(item.error)


def test_a_document_without_queries_is_refused_or_counted(root: Path, file: str, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(Path(file).read_text().splitlines(keepends=True)[1:]))
    overrides = ["retriever=bm25", "experiment=xqg_file", f"retrieve.expansion.file={fewer}"]
    with pytest.raises(DataError, match="has no queries for 'de-"):
        run(root, *overrides)
    run(root, *overrides, "retrieve.expansion.missing=count")


def test_an_expansion_is_known_by_what_it_writes(mt5: Path) -> None:
    assert replace(writer(mt5), aggregate="mean").combination == {"aggregate": "mean"}
    assert replace(writer(mt5), aggregate="weighted").combination == {"aggregate": "weighted", "alpha": 0.01}
