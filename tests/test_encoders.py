"""What encodes something else in silence elsewhere: each model here is of the true architecture, and is held to its reference."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_encoders as small
import torch
from small_encoders import TEXTS

from clir_cli import compose, config
from clir_cli.errors import ConfigError, LanguageError, MissingModel
from clir_cli.models import encoding
from clir_cli.retrievers.dense import Adapter, Dense
from clir_cli.types import Text

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]  # peft's


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def texts(found: list[str], lang: str = "en") -> list[Text]:
    return [Text(f"d{i}", ((lang, text),)) for i, text in enumerate(found)]


def dense(folder: Path, **fields: Any) -> Dense:
    return Dense(str(folder), **{"normalize": False, "device": "cpu", **fields})


def encode(retriever: Dense, found: list[str], task: Any = "document", lang: str = "en") -> np.ndarray:
    return retriever.encode(texts(found, lang), task)[0]


def states(folder: Path, text: str, most: int = 64) -> torch.Tensor:
    """The last hidden state (tokens, dimensions) of one text alone, by transformers."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        model = AutoModel.from_pretrained(folder).eval()
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=most)
        return model(**given).last_hidden_state[0]


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() > 0.01)


# Pooling --------------------------------------------------------------------------------------------------------------


def test_labse_is_its_four_modules_and_not_the_mean_of_its_transformer(made: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = small.labse(made / "labse")
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    found = encode(dense(folder), TEXTS)
    assert np.abs(found - expected).max() < 1e-5
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    raw = np.stack([states(folder, text).mean(0).numpy() for text in TEXTS])
    assert differ(found, raw / np.linalg.norm(raw, axis=1, keepdims=True))


def test_mexma_is_the_first_tokens_last_state_and_not_the_untrained_pooler(made: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = small.xlmr(made / "mexma")
    found = encode(dense(folder, pooling="cls"), TEXTS)
    assert np.abs(found - np.stack([states(folder, text)[0].numpy() for text in TEXTS])).max() < 1e-5
    with torch.no_grad():
        given = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
        pooled = AutoModel.from_pretrained(folder).eval()(**given).pooler_output[0].numpy()
    assert differ(found[0], pooled)


def test_mean_max_cls_and_last_are_what_they_say(made: Path) -> None:
    folder = small.bert(made / "bert")
    one = states(folder, TEXTS[3]).numpy()
    for pooling, expected in {"mean": one.mean(0), "max": one.max(0), "cls": one[0], "last": one[-1]}.items():
        found = encode(dense(folder, pooling=pooling), TEXTS)  # with longer texts in the batch: padding counts nothing
        assert np.abs(found[3] - expected).max() < 1e-5, pooling


def test_another_layer_is_pooled_where_asked(made: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = small.xlmr(made / "layers")
    with torch.no_grad():
        given = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
        layers = AutoModel.from_pretrained(folder).eval()(**given, output_hidden_states=True).hidden_states
    for layer in (0, 1, -2, -1):
        found = encode(dense(folder, pooling="mean", layer=layer), TEXTS)[0]
        assert np.abs(found - layers[layer][0].mean(0).numpy()).max() < 1e-5
    with pytest.raises(ConfigError, match=r"retriever\.layer=4: the model has layers 0 \(embeddings\) to 3"):
        encode(dense(folder, pooling="mean", layer=4), TEXTS)


def test_the_attention_kernel_is_the_one_asked_for(made: Path) -> None:
    folder = small.bert(made / "kernel")
    eager, sdpa = (dense(folder, pooling="mean", attention=kernel) for kernel in ("eager", "sdpa"))
    found = encode(eager, TEXTS)
    assert eager.load()[0].model.config._attn_implementation == "eager"
    assert np.abs(found - encode(sdpa, TEXTS)).max() < 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_gives_the_same_vectors_padded_left_or_right(made: Path, side: Any) -> None:
    folder = made / "qwen3"
    if not folder.exists():
        small.qwen3(folder)
    for pooling in ("last", "mean"):
        one = states(folder, TEXTS[3]).numpy()
        found = encode(dense(folder, pooling=pooling, padding_side=side), TEXTS)
        assert np.abs(found[3] - (one[-1] if pooling == "last" else one.mean(0))).max() < 1e-4
    loaded = dense(folder, pooling="last", padding_side=side).load()
    assert loaded.tokenizer.padding_side == side


def test_qwen3_embedding_as_a_sentence_transformers_folder_pools_the_closing_token(made: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    plain = small.qwen3(made / "qwen3 body")
    folder = small.save_modules(made / "qwen3 st", [Transformer(str(plain)), Pooling(32, "lasttoken"), Normalize()])
    found = encode(dense(folder, query_prefix="Instruct: find\nQuery:"), TEXTS, "query")
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, prompt="Instruct: find\nQuery:")
    assert np.abs(found - theirs).max() < 1e-4
    tokenizer = dense(folder).load().tokenizer
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id


def test_a_folder_that_pools_the_last_word_because_its_tokenizer_closes_nothing_is_refused(made: Path) -> None:
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    plain = small.qwen3(made / "qwen3 open body", closed=False)
    folder = small.save_modules(made / "qwen3 open", [Transformer(str(plain)), Pooling(32, "lasttoken")])
    with pytest.raises(ConfigError, match="closes a text with no special token"):
        encode(dense(folder), TEXTS)
    closed = dense(plain, pooling="last").load().tokenizer
    assert closed("a cat")["input_ids"][-1] == closed.eos_token_id


def test_llama_gets_its_closing_token_behind_the_opening_one(made: Path) -> None:
    folder = small.llama(made / "llama")
    tokenizer = dense(folder, pooling="last").load().tokenizer
    ids = tokenizer("a cat")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    found = encode(dense(folder, pooling="last", doc_prefix="passage:  "), TEXTS)
    expected = np.stack([states(folder, f"passage:  {text}</s>", 256)[-1].numpy() for text in TEXTS])
    assert np.abs(found - expected).max() < 1e-4


def test_a_tokenizer_without_a_padding_token_as_llama_2s_pads_all_the_same(made: Path) -> None:
    folder = small.llama(made / "unpadded")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "pad_token"}))
    found = encode(dense(folder, pooling="last"), TEXTS)
    assert np.abs(found[3] - states(folder, TEXTS[3] + "</s>", 256)[-1].numpy()).max() < 1e-4


# What is read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["query: ", "passage:  ", "Instruct: {task} \n Query: ", "[Q] ", ""])
def test_a_prefix_reaches_the_tokenizer_byte_by_byte(made: Path, prefix: str) -> None:
    folder = made / "bert prefixes"
    if not folder.exists():
        small.bert(folder)
    found = encode(dense(folder, pooling="mean", query_prefix=prefix), TEXTS[2:4], "query")
    expected = [states(folder, prefix + text).mean(0).numpy() for text in TEXTS[2:4]]
    assert np.abs(found - np.stack(expected)).max() < 1e-5


def test_udever_closes_queries_and_documents_with_different_tokens_also_where_it_cuts(made: Path) -> None:
    folder = small.bloom(made / "udever")
    udever = dense(
        folder, pooling="last", query_prefix="[BOQ]", query_suffix="[EOQ]", doc_prefix="[BOD]", doc_suffix="[EOD]"
    )
    for task, opening, closing in (("query", "[BOQ]", "[EOQ]"), ("document", "[BOD]", "[EOD]")):
        expected = [states(folder, opening + text + closing, 256)[-1].numpy() for text in TEXTS]
        assert np.abs(encode(udever, TEXTS, task) - np.stack(expected)).max() < 1e-4
    short = replace(udever, doc_tokens=8)
    _, report = short.encode(texts(TEXTS), "document")
    loaded = short.load()
    shown, was_cut = encoding.closed(loaded, TEXTS[1], "[BOD]", "[EOD]", 8)
    ids = loaded.tokenizer("[BOD]" + shown)["input_ids"]
    assert was_cut
    assert len(ids) == 8
    assert loaded.tokenizer.convert_ids_to_tokens(ids)[-1] == "[EOD]"
    counts = [len(loaded.tokenizer(f"[BOD]{text}[EOD]")["input_ids"]) for text in TEXTS]
    assert report["cut"] == sum(count > 8 for count in counts)
    with pytest.raises(ConfigError, match=r"2 tokens leave no room for a text between '\[BOD\]' and '\[EOD\]'"):
        encode(replace(udever, doc_tokens=2), TEXTS)


def test_a_closing_token_on_one_side_only_is_refused() -> None:
    with pytest.raises(ValueError, match="give both query_suffix and doc_suffix"):
        Dense("me/enc", pooling="last", query_suffix="[EOQ]")


def test_a_prefix_can_be_read_and_left_out_of_the_mean(made: Path) -> None:
    folder = small.bert(made / "instruct")
    prefix = "A short one "
    apart = encode(dense(folder, pooling="mean", query_prefix=prefix, pool_prefix=False), TEXTS[2:5], "query")
    length = len(dense(folder, pooling="mean").load().tokenizer(prefix)["input_ids"]) - 1
    expected = np.stack([states(folder, prefix + text)[length:].mean(0).numpy() for text in TEXTS[2:5]])
    assert np.abs(apart - expected).max() < 1e-5
    assert differ(apart, encode(dense(folder, pooling="mean", query_prefix=prefix), TEXTS[2:5], "query"))


def test_a_model_that_truncates_its_dimensions_is_normalised_behind_that(made: Path) -> None:
    folder = small.labse(made / "matryoshka")
    retriever = dense(folder, normalize=True)
    loaded = retriever.load()
    loaded.truncate_dim = 8
    try:
        expected = loaded.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
        found = encode(retriever, TEXTS)
        assert found.shape == (len(TEXTS), 8)
        assert np.abs(found - expected).max() < 1e-5
    finally:
        loaded.truncate_dim = None


# The language of a text -----------------------------------------------------------------------------------------------


def sonar_reference(folder: Path, text: str, flores: str) -> np.ndarray:
    """SONAR as its port is documented: the encoder of M2M100, the language's token first, the mean over the mask."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, src_lang=flores)
    given = tokenizer(text, return_tensors="pt")
    assert given["input_ids"][0, 0] == tokenizer.convert_tokens_to_ids(flores)
    with torch.no_grad():
        encoder = AutoModel.from_pretrained(folder).eval().get_encoder()
        return np.asarray(encoder(**given).last_hidden_state[0].mean(0))


def test_the_encoder_of_an_nllb_checkpoint_reads_every_text_in_its_language(made: Path) -> None:
    folder = small.m2m100(made / "nllb", whole=True)
    retriever = dense(folder, pooling="mean", codes="nllb")
    mixed = [Text("a", (("de", TEXTS[0]),)), Text("b", (("sw", TEXTS[3]),)), Text("c", (("en", TEXTS[5]),))]
    found = retriever.encode(mixed, "document")[0]
    for i, flores in enumerate(("deu_Latn", "swh_Latn", "eng_Latn")):
        assert np.abs(found[i] - sonar_reference(folder, mixed[i].text, flores)).max() < 1e-4
    assert differ(found[1], encode(retriever, [TEXTS[3]], lang="en")[0])


def test_the_encoder_alone_as_sonar_is_published_gives_the_same(made: Path) -> None:
    from safetensors.torch import load_file
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

    folder = small.m2m100(made / "sonar", whole=False)
    encoder = M2M100Encoder.from_pretrained(folder).eval()
    assert set(load_file(folder / "model.safetensors")) <= set(encoder.state_dict())
    from transformers import AutoTokenizer

    given = AutoTokenizer.from_pretrained(folder, src_lang="swh_Latn")(TEXTS[3], return_tensors="pt")
    with torch.no_grad():
        expected = encoder(**given).last_hidden_state[0].mean(0).numpy()
    assert np.abs(encode(dense(folder, pooling="mean", codes="nllb"), [TEXTS[3]], lang="sw")[0] - expected).max() < 1e-4


def test_an_m2m100_calls_languages_by_its_own_names(made: Path) -> None:
    folder = small.m2m100_of_its_own_names(made / "m2m100")
    found = encode(dense(folder, pooling="mean", codes="m2m100"), TEXTS[:4], lang="de")
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, src_lang="de")
    encoder = AutoModel.from_pretrained(folder).eval().get_encoder()
    for i, text in enumerate(TEXTS[:4]):
        given = tokenizer(text, return_tensors="pt")
        assert tokenizer.convert_tokens_to_ids("__de__") in given["input_ids"][0]
        with torch.no_grad():
            assert np.abs(found[i] - encoder(**given).last_hidden_state[0].mean(0).numpy()).max() < 1e-4
    with pytest.raises(ConfigError, match="calls languages as m2m100 does"):
        encode(dense(folder, pooling="mean", codes="nllb"), TEXTS)


def test_a_model_that_is_told_a_language_is_refused_without_one(made: Path) -> None:
    folder = made / "nllb untold"
    small.m2m100(folder, whole=False)
    with pytest.raises(
        ConfigError, match=r"reads every text in a language that it is told(.|\n)*retriever\.codes=nllb"
    ):
        encode(dense(folder, pooling="mean"), TEXTS)
    with pytest.raises(ConfigError, match="calls languages as nllb does"):
        encode(dense(folder, pooling="mean", codes="xmod"), TEXTS)
    with pytest.raises(ConfigError, match="is told no language"):
        encode(dense(small.bert(made / "untold"), pooling="mean", codes="nllb"), TEXTS)


def test_a_language_that_the_model_has_no_name_for_is_refused_before_anything_runs(made: Path) -> None:
    retriever = Dense("me/enc", pooling="mean", codes="xmod")
    retriever.check_languages(["en"], ["de"])
    with pytest.raises(LanguageError, match=r"xmod has no name for 'yo'(.|\n)*language_names=\{yo: NAME\}"):
        retriever.check_languages(["en"], ["yo"])
    replace(retriever, language_names={"yo": "sw_KE"}).check_languages(["en"], ["yo"])
    with pytest.raises(ValueError, match="language_names are the names of codes"):
        Dense("me/enc", language_names={"yo": "sw_KE"})


def test_a_text_in_two_languages_at_once_is_refused_where_one_must_be_told(made: Path) -> None:
    folder = made / "nllb two"
    small.m2m100(folder, whole=False)
    both = [Text("d1", (("de", TEXTS[0]), ("en", TEXTS[1])))]
    with pytest.raises(LanguageError, match=r"d1 is shown in de\+en(.|\n)*in one language"):
        dense(folder, pooling="mean", codes="nllb").encode(both, "document")


def test_x_mod_reads_each_text_by_its_languages_adapter(made: Path) -> None:
    from transformers import AutoTokenizer, XmodModel

    folder = small.xmod(made / "xmod")
    retriever = dense(folder, pooling="mean", codes="xmod", language_names={"yo": "sw_KE"})
    mixed = [Text("a", (("de", TEXTS[0]),)), Text("b", (("en", TEXTS[0]),)), Text("c", (("yo", TEXTS[0]),))]
    found = retriever.encode(mixed, "document")[0]
    given = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    model = XmodModel.from_pretrained(folder).eval()
    for i, adapter in enumerate(("de_DE", "en_XX", "sw_KE")):
        model.set_default_language(adapter)
        with torch.no_grad():
            assert np.abs(found[i] - model(**given).last_hidden_state[0].mean(0).numpy()).max() < 1e-5
    assert differ(found[0], found[1])
    with pytest.raises(ConfigError, match="reads every text in a language that it is told"):
        encode(dense(folder, pooling="mean"), TEXTS)
    with pytest.raises(LanguageError, match="has no adapter 'ru_RU'; it has en_XX, de_DE, sw_KE"):
        encode(retriever, TEXTS, lang="ru")


def test_texts_of_a_language_go_to_their_own_model_and_each_is_loaded_once(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = small.bert(made / "teacher"), small.xlmr(made / "student", seed=1)
    retriever = dense(teacher, pooling="cls", by_lang={"sw": dense(student, pooling="mean", doc_prefix="sw: ")})
    mixed = [Text("a", (("sw", TEXTS[3]),)), Text("b", (("en", TEXTS[3]),)), Text("c", (("sw", TEXTS[6]),))]
    loads: list[Path] = []
    real = encoding._sentence_encoder
    monkeypatch.setattr(
        encoding, "_sentence_encoder", lambda folder, *rest: loads.append(folder) or real(folder, *rest)
    )
    encoding._encoders.clear()
    found = retriever.encode(mixed, "document")[0]
    assert np.abs(found[1] - states(teacher, TEXTS[3])[0].numpy()).max() < 1e-5
    for i, text in ((0, TEXTS[3]), (2, TEXTS[6])):
        assert np.abs(found[i] - states(student, f"sw: {text}").mean(0).numpy()).max() < 1e-5
    retriever.encode(mixed, "query")
    assert sorted(loads) == [student, teacher]
    with pytest.raises(ValueError, match=r"by_lang\.sw must be a Dense node"):
        Dense("me/enc", by_lang={"sw": "me/student"})


# Weights that are put together ----------------------------------------------------------------------------------------


def test_the_encoder_half_of_a_t5_is_the_encoder_half(made: Path) -> None:
    from transformers import AutoTokenizer, T5EncoderModel

    folder = small.t5(made / "t5")
    model, tokenizer = T5EncoderModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = encode(dense(folder, pooling="mean"), TEXTS)
    for i, text in enumerate(TEXTS):
        with torch.no_grad():
            expected = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        assert np.abs(found[i] - expected).max() < 1e-4


def test_a_merged_adapter_gives_what_the_unmerged_one_gives(made: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer

    base = small.llama(made / "repllama base")
    adapter = small.lora(made / "repllama", base, 1)
    found = encode(dense(base, pooling="last", doc_adapter=Adapter(str(adapter))), TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter).eval()
    for i, text in enumerate(TEXTS):
        with torch.no_grad():
            expected = model(**tokenizer(text + "</s>", return_tensors="pt")).last_hidden_state[0, -1].numpy()
        assert np.abs(found[i] - expected).max() < 1e-3
    assert differ(found, encode(dense(base, pooling="last"), TEXTS))


def test_an_adapter_that_was_trained_on_a_whole_t5_serves_its_encoder_half_as_m_st5_needs(made: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer

    base = small.t5(made / "m-st5 base")
    adapter = small.lora(made / "m-st5", base, 1, ("q", "v"))
    found = encode(dense(base, pooling="mean", doc_adapter=Adapter(str(adapter))), TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(base)
    whole = PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter).merge_and_unload().eval()
    with torch.no_grad():
        given = tokenizer(TEXTS[3], return_tensors="pt")
        expected = whole.get_encoder()(**given).last_hidden_state[0].mean(0).numpy()
    assert np.abs(found[3] - expected).max() < 1e-3


def test_queries_and_documents_can_have_different_adapters(made: Path) -> None:
    base = small.llama(made / "two sides")
    first, second = (Adapter(str(small.lora(made / f"side {seed}", base, seed))) for seed in (1, 2))
    both = dense(base, pooling="last", query_adapter=first, doc_adapter=second)
    swapped = dense(base, pooling="last", query_adapter=second, doc_adapter=first)
    assert np.abs(encode(both, TEXTS, "query") - encode(swapped, TEXTS, "document")).max() < 1e-5
    assert differ(encode(both, TEXTS, "query"), encode(both, TEXTS, "document"))
    assert differ(encode(replace(both, doc_adapter=None), TEXTS), encode(both, TEXTS))


def test_an_adapter_of_another_model_is_refused(made: Path) -> None:
    base, other = small.llama(made / "right base"), small.qwen3(made / "wrong base")
    adapter = small.lora(made / "stranger", base, 1)
    with pytest.raises(ConfigError, match="does not fit the model"):
        encode(dense(other, pooling="last", doc_adapter=Adapter(str(adapter))), TEXTS)
    with pytest.raises(ConfigError, match=r"is a peft adapter of .*right base: take that as retriever\.model"):
        encode(dense(adapter, pooling="last"), TEXTS)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "meta/base"}))
    with pytest.raises(ConfigError, match="trained on meta/base, not on me/other"):
        Dense("me/other", pooling="last", doc_adapter=Adapter(str(adapter)), device="cpu").load()


def test_checkpoints_are_averaged_weight_by_weight(made: Path) -> None:
    from transformers import BertModel

    folders = [small.bert(made / f"checkpoint {seed}", seed=seed) for seed in range(3)]
    mean = BertModel.from_pretrained(folders[0])
    with torch.no_grad():
        others = [dict(BertModel.from_pretrained(folder).named_parameters()) for folder in folders]
        for name, weight in mean.named_parameters():
            weight.copy_(torch.stack([other[name] for other in others]).mean(0))
    shutil.copytree(folders[0], made / "mean")
    mean.save_pretrained(made / "mean")
    averaged = dense(folders[0], pooling="mean", average=(str(folders[1]), str(folders[2])))
    assert np.abs(encode(averaged, TEXTS) - encode(dense(made / "mean", pooling="mean"), TEXTS)).max() < 1e-4
    with pytest.raises(ConfigError, match="are different architectures"):
        encode(replace(averaged, average=(str(small.xlmr(made / "other checkpoint")),)), TEXTS)
    with pytest.raises(ConfigError, match="is no folder"):
        encode(replace(averaged, average=("me/checkpoint",)), TEXTS)


def test_nllb_e5_is_an_nllb_encoder_its_mean_and_a_projection(made: Path) -> None:
    from safetensors.torch import save_file

    folder = small.m2m100(made / "nllb-e5", whole=True)
    torch.manual_seed(3)
    weight, bias = torch.randn(12, 32), torch.randn(12)
    save_file({"linear.weight": weight, "linear.bias": bias}, made / "projection.safetensors")
    retriever = dense(
        folder, pooling="mean", codes="nllb", doc_prefix="passage: ", projection=str(made / "projection.safetensors")
    )
    found = encode(retriever, [TEXTS[3]], lang="hi")[0]
    pooled = sonar_reference(folder, "passage: " + TEXTS[3], "hin_Deva")
    assert np.abs(found - (weight.numpy() @ pooled + bias.numpy())).max() < 1e-3
    save_file({"linear.weight": torch.randn(12, 99)}, made / "wrong.safetensors")
    with pytest.raises(ConfigError, match=r"needs linear\.weight of shape \(out, 32\)"):
        encode(replace(retriever, projection=str(made / "wrong.safetensors")), TEXTS)


# What cannot be right -------------------------------------------------------------------------------------------------


def test_a_checkpoint_without_the_weights_its_config_describes_is_refused_and_not_made_up(made: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = small.bert(made / "torn")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingModel, match=r"lacks weights (.|\n)*layer\.1\.(.|\n)*made them up at random"):
        encode(dense(folder, pooling="mean"), TEXTS)


def test_a_pooler_that_nobody_reads_may_be_missing(made: Path) -> None:
    folder = small.bert(made / "no pooler", pooler=False)
    assert np.isfinite(encode(dense(folder, pooling="cls"), TEXTS)).all()


def test_a_model_that_is_its_repositorys_own_code_is_refused_with_the_way_to_trust_it(made: Path) -> None:
    folder = small.bert(made / "own code")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "new", "auto_map": {"AutoModel": "modeling.NewModel"}})
    )
    with pytest.raises(ConfigError, match=r"needs Python code of its own repository \(new\)(.|\n)*revision=COMMIT"):
        encode(dense(folder, pooling="cls"), TEXTS)


def test_the_core_study_s_encoders_read_other_tokens(made: Path) -> None:
    """By its quirks: E5 without its prefixes; RepLLaMA's documents end at 128 tokens, and one blank stands behind its prefixes."""
    folder = small.llama(made / "of the study")  # reads any number of tokens
    short, long = texts([TEXTS[0], " ".join(TEXTS * 9)])

    def encoded(quirk: str, name: str) -> list[Any]:
        own = ["retriever.query_adapter=null", "retriever.doc_adapter=null"] if name == "repllama" else []
        asked = [f"retriever={name}", f"retriever.model={folder}", "retriever.device=cpu", "retriever.dtype=float32"]
        retriever = config.built(compose.cells([*asked, *own, f"quirk={quirk}"])[0].plain).retriever
        return [retriever.encode([text], task)[0][0] for text in (short, long) for task in ("query", "document")]

    def changed(quirk: str, name: str) -> list[bool]:
        pairs = zip(encoded("null", name), encoded(quirk, name), strict=True)
        return [bool(abs(a - b).max() > 1e-4) for a, b in pairs]

    assert all(changed("e5_no_prefix", "me5_small"))
    assert changed("repllama_128", "repllama") == [False, False, False, True]
    assert changed("repllama_one_blank", "repllama") == [True] * 4
