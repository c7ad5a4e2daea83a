"""Vectors on disk are searched exactly, approximately by what is derived from them, and by margin, as brute force says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given_vectors import Given, cloud, index, search, texts, top

from clir_cli.errors import ConfigError, DataError, RunError
from clir_cli.lines import Lines
from clir_cli.search import approximate, postprocess, vectors

DOCS, QUERIES = texts(cloud(0, 1000)), texts(cloud(1, 20), "q")


# Exact ----------------------------------------------------------------------------------------------------------------


def write_index(folder: Path, *shards: dict[str, list[float]]) -> Path:
    for number, shard in enumerate(shards):
        vectors.write_shard(folder / "shards" / f"{number:05}", list(shard), np.array(list(shard.values()), np.float16))
    return folder


def test_of_documents_with_equal_scores_at_the_cut_the_larger_ids_stay(tmp_path: Path) -> None:
    folder = write_index(tmp_path, {"b": [1, 0], "x": [2, 0], "a": [1, 0]}, {"c": [1, 0]}, {"d": [0, 1], "aa": [1, 0]})
    query = np.array([[1, 0]], np.float32)
    assert top(vectors.search_exact(folder, ["q"], query, 3), 9) == {"q": ["x", "c", "b"]}
    assert top(vectors.search_exact(folder, ["q"], query, 4), 9) == {"q": ["x", "c", "b", "aa"]}
    assert top(vectors.search_exact(folder, ["q"], query, 99), 99) == {"q": ["x", "c", "b", "aa", "a", "d"]}


@pytest.mark.parametrize("depth", [1, 7, 100, 5000])
@pytest.mark.parametrize("cosine_too", [False, True])
def test_block_search_equals_brute_force_with_ties_over_several_shards(
    tmp_path: Path, depth: int, cosine_too: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    docs = draw.integers(-2, 3, (3000, 5)).astype(np.float16)  # small integers: exact products and many ties
    docs[:50] = 0
    queries = draw.integers(-2, 3, (20, 5)).astype(np.float32)
    ids = [f"d{i}" for i in draw.permutation(3000)]
    for number, start in enumerate(range(0, 3000, 1100)):
        path = tmp_path / "shards" / f"{number:05}"
        vectors.write_shard(path, ids[start : start + 1100], docs[start : start + 1100])
    monkeypatch.setattr(vectors, "SCORES", 100)  # blocks of 1024
    run = vectors.search_exact(tmp_path, [f"q{i}" for i in range(20)], queries, depth, cosine=cosine_too)

    lengths = np.maximum(np.linalg.norm(docs.astype(np.float32), axis=1), 1e-12) if cosine_too else 1
    scores = (queries @ docs.T.astype(np.float32)) / lengths
    for q in range(20):
        found = run[run["query_id"] == f"q{q}"]
        expected = sorted(zip(scores[q].round(5), ids, strict=True), reverse=True)[:depth]
        assert len(found) == len(expected)
        assert np.allclose(found["score"], [score for score, _ in expected], atol=1e-5)
        if not cosine_too:
            assert list(found["doc_id"]) == [doc for _, doc in expected]


def test_duplicates_of_a_document_get_equal_scores_wherever_they_stand(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    same = draw.standard_normal(100).astype(np.float16)
    folder = write_index(tmp_path, *({f"s{s}d{i}": list(same) for i in range(n)} for s, n in enumerate((333, 5, 1200))))
    run = vectors.search_exact(folder, ["a", "b", "c"], draw.standard_normal((3, 100)).astype(np.float32), 2000)
    assert run.groupby("query_id")["score"].nunique().tolist() == [1, 1, 1]


def test_vectors_of_any_length_can_be_searched_by_cosine(tmp_path: Path) -> None:
    long = Given(normalize=False, similarity="cosine")
    a, _ = search(long, DOCS, QUERIES, 1000, tmp_path / "a")
    b, _ = search(Given(), DOCS, QUERIES, 1000, tmp_path / "b")
    scores = a.merge(b, on=["query_id", "doc_id"])
    assert len(scores) == 20_000
    assert np.allclose(scores["score_x"], scores["score_y"], atol=2e-3)


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    index(Given(), DOCS[:3], tmp_path)
    with pytest.raises(DataError, match="vectors of 32 numbers and the model gives queries 5: it was built by another"):
        Given().search(tmp_path / "index", texts(np.ones((1, 5)), "q"), 5)
    cut = Given(dims=4)
    (tmp_path / "derived").mkdir()
    cut.derive(tmp_path / "index", tmp_path / "derived", ["en"], ["en"])
    with pytest.raises(DataError, match="vectors of 32 numbers and the model gives queries 5"):
        cut.search(tmp_path / "index", texts(np.ones((1, 5)), "q"), 5, tmp_path / "derived")


# Smaller copies -------------------------------------------------------------------------------------------------------


def test_int8_codes_are_those_of_sentence_transformers_but_rounded(tmp_path: Path) -> None:
    from sentence_transformers.util import quantize_embeddings

    where = index(Given(), DOCS, tmp_path)
    counts = approximate.quantise(where, tmp_path / "codes", "int8")
    stored = np.concatenate([np.array(s.vectors, np.float32) for s in vectors.read_shards(where)])
    codes = np.concatenate([np.array(s.vectors) for s in vectors.read_shards(tmp_path / "codes")])
    theirs = quantize_embeddings(stored, "int8", calibration_embeddings=stored)
    assert codes.dtype == theirs.dtype == np.int8
    assert np.abs(codes.astype(int) - theirs.astype(int)).max() <= 1  # theirs cuts the fraction off
    low, step = np.load(tmp_path / "codes" / "ranges.npy")
    assert (np.abs((codes.astype(np.float32) + 128) * step + low - stored) <= step * 0.501).all()
    assert counts == {"documents": 1000, "dimensions": 32, "bytes_per_document": 32}


def test_signs_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers.util import quantize_embeddings

    where = index(Given(), DOCS, tmp_path)
    counts = approximate.quantise(where, tmp_path / "codes", "binary")
    stored = np.concatenate([np.array(s.vectors, np.float32) for s in vectors.read_shards(where)])
    packed = np.concatenate([s.vectors.packed for s in vectors.read_shards(tmp_path / "codes")])
    assert (packed == quantize_embeddings(stored, "ubinary")).all()
    assert counts["bytes_per_document"] == 4


@pytest.mark.parametrize(("kind", "least"), [("int8", 0.95), ("binary", 0.3)])
def test_quantised_vectors_rank_by_the_product_with_what_they_stand_for(
    tmp_path: Path, kind: Any, least: float
) -> None:
    retriever = Given(quantize=kind, rescore=0)
    run, counts = search(retriever, DOCS, QUERIES, 10, tmp_path)
    stored = postprocess.unit(cloud(0, 1000)).astype(np.float16).astype(np.float32)
    if kind == "int8":
        low, step = stored.min(0), (stored.max(0) - stored.min(0)) / 255
        shown = np.rint((stored - low) / step) * step + low
    else:
        shown = np.where(stored > 0, 1, -1)
    scores = postprocess.unit(cloud(1, 20)) @ shown.T
    for q, docs in enumerate(top(run, 10).values()):
        assert np.allclose(np.sort(scores[q])[::-1][:10], [scores[q][int(doc[1:])] for doc in docs], atol=1e-4)
    assert np.allclose(run[run["query_id"] == "q0"]["score"], np.sort(scores[0])[::-1][:10], atol=1e-4)
    assert run.attrs["counts"]["recall_at_10"] >= least
    assert counts["bytes_per_document"] == (32 if kind == "int8" else 4)


@pytest.mark.parametrize("kind", ["int8", "binary"])
def test_rescoring_gives_exact_scores_and_a_better_recall(tmp_path: Path, kind: Any) -> None:
    exact, _ = search(Given(), DOCS, QUERIES, 10, tmp_path / "exact")
    rough, _ = search(Given(quantize=kind, rescore=0), DOCS, QUERIES, 10, tmp_path / "rough")
    fine, _ = search(Given(quantize=kind, rescore=10), DOCS, QUERIES, 10, tmp_path / "fine")
    both = fine.merge(exact, on=["query_id", "doc_id"])
    assert np.allclose(both["score_x"], both["score_y"], atol=1e-6)
    recall = [approximate.recall(run, exact, 10) for run in (rough, fine)]
    assert recall[0] <= recall[1]
    assert recall[1] >= 0.97
    assert recall[1] == pytest.approx(fine.attrs["counts"]["recall_at_10"])


def test_dimensions_that_are_no_multiple_of_8_are_filled_up(tmp_path: Path) -> None:
    run, counts = search(Given(dims=13, quantize="binary"), DOCS, QUERIES, 10, tmp_path)
    assert counts["bytes_per_document"] == 2
    assert len(run) == 200


def test_truncated_vectors_are_the_first_numbers_of_length_one(tmp_path: Path) -> None:
    run, counts = search(Given(dims=8), DOCS, QUERIES, 1000, tmp_path)
    d, q = (postprocess.unit(postprocess.unit(cloud(i, n))[:, :8]) for i, n in ((0, 1000), (1, 20)))
    scores = (q @ d.T)[run["query_id"].str[1:].astype(int), run["doc_id"].str[1:].astype(int)]
    assert np.abs(scores - run["score"]).max() < 2e-3
    assert (counts["dimensions_before"], counts["dimensions"], counts["bytes_per_document"]) == (32, 8, 16)


def test_nothing_can_be_truncated_to_more_than_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dims=64: the index holds vectors of 32 numbers"):
        search(Given(dims=64), DOCS, QUERIES, 5, tmp_path)


# faiss ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "settings", "least"),
    [
        ("Flat", None, 1.0),
        ("HNSW32", {"efSearch": 128}, 0.97),
        ("IVF16,Flat", {"nprobe": 16}, 1.0),
        ("IVF16,PQ16x4fs", {"nprobe": 8}, 0.3),
        ("SQ8", None, 0.97),
    ],
)
def test_faiss_is_built_once_and_its_recall_is_measured_on_the_queries(
    tmp_path: Path, factory: str, settings: Any, least: float, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    run, counts = search(Given(faiss_factory=factory, faiss_search=settings), DOCS, QUERIES, 10, tmp_path)
    exact, _ = search(Given(), DOCS, QUERIES, 10, tmp_path / "exact")
    measured = run.attrs["counts"]
    assert measured["recall_at_10"] == pytest.approx(approximate.recall(run, exact, 10))
    assert measured["recall_at_10"] >= least
    assert measured["recall_queries"] == 20
    assert "of the exact top 10 (20 queries)" in capfd.readouterr().err
    assert counts["documents"] == 1000
    assert counts["bytes_per_document"] >= (128 if "Flat" in factory else 10)


def test_more_lists_probed_find_more(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    few = Given(faiss_factory="IVF32,Flat", faiss_search={"nprobe": 1})
    one, _ = search(few, DOCS, QUERIES, 10, tmp_path)
    built = (tmp_path / "derived" / "index.faiss").stat().st_mtime_ns
    every = replace(few, faiss_search={"nprobe": 32}).search(tmp_path / "index", QUERIES, 10, tmp_path / "derived")
    assert one.attrs["counts"]["recall_at_10"] < every.attrs["counts"]["recall_at_10"] == 1
    assert (tmp_path / "derived" / "index.faiss").stat().st_mtime_ns == built


def test_the_same_vectors_make_the_same_faiss_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(approximate, "TRAIN", 700)  # a sample
    where = index(Given(), DOCS, tmp_path)
    for name in ("a", "b"):
        approximate.build_faiss(where, tmp_path / name, "IVF16,PQ8x4fs")
        approximate.build_faiss(where, tmp_path / f"{name}.hnsw", "HNSW16")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a.hnsw").read_bytes() == (tmp_path / "b.hnsw").read_bytes()


@pytest.mark.parametrize(
    ("factory", "settings", "message"),
    [
        ("HNSW32x", None, "faiss_factory='HNSW32x' makes no index for vectors of 32 numbers"),
        ("IVF16,PQ7", None, "faiss_factory='IVF16,PQ7'"),
        ("IVF5000,Flat", None, "faiss_factory='IVF5000,Flat' with 1000 documents"),
        ("HNSW32", {"nprobe": 4}, "faiss_search: nprobe=4 does not suit the index"),
    ],
)
def test_what_faiss_cannot_do_is_refused_with_its_reason(
    tmp_path: Path, factory: str, settings: Any, message: str
) -> None:
    pytest.importorskip("faiss")
    with pytest.raises(ConfigError, match=message):
        search(Given(faiss_factory=factory, faiss_search=settings), DOCS, QUERIES, 10, tmp_path)


def test_without_faiss_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"faiss is not installed: pip install 'clir\[faiss\]'"):
        search(Given(faiss_factory="Flat"), DOCS, QUERIES, 5, tmp_path)


# Margin ---------------------------------------------------------------------------------------------------------------


def xsim(x: np.ndarray, y: np.ndarray, kind: str, k: int) -> list[list[int]]:
    """Artetxe & Schwenk's margin written out: for each x its k nearest y, best margin first."""
    cosines = x @ y.T
    forward, backward = np.argsort(-cosines, 1)[:, :k], np.argsort(-cosines.T, 1)[:, :k]
    orders = []
    for i, near in enumerate(forward):
        scores = {}
        for j in near:
            b = sum(cosines[i, z] for z in near) / (2 * k) + sum(cosines[z, j] for z in backward[j]) / (2 * k)
            scores[int(j)] = cosines[i, j] / b if kind == "ratio" else cosines[i, j] - b
        orders.append(sorted(scores, key=scores.__getitem__, reverse=True))
    return orders


@pytest.mark.parametrize("kind", ["ratio", "distance"])
def test_margin_orders_as_its_formula_written_out(tmp_path: Path, kind: Any) -> None:
    x, y = cloud(1, 120), cloud(2, 150)
    run, _ = search(Given(margin=kind), texts(y), texts(x, "q"), 4, tmp_path)
    stored = postprocess.unit(y).astype(np.float16).astype(np.float32)
    expected = xsim(postprocess.unit(x), stored, kind, 4)
    assert top(run, 4) == {f"q{i}": [f"d{j}" for j in order] for i, order in enumerate(expected)}


def test_a_hub_that_is_near_to_every_query_is_nobodys_translation(tmp_path: Path) -> None:
    queries = np.eye(4)[:2]
    docs = np.array([[0.71, 0.71, 0, 0], [0.69, 0, 0.72, 0], [0, 0.69, 0, 0.72]])  # the first is near to both
    plain, _ = search(Given(), texts(docs), texts(queries, "q"), 1, tmp_path / "plain")
    by, _ = search(Given(margin="ratio", margin_neighbours=2), texts(docs), texts(queries, "q"), 3, tmp_path / "by")
    assert top(plain, 1) == {"q0": ["d0"], "q1": ["d0"]}
    assert [docs[0] for docs in top(by, 3).values()] == ["d1", "d2"]


def test_absolute_margin_is_the_cosine_itself(tmp_path: Path) -> None:
    a, _ = search(Given(margin="absolute"), DOCS, QUERIES, 5, tmp_path / "a")
    b, _ = search(Given(), DOCS, QUERIES, 5, tmp_path / "b")
    assert a.equals(b)


# Fields ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantize": "int8", "faiss_factory": "Flat"}, "two answers"),
        ({"faiss_search": {"nprobe": 4}}, "faiss_search is for faiss_factory"),
        ({"normalize": False, "similarity": "cosine", "quantize": "int8"}, "inner products only"),
        ({"normalize": False, "margin": "ratio"}, "margin compares cosines"),
        ({"quantize": "binary", "rescore": 0, "margin": "ratio"}, "without rescore"),
        ({"dims": 0}, "dims must be at least 1"),
        ({"post": ("sphere",)}, "'sphere' is none of center"),
        ({"post": ({"name": "zca", "epsilom": 1.0},)}, "ZCA has no such option; did you mean epsilon"),
        ({"post": ("cbie",)}, "CBIE needs a value for 'clusters'"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Given(**fields)


def test_a_document_whose_vector_is_no_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"gives d1 \(1 of 2 texts\) a vector with NaN"):
        index(Given(normalize=False), texts(np.array([[1.0, 2.0], [1e9, 0.0]])), tmp_path)


def test_ids_are_read_from_their_file_one_by_one_as_a_list_would_have_them(tmp_path: Path) -> None:
    ids = ["d1", "#2", "潮汐\u2028", "", "d5"]
    (tmp_path / "ids.txt").write_text("".join(f"{i}\n" for i in ids), encoding="utf-8", newline="\n")
    (tmp_path / "none.txt").write_text("")
    lines = Lines(tmp_path / "ids.txt")
    assert (len(lines), [*lines], [lines[i] for i in range(-5, 5)]) == (5, ids, ids * 2)
    assert (lines[1:3], lines[::-2], [*Lines(tmp_path / "none.txt")]) == (ids[1:3], ids[::-2], [])
    with pytest.raises(IndexError):
        lines[5]
