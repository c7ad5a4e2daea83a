"""Vectors from files rank as where they came from; several encoders rank by the mean of their cosines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Clir
from given_vectors import Given, cloud, index, search, texts

from clir_cli.errors import ConfigError, DataError, RunError
from clir_cli.fingerprints import Fingerprints
from clir_cli.retrievers.ensemble import Ensemble
from clir_cli.retrievers.precomputed import Precomputed
from clir_cli.search.postprocess import unit
from clir_cli.steps import identity

DOCS, QUERIES = cloud(0, 100), cloud(1, 10)


def files(folder: Path, docs: np.ndarray = DOCS, queries: np.ndarray = QUERIES, **fields: Any) -> Precomputed:
    """The vectors in files, in another order than the texts and with one text more."""
    for name, rows, prefix in (("docs.en", docs, "d"), ("queries.de", queries, "q")):
        order = np.random.default_rng(0).permutation(len(rows))
        np.save(folder / f"{name}.npy", rows[order])
        (folder / f"{name}.txt").write_text("".join(f"{prefix}{i}\n" for i in order))
    paths = {
        "doc_vectors": f"{folder}/docs.{{doc_lang}}.npy", "doc_ids": f"{folder}/docs.{{doc_lang}}.txt",
        "query_vectors": f"{folder}/queries.{{query_lang}}.npy", "query_ids": f"{folder}/queries.{{query_lang}}.txt",
    }  # fmt: skip
    return Precomputed(**{"device": "cpu", **paths, **fields})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_precomputed_vectors_rank_as_those_of_their_encoder(tmp_path: Path, dtype: Any) -> None:
    retriever = files(tmp_path, DOCS.astype(dtype), QUERIES.astype(dtype))
    retriever.check_languages(["de"], ["en"])
    run, _ = search(retriever, texts(DOCS)[:90], texts(QUERIES, "q", "de")[1:], 90, tmp_path / "a")
    same, _ = search(Given(), texts(DOCS)[:90], texts(QUERIES, "q", "de")[1:], 90, tmp_path / "b")
    both = run.merge(same, on=["query_id", "doc_id"])
    assert len(both) == 810
    assert np.allclose(both["score_x"], both["score_y"], atol=2e-3)


def test_what_works_on_encoded_vectors_works_on_precomputed_ones(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"post": ({"name": "center", "by": "all"},), "quantize": "int8", "margin": "ratio"}
    run, _ = search(files(tmp_path, **fields), texts(DOCS), texts(QUERIES, "q", "de"), 10, tmp_path / "a")
    same, _ = search(Given(**fields), texts(DOCS), texts(QUERIES, "q", "de"), 10, tmp_path / "b")
    assert np.allclose(run["score"], same["score"], atol=5e-3)


def test_an_id_without_a_vector_is_named(tmp_path: Path) -> None:
    retriever = files(tmp_path, DOCS[:60])
    with pytest.raises(
        DataError, match=r"docs\.en\.txt: 40 of 100 documents in 'en' have no vector, for example 'd60'"
    ):
        index(retriever, texts(DOCS), tmp_path)
    index(retriever, texts(DOCS[:60]), tmp_path)
    with pytest.raises(DataError, match=r"1 of 11 queries in 'de' have no vector, for example 'q10'"):
        retriever.search(tmp_path / "index", texts(np.ones((11, 32)), "q", "de"), 5)


def test_files_that_do_not_fit_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"queries\.de\.npy holds vectors of 16 numbers, and .*docs\.en\.npy of 32"):
        files(tmp_path, queries=cloud(1, 10, 16)).check_languages(["de"], ["en"])
    with pytest.raises(DataError, match=r"docs\.sw\.npy does not exist"):
        files(tmp_path).check_languages(["de"], ["sw"])
    with pytest.raises(DataError, match=r"holds float32 of shape \(3200,\); expected floats \(texts, dimensions\)"):
        files(tmp_path, DOCS.ravel()).check_languages(["de"], ["en"])
    (tmp_path / "docs.en.npy").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"docs\.en\.npy is no \.npy file"):
        files_as_they_are = files(tmp_path)
        (tmp_path / "docs.en.npy").write_bytes(b"PK")
        files_as_they_are.check_languages(["de"], ["en"])
    with pytest.raises(ConfigError, match=r"may hold \{query_lang\} and no other place"):
        files(tmp_path, query_vectors="q.{doc_lang}.npy").check_languages(["de"], ["en"])


def test_ids_that_do_not_fit_their_vectors_are_refused(tmp_path: Path) -> None:
    retriever = files(tmp_path)
    ids = (tmp_path / "docs.en.txt").read_text().split()
    (tmp_path / "docs.en.txt").write_text("\n".join(ids[:-1]))
    with pytest.raises(DataError, match=r"holds 99 ids, and .* 100 vectors"):
        index(retriever, texts(DOCS), tmp_path)
    (tmp_path / "docs.en.txt").write_text("\n".join([*ids[:-1], ids[3]]))
    with pytest.raises(DataError, match=f"1 id stands there twice, for example {ids[3]!r}"):
        index(retriever, texts(DOCS), tmp_path)


def test_a_vector_with_nan_is_named(tmp_path: Path) -> None:
    docs = DOCS.copy()
    docs[7, 3] = np.nan
    with pytest.raises(RunError, match=r"gives d7 \(1 of 100 texts\) a vector with NaN"):
        index(files(tmp_path, docs), texts(DOCS), tmp_path)


def test_vectors_of_zeros_are_told(clir: Clir) -> None:
    """What a model makes of a text of which it knows no token."""
    folder = clir.folder
    (folder / "docs.jsonl").write_text("".join(f'{{"id": "d{i}", "text": "text {i}"}}\n' for i in range(4)))
    (folder / "topics.tsv").write_text("q0\tone\nq1\tanother\n")
    (folder / "qrels.txt").write_text("q0 0 d1 1\nq1 0 d2 1\n")
    for name, rows in (("docs", np.eye(4, 8)), ("queries", np.eye(2, 8))):
        rows[-2 if name == "docs" else 1 :] = 0
        np.save(folder / f"{name}.npy", rows)
        (folder / f"{name}.txt").write_text("".join(f"{name[0]}{i}\n" for i in range(len(rows))))
    data = ["dataset=files", "dataset.docs=docs.jsonl", "dataset.topics=topics.tsv", "dataset.qrels=qrels.txt"]
    given = [
        f"retriever.{kind}_{what}={name}.{end}"
        for kind, name in (("doc", "docs"), ("query", "queries"))
        for what, end in (("vectors", "npy"), ("ids", "txt"))
    ]
    said = clir("run", *data, "dataset.pair=de-en", "retriever=precomputed", *given).stderr
    assert "2 documents with a vector of zeros" in said and "1 query with a vector of zeros" in said


def test_the_bytes_of_the_files_count_and_not_their_names(tmp_path: Path) -> None:
    retriever = files(tmp_path)
    assert [path.name for path in retriever.index_files(["en"])] == ["docs.en.npy", "docs.en.txt"]
    assert [path.name for path in retriever.files(["de"], [])] == ["queries.de.npy", "queries.de.txt"]
    prints = Fingerprints(tmp_path / "prints")
    fixed = {"doc_vectors": f"{tmp_path}/docs.en.npy", "doc_ids": f"{tmp_path}/docs.en.txt"}
    before = identity(files(tmp_path, **fixed), prints, "index")
    assert identity(files(tmp_path, queries=cloud(3, 10), **fixed), prints, "index") == before
    assert identity(files(tmp_path, cloud(4, 100), **fixed), prints, "index") != before


# Ensembles ------------------------------------------------------------------------------------------------------------


def test_an_ensemble_scores_by_the_weighted_mean_of_its_encoders_cosines(tmp_path: Path) -> None:
    other_docs, other_queries = cloud(7, 100, 16), cloud(8, 10, 16)
    encoders = {"a": Given(), "b": files(tmp_path, other_docs, other_queries)}
    ensemble = Ensemble(encoders=encoders, weights={"a": 3.0, "b": 1.0}, device="cpu")
    run, _ = search(ensemble, texts(DOCS), texts(QUERIES, "q", "de"), 100, tmp_path)
    expected = 0.75 * unit(QUERIES) @ unit(DOCS).T + 0.25 * unit(other_queries) @ unit(other_docs).T
    scores = expected[run["query_id"].str[1:].astype(int), run["doc_id"].str[1:].astype(int)]
    assert np.allclose(run["score"], scores, atol=2e-3)
    encoded, report = ensemble.encode(texts(DOCS), "document")
    assert np.allclose(np.linalg.norm(encoded, axis=1), 1, atol=1e-6)
    assert (encoded.shape, report) == ((100, 48), {"texts": 100})
    assert ensemble.name == "given + retriever.doc_vectors and query_vectors"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoders": {"a": Given()}}, "at least two encoders, got a"),
        ({"encoders": {"a": Given(), "b": 3}}, "encoders.b gives no single vector per text: int"),
        (
            {"encoders": {"a": Given(), "b": Given(dims=4)}},
            "encoders.b: dims, post, quantize and faiss_factory are for",
        ),
        ({"weights": {"a": 1.0}}, "weights must be positive numbers for a, b"),
        ({"normalize": False}, "mean of cosines"),
    ],
)
def test_an_ensemble_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Ensemble(**{"encoders": {"a": Given(), "b": Given()}, **fields})


def test_the_encoders_settings_for_queries_build_no_new_index(tmp_path: Path) -> None:
    prints = Fingerprints(tmp_path)

    def of(**fields: Any) -> Any:
        return identity(Ensemble(encoders={"a": Given(), "b": Given(**fields)}), prints, "index")

    assert of(rescore=2) == of()
    assert of(normalize=False) != of()


def test_faiss_is_part_of_what_it_searches_and_of_nothing_else(tmp_path):
    names = {}
    for name in ("doc_vectors", "doc_ids", "query_vectors", "query_ids"):
        (tmp_path / name).write_text(name)
        names[name] = str(tmp_path / name)
    prints = Fingerprints(tmp_path / "prints")
    flat, graph = Precomputed(**names), Precomputed(**names, faiss_factory="HNSW32")
    assert identity(flat, prints, "index") == identity(graph, prints, "index")
    assert [engine.split()[0] for engine in identity(graph, prints, "derive")["engines"]] == ["faiss"]
    assert "engines" not in identity(flat, prints)
