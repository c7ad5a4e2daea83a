"""Tatoeba, FLORES and BUCC: what is read of their true files, from folders, archives and addresses."""

from __future__ import annotations

import functools
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED, needs_shared

from clir_cli import compose, config
from clir_cli.errors import DataError, MissingData
from clir_cli.types import Doc, Qrel, Query

TATOEBA = SHARED / "data" / "tatoeba"
PAIRS = {
    "am": 168, "ar": 1000, "zh": 1000, "de": 1000, "el": 1000, "fi": 1000, "fr": 1000, "hi": 1000, "hu": 1000, "it": 1000,
    "ja": 1000, "ko": 1000, "ru": 1000, "es": 1000, "sw": 390, "te": 234, "th": 548, "tr": 1000, "vi": 1000, "xh": 142,
}  # fmt: skip


def preset(name: str, *overrides: str) -> Any:
    (cell,) = compose.cells([f"dataset={name}", *overrides])
    return config.built(cell.plain).dataset


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A server of files, its address and its folder; downloads go to a folder of the test."""
    monkeypatch.setenv("CLIR_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("CLIR_OFFLINE", raising=False)
    root = tmp_path / "web"
    root.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", root
    server.shutdown()
    server.server_close()
    thread.join()


@needs_shared(TATOEBA)
def test_tatoeba_has_its_true_counts_in_both_directions() -> None:
    for lang, pairs in PAIRS.items():
        for query, doc in ((lang, "en"), ("en", lang)):
            texts = f"dataset.texts={TATOEBA}/tatoeba.{{iso3_pair}}.{{iso3}}"
            data = preset("tatoeba", texts, f"dataset.pair={query}-{doc}")
            assert (
                len(list(data.read_docs(doc))) == len(data.read_topics(query)) == len(data.read_qrels("lines")) == pairs
            )


@needs_shared(TATOEBA)
def test_tatoeba_is_read_line_by_line() -> None:
    data = preset("tatoeba", f"dataset.texts={TATOEBA}/tatoeba.{{iso3_pair}}.{{iso3}}", "dataset.pair=sw-en")
    docs, topics = list(data.read_docs("en")), data.read_topics("sw")
    english = (TATOEBA / "tatoeba.swh-eng.eng").read_text().split("\n")
    assert docs[0] == Doc("en-1", {"text": english[0]}, "en", "1")
    assert docs[194] == Doc("en-195", {"text": english[194]}, "en", "195")
    assert docs[-1] == Doc("en-390", {"text": english[389]}, "en", "390")
    assert topics[-1].fields["text"] == (TATOEBA / "tatoeba.swh-eng.swh").read_text().split("\n")[389]
    assert data.read_qrels("lines")[0] == Qrel("1", "en-1", 1)


def test_tatoeba_is_fetched_from_the_authors_repository_with_english_last() -> None:
    for pair in ("zh-en", "en-zh"):
        data = preset("tatoeba", f"dataset.pair={pair}")
        (place,) = data._places("docs", data.doc_lang)
        assert place.endswith(f"/data/tatoeba/v1/tatoeba.cmn-eng.{'eng' if pair == 'zh-en' else 'cmn'}")


def test_a_file_at_an_address_is_fetched_once(web: tuple[str, Path]) -> None:
    address, root = web
    (root / "t.deu-eng.deu").write_text("Katze\nHund\n")
    (root / "t.deu-eng.eng").write_text("cat\ndog\n")
    data = replace(preset("tatoeba", "dataset.pair=de-en"), texts=f"{address}/t.{{iso3_pair}}.{{iso3}}")
    before = data.source("docs", "en")
    assert [doc.fields["text"] for doc in data.read_docs("en")] == ["cat", "dog"]
    (root / "t.deu-eng.eng").unlink()
    assert [doc.fields["text"] for doc in data.read_docs("en")] == ["cat", "dog"]
    assert data.source("docs", "en") == before, "its identity is its address, before and after it is fetched"


def test_flores_is_one_archive_for_all_pairs(web: tuple[str, Path]) -> None:
    address, root = web
    with tarfile.open(root / "flores200_dataset.tar.gz", "w:gz") as archive:
        for name, text in (("eng_Latn", "one\ntwo\n"), ("yor_Latn", "ọ̀kan\nèjì\n"), ("swh_Latn", "moja\nmbili\n")):
            member = tarfile.TarInfo(f"./flores200_dataset/devtest/{name}.devtest")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    texts = f"{address}/flores200_dataset.tar.gz!flores200_dataset/{{split}}/{{flores}}.{{split}}"
    data = replace(preset("flores", "dataset.query_lang=yo", "dataset.doc_lang=[sw,en]"), texts=texts)
    assert [doc.doc_id for lang in ("sw", "en") for doc in data.read_docs(lang)] == ["sw-1", "sw-2", "en-1", "en-2"]
    assert data.read_topics("yo") == [Query("1", {"text": "ọ̀kan"}, "yo"), Query("2", {"text": "èjì"}, "yo")]
    assert [row.doc_id for row in data.read_qrels("lines")] == ["sw-1", "sw-2", "en-1", "en-2"]
    with pytest.raises(
        DataError, match=r"has no 'flores200_dataset/devtest/deu_Latn\.devtest'; it has: flores200_dataset"
    ):
        list(replace(preset("flores", "dataset.pair=en-de"), texts=texts).read_docs("de"))


@pytest.fixture
def bucc(tmp_path: Path) -> Path:
    folder = tmp_path / "bucc" / "de-en"
    folder.mkdir(parents=True)
    (folder / "de-en.training.de").write_text(
        "de-000000001\tEin Hund.\nde-000000002\tEin\tTab.\nde-000000003\tAllein.\n"
    )
    (folder / "de-en.training.en").write_text("en-000000007\tA tab.\nen-000000008\tA dog.\n")
    (folder / "de-en.training.gold").write_text("de-000000001\ten-000000008\nde-000000002\ten-000000007\n")
    return tmp_path / "bucc"


def test_bucc_pairs_say_which_lines_translate_each_other_in_both_directions(bucc: Path) -> None:
    data = preset("bucc", f"dataset.path={bucc}", "dataset.pair=de-en")
    assert list(data.read_docs("en")) == [
        Doc("en-000000007", {"text": "A tab."}, "en"), Doc("en-000000008", {"text": "A dog."}, "en"),
    ]  # fmt: skip
    assert [query.fields["text"] for query in data.read_topics("de")] == ["Ein Hund.", "Ein\tTab.", "Allein."]
    assert data.read_qrels("lines") == [
        Qrel("de-000000001", "en-000000008", 1),
        Qrel("de-000000002", "en-000000007", 1),
    ]
    back = preset("bucc", f"dataset.path={bucc}", "dataset.pair=en-de")
    assert back.read_qrels("lines")[0] == Qrel("en-000000008", "de-000000001", 1)
    assert back.source("qrels", "", "lines").files == (bucc / "de-en" / "de-en.training.gold",)


def test_bucc_says_how_it_is_obtained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIR_BUCC", raising=False)
    with pytest.raises(
        MissingData, match=r"BUCC 2018 is not on this machine(.|\n)*comparable\.limsi\.fr(.|\n)*CLIR_BUCC"
    ):
        preset("bucc").source("docs", "en")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gold", "de-1 en-2\n", r"gold:1: expected two ids separated by a tab"),
        ("en", "en-1 no tab\n", r"\.en:1: expected an id, a tab and a text, found 'en-1 no tab'"),
        ("en", "en 1\ttext\n", r"\.en:1: expected an id without blanks as id, found 'en 1'"),
    ],
)
def test_broken_lines_of_bucc_are_named(name: str, text: str, words: str, bucc: Path) -> None:
    (bucc / "de-en" / f"de-en.training.{name}").write_text(text)
    data = preset("bucc", f"dataset.path={bucc}", "dataset.pair=de-en")
    with pytest.raises(DataError, match=words):
        data.read_qrels("lines") if name == "gold" else list(data.read_docs("en"))
