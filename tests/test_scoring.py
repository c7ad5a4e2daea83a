"""Probabilities of labels and texts from local models: those of the full vocabulary, whatever the batch and its padding."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_transformers_llm import TEXTS, tokenizer

from clir_cli.errors import ConfigError
from clir_cli.llms import scoring
from clir_cli.llms.remembered import Remembered
from clir_cli.llms.transformers import Transformers
from clir_cli.segments import Segments
from clir_cli.types import Message, ScoresLabels, ScoresTexts

LABELS = ["A", "B", "C", "D"]
SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}  # fmt: skip


def prompts(count: int = 12) -> list[tuple[Message, ...]]:
    """Some that begin alike, some that do not, of very different lengths."""
    draw = random.Random(3)
    shared = " ".join(TEXTS)
    return [
        (Message("user", (shared if i % 3 else "") + " ".join(draw.choices(TEXTS, k=draw.randint(1, 4)))),)
        for i in range(count)
    ]


def causal(name: str) -> torch.nn.Module:
    import transformers

    words, ends = len(tokenizer()), {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    kinds = {
        "llama": ("Llama", {}),
        "mistral with a sliding window": ("Mistral", {"sliding_window": 24, "num_key_value_heads": 2}),
        "gemma 2, soft-capped": ("Gemma2", {"final_logit_softcapping": 5.0, "head_dim": 12, "num_key_value_heads": 2, "sliding_window": 24}),
        "cohere, scaled": ("Cohere", {"logit_scale": 0.25}),
        "granite, scaled": ("Granite", {"logits_scaling": 3.0}),
        "qwen 3": ("Qwen3", {"head_dim": 12, "num_key_value_heads": 2}),
        "bloom": ("Bloom", {}),
    }  # fmt: skip
    family, more = kinds[name]
    config = getattr(transformers, f"{family}Config")
    sizes = {"hidden_size": 48, "n_layer": 2, "n_head": 4, "initializer_range": 0.3} if family == "Bloom" else SMALL
    torch.manual_seed(5)
    net = getattr(transformers, f"{family}ForCausalLM")(config(vocab_size=words, **sizes, **ends, **more))
    return net.eval()


FAMILIES = ["llama", "mistral with a sliding window", "gemma 2, soft-capped", "cohere, scaled", "granite, scaled", "qwen 3", "bloom"]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, made = tmp_path_factory.mktemp("scoring"), {}
    for name in ("llama", "mistral with a sliding window"):
        made[name] = root / name.split()[0]
        causal(name).save_pretrained(made[name])
        tokenizer().save_pretrained(made[name])
    return made


def rows(texts: list[tuple[Message, ...]]) -> list[list[int]]:
    return [tokenizer()(text[0].content)["input_ids"] for text in texts]


def one_by_one(network: torch.nn.Module, asked: list[list[int]], labels: list[int]) -> torch.Tensor:
    """The reference: the whole vocabulary's softmax at the last token of each prompt alone."""
    found = []
    for row in asked:
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([row])).logits[0, -1].float()
        found.append(torch.log_softmax(torch.log_softmax(logits, 0)[labels], 0))
    return torch.stack(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [1, 700, 100_000])
def test_label_scores_are_the_full_vocabularys(family: str, batch_tokens: int) -> None:
    network, asked, labels = causal(family), rows(prompts()), [60, 7, 99, 31]
    found = torch.empty(len(asked), len(labels))
    shared = 0
    for at, values, prefix in scoring.label_scores(network, asked, labels, batch_tokens):
        found[at] = values
        shared += sum(prefix)
    assert (found - one_by_one(network, asked, labels)).abs().max() < 1e-4
    assert shared > 0  # what prompts begin with in common was computed once


@pytest.mark.parametrize("family", FAMILIES)
def test_the_likelihood_of_a_text_is_the_sum_over_its_tokens(family: str) -> None:
    network, asked = causal(family), rows(prompts(6))
    texts = [tokenizer()(t, add_special_tokens=False)["input_ids"] for t in TEXTS[:6]]
    found = torch.empty(6)
    for at, values, _ in scoring.text_scores(network, asked, texts, 1000):
        found[at] = values[:, 0]
    for row, text, score in zip(asked, texts, found.tolist(), strict=True):
        with torch.inference_mode():
            said = torch.log_softmax(network(input_ids=torch.tensor([[*row, *text]])).logits[0].float(), 1)
        expected = sum(float(said[len(row) - 1 + i, token]) for i, token in enumerate(text))
        assert score == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_an_encoder_decoder_scores_the_first_token_it_would_write(tied: bool) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(2)
    config = T5Config(
        vocab_size=len(tokenizer()), d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4, initializer_factor=1.0,
        eos_token_id=1, pad_token_id=2, decoder_start_token_id=2, tie_word_embeddings=tied,
    )  # fmt: skip
    network, asked, labels = T5ForConditionalGeneration(config).eval(), rows(prompts()), [60, 7, 99]
    found = torch.empty(len(asked), 3)
    for at, values, _ in scoring.label_scores(network, asked, labels, 900):
        found[at] = values
    texts = [[50, 60, 70], [8]]
    likelihood = torch.empty(2)
    for at, values, _ in scoring.text_scores(network, asked[:2], texts, 900):
        likelihood[at] = values[:, 0]
    for i, row in enumerate(asked):
        begun = torch.tensor([[2, 50, 60]]) if i == 0 else torch.tensor([[2]])
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([row]), decoder_input_ids=begun).logits[0].float()
        assert (found[i] - torch.log_softmax(logits[0, labels], 0)).abs().max() < 1e-4
        if i < 2:
            said = torch.log_softmax(logits, 1)
            assert float(likelihood[i]) == pytest.approx(
                sum(float(said[at, t]) for at, t in enumerate(texts[i])), abs=1e-3
            )


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused() -> None:
    network = causal("llama")
    inner = network.lm_head.forward
    network.lm_head.forward = lambda hidden: inner(hidden) ** 3
    with pytest.raises(ConfigError, match=r"reranker\.answer=text"):
        scoring.check_head(network)


def asked_of_queries(queries: int, each: int) -> list[list[int]]:
    """Prompts that begin with an instruction, 40 tokens, and a query, 30 more, and end with passages."""
    return [[*[5] * 40, *[6 + q] * 30, *[50 + i] * (5 + i)] for i in range(each) for q in range(queries)]


def test_what_the_prompts_of_a_query_begin_with_is_read_once() -> None:
    asked = asked_of_queries(2, 5)
    groups = scoring.group(asked)
    assert sorted((sorted(i % 2 for i in g.at), g.shared) for g in groups) == [([0] * 5, 70), ([1] * 5, 70)]


def test_prompts_of_many_queries_share_the_instruction() -> None:
    (found,) = scoring.group(asked_of_queries(8, 1))
    assert (sorted(found.at), found.shared) == (list(range(8)), 40)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=60), min_size=1, max_size=12))
def test_whatever_prompts_there_are_a_group_begins_alike_and_leaves_something_to_score(asked: list[list[int]]) -> None:
    groups = scoring.group(asked)
    assert sorted(i for g in groups for i in g.at) == list(range(len(asked)))
    for g in groups:
        assert len({tuple(asked[i][: g.shared]) for i in g.at}) == 1
        assert all(len(asked[i]) > g.shared for i in g.at)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_of_many_queries_reads_each_beginning_once(family: str, threads: int) -> None:
    network, labels = causal(family), [60, 7, 99, 31]
    asked = [row + [9] * (i % 3) for i, row in enumerate(asked_of_queries(4, 3))]
    asked = [[*row[:40], *row[40 + 3 * (row[40] - 6) :]] for row in asked]  # beginnings of different lengths
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found, reused = torch.empty(len(asked), len(labels)), 0
    for at, values, shared in scoring.label_scores(network, asked, labels, 300):
        found[at] = values
        reused += sum(shared)
    torch.set_num_threads(before)
    assert (found - one_by_one(network, asked, labels)).abs().max() < 1e-4
    assert reused == 2 * (70 + 67 + 64 + 61)


@pytest.mark.parametrize("family", ["llama", "mistral with a sliding window"])
def test_a_local_model_scores_labels_and_texts(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    llm = Transformers(model=str(folders[family]), context=1024, device="cpu", dtype="float32")
    assert isinstance(llm, ScoresLabels)
    assert isinstance(llm, ScoresTexts)
    llm.check_labels(LABELS)
    asked = prompts()
    whole = llm.score_labels(asked, LABELS)
    single = [llm.score_labels([prompt], LABELS)[0] for prompt in asked]
    small = replace(llm, batch_tokens=1).score_labels(asked, LABELS)
    for a, b, c in zip(whole, single, small, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-4)
        assert a.scores == pytest.approx(c.scores, abs=1e-4)
        assert sum(torch.tensor(a.scores).exp().tolist()) == pytest.approx(1, abs=1e-5)
        assert a.text == LABELS[max(range(4), key=lambda i: a.scores[i])]
    assert sum(a.cached_prefix_tokens for a in whole) > 0
    memory = Segments(tmp_path / "memory")
    kept = Remembered(llm, memory, "me")
    first, again = kept.score_labels(asked, LABELS), kept.score_labels(asked, LABELS)
    assert [a.scores for a in again] == [a.scores for a in first]
    assert all(a.cached for a in again)
    assert not any(a.cached for a in first)
    likely = kept.log_likelihood(asked[:3], TEXTS[:3])
    assert [a.cached for a in kept.log_likelihood(asked[:3], TEXTS[:3])] == [True] * 3
    assert all(a.scores is not None and a.scores[0] < 0 and a.output_tokens > 3 for a in likely)
    memory.close()


def test_a_label_of_several_tokens_or_one_token_for_two_labels_is_refused(folders: dict[str, Path]) -> None:
    llm = Transformers(model=str(folders["llama"]), context=1024, device="cpu", dtype="float32")
    with pytest.raises(ConfigError, match="the label 'Nein' is 3 tokens"):
        llm.check_labels(["Nein", "Ja, sicher"])
    with pytest.raises(ConfigError, match="one token for several"):
        llm.check_labels(["A", "A"])
