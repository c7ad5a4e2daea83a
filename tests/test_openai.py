"""Served models: what goes wrong between here and a server, and that nothing is lost, doubled or given away."""

from __future__ import annotations

import email.utils
import json
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from judge_server import JudgeServer, serving

from clir_cli.errors import ConfigError, RunError
from clir_cli.llms.openai import OpenAI
from clir_cli.llms.remembered import Remembered, Served
from clir_cli.prompts.listwise import ListwisePrompt
from clir_cli.rerankers.listwise import Listwise
from clir_cli.segments import Segments
from clir_cli.types import LLM, Candidates, Journal, Message, Prompt, Text

KEY = "sk-never-to-be-seen-0123456789"
PROMPT = ListwisePrompt(intro="{num} passages for: {query}", passage="[{id}] {passage}", outro="Rank for: {query}")
GRADES = {
    name: dict(zip((f"text {name} {i}" for i in range(100)), random.Random(name).sample(range(1000), 100), strict=True))
    for name in ("why", "how", "who")
}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def serve():
    """Start a judge and give it with an LLM that asks it."""
    with ExitStack() as stack:

        def start(judge: JudgeServer, **settings: object) -> tuple[JudgeServer, OpenAI]:
            stack.enter_context(serving(judge))
            quick = {"model": "judge", "context": 100_000, "base_url": judge.url, "backoff": 0.01}
            return judge, OpenAI(**(quick | settings))

        yield start


def prompts(n: int) -> list[Prompt]:
    return [(Message("user", f"[1] text {i}\n[2] other {i}"),) for i in range(n)]


def candidates(names: Sequence[str] = tuple(GRADES), depth: int = 100) -> list[Candidates]:
    return [
        Candidates(Text(name, (("en", name),)), [Text(text, (("de", text),)) for text in list(GRADES[name])[:depth]])
        for name in names
    ]


def test_a_server_that_answers_from_the_judgments_gives_the_ideal_top_ten_in_nine_calls(serve):
    judge, llm = serve(JudgeServer(GRADES))
    journal = Journal()
    run = Listwise(llm, PROMPT).rerank(candidates(), journal)
    for name, grades in GRADES.items():
        assert list(run[run["query_id"] == name]["doc_id"])[:10] == sorted(grades, key=lambda text: -grades[text])[:10]
        assert journal.queries[name]["calls"] == journal.queries[name]["rounds"] == 9
        assert journal.queries[name]["prompt_tokens"] == 900
        assert journal.queries[name]["cached_prefix_tokens"] == 540
        assert journal.queries[name]["output_tokens"] == 90
    assert len(judge.requests) == 27
    assert {a["status"] for a in journal.answers} == {"ok"}
    assert {a["model"] for a in journal.answers} == {"judge"}


def test_a_request_is_what_the_api_documents(serve):
    judge, llm = serve(JudgeServer(), seed=3, extra={"chat_template_kwargs": {"enable_thinking": False}})
    assert isinstance(llm, LLM) and isinstance(llm, Served)
    llm.generate([(Message("system", "rank"), Message("user", "[1] a"))], 50)
    assert judge.requests == [
        {
            "model": "judge",
            "messages": [{"role": "system", "content": "rank"}, {"role": "user", "content": "[1] a"}],
            "max_tokens": 50,
            "temperature": 0.0,
            "seed": 3,
            "chat_template_kwargs": {"enable_thinking": False},
        }
    ]
    assert judge.keys == [KEY]


def test_a_model_that_refuses_temperature_and_max_tokens_is_asked_in_its_words(serve):
    judge, llm = serve(JudgeServer(), temperature=None, limit_name="max_completion_tokens")
    llm.generate(prompts(1), 50)
    assert set(judge.requests[0]) == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize("fault", ["429", "500", "503", "malformed", "html", "empty", "error_in_200", "cut"])
def test_what_may_pass_is_tried_again(serve, fault):
    judge, llm = serve(JudgeServer(faults=[fault, fault]))
    (answer,) = llm.generate(prompts(1), 50)
    assert (answer.error, answer.text) == (None, "[1] > [2]")
    assert len(judge.requests) == 3


def test_a_slow_answer_is_not_waited_for(serve):
    judge, llm = serve(JudgeServer(faults=["slow"]), timeout=0.3)
    (answer,) = llm.generate(prompts(1), 50)
    assert (answer.error, len(judge.requests)) == (None, 2)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("400", "maximum context length.*llm.context"),
        ("401", "check the key in OPENAI_API_KEY"),
        ("403", "may not use judge"),
        ("404", "no such model.*llm.base_url"),
        ("quota", "exceeded your current quota.*no credit"),
    ],
)
def test_what_will_not_pass_is_asked_once_and_said_in_the_servers_words(serve, fault, words):
    judge, llm = serve(JudgeServer(endless=fault), max_concurrency=1)
    with pytest.raises(RunError, match=f"(?s)127.0.0.1 refused judge with status .*{words}") as failure:
        llm.generate(prompts(5), 50)
    assert len(judge.requests) == 1
    assert KEY not in str(failure.value)
    assert failure.value.__cause__ is None and failure.value.__suppress_context__


def test_one_filtered_prompt_is_its_own_failure(serve):
    judge, llm = serve(JudgeServer(faults=["filter"]), max_concurrency=1)
    first, second = llm.generate(prompts(2), 50)
    assert "content filter" in (first.error or "")
    assert (second.error, len(judge.requests)) == (None, 2)


def test_an_answer_that_never_comes_is_an_error_and_no_text(serve):
    judge, llm = serve(JudgeServer(endless="429"), retries=2)
    (answer,) = llm.generate(prompts(1), 50)
    assert answer.text == ""
    assert answer.error == "127.0.0.1: status 429: slow down, *** (tried 3 times)"
    assert len(judge.requests) == 3


def test_nobody_listens():
    llm = OpenAI(model="judge", context=1000, base_url="http://127.0.0.1:9/v1", retries=1, backoff=0.0)
    (answer,) = llm.generate(prompts(1), 50)
    assert "the connection failed" in (answer.error or "")


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_honoured(serve, date):
    judge = JudgeServer(faults=["429"])
    judge, llm = serve(judge)
    judge.retry_after = email.utils.formatdate(time.time() + 2, usegmt=True) if date else "0.5"
    llm.generate(prompts(1), 50)
    assert judge.times[1] - judge.times[0] >= 0.5


def test_a_server_that_wants_an_hour_is_given_up(serve):
    _, llm = serve(JudgeServer(endless="429", retry_after="3600"))
    (answer,) = llm.generate(prompts(1), 50)
    assert (answer.error or "").endswith("(tried 1 times)")


def test_concurrency_reaches_the_limit_and_never_passes_it(serve):
    judge, llm = serve(JudgeServer(seconds=0.05, faults=["500", "cut", "429"] * 3), max_concurrency=5)
    answers = llm.generate(prompts(30), 50)
    assert [a.error for a in answers] == [None] * 30
    assert judge.peak == 5


def test_answers_come_back_in_the_order_of_the_prompts(serve):
    _, llm = serve(JudgeServer({f"text {i}\n": {f"other {i}": float(i % 2)} for i in range(20)}))
    answers = llm.generate(prompts(20), 50)
    assert [a.text for a in answers] == ["[1] > [2]", "[2] > [1]"] * 10


def test_a_missing_key_is_named_before_anything_is_asked(serve, monkeypatch):
    judge, llm = serve(JudgeServer(), api_key_env="MY_KEY")
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"MY_KEY .* is not set"):
        llm.generate(prompts(1), 50)
    assert not judge.requests


def test_a_local_server_needs_no_key(serve, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    judge, llm = serve(JudgeServer(), api_key_env=None)
    assert llm.generate(prompts(1), 50)[0].error is None
    assert judge.keys == ["none"]


def test_another_model_behind_the_same_name_is_said_once_and_counted(serve, capsys):
    _, llm = serve(JudgeServer(models=["judge-1", "judge-1", "judge-2"]), max_concurrency=1)
    llm.generate(prompts(5), 50)
    assert llm.changes == 3
    assert capsys.readouterr().err.count("one ranking of two models") == 1


def test_an_answer_cut_by_the_limit_says_so(serve):
    _, llm = serve(JudgeServer(finish="length"))
    assert llm.generate(prompts(1), 50)[0].truncated


# Through the reranker ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["I cannot rank these 20 passages.", "", "404 not found", "[0] > [21]"])
def test_a_server_that_talks_nonsense_keeps_the_prior_order_and_counts_every_window(serve, words):
    judge, llm = serve(JudgeServer(say=lambda ideal: words))
    journal = Journal()
    run = Listwise(llm, PROMPT, max_failed_answers=1.0).rerank(candidates(["why"]), journal)
    assert list(run["doc_id"]) == list(GRADES["why"])
    assert journal.queries["why"]["failed"] == 9
    assert journal.queries["why"]["calls"] == len(judge.requests) == 18


def test_half_an_answer_is_repaired_and_counted(serve):
    _, llm = serve(JudgeServer(GRADES, say=lambda ideal: "Here: " + " > ".join(f"[{i}]" for i in ideal[:10])))
    journal = Journal()
    run = Listwise(llm, PROMPT).rerank(candidates(["why"]), journal)
    assert list(run["doc_id"])[:10] == sorted(GRADES["why"], key=lambda text: -GRADES["why"][text])[:10]
    assert sorted(run["doc_id"]) == sorted(GRADES["why"])
    assert (journal.queries["why"]["repaired"], journal.queries["why"].get("failed")) == (9, None)


def test_a_server_with_every_fault_in_turn_loses_nothing_and_changes_nothing(serve):
    faults = ["429", "500", "malformed", "cut", "html", "503", "slow", "empty"]
    judge, llm = serve(JudgeServer(GRADES, faults=[f for fault in faults for f in (fault, "", "")]), timeout=0.5)
    journal = Journal()
    run = Listwise(llm, PROMPT).rerank(candidates(), journal)
    _, calm = serve(JudgeServer(GRADES))
    assert run.equals(Listwise(calm, PROMPT).rerank(candidates(), Journal()))
    assert len(judge.requests) == 27 + len(faults)
    assert sum(row["calls"] for row in journal.queries.values()) == 27
    assert {a["status"] for a in journal.answers} == {"ok"}


def test_an_error_never_becomes_a_ranking(serve):
    _, llm = serve(JudgeServer(GRADES, endless="500"), retries=0)
    with pytest.raises(RunError, match=r"(?s)1 of 27 requests.*hiccupped over 12 > 3 > 7"):
        Listwise(llm, PROMPT).rerank(candidates(), Journal())
    journal = Journal()
    run = Listwise(llm, PROMPT, max_failed_answers=1.0).rerank(candidates(), journal)
    assert list(run["doc_id"]) == [text for grades in GRADES.values() for text in grades]
    assert [row["failed"] for row in journal.queries.values()] == [9, 9, 9]


def test_the_key_stands_nowhere(serve, tmp_path, capsys):
    _, llm = serve(JudgeServer(GRADES, endless="429"), retries=0)
    memory = Segments(tmp_path)
    journal = Journal()
    Listwise(Remembered(llm, memory, "judge"), PROMPT, max_failed_answers=1.0).rerank(candidates(["why"]), journal)
    memory.close()
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert KEY not in json.dumps(journal.answers) + written + repr(llm) + "".join(capsys.readouterr())


# Memory -----------------------------------------------------------------------------------------------------------------


def test_a_rerun_asks_nothing_and_costs_what_it_cost(serve, tmp_path):
    judge, llm = serve(JudgeServer(GRADES))
    first, second = Journal(), Journal()
    run = Listwise(Remembered(llm, Segments(tmp_path), "judge"), PROMPT).rerank(candidates(), first)
    again = Listwise(Remembered(llm, Segments(tmp_path), "judge"), PROMPT).rerank(candidates(), second)
    assert run.equals(again)
    assert len(judge.requests) == 27
    for name in GRADES:
        assert second.queries[name]["calls"] == second.queries[name]["calls_from_cache"] == 9
        assert second.queries[name] == first.queries[name] | {"calls_from_cache": 9}


def test_another_identity_or_length_is_another_answer(serve, tmp_path):
    judge, llm = serve(JudgeServer())
    memory = Segments(tmp_path)
    for identity, length in [("a", 50), ("b", 50), ("a", 51), ("a", 50)]:
        Remembered(llm, memory, identity).generate(prompts(1), length)
    assert len(judge.requests) == 3


def test_the_same_prompt_twice_is_asked_once(serve, tmp_path):
    judge, llm = serve(JudgeServer())
    answers = Remembered(llm, Segments(tmp_path), "judge").generate(prompts(1) * 3 + prompts(2), 50)
    assert [a.cached for a in answers] == [False, True, True, True, False]
    assert len(judge.requests) == 2


def test_errors_are_not_remembered(serve, tmp_path):
    judge, llm = serve(JudgeServer(faults=["500"]), retries=0)
    remembered = Remembered(llm, Segments(tmp_path), "judge")
    assert remembered.generate(prompts(1), 50)[0].error
    assert remembered.generate(prompts(1), 50)[0].error is None
    assert len(judge.requests) == 2


def test_answers_that_came_before_a_refusal_are_kept(serve, tmp_path):
    judge, llm = serve(JudgeServer(faults=["", "", "", "401"]), max_concurrency=1)
    with pytest.raises(RunError):
        Remembered(llm, Segments(tmp_path), "judge").generate(prompts(10), 50)
    assert len(judge.requests) == 4
    answers = Remembered(llm, Segments(tmp_path), "judge").generate(prompts(10), 50)
    assert sum(a.cached for a in answers) == 3
    assert len(judge.requests) == 4 + 7


# Length -----------------------------------------------------------------------------------------------------------------


def test_without_a_tokenizer_length_is_estimated_by_script():
    llm = OpenAI(model="judge", context=1000)
    assert llm.count_tokens(["", "nine char", "1234", "слово", "中文", "हि"]) == [0, 3, 4, 5, 3, 3]
    assert llm.cut(["nine char and more", "слово", "中文字", "abc", ""], 3) == ["nine char", "сло", "中文", "abc", ""]
    assert llm.cut(["text"], 0) == [""]


@pytest.mark.parametrize("settings", [{"max_concurrency": 0}, {"timeout": 0.0}, {"retries": -1}, {"context": 0}])
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(ValueError, match="must be positive"):
        OpenAI(**({"model": "judge", "context": 1000} | settings))


def test_importing_the_client_imports_no_library():
    import subprocess
    import sys

    code = "import sys, clir_cli.llms.openai, clir_cli.llms.transformers, clir_cli.llms.remembered, clir_cli.rerankers.listwise, clir_cli.rerankers.oracle; sys.exit(bool({'openai', 'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0
