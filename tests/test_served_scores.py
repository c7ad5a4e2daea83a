"""Labels scored by a served model: probabilities where it tells them, its words where it silently does not."""

from __future__ import annotations

import importlib.util
import math
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from judge_server import JudgeServer, serving
from test_transformers_llm import llama, tokenizer  # noqa: F401  llama is a fixture

from clir_cli.errors import ConfigError, RunError
from clir_cli.llms.openai import LABEL_TOKENS, OpenAI
from clir_cli.llms.remembered import Remembered, Served
from clir_cli.llms.vllm import VLLM
from clir_cli.prompts.instructed import Grade, Order, Pick
from clir_cli.rerankers.listwise import Listwise
from clir_cli.rerankers.pairwise import Pairwise
from clir_cli.rerankers.pointwise import Pointwise, QueryLikelihood
from clir_cli.rerankers.setwise import Setwise
from clir_cli.reranking import totals
from clir_cli.segments import Segments
from clir_cli.types import LLM, Answer, Candidates, Journal, Message, Prompt, ScoresLabels, ScoresTexts, Text

GRADES = {
    name: {f"text {name} {i}": grade / 4 for i, grade in enumerate(random.Random(name).sample(range(20), 20))}
    for name in ("why", "how")
}
ALGORITHMS = {
    "yes or no": lambda llm: Pointwise(llm, Grade()),
    "pairs": lambda llm: Pairwise(llm, Pick()),
    "sets": lambda llm: Setwise(llm, Pick()),
    "lists by one token": lambda llm: Listwise(llm, Order(labels="letters"), answer="labels", window=10, step=5),
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-unseen")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def serve() -> Iterator[Any]:
    with ExitStack() as stack:

        def start(judge: JudgeServer, **settings: Any) -> tuple[JudgeServer, OpenAI]:
            stack.enter_context(serving(judge))
            quick = {"model": "judge", "context": 100_000, "base_url": judge.url, "backoff": 0.001}
            return judge, OpenAI(**(quick | settings))

        yield start


def prompts(n: int) -> list[Prompt]:
    return [(Message("user", f"question {i}"),) for i in range(n)]


def candidates() -> list[Candidates]:
    return [
        Candidates(Text(name, (("en", name),)), [Text(text, (("fi", text),)) for text in grades])
        for name, grades in GRADES.items()
    ]


def best(name: str) -> list[str]:
    return sorted(GRADES[name], key=lambda text: -GRADES[name][text])[:5]


# Probabilities -----------------------------------------------------------------------------------------------------------


ONE_LABEL = ("yes or no", "lists by one token")  # what is written of them is no order


@pytest.mark.parametrize(
    ("name", "logprobs"), [(n, known) for n in ALGORITHMS for known in (True, False) if known or n not in ONE_LABEL]
)
def test_every_algorithm_finds_the_best_with_a_server_that_tells_probabilities_and_with_one_that_ignores_the_question(
    name: str, logprobs: bool, serve: Any
) -> None:
    judge, llm = serve(JudgeServer(GRADES, logprobs=logprobs))
    assert isinstance(llm, LLM) and isinstance(llm, ScoresLabels) and isinstance(llm, Served)
    reranker, journal = ALGORITHMS[name](llm), Journal()
    reranker.check()
    run = reranker.rerank(candidates(), journal)
    for query, grades in GRADES.items():
        found = list(run[run["query_id"] == query]["doc_id"])
        assert found[:5] == best(query) and sorted(found) == sorted(grades)
    assert {answer["scores"] is not None for answer in journal.answers} == {logprobs}
    assert {answer["status"] for answer in journal.answers} == {"ok"}
    assert all(body["logprobs"] is True and body["temperature"] == 0.0 for body in judge.requests)


def test_scores_are_the_labels_probabilities_among_themselves_with_and_without_a_blank_before(serve: Any) -> None:
    logits = {"A": 1.0, "B": 0.5, "C": -2.0, "Other": 3.0}
    _, llm = serve(JudgeServer(logits=logits, logprobs=True))
    (answer,) = llm.score_labels(prompts(1), ["A", "B", "C", "D"])
    total = math.log(sum(math.exp(logits[label]) for label in "ABC"))
    assert answer.scores == pytest.approx([*(logits[label] - total for label in "ABC"), -math.inf], abs=1e-9)
    assert (answer.text.strip(), answer.truncated, answer.error) == ("Other", False, None)


def test_a_label_beyond_the_twenty_likeliest_tokens_is_hidden_and_the_others_are_not(serve: Any) -> None:
    logits = {"A": 5.0, **{f"x{i}": 3.0 for i in range(30)}, "B": 1.0}
    _, llm = serve(JudgeServer(logits=logits, logprobs=True))
    assert llm.score_labels(prompts(1), ["A", "B"])[0].scores == (0.0, -math.inf)


def test_one_token_is_asked_for_as_soon_as_an_answer_has_shown_that_the_server_tells(serve: Any) -> None:
    judge, llm = serve(JudgeServer(logits={"A": 1.0, "B": 0.0}, logprobs=True), max_concurrency=1)
    llm.score_labels(prompts(3), ["A", "B"])
    assert [body["max_tokens"] for body in judge.requests] == [LABEL_TOKENS, 1, 1]
    assert all(body["top_logprobs"] == 20 for body in judge.requests)


def test_words_around_a_label_are_read_where_the_server_tells_nothing(serve: Any, capsys: Any) -> None:
    judge, llm = serve(JudgeServer(GRADES, words="Passage {} of them"))
    journal = Journal()
    answers = llm.score_labels([(Message("user", "why\n[A] text why 1\n[B] text why 2"),)] * 4, ["A", "B"])
    assert [answer.scores for answer in answers] == [None] * 4
    assert {len(answer.text.split()) for answer in answers} == {4}
    assert {body["max_tokens"] for body in judge.requests} == {LABEL_TOKENS}
    run = Setwise(llm, Pick()).rerank(candidates(), journal)
    assert list(run[run["query_id"] == "why"]["doc_id"])[:5] == best("why")
    assert capsys.readouterr().err.count("gave no log-probabilities") == 1


def test_answers_without_the_scores_that_were_wanted_are_counted_from_memory_too(serve: Any, tmp_path: Path) -> None:
    judge, llm = serve(JudgeServer(logits={"A": 1.0, "B": 0.0}))
    for again in (False, True):
        remembered = Remembered(llm, Segments(tmp_path), "judge")
        answers = remembered.score_labels(prompts(3), ["A", "B"])
        assert [answer.cached for answer in answers] == [again] * 3
        assert remembered.costs() == {"without_scores": 3}
    assert len(judge.requests) == 3


def test_the_beginning_of_a_longer_label_is_no_score(serve: Any) -> None:
    judge, llm = serve(JudgeServer(logits={"Nd": 3.0, "Ha": 1.0, "Yes": 0.0}, logprobs=True), max_concurrency=1)
    assert [answer.scores for answer in llm.score_labels(prompts(2), ["Ndiyo", "Yes"])] == [None, None]
    assert [body["max_tokens"] for body in judge.requests] == [LABEL_TOKENS] * 2  # the word must have room


def test_label_answers_are_kept_the_moment_they_come(serve: Any, tmp_path: Path) -> None:
    logits = {"A": 1.0, "B": 0.0}
    judge, llm = serve(JudgeServer(logits=logits, logprobs=True, faults=["", "", "", "401"]), max_concurrency=1)
    with pytest.raises(RunError):
        Remembered(llm, Segments(tmp_path), "judge").score_labels(prompts(10), ["A", "B"])
    remembered = Remembered(llm, Segments(tmp_path), "judge")
    answers = remembered.score_labels(prompts(10), ["A", "B"])
    assert sum(answer.cached for answer in answers) == 3
    assert len(judge.requests) == 4 + 7
    assert {tuple(round(score, 9) for score in answer.scores or ()) for answer in answers} == {
        (-0.313261688, -1.313261688)
    }
    remembered.score_labels(prompts(1), ["A", "C"])
    remembered.generate(prompts(1), 1)
    assert len(judge.requests) == 4 + 7 + 2  # other labels, and words, are other questions


def test_a_hidden_label_stays_hidden_in_the_memory(serve: Any, tmp_path: Path) -> None:
    _, llm = serve(JudgeServer(logits={"A": 1.0}, logprobs=True))
    first = Remembered(llm, Segments(tmp_path), "judge").score_labels(prompts(1), ["A", "B"])
    (again,) = Remembered(llm, Segments(tmp_path), "judge").score_labels(prompts(1), ["A", "B"])
    assert again.cached and again.scores == first[0].scores == (0.0, -math.inf)


def test_every_fault_in_turn_loses_and_changes_nothing(serve: Any) -> None:
    faults = ["429", "500", "malformed", "cut", "html", "503", "slow", "empty"]
    noisy = JudgeServer(GRADES, logprobs=True, faults=[f for fault in faults for f in (fault, "", "")])
    journal = Journal()
    run = Setwise(serve(noisy, timeout=0.5)[1], Pick()).rerank(candidates(), journal)
    judge, llm = serve(JudgeServer(GRADES, logprobs=True))
    assert run.equals(Setwise(llm, Pick()).rerank(candidates(), Journal()))
    assert len(noisy.requests) == len(judge.requests) + len(faults)
    assert sum(row["calls"] for row in journal.queries.values()) == len(judge.requests)


def test_a_server_that_refuses_the_question_is_told_how_to_be_asked(serve: Any) -> None:
    _, llm = serve(JudgeServer(endless="400"))
    with pytest.raises(RunError, match=r"takes no logprobs, reranker\.answer=text"):
        llm.score_labels(prompts(1), ["A", "B"])


def test_a_served_model_has_no_likelihood_of_a_text(serve: Any) -> None:
    from clir_cli.prompts.instructed import WriteQuery

    _, llm = serve(JudgeServer())
    assert not isinstance(llm, ScoresTexts)
    with pytest.raises(ConfigError, match="choose llm=transformers"):
        QueryLikelihood(llm, WriteQuery()).check()


@pytest.fixture
def transformers_serve(llama: Path) -> Iterator[str]:  # noqa: F811
    """`transformers serve` with the small model; its address."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(llama), "--device", "cpu"]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            assert server.poll() is None
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(20)


def test_transformers_serve_ignores_that_probabilities_are_wanted_and_its_words_are_kept(
    transformers_serve: str,
    llama: Path,  # noqa: F811
    tmp_path: Path,
    capsys: Any,
) -> None:
    llm = OpenAI(
        model=str(llama), context=1000, base_url=transformers_serve, api_key_env=None, max_concurrency=2, max_calls=3
    )
    remembered = Remembered(llm, Segments(tmp_path), "tiny")
    answers = remembered.score_labels(prompts(3), ["A", "B"])
    assert [(answer.error, answer.scores) for answer in answers] == [(None, None)] * 3
    assert all(answer.text and answer.prompt_tokens and answer.output_tokens <= LABEL_TOKENS for answer in answers)
    assert remembered.costs() == {"without_scores": 3}
    assert capsys.readouterr().err.count("gave no log-probabilities") == 1


# Labels as tokens --------------------------------------------------------------------------------------------------------


def test_labels_are_checked_against_the_tokenizer_where_there_is_one(serve: Any, llama: Path) -> None:  # noqa: F811
    _, llm = serve(JudgeServer(), tokenizer=str(llama))
    llm.check_labels(["A", "B", "C"])
    with pytest.raises(ConfigError, match=r"'Quetzalcoatl' is several tokens .* reranker\.answer=text"):
        llm.check_labels(["A", "Quetzalcoatl"])
    with pytest.raises(ConfigError, match="labels must differ"):
        serve(JudgeServer())[1].check_labels(["A", "A"])


def test_a_vllm_server_is_asked_for_the_labels_token_numbers(serve: Any, llama: Path) -> None:  # noqa: F811
    from transformers import AutoTokenizer

    number = AutoTokenizer.from_pretrained(llama).convert_tokens_to_ids
    logits = {f"token_id:{number('A')}": -30.0, f"token_id:{number('B')}": -31.0, "token_id:3": 0.0}
    judge, llm = serve(JudgeServer(logits=logits, logprobs=True), tokenizer=str(llama), logprob_token_ids=True)
    (answer,) = llm.score_labels(prompts(1), ["A", "B"])
    assert answer.scores == pytest.approx([-0.313261688, -1.313261688])  # far from the top, and told all the same
    (body,) = judge.requests
    assert {number("A"), number("B")} <= set(body["logprob_token_ids"])
    assert body["return_tokens_as_token_ids"] is True and "top_logprobs" not in body


def test_more_token_numbers_than_a_vllm_server_takes_are_refused_before_it_is_asked(serve: Any, llama: Path) -> None:  # noqa: F811
    judge, llm = serve(JudgeServer(), tokenizer=str(llama), logprob_token_ids=True)
    labels = [word for word in tokenizer().get_vocab() if word.isascii()]
    assert all(llm._label_ids(labels).values())
    with pytest.raises(ConfigError, match=r"at most 128 logprob_token_ids, and .* llm\.logprob_token_ids=false"):
        llm.check_labels(labels)
    assert not judge.requests


def test_token_numbers_need_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="needs tokenizer"):
        OpenAI(model="judge", context=100, logprob_token_ids=True)


# Another model behind the name -------------------------------------------------------------------------------------------


def test_another_fingerprint_is_a_change_of_the_model_and_is_counted(serve: Any) -> None:
    _, llm = serve(JudgeServer(GRADES, logprobs=True, fingerprints=["f1"] * 5 + ["f2"]), max_concurrency=1)
    journal = Journal()
    Setwise(llm, Pick()).rerank(candidates(), journal)
    assert {answer["fingerprint"] for answer in journal.answers} == {"f1", "f2"}
    assert totals(journal)["model_changes"] == 1


# vLLM in this process: what it is asked for ------------------------------------------------------------------------------


def offline(folder: Path, **settings: Any) -> VLLM:
    return VLLM(model=str(folder), context=512, **settings)


def test_vllm_is_named_where_it_is_not_installed(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))
    llm = offline(llama)
    assert isinstance(llm, LLM) and isinstance(llm, ScoresLabels) and isinstance(llm, ScoresTexts)
    for ask in (llm.check, lambda: llm.generate(prompts(1), 5), lambda: llm.score_labels(prompts(1), ["A", "B"])):
        with pytest.raises(ConfigError, match="pip install vllm"):
            ask()
    with pytest.raises(ConfigError, match="do not fit"):
        llm.generate([(Message("user", "word " * 900),)], 5)


@dataclass
class Recorded:
    """Stands where vLLM is not installed: keeps what it is asked for and answers in vLLM's documented shapes."""

    calls: list[tuple[list[Any], dict[str, Any]]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def package(self) -> Any:
        def engine(**options: Any) -> Any:
            self.options = options
            return SimpleNamespace(generate=self.generate)

        class SamplingParams(dict[str, Any]):
            __struct_fields__ = "temperature", "logprob_token_ids"

        return SimpleNamespace(LLM=engine, SamplingParams=SamplingParams)

    def generate(self, asked: Sequence[Any], params: dict[str, Any], use_tqdm: bool) -> list[Any]:
        self.calls.append((list(asked), dict(params)))
        return [self.answer(row["prompt_token_ids"], params) for row in asked]

    def answer(self, ids: Sequence[int], params: dict[str, Any]) -> Any:
        labels = {i: SimpleNamespace(logprob=-float(at)) for at, i in enumerate(params.get("logprob_token_ids", []))}
        said = SimpleNamespace(token_ids=[7, 8], finish_reason="stop", logprobs=[labels])
        told = [None, *({i: SimpleNamespace(logprob=-0.5)} for i in ids[1:])]
        return SimpleNamespace(outputs=[said], prompt_logprobs=told, num_cached_tokens=3)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    from clir_cli.llms import vllm

    record, find = Recorded(), importlib.util.find_spec
    monkeypatch.setitem(sys.modules, "vllm", record.package())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "vllm" or find(name))
    monkeypatch.setattr(vllm, "_loaded", {})
    monkeypatch.setattr(vllm, "AT_ONCE", 2)
    return record


def test_vllm_gets_token_numbers_greedily_with_prefix_caching_and_few_at_a_time(
    recorded: Recorded,
    llama: Path,  # noqa: F811
) -> None:
    llm = offline(llama, tensor_parallel=2)
    answers = llm.generate(prompts(5), 9)
    assert [len(asked) for asked, _ in recorded.calls] == [2, 2, 1]
    assert recorded.calls[0][0][0] == {"prompt_token_ids": llm.reader._read_prompts(prompts(1))[0]}
    assert recorded.calls[0][1] == {"temperature": 0.0, "max_tokens": 9, "min_tokens": 0, "detokenize": False}
    wanted = {"enable_prefix_caching": True, "tensor_parallel_size": 2, "max_model_len": 512, "model": str(llama)}
    assert wanted.items() <= recorded.options.items()
    length = llm.count_prompts(prompts(1))[0]
    text = llm.reader.tokenizer().decode([7, 8])
    assert answers[0]._replace(seconds=0) == Answer(text, length, 3, 2, model=str(llama))
    assert llm.gpus == 2


def test_vllm_is_asked_for_exactly_the_labels(recorded: Recorded, llama: Path) -> None:  # noqa: F811
    llm = offline(llama)
    llm.check_labels(["A", "B"])
    (answer,) = llm.score_labels(prompts(1), ["A", "B"])
    assert answer.scores == pytest.approx([-0.313261688, -1.313261688])
    assert (answer.text, answer.output_tokens) == ("A", 1)
    ids = llm._label_ids(prompts(1)[0], ["A", "B"])
    ((_, params),) = recorded.calls
    assert params == {"temperature": 0.0, "max_tokens": 1, "logprobs": 2, "logprob_token_ids": ids, "detokenize": False}


def test_vllm_measures_a_continuation_token_by_token(recorded: Recorded, llama: Path) -> None:  # noqa: F811
    (answer,) = offline(llama).log_likelihood(prompts(1), ["why not"])
    assert answer.scores == (-0.5 * answer.output_tokens,)
    assert recorded.calls[0][1]["prompt_logprobs"] == 0


def test_an_old_vllm_is_refused(recorded: Recorded, llama: Path) -> None:  # noqa: F811
    sys.modules["vllm"].SamplingParams.__struct_fields__ = ("temperature",)
    with pytest.raises(ConfigError, match="pip install -U vllm"):
        offline(llama).check_labels(["A", "B"])
