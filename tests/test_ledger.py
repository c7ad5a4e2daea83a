"""Budgets that hold: nothing is asked that might cost more than is left, by any number of processes, after any fault."""

from __future__ import annotations

import csv
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Clir
from judge_server import JudgeServer, serving

import clir_cli
from clir_cli.errors import ConfigError, RunError
from clir_cli.ledger import Amount, Budget, Ledger, OverBudget, of_step
from clir_cli.llms.openai import OpenAI
from clir_cli.llms.prices import Price, listed, table
from clir_cli.llms.remembered import Remembered
from clir_cli.prompts.length import count_prompts
from clir_cli.segments import Segments
from clir_cli.types import Answer, Message, Prompt

DEMO = Path(clir_cli.__file__).parent / "datasets" / "demo"
KEY = f"sk-{secrets.token_hex(20)}"  # another one every time: it can be nowhere by chance
PRICE = {"input": 10.0, "output": 100.0, "cached_input": 1.0}
USAGE = (20, 2, 5)  # tokens of prompt and answer, and of the prompt those cached
COST = (15 * 10 + 5 * 1 + 2 * 100) / 1e6  # dollars


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def serve() -> Iterator[Any]:
    with ExitStack() as stack:

        def start(judge: JudgeServer, **settings: Any) -> tuple[JudgeServer, OpenAI]:
            stack.enter_context(serving(judge))
            return judge, model(judge.url, **settings)

        yield start


def model(url: str, **settings: Any) -> OpenAI:
    usual = {"model": "judge", "context": 100_000, "base_url": url, "backoff": 0.001, "price": PRICE}
    return OpenAI(**(usual | settings))


def prompts(n: int, start: int = 0) -> list[Prompt]:
    return [(Message("user", f"[1] text {i}\n[2] other {i}"),) for i in range(start, start + n)]


def length(llm: OpenAI, i: int = 0) -> int:
    """Tokens that the i-th prompt is taken to have."""
    return count_prompts(llm, prompts(1, i))[0]


# The book ----------------------------------------------------------------------------------------------------------------


def test_what_is_reserved_counts_until_it_is_settled_for_what_it_cost(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", Budget(max_tokens=100))
    first = ledger.reserve(Amount(1, 60))
    with pytest.raises(OverBudget, match=r"(?s)llm\.max_total_tokens=100 would be exceeded .*1 calls, 60 tokens"):
        ledger.reserve(Amount(1, 41))
    ledger.settle(first, Amount(1, 10))
    ledger.reserve(Amount(1, 90))
    assert ledger.taken() == Amount(2, 100)


def test_others_see_reservations_at_once_and_what_they_cost_when_it_is_written(tmp_path: Path) -> None:
    one, two = (Ledger(tmp_path / "ledger.jsonl", Budget(max_usd=1.0)) for _ in range(2))
    name = one.reserve(Amount(1, 5, 0.7))
    with pytest.raises(OverBudget, match=r"max_usd=1\.0 .*\n.*\$0\.7000; the call may take 5 tokens and \$0\.4000"):
        two.reserve(Amount(1, 5, 0.4))
    one.settle(name, Amount(1, 5, 0.2))
    one.flush()
    two.reserve(Amount(1, 5, 0.4))
    assert one.taken() == two.taken() == Amount(2, 10, pytest.approx(0.6))


def test_sums_of_tenths_fill_a_budget_exactly(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", Budget(max_usd=0.3))
    for _ in range(3):
        ledger.reserve(Amount(1, 1, 0.1))
    with pytest.raises(OverBudget):
        ledger.reserve(Amount(1, 1, 0.1))


def test_a_killed_process_s_open_reservations_stay_taken_and_its_torn_line_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, Budget(max_calls=2)).reserve(Amount(1, 10))
    with path.open("a") as out:
        out.write('[["reserve","torn",1,')
    after = Ledger(path, Budget(max_calls=2))
    assert after.taken() == Amount(1, 10)
    after.reserve(Amount(1, 10))
    assert Ledger(path, Budget()).taken() == Amount(2, 20)
    assert len(path.read_text().splitlines()) == 3


def test_threads_of_many_ledgers_never_take_more_than_there_is(tmp_path: Path) -> None:
    taken = []

    def take() -> None:
        ledger = Ledger(tmp_path / "ledger.jsonl", Budget(max_calls=40))
        for _ in range(20):
            try:
                taken.append(ledger.reserve(Amount(1, 1)))
            except OverBudget:
                return

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 40


def test_budgets_below_nothing_are_refused_and_none_limits_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        OpenAI(model="judge", context=10, max_calls=-1)
    assert of_step(OpenAI(model="judge", context=10), tmp_path) == ()
    assert len(of_step(OpenAI(model="judge", context=10, max_calls=1), tmp_path, Ledger(None, Budget()))) == 2


# Prices ------------------------------------------------------------------------------------------------------------------


def test_prices_are_of_a_host_and_have_a_date() -> None:
    assert listed("api.openai.com", "gpt-4.1-2025-04-14") == Price(2.0, 8.0, 0.5)
    assert listed("127.0.0.1", "gpt-4.1") is None
    assert all({"input", "output", "date"} <= set(row) for models in table().values() for row in models.values())
    assert OpenAI(model="gpt-4.1", context=10).cost([Answer("", 1_000_000, 500_000, 100_000)]) == 1.0 + 0.25 + 0.8


def test_a_price_is_the_user_s_before_the_table_s_and_unknown_is_not_nothing() -> None:
    answer = Answer("", 1_000_000, 0, 0)
    assert OpenAI(model="gpt-4.1", context=10, price={"input": 3, "output": 1}).cost([answer]) == 3.0
    assert OpenAI(model="my-own", context=10).cost([answer]) is None
    assert OpenAI(model="gpt-4.1", context=10).cost([Answer("", 0, 0, 5)]) is None  # the server did not say
    with pytest.raises(ValueError, match="price takes input, output"):
        OpenAI(model="judge", context=10, price={"in": 3})


def test_dollars_cannot_be_limited_without_a_price() -> None:
    llm = OpenAI(model="my-own", context=10, max_usd=1.0)
    with pytest.raises(ConfigError, match=r"no price of my-own is known: give 'llm\.price="):
        llm.check()
    sweep = Ledger(None, Budget(max_usd=1.0, options=("--max-calls", "--max-tokens", "--max-usd")))
    with pytest.raises(ConfigError, match="--max-usd limits dollars"):
        OpenAI(model="my-own", context=10).ask(prompts(1), 5, lambda at, answer: None, [sweep])


def test_costs_are_of_what_was_asked_and_what_memory_gave_is_told_apart(serve: Any, tmp_path: Path) -> None:
    _, llm = serve(JudgeServer(usage=USAGE))
    first = Remembered(llm, Segments(tmp_path), "judge")
    first.generate(prompts(3), 50)
    assert first.costs() == pytest.approx({"usd": 3 * COST, "usd_from_cache": 0.0})
    second = Remembered(llm, Segments(tmp_path), "judge")
    second.generate(prompts(4) + prompts(1), 50)
    assert second.costs() == pytest.approx({"usd": COST, "usd_from_cache": 4 * COST})
    unpriced = Remembered(model(llm.base_url or "", price=None), Segments(tmp_path), "judge")
    unpriced.generate(prompts(4), 50)
    assert unpriced.costs() == {}


# Stopping ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_budget_of_calls_stops_before_the_call_that_would_break_it_and_more_of_it_asks_only_for_the_rest(
    concurrency: int, serve: Any, tmp_path: Path
) -> None:
    judge, llm = serve(JudgeServer(usage=USAGE, seconds=0.01), max_calls=7, max_concurrency=concurrency)
    with pytest.raises(OverBudget, match=r"(?s)llm\.max_calls=7 .*7 calls.*raise llm\.max_calls and run again"):
        Remembered(llm, Segments(tmp_path / "m"), "judge", of_step(llm, tmp_path)).generate(prompts(20), 50)
    assert len(judge.requests) == 7
    with pytest.raises(OverBudget):  # the step's budget is not a new one for every run
        Remembered(llm, Segments(tmp_path / "m"), "judge", of_step(llm, tmp_path)).generate(prompts(20), 50)
    assert len(judge.requests) == 7
    more = model(judge.url, max_calls=20)
    answers = Remembered(more, Segments(tmp_path / "m"), "judge", of_step(more, tmp_path)).generate(prompts(20), 50)
    assert sum(answer.cached for answer in answers) == 7
    assert len(judge.requests) == 20
    assert judge.peak <= 8


def test_dollars_are_spent_to_the_last_call_that_surely_fits(serve: Any, tmp_path: Path) -> None:
    judge, llm = serve(JudgeServer(usage=USAGE, seconds=0.01), max_usd=40 * COST)
    ledgers = of_step(llm, tmp_path)
    with pytest.raises(OverBudget, match=r"llm\.max_usd="):
        llm.ask(prompts(200), 10, lambda at, answer: None, ledgers)
    most = llm._most(length(llm, 199), 10).usd
    spent = len(judge.requests) * COST
    assert 40 * COST - most < spent <= 40 * COST  # what was under way and came to less was waited for
    assert ledgers[0].taken().usd == pytest.approx(spent)


def test_a_budget_of_tokens_counts_prompts_and_answers(serve: Any, tmp_path: Path) -> None:
    judge, llm = serve(JudgeServer(usage=USAGE), max_total_tokens=500)
    with pytest.raises(OverBudget, match=r"llm\.max_total_tokens=500"):
        llm.ask(prompts(100), 10, lambda at, answer: None, of_step(llm, tmp_path))
    assert (500 - length(llm, 99) - 10) / 22 - 1 < len(judge.requests) <= 500 / 22


def test_refused_calls_cost_nothing_and_lost_answers_all_that_they_may_have_cost(serve: Any, tmp_path: Path) -> None:
    faults = ["429", "500", "503", "malformed", "cut", "slow"]
    _, llm = serve(JudgeServer(usage=USAGE, faults=faults), max_calls=100, timeout=0.5, max_concurrency=1)
    ledgers, arrived = of_step(llm, tmp_path), []
    answers = llm.ask(prompts(2), 10, lambda at, answer: arrived.append(at), ledgers)
    assert [answer.error for answer in answers] == [None, None] and arrived == [0, 1]
    lost = length(llm) + 10
    taken = ledgers[0].taken()
    assert (taken.calls, taken.tokens) == (2 + 3, 2 * 22 + 3 * lost)


def test_a_server_that_does_not_say_what_it_read_is_taken_to_have_cost_the_most(serve: Any, tmp_path: Path) -> None:
    _, llm = serve(JudgeServer(usage=None), max_calls=100)
    ledgers = of_step(llm, tmp_path)
    llm.ask(prompts(1), 10, lambda at, answer: None, ledgers)
    assert ledgers[0].taken().tokens > 50


def test_nobody_listening_costs_nothing(tmp_path: Path) -> None:
    llm = model("http://127.0.0.1:9/v1", max_calls=1, retries=2)
    ledgers = of_step(llm, tmp_path)
    (answer,) = llm.ask(prompts(1), 10, lambda at, answer: None, ledgers)
    assert "the connection failed" in (answer.error or "")
    assert ledgers[0].taken() == Amount()


def test_asked_without_a_ledger_a_budget_is_the_object_s_own(serve: Any) -> None:
    judge, llm = serve(JudgeServer(usage=USAGE), max_calls=3)
    llm.generate(prompts(2), 10)
    with pytest.raises(OverBudget):
        llm.generate(prompts(2), 10)
    assert len(judge.requests) == 3


def test_with_a_budget_too_concurrency_reaches_the_limit_and_never_passes_it(serve: Any, tmp_path: Path) -> None:
    faults = ["429", "cut", "500"]
    judge, llm = serve(JudgeServer(usage=USAGE, seconds=0.3, faults=faults), max_calls=100, max_concurrency=5)
    assert len(llm.ask(prompts(15), 10, lambda at, answer: None, of_step(llm, tmp_path))) == 15
    assert judge.peak == 5


# Many processes ----------------------------------------------------------------------------------------------------------


CLIENT = """
import sys
from pathlib import Path
from clir_cli.ledger import Budget, Ledger, OverBudget
from clir_cli.llms.openai import OpenAI
from clir_cli.types import Message
url, ledger, start, calls, usd = sys.argv[1:]
budget = Budget(int(calls) if calls else None, None, float(usd) if usd else None, ("--max-calls", "--max-tokens", "--max-usd"))
llm = OpenAI(model="judge", context=10000, base_url=url, price={"input": 10.0, "output": 100.0, "cached_input": 1.0})
asked = [(Message("user", f"[1] text {i}"),) for i in range(int(start), int(start) + 60)]
try:
    llm.ask(asked, 10, lambda at, answer: None, [Ledger(Path(ledger), budget)])
except OverBudget as error:
    print(error)
"""


@pytest.mark.parametrize(("calls", "usd"), [("50", ""), ("", str(50 * COST))])
def test_processes_that_share_a_sweep_s_ledger_never_spend_more_than_it_allows(
    calls: str, usd: str, serve: Any, tmp_path: Path
) -> None:
    judge, _ = serve(JudgeServer(usage=USAGE, seconds=0.005))
    ledger = tmp_path / "ledger" / "sweep.jsonl"
    command = [sys.executable, "-c", CLIENT, judge.url, str(ledger)]
    clients = [
        subprocess.Popen([*command, str(100 * i), calls, usd], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for i in range(2)
    ]
    said = [client.communicate(timeout=120)[0] for client in clients]
    assert [client.returncode for client in clients] == [0, 0]
    if calls:
        assert len(judge.requests) == 50
        assert all("--max-calls=50 would be exceeded" in text for text in said)
    else:
        assert 0.7 * 50 <= len(judge.requests) <= 50
        assert all("raise --max-usd and run again" in text for text in said)
    assert Ledger(ledger, Budget()).taken().calls == len(judge.requests)
    assert len({json.dumps(body["messages"]) for body in judge.requests}) == len(judge.requests)


# As a user meets it ------------------------------------------------------------------------------------------------------


def asking(clir: Clir, judge: JudgeServer, *more: str) -> list[str]:
    """What has the judge rerank two topics' first 30 documents, in the order that the collection has them."""
    path = clir.folder / "given.trec"
    names = [json.loads(text)["doc_id"] for text in (DEMO / "docs.de.jsonl").read_text().splitlines()[:30]]
    topics = [text.split("\t")[0] for text in (DEMO / "topics.en.tsv").read_text().splitlines()[1:3]]
    path.write_text("".join(f"{q} Q0 {d} {at} {100 - at} x\n" for q in topics for at, d in enumerate(names, 1)))
    usual = {
        "retriever": "run_file", "retriever.path": str(path), "retriever.label": "given", "dataset.limit_queries": "2",
        "reranker": "rank_gpt", "llm": "openai", "llm.model": "judge", "llm.base_url": judge.url, "llm.backoff": "0.001",
        "llm.max_concurrency": "2",
    }  # fmt: skip
    return [f"{name}={value}" for name, value in (usual | dict(change.split("=", 1) for change in more)).items()]


def costs(folder: Path) -> dict[str, str]:
    """The reranking's row in costs.csv."""
    with (folder / "costs.csv").open(newline="") as lines:
        (row,) = [row for row in csv.DictReader(lines) if row["step"].startswith("rerank/")]
    return row


def test_a_step_stops_at_its_budget_keeps_what_came_and_goes_on_with_more(clir: Clir, serve: Any) -> None:
    judge, _ = serve(JudgeServer(usage=(1000, 20, 400)))
    done = clir("run", *asking(clir, judge, "llm.max_calls=3"), code=1)
    assert "the budget llm.max_calls=3 would be exceeded by the next call, which was not made" in done.stderr
    assert "Traceback" not in done.stderr and len(judge.requests) == 3
    assert "no price of judge is known" in clir("run", *asking(clir, judge, "llm.max_usd=1"), code=2).stderr
    price = "llm.price={input:2,output:8,cached_input:0.5}"
    folder = clir.experiment(*asking(clir, judge, "llm.max_calls=100", price))
    spent, each = costs(folder), (600 * 2 + 400 * 0.5 + 20 * 8) / 1e6
    assert int(spent["calls_answered_from_cache"]) == 3
    assert int(spent["calls_asked"]) == len(judge.requests) - 3 > 0
    assert float(spent["usd"]) == pytest.approx(int(spent["calls_asked"]) * each)
    (record,) = (clir.runs / "steps" / "rerank").glob("*/step.json")
    assert json.loads(record.read_text())["counts"]["usd_from_cache"] == pytest.approx(3 * each)
    assert Ledger(record.parent / "ledger.jsonl", Budget()).taken().calls == len(judge.requests)
    assert set(judge.keys) == {KEY} and KEY not in done.stdout + done.stderr
    written = [path for path in clir.folder.rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_all_cells_of_a_sweep_stay_within_one_budget(clir: Clir, serve: Any) -> None:
    judge, _ = serve(JudgeServer(usage=(1000, 20, 400)))
    cells = asking(clir, judge, "rerank.repeat=0,1,2")
    done = clir("run", "-m", *cells, "--max-calls", "5", code=1)
    assert "--max-calls=5 would be exceeded" in done.stdout + done.stderr
    assert len(judge.requests) == 5
    clir("run", "-m", *cells, "--max-calls", "1000")
    assert len({json.dumps(body["messages"]) for body in judge.requests}) * 3 == len(judge.requests)


def test_without_a_price_the_dollars_of_a_step_are_empty_and_not_nothing(clir: Clir, serve: Any) -> None:
    judge, _ = serve(JudgeServer(logits={"A": 1.0, "B": 0.5}, logprobs=True))
    folder = clir.experiment(*asking(clir, judge, "reranker=setwise", "reranker.top=3"))
    assert costs(folder)["usd"] == ""
    assert int(costs(folder)["calls_asked"]) == len(judge.requests) > 0


def test_a_budget_error_is_a_run_s_error() -> None:
    assert issubclass(OverBudget, RunError) and OverBudget.exit_code == 1


def test_translating_with_a_served_model_is_paid_for_as_reranking_is(clir: Clir, serve: Any) -> None:
    judge, _ = serve(JudgeServer(usage=(1000, 20, 400), say=lambda ideal: "ein Wort"))
    asked = [
        "retriever=bm25_qt", "dataset.query_lang=ru", "dataset.limit_queries=6", "translator=llm", "llm=openai", "llm.model=judge",
        f"llm.base_url={judge.url}", "llm.backoff=0.001", "llm.max_concurrency=2", "llm.price={input:2,output:8}",
    ]  # fmt: skip
    done = clir("run", *asked, "--max-calls", "3", code=1)
    assert "--max-calls=3 would be exceeded" in done.stderr and len(judge.requests) == 3
    assert "llm.max_calls=4 would be exceeded" in clir("run", *asked, "llm.max_calls=4", code=1).stderr
    clir.experiment(*asked, "llm.max_calls=100")
    said = [json.dumps(body["messages"]) for body in judge.requests]
    assert len(set(said)) == len(said), "no sentence was paid for twice"
    (record,) = (clir.runs / "steps" / "translate").glob("*/step.json")
    counts = json.loads(record.read_text())["counts"]
    assert counts["usd"] + counts["usd_from_cache"] == pytest.approx(len(said) * (1000 * 2 + 20 * 8) / 1e6)
