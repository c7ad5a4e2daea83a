"""Trained rerankers beyond plain cross-encoders give what their reference implementations give, on small models of their kind."""

from __future__ import annotations

import json
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
from clir_cli.rerankers.cross_encoder import CrossEncoder
from clir_cli.rerankers.embedder import Embedder
from clir_cli.rerankers.next_token import NextToken
from clir_cli.types import Candidates, Journal, Text

CONFIGS = Path(compose.packaged()) / "reranker"
TRAINED = sorted(
    path.stem
    for path in CONFIGS.glob("*.yaml")
    if any(f"\n_target_: clir_cli.rerankers.{room}." in path.read_text() for room in ("cross_encoder", "next_token", "embedder"))
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
        [*(DOCS + QUERIES) * 4, *(" ".join(words) for _ in range(200))],
        trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
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
            vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
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
        vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=2, pad_token_id=0, **small.SIZES,
    )  # fmt: skip
    return small.save(folder, Qwen3ForCausalLM, config)


@pytest.fixture(scope="module")
def mt5(made: Path) -> Path:
    from transformers import MT5Config, MT5ForConditionalGeneration

    folder = made / "mt5"
    tokenizer = tokenizer_with(folder, ["yes", "no", "Query:", "Document:", "Relevant:"])
    config = MT5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, initializer_factor=2.0,
    )  # fmt: skip
    return small.save(folder, MT5ForConditionalGeneration, config)


def qwen_expected(folder: Path, limit: int, docs: list[str]) -> list[float]:
    """As the card of Qwen3-Reranker does it: three pieces, left padding, whole vocabulary, log-softmax of [no, yes]."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    before = tokenizer.encode(f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n<|im_start|>user\n", add_special_tokens=False)
    after = tokenizer.encode(
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", add_special_tokens=False
    )
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


@pytest.mark.parametrize(("limit", "batch_tokens"), [(1024, None), (500, 3000)])
def test_qwen3_reranker_gives_the_probabilities_of_its_card(qwen: Path, limit: int, batch_tokens: int | None) -> None:
    reranker = preset(
        "qwen3_reranker_0_6b", f"reranker.model={qwen}", "reranker.dtype=float32", "reranker.device=cpu",
        f"reranker.max_tokens={limit}", f"reranker.batch_tokens={batch_tokens or 'null'}",
    )  # fmt: skip
    docs = [*DOCS, LONG]
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
    assert (torch.tensor(found).bfloat16().double().numpy() != found).any(), "a 16-bit score would tie the best documents"


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
    [("\u2581true", "the vocabulary has no token"), ("yes", "no token|no answer begins with"), ("\u2581no", "are one token")],
)
def test_labels_of_another_checkpoint_are_refused(mt5: Path, token: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        in_order(preset("mono_mt5", f"reranker.model={mt5}", f"reranker.yes_token={token}", "reranker.device=cpu"))


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
    assert label_token(Pieces(), "\u2581", Path("m")) == 9, "the first piece of false to mT5, so a label of its 13B checkpoint"
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
    bos = ["reranker.template.0=<|im_start|>"]  # what this tokenizer has for <bos>
    found = preset("bge_reranker_gemma")
    template = ("<|im_start|>", *found.template[1:])
    reranker = NextToken(
        str(folder), template=template, yes_token="yes", no_token=None, device="cpu", max_tokens=found.max_tokens
    )
    assert bos and found.no_token is None
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
