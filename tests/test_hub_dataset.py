"""Hub datasets by column names: what is read of files of their true formats, fetched from a hub on this machine."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from logging import StreamHandler
from pathlib import Path
from typing import Any

import pytest
from conftest import Clir
from hub_server import COMMIT, hub

from clir_cli import compose, config, docstore
from clir_cli.datasets import download
from clir_cli.datasets.hub import Hub
from clir_cli.errors import DataError, MissingData
from clir_cli.types import Doc, Qrel, Query

PASSAGES = [
    {"_id": "p1", "title": "Ebbe", "text": "Das Wasser sinkt."},
    {"_id": "p2", "title": "", "text": 'Die "Flut" steigt\nund steigt.'},
    {"_id": "p3", "title": "Strom", "text": "Ein Fluss fließt."},
]


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".parquet"):
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        return path
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def local(folder: Path, docs: str, columns: Mapping[str, str] | None = None, **settings: Any) -> Hub:
    (folder / "topics.jsonl").write_text('{"_id": 1, "text": "tide"}\n')
    return Hub(
        docs=str(folder / docs), topics=str(folder / "topics.jsonl"), query_lang="en", doc_lang="de",
        docs_columns=columns or {"doc_id": "_id", "title": "title", "text": "text"},
        topics_columns={"query_id": "_id", "text": "text"}, **settings,
    )  # fmt: skip


def preset(name: str, *overrides: str) -> Any:
    """A dataset of configs/dataset, as `clir run dataset=NAME` builds it."""
    (cell,) = compose.cells([f"dataset={name}", *overrides])
    return config.built(cell.plain).dataset


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Put files into an offline hub cache, as the hub's own client lays it out."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CLIR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def put(repo: str, name: str, content: str | list[dict[str, Any]]) -> Path:
        folder = tmp_path / "hub" / f"datasets--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(COMMIT)
        path = folder / "snapshots" / COMMIT / name
        if isinstance(content, list):
            return save(path, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
        return path

    yield put


# Formats --------------------------------------------------------------------------------------------------------------


def test_jsonl_parquet_csv_and_tsv_say_the_same(tmp_path: Path) -> None:
    for name in ("d.jsonl", "d.jsonl.gz", "d.parquet"):
        save(tmp_path / name, PASSAGES)
    (tmp_path / "d.csv").write_text(
        '_id,title,text\np1,Ebbe,Das Wasser sinkt.\np2,,"Die ""Flut"" steigt\nund steigt."\np3,Strom,Ein Fluss fließt.\n'
    )
    expected = [Doc(row["_id"], {"title": row["title"], "text": row["text"]}, "de") for row in PASSAGES]
    for name in ("d.jsonl", "d.jsonl.gz", "d.parquet", "d.csv"):
        assert list(local(tmp_path, name).read_docs("de")) == expected, name
    (tmp_path / "d.tsv").write_text('p1\tDas "Wasser" sinkt.\np3\tEin Fluss fließt.\n')
    unnamed = local(tmp_path, "d.tsv", {"doc_id": "id", "text": "passage"}, docs_names=("id", "passage"))
    assert [doc.fields["text"] for doc in unnamed.read_docs("de")] == ['Das "Wasser" sinkt.', "Ein Fluss fließt."]


def test_several_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    for number in (10, 2, 1):
        save(root / "me" / "news" / f"corpus/part-{number}.jsonl", [{"_id": f"p{number}", "text": "x", "title": ""}])
    with hub(root) as (url, _asked):
        script = (
            "from clir_cli.datasets import places; import sys\n"
            "print([p.name for p in places.files('dataset.docs', 'hub:me/news/corpus/part-*.jsonl')])"
        )
        found = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False,
            env={**Clir.env(None), "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "cache"), "CLIR_DATA": str(tmp_path / "data")},
        )  # fmt: skip
    assert found.stdout.strip() == "['part-1.jsonl', 'part-2.jsonl', 'part-10.jsonl']", found.stderr


def test_parquet_reads_only_the_columns_that_are_wanted_and_names_one_that_is_not_there(tmp_path: Path) -> None:
    save(tmp_path / "d.parquet", [{**row, "vector": [0.5] * 8} for row in PASSAGES])
    assert len(list(local(tmp_path, "d.parquet").read_docs("de"))) == 3
    with pytest.raises(DataError, match=r"d\.parquet:1: no column 'body' \(dataset\.docs_columns\)"):
        list(local(tmp_path, "d.parquet", {"doc_id": "_id", "text": "body"}).read_docs("de"))


def test_columns_may_be_nested_numbers_and_templates(tmp_path: Path) -> None:
    save(
        tmp_path / "d.jsonl", [{"page": 7, "meta": {"head": "Ebbe"}, "parts": [{"body": "sinkt"}, {"body": "steigt"}]}]
    )
    columns = {"doc_id": "{page}-{#}", "title": "meta.head", "text": "[{page}] {body}"}
    found = list(local(tmp_path, "d.jsonl", columns, docs_each="parts").read_docs("de"))
    assert found == [
        Doc("7-1", {"title": "Ebbe", "text": "[7] sinkt"}, "de"),
        Doc("7-2", {"title": "Ebbe", "text": "[7] steigt"}, "de"),
    ]


def test_judgments_are_a_trec_file_or_columns_with_grades(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("1\t0\tp1\t1\n")
    save(tmp_path / "q.parquet", [{"qid": 1, "pid": "p1", "score": 2.0}, {"qid": 1, "pid": "p3", "score": 0.0}])
    save(tmp_path / "d.jsonl", PASSAGES)
    columns = {"query_id": "qid", "doc_id": "pid", "relevance": "score"}
    assert local(tmp_path, "d.jsonl", qrels=str(tmp_path / "q.tsv")).read_qrels("qrels") == [Qrel("1", "p1", 1)]
    graded = local(tmp_path, "d.jsonl", qrels=str(tmp_path / "q.parquet"), qrels_columns=columns)
    assert graded.read_qrels("qrels") == [Qrel("1", "p1", 2), Qrel("1", "p3", 0)]
    del columns["relevance"]
    every = local(tmp_path, "d.jsonl", qrels=str(tmp_path / "q.parquet"), qrels_columns=columns, doc_ids="lang")
    assert every.read_qrels("qrels") == [Qrel("1", "de-p1", 1), Qrel("1", "de-p3", 1)]


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            '{"_id": "p9", "title": "", "text": NaN}',
            r":2: expected text as text, found NaN, which is no text and no JSON",
        ),
        ('{"_id": "p9", "title": ""}', r":2: no column 'text' \(dataset\.docs_columns\); there are: _id, title"),
        ('{"_id": "p 9", "title": "", "text": "x"}', r":2: expected an id without blanks as _id, found 'p 9'"),
        ('{"_id": "p9", "title": "", "text": ["x"]}', r":2: expected text as text, found list: "),
        ('{"_id": "p9", "title"', r":2: expected one JSON object per line"),
    ],
)
def test_a_row_that_does_not_fit_is_named_by_file_and_line(row: str, words: str, tmp_path: Path) -> None:
    save(tmp_path / "d.jsonl", PASSAGES[:1])
    with (tmp_path / "d.jsonl").open("a") as out:
        out.write(row + "\n")
    with pytest.raises(DataError, match=rf"d\.jsonl{words}"):
        list(local(tmp_path, "d.jsonl").read_docs("de"))


def test_a_null_passage_is_no_text_and_stored_as_such(tmp_path: Path) -> None:
    save(tmp_path / "d.parquet", [{"_id": "p1", "title": None, "text": None}, PASSAGES[2]])
    first, _ = local(tmp_path, "d.parquet").read_docs("de")
    assert first.fields == {"title": "", "text": ""}


def test_a_truncated_parquet_file_is_to_be_fetched_again(tmp_path: Path) -> None:
    whole = save(tmp_path / "d.parquet", PASSAGES).read_bytes()
    (tmp_path / "d.parquet").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"d\.parquet: not a complete parquet file (.|\n)*fetch it again"):
        list(local(tmp_path, "d.parquet").read_docs("de"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('_id,title,text\np1,"a,b\n', r"d\.csv:2: not CSV \(unexpected end of data\)"),
        ("_id,title,text\np1,a\n", r"d\.csv:2: expected 3 columns \(_id, title, text\), found 2"),
        ("_id,_id,text\np1,a,b\n", r"d\.csv:1: the header names a column twice"),
    ],
)
def test_broken_csv_is_named_by_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        list(local(tmp_path, "d.csv").read_docs("de"))


def test_a_grade_that_is_no_integer_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "q.jsonl", [{"q": "1", "d": "p1", "s": 0.5}])
    columns = {"query_id": "q", "doc_id": "d", "relevance": "s"}
    data = local(tmp_path, "d.jsonl", qrels=str(tmp_path / "q.jsonl"), qrels_columns=columns)
    with pytest.raises(DataError, match=r"q\.jsonl:1: expected an integer as s, got '0\.5'"):
        data.read_qrels("qrels")


def test_an_id_that_repeats_is_refused_or_its_first_document_kept(tmp_path: Path) -> None:
    save(tmp_path / "d.jsonl", [*PASSAGES, {**PASSAGES[0], "text": "andere"}])
    data = local(tmp_path, "d.jsonl")
    with pytest.raises(DataError, match=r"d\.jsonl:4: doc_id 'p1' \(de\) occurs twice, first in line 1\n"):
        docstore.write(data.read_docs("de"), tmp_path)
    data = local(tmp_path, "d.jsonl", on_duplicate="first")
    assert docstore.write(data.read_docs("de"), tmp_path, on_duplicate="first")["duplicates"] == 1
    assert docstore.Docstore(tmp_path).find(["p1"])["p1"].fields["text"] == "Das Wasser sinkt."


def test_a_topic_that_repeats_is_refused_with_both_lines(tmp_path: Path) -> None:
    data = local(tmp_path, "d.jsonl")
    save(tmp_path / "topics.jsonl", [{"_id": "q1", "text": "tide"}, {"_id": "q1", "text": "river"}])
    with pytest.raises(DataError, match=r"topics\.jsonl:2: topic 'q1' is listed twice \(en\), first in line 1"):
        data.read_topics("en")


def test_what_the_hub_s_client_says_of_each_try_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import _http, logging

    for name in ("CLIR_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(download, "_silent", [0.0])
    before, heard = logging.get_verbosity(), io.StringIO()
    handler = StreamHandler(heard)
    _http.logger.addHandler(handler)
    try:
        with pytest.raises(MissingData, match="the hub cannot be reached"):
            download._hub("me/news", None, lambda _: (_http.logger.warning("Retrying in 1s"), 1 / 0))
        assert heard.getvalue() == "" and logging.get_verbosity() == before
        _http.logger.warning("Retrying in 1s")
        assert heard.getvalue(), "outside our calls it speaks"
    finally:
        _http.logger.removeHandler(handler)


def test_settings_that_make_no_dataset_are_refused() -> None:
    given: dict[str, Any] = {
        "query_lang": "en",
        "doc_lang": "de",
        "topics": "t.tsv",
        "topics_columns": {"query_id": "a", "text": "b"},
    }
    columns = {"doc_id": "id", "text": "text"}
    for wrong, words in (
        ({"docs": "d", "docs_columns": {"doc_id": "id"}}, "docs_columns must name doc_id and at least one field"),
        (
            {"docs": "{year}", "docs_columns": columns},
            r"\{year\} is no place in '\{year\}'; there are: \{lang\} \{iso3\}",
        ),
        ({"docs": "{split}", "docs_columns": columns}, "choose one with dataset.split="),
        ({"docs": "d", "docs_columns": columns, "repo": "news"}, "it looks like owner/name"),
        ({"docs": "d", "docs_columns": columns, "qrels_columns": {"query_id": "q"}}, "must name query_id and doc_id"),
        ({"docs": "d", "docs_columns": columns, "aligned": "(a"}, "aligned is no regular expression"),
    ):
        with pytest.raises(ValueError, match=words):
            Hub(**given, **wrong)


# The hub --------------------------------------------------------------------------------------------------------------


def test_a_run_fetches_a_hub_dataset_once_and_then_does_without_the_hub(clir: Clir) -> None:
    root = clir.folder / "hub"
    save(root / "me/news/corpus/de-1.parquet", PASSAGES[:2])
    save(root / "me/news/corpus/de-2.parquet", PASSAGES[2:])
    save(root / "me/news/queries.jsonl", [{"_id": "q1", "text": "Flut steigt"}, {"_id": "q2", "text": "Fluss"}])
    save(root / "me/news/qrels.parquet", [{"q": "q1", "d": "p2", "s": 1}, {"q": "q2", "d": "p3", "s": 1}])
    asked = [
        "dataset=hub", "dataset.repo=me/news", "dataset.docs='corpus/{lang}-*.parquet'", "dataset.topics=queries.jsonl",
        "dataset.qrels=qrels.parquet", "dataset.qrels_columns={query_id: q, doc_id: d, relevance: s}",
        "dataset.query_lang=de", "dataset.doc_lang=de", "retriever=bm25",
    ]  # fmt: skip
    own = {"HF_HUB_CACHE": str(clir.folder / "cache"), "CLIR_DATA": str(clir.folder / "data")}
    with hub(root) as (url, requests):
        online = {**own, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0"}
        first = clir.experiment(*asked, env=online)
        got = [request for request in requests if "GET /datasets" in request]
        assert sorted(request.rpartition("/")[2] for request in got) == [
            "de-1.parquet", "de-2.parquet", "qrels.parquet", "queries.jsonl",
        ]  # fmt: skip
        again = clir.experiment(*asked, env=online)
        assert again == first
        assert [request for request in requests if "GET /datasets" in request] == got
    assert clir.experiment(*asked, "retriever.k1=1.2", env=own).is_dir(), "offline, from the hub's cache"
    metrics = (first / "metrics.csv").read_text()
    assert "nDCG@10,1.0,2" in metrics


def test_offline_every_missing_file_is_named_with_its_repository_and_commit(cached: Any) -> None:
    cached("miracl/miracl", "miracl-v1.0-sw/topics/topics.miracl-v1.0-sw-dev.tsv", "1\thabari\n")
    with pytest.raises(MissingData) as caught:
        preset("miracl").read_qrels("qrels")
    message = str(caught.value)
    assert f"lacks 1 file of the hub dataset miracl/miracl at {COMMIT}" in message
    assert (
        f"hf download miracl/miracl --repo-type dataset --revision {COMMIT} miracl-v1.0-sw/qrels/qrels.miracl"
        in message
    )
    assert "clir prefetch" in message
    with pytest.raises(
        MissingData,
        match=r"castorini/mr-tydi is not on this machine(.|\n)*set offline(.|\n)*wanted of it: .*test\.jsonl\.gz",
    ):
        preset("mr_tydi").read_topics("sw")


def test_a_pattern_that_no_file_fits_shows_what_there_is(cached: Any) -> None:
    cached("miracl/miracl-corpus", "miracl-corpus-v1.0-sw/docs-0.jsonl", [{"docid": "1#0", "title": "t", "text": "x"}])
    with pytest.raises(
        DataError,
        match=r"has no miracl-corpus-v1\.0-sw/docs-\*\.jsonl\.gz; it has: miracl-corpus-v1\.0-sw/docs-0\.jsonl",
    ):
        list(preset("miracl").read_docs("sw"))


def test_a_revision_is_part_of_what_is_read(cached: Any, tmp_path: Path) -> None:
    cached("me/news", "d.jsonl", PASSAGES)
    settings: dict[str, Any] = {
        "repo": "me/news",
        "docs": "d.jsonl",
        "topics": "d.jsonl",
        "query_lang": "de",
        "doc_lang": "de",
    }
    columns = {"docs_columns": {"doc_id": "_id", "text": "text"}, "topics_columns": {"query_id": "_id", "text": "text"}}
    data = Hub(**settings, **columns, revision=COMMIT)
    (note,) = data.source("docs", "de").files
    assert json.loads(note.read_text()) == {"hub": "me/news", "commit": COMMIT}
    assert data.source("docs", "de").reading["places"] == [f"hub:me/news@{COMMIT}/d.jsonl"]
    assert [doc.doc_id for doc in data.read_docs("de")] == ["p1", "p2", "p3"]


def test_the_hubs_own_parquet_of_a_dataset_is_a_revision_with_slashes(cached: Any, tmp_path: Path) -> None:
    cached("me/news", "default/train/0000.parquet", PASSAGES)
    reference = tmp_path / "hub" / "datasets--me--news" / "refs" / "refs" / "convert" / "parquet"
    reference.parent.mkdir(parents=True)
    reference.write_text(COMMIT)
    files = "default/train/0000.parquet"
    columns = {"docs_columns": {"doc_id": "_id", "text": "text"}, "topics_columns": {"query_id": "_id", "text": "text"}}
    data = Hub(
        repo="me/news",
        revision="refs/convert/parquet",
        docs=files,
        topics=files,
        query_lang="de",
        doc_lang="de",
        **columns,
    )
    assert [doc.doc_id for doc in data.read_docs("de")] == ["p1", "p2", "p3"]


# What each preset reads, from small files of the true formats -----------------------------------------------------------


def test_mmarco_has_one_id_for_a_passage_in_all_languages(cached: Any) -> None:
    for name, words in (("german", ["Frage", "Antwort", "Rest"]), ("english", ["question", "answer", "rest"])):
        cached(
            "unicamp-dl/mmarco",
            f"data/google/collections/{name}_collection.tsv",
            "".join(f"{i}\t{w}\n" for i, w in enumerate(words)),
        )
        cached(
            "unicamp-dl/mmarco",
            f"data/google/queries/dev/{name}_queries.dev.small.tsv",
            f"1048585\t{words[0]}?\n2\tb\n",
        )
    cached("unicamp-dl/mmarco", "data/qrels.dev.small.tsv", "1048585\t0\t1\t1\n2\t0\t2\t1\n")
    data = preset("mmarco", "dataset.pair=en-de")
    assert list(data.read_docs("de"))[0::2] == [
        Doc("0", {"text": "Frage"}, "de", "0"),
        Doc("2", {"text": "Rest"}, "de", "2"),
    ]
    assert data.read_topics("en")[0] == Query("1048585", {"text": "question?"}, "en")
    assert data.read_qrels("qrels") == [Qrel("1048585", "1", 1), Qrel("2", "2", 1)]
    pool = preset("mmarco", "dataset.query_lang=en", "dataset.doc_lang=[de,en]", "dataset.doc_ids=lang")
    assert [row.doc_id for row in pool.read_qrels("qrels")] == ["de-1", "de-2", "en-1", "en-2"]


def test_miracl_reads_all_files_of_a_corpus_in_order(cached: Any) -> None:
    for part in (0, 1, 10):
        cached(
            "miracl/miracl-corpus",
            f"miracl-corpus-v1.0-sw/docs-{part}.jsonl.gz",
            [{"docid": f"{part}#0", "title": "Mto", "text": f"maji {part}"}],
        )
    cached("miracl/miracl", "miracl-v1.0-sw/topics/topics.miracl-v1.0-sw-dev.tsv", '2#0\tMto "Nile" ni mrefu?\n3\tb\n')
    cached("miracl/miracl", "miracl-v1.0-sw/qrels/qrels.miracl-v1.0-sw-dev.tsv", "2#0\tQ0\t0#0\t1\n2#0\tQ0\t1#0\t0\n")
    data = preset("miracl")
    assert [doc.doc_id for doc in data.read_docs("sw")] == ["0#0", "1#0", "10#0"]
    assert next(data.read_docs("sw")).fields == {"title": "Mto", "text": "maji 0"}
    assert data.read_topics("sw")[0] == Query("2#0", {"text": 'Mto "Nile" ni mrefu?'}, "sw")
    assert data.read_qrels("qrels") == [Qrel("2#0", "0#0", 1), Qrel("2#0", "1#0", 0)]


def test_mr_tydi_finds_its_judgments_in_the_positive_passages(cached: Any) -> None:
    cached(
        "castorini/mr-tydi-corpus",
        "mrtydi-v1.1-swahili/corpus.jsonl.gz",
        [{"docid": f"{i}#0", "title": "T", "text": "x"} for i in range(3)],
    )
    rows = [
        {"query_id": "7", "query": "nani?", "positive_passages": [{"docid": "2#0", "text": "x", "title": "T"}], "negative_passages": []},
        {"query_id": "9", "query": "lini?", "positive_passages": [{"docid": "0#0"}, {"docid": "1#0"}], "negative_passages": []},
    ]  # fmt: skip
    cached("castorini/mr-tydi", "mrtydi-v1.1-swahili/test.jsonl.gz", rows)
    data = preset("mr_tydi")
    assert [doc.doc_id for doc in data.read_docs("sw")] == ["0#0", "1#0", "2#0"]
    assert data.read_topics("sw") == [Query("7", {"text": "nani?"}, "sw"), Query("9", {"text": "lini?"}, "sw")]
    assert data.read_qrels("qrels") == [Qrel("7", "2#0", 1), Qrel("9", "0#0", 1), Qrel("9", "1#0", 1)]


def test_belebele_questions_find_their_passage_in_another_language(cached: Any) -> None:
    def rows(*texts: str) -> list[dict[str, Any]]:
        links = ["https://en.wikinews.org/wiki/A", "https://en.wikinews.org/wiki/A", "https://en.wikibooks.org/wiki/B"]
        return [
            {"link": link, "question_number": number, "flores_passage": text, "question": f"{text}?", "mc_answer1": "a", "correct_answer_num": "1"}
            for link, number, text in zip(links, (1, 2, 1), texts, strict=True)
        ]  # fmt: skip

    cached("facebook/belebele", "data/eng_Latn.jsonl", rows("one", "one", "two"))
    cached("facebook/belebele", "data/swh_Latn.jsonl", rows("moja", "moja", "mbili"))
    data = preset("belebele")
    docs = list(data.read_docs("sw"))
    assert [doc.doc_id for doc in docs] == ["sw-https://en.wikinews.org/wiki/A"] * 2 + [
        "sw-https://en.wikibooks.org/wiki/B"
    ]
    assert (docs[2].aligned, docs[2].fields) == ("https://en.wikibooks.org/wiki/B", {"text": "mbili"})
    assert data.on_duplicate == "first"
    assert [query.query_id[-8:] for query in data.read_topics("en")] == ["wiki/A#1", "wiki/A#2", "wiki/B#1"]
    assert data.read_qrels("qrels")[2] == Qrel(
        "https://en.wikibooks.org/wiki/B#1", "sw-https://en.wikibooks.org/wiki/B", 1
    )


def test_each_of_belebeles_122_variants_is_read_from_its_file(cached: Any) -> None:
    row = {"link": "w/A", "question_number": 1, "flores_passage": "nagar", "question": "kahan?"}
    data = preset("belebele")
    files = {code: replace(data, query_lang=code)._place("topics", code) for code in data.about["query_langs"]}
    assert len(set(files.values())) == 122
    assert (files["hi"], files["hi_Latn"]) == (
        "hub:facebook/belebele/data/hin_Deva.jsonl",
        "hub:facebook/belebele/data/hin_Latn.jsonl",
    )
    assert [files[code][-14:-6] for code in ("ar", "ar_Latn", "zh", "zh_Hant", "ff", "bo", "arz", "nb")] == [
        "arb_Arab", "arb_Latn", "zho_Hans", "zho_Hant", "fuv_Latn", "bod_Tibt", "arz_Arab", "nob_Latn",
    ]  # fmt: skip
    cached("facebook/belebele", "data/hin_Latn.jsonl", [row])
    cached("facebook/belebele", "data/ary_Arab.jsonl", [row])
    pool = preset("belebele", "dataset.query_lang=hi_Latn", "dataset.doc_lang=[hi_Latn,ary]")
    assert [doc.doc_id for code in ("hi_Latn", "ary") for doc in pool.read_docs(code)] == ["hi_Latn-w/A", "ary-w/A"]
    assert [row.doc_id for row in pool.read_qrels("qrels")] == ["hi_Latn-w/A", "ary-w/A"]


def test_mfaq_questions_find_the_answer_below_them(cached: Any) -> None:
    pages = [
        {"id": 4, "domain": "a.nl", "num_pairs": 2, "qa_pairs": [{"question": "Hoe?", "answer": "Zo.", "language": "nl"}, {"question": "Wie?", "answer": "Ik.", "language": "nl"}]},
        {"id": 9, "domain": "b.nl", "num_pairs": 1, "qa_pairs": [{"question": "Waar?", "answer": "Hier.", "language": "nl"}]},
    ]  # fmt: skip
    cached("clips/mfaq", "data/nl/valid.jsonl", pages)
    data = preset("mfaq")
    assert [(doc.doc_id, doc.fields["text"]) for doc in data.read_docs("nl")] == [
        ("a4-1", "Zo."),
        ("a4-2", "Ik."),
        ("a9-1", "Hier."),
    ]
    assert [(query.query_id, query.fields["text"]) for query in data.read_topics("nl")][1] == ("q4-2", "Wie?")
    assert data.read_qrels("qrels") == [Qrel("q4-1", "a4-1", 1), Qrel("q4-2", "a4-2", 1), Qrel("q9-1", "a9-1", 1)]


def test_xlel_mentions_find_the_event_in_the_other_language(cached: Any, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [("Q1", "en", "Flood", "A flood."), ("Q1", "de", "Flut", "Eine Flut."), ("Q2", "en", "Vote", "A vote.")]
    names = ("label_id", "label_lang", "label_title", "label_desc")
    cached("adithya7/xlel_wd_dictionary", "label_dict.jsonl", [dict(zip(names, row, strict=True)) for row in labels])
    cached("adithya7/xlel_wd", "wikinews-zero-shot.test.jsonl", [
        {"mention": "Flut", "context_left": "Die", "context_right": "kam.", "context_lang": "de", "label_id": "Q1"},
        {"mention": "vote", "context_left": "The", "context_right": "came.", "context_lang": "en", "label_id": "Q2"},
        {"mention": "Wahl", "context_left": "Die", "context_right": "kam.", "context_lang": "de", "label_id": "Q2"},
    ])  # fmt: skip
    data = preset("xlel_wd")
    assert list(data.read_docs("en"))[1] == Doc("en-Q2", {"title": "Vote", "text": "A vote."}, "en", "Q2")
    assert "2 rows read for en; there are also: 1 in de" in capsys.readouterr().err
    assert data.read_topics("de")[1] == Query("3", {"text": "Die « Wahl » kam.", "mention": "Wahl"}, "de")
    assert data.read_qrels("qrels") == [Qrel("1", "en-Q1", 1), Qrel("3", "en-Q2", 1)]
