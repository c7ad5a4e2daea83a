"""Local language models: batches change nothing, prompts are rendered as said, lengths are kept. Seeded random weights."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from clir_cli.errors import ConfigError
from clir_cli.llms.openai import OpenAI
from clir_cli.llms.remembered import Remembered
from clir_cli.llms.transformers import Transformers
from clir_cli.prompts.listwise import ListwisePrompt
from clir_cli.rerankers.listwise import Listwise
from clir_cli.segments import Segments
from clir_cli.types import LLM, Candidates, Journal, Message, Text

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIGS = Path(__file__).parents[1] / "configs"
TEXTS = [
    "The parliament debated the new law on fishing in northern waters.",
    "Der Rat beschloss am Montag, die Brücke über den Fluss zu erneuern.",
    "Hallitus päätti uusista toimista maatalouden tukemiseksi.",
    "Правительство объявило о новых мерах поддержки фермеров.",
    "Gwamnati ta sanar da sabbin matakai.",
    "政府宣布了保护农民的新措施。",
    "[1] > [2] > [3] > [4] > [5] > [6] > [7] > [8] > [9] > [10]",
]
CHAT = "{{ bos_token }}{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
PROMPT = ListwisePrompt(
    intro="For {query}:", passage="[{id}] {passage}", outro="Rank.", system="You rank.", spare_tokens=0
)


def tokenizer():
    """A byte-level BPE trained on the texts above, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    made.chat_template = CHAT
    return made


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A decoder of Llama's architecture whose checkpoint asks for sampling, which must not matter."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    folder, words = tmp_path_factory.mktemp("models") / "tiny-llama", tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=1024, initializer_range=0.4, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    network.generation_config.update(do_sample=True, temperature=1.7, top_p=0.9, repetition_penalty=1.5, pad_token_id=2)
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory) -> Path:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(2)
    folder, words = tmp_path_factory.mktemp("models") / "tiny-t5", tokenizer()
    config = T5Config(
        vocab_size=len(words), d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4, initializer_factor=3.0,
        eos_token_id=1, pad_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture
def decoder(llama) -> Transformers:
    return Transformers(model=str(llama), context=600, device="cpu")


@pytest.fixture
def encoder_decoder(t5) -> Transformers:
    return Transformers(model=str(t5), context=600, kind="seq2seq", template="plain", device="cpu")


def prompts(n: int = 7) -> list[tuple[Message, ...]]:
    return [
        (Message("system", "Rank."), Message("user", " ".join(TEXTS[i % len(TEXTS)] for i in range(k % 5 + 1))))
        for k in range(n)
    ]


@pytest.mark.parametrize("which", ["decoder", "encoder_decoder"])
def test_a_batch_says_what_each_prompt_says_alone(which, request):
    llm = request.getfixturevalue(which)
    assert isinstance(llm, LLM)
    alone = [llm.generate([prompt], 12)[0] for prompt in prompts()]
    for batch_tokens in (300, 100_000):
        batched = replace(llm, batch_tokens=batch_tokens).generate(prompts(), 12)
        assert [a._replace(seconds=0) for a in batched] == [a._replace(seconds=0) for a in alone]
    assert len({a.text for a in alone}) > 3  # the prompts matter


def test_the_answer_is_the_models_own_greedy_continuation(decoder, llama):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words, network = AutoTokenizer.from_pretrained(llama), AutoModelForCausalLM.from_pretrained(llama)
    ids = words(decoder.render(prompts()[3]), add_special_tokens=False, return_tensors="pt")["input_ids"]
    begin = ids.shape[1]
    with torch.inference_mode():
        while ids.shape[1] < begin + 10 and ids[0, -1] != words.eos_token_id:
            ids = torch.cat([ids, network(ids).logits[:, -1:].argmax(-1)], dim=1)
    (answer,) = decoder.generate([prompts()[3]], 10)
    assert answer.text == words.decode(ids[0, begin:], skip_special_tokens=True)
    assert (answer.prompt_tokens, answer.output_tokens) == (begin, ids.shape[1] - begin)


def test_a_chat_template_writes_the_special_tokens_and_they_stand_once(decoder, llama):
    from transformers import AutoTokenizer

    prompt = (Message("system", "Rank."), Message("user", "[1] one"))
    assert decoder.render(prompt) == "<s><|system|>Rank.</s><|user|>[1] one</s><|assistant|>"
    (answer,) = decoder.generate([prompt], 1)
    ids = AutoTokenizer.from_pretrained(llama)(decoder.render(prompt), add_special_tokens=False)["input_ids"]
    assert (answer.prompt_tokens, ids.count(0)) == (len(ids), 1)


def test_plain_and_own_templates_are_rendered_as_said(llama):
    prompt = (Message("system", "Rank."), Message("user", "[1] one"))
    assert Transformers(model=str(llama), context=600, template="plain").render(prompt) == "Rank.\n\n[1] one"
    own = "{% for turn in messages %}{{ turn.content }}|{% endfor %}{{ ending }}"
    assert (
        Transformers(model=str(llama), context=600, template=own, template_options={"ending": "!"}).render(prompt)
        == "Rank.|[1] one|!"
    )


def test_the_shipped_template_of_rank_zephyr_is_zephyrs(llama):
    said = yaml.safe_load((CONFIGS / "llm" / "rank_zephyr.yaml").read_text())
    del said["_target_"]
    rendered = Transformers(**said | {"model": str(llama)}).render((Message("system", "S"), Message("user", "U\nV")))
    assert rendered == "<s><|system|>\nS</s>\n<|user|>\nU\nV</s>\n<|assistant|>\n"


def test_a_model_without_a_chat_template_is_not_guessed_at(t5, llama):
    import shutil

    bare = t5.parent / "bare"
    shutil.copytree(llama, bare, dirs_exist_ok=True)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"no chat template: set llm\.template=plain"):
        Transformers(model=str(bare), context=600).render((Message("user", "x"),))


def test_a_template_that_refuses_a_system_turn_says_what_to_do(llama):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    with pytest.raises(ConfigError, match=r"(?s)System role not supported.*prompt.system=''"):
        Transformers(model=str(llama), context=600, template=template).render((Message("system", "x"),))


@pytest.mark.parametrize("settings", [{"kind": "seq2seq"}, {"template": "chatml"}, {"context": 0}])
def test_settings_that_do_not_go_together_are_refused(settings):
    with pytest.raises(ValueError):
        Transformers(**({"model": "a/b", "context": 600} | settings))


def test_a_forced_answer_is_exactly_as_long_as_asked(llama):
    llm = Transformers(model=str(llama), context=600, force_length=True, device="cpu")
    assert {a.output_tokens for a in llm.generate(prompts(), 30)} == {30}


def test_an_answer_that_reaches_the_limit_is_truncated(decoder):
    answers = decoder.generate(prompts(), 3)
    assert all(a.output_tokens <= 3 for a in answers)
    assert any(a.truncated for a in answers)


def test_a_prompt_that_does_not_fit_is_refused_and_not_cut(decoder):
    with pytest.raises(ConfigError, match=r"a prompt of \d+ tokens and an answer of 20 do not fit llm.context=600"):
        decoder.generate([*prompts(2), (Message("user", TEXTS[0] * 60),)], 20)


def test_quantisation_without_its_library_says_what_to_install(llama, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        Transformers(model=str(llama), context=600, quantisation="int4", device="cpu").generate(prompts(1), 2)


def test_nothing_to_say_to_nobody(decoder):
    assert decoder.generate([], 5) == []
    assert decoder.count_tokens([]) == decoder.cut([], 5) == []


@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 1000])
def test_a_cut_text_is_a_beginning_that_counts_no_more_than_allowed(decoder, tokens):
    texts = [*TEXTS, "🏳️‍🌈 👩‍👩‍👧 " * 3, ""]
    cut = decoder.cut(texts, tokens)
    for whole, kept, before, after in zip(
        texts, cut, decoder.count_tokens(texts), decoder.count_tokens(cut), strict=True
    ):
        assert whole.startswith(kept)
        assert after <= tokens
        assert kept == whole or after > tokens - 4  # a character of several tokens goes as a whole
        assert (before <= tokens) == (kept == whole)


def candidates() -> list[Candidates]:
    long = " ".join(TEXTS)
    docs = [Text(f"d{i}", (("de", f"{long[i:]} {i}"),)) for i in range(12)]
    return [Candidates(Text(name, (("en", f"question {name}"),)), docs) for name in "abc"]


def test_full_windows_fit_the_context_and_are_answered_alike_alone_and_together(decoder):
    reranker = Listwise(decoder, PROMPT, window=5, step=4, query_tokens=8, retries=0, max_failed_answers=1.0)
    together, alone = Journal(), Journal()
    reranker.rerank(candidates(), together)
    reranker.rerank(candidates()[1:2], alone)
    longest = max(a["prompt_tokens"] for a in together.answers)
    assert 450 < longest <= 600 - reranker.answer_tokens(5)
    assert [a["text"] for a in together.answers if a["query_id"] == "b"] == [a["text"] for a in alone.answers]
    assert all(row["texts_cut"] > 0 for row in together.queries.values())


def test_a_local_answer_is_remembered(decoder, tmp_path):
    first = Remembered(decoder, Segments(tmp_path), "tiny").generate(prompts(3), 5)
    again = Remembered(decoder, Segments(tmp_path), "tiny").generate(prompts(4), 5)
    assert [a.cached for a in again] == [True, True, True, False]
    assert [a._replace(cached=False) for a in again[:3]] == first


def test_a_tokenizer_folder_makes_a_served_models_length_exact(llama, decoder):
    served = OpenAI(model="tiny", context=600, tokenizer=str(llama))
    assert served.count_tokens(TEXTS) == decoder.count_tokens(TEXTS)
    assert served.cut(TEXTS, 5) == decoder.cut(TEXTS, 5)


def test_a_real_server_says_what_the_model_says_here(llama, decoder):
    """`transformers serve` on loopback; the client, the prompt and the greedy answer are the real ones."""
    pytest.importorskip("fastapi", reason="transformers serve needs fastapi")
    pytest.importorskip("uvicorn", reason="transformers serve needs uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        Path(sys.executable).parent / "transformers",
        "serve",
        llama,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    server = subprocess.Popen(command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, server.stderr and server.stderr.read()[-2000:]
                time.sleep(0.1)
        served = OpenAI(
            model=str(llama), context=600, base_url=f"http://127.0.0.1:{port}/v1", api_key_env=None, retries=1
        )
        prompt = (Message("user", TEXTS[0]),)
        (there,), (here,) = served.generate([prompt], 8), decoder.generate([prompt], 8)
        assert there.error is None
        assert there.prompt_tokens == here.prompt_tokens
        assert there.output_tokens == here.output_tokens
    finally:
        server.terminate()
        server.wait(20)
        if server.stderr:
            server.stderr.close()


# What a published code did to prompts


def test_twice_is_the_tokenizers_bos_before_the_templates(decoder):
    (once,), (twice,) = (
        replace(decoder, special_tokens=how)._read_prompts([(Message("user", "A law."),)]) for how in ("once", "twice")
    )
    assert (once[0], once[1:].count(0)) == (0, 0) and twice == [0, *once]
    said = [a.text for how in ("once", "twice") for a in replace(decoder, special_tokens=how).generate(prompts(), 6)]
    assert said[: len(said) // 2] != said[len(said) // 2 :], "the model reads it"
    with pytest.raises(ValueError, match="special_tokens=twice needs a chat template"):
        replace(decoder, template="plain", special_tokens="twice")


def test_a_decoders_answer_goes_on_where_it_was_begun(decoder):
    begun = replace(decoder, answer_start=" Passage:")
    asked = (Message("user", "A law."),)
    assert begun.render(asked) == decoder.render(asked) + " Passage:"
    whole = decoder._answer([begun._read_prompts([asked])[0]], 5)[0]
    assert begun.generate([asked], 5)[0].text == whole.text != decoder.generate([asked], 5)[0].text


@pytest.mark.parametrize("which", ["decoder", "encoder_decoder"])
def test_label_scores_after_a_begun_answer_are_those_of_the_whole_vocabulary(which, request):
    import torch

    plain = request.getfixturevalue(which)
    llm = replace(plain, answer_start=" Passage")
    asked = [(Message("user", text),) for text in TEXTS[:3]]
    found = [answer.scores for answer in llm.score_labels(asked, ["A", "B"])]
    ids, network = llm._label_ids(llm.render(asked[0]), ["A", "B"]), llm._network()
    for prompt, scores in zip(asked, found, strict=True):
        (row,) = llm._read_prompts([prompt])
        more = {}
        if plain.kind == "seq2seq":
            begun = [network.generation_config.decoder_start_token_id, *llm.tokenizer().encode(" Passage")[1:]]
            more = {"decoder_input_ids": torch.tensor([begun])}
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([row]), **more).logits[0, -1]
        assert torch.allclose(torch.tensor(scores), torch.log_softmax(logits[ids], 0), atol=1e-4)
    assert found != [answer.scores for answer in plain.score_labels(asked, ["A", "B"])]


def test_an_encoder_decoders_answer_is_told_without_what_it_was_begun_with(encoder_decoder):
    import torch

    llm = replace(encoder_decoder, answer_start=" Passage")
    asked = [(Message("user", text),) for text in TEXTS[:4]]
    network, words = llm._network(), llm.tokenizer()
    begun = [network.generation_config.decoder_start_token_id, *words.encode(" Passage", add_special_tokens=False)]
    for prompt, answer in zip(asked, llm.generate(asked, 4), strict=True):
        (row,) = llm._read_prompts([prompt])
        with torch.inference_mode():
            output = network.generate(
                torch.tensor([row]), decoder_input_ids=torch.tensor([begun]), max_new_tokens=4, do_sample=False
            )
        assert words.decode(output[0, len(begun) :], skip_special_tokens=True) == answer.text
    assert [a.text for a in llm.generate(asked, 4)] != [a.text for a in encoder_decoder.generate(asked, 4)]
    sums = [llm.log_likelihood(asked, ["A law"] * 4), encoder_decoder.log_likelihood(asked, ["A law"] * 4)]
    assert sums[0][0].scores != sums[1][0].scores and sums[0][0].output_tokens == sums[1][0].output_tokens


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_label_scores_in_half_precision_are_the_models_own_in_that_precision(decoder, llama, dtype):
    import torch
    from transformers import AutoModelForCausalLM

    llm = replace(decoder, dtype=dtype)
    network = AutoModelForCausalLM.from_pretrained(llama, dtype=getattr(torch, dtype))
    asked = [(Message("user", text),) for text in TEXTS[:3]]
    half, single = ([a.scores for a in judge.score_labels(asked, ["A", "B"])] for judge in (llm, decoder))
    ids = llm._label_ids(llm.render(asked[0]), ["A", "B"])
    for prompt, scores in zip(asked, half, strict=True):
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([llm._read_prompts([prompt])[0]])).logits[0, -1, ids]
        assert torch.allclose(torch.tensor(scores), torch.log_softmax(logits.float(), 0), atol=1e-2)
    assert half != single
