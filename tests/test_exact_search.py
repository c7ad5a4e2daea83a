"""Exact search over vectors on disk: the ranking of one float32 product, whatever the blocks, shards and ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clir_cli.search import vectors


def write(folder: Path, matrix: np.ndarray, ids: list[str], shard: int) -> None:
    for number, start in enumerate(range(0, len(ids), shard)):
        at = folder / "shards" / f"{number:05}"
        at.mkdir(parents=True)
        vectors.write_shard(at, ids[start : start + shard], matrix[start : start + shard])


def search(folder: Path, queries: np.ndarray, depth: int, cosine: bool = False) -> list[list[tuple[str, float]]]:
    names = [f"q{i:03}" for i in range(len(queries))]
    run = vectors.search_exact(folder, names, queries, depth, cosine=cosine)
    found = dict(iter(run.groupby("query_id")))
    return [list(zip(found[name].doc_id, found[name].score, strict=True)) for name in names]


def product(matrix: np.ndarray, queries: np.ndarray, ids: list[str], depth: int) -> list[list[str]]:
    scores = queries.astype(np.float64) @ matrix.astype(np.float64).T
    return [
        [ids[i] for i in sorted(range(len(ids)), key=lambda i: (row[i], ids[i]), reverse=True)[:depth]]
        for row in scores
    ]


@pytest.mark.parametrize("shard", [20_000, 3_000])
@pytest.mark.parametrize("depth", [1, 10, 1_000])
def test_blocks_and_shards_give_the_ranking_of_one_product(tmp_path: Path, shard: int, depth: int) -> None:
    draw = np.random.default_rng(0)
    matrix = draw.standard_normal((9_000, 96), np.float32).astype(np.float16)
    queries = draw.standard_normal((5, 96), np.float32)
    ids = [f"d{i:05}" for i in range(9_000)]
    write(tmp_path, matrix, ids, shard)
    assert [[doc for doc, _ in rows] for rows in search(tmp_path, queries, depth)] == product(
        matrix, queries, ids, depth
    )


def test_scores_are_float32_products_of_the_stored_numbers(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    matrix = draw.standard_normal((4_000, 64), np.float32).astype(np.float16)
    queries = draw.standard_normal((2, 64), np.float32)
    write(tmp_path, matrix, [str(i) for i in range(4_000)], 4_000)
    for query, rows in zip(queries, search(tmp_path, queries, 50), strict=True):
        exact = [float(query.astype(np.float64) @ matrix[int(doc)].astype(np.float64)) for doc, _ in rows]
        assert np.allclose([score for _, score in rows], exact, rtol=0, atol=1e-4)


def test_rising_scores_keep_the_best_although_every_block_beats_all_before(tmp_path: Path) -> None:
    matrix = np.linspace(0.1, 1, 30_000, dtype=np.float32).astype(np.float16)[:, None] * np.ones((1, 8), np.float16)
    ids = [f"d{i:05}" for i in range(30_000)]
    write(tmp_path, matrix, ids, 11_000)
    found = search(tmp_path, np.ones((1, 8), np.float32), 100)[0]
    assert [doc for doc, _ in found] == product(matrix, np.ones((1, 8), np.float32), ids, 100)[0]


def test_of_equal_documents_the_largest_ids_stay_wherever_they_stand(tmp_path: Path) -> None:
    """The same vector in every block and shard, at all kinds of places: equal scores, so names decide."""
    draw = np.random.default_rng(2)
    matrix = (draw.standard_normal((40_000, 48), np.float32) / 100).astype(np.float16)
    best = np.sign(draw.standard_normal(48)).astype(np.float16) * np.float16(0.37)
    places = draw.choice(40_000, 200, replace=False)
    matrix[places] = best
    ids = [f"d{i:05}" for i in draw.permutation(40_000)]
    write(tmp_path, matrix, ids, 17_001)
    queries = best[None].astype(np.float32) + (draw.standard_normal((3, 48), np.float32) / 1000)
    for rows in search(tmp_path, queries, 20):
        assert [doc for doc, _ in rows] == sorted((ids[i] for i in places), reverse=True)[:20]


def test_documents_that_all_tie_are_ranked_by_id(tmp_path: Path) -> None:
    ids = [f"d{i:05}" for i in range(5_000)]
    write(tmp_path, np.zeros((5_000, 8), np.float16), ids, 2_000)
    found = search(tmp_path, np.ones((2, 8), np.float32), 7)
    assert all([doc for doc, _ in rows] == sorted(ids, reverse=True)[:7] for rows in found)


def test_fewer_documents_than_the_depth_come_back_all(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    matrix = draw.standard_normal((70, 16), np.float32).astype(np.float16)
    queries = draw.standard_normal((2, 16), np.float32)
    ids = [f"d{i}" for i in range(70)]
    write(tmp_path, matrix, ids, 30)
    assert [[doc for doc, _ in rows] for rows in search(tmp_path, queries, 1000)] == product(matrix, queries, ids, 70)


def test_cosine_divides_by_the_documents_lengths(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    matrix = (draw.standard_normal((3_000, 32), np.float32) * draw.uniform(0.1, 9, (3_000, 1))).astype(np.float16)
    queries = draw.standard_normal((3, 32), np.float32)
    ids = [f"d{i:04}" for i in range(3_000)]
    write(tmp_path, matrix, ids, 1_700)
    lengths = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    expected = product(matrix / lengths, queries, ids, 25)
    assert [[doc for doc, _ in rows] for rows in search(tmp_path, queries, 25, cosine=True)] == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3_000), st.integers(1, 60), st.integers(1, 1_500), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_whatever_the_sizes_and_ties(
    tmp_path_factory: pytest.TempPathFactory, count: int, depth: int, shard: int, queries: int, seed: int
) -> None:
    """Small whole numbers: products are exact and many are equal."""
    draw = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("index")
    matrix = draw.integers(-2, 3, (count, 4)).astype(np.float16)
    asked = draw.integers(-2, 3, (queries, 4)).astype(np.float32)
    ids = [f"d{i:04}" for i in draw.permutation(count)]
    write(folder, matrix, ids, shard)
    found = [[doc for doc, _ in rows] for rows in search(folder, asked, depth)]
    assert found == product(matrix, asked, ids, min(depth, count))


@pytest.mark.parametrize("depth", [10, 700])
def test_a_query_finds_alone_what_it_finds_among_others(tmp_path: Path, depth: int) -> None:
    draw = np.random.default_rng(2)
    matrix = draw.standard_normal((25_000, 96), np.float32).astype(np.float16)
    queries = draw.standard_normal((12, 96), np.float32)
    write(tmp_path, matrix, [f"d{i:05}" for i in range(25_000)], 4_000)
    together = search(tmp_path, queries, depth)
    for query, rows in zip(queries, together, strict=True):
        ((alone),) = search(tmp_path, query[None], depth)
        assert np.allclose([score for _, score in alone], [score for _, score in rows], rtol=0, atol=1e-4)
        clear = rows[-1][1] + 1e-4  # nearer to the cut the last digits decide, and they depend on the product's shape
        assert {doc for doc, score in alone if score > clear} == {doc for doc, score in rows if score > clear}


def test_a_query_alone_keeps_the_largest_ids_of_equal_documents(tmp_path: Path) -> None:
    matrix = np.ones((25_000, 8), np.float16)
    matrix[::2] = 2
    write(tmp_path, matrix, [f"d{i:05}" for i in range(25_000)], 10_000)
    (found,) = search(tmp_path, np.ones((1, 8), np.float32), 3)
    assert [doc for doc, _ in found] == ["d24998", "d24996", "d24994"]


@pytest.mark.parametrize("count", [1, 30])
def test_the_number_of_threads_changes_no_score(tmp_path: Path, count: int) -> None:
    draw = np.random.default_rng(3)
    matrix = draw.standard_normal((30_000, 64), np.float32).astype(np.float16)
    queries = draw.standard_normal((count, 64), np.float32)
    write(tmp_path, matrix, [f"d{i:05}" for i in range(30_000)], 7_000)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(search(tmp_path, queries, 100))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_no_queries_and_no_documents_give_an_empty_run(tmp_path: Path) -> None:
    write(tmp_path / "one", np.ones((1, 8), np.float16), ["d"], 1)
    vectors.write_shard(tmp_path / "none" / "shards" / "00000", [], np.ones((0, 8), np.float16))
    assert vectors.search_exact(tmp_path / "one", [], np.ones((0, 8), np.float32), 5).empty
    assert vectors.search_exact(tmp_path / "none", ["q"], np.ones((1, 8), np.float32), 5).empty
