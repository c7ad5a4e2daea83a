"""How rankings lean to languages: every number of bias.csv on rankings that are checked by hand."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import STATIC, XQUAD, Clir, needs_shared
from scipy.stats import kruskal

from clir_cli.diagnosis.fairness import equal_rank_probability, mean_rank_variance, rank_biased_overlap

# The formulas ---------------------------------------------------------------------------------------------------------


def test_languages_whose_documents_alternate_are_treated_alike_and_one_that_comes_last_is_not() -> None:
    fair = equal_rank_probability({"de": [1, 4, 5, 8], "sw": [2, 3, 6, 7]}, after=20)
    unfair = equal_rank_probability({"de": [1, 2, 3, 4], "sw": [17, 18, 19, 20]}, after=20)
    assert fair == 1 and unfair < 0.01


def test_peer_has_the_values_of_its_authors_package_and_of_scipy() -> None:
    """peer_measure 0.0.1's `kruskal`, where all is retrieved (it counts documents, not ranks, for what is not)."""
    assert equal_rank_probability({"en": [1, 3], "de": [2, 6], "sw": [5, 9]}, 10) == pytest.approx(0.2318792628481923)
    assert equal_rank_probability({"en": [4, 8], "de": [10], "sw": [7]}, 10) == pytest.approx(0.42316208231774877)
    nothing_between = equal_rank_probability({"a": [1, 2, 3], "b": [4, 5, 6]}, 6)
    assert nothing_between == pytest.approx(kruskal([1, 2, 3], [4, 5, 6]).pvalue)


def test_relevant_documents_that_were_not_found_tie_behind_the_last_rank() -> None:
    absent = equal_rank_probability({"en": [1, 2], "sw": [3, math.nan, math.nan]}, after=3)
    assert absent == pytest.approx(kruskal([1, 2], [3, 4.5, 4.5]).pvalue)
    assert equal_rank_probability({"en": [math.nan], "sw": [math.nan, math.nan]}, after=3) == 1
    assert equal_rank_probability({"en": [1, 7]}, after=10) == 1, "one language alone is not treated unfairly"


def test_peer_says_nothing_where_every_language_has_one_relevant_document() -> None:
    for order in ([1, 2, 3], [3, 1, 900]):
        assert equal_rank_probability(dict(zip("abc", ([r] for r in order), strict=True)), 1000) == pytest.approx(
            0.3678794
        )


def overlap(a: str, b: str, p: float = 0.9) -> float:
    shared = [doc for doc in a if doc in b]
    ranks = [np.array([text.index(doc) + 1 for doc in shared]) for text in (a, b)]
    return rank_biased_overlap(ranks[0], ranks[1], (len(a), len(b)), p)


def test_rank_biased_overlap_has_the_values_of_the_package_rbo() -> None:
    """rbo 0.1.3, RankingSimilarity.rbo_ext, also of lists of different length."""
    assert overlap("abcdefg", "bdcxa") == pytest.approx(0.678555)
    assert overlap("abcde", "edcba") == pytest.approx(0.737775)
    assert overlap("abcdefgh", "aczhbf", 0.98) == pytest.approx(0.7742152274425066)


def test_rank_biased_overlap_is_1_for_equal_rankings_and_0_for_those_that_share_nothing() -> None:
    assert overlap("abc", "abc") == pytest.approx(1) and overlap("abc", "xyz") == 0
    assert rank_biased_overlap(np.zeros(0), np.zeros(0), (0, 0)) == 1
    assert rank_biased_overlap(np.zeros(0), np.zeros(0), (0, 5)) == 0
    assert overlap("abc", "axy") > overlap("abc", "xyc"), "the top counts more"


def test_mean_rank_variance_is_0_where_every_language_gives_the_same_rank() -> None:
    assert mean_rank_variance(np.array([[1, 1, 1], [7, 7, 7]])) == 0
    assert mean_rank_variance(np.array([[1, 3], [4, 4]])) == 0.5  # variances 1 and 0


# A pool of two languages, ranked by hand --------------------------------------------------------------------------------

RUNS = {
    "en": {"q1": ["en-1", "en-2", "de-1", "en-3"], "q2": ["en-2", "de-2", "de-3"]},
    "de": {"q1": ["de-1", "en-1", "de-2", "en-2"], "q2": ["de-3", "de-2", "en-2"]},
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Clir:
    clir = Clir(tmp_path_factory.mktemp("bias"))
    for lang, texts in {"en": ["one", "two", "three"], "de": ["eins", "zwei", "drei"]}.items():
        lines = (f"{lang}-{number}\t{text}\n" for number, text in enumerate(texts, 1))
        (clir.folder / f"docs.{lang}.tsv").write_text("".join(lines))
        (clir.folder / f"topics.{lang}.tsv").write_text(f"q1\t{texts[0]}\nq2\t{texts[1]}\n")
        ranked = [
            f"{query} Q0 {doc} {rank} {9 - rank} x\n"
            for query, docs in RUNS[lang].items()
            for rank, doc in enumerate(docs, 1)
        ]
        (clir.folder / f"run.{lang}.trec").write_text("".join(ranked))
    qrels = [f"q{number} 0 {lang}-{number} 1\n" for number in (1, 2) for lang in ("en", "de")]
    (clir.folder / "qrels.txt").write_text("".join(qrels))
    clir(
        "run", "-m", "--quiet", "--name", "both", "dataset=files", "dataset.label=numbers", "dataset.docs=docs.{lang}.tsv",
        "dataset.topics=topics.{lang}.tsv", "dataset.qrels=qrels.txt", "dataset.aligned='[a-z]+-(.*)'",
        "dataset.query_lang=en,de", "dataset.doc_lang=[en,de]", "retriever=run_file", "retriever.label=by_hand",
        "retriever.path=run.{query_lang}.trec", "retrieve.depth=4", "dataset.measures=[nDCG@2]",
    )  # fmt: skip
    return clir


def bias(clir: Clir, *arguments: str) -> dict[tuple[str, str, str], float]:
    """(query_lang, doc_lang, measure) -> value of the bias.csv that the verb names last."""
    done = clir("bias", *arguments)
    with (clir.folder / done.stdout.splitlines()[-1]).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["experiment", "query_lang", "doc_lang", "measure", "value"]
    return {(r["query_lang"], r["doc_lang"], r["measure"]): float(r["value"]) for r in rows}


@pytest.fixture(scope="module")
def found(pool: Clir) -> dict[tuple[str, str, str], float]:
    (sweep,) = (pool.runs / "sweeps").iterdir()
    return bias(pool, str(sweep), "-k", "2")


Found = dict[tuple[str, str, str], float]


def test_shares_stand_beside_what_they_would_be_without_a_preference(found: Found) -> None:
    assert found["en", "en", "share@2"] == 0.75 and found["en", "de", "share@2"] == 0.25
    assert found["en", "en", "relevant_share@2"] == pytest.approx(2 / 3)
    assert found["en", "de", "share_of_collection"] == found["en", "de", "share_of_relevant"] == 0.5


def test_ndcg_of_a_language_is_taken_in_the_pool_and_within_its_own_documents(found: Found) -> None:
    assert found["en", "en", "nDCG@2"] == 1
    assert found["en", "de", "nDCG@2"] == pytest.approx((0 + 1 / math.log2(3)) / 2), "third and second in the pool"
    assert found["en", "de", "nDCG(within)@2"] == 1, "first among the German documents"


def test_translations_of_one_document_are_ranked_among_themselves(found: Found) -> None:
    assert (found["en", "en", "aligned_rank"], found["en", "de", "aligned_rank"]) == (1, 2)
    assert (found["de", "en", "aligned_first"], found["de", "de", "aligned_first"]) == (0, 1)
    assert found["en", "en+de", "aligned_MRV"] == (1 + 0.25) / 2  # ranks 1 and 3, 1 and 2
    assert found["en", "en+de", "aligned_groups"] == 2


def test_parallel_queries_are_compared_over_experiments(found: Found) -> None:
    assert found["en+de", "en+de", "MRV"] == (0.25 + 1 + 1 + 0) / 4
    assert (found["en+de", "en", "MRV"], found["en+de", "de", "MRV"]) == (0.625, 0.5)
    both = [
        [[*"ABCD"], [*"CAEB"]],
        [["B", "E", "F"], ["F", "E", "B"]],
    ]  # en-1 A, en-2 B, de-1 C, en-3 D, de-2 E, de-3 F
    expected = sum(overlap("".join(a), "".join(b)) for a, b in both) / 2
    assert found["en+de", "en+de", "RBO"] == pytest.approx(expected)
    assert found["en", "en+de", "RBO"] == pytest.approx(expected), "the mean over its pairs, of which there is one"
    collapsed = (overlap("123", "12") + overlap("23", "32")) / 2  # translations are one: their best rank counts
    assert found["en+de", "en+de", "RBO(aligned)"] == pytest.approx(collapsed)


def test_peer_is_of_the_whole_pool_and_says_when_it_says_nothing(pool: Clir, found: Found) -> None:
    assert found["en", "en+de", "PEER@2"] == pytest.approx(math.erfc(math.sqrt(0.5)))  # chi2 > 1, one degree of freedom
    (one, _) = sorted(pool.runs.glob("numbers.*/by_hand-*"))
    done = pool("bias", str(one), "-k", "2")
    assert "PEER@2 says nothing here: no topic has two relevant documents of one grade in one language" in done.stderr
    assert (one / "bias.csv").exists(), "one experiment's values lie in its own folder"


def test_what_is_no_experiment_is_refused(pool: Clir) -> None:
    (one, _) = sorted(pool.runs.glob("numbers.*/by_hand-*"))
    assert "neither an experiment's folder nor a sweep's" in pool("bias", str(pool.folder), code=2).stderr
    assert "does not exist" in pool("bias", "nowhere", code=2).stderr
    assert "has no stage 'rerank_2'; it has: final" in pool("bias", str(one), "--stage", "rerank_2", code=2).stderr
    assert "has no judgments 'pools'; it has:" in pool("bias", str(one), "--judgments", "pools", code=2).stderr


@needs_shared(XQUAD)
@needs_shared(STATIC)
def test_a_static_encoder_prefers_the_language_of_the_question_on_real_paragraphs(clir: Clir) -> None:
    """XQuAD-R, four languages in one pool, every paragraph in each of them: an even ranking has a share of .25."""
    langs = ("de", "en", "es", "ru")
    (clir.folder / "pool.txt").write_text("".join((XQUAD / f"qrels.{lang}.txt").read_text() for lang in langs))
    clir(
        "run", "-m", "--quiet", "--config-dir", str(Path(__file__).parent / "configs"), "dataset=xquad_r", "retriever=static_multi",
        f"dataset.qrels={clir.folder}/pool.txt", "dataset.query_lang=en,ru", f"dataset.doc_lang=[{','.join(langs)}]",
        "dataset.limit_queries=100", "retrieve.depth=200",
    )  # fmt: skip
    found = bias(clir, *map(str, clir.runs.glob("xquad_r*/static_multi-*")))
    for query in ("en", "ru"):
        assert sum(found[query, lang, "share@20"] for lang in langs) == pytest.approx(1)
        assert sum(found[query, lang, "aligned_rank"] for lang in langs) == pytest.approx(10), "1 + 2 + 3 + 4"
        assert found[query, query, "share@20"] > 0.25
        assert found[query, query, "aligned_first"] > 0.5
    assert found["en", "ru", "aligned_rank"] > found["en", "de", "aligned_rank"], "another script is further away"
    assert found["en+ru", "de+en+es+ru", "RBO(aligned)"] > found["en+ru", "de+en+es+ru", "RBO"]
