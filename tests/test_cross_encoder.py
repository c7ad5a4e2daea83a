"""A cross-encoder gives the logits of the reference implementation, whatever queries share a batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clir_cli.errors import ConfigError, LanguageError, MissingModel
from clir_cli.rerankers.cross_encoder import CrossEncoder
from clir_cli.types import Candidates, Journal, Text

DOCS = [
    "Die Katze sitzt auf der Matte.",
    "The cat sits on the mat, and the dog barks at the moon all night long because nobody lets it in.",
    "Кошка сидит на коврике.",
    "Paka ameketi juu ya mkeka.",
    "",
    "Mvua kubwa ilinyesha jana usiku katika mji wa Nairobi na barabara nyingi zilijaa maji",
]
QUERIES = ["Where does the cat sit?", "Nairobi"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small XLM-R classifier with one label and seeded random weights."""
    folder = tmp_path_factory.mktemp("reranker")
    save_model(folder, labels=1)
    return folder


def save_model(folder: Path, labels: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForSequenceClassification

    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(
        (DOCS + QUERIES) * 4,
        trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    trained.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=trained.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=514, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        type_vocab_size=1, num_labels=labels, initializer_range=0.2,
    )  # fmt: skip
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)


def candidates(docs: list[str] = DOCS, queries: list[str] = QUERIES) -> list[Candidates]:
    texts = [Text(f"d{i}", (("en", text),)) for i, text in enumerate(docs)]
    return [Candidates(Text(f"q{i}", (("en", query),)), texts) for i, query in enumerate(queries)]


def rerank(reranker: CrossEncoder, asked: list[Candidates]) -> tuple[dict[tuple[str, str], float], Journal]:
    journal = Journal()
    run = reranker.rerank(asked, journal)
    return {(q, d): s for q, d, s in zip(run["query_id"], run["doc_id"], run["score"], strict=True)}, journal


def test_scores_are_the_logits_that_sentence_transformers_predicts(model: Path) -> None:
    import sentence_transformers

    reference = sentence_transformers.CrossEncoder(str(model), device="cpu", local_files_only=True)
    expected = reference.predict([(q, d) for q in QUERIES for d in DOCS], activation_fn=torch.nn.Identity())
    found, _ = rerank(CrossEncoder(str(model), device="cpu"), candidates())
    mine = [found[f"q{q}", f"d{d}"] for q in range(len(QUERIES)) for d in range(len(DOCS))]
    assert np.abs(np.array(mine) - expected).max() < 1e-4
    assert np.ptp(expected) > 0.1


def test_every_candidate_comes_back_once_by_falling_score(model: Path) -> None:
    run = CrossEncoder(str(model), device="cpu").rerank(candidates(), Journal())
    for _, rows in run.groupby("query_id"):
        assert sorted(rows["doc_id"]) == [f"d{i}" for i in range(len(DOCS))]
        assert rows["score"].is_monotonic_decreasing
        assert list(rows["rank"]) == list(range(1, len(DOCS) + 1))


@pytest.mark.parametrize("tokens", [16, 64, 100_000])
def test_the_batch_size_and_the_other_queries_change_nothing_but_the_last_digits(model: Path, tokens: int) -> None:
    whole, _ = rerank(CrossEncoder(str(model), device="cpu"), candidates())
    found, _ = rerank(CrossEncoder(str(model), device="cpu", batch_tokens=tokens), candidates())
    alone, _ = rerank(CrossEncoder(str(model), device="cpu"), candidates()[:1])
    assert all(found[pair] == pytest.approx(score, abs=1e-5) for pair, score in whole.items())
    assert all(whole[pair] == pytest.approx(score, abs=1e-5) for pair, score in alone.items())


def test_equal_documents_tie_and_stand_by_doc_id_descending(model: Path) -> None:
    run = CrossEncoder(str(model), device="cpu").rerank(candidates([DOCS[0]] * 3, QUERIES[:1]), Journal())
    assert list(run["doc_id"]) == ["d2", "d1", "d0"]


def test_only_the_document_is_cut_and_the_journal_counts_it(model: Path) -> None:
    reranker = CrossEncoder(str(model), max_tokens=40, device="cpu")
    long = "cat mat dog moon " * 100
    found, journal = rerank(reranker, candidates([long, long + "Nairobi", "cat"]))
    assert found["q0", "d0"] == pytest.approx(found["q0", "d1"], abs=1e-6)
    for query in ("q0", "q1"):
        row = journal.queries[query]
        assert (row["calls"], row["texts"], row["texts_cut"]) == (3, 3, 2)
        assert 80 < row["prompt_tokens"] < 120
    short, _ = rerank(reranker, candidates(["cat"]))
    assert found["q1", "d2"] == pytest.approx(short["q1", "d0"], abs=1e-5)


def test_a_query_that_leaves_no_room_for_a_document_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"query q0 has \d+ tokens and reranker\.max_tokens=16 leaves no room"):
        rerank(CrossEncoder(str(model), max_tokens=16, device="cpu"), candidates(queries=["cat " * 30]))


def test_no_candidates_are_an_empty_run(model: Path) -> None:
    assert CrossEncoder(str(model), device="cpu").rerank([], Journal()).empty


def test_a_folder_without_a_scoring_head_is_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["XLMRobertaModel"]}))
    with pytest.raises(ConfigError, match=r"is no cross-encoder: its config\.json names XLMRobertaModel"):
        rerank(CrossEncoder(str(folder), device="cpu"), candidates())


def test_a_classifier_of_several_labels_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, labels=3)
    with pytest.raises(ConfigError, match="gives 3 labels per pair"):
        rerank(CrossEncoder(str(tmp_path), device="cpu"), candidates())


def test_more_tokens_than_positions_are_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"reranker\.max_tokens=513: the model has positions for 512"):
        rerank(CrossEncoder(str(model), max_tokens=513, device="cpu"), candidates())


def test_a_model_that_is_not_here_and_a_language_it_does_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingModel, match=r"BAAI/bge-reranker-v2-m3(.|\n)*without a network"):
        rerank(CrossEncoder("BAAI/bge-reranker-v2-m3", device="cpu"), candidates())
    with pytest.raises(LanguageError, match=r"reranker\.languages=null"):
        CrossEncoder("me/english", languages=("en",)).check_languages(["de"], ["en"])


@pytest.mark.parametrize("fields", [{"max_tokens": 0}, {"trust_remote_code": True}])
def test_fields_that_do_not_go_together_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"max_tokens must be|pin the commit"):
        CrossEncoder("me/model", **fields)
