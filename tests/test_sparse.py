"""Learned sparse retrieval has the weights of the reference implementations and ranks by their exact inner product."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clir_cli.errors import ConfigError, DataError, LanguageError, MissingModel
from clir_cli.models import bge_m3
from clir_cli.retrievers.sparse import BGEM3Sparse, LearnedSparse, Splade
from clir_cli.search import inverted
from clir_cli.types import Run, Text

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [
    "Die Katze sitzt auf der Matte.",
    "the cat sat on the mat and the dog barks at the moon all night long because nobody lets it in",
    "Кошка сидит на коврике.",
    "猫が座っている",
    "",
    "cat dog moon",
    "Paka ameketi juu ya mkeka, mvua kubwa ilinyesha jana usiku",
]


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with a language modelling head, as SPLADE's models are: a plain transformers folder."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    folder = tmp_path_factory.mktemp("splade")
    words = sorted({word for text in TEXTS for word in text.lower().replace(".", " ").replace(",", " ").split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small XLM-R with the two heads that BGE-M3's folder has beside it, all with seeded random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    folder = tmp_path_factory.mktemp("m3")
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(
        TEXTS[:3] * 4,  # 猫 and others are unknown tokens
        trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    trained.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=trained.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        type_vocab_size=1, initializer_range=0.5,
    )  # fmt: skip
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    torch.save(torch.nn.Linear(32, 1).state_dict(), folder / "sparse_linear.pt")
    torch.save(torch.nn.Linear(32, 16).state_dict(), folder / "colbert_linear.pt")
    return folder


def texts(prefix: str, lang: str = "en") -> list[Text]:
    return [Text(f"{prefix}{i}", ((lang, text),)) for i, text in enumerate(TEXTS)]


def weights(retriever: LearnedSparse, task: Any = "document") -> list[dict[int, float]]:
    found = {w.at: dict(zip(w.ids.tolist(), w.weights.tolist(), strict=True)) for w in retriever.weigh(TEXTS, task)}
    return [found[i] for i in range(len(TEXTS))]


def brute_force(queries: list[dict[int, float]], docs: list[dict[int, float]]) -> dict[str, list[tuple[str, float]]]:
    scores = {
        f"q{i}": [(sum(w * doc.get(t, 0.0) for t, w in query.items()), f"d{j}") for j, doc in enumerate(docs)]
        for i, query in enumerate(queries)
    }
    return {
        q: [(d, pytest.approx(s, rel=1e-4, abs=1e-6)) for s, d in sorted(f, reverse=True) if s > 0]
        for q, f in scores.items()
    }


def listed(run: Run) -> dict[str, list[tuple[str, float]]]:
    return {
        str(q): list(zip(rows["doc_id"], rows["score"], strict=True)) for q, rows in run.groupby("query_id", sort=False)
    }


def index(retriever: LearnedSparse, folder: Path, docs: list[Text], size: int = 3) -> Path:
    for start in range(0, len(docs), size):
        retriever.index_shard(docs[start : start + size], folder / "shards" / f"{start // size:05}")
    return folder


# SPLADE ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [None, 20])
def test_splade_gives_the_weights_of_sentence_transformers(masked: Path, batch_tokens: int | None) -> None:
    from sentence_transformers import SparseEncoder

    ours = weights(Splade(str(masked), device="cpu", batch_tokens=batch_tokens))
    reference = SparseEncoder(str(masked), device="cpu", local_files_only=True).encode_document(TEXTS).to_dense()
    for mine, theirs in zip(ours, reference.numpy(), strict=True):
        assert sorted(mine) == np.flatnonzero(theirs).tolist()
        assert list(mine.values()) == pytest.approx(theirs[theirs != 0].tolist(), abs=2e-5)


def test_an_inference_free_query_side_is_used_for_queries(masked: Path, tmp_path: Path) -> None:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sentence_transformer.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    plain = SparseEncoder(str(masked), device="cpu", local_files_only=True)
    idf = torch.linspace(0.1, 2.0, len(plain.tokenizer))
    static = SparseStaticEmbedding(tokenizer=plain.tokenizer, weight=idf, frozen=True)
    routed = SparseEncoder(modules=[Router.for_query_document([static], [plain[0], plain[1]])], device="cpu")
    routed.save(str(tmp_path / "routed"))
    retriever = Splade(str(tmp_path / "routed"), device="cpu")
    for task, reference in (("query", routed.encode_query(TEXTS)), ("document", routed.encode_document(TEXTS))):
        for mine, theirs in zip(weights(retriever, task), reference.to_dense().numpy(), strict=True):
            assert sorted(mine) == np.flatnonzero(theirs).tolist()
            assert list(mine.values()) == pytest.approx(theirs[theirs != 0].tolist(), abs=2e-5)


def test_the_largest_weights_are_kept_as_sentence_transformers_keeps_them(masked: Path, tmp_path: Path) -> None:
    from sentence_transformers import SparseEncoder

    retriever = Splade(str(masked), device="cpu", doc_terms=5, query_terms=2)
    (shard,) = inverted.read_shards(index(retriever, tmp_path, texts("d"), size=99))
    model = SparseEncoder(str(masked), device="cpu", local_files_only=True)
    kept = model.encode_document(TEXTS, max_active_dims=5).to_dense().numpy()
    for term, column in enumerate(kept.T):
        held, values = shard.postings(term)
        assert held.tolist() == np.flatnonzero(column).tolist()
        assert values.tolist() == pytest.approx(column[column != 0].tolist(), abs=2e-5)
    queries = [dict(sorted(w.items(), key=lambda x: -x[1])[:2]) for w in weights(retriever, "query")]
    docs = [dict(sorted(w.items(), key=lambda x: -x[1])[:5]) for w in weights(retriever)]
    assert listed(retriever.search(tmp_path, texts("q"), 100)) == {
        q: r for q, r in brute_force(queries, docs).items() if r
    }


def test_a_model_without_weights_for_a_vocabulary_is_refused(m3: Path) -> None:
    with pytest.raises(ConfigError, match=r"no sparse encoder: it holds .*XLMRobertaModel"):
        Splade(str(m3), device="cpu").load()


def test_an_english_model_refuses_other_texts() -> None:
    splade = Splade("naver/splade-cocondenser-ensembledistil", languages=("en",))
    splade.check_languages(["en"], ["en"])
    with pytest.raises(LanguageError, match=r"reads en, not 'de'"):
        splade.check_languages(["en"], ["de"])


# BGE-M3 ---------------------------------------------------------------------------------------------------------------


def by_the_paper(folder: Path, text: str, most: int) -> tuple[Any, Any, Any]:
    """BGE-M3's three outputs of one text, token by token: vector, lexical weights, token vectors."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    sparse, multi = (torch.load(folder / f"{n}_linear.pt", weights_only=True) for n in ("sparse", "colbert"))
    features = tokenizer(text, return_tensors="pt", truncation=True, max_length=most)
    with torch.no_grad():
        hidden = model(**features).last_hidden_state[0]
    lexical: dict[int, float] = {}
    unused = {tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    for token, state in zip(features["input_ids"][0].tolist(), hidden, strict=True):
        weight = max(0.0, float(sparse["weight"][0] @ state + sparse["bias"][0]))
        if token not in unused and weight > 0:
            lexical[token] = max(weight, lexical.get(token, 0.0))
    vectors = [multi["weight"] @ state + multi["bias"] for state in hidden[1:]]
    return (hidden[0] / hidden[0].norm()).numpy(), lexical, np.array([(v / v.norm()).numpy() for v in vectors])


@pytest.mark.parametrize("most", [64, 8])
def test_bge_m3_gives_the_three_outputs_of_its_paper(m3: Path, most: int) -> None:
    expected = [by_the_paper(m3, text, most) for text in TEXTS]
    for output, kind in enumerate(("dense", "sparse", "multi")):
        model = bge_m3.load(m3, kind, dtype="float32", on="cpu")
        found = {e.at: e for e in bge_m3.encode(model, TEXTS, most, 40, "retriever.doc_tokens")}
        for at, reference in enumerate(row[output] for row in expected):
            if kind == "sparse":
                mine = dict(zip(found[at].ids.tolist(), found[at].values.tolist(), strict=True))
                assert sorted(mine) == list(mine) == sorted(reference)
                assert mine == pytest.approx(reference, abs=1e-5)
            else:
                assert found[at].values.shape == reference.shape
                assert found[at].values == pytest.approx(reference, abs=1e-5)


@pytest.mark.parametrize("depth", [2, 100])
def test_bge_m3_ranks_by_the_inner_product_of_lexical_weights(m3: Path, tmp_path: Path, depth: int) -> None:
    retriever = BGEM3Sparse(str(m3), device="cpu")
    run = retriever.search(index(retriever, tmp_path, texts("d")), texts("q"), depth)
    expected = brute_force(weights(retriever, "query"), weights(retriever))
    assert listed(run) == {q: rows[:depth] for q, rows in expected.items() if rows}


def test_cut_texts_are_counted(m3: Path, tmp_path: Path) -> None:
    retriever = BGEM3Sparse(str(m3), device="cpu", doc_tokens=8)
    index(retriever, tmp_path, texts("d"), size=99)
    report = json.loads((tmp_path / "shards" / "00000" / "report.json").read_text())
    tokens = retriever.tokenizer()(TEXTS)["input_ids"]
    assert report["texts"] == len(TEXTS)
    assert report["cut"] == sum(len(ids) > 8 for ids in tokens) > 0
    assert report["tokens"] == sum(min(8, len(ids)) for ids in tokens)
    (shard,) = inverted.read_shards(tmp_path)
    assert report["postings"] == len(shard.docs)


def test_a_folder_without_the_heads_is_no_bge_m3(masked: Path) -> None:
    with pytest.raises(MissingModel, match=r"sparse_linear\.pt is missing"):
        BGEM3Sparse(str(masked), device="cpu").load()


def test_a_head_that_is_damaged_or_does_not_fit_is_refused(m3: Path, tmp_path: Path) -> None:
    import shutil

    for damage, error, message in (
        (b"not a tensor", MissingModel, r"sparse_linear\.pt does not load"),
        (
            {"weight": torch.zeros(1, 16), "bias": torch.zeros(1)},
            ConfigError,
            "from 16 to 1 numbers; the encoder gives 32",
        ),
        ({"dense": torch.zeros(1, 32)}, MissingModel, "holds no linear layer"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(m3, folder)
        if isinstance(damage, bytes):
            (folder / "sparse_linear.pt").write_bytes(damage)
        else:
            torch.save(damage, folder / "sparse_linear.pt")
        with pytest.raises(error, match=message):
            BGEM3Sparse(str(folder), device="cpu").load()


def test_a_head_that_would_run_code_is_not_loaded(m3: Path, tmp_path: Path) -> None:
    import shutil

    folder, mark = tmp_path / "m3", tmp_path / "ran"
    shutil.copytree(m3, folder)

    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    torch.save({"weight": Attack()}, folder / "sparse_linear.pt")
    with pytest.raises(MissingModel, match="does not load"):
        BGEM3Sparse(str(folder), device="cpu").load()
    assert not mark.exists()


# Both -----------------------------------------------------------------------------------------------------------------


def test_an_index_of_another_vocabulary_is_refused(m3: Path, masked: Path, tmp_path: Path) -> None:
    index(BGEM3Sparse(str(m3), device="cpu"), tmp_path, texts("d"))
    with pytest.raises(DataError, match=r"made with retriever\.vocabulary="):
        Splade(str(masked), device="cpu").search(tmp_path, texts("q"), 10)


@pytest.mark.parametrize("name", ["query_tokens", "doc_tokens", "query_terms", "doc_terms", "batch_tokens"])
def test_limits_are_at_least_one(m3: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        BGEM3Sparse(str(m3), **{name: 0})  # type: ignore[arg-type]


def test_more_tokens_than_the_model_has_positions_for_are_refused(m3: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"retriever\.doc_tokens=512: the model has positions for 64 tokens"):
        index(BGEM3Sparse(str(m3), device="cpu", doc_tokens=512), tmp_path, texts("d"))
