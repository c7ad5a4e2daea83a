"""Maps of vectors are what numpy says in a line, fitted on documents or parallel lines, never on judgments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import STATIC, XQUAD, needs_shared
from given_vectors import Given, cloud, index, search, texts

from clir_cli.errors import ConfigError, DataError, LanguageError, RunError
from clir_cli.fingerprints import Fingerprints
from clir_cli.retrievers.single_vector import SingleVector
from clir_cli.search import vectors
from clir_cli.search.postprocess import unit
from clir_cli.steps import identity
from clir_cli.types import Text

DE, EN = cloud(0, 500) + 2.0, cloud(1, 300) - 1.0  # two languages, each in a place of its own
POOL = [*texts(DE, "de", "de"), *texts(EN, "en", "en")]
ASKED = cloud(2, 10) + 2.0


def derived(retriever: SingleVector, folder: Path, docs: list[Text] = POOL, query_lang: str = "de") -> np.ndarray:
    """The documents' vectors as they are searched, float32."""
    where = index(retriever, docs, folder)
    (folder / "derived").mkdir()
    doc_langs = list(dict.fromkeys(doc.lang for doc in docs))
    retriever.files([query_lang], doc_langs)
    retriever.derive(where, folder / "derived", [query_lang], doc_langs)
    return np.concatenate([np.array(s.vectors, np.float32) for s in vectors.read_shards(folder / "derived")])


def stored(rows: np.ndarray, normalize: bool = True) -> np.ndarray:
    """Vectors as an index holds them."""
    return (unit(rows) if normalize else rows).astype(np.float16).astype(np.float64)


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and bool(
        np.abs(found - expected).max() < 2e-3 * max(1, np.abs(expected).max())
    )


# Each map -------------------------------------------------------------------------------------------------------------


def test_centring_takes_away_each_languages_own_mean(tmp_path: Path) -> None:
    de, en = stored(DE), stored(EN)
    found = derived(Given(post=("center",)), tmp_path)
    assert near(found, np.concatenate([unit(de - de.mean(0)), unit(en - en.mean(0))]))


def test_centring_on_all_takes_away_one_mean(tmp_path: Path) -> None:
    both = np.concatenate([stored(DE), stored(EN)])
    found = derived(Given(post=({"name": "center", "by": "all"},)), tmp_path)
    assert near(found, unit(both - both.mean(0)))


def test_zca_whitens_and_turns_as_little_as_can_be(tmp_path: Path) -> None:
    both = np.concatenate([stored(DE, False), stored(EN, False)])
    found = derived(Given(normalize=False, post=({"name": "zca", "epsilon": 0.0},)), tmp_path)
    values, axes = np.linalg.eigh(np.cov(both.T, ddof=0))
    assert near(found, (both - both.mean(0)) @ axes @ np.diag(values**-0.5) @ axes.T)
    assert np.abs(np.cov(found.T, ddof=0) - np.eye(32)).max() < 0.01


def test_zca_by_language_whitens_each(tmp_path: Path) -> None:
    found = derived(Given(normalize=False, post=({"name": "zca", "by": "language"},)), tmp_path)
    for part in (found[:500], found[500:]):
        assert np.abs(np.cov(part.T, ddof=0) - np.eye(32)).max() < 0.02


def test_cbie_takes_away_each_clusters_mean_and_first_directions(tmp_path: Path) -> None:
    step = {"name": "cbie", "clusters": 5, "directions": 3}
    found = derived(Given(normalize=False, post=(step,)), tmp_path)
    with np.load(tmp_path / "derived" / "post.npz") as kept:
        centres = kept["0/*/centres"]
    both = np.concatenate([stored(DE, False), stored(EN, False)])
    own = np.array([np.argmin([np.linalg.norm(x - c) for c in centres]) for x in both])
    assert len(set(own)) == len(centres) == 5
    expected = np.empty_like(both)
    for cluster in range(5):
        rest = both[own == cluster] - both[own == cluster].mean(0)
        for direction in np.linalg.svd(rest, full_matrices=False)[2][:3]:
            rest = rest - np.outer(rest @ direction, direction)
        expected[own == cluster] = rest
    assert near(found, expected)


def test_outlier_dimensions_are_dropped(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((400, 64)).astype(np.float32) * 0.1
    rows[:, 17] += 5
    rows[:, 40] -= 5
    docs = texts(rows, "d")
    found = derived(Given(normalize=False, post=({"name": "drop_dims", "sigmas": 2.0},)), tmp_path, docs, "en")
    assert near(found, np.delete(stored(rows, False), [17, 40], axis=1))


def lines(folder: Path, **languages: np.ndarray) -> str:
    for lang, rows in languages.items():
        (folder / f"lines.{lang}.txt").write_text("".join(json.dumps(row.tolist()) + "\n" for row in rows))
    return f"{folder}/lines.{{lang}}.txt"


def turned(seed: int = 3) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((32, 32)))[0].astype(np.float32)


@pytest.mark.parametrize("name", ["linear", "procrustes"])
def test_a_map_fitted_on_parallel_lines_brings_queries_to_the_documents(tmp_path: Path, name: str) -> None:
    turn, english, docs = turned(), cloud(5, 200), texts(cloud(0, 500))
    parallel = lines(tmp_path, en=english, sw=english @ turn.T)  # "Swahili" is English turned around
    queries = cloud(6, 20)
    straight, _ = search(Given(), docs, texts(queries, "q"), 10, tmp_path / "straight")
    mapped = Given(post=(name,), parallel=parallel)
    found, _ = search(mapped, docs, texts(queries @ turn.T, "q", "sw"), 10, tmp_path / "mapped")
    assert list(found["doc_id"]) == list(straight["doc_id"])
    with np.load(tmp_path / "mapped" / "derived" / "post.npz") as kept:
        w = kept["0/sw"]
    x, y = unit(english @ turn.T).astype(float), unit(english).astype(float)
    if name == "linear":
        assert np.allclose(w, np.linalg.pinv(x) @ y, atol=1e-6)
    else:
        assert np.allclose(w @ w.T, np.eye(32), atol=1e-6)
        u, _, v = np.linalg.svd(x.T @ y)
        assert np.allclose(w, u @ v, atol=1e-6)
        assert np.allclose(w, turn, atol=1e-3)


def test_queries_in_the_documents_own_language_need_no_map(tmp_path: Path) -> None:
    docs, queries = texts(cloud(0, 500)), texts(cloud(6, 20), "q")
    a, _ = search(Given(), docs, queries, 10, tmp_path / "a")
    b, _ = search(Given(post=("procrustes",)), docs, queries, 10, tmp_path / "b")
    assert list(a["doc_id"]) == list(b["doc_id"])


def test_a_chain_is_fitted_step_by_step(tmp_path: Path) -> None:
    step = {"name": "zca", "epsilon": 0.01}
    found = derived(Given(dims=16, post=("center", step)), tmp_path)
    parts = [unit(stored(rows)[:, :16]).astype(float) for rows in (DE, EN)]
    both = np.concatenate([part - part.mean(0) for part in parts])
    values, axes = np.linalg.eigh(np.cov(both.T, ddof=0))
    assert near(found, unit((both - both.mean(0)) @ axes @ np.diag((values + 0.01) ** -0.5) @ axes.T))


def test_a_chain_can_be_quantised_and_searched_approximately(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    queries = texts(ASKED, "q", "de")
    exact, _ = search(Given(post=("center", "zca")), POOL, queries, 10, tmp_path / "exact")
    for fields in ({"quantize": "int8"}, {"faiss_factory": "IVF4,Flat", "faiss_search": {"nprobe": 4}}):
        run, counts = search(Given(post=("center", "zca"), **fields), POOL, queries, 10, tmp_path / str(len(fields)))
        assert run.attrs["counts"]["recall_at_10"] >= 0.97
        assert np.allclose(run["score"], exact["score"], atol=2e-3)
        assert counts["mean_cosine"] < 0.05 < counts["mean_cosine_before"]


def test_memory_stays_flat_and_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clir_cli.retrievers import single_vector

    post = ("center", "zca", {"name": "cbie", "clusters": 3, "directions": 2})
    whole = derived(Given(post=post), tmp_path / "whole")
    monkeypatch.setattr(single_vector, "BLOCK", 37)
    assert np.abs(derived(Given(post=post), tmp_path / "blocks") - whole).max() < 2e-3


def test_the_same_vectors_make_the_same_bytes(tmp_path: Path) -> None:
    post = ("center", "zca", {"name": "cbie", "clusters": 3, "directions": 2})
    for name in ("a", "b"):
        derived(Given(post=post), tmp_path / name)
    a, b = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for f in (tmp_path / "a", tmp_path / "b")
    )
    assert a == b


# What queries get -----------------------------------------------------------------------------------------------------


def test_queries_get_the_mean_of_the_documents_in_their_language(tmp_path: Path) -> None:
    run, _ = search(Given(post=("center",)), POOL, texts(ASKED, "q", "de"), 800, tmp_path)
    de, en = stored(DE), stored(EN)
    docs = dict(zip([d.id for d in POOL], np.concatenate([unit(de - de.mean(0)), unit(en - en.mean(0))]), strict=True))
    asked = unit(unit(ASKED) - de.mean(0))
    expected = [float(asked[int(q[1:])] @ docs[d]) for q, d in zip(run["query_id"], run["doc_id"], strict=True)]
    assert np.allclose(run["score"], expected, atol=2e-3)


def test_a_query_language_without_documents_gets_the_mean_of_its_lines(tmp_path: Path) -> None:
    texts_of_sw = cloud(8, 100) + 3
    retriever = Given(post=("center",), parallel=lines(tmp_path, sw=texts_of_sw))
    assert [path.name for path in retriever.files(["sw"], ["de", "en"])] == ["lines.sw.txt"]
    assert retriever.files(["de"], ["de", "en"]) == retriever.files([], ["de"]) == []
    search(retriever, POOL, texts(ASKED, "q", "sw"), 10, tmp_path)
    with np.load(tmp_path / "derived" / "post.npz") as kept:
        assert np.allclose(kept["0/sw/mean"], unit(texts_of_sw).mean(0), atol=1e-6)


@pytest.mark.parametrize("post", [("center",), ("linear",), ({"name": "zca", "by": "language"},)])
def test_a_query_language_without_documents_or_lines_is_refused_before_anything_runs(post: Any) -> None:
    with pytest.raises(LanguageError, match=r"fitted on texts in 'sw'(.|\n)*retriever\.parallel=lines\.\{lang\}\.txt"):
        Given(post=post).files(["sw"], ["en"])
    assert Given(post=({"name": "zca"},)).files(["sw"], ["en"]) == []


def test_a_query_of_an_unexpected_language_is_refused_at_search(tmp_path: Path) -> None:
    retriever = Given(post=("center",))
    derived(retriever, tmp_path)
    with pytest.raises(LanguageError, match="center was fitted by language for de, en, not for 'sw'"):
        retriever.search(tmp_path / "index", texts(ASKED, "q", "sw"), 5, tmp_path / "derived")


def test_a_map_into_several_languages_at_once_is_refused_with_the_way_out() -> None:
    with pytest.raises(LanguageError, match=r"documents are in de\+en\n  retrieve\.pool=per_language"):
        Given(post=("procrustes",), parallel="x.{lang}").files(["sw"], ["de", "en"])


def test_lines_that_are_not_parallel_are_refused(tmp_path: Path) -> None:
    given = Given(post=("linear",), parallel=lines(tmp_path, en=cloud(5, 20), sw=cloud(5, 19)))
    with pytest.raises(DataError, match=r"19 lines in 'sw' and 20 in 'en'"):
        search(given, texts(cloud(0, 50)), texts(ASKED, "q", "sw"), 5, tmp_path)
    (tmp_path / "lines.sw.txt").write_text("[1.0]\n\n[2.0]\n")
    with pytest.raises(DataError, match=r"lines\.sw\.txt:2: an empty line"):
        given._lines("sw", "query")
    with pytest.raises(ConfigError, match=r"'x\.\{language\}' does not parse"):
        Given(post=("linear",), parallel="x.{language}").files(["sw"], ["en"])


def test_an_index_that_does_not_say_its_languages_is_refused(tmp_path: Path) -> None:
    where = index(Given(), POOL, tmp_path)
    (where / "shards" / "00000" / "langs.json").unlink()
    with pytest.raises(
        DataError, match="does not say which of its 400 documents are in which language: build the index"
    ):
        Given(post=("center",)).derive(where, tmp_path, ["de"], ["de", "en"])


def test_a_search_without_what_it_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="were not derived from the index"):
        Given(post=("center",)).search(index(Given(), POOL, tmp_path), texts(ASKED, "q", "de"), 5)


def test_what_is_derived_is_in_no_index_identity(tmp_path: Path) -> None:
    prints = Fingerprints(tmp_path)
    chain = Given(post=("center", {"name": "zca", "epsilon": 0.1}), dims=8, faiss_factory="Flat")
    assert identity(chain, prints, "index") == identity(Given(), prints, "index")
    assert identity(chain, prints, "derive") != identity(Given(), prints, "derive")
    moved = Given(parallel="elsewhere.{lang}", recall_queries=0)
    assert identity(moved, prints) == identity(Given(), prints)


# On real texts --------------------------------------------------------------------------------------------------------


@needs_shared(STATIC)
@needs_shared(XQUAD)
def test_centring_each_language_makes_a_pool_less_partial_to_the_querys_own(tmp_path: Path) -> None:
    from clir_cli.retrievers.dense import Dense

    langs, docs = ("ar", "de", "en", "hi", "zh"), []
    for lang in langs:
        rows = [json.loads(line) for line in (XQUAD / f"corpus.{lang}.jsonl").read_text(encoding="utf-8").splitlines()]
        docs += [Text(row["docid"], ((lang, row["text"]),)) for row in rows]
    topics = [line.split("\t") for line in (XQUAD / "topics.de.tsv").read_text(encoding="utf-8").splitlines()]
    queries = [Text(query, (("de", text),)) for query, text in topics]
    relevant = {}
    for lang in langs:
        for line in (XQUAD / f"qrels.{lang}.txt").read_text().splitlines():
            relevant.setdefault(line.split()[0], set()).add(line.split()[2])
    own, foreign = {}, {}
    for name, post in (("plain", ()), ("centred", ("center",))):
        run, _ = search(Dense(str(STATIC), device="cpu", post=post), docs, queries, 20, tmp_path / name)
        spoken = {doc.id: doc.lang for doc in docs}
        own[name] = float((run["doc_id"].map(spoken) == "de").mean())
        hits = run[[d in relevant[q] for q, d in zip(run["query_id"], run["doc_id"], strict=True)]]
        foreign[name] = len(hits[hits["doc_id"].map(spoken) != "de"]) / (4 * len(queries))
    assert own["centred"] < own["plain"] - 0.05  # of the top 20: .35 and .28
    assert foreign["centred"] > foreign["plain"] + 0.01  # of the relevant paragraphs in other languages: .45 and .48
