"""Language models as rerankers, end to end: `clir run` against a judge on loopback that knows the judgments."""

from __future__ import annotations

import csv
import gzip
import json
import random
import secrets
import shutil
import signal
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import judge_server
import pytest
from conftest import STATIC, XQUAD, Clir, needs_shared
from judge_server import JudgeServer, ranking, serving

import clir_cli
from clir_cli.errors import ConfigError
from clir_cli.llms.openai import OpenAI
from clir_cli.prompts.listwise import ListwisePrompt, line
from clir_cli.rerankers.listwise import Listwise
from clir_cli.rerankers.sorting import windows
from clir_cli.runs import read_trec
from clir_cli.store import read_lists

DEMO = Path(clir_cli.__file__).parent / "datasets" / "demo"
CONFIGS = Path(__file__).parent / "configs"
KEY = f"sk-{secrets.token_hex(20)}"  # another one every time: it can be nowhere by chance
NAME = "JUDGE_KEY"
TOPICS = 5
ANSWERED = "run.trec", "first_stage.trec", "metrics.csv", "per_query.csv"  # what two runs of the same answers share


# The demo collection and its judge ------------------------------------------------------------------------------------


def passages(lang: str) -> dict[str, str]:
    """The demo's documents as a judge is shown them, by the part of the id that translations share."""
    docs = [json.loads(text) for text in (DEMO / f"docs.{lang}.jsonl").read_text().splitlines()]
    return {d["doc_id"].partition("-")[2]: line(f"{d['title']} {d['text']}") for d in docs}


def topics(lang: str) -> dict[str, str]:
    with (DEMO / f"topics.{lang}.tsv").open(newline="") as lines:
        return {row["query_id"]: row["title"] for row in csv.DictReader(lines, delimiter="\t")}


def grades() -> dict[str, dict[str, int]]:
    """query_id -> document -> relevance, the same in every language."""
    found: dict[str, dict[str, int]] = {}
    for text in (DEMO / "qrels.de.txt").read_text().splitlines():
        query, _, doc, grade = text.split()
        found.setdefault(query, {})[doc.partition("-")[2]] = int(grade)
    return found


def judgments(query_lang: str = "en", doc_lang: str = "de") -> dict[str, dict[str, int]]:
    """query -> passage -> relevance, by the texts that the prompt shows."""
    shown, asked = passages(doc_lang), topics(query_lang)
    return {asked[q]: {shown[d]: grade for d, grade in of.items()} for q, of in grades().items()}


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory: pytest.TempPathFactory) -> Clir:
    """A store where every topic has all 60 documents in a random order, as somebody's run left them."""
    clir = Clir(tmp_path_factory.mktemp("first"))
    judged, names = grades(), sorted(passages("de"))
    with (clir.folder / "random.trec").open("w") as out:
        for query in judged:
            order = random.Random(query).sample(names, len(names))
            out.writelines(f"{query} Q0 de-{d} {at} {100 - at} random\n" for at, d in enumerate(order, 1))
    clir("run", "-q", *ranked_at_random(clir), "reranker=oracle")
    return clir


def ranked_at_random(clir: Clir) -> list[str]:
    path = clir.folder / "random.trec"
    return ["retriever=run_file", f"retriever.path={path}", "retriever.label=random", f"dataset.limit_queries={TOPICS}"]


@pytest.fixture
def store(first_stage: Clir, clir: Clir) -> Clir:
    """That store, for one test alone."""
    shutil.copytree(first_stage.folder, clir.folder, dirs_exist_ok=True)
    return clir


@pytest.fixture
def serve() -> Iterator[Callable[[JudgeServer], JudgeServer]]:
    with ExitStack() as stack:
        yield lambda judge: stack.enter_context(serving(judge))


def by(judge: JudgeServer, *more: str) -> list[str]:
    """The overrides that have this judge rerank."""
    usual = {
        "reranker": "rank_gpt", "llm": "openai", "llm.model": "judge", "llm.base_url": judge.url, "llm.api_key_env": NAME,
        "llm.context": "32768", "llm.backoff": "0.001",
    }  # fmt: skip
    return [f"{key}={value}" for key, value in (usual | dict(change.split("=", 1) for change in more)).items()]


def speaking(key: str = KEY) -> dict[str, str]:
    """The environment in which clir has a key, and asks its own machine directly."""
    return {NAME: key, "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}


def rerank(clir: Clir, judge: JudgeServer, *more: str) -> Path:
    return clir.experiment(*ranked_at_random(clir), *by(judge, *more), env=speaking())


def refused(clir: Clir, judge: JudgeServer, *more: str, key: str = KEY, code: int = 1) -> str:
    """What clir says when the reranking fails."""
    debug, changes = [m for m in more if m == "--debug"], [m for m in more if m != "--debug"]
    done = clir("run", *debug, *ranked_at_random(clir), *by(judge, *changes), code=code, env=speaking(key))
    return done.stdout + done.stderr


# What an experiment says of itself --------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def value(folder: Path, stage: str = "final") -> float:
    """nDCG@10 of a stage."""
    (row,) = [r for r in rows(folder / "metrics.csv") if r["measure"] == "nDCG@10" and r["stage"] == stage]
    return float(row["value"])


def costs(folder: Path, stage: str = "rerank") -> dict[str, float]:
    """The numbers of a stage's row in costs.csv."""
    (row,) = [r for r in rows(folder / "costs.csv") if r["step"].startswith(f"{stage}/")]
    return {name: float(text) for name, text in row.items() if text and name not in {"experiment", "step", "cached"}}


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in gzip.decompress((folder / "answers.jsonl.gz").read_bytes()).splitlines()]


def remembered(clir: Clir) -> int:
    """How many answers the store keeps, by the lines that were written."""
    files = (clir.runs / "memory" / "answers").glob("*/*.jsonl")
    return sum(
        len(json.loads(text))
        for file in files
        for text in file.read_text().splitlines(keepends=True)
        if text.endswith("\n")
    )


def forget_rankings(clir: Clir) -> None:
    """What was reranked is gone; what was answered is not."""
    shutil.rmtree(clir.runs / "steps" / "rerank")
    for folder in clir.runs.glob("demo*/*rank_gpt*"):
        shutil.rmtree(folder)


def nothing_is_lost(folder: Path) -> bool:
    before, after = read_lists(folder / "first_stage.trec"), read_lists(folder / "run.trec")
    return before.keys() == after.keys() and all(sorted(before[q]) == sorted(after[q]) for q in before)


def prompts(judge: JudgeServer) -> list[str]:
    return ["\n".join(turn["content"] for turn in body["messages"]) for body in judge.requests]


@pytest.fixture(scope="module")
def undisturbed(first_stage: Clir, tmp_path_factory: pytest.TempPathFactory) -> tuple[Clir, Path, int]:
    """A store where a perfect judge has reranked, its experiment, and how often the judge was asked."""
    clir = Clir(tmp_path_factory.mktemp("undisturbed"))
    shutil.copytree(first_stage.folder, clir.folder, dirs_exist_ok=True)
    with serving(JudgeServer(judgments())) as judge:
        folder = rerank(clir, judge)
        return clir, folder, len(judge.requests)


@pytest.fixture
def finished(undisturbed: tuple[Clir, Path, int], clir: Clir) -> Clir:
    shutil.copytree(undisturbed[0].folder, clir.folder, dirs_exist_ok=True)
    return clir


# Right answers ----------------------------------------------------------------------------------------------------------


def test_a_judge_that_knows_the_judgments_gives_the_ideal_top_ten_and_the_books_say_what_it_cost(
    undisturbed: tuple[Clir, Path, int],
) -> None:
    clir, folder, asked = undisturbed
    (oracle,) = clir.runs.glob("demo~q*/random+oracle-*")
    assert value(folder) == value(oracle) > 2 * value(folder, "first_stage")
    assert len(windows(60, 20, 10)) == 5 and asked == 5 * TOPICS
    assert costs(folder) == costs(folder) | {
        "documents": 60 * TOPICS, "queries": TOPICS, "calls_asked": 5 * TOPICS, "calls_answered_from_cache": 0, "rounds": 5,
        "prompt_tokens": 500 * TOPICS, "cached_prefix_tokens": 300 * TOPICS, "output_tokens": 50 * TOPICS, "repaired": 0, "failed": 0,
    }  # fmt: skip
    for row in rows(folder / "queries.csv"):
        numbers = {name: float(row[name]) for name in list(row)[2:]}
        assert numbers.pop("seconds") > 0
        expected = {"calls": 5, "rounds": 5, "prompt_tokens": 500, "output_tokens": 50}
        assert numbers == {**expected, "repaired": 0, "failed": 0, "cut_share": 0}
    said = answers(folder)
    assert len(said) == asked and set(Counter(a["query_id"] for a in said).values()) == {5}
    for answer in said:
        assert answer["status"] == "ok"
        assert answer["text"] == ranking([int(i) for i in answer["text"].strip("[]").split("] > [")]), "as it came"
    assert {len(a["docs"]) for a in said} == {20} and {a["model"] for a in said} == {"judge"}
    row = rows(folder / "metrics.csv")[-1]
    assert row["reranker"].startswith("rank_gpt") and row["llm"].startswith("openai")
    assert (row["stage"], row["rerank_query"], row["rerank_depth"]) == ("final", "original", "100")
    assert nothing_is_lost(folder)


@needs_shared(XQUAD)
@needs_shared(STATIC)
def test_a_hundred_candidates_are_nine_calls_on_english_questions_over_spanish_paragraphs(
    clir: Clir, serve: Callable[[JudgeServer], JudgeServer]
) -> None:
    texts = {d["docid"]: d["text"] for d in map(json.loads, (XQUAD / "corpus.es.jsonl").read_text().splitlines())}
    asked = dict(text.split("\t") for text in (XQUAD / "topics.en.tsv").read_text().splitlines())
    found: dict[str, dict[str, int]] = {}
    for query, _, doc, grade in (text.split() for text in (XQUAD / "qrels.es.txt").read_text().splitlines()):
        found.setdefault(asked.get(query, query), {})[line(texts[doc])] = int(grade)
    judge = serve(JudgeServer(found))
    base = ["--config-dir", str(CONFIGS), "dataset=xquad_r", "dataset.pair=en-es", "dataset.limit_queries=3"]
    base += ["retriever=static_multi", "retrieve.depth=100"]
    folder = clir.experiment(*base, *by(judge, "reranker.passage_tokens=2400", "llm.context=131072"), env=speaking())
    assert len(judge.requests) == 27 and {r["calls"] for r in rows(folder / "queries.csv")} == {"9"}
    assert {r["cut_share"] for r in rows(folder / "queries.csv")} == {"0.0"}
    assert value(folder) == value(clir.experiment(*base, "reranker=oracle")) > value(folder, "first_stage")


def test_what_was_answered_is_not_asked_again(finished: Clir, undisturbed: tuple[Clir, Path, int]) -> None:
    before = undisturbed[1]
    nobody = JudgeServer(url="http://127.0.0.1:9/v1")  # nothing listens there
    same = rerank(finished, nobody)
    assert same.name == before.name and costs(same)["calls_asked"] == 5 * TOPICS, (
        "a finished experiment tells what it cost when it was made"
    )
    forget_rankings(finished)
    again = rerank(finished, nobody)
    assert all((again / name).read_bytes() == (before / name).read_bytes() for name in (*ANSWERED, "queries.csv"))
    assert costs(again) == {
        **costs(before),
        "calls_asked": 0,
        "calls_answered_from_cache": 5 * TOPICS,
        "seconds": costs(again)["seconds"],
    }
    assert [a["text"] for a in answers(again)] == [a["text"] for a in answers(before)] and all(
        a["cached"] for a in answers(again)
    )


def test_another_prompt_window_length_or_repetition_asks_again(
    finished: Clir, serve: Callable[[JudgeServer], JudgeServer]
) -> None:
    judge = serve(JudgeServer(judgments()))
    changes = {
        "prompt.intro_reply=Go": 5,
        "reranker.window=30": 4,
        "rerank.repeat=1": 5,
        "reranker.passage_tokens=40": 5,
    }
    keys = {p.name[-16:] for p in finished.runs.glob("demo*/*rank_gpt*")}
    for change, calls in changes.items():
        before = len(judge.requests)
        folder = rerank(finished, judge, change)
        assert len(judge.requests) - before == calls * TOPICS == costs(folder)["calls_asked"], change
        assert folder.name[-16:] not in keys, change
        keys.add(folder.name[-16:])
    assert all(float(r["cut_share"]) > 0.9 for r in rows(folder / "queries.csv")), "40 tokens are a sentence"


def test_speed_and_place_are_no_part_of_an_experiment(finished: Clir, undisturbed: tuple[Clir, Path, int]) -> None:
    moved = ["llm.base_url=http://127.0.0.1:9/v2", "llm.max_concurrency=1", "llm.timeout=3", "llm.retries=0"]
    moved += ["llm.backoff=9", "reranker.max_failed_answers=1.0"]
    assert rerank(finished, JudgeServer(url="unused"), *moved).name == undisturbed[1].name


def test_queries_with_few_and_with_many_candidates_are_asked_together(
    store: Clir, serve: Callable[[JudgeServer], JudgeServer]
) -> None:
    lines = (store.folder / "random.trec").read_text().splitlines(keepends=True)
    (store.folder / "random.trec").write_text("".join(t for t in lines if int(t.split()[3]) <= 2 * int(t[1:3])))
    judge = serve(JudgeServer(judgments(), seconds=0.4))
    folder = rerank(store, judge)
    assert [len(a["docs"]) for a in answers(folder)] == [2, 4, 6, 8, 10]
    assert judge.peak == len(judge.requests) == TOPICS <= 8


def test_how_often_it_asks_and_what_would_stop_it_is_known_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompt = ListwisePrompt(intro="For {query}:", passage="[{id}] {passage}", outro="Rank.")
    judged = Listwise(OpenAI(model="judge", context=8192, api_key_env=NAME), prompt, passage_tokens=300)
    assert [judged.calls(n) for n in (0, 1, 2, 20, 60, 100)] == [0, 0, 1, 1, 5, 9]
    with pytest.raises(ConfigError, match=f"{NAME} .* is not set"):
        judged.check()
    monkeypatch.setenv(NAME, KEY)
    judged.check()
    with pytest.raises(ConfigError, match=r"passage_tokens=500 does not fit: llm\.context=8192 leaves 3\d\d for each"):
        replace(judged, passage_tokens=500).check()


# Interruptions and misbehaviour -----------------------------------------------------------------------------------------


def test_kill_minus_nine_asks_only_for_what_had_not_arrived(
    store: Clir, undisturbed: tuple[Clir, Path, int], serve: Callable[[JudgeServer], JudgeServer]
) -> None:
    judge = serve(JudgeServer(judgments(), seconds=0.1))
    overrides = [*ranked_at_random(store), *by(judge, "llm.max_concurrency=4")]
    running = store.start("run", "--quiet", *overrides, env=speaking())
    while judge.answered < 14 and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    kept = remembered(store)
    assert 10 <= kept < undisturbed[2]
    time.sleep(0.3)  # what was under way is answered to nobody
    judge.requests.clear()
    folder = rerank(store, judge)
    assert len(judge.requests) == undisturbed[2] - kept
    assert all((folder / name).read_bytes() == (undisturbed[1] / name).read_bytes() for name in ANSWERED)
    assert costs(folder)["calls_answered_from_cache"] == kept


@dataclass
class Careless(JudgeServer):
    """A judge that answers few prompts as it should until it is reminded; its best ten always stand first."""

    told: dict[str, int] = field(default_factory=dict)  # prompt -> the way it was answered

    def way(self, body: Mapping[str, Any]) -> int:
        reminded = body["messages"][-1]["content"].endswith("as in [2] > [1] > [3].")
        return 0 if reminded else zlib.crc32(str(body["messages"]).encode()) % 5

    def fault(self, number: int) -> str | None:
        """Only prompts that one answer is enough for meet the faults, or it would be chance which is refused for good."""
        with self.lock:
            enough = [n for n, body in enumerate(self.requests[: number + 1]) if self.way(body) > 1]
        return super().fault(len(enough) - 1) if enough[-1:] == [number] else None

    def answer(self, body: Mapping[str, Any]) -> str:
        way = self.told[str(body["messages"])] = self.way(body)
        ideal = super().answer(body)
        best = " > ".join(ideal.split(" > ")[:10])
        chatty = f"Sure! Here it is:\n{ideal}\nbecause [3] is good."
        return [ideal, "I would rather not rank passages.", best, f"{best} > [1] > [99] > {ideal}", chatty][way]


def test_whatever_goes_wrong_no_document_is_lost_and_every_repair_is_counted(
    store: Clir, undisturbed: tuple[Clir, Path, int], serve: Callable[[JudgeServer], JudgeServer]
) -> None:
    wrong = ["filter", "429", "500", "cut", "malformed", "html", "empty", "error_in_200", "503", "slow"]
    judge = serve(Careless(judgments(), faults=[fault for each in wrong for fault in ("", each)], retry_after="0.01"))
    folder = rerank(store, judge, "llm.retries=12", "llm.timeout=0.5")
    ways = Counter(judge.told.values())
    assert ways[1] and ways[2] and ways[3] and ways[4]
    assert nothing_is_lost(folder)
    assert value(folder) == value(undisturbed[1]), "the best ten survive every repair"
    total = Counter[str]()
    for row in rows(folder / "queries.csv"):
        total.update({name: int(row[name]) for name in ("calls", "repaired", "failed")})
    assert total["repaired"] == costs(folder)["repaired"] == ways[2] + ways[3] + ways[4]
    assert total["failed"] == costs(folder)["failed"] == 0
    assert total["calls"] == costs(folder)["calls_asked"] == sum(ways.values()) + 1, (
        "the prompt that was refused is asked twice"
    )
    said = Counter(a["status"] for a in answers(folder))
    assert said == {"ok": ways[0], "failed": ways[1] + 1, "partial": ways[2], "repaired": ways[3] + ways[4]}
    (error,) = [a["error"] for a in answers(folder) if a["error"]]
    assert "content filter" in error


def test_too_many_failures_fail_the_run_and_what_arrived_is_kept(
    store: Clir, undisturbed: tuple[Clir, Path, int], serve: Callable[[JudgeServer], JudgeServer]
) -> None:
    broken = serve(JudgeServer(judgments(), faults=[""] * 20, endless="500"))
    said = refused(store, broken, "llm.retries=1")
    assert f"1 of {5 * TOPICS} requests got no usable answer, more than reranker.max_failed_answers=0.01" in said
    assert "status 500: the server hiccupped" in said and "run again to ask only for the rest" in said
    assert "Traceback" not in said
    assert remembered(store) == 20 and not list(store.runs.glob("demo*/*rank_gpt*"))
    judge = serve(JudgeServer(judgments()))
    folder = rerank(store, judge)
    assert len(judge.requests) == undisturbed[2] - 20
    assert all((folder / name).read_bytes() == (undisturbed[1] / name).read_bytes() for name in ANSWERED)


def test_a_model_that_never_ranks_is_told_apart_from_a_server_that_fails(
    store: Clir, serve: Callable[[JudgeServer], JudgeServer]
) -> None:
    stubborn = serve(JudgeServer(say=lambda ideal: "As an assistant I have no opinion."))
    said = refused(store, stubborn, "rerank.depth=20")
    assert (
        "nothing usable in 'As an assistant I have no opinion.'" in said and "rerank.repeat asks the model anew" in said
    )
    folder = rerank(store, stubborn, "rerank.depth=20", "reranker.max_failed_answers=1.0")
    assert read_lists(folder / "run.trec") == read_lists(folder / "first_stage.trec")
    assert costs(folder)["failed"] == TOPICS and costs(folder)["calls_answered_from_cache"] == 2 * TOPICS


def test_the_key_is_nowhere(
    store: Clir, serve: Callable[[JudgeServer], JudgeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the server quotes it, and where a long message is cut in the middle of it."""
    monkeypatch.setitem(judge_server.REFUSALS, "503", (503, f"{'overloaded ' * 44}{{key}}", None))
    said = [
        refused(store, serve(JudgeServer(faults=["429", "429", ""], endless="401")), "--debug"),
        refused(store, serve(JudgeServer(endless="503")), "llm.retries=0", "--debug", "rerank.repeat=1"),
        refused(store, serve(JudgeServer()), "--debug", "rerank.repeat=2", key=f"{KEY}\nanother", code=2),
    ]
    assert "Traceback" in said[0] and f"Incorrect API key provided: ***\n  check the key in {NAME}" in said[0]
    assert "status 503: overloaded" in said[1] and "export the key alone" in said[2]
    kept = [json.loads(p.read_text())["error"] for p in (store.runs / "steps" / "rerank").glob(".*/failed.json")]
    assert any("Incorrect API key provided: ***" in text for text in kept)
    judge = serve(JudgeServer(judgments(), faults=["429", "500", "429"]))
    folder = rerank(store, judge, "rerank.repeat=3", "rerank.depth=20")
    assert set(judge.keys) == {KEY} and (folder / "config.yaml").exists()
    files = [p for p in store.folder.rglob("*") if p.is_file()]
    contents = [gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in files]
    assert not [str(p) for p, text in zip(files, contents, strict=True) if KEY[:12].encode() in text]
    assert not [text for text in said if KEY[:12] in text]


# What the judge is shown ------------------------------------------------------------------------------------------------


def test_the_judge_sees_the_views_that_were_asked_for(store: Clir, serve: Callable[[JudgeServer], JudgeServer]) -> None:
    german, english = passages("de"), passages("en")
    asked, fragen = list(topics("en").values())[:TOPICS], list(topics("de").values())[:TOPICS]

    for views, queries, texts in (
        (["rerank.doc=query_lang"], asked, [english]),
        (["rerank.query=doc_lang"], fragen, [german]),
        (["rerank.doc=[original,en]"], asked, [german, english]),
    ):
        judge = serve(JudgeServer())
        folder = rerank(store, judge, "rerank.depth=20", *views)
        seen = prompts(judge)
        assert len(seen) == TOPICS
        for query, found in read_lists(folder / "first_stage.trec").items():
            (text,) = [t for t in seen if f"Search query: {queries[int(query[1:]) - 1]}\n" in t]
            lines = [" ".join(of[d.partition("-")[2]] for of in texts) for d in found[:20]]
            assert all(f"[{at}] {passage}\n" in text for at, passage in enumerate(lines, 1)), views
    finals = [rows(p)[-1] for p in store.runs.glob("demo*/*rank_gpt*/metrics.csv")]
    columns = {(row["rerank_query"], row["rerank_doc"]) for row in finals}
    assert columns == {("original", "query_lang"), ("doc_lang", "original"), ("original", "original+en")}


@pytest.mark.skipif(shutil.which("apertium") is None, reason="needs the Debian packages apertium and apertium-eng-spa")
def test_only_the_candidates_are_translated_for_the_judge(
    clir: Clir, serve: Callable[[JudgeServer], JudgeServer]
) -> None:
    judge = serve(JudgeServer())
    base = ["dataset.pair=en-es", "dataset.limit_queries=2", "retriever=bm25_qt", "translator=apertium"]
    base += ["rerank.doc=query_lang", "rerank.depth=3"]
    folder = clir.experiment(*base, *by(judge), env=speaking())
    candidates = {d for docs in read_lists(folder / "first_stage.trec").values() for d in docs[:3]}
    (row,) = [r for r in rows(folder / "costs.csv") if r["step"].startswith("translate/") and "topics" not in r["step"]]
    assert 0 < float(row["documents"]) == len(candidates) <= 6
    (first, *_), original = prompts(judge), passages("es")
    seen = [text.partition("] ")[2] for text in first.splitlines() if text.startswith("[")]
    assert len(seen) == 3 and not set(seen) & {*original.values(), *passages("en").values()}, "a machine's English"
    assert sum(" the " in f" {text.lower()} " for text in seen) == 3


# Local models and cascades ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of Llama's architecture with seeded random weights: it talks nonsense, always the same."""
    import torch
    from test_transformers_llm import tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    folder, words = tmp_path_factory.mktemp("models") / "tiny-llama", tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=2048, initializer_range=0.4, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_a_local_model_answers_all_queries_together_and_always_alike(
    first_stage: Clir, tmp_path: Path, llama: Path
) -> None:
    local = [
        "reranker=rank_gpt", "llm=transformers", f"llm.model={llama}", "llm.context=2048", "llm.device=cpu", "prompt.spare_tokens=0",
        "reranker.window=4", "reranker.step=2", "rerank.depth=8", "reranker.passage_tokens=40", "reranker.query_tokens=16",
        "reranker.retries=0", "reranker.max_failed_answers=1.0", "llm.batch_tokens=65536",
    ]  # fmt: skip
    folders = []
    for name in ("one", "two"):
        clir = Clir(tmp_path / name)
        shutil.copytree(first_stage.folder, clir.folder)
        folders.append(clir.experiment(*ranked_at_random(first_stage), *local, env=speaking()))
    one, two = folders
    assert one.name == two.name and nothing_is_lost(one)
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in ANSWERED)
    assert [a["text"] for a in answers(one)] == [a["text"] for a in answers(two)]
    assert costs(one)["calls_asked"] == 3 * TOPICS and costs(one)["rounds"] == 3
    assert all(a["model"] == str(llama) and 0 < a["prompt_tokens"] < 2048 for a in answers(one))
    together = Counter(a["seconds"] for a in answers(one))
    assert sorted(together.values()) == [TOPICS] * 3, "a batch per round: its queries share the time it took"
    smaller = [*ranked_at_random(first_stage), *local[:-1], "llm.batch_tokens=600"]
    assert Clir(tmp_path / "one").experiment(*smaller) == one, "the size of a batch is no part of an experiment"


def test_a_judge_after_a_cross_encoder_ranks_what_it_left_on_top(
    store: Clir, serve: Callable[[JudgeServer], JudgeServer]
) -> None:
    from test_cross_encoder import save_model

    save_model(store.folder / "tiny", labels=1)
    (store.folder / "configs" / "reranker").mkdir(parents=True)
    (store.folder / "configs" / "reranker" / "tiny.yaml").write_text(
        f"# clir run reranker=tiny\n# random weights\n_target_: clir_cli.rerankers.cross_encoder.CrossEncoder\nmodel: {store.folder}/tiny\n"
    )
    judge = serve(JudgeServer(judgments()))
    both = by(judge, "reranker=cascade", "reranker.parts=[tiny,rank_gpt]", "reranker.depths=[60,30]")
    folder = store.experiment(*ranked_at_random(store), *both, env=speaking())
    assert len(judge.requests) == 2 * TOPICS and nothing_is_lost(folder)
    assert {r["stage"] for r in rows(folder / "metrics.csv")} == {"first_stage", "rerank_1", "rerank_2", "final"}
    middle, final, known = read_lists(folder / "rerank_1.trec"), read_lists(folder / "run.trec"), grades()
    assert middle != read_lists(folder / "first_stage.trec")
    for query, docs in middle.items():
        ideal = sorted((known[query].get(d.partition("-")[2], 0) for d in docs[:30]), reverse=True)
        assert [known[query].get(d.partition("-")[2], 0) for d in final[query][:10]] == ideal[:10]
        assert final[query][30:] == docs[30:]
    assert len(answers(folder)) == 2 * TOPICS, "only the judge talks"
    assert all(float(r["calls"]) == 62 for r in rows(folder / "queries.csv")), "60 pairs and 2 windows"
    assert {r["output_tokens"] for r in rows(folder / "queries.csv")} == {"20"}


def test_scores_of_a_reranked_run_fall_strictly(undisturbed: tuple[Clir, Path, int]) -> None:
    for _, ranked in read_trec(undisturbed[1] / "run.trec", order="score").groupby("query_id"):
        assert ranked["score"].is_monotonic_decreasing and ranked["score"].is_unique and len(ranked) == 60


def test_what_a_reranker_draws_follows_the_stages_seed_which_is_part_of_its_identity(clir):
    wrong = clir("plan", "reranker=tour_rank", "reranker.seed=3", code=2)
    assert "reranker.seed=3: what a reranker draws follows rerank.seed; set that" in wrong.stderr
