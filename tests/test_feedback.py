"""RM3 and Rocchio expand queries as Anserini does, in every script, and say what index they need."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import XQUAD, needs_shared

from clir_cli.errors import DataError
from clir_cli.fingerprints import Fingerprints
from clir_cli.retrievers.bm25 import BM25
from clir_cli.steps import identity
from clir_cli.text import lucene
from clir_cli.types import Run, Text

QUERIES = 60  # of each language's questions
METHODS = [("rm3", {}), ("rm3", {"fb_docs": 3, "fb_terms": 25, "original_query_weight": 0.8}), ("rocchio", {})]


def docs(lang: str) -> list[Text]:
    rows = [json.loads(line) for line in (XQUAD / f"corpus.{lang}.jsonl").read_text().splitlines()]
    return [Text(row["docid"], ((lang, row["text"]),)) for row in rows]


def queries(lang: str) -> list[Text]:
    rows = [line.split("\t") for line in (XQUAD / f"topics.{lang}.tsv").read_text().splitlines()[:QUERIES]]
    return [Text(query, ((lang, words),)) for query, words in rows]


def rankings(run: Run) -> dict[str, list[tuple[str, float]]]:
    return {q: list(zip(rows["doc_id"], rows["score"], strict=True)) for q, rows in run.groupby("query_id", sort=False)}


def anserinis_index(lang: str, folder: Path) -> Path:
    """An index of XQuAD-R as `pyserini.index.lucene --language ... --storeDocvectors` makes it."""
    texts, index = folder / "docs", folder / "index"
    texts.mkdir()
    rows = [json.dumps({"id": doc.id, "contents": doc.text}) + "\n" for doc in docs(lang)]
    (texts / "docs.jsonl").write_text("".join(rows))
    command = [str(lucene.java_home() / "bin" / "java"), "-cp", str(lucene.jar()), "io.anserini.index.IndexCollection"]
    command += ["-collection", "JsonCollection", "-input", str(texts), "-index", str(index), "-language", lang]
    command += ["-generator", "DefaultLuceneDocumentGenerator", "-threads", "1", "-storeDocvectors"]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    return index


def anserinis_rankings(index: Path, lang: str, method: str, options: dict[str, Any]) -> dict[str, list[Any]]:
    """What Pyserini's LuceneSearcher asks of Anserini for set_rm3 and set_rocchio, with its defaults."""
    from jnius import autoclass

    searcher = autoclass("io.anserini.search.SimpleSearcher")(str(index))
    searcher.set_language(lang)
    searcher.set_bm25(0.9, 0.4)
    terms, documents = options.get("fb_terms", 10), options.get("fb_docs", 10)
    if method == "rm3":
        weight = options.get("original_query_weight", 0.5)
        searcher.set_rm3(None, terms, documents, weight, False, lang == "en")
    else:
        searcher.set_rocchio(None, terms, documents, 10, 10, 1.0, 0.75, 0.0, False, False)
    found = {q.id: searcher.search(q.text, 100) for q in queries(lang)}
    rows = {query: [(hit.docid, float(hit.score)) for hit in hits] for query, hits in found.items()}
    searcher.close()
    return {query: hits for query, hits in rows.items() if hits}


@needs_shared(XQUAD)
@pytest.mark.parametrize("lang", ["en", "zh", "ar"])
def test_expanded_rankings_and_scores_are_anserinis_on_its_own_index(tmp_path, lang):
    bm25 = BM25(doc_vectors=True)
    bm25.index(docs(lang), tmp_path)
    plain = rankings(bm25.search(tmp_path, queries(lang), 100))
    theirs = anserinis_index(lang, tmp_path)
    for method, options in METHODS:
        ours = rankings(dataclasses.replace(bm25, feedback=method, **options).search(tmp_path, queries(lang), 100))
        assert ours == anserinis_rankings(theirs, lang, method, options), (method, options)
        assert ours != plain


PETS = [
    Text("cats", (("zh", "猫 喜欢 牛奶"),)),
    Text("more cats", (("zh", "猫 牛奶 睡觉"),)),
    Text("milk", (("zh", "牛奶 工厂"),)),
    Text("dogs", (("zh", "狗 骨头"),)),
]
# Both leave out terms that more than a tenth of a small collection has, so a handful of pets needs company.
CROWD = [Text(f"d{n}", (("zh", f"词{n} 字{n}"),)) for n in range(60)]


@pytest.mark.parametrize("method", ["rm3", "rocchio"])
@pytest.mark.parametrize("analyser", ["whitespace", "icu"])
def test_a_document_without_the_querys_words_is_found_by_words_of_the_best(tmp_path, method, analyser):
    bm25 = BM25(analyser=analyser, doc_vectors=True, feedback=method)
    bm25.index([*PETS, *CROWD], tmp_path)
    asked = [Text("q", (("zh", "猫"),))]
    without = dataclasses.replace(bm25, feedback="none").search(tmp_path, asked, 10)
    assert set(without["doc_id"]) == {"cats", "more cats"}
    assert set(bm25.search(tmp_path, asked, 10)["doc_id"]) == {"cats", "more cats", "milk"}


def test_a_joint_pool_is_expanded_in_the_terms_of_all_its_languages(tmp_path):
    pool = [Text("de1", (("de", "Hunde lieben Knochen"),)), Text("de2", (("de", "Knochen im Garten"),)), *PETS, *CROWD]
    bm25 = BM25(doc_vectors=True, feedback="rocchio")
    bm25.index(pool, tmp_path)
    assert set(bm25.search(tmp_path, [Text("q", (("de", "Hund"),))], 10)["doc_id"]) == {"de1", "de2"}


def test_feedback_without_document_vectors_is_refused_and_says_what_indexes_them(tmp_path):
    with pytest.raises(ValueError, match=r"retriever\.doc_vectors=true indexes them"):
        BM25(feedback="rm3")
    BM25(analyser="whitespace").index(PETS, tmp_path)
    with pytest.raises(DataError, match=r"retriever\.doc_vectors=true indexes them"):
        BM25(analyser="whitespace", doc_vectors=True, feedback="rm3").search(tmp_path, [], 10)


@pytest.mark.parametrize("fields", [{"fb_docs": 0}, {"fb_terms": 0}, {"original_query_weight": 1.5}])
def test_feedback_that_means_nothing_is_refused(fields):
    with pytest.raises(ValueError, match="fb_docs and fb_terms must be 1 or more"):
        BM25(doc_vectors=True, feedback="rm3", **fields)


def test_feedback_k1_and_b_are_swept_on_one_index_and_vectors_make_another(tmp_path):
    def index(**fields: Any) -> dict[str, Any]:
        return identity(BM25(**fields), Fingerprints(tmp_path), "index")

    vectors = {"doc_vectors": True}
    assert index(k1=0.9) == index(k1=1.2) != index(**vectors)
    assert index(**vectors) == index(**vectors, feedback="rm3", fb_terms=20) == index(**vectors, feedback="rocchio")
    assert "feedback" not in identity(BM25(), Fingerprints(tmp_path), "search")  # identities from before stay


def test_an_analyser_is_the_same_to_feedback_and_search():
    lucene.start()
    assert lucene.analyse("de")(["Die Hunde", ""]) == [["hund"], []]
