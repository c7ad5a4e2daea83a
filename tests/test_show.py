"""What an experiment did, topic by topic: the ranking with its texts, the judge's answers, and what was not found."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Clir
from hypothesis import given
from hypothesis import strategies as st
from judge_server import JudgeServer, serving
from test_rerank import NAME, by, judgments

from clir_cli.errors import ConfigError
from clir_cli.experiment import read_rows
from clir_cli.store import read_lists
from clir_cli.text.terminal import clusters, fitted, one_line, wrapped
from clir_cli.verbs import show, showing

PASSAGES = "retrieve.passages={unit:sentences,window:2}"
KEPT = ["retriever=bm25_dt", "dataset.limit_queries=6"]

FOREIGN = {  # id -> title and text, and their English translations
    "fa": {"fa-1": ("جزر و مد", "جزر و مد بالا و پایین رفتن منظم سطح دریا است که بیشتر بر اثر گرانش ماه و خورشید پدید می‌آید. در بسیاری از سواحل آب هر روز دو بار بالا می‌آید و دو بار پایین می‌رود، و گاهی بیشتر.", "Tides", "The sea rises \x1b[31mand\x07 falls.")},
    "zh": {"zh-1": ("潮汐", "潮汐是海水在月球和太阳引力作用下的周期性涨落。在大多数海岸，海水每天涨落两次。月球离地球更近，因此它的影响约为太阳的两倍，当太阳、月球和地球成一直线时会出现大潮，这时海水涨得最高。", "Tides", "Sea water rises and falls twice a day.")},
    "hi": {"hi-1": ("ज्वार", "चंद्रमा और सूर्य के गुरुत्वाकर्षण से समुद्र का जल स्तर ऊपर उठता और नीचे गिरता है।", "Tides", "The sea level changes.")},
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Clir:
    """The demo with translated queries, translated documents and fused, alone and before an oracle."""
    clir = Clir(tmp_path_factory.mktemp("show"))
    clir("run", "-m", "retriever=bm25_dt,hybrid", "reranker=none,oracle")
    return clir


@pytest.fixture(scope="module")
def judged(store: Clir) -> dict[str, Path]:
    """The same store with a language model's rerankings: of documents in two languages, of best passages, and in a row."""
    with pytest.MonkeyPatch.context() as patch, serving(JudgeServer(judgments())) as judge:
        patch.setenv(NAME, "none")
        patch.setenv("NO_PROXY", "127.0.0.1")
        both = by(judge, "rerank.depth=30")
        pairs = by(judge, "reranker=pairwise", "dataset.limit_queries=1", "rerank.depth=6")
        one = by(judge, "rerank.tail=cut", "rerank.depth=4", "rerank.unit=best_passage", "rerank.doc=query_lang")
        return {
            "bilingual": store.experiment(*KEPT, *both, "rerank.doc=[original,query_lang]"),
            "passages": store.experiment(*KEPT, PASSAGES, *one),
            "pairwise": store.experiment("retriever=bm25_dt", *pairs),
            "cascade": store.experiment(*KEPT, *by(judge, "reranker=cascade"), "reranker.parts=[rank_gpt,oracle]", "reranker.depths=[20,5]"),
        }  # fmt: skip


def told(store: Clir, name: str) -> show.Told:
    return show.Told(show.named(name, store.runs))


def topic(folder: Path, query_id: str = "t03", depth: int = 10) -> dict[str, Any]:
    return show.topic(show.Told(folder.resolve()), query_id, depth)


@pytest.fixture
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


# Which experiment -----------------------------------------------------------------------------------------------------


def test_an_experiment_is_named_by_its_folder_its_key_or_its_name(store: Clir) -> None:
    (folder,) = store.runs.glob("demo.en-de/bm25_dt+oracle-*")
    key = folder.name.rpartition("-")[2]
    for name in (str(folder), f"demo.en-de/{folder.name}", key, key[:8], "bm25_dt+oracle", "demo.en-de/bm25_dt+o"):
        assert show.named(name, store.runs) == folder.resolve()
    assert show.named("bm25_dt", store.runs).name.startswith("bm25_dt-"), "the whole name, not a longer one's beginning"


def test_what_names_no_experiment_or_several_is_refused_with_what_there_is(store: Clir) -> None:
    (sweep,) = store.runs.glob("sweeps/*")
    for name, said in {
        "hyb": r"may mean 2 experiments: demo.en-de/hybrid\+oracle-\w+, demo.en-de/hybrid-\w+",
        "bm25_td": "did you mean .*bm25_dt",
        str(sweep): "is a sweep of 4 experiments; name one: demo.en-de/bm25_dt-",
        str(store.runs / "demo.en-de"): "is no experiment's folder",
    }.items():
        with pytest.raises(ConfigError, match=said):
            show.named(name, store.runs)


def test_an_unknown_topic_is_refused_with_those_that_look_like_it(store: Clir) -> None:
    said = store("show", "bm25_dt", "--query", "T003", code=2).stderr
    assert "has no topic 'T003'; near ones among its 36: t03, " in said


# The experiment -------------------------------------------------------------------------------------------------------


def test_the_overview_has_the_metrics_of_the_folder_and_the_worst_topics_first(store: Clir) -> None:
    found = show.overview(told(store, "bm25_dt+oracle"))
    folder = Path(found["folder"])
    rows = [row for row in read_rows(folder / "per_query.csv") if row["measure"] == "nDCG@10"]
    values = {row["query_id"]: float(row["value"]) for row in rows if row["stage"] == "final"}
    assert found["main"] == "nDCG@10" and len(found["topics"]) == 36
    assert [t["final"] for t in found["topics"]] == sorted(values.values())
    assert {t["query_id"]: t["final"] for t in found["topics"]} == values
    assert {r["value"] for r in found["metrics"]} == {float(r["value"]) for r in read_rows(folder / "metrics.csv")}
    assert all(step["there"] for step in found["steps"]) and found["notes"] == []


def test_the_overview_fits_a_terminal_and_full_has_every_topic(store: Clir, eighty: None) -> None:
    found = show.overview(told(store, "bm25_dt+oracle"))
    short, full = showing.overview(found, full=False), showing.overview(found, full=True)
    lines = short.splitlines()
    assert lines[0] == found["experiment"]
    assert all(len(line) <= 80 for line in lines if "/" not in line), "only paths are longer: they are to be copied"
    assert "dataset      demo: topics in en, documents in de" in lines
    assert "reads        bm25_dt: topics in en (title), documents in en (title, text)" in lines
    assert "... 26 topics between; --full shows them" in lines and "--full" not in full
    worst = lines[lines.index("nDCG@10 by topic, the worst first") + 2]
    assert worst == "t22         0.0000  0.0000  +0.0000  stopping epidemics"
    assert all(f"\n{t['query_id']} " in full for t in found["topics"])
    assert len(full.splitlines()) == len(lines) + 25


def test_without_a_reranker_there_is_one_column_and_no_change(store: Clir, eighty: None) -> None:
    said = showing.overview(show.overview(told(store, "bm25_dt")), full=False)
    assert "\nreranker" not in said and "change" not in said and "\ntopic   final\n" in said


# A topic --------------------------------------------------------------------------------------------------------------


def test_a_topic_has_the_ranking_grades_and_both_texts_as_the_collection_has_them(store: Clir) -> None:
    one = told(store, "bm25_dt+oracle")
    found = show.topic(one, "t16", 4)
    final, first = (read_lists(one.folder / name)["t16"] for name in ("run.trec", "first_stage.trec"))
    demo = Path(show.__file__).parents[1] / "datasets" / "demo"
    texts = {
        row["doc_id"]: f"{row['title']} {row['text']}"
        for lang in ("de", "en")
        for row in map(json.loads, (demo / f"docs.{lang}.jsonl").read_text().splitlines())
    }
    grades = {
        d: int(g) for q, _, d, g in map(str.split, (demo / "qrels.de.txt").read_text().splitlines()) if q == "t16"
    }
    assert [row["doc_id"] for row in found["documents"]] == final[:4]
    for at, row in enumerate(found["documents"], 1):
        doc = row["doc_id"]
        assert (row["rank"], row["ranks"]) == (at, {"first_stage": first.index(doc) + 1})
        assert row["grades"] == {"qrels": grades.get(doc)}
        assert row["texts"] == {"de": texts[doc], "en": texts[f"en{doc[2:]}"]}, "the original, then what BM25 read"
    everything = [row["doc_id"] for part in ("documents", "below", "missed") for row in found[part]]
    assert {d for d, grade in grades.items() if grade} <= set(everything)
    assert all(d not in final for d in (row["doc_id"] for row in found["missed"]))


def test_a_fused_ranking_shows_the_topic_in_the_languages_of_its_parts(store: Clir, eighty: None) -> None:
    found = show.topic(told(store, "hybrid"), "t16", 1)
    assert list(found["topic"]) == ["en", "de"] and found["topic"]["de"]["title"]
    assert [(r["name"], r["query_langs"]) for r in found["readers"]] == [("bm25_qt", ("de",)), ("bm25_dt", ("en",))]
    said = showing.topic(found, full=False)
    assert "bm25_qt: topics in de (title), documents in de (title, text)" in said.splitlines()


def test_relevant_documents_that_were_not_found_stand_at_the_end_the_most_relevant_first(
    store: Clir, eighty: None
) -> None:
    found = show.topic(told(store, "bm25_dt+oracle"), "t16", 1)
    assert [(r["doc_id"], r["grades"]["qrels"], r["rank"]) for r in found["missed"]] == [
        ("de-birds-1", 2, None), ("de-elephant-1", 1, None), ("de-wildebeest-1", 1, None),
    ]  # fmt: skip
    said = showing.topic(found, full=False)
    assert "relevant, not found: 3\nrank  first_stage  grade  document\n   -            -      2  de-birds-1\n" in said
    below = show.topic(told(store, "bm25_dt"), "t16", 1)["below"]
    assert [r["doc_id"] for r in below] == ["de-salmon-1"] and below[0]["rank"] > 1


def test_texts_are_cut_at_two_lines_and_whole_in_full(store: Clir, eighty: None) -> None:
    found = show.topic(told(store, "bm25_dt+oracle"), "t16", 1)
    text = found["documents"][0]["texts"]["de"]
    short = showing.topic(found, full=False)
    assert all(len(line) <= 80 for line in short.splitlines()) and short.count("…") == 8
    squeezed = " ".join(showing.topic(found, full=True).split())
    assert text in squeezed and "…" not in squeezed


# Judges ---------------------------------------------------------------------------------------------------------------


def test_the_judges_answers_are_told_with_what_they_were_about_and_cost(judged: dict[str, Path], eighty: None) -> None:
    found = topic(judged["bilingual"])
    (answer,) = found["answers"]
    first = read_lists(judged["bilingual"] / "first_stage.trec")["t03"]
    assert answer["docs"] == first and answer["status"] == "ok" and answer["text"].startswith("[")
    said = showing.topic(found, full=False)
    assert "rank_gpt: topics in en (title), documents in de + en (title, text)" in said
    assert "the reranker's answers: 1 answer in 1 round, 100 prompt tokens, 10 output tokens" in said
    assert f"about {len(first)} documents: {first[0]} {first[1]}" in said and f"said: {answer['text'][:30]}" in said


def test_of_many_answers_the_first_ten_are_shown_each_in_a_line(judged: dict[str, Path], eighty: None) -> None:
    found = topic(judged["pairwise"], "t01")
    short, full = showing.topic(found, full=False), showing.topic(found, full=True)
    asked = len(found["answers"])
    assert asked > 10 and f"... {asked - 10} more; --full shows them" in short
    a, b = found["answers"][0]["docs"]
    assert f" 1  ok, 100 + 10 tokens  about {a} {b}  said: " in short
    assert f"\n{asked}  ok, " in full


def test_the_best_passage_is_what_the_judge_was_shown(judged: dict[str, Path], eighty: None) -> None:
    found = topic(judged["passages"], depth=4)
    assert [r["unit"] for r in found["readers"]] == ["document", "best_passage"]
    rows = [row for row in found["documents"] if row["passage"]]
    assert rows
    for row in rows:
        assert set(row["passage"]) <= {"de", "en"} and all(
            p in row["texts"][lang] for lang, p in row["passage"].items()
        )
        assert all(len(p) < len(row["texts"][lang]) for lang, p in row["passage"].items())
    marked = showing.topic(found, full=True)
    assert f"[[{rows[0]['passage']['en'][:40]}" in marked and marked.count("[[") == marked.count("]]")
    assert "best passages; --full shows them in their documents" in showing.topic(found, full=False)


def test_what_the_reranker_cut_off_keeps_its_rank_in_the_first_stage(judged: dict[str, Path]) -> None:
    found = topic(judged["passages"], depth=4)
    first = read_lists(judged["passages"] / "first_stage.trec")["t03"]
    cut = [row for row in found["missed"] if row["ranks"]["first_stage"]]
    assert cut and all(row["ranks"]["first_stage"] == first.index(row["doc_id"]) + 1 > 4 for row in cut)


def test_a_cascade_shows_the_rank_after_every_reranker(judged: dict[str, Path], eighty: None) -> None:
    found = topic(judged["cascade"], "t01")
    stages = [read_lists(judged["cascade"] / f"{name}.trec")["t01"] for name in ("first_stage", "rerank_1", "run")]
    for row in found["documents"]:
        assert [*row["ranks"].values(), row["rank"]] == [docs.index(row["doc_id"]) + 1 for docs in stages]
    assert "rank  first_stage  rerank_1  grade" in showing.topic(found, full=False)


def test_where_the_stages_had_different_translations_the_reranker_s_is_shown(store: Clir, clir: Clir) -> None:
    shutil.copytree(store.runs, clir.runs)
    demo = Path(show.__file__).parents[1] / "datasets" / "demo"
    docs = [json.loads(line) for line in (demo / "docs.en.jsonl").read_text().splitlines()]
    rows = [{"id": f"de{d['doc_id'][2:]}", "title": d["title"], "text": f"{d['text']} As others say."} for d in docs]
    (clir.folder / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = f"translator.file={clir.folder}/other.jsonl"
    for of in ("retrieve", "rerank"):  # it has the collection's own translations, the other one those of the file
        own = ("retriever=bm25_dt", "reranker=oracle", "rerank.doc=query_lang", other, f"{of}.doc_translator=provided")
        found = topic(clir.experiment(*own))
        assert found["notes"] == ["documents were translated twice, de-en: shown is what the reranker was given"]
        others = {row["texts"]["en"].endswith("As others say.") for row in found["documents"]}
        assert others == {of == "retrieve"}


# What is not there any more -------------------------------------------------------------------------------------------


def test_without_its_steps_an_experiment_still_shows_its_ranking_and_says_how_to_get_the_texts(
    judged: dict[str, Path], store: Clir, clir: Clir, eighty: None
) -> None:
    shutil.copytree(store.runs, clir.runs)
    folder = clir.runs / judged["bilingual"].relative_to(store.runs)
    for step in clir.runs.glob("steps/translate/*"):
        shutil.rmtree(step)
    half = topic(folder)
    assert list(half["documents"][0]["texts"]) == ["de"] and half["topic"]["en"]
    assert "texts are missing: these steps were removed, or not imported: translate demo" in half["notes"][0]
    shutil.rmtree(clir.runs / "steps")
    found = topic(folder)
    before = topic(judged["bilingual"])
    gone: dict[str, Any] = {"texts": {}, "lang": None}
    assert found["documents"] == [{**row, **gone} for row in before["documents"]], "grades too: the judgments are there"
    assert found["answers"] == before["answers"] and found["topic"] == {}
    said = showing.topic(found, full=False).splitlines()
    assert said[-1] == f"  clir run --config '{folder.resolve()}/config.yaml'" or said[-1].endswith("/config.yaml")
    overview = show.overview(show.Told(folder.resolve()))
    assert not any(step["there"] for step in overview["steps"]) and overview["topics"][0]["text"] == ""
    assert "(not there)" in showing.overview(overview, full=False)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Persian, Chinese and Hindi documents with English translations, ranked by somebody else."""
    clir = Clir(tmp_path_factory.mktemp("foreign"))
    for lang, docs in FOREIGN.items():
        rows = [{"doc_id": i, "title": title, "text": text} for i, (title, text, _, _) in docs.items()]
        english = [{"id": i, "title": title, "text": text} for i, (_, _, title, text) in docs.items()]
        for name, lines in ((f"docs.{lang}.jsonl", rows), (f"to.{lang}.en.jsonl", english)):
            (clir.folder / name).write_text("".join(json.dumps(row) + "\n" for row in lines))
    (clir.folder / "topics.tsv").write_text("query_id\ttitle\nq1\ttides\nq2\tnothing\n")
    (clir.folder / "qrels.txt").write_text("q1 0 zh-1 2\nq1 0 fa-1 1\nq2 0 fa-1 1\nq9 0 fa-1 1\n")
    (clir.folder / "run.trec").write_text(
        "".join(f"q1 Q0 {d} {n} {9 - n} x\n" for n, d in enumerate(["fa-1", "zh-1", "hi-1"], 1))
    )
    return clir.experiment(
        "dataset=files", "dataset.docs=docs.{lang}.jsonl", "dataset.topics=topics.tsv", "dataset.qrels=qrels.txt",
        "dataset.pair=en-fa+zh+hi", "retriever=run_file", "retriever.path=run.trec", "reranker=oracle",
        "rerank.doc=[original,query_lang]", "translator=provided", "translator.file=to.{source}.{target}.jsonl",
    )  # fmt: skip


def test_an_imported_experiment_without_steps_data_or_judgments_still_shows_what_it_brought(
    foreign: Path, clir: Clir
) -> None:
    clir("export", str(foreign), "all.tar.zst")
    clir("import", "all.tar.zst")
    home = foreign.parents[2]
    try:
        home.rename(home.with_name("elsewhere"))
        said = clir("show", "run_file", "--query", "q1").stdout
        assert "rank  first_stage  score  document\n   1            2      3  zh-1\n" in said
        assert "note: no grades: the judgments qrels cannot be read" in said and "texts are missing" in said
        assert "nDCG@10" in clir("show", "run_file").stdout
    finally:
        home.with_name("elsewhere").rename(home)


def test_a_topic_that_found_nothing_and_one_that_is_only_judged_say_so(foreign: Path, eighty: None) -> None:
    found = showing.topic(topic(foreign, "q2"), full=False)
    assert "\nnothing was found\n" in found and "relevant, not found: 1" in found
    assert topic(foreign, "q9")["notes"] == ["q9 is judged, but was not asked: no topic has this id"]


# Terminals and scripts ------------------------------------------------------------------------------------------------


def test_json_says_it_all(store: Clir) -> None:
    found = json.loads(store("show", "bm25_dt+oracle", "--query", "t16", "--json").stdout)
    assert found == json.loads(json.dumps(show.topic(told(store, "bm25_dt+oracle"), "t16", 10)))
    assert json.loads(store("show", "bm25_dt+oracle", "--json").stdout)["main"] == "nDCG@10"


def test_in_a_terminal_wide_and_joined_scripts_stay_within_the_edge_and_whole(foreign: Path, clir: Clir) -> None:
    parent, child = pty.openpty()
    env = {**clir.env(None), "COLUMNS": "60"}
    with subprocess.Popen(
        clir.command("show", str(foreign), "--query", "q1", "--full"), stdout=child, env=env
    ) as running:
        os.close(child)
        text = b""
        while chunk := _read(parent):
            text += chunk
    assert running.returncode == 0
    lines = text.decode().replace("\r\n", "\n").splitlines()
    shown = " ".join(line.strip() for line in lines)
    assert all(
        sum(width for _, width in clusters(line)) <= 60
        for line in lines
        if "/" not in line and "translator" not in line
    )
    assert FOREIGN["fa"]["fa-1"][1] in shown and FOREIGN["hi"]["hi-1"][1] in shown
    assert FOREIGN["zh"]["zh-1"][1] in shown.replace(" ", ""), "Chinese is broken between any two characters"
    assert "\x1b" not in text.decode() and "\x07" not in text.decode(), "a document cannot steer the terminal"


def _read(parent: int) -> bytes:
    try:
        return os.read(parent, 1 << 16)
    except OSError:  # the other end is closed
        return b""


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80), st.integers(2, 30))
def test_no_line_is_wider_than_it_may_be_and_nothing_is_lost(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert all(sum(columns for _, columns in clusters(line)) <= max(width, _widest(line)) for line in lines)
    assert "".join(lines).replace(" ", "") == one_line(text).replace(" ", "")
    assert len(wrapped(text, width, 2)) <= 2


def _widest(line: str) -> int:
    """A base letter with spacing marks may be wider than a very narrow column."""
    return max((columns for _, columns in clusters(line)), default=0)


def test_a_cut_text_keeps_its_marks_and_ends_in_an_ellipsis() -> None:
    assert fitted("潮汐是海水", 6) == "潮汐…" and fitted("tides", 5) == "tides" and fitted("tides!", 5) == "tide…"
    assert fitted("e\u0301" * 9, 4) == "e\u0301" * 3 + "…"
    assert fitted("ab\u202ecd\nef\x1b", 20) == "abcd ef"
    assert wrapped("one two three", 8) == ["one two", "three"] and wrapped("", 8) == []
