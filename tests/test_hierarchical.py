"""A document's vector is made of its segments' vectors: the mean, the first, or what a document transformer makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_encoders
import torch
from safetensors.torch import save_file

from clir_cli.errors import ConfigError
from clir_cli.retrievers.dense import Dense
from clir_cli.retrievers.hierarchical import Hierarchical
from clir_cli.text.languages import split_sentences
from clir_cli.text.passages import Passages, tokens_of
from clir_cli.types import Text

DOCS = [
    "Die Katze sitzt auf der Matte. Es regnet. Der Hund bellt!",
    "猫が座っている。犬が吠える。",
    "One sentence only",
    "",
    "Paka ameketi. Mvua kubwa ilinyesha jana. " * 9,
]
TEXTS = [Text(f"d{i}", (("de", text),)) for i, text in enumerate(DOCS)]
QUERY = [Text("q", (("en", "Where is the cat? On the mat."),))]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Dense:
    """LaBSE's architecture, small, with seeded random weights."""
    return Dense(str(small_encoders.labse(tmp_path_factory.mktemp("labse"))), device="cpu")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A document transformer of two layers with a learned [DOC]."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("hmde")
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=2, max_position_embeddings=16, **sizes)).save_pretrained(folder)
    save_file({"doc": torch.randn(32)}, folder / "doc.safetensors")
    return folder


def sentences(encoder: Dense, text: str) -> np.ndarray:
    """The vectors of a text's sentences, each encoded alone."""
    pieces = split_sentences(text) or [""]
    return np.concatenate([encoder.encode([Text("s", (("de", piece),))], "document")[0] for piece in pieces])


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


@pytest.mark.parametrize("combine", ["mean", "max", "first"])
def test_segments_are_encoded_alone_and_combined(encoder: Dense, combine: str) -> None:
    found, counts = Hierarchical(encoder=encoder, combine=combine).encode(TEXTS, "document")
    for vector, text in zip(found, DOCS, strict=True):
        each = sentences(encoder, text)
        expected = {"mean": each.mean(0), "max": each.max(0), "first": each[0]}[combine]
        assert vector == pytest.approx(unit(expected), abs=1e-5)
    assert counts["texts"] == 5 and counts["segments"] == (5 if combine == "first" else 3 + 2 + 1 + 1 + 18)


def test_the_document_transformer_reads_the_segments_behind_its_doc_vector(encoder: Dense, document: Path) -> None:
    from safetensors.torch import load_file
    from transformers import BertModel

    net, doc = BertModel.from_pretrained(document).eval(), load_file(document / "doc.safetensors")["doc"]
    for pooling in ("doc", "mean"):
        own = Hierarchical(
            encoder=encoder, combine="transformer", transformer=str(document), pooling=pooling, max_segments=15, device="cpu"
        )  # fmt: skip
        found, counts = own.encode(TEXTS, "document")
        for vector, text in zip(found, DOCS, strict=True):
            given = torch.cat([doc[None], torch.from_numpy(sentences(encoder, text)[:15])])[None]
            with torch.no_grad():
                states = net(inputs_embeds=given).last_hidden_state[0]
            expected = states[0] if pooling == "doc" else states.mean(0)
            assert vector == pytest.approx(unit(expected.numpy()), abs=1e-4)
        assert counts["left_out"] == 3


def test_a_query_is_one_segment(encoder: Dense, document: Path) -> None:
    (whole,), _ = encoder.encode(QUERY, "query")
    (found,), _ = Hierarchical(encoder=encoder).encode(QUERY, "query")
    assert found == pytest.approx(unit(whole), abs=1e-6)
    through = Hierarchical(encoder=encoder, combine="transformer", transformer=str(document), device="cpu")
    (other,), _ = through.encode(QUERY, "query")
    assert not np.allclose(other, found, atol=0.1), "it is compared in the documents' space"


def test_segments_may_be_windows_of_the_encoder_s_tokens(encoder: Dense) -> None:
    own = Hierarchical(encoder=encoder, unit="tokens", window=12, stride=6)
    _, counts = own.encode(TEXTS, "document")
    cut = Passages("tokens", 12, 6).cut(DOCS, tokens_of(encoder))
    assert counts["segments"] == sum(map(len, cut))


def test_an_index_is_made_and_searched_as_any_other(encoder: Dense, tmp_path: Path) -> None:
    own = Hierarchical(encoder=encoder, device="cpu")
    (tmp_path / "shards" / "00000").mkdir(parents=True)
    own.index_shard(TEXTS, tmp_path / "shards" / "00000")
    run = own.search(tmp_path, [Text("q", (("de", DOCS[2]),))], 3)
    assert run["doc_id"].tolist()[0] == "d2" and run["score"][0] == pytest.approx(1, abs=1e-3)


def test_a_document_transformer_of_another_width_is_refused(encoder: Dense, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=2, max_position_embeddings=80, **sizes)).save_pretrained(tmp_path)
    own = Hierarchical(encoder=encoder, combine="transformer", transformer=str(tmp_path), pooling="mean", device="cpu")
    with pytest.raises(ConfigError, match=r"reads vectors of 16 numbers, and .* gives 32"):
        own.encode(TEXTS, "document")


def test_more_segments_than_positions_and_a_missing_doc_vector_are_refused(encoder: Dense, document: Path) -> None:
    own = Hierarchical(encoder=encoder, combine="transformer", transformer=str(document), device="cpu")
    with pytest.raises(ConfigError, match=r"max_segments=64: .* has positions for 15"):
        own.encode(TEXTS, "document")
    with pytest.raises(ValueError, match="combine=transformer needs `transformer`"):
        Hierarchical(encoder=encoder, combine="transformer")
