"""The inverted index holds what it was given and ranks as a brute-force sum over all documents does."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clir_cli.errors import DataError
from clir_cli.search import inverted
from clir_cli.types import Run

Docs = Sequence[tuple[str, Mapping[Any, float]]]


def write(folder: Path, *shards: Docs, counts: bool = True) -> Path:
    for number, docs in enumerate(shards):
        inverted.write_shard(folder / "shards" / f"{number:05}", docs, counts=counts, facts={"analyser": "whitespace"})
    return folder


def some_docs(count: int, seed: int = 0) -> list[tuple[str, dict[str, int]]]:
    rng = random.Random(seed)
    vocabulary = [f"t{i}" for i in range(40)]
    return [
        (f"d{i:03}", {term: rng.randint(1, 3) for term in rng.sample(vocabulary, rng.randint(0, 8))})
        for i in range(count)
    ]


def single(*terms: Any) -> dict[Any, inverted.Wanted]:
    return {term: inverted.Wanted({term: 1.0}, lambda values, lengths: values) for term in terms}


def listed(run: Run, query: str) -> list[tuple[str, float]]:
    rows = run[run["query_id"] == query]
    return list(zip(rows["doc_id"], rows["score"], strict=True))


def test_an_index_gives_back_every_posting(tmp_path: Path) -> None:
    docs = some_docs(90)
    (shard,) = inverted.read_shards(write(tmp_path, docs))
    assert shard.ids() == [name for name, _ in docs]
    for term in [f"t{i}" for i in range(41)]:  # t40 is in no document
        at, values = shard.postings(term)
        expected = [(i, found[term]) for i, (_, found) in enumerate(docs) if term in found]
        assert list(zip(at.tolist(), values.tolist(), strict=True)) == expected
    assert shard.lengths.tolist() == [sum(found.values()) for _, found in docs]


@pytest.mark.parametrize(("largest", "kind"), [(3, "uint8"), (300, "uint16"), (70_000, "uint32")])
def test_counts_take_the_smallest_type_that_holds_them(tmp_path: Path, largest: int, kind: str) -> None:
    (shard,) = inverted.read_shards(write(tmp_path, [("d", {"a": 1, "b": largest})]))
    assert shard.values.dtype == kind
    assert shard.postings("b")[1].tolist() == [largest]


def test_any_string_can_be_a_term(tmp_path: Path) -> None:
    terms = ["a b", "line\nbreak", "\x1f", "猫", "𓀀", '"', ""]
    (shard,) = inverted.read_shards(write(tmp_path, [("d", dict.fromkeys(terms, 1))]))
    assert all(shard.postings(term)[0].tolist() == [0] for term in terms)


def test_statistics_are_of_all_shards(tmp_path: Path) -> None:
    known = inverted.statistics(write(tmp_path, [("a", {"x": 2, "y": 1})], [("b", {"x": 1}), ("c", {})]), ["x", "z"])
    assert known == (2, 4.0, {"x": 2, "z": 0}, {"x": 3.0, "z": 0.0})


@pytest.mark.parametrize("depth", [1, 5, 1000])
def test_the_ranking_is_that_of_a_sum_over_all_documents(tmp_path: Path, depth: int) -> None:
    docs = some_docs(120)
    folder = write(tmp_path, docs[:50], docs[50:51], docs[51:])
    queries = [(f"q{i}", {f"t{j}": 0.5 + j for j in range(i, i + 4)}) for i in range(36)] + [("none", {})]
    run = inverted.search(folder, queries, single(*(f"t{i}" for i in range(40))), depth)
    for name, features in queries:
        scores = {doc: sum(w * terms.get(f, 0.0) for f, w in features.items()) for doc, terms in docs}
        expected = sorted(((s, doc) for doc, s in scores.items() if s > 0), reverse=True)[:depth]
        assert listed(run, name) == [(doc, pytest.approx(score)) for score, doc in expected]


def test_documents_that_tie_at_the_cut_stay_by_doc_id_descending_wherever_they_are(tmp_path: Path) -> None:
    folder = write(tmp_path, [("b", {"x": 1}), ("e", {"x": 1})], [("a", {"x": 1}), ("d", {"x": 1}), ("c", {"x": 2})])
    run = inverted.search(folder, [("q", {"x": 1.0})], single("x"), 3)
    assert listed(run, "q") == [("c", 2.0), ("e", 1.0), ("d", 1.0)]


def test_a_query_gets_the_same_scores_whatever_is_asked_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, some_docs(60))
    queries = [(f"q{i}", {f"t{j}": 1 / (3 + j) for j in range(i, i + 9)}) for i in range(20)]
    wanted = single(*(f"t{i}" for i in range(40)))
    together = inverted.search(folder, queries, wanted, 50)
    alone = inverted.search(folder, queries[7:8], wanted, 50)
    assert listed(together, "q7") == listed(alone, "q7")
    monkeypatch.setattr(inverted, "SCORES", 1)  # one query at a time
    assert inverted.search(folder, queries, wanted, 50).equals(together)


def test_several_terms_stand_for_one_feature_with_their_weights(tmp_path: Path) -> None:
    folder = write(tmp_path, [("a", {"x": 2, "y": 1}), ("b", {"y": 4}), ("c", {"z": 1})])
    wanted = {"e": inverted.Wanted({"x": 0.5, "y": 0.25}, lambda values, lengths: values / lengths)}
    run = inverted.search(folder, [("q", {"e": 2.0})], wanted, 10)
    assert listed(run, "q") == [("a", pytest.approx(2 * 1.25 / 3)), ("b", pytest.approx(2 * 1.0 / 4))]


def test_an_index_made_with_something_else_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, some_docs(3))
    inverted.check_facts(folder, {"analyser": "whitespace"})
    with pytest.raises(DataError, match=r"made with retriever\.analyser=whitespace, the search asks for icu"):
        inverted.check_facts(folder, {"analyser": "icu"})


def test_an_index_whose_files_do_not_belong_together_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, some_docs(3))
    (folder / "shards" / "00000" / "terms.json").write_text(json.dumps(["t1"]))
    with pytest.raises(DataError, match="do not belong together"):
        list(inverted.read_shards(folder))


def test_an_index_of_documents_without_terms_finds_nothing(tmp_path: Path) -> None:
    run = inverted.search(write(tmp_path, [("a", {}), ("b", {})]), [("q", {"x": 1.0})], single("x"), 10)
    assert run.empty
    assert np.array_equal(run.columns, ["query_id", "doc_id", "score", "rank"])
