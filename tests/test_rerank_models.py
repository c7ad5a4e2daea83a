"""Trained rerankers beyond plain cross-encoders give what their reference implementations give, on small models of their kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_encoders as small
import torch
from conftest import Clir
from test_cross_encoder import DOCS, QUERIES, candidates, save_model

from clir_cli import compose, config
from clir_cli.errors import ConfigError, LanguageError, MissingModel
from clir_cli.fingerprints import Fingerprints
from clir_cli.rerankers.cross_encoder import CrossEncoder
from clir_cli.rerankers.embedder import Embedder
from clir_cli.rerankers.next_token import NextToken
from clir_cli.steps import identity
from clir_cli.types import Candidates, Journal, Text

CONFIGS = Path(compose.packaged()) / "reranker"
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own

TRAINED = sorted(
    path.stem
    for path in CONFIGS.glob("*.yaml")
    if any(
        f"\n_target_: clir_cli.rerankers.{room}." in path.read_text()
        for room in ("cross_encoder", "next_token", "embedder")
    )
)
QWEN_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
LONG = "the cat sits on the mat and the dog barks at the moon " * 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rerankers")


def preset(name: str, *overrides: str) -> Any:
    (cell,) = compose.cells([f"reranker={name}", *overrides])
    return config.built(cell.plain).reranker


def scores(reranker: Any, asked: list[Candidates]) -> tuple[dict[tuple[str, str], float], Journal]:
    journal = Journal()
    run = reranker.rerank(asked, journal)
    return {(q, d): s for q, d, s in zip(run["query_id"], run["doc_id"], run["score"], strict=True)}, journal


def in_order(reranker: Any, docs: list[str] = DOCS) -> np.ndarray[Any, Any]:
    found, _ = scores(reranker, candidates(docs))
    return np.array([found[f"q{q}", f"d{d}"] for q in range(len(QUERIES)) for d in range(len(docs))])


# Presets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINED)
def test_every_preset_builds_pins_nothing_that_was_not_read_and_trusts_nobody(name: str) -> None:
    given = ["reranker.model=me/model"] if "\nmodel: ???" in (CONFIGS / f"{name}.yaml").read_text() else []
    found = preset(name, *given)
    assert found.revision is None
    assert not found.trust_remote_code


@pytest.mark.parametrize("name", ["gte_reranker", "jina_reranker"])
def test_a_repository_s_own_code_needs_the_commit_that_was_read(name: str) -> None:
    with pytest.raises(ConfigError, match="pin the commit you have read"):
        preset(name, "reranker.trust_remote_code=true")
    assert preset(name, "reranker.trust_remote_code=true", f"reranker.revision={'a' * 40}").trust_remote_code


def test_a_folder_with_its_own_code_is_refused_until_it_is_trusted(made: Path) -> None:
    folder = made / "own_code"
    save_model(folder, labels=1)
    known = json.loads((folder / "config.json").read_text())
    theirs = {"auto_map": {"AutoModelForSequenceClassification": "me/code--modeling.Reranker"}, "model_type": "new"}
    (folder / "config.json").write_text(json.dumps({**known, **theirs}))
    with pytest.raises(ConfigError, match=r"Python code of its own repository(.|\n)*reranker\.trust_remote_code=true"):
        in_order(CrossEncoder(str(folder), device="cpu"))


# Language models ------------------------------------------------------------------------------------------------------


def tokenizer_with(folder: Path, words: list[str], **options: Any) -> Any:
    """A Unigram tokenizer with a dummy space before a text, as SentencePiece's, that has `words` whole."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        [*(DOCS + QUERIES) * 4, "Query: Document: Relevant:"],
        trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    known = [(piece, score) for piece, score in json.loads(trained.to_str())["model"]["vocab"]]
    trained.model = models.Unigram([*known, *((f"\u2581{word}", -2.0) for word in words)], unk_id=3)
    trained.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=special[4:], **options,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def byte_tokenizer(folder: Path) -> Any:
    """A byte-level BPE, as Qwen's, in which yes and no are tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trained.train_from_iterator(
        [*(DOCS + QUERIES), *["yes", "no", " yes"] * 9],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="module")
def qwen(made: Path) -> Path:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = made / "qwen"
    tokenizer = byte_tokenizer(folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, max_position_embeddings=4096, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=2, pad_token_id=0, **small.SIZES,
    )  # fmt: skip
    return small.save(folder, Qwen3ForCausalLM, config)


@pytest.fixture(scope="module")
def mt5(made: Path) -> Path:
    return save_mt5(made / "mt5", ["yes", "no"])


def save_mt5(folder: Path, words: list[str]) -> Path:
    from transformers import MT5Config, MT5ForConditionalGeneration

    tokenizer = tokenizer_with(folder, words)
    config = MT5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, initializer_factor=1.0,
    )  # fmt: skip
    return small.save(folder, MT5ForConditionalGeneration, config)


def qwen_expected(folder: Path, limit: int, docs: list[str]) -> list[float]:
    """As the card of Qwen3-Reranker does it: three pieces, left padding, whole vocabulary, log-softmax of [no, yes]."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    before = tokenizer.encode(
        f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n<|im_start|>user\n", add_special_tokens=False
    )
    after = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", add_special_tokens=False)
    task = "Given a web search query, retrieve relevant passages that answer the query"
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    found = []
    for query in QUERIES:
        for doc in docs:
            pair = f"<Instruct>: {task}\n<Query>: {query}\n<Document>: {doc}"
            ids = tokenizer(pair, truncation=True, max_length=limit - len(before) - len(after))["input_ids"]
            with torch.no_grad():
                logits = network(torch.tensor([before + ids + after])).logits[0, -1]
            found.append(float(torch.log_softmax(logits[[no, yes]], 0)[1].exp()))
    return found


@pytest.mark.parametrize(("limit", "batch_tokens"), [(4096, None), (500, 3000)])
def test_qwen3_reranker_gives_the_probabilities_of_its_card(qwen: Path, limit: int, batch_tokens: int | None) -> None:
    reranker = preset(
        "qwen3_reranker_0_6b", f"reranker.model={qwen}", "reranker.dtype=float32", "reranker.device=cpu",
        f"reranker.max_tokens={limit}", f"reranker.batch_tokens={batch_tokens or 'null'}",
    )  # fmt: skip
    docs = [*DOCS, LONG * 4]
    mine = 1 / (1 + np.exp(-in_order(reranker, docs)))
    expected = np.array(qwen_expected(qwen, limit, docs))
    assert np.abs(mine - expected).max() < 1e-5
    assert np.ptp(expected) > 0.01
    _, journal = scores(reranker, candidates(docs))
    assert journal.queries["q0"]["texts_cut"] == (1 if limit == 500 else 0)


def test_sixteen_bit_weights_still_give_scores_of_32_bits(qwen: Path) -> None:
    reranker = preset("qwen3_reranker_4b", f"reranker.model={qwen}", "reranker.device=cpu", "reranker.max_tokens=1024")
    assert reranker.dtype == "bfloat16"
    found = in_order(reranker)
    assert (torch.tensor(found).bfloat16().double().numpy() != found).any(), (
        "a 16-bit score would tie the best documents"
    )


def mt5_expected(folder: Path, docs: list[str]) -> list[float]:
    """monoT5: the logits of the first decoded token, log-softmax over [no, yes]; each pair alone, so without padding."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    yes, no = tokenizer.convert_tokens_to_ids(["\u2581yes", "\u2581no"])
    found = []
    for query in QUERIES:
        for doc in docs:
            ids = [*tokenizer(f"Query: {query} Document: {doc} Relevant:", add_special_tokens=False)["input_ids"], 2]
            start = torch.tensor([[network.config.decoder_start_token_id]])
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([ids]), decoder_input_ids=start).logits[0, 0]
            found.append(float(logits[yes] - logits[no]))
    return found


def test_mono_mt5_gives_the_logits_of_yes_and_no_whatever_shares_a_batch(mt5: Path) -> None:
    reranker = preset("mono_mt5", f"reranker.model={mt5}", "reranker.device=cpu")
    assert reranker.template == ("Query: {query} Document: {doc} Relevant:", "</s>")
    expected = np.array(mt5_expected(mt5, DOCS))
    assert np.abs(in_order(reranker) - expected).max() < 1e-4
    assert np.ptp(expected) > 0.1


def test_a_long_document_is_cut_and_what_stands_behind_it_is_not(mt5: Path) -> None:
    from clir_cli.models import next_token

    template = next_token.Template(("Query: {query} Document: {doc} Relevant:", "</s>"))
    loaded = next_token.load(mt5, template=template, labels=("\u2581yes", "\u2581no"), dtype="float32", on="cpu")
    features = loaded.preprocess([(QUERIES[0], LONG), (QUERIES[0], "cat")], 60)
    whole = loaded.tokenizer(f"Query: {QUERIES[0]} Document: {LONG} Relevant:", add_special_tokens=False)["input_ids"]
    end = [*loaded.tokenizer(" Relevant:", add_special_tokens=False)["input_ids"], 2]
    assert features["input_ids"][0].tolist() == [*whole[: 60 - len(end)], *end]
    assert [one.overflowing for one in features.encodings] == [True, False]
    with pytest.raises(ConfigError, match=r"query q0 has \d+ tokens and reranker\.max_tokens=20 leaves no room"):
        in_order(preset("mono_mt5", f"reranker.model={mt5}", "reranker.device=cpu", "reranker.max_tokens=20"))


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("\u2581true", "the vocabulary has no token"),
        ("yes", "no token|no answer begins with"),
        ("\u2581no", "are one token"),
    ],
)
def test_labels_of_another_checkpoint_are_refused(mt5: Path, token: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        preset("mono_mt5", f"reranker.model={mt5}", f"reranker.yes_token={token}").check()
    preset("mono_mt5", f"reranker.model={mt5}").check()


def test_the_words_of_another_checkpoint_score_otherwise(made: Path) -> None:
    """rank_llm's true and false, which it reads from mT5 too, whose first token of false is a lone \u2581."""
    folder = save_mt5(made / "mt5 with true", ["yes", "no", "true"])
    yes_no, true_false = (
        in_order(preset("mono_mt5", f"reranker.model={folder}", "reranker.device=cpu", *more))
        for more in ([], ["quirk=mt5_true_false"])
    )
    assert np.abs(yes_no - true_false).max() > 0.01


def test_a_piece_inside_words_is_no_label() -> None:
    from clir_cli.models.next_token import label_token

    class Pieces:
        all_special_ids: tuple[int, ...] = ()

        def get_vocab(self) -> dict[str, int]:
            return {"\u2581yes": 7, "yes": 8, "\u2581": 9}

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return "".join(tokens).replace("\u2581", " ").strip()

        def tokenize(self, text: str) -> list[str]:
            return ["\u2581" + text]

    assert label_token(Pieces(), "\u2581yes", Path("m")) == 7
    assert label_token(Pieces(), "\u2581", Path("m")) == 9, (
        "the first piece of false to mT5, so a label of its 13B checkpoint"
    )
    with pytest.raises(ConfigError, match="no answer begins with the token 'yes'"):
        label_token(Pieces(), "yes", Path("m"))


def test_bge_reranker_gemma_gives_the_logit_of_yes_after_flag_embedding_s_pieces(made: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaConfig, GemmaForCausalLM

    folder = made / "gemma"
    tokenizer = byte_tokenizer(folder)
    config = GemmaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=8, max_position_embeddings=1024, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, **small.SIZES,
    )  # fmt: skip
    small.save(folder, GemmaForCausalLM, config)
    found = preset("bge_reranker_gemma")
    template = ("<|im_start|>", *found.template[1:])  # what this tokenizer has for <bos>
    reranker = NextToken(
        str(folder), template=template, yes_token="yes", no_token=None, device="cpu", max_tokens=found.max_tokens
    )
    assert (found.template[0], found.yes_token, found.no_token) == ("<bos>", "Yes", None)
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    (yes,) = tokenizer.convert_tokens_to_ids(["yes"])
    sentence = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
        "prediction of either 'Yes' or 'No'."
    )
    expected = []
    for query in QUERIES:
        for doc in DOCS:
            pieces = [f"A: {query}", "\n", f"B: {doc}", "\n", sentence]
            ids = [1, *(i for piece in pieces for i in tokenizer(piece, add_special_tokens=False)["input_ids"])]
            with torch.no_grad():
                expected.append(float(network(torch.tensor([ids])).logits[0, -1, yes]))
    assert np.abs(in_order(reranker) - np.array(expected)).max() < 1e-4
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("kind", ["t5", "gemma2"])
def test_what_an_architecture_does_to_its_logits_is_done_to_the_labels(made: Path, kind: str) -> None:
    """Tied T5 scales the decoder's states, Gemma 2 caps the logits."""
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        Gemma2Config,
        Gemma2ForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    folder = made / kind
    size = len(tokenizer_with(folder, ["true", "false"]))
    if kind == "t5":
        config: Any = T5Config(
            vocab_size=size, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=1, eos_token_id=2,
            decoder_start_token_id=1, tie_word_embeddings=True, initializer_factor=1.0,
        )  # fmt: skip
        small.save(folder, T5ForConditionalGeneration, config)
    else:
        config = Gemma2Config(
            vocab_size=size, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=0.5,
            pad_token_id=1, bos_token_id=0, eos_token_id=2, **small.SIZES,
        )  # fmt: skip
        small.save(folder, Gemma2ForCausalLM, config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = (AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM).from_pretrained(folder).eval()
    labels = ("\u2581true", "\u2581false")
    yes, no = tokenizer.convert_tokens_to_ids(list(labels))
    begun = {"decoder_input_ids": torch.tensor([[1]])} if kind == "t5" else {}
    expected = []
    for query in QUERIES:
        for doc in DOCS:
            ids = tokenizer(f"Query: {query} Document: {doc} Relevant:", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([ids]), **begun).logits[0, -1]
            expected.append(float(logits[yes] - logits[no]))
    template = ("Query: {query} Document: {doc} Relevant:",)
    reranker = NextToken(str(folder), template=template, yes_token=labels[0], no_token=labels[1], device="cpu")
    assert np.abs(in_order(reranker) - np.array(expected)).max() < 1e-4
    assert np.ptp(expected) > 0.05


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"template": ("{query}",)}, "once each"),
        ({"template": ("{doc} {query}",)}, "must stand before"),
        ({"instruction": "find"}, "needs {instruction}"),
        ({"trust_remote_code": True, "revision": "a" * 40}, "own code alone"),
    ],
)
def test_templates_that_say_nothing_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NextToken("me/model", **{"template": ("{query} {doc}",), "yes_token": "yes", "no_token": None, **fields})


# The language of a pair -----------------------------------------------------------------------------------------------


def saved_xmod(folder: Path) -> Path:
    from transformers import XmodConfig, XmodForSequenceClassification

    tokenizer = small.save_tokenizer(folder, pair="<s> $A </s> </s> $B </s>")
    config = XmodConfig(
        vocab_size=len(tokenizer), max_position_embeddings=130, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        type_vocab_size=1, languages=["en_XX", "de_DE", "sw_KE"], default_language="en_XX", num_labels=1, **small.SIZES,
    )  # fmt: skip
    return small.save(folder, XmodForSequenceClassification, config)


def mixed() -> list[Candidates]:
    """An English query over documents in German, English and Swahili."""
    docs = [Text(f"d{i}", ((lang, DOCS[i]),)) for i, lang in ((0, "de"), (1, "en"), (3, "sw"))]
    return [Candidates(Text("q0", (("en", QUERIES[0]),)), docs)]


def test_mono_xm_reads_a_pair_by_the_adapter_of_its_document_or_of_its_query(made: Path) -> None:
    from transformers import AutoTokenizer, XmodForSequenceClassification

    folder = saved_xmod(made / "xmod")
    tokenizer, network = (
        AutoTokenizer.from_pretrained(folder),
        XmodForSequenceClassification.from_pretrained(folder).eval(),
    )

    def expected(doc: str, name: str) -> float:
        network.set_default_language(name)
        with torch.no_grad():
            return float(network(**tokenizer(QUERIES[0], doc, return_tensors="pt")).logits)

    given = [f"reranker.model={folder}", "reranker.max_tokens=128", "reranker.device=cpu"]
    for of, names in (("doc", ("de_DE", "en_XX", "sw_KE")), ("query", ("en_XX",) * 3)):
        found, journal = scores(preset("mono_xm", *given, f"reranker.language_of={of}"), mixed())
        for doc, name in zip(mixed()[0].docs, names, strict=True):
            assert found["q0", doc.id] == pytest.approx(expected(doc.text, name), abs=1e-4)
        assert journal.queries["q0"]["calls"] == 3
    assert expected(DOCS[3], "sw_KE") != pytest.approx(expected(DOCS[3], "en_XX"), abs=1e-3)


def test_a_language_without_an_adapter_is_refused_unless_another_is_named(made: Path) -> None:
    folder = saved_xmod(made / "xmod_names")
    reranker = CrossEncoder(str(folder), codes="xmod", device="cpu", max_tokens=128)
    reranker.check_languages(["yo"], ["de"])
    with pytest.raises(LanguageError, match=r"no adapter 'fr_XX'"):
        reranker.check_languages(["de"], ["fr"])
    with pytest.raises(LanguageError, match=r"none for 'yo'(.|\n)*language_names=\{yo: NAME\}"):
        reranker.check_languages(["en"], ["yo"])
    french = [Candidates(Text("q", (("en", "cat"),)), [Text("d", (("fr", "le chat"),))])]
    with pytest.raises(LanguageError, match=r"no adapter 'fr_XX'; it has en_XX, de_DE, sw_KE"):
        reranker.rerank(french, Journal())
    read = CrossEncoder(str(folder), codes="xmod", language_names={"fr": "de_DE"}, device="cpu", max_tokens=128)
    assert len(read.rerank(french, Journal())) == 1
    both = [Candidates(french[0].query, [Text("d", (("de", "Katze"), ("en", "cat")))])]
    with pytest.raises(LanguageError, match=r"d is shown in de\+en(.|\n)*in one language"):
        reranker.rerank(both, Journal())
    with pytest.raises(ConfigError, match=r"set reranker\.codes=xmod"):
        CrossEncoder(str(folder), device="cpu", max_tokens=128).rerank(french, Journal())


# Adapters, differences, averages --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(made: Path) -> Path:
    save_model(made / "base", labels=1)
    return made / "base"


def lora(folder: Path, base: Path, seed: int, task: str) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel, AutoModelForSequenceClassification

    torch.manual_seed(seed)
    kind = AutoModel if task == "FEATURE_EXTRACTION" else AutoModelForSequenceClassification
    wrapped = get_peft_model(
        kind.from_pretrained(base), LoraConfig(r=4, target_modules=["query", "value"], task_type=task)
    )
    for name, weight in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.2)
    wrapped.save_pretrained(folder)
    return folder


def logits(network: Any, tokenizer: Any) -> np.ndarray[Any, Any]:
    pairs = [(q, d) for q in QUERIES for d in DOCS]
    with torch.no_grad():
        return np.array([float(network.eval()(**tokenizer([q], [d], return_tensors="pt")).logits) for q, d in pairs])


def test_a_ranking_adapter_brings_its_head_and_a_second_one_comes_on_top(made: Path, base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    one, two = (lora(made / f"rank{seed}", base, seed, "SEQ_CLS") for seed in (1, 2))
    tokenizer, network = AutoTokenizer.from_pretrained(base), AutoModelForSequenceClassification.from_pretrained(base)
    for path in (one, two):
        network = PeftModel.from_pretrained(network, path).merge_and_unload()
        done = [str(one)] if path is one else [str(one), str(two)]
        mine = in_order(CrossEncoder(str(base), adapters=tuple(done), device="cpu"))
        assert np.abs(mine - logits(network, tokenizer)).max() < 1e-4
    assert np.abs(mine - in_order(CrossEncoder(str(base), device="cpu"))).max() > 0.1


def differences(path: Path, base: Path, seed: int, *, sparse: bool, head: bool) -> dict[str, torch.Tensor]:
    """A sparse fine-tuning of some weights, saved; returns it dense."""
    from safetensors.torch import save_file
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    weights = dict(AutoModelForSequenceClassification.from_pretrained(base).named_parameters())
    names = [name for name in weights if name.endswith("query.weight") or name.endswith("word_embeddings.weight")]
    dense = {name: torch.randn(weights[name].shape) * (torch.rand(weights[name].shape) < 0.05) for name in names}
    stored: dict[str, torch.Tensor] = {"abs.cls.predictions.bias": torch.zeros(3)}  # a language model's head: not here
    for name, value in dense.items():
        places = value.flatten().nonzero()[:, 0]
        whole = {f"diffs.{name}.indices": places, f"diffs.{name}.values": value.flatten()[places].clone()}
        stored |= whole if sparse else {f"diffs.{name}": value}
    if head:
        stored["abs.classifier.out_proj.weight"] = torch.randn(weights["classifier.out_proj.weight"].shape)
    save_file(stored, str(path))
    return dense | {name: value for name, value in stored.items() if name == "abs.classifier.out_proj.weight"}


def test_sparse_fine_tunings_of_language_and_task_are_added_to_the_weights(made: Path, base: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    parts = {
        lang: differences(made / f"{lang}.safetensors", base, seed, sparse=True, head=False)
        for seed, lang in ((3, "de"), (4, "sw"))
    }
    rank = differences(made / "rank.safetensors", base, 5, sparse=False, head=True)
    reranker = CrossEncoder(
        str(base), device="cpu", adapters=(str(made / "rank.safetensors"),),
        language_adapters={"de": str(made / "de.safetensors"), "sw": str(made / "sw.safetensors"), "en": None},
    )  # fmt: skip
    found, _ = scores(reranker, mixed())
    tokenizer = AutoTokenizer.from_pretrained(base)
    for doc in mixed()[0].docs:
        network = AutoModelForSequenceClassification.from_pretrained(base).eval()  # theta_0 + phi_lang + phi_rank
        with torch.no_grad():
            for name, weight in network.named_parameters():
                weight += parts.get(doc.lang, {}).get(name, 0) + rank.get(name, 0)
            network.classifier.out_proj.weight.copy_(rank["abs.classifier.out_proj.weight"])
            expected = float(network(**tokenizer(QUERIES[0], doc.text, return_tensors="pt")).logits)
        assert found["q0", doc.id] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(LanguageError, match=r"none for 'fr', only for de, en, sw(.|\n)*fr: null"):
        reranker.check_languages(["en"], ["fr"])


def test_a_language_adapter_and_a_ranking_adapter_compose_in_this_order(made: Path, base: Path) -> None:
    rank = lora(made / "rank_last", base, 7, "SEQ_CLS")
    de = made / "de_first.safetensors"
    differences(de, base, 8, sparse=True, head=True)
    query = replace_all(mixed(), "de")
    composed, _ = scores(
        CrossEncoder(str(base), language_adapters={"de": str(de)}, adapters=(str(rank),), device="cpu"), query
    )
    by_hand, _ = scores(CrossEncoder(str(base), adapters=(str(de), str(rank)), device="cpu"), query)
    other, _ = scores(CrossEncoder(str(base), adapters=(str(rank), str(de)), device="cpu"), query)
    assert composed == by_hand
    assert composed != other, "the last one's head stays"


def replace_all(asked: list[Candidates], lang: str) -> list[Candidates]:
    return [Candidates(one.query, [Text(doc.id, ((lang, doc.text),)) for doc in one.docs]) for one in asked]


def test_differences_of_another_architecture_are_refused(made: Path, base: Path) -> None:
    from safetensors.torch import save_file

    path = made / "wrong.safetensors"
    for stored, said in (
        ({"diffs.bert.pooler.weight": torch.zeros(2)}, "no such weight"),
        ({"diffs.classifier.dense.bias": torch.zeros(2)}, "has shape"),
        (
            {
                "diffs.classifier.dense.bias.indices": torch.tensor([99]),
                "diffs.classifier.dense.bias.values": torch.ones(1),
            },
            "places",
        ),
        ({"classifier.dense.bias": torch.zeros(32)}, "no such weight"),
    ):
        save_file(stored, str(path))
        with pytest.raises(ConfigError, match=said):
            in_order(CrossEncoder(str(base), adapters=(str(path),), device="cpu"))
    path.write_bytes(b"no weights")
    with pytest.raises(MissingModel, match="cannot be read as safetensors"):
        in_order(CrossEncoder(str(base), adapters=(str(path),), device="cpu"))
    with pytest.raises(MissingModel, match="neither an adapter of peft or AdapterHub"):
        in_order(CrossEncoder(str(base), adapters=(str(base),), device="cpu"))
    with pytest.raises(ConfigError, match="does not exist"):
        in_order(CrossEncoder(str(base), adapters=("no/adapter",), device="cpu"))


def test_an_average_has_the_mean_of_the_weights(made: Path, base: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    other = made / "other"
    save_model(other, labels=1)
    second = AutoModelForSequenceClassification.from_pretrained(other)
    torch.manual_seed(9)
    with torch.no_grad():
        for weight in second.parameters():
            weight += torch.randn(weight.shape) * 0.1
    second.save_pretrained(other)
    network = AutoModelForSequenceClassification.from_pretrained(base)
    with torch.no_grad():
        for mine, theirs in zip(network.parameters(), second.parameters(), strict=True):
            mine.copy_((mine + theirs) / 2)
    found = in_order(CrossEncoder(str(base), average=(str(other),), device="cpu"))
    assert np.abs(found - logits(network, AutoTokenizer.from_pretrained(base))).max() < 1e-4


# Embedders ------------------------------------------------------------------------------------------------------------


def test_an_embedder_scores_candidates_as_sentence_transformers_does(made: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = small.labse(made / "labse")
    reranker = preset("embedder", f"reranker.model={folder}", "reranker.device=cpu", "reranker.query_prefix='ask: '")
    found, journal = scores(reranker, candidates())
    reference = SentenceTransformer(str(folder), device="cpu")
    queries = reference.encode([f"ask: {query}" for query in QUERIES], normalize_embeddings=True)
    docs = reference.encode(DOCS, normalize_embeddings=True)
    for q in range(len(QUERIES)):
        for d in range(len(DOCS)):
            assert found[f"q{q}", f"d{d}"] == pytest.approx(float(queries[q] @ docs[d]), abs=1e-5)
    assert journal.queries["q1"]["calls"] == len(DOCS)
    assert Embedder(str(folder), device="cpu").rerank([], Journal()).empty


def test_an_embedder_refuses_the_language_it_does_not_read_and_a_pooling_nobody_named(made: Path) -> None:
    with pytest.raises(LanguageError, match=r"reranker\.languages=null"):
        Embedder("me/english", languages=("en",)).check_languages(["de"], ["en"])
    plain = small.bert(made / "plain")
    with pytest.raises(ConfigError, match="how token vectors become a text's vector"):
        in_order(Embedder(str(plain), device="cpu"))
    found = in_order(Embedder(str(plain), pooling="mean", device="cpu", doc_tokens=8))
    assert np.isfinite(found).all()


def test_other_bytes_of_an_adapter_are_another_experiment_and_a_plain_cross_encoder_is_what_it_was(
    tmp_path: Path, base: Path
) -> None:
    differences(tmp_path / "de.safetensors", base, 12, sparse=True, head=False)
    prints = Fingerprints(tmp_path / "runs")
    plain = CrossEncoder(str(base))
    with_adapter = replace(plain, language_adapters={"de": str(tmp_path / "de.safetensors"), "en": None})
    before = identity(with_adapter, prints)
    assert set(identity(plain, prints)) == {"class", "engines", "model", "max_tokens", "dtype", "trust_remote_code"}
    assert set(before["language_adapters"]) == {"de", "en"}
    differences(tmp_path / "de.safetensors", base, 13, sparse=True, head=True)
    assert identity(with_adapter, Fingerprints(tmp_path / "runs")) != before


def test_a_run_reranks_with_a_label_model_and_counts_what_it_read(clir: Clir, mt5: Path) -> None:
    folder = clir.experiment(
        "dataset=demo",
        "retriever=bm25_dt",
        "reranker=mono_mt5",
        f"reranker.model={mt5}",
        "rerank.depth=4",
        "reranker.device=cpu",
    )
    assert "mono_mt5" in (folder / "metrics.csv").read_text()
    assert "prompt_tokens" in (folder / "costs.csv").read_text()
