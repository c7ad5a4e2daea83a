"""A collection at rest comes back as it was: in order, by id, by what translations share, whatever the hashes do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clir_cli import docstore
from clir_cli.docstore import Docstore, write
from clir_cli.errors import DataError
from clir_cli.types import Doc

DOCS = [
    Doc("de-2", {"title": "Ebbe", "text": 'Das "Wasser"\nsinkt.\u2028'}, "de", "2"),
    Doc("de-10", {"title": "", "text": "\ufeffFlut 😀"}, "de", "10"),
    Doc("#1", {"text": "潮汐"}, "de", None),
]


def stored(folder: Path, docs: Iterable[Doc] = DOCS, **options: str) -> Docstore:
    write(docs, folder, **options)  # type: ignore[arg-type]
    return Docstore(folder)


def numbered(*ids: str) -> list[Doc]:
    return [Doc(i, {"text": f"text {n}"}, "de", i) for n, i in enumerate(ids)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=4, max_size=4), st.booleans())
def test_a_stored_document_is_a_line_of_plain_json(texts: list[str], alone: bool) -> None:
    doc_id, aligned, title, text = texts
    doc = Doc(doc_id, {"title": title, text: text}, "de", None if alone else aligned)
    values = [doc.doc_id, doc.lang, doc.aligned, doc.fields]
    assert docstore._line(doc).decode() == json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"


def test_documents_come_back_as_they_were_in_their_order(tmp_path: Path) -> None:
    store = stored(tmp_path)
    assert (len(store), list(store.rows())) == (3, DOCS)
    assert [[*store.rows(start, stop)] for start, stop in ((1, None), (0, 2), (2, 9), (3, 5), (2, 1))] == [
        DOCS[1:], DOCS[:2], DOCS[2:], [], [],
    ]  # fmt: skip
    assert list(store.take([2, 0])) == [DOCS[2], DOCS[0]]


def test_documents_are_found_by_id_in_the_order_asked_and_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    store = stored(tmp_path)
    assert list(store.find(["#1", "none", "de-2"]).items()) == [("#1", DOCS[2]), ("de-2", DOCS[0])]
    assert store.find([]) == store.find(["2"]) == {}


def test_documents_are_found_by_what_translations_share(tmp_path: Path) -> None:
    store = stored(tmp_path)
    assert store.find(["10", "2", "de-2"], by="aligned") == {"10": DOCS[1], "2": DOCS[0]}


def test_two_documents_of_a_language_with_one_aligned_id_are_not_told_apart_by_guessing(tmp_path: Path) -> None:
    store = stored(tmp_path, [Doc("de-1-a", {"text": "x"}, "de", "1"), Doc("de-1-b", {"text": "y"}, "de", "1")])
    assert len(store.find(["de-1-a", "de-1-b"])) == 2
    with pytest.raises(DataError, match=r"'de-1-a' and 'de-1-b' .* share the aligned id '1'"):
        store.find(["1"], by="aligned")


def test_an_empty_collection_is_stored_and_counted(tmp_path: Path) -> None:
    assert write([], tmp_path) == {"documents": 0, "empty": 0, "duplicates": 0}
    assert (len(Docstore(tmp_path)), list(Docstore(tmp_path).rows()), Docstore(tmp_path).find(["a"])) == (0, [], {})


def test_repeated_ids_are_refused_with_their_places(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        write(numbered("a", "b", "c", "b", "a", "b"), tmp_path)
    message = str(caught.value)
    assert "doc_id 'b' (de) occurs twice: documents 2 and 4; 3 documents repeat an id" in message
    assert "dataset.on_duplicate=first" in message


def test_the_first_of_repeated_ids_is_kept_and_the_others_counted(tmp_path: Path) -> None:
    docs = numbered("a", "b", "c", "b", "a", "b", "d")
    counts = write(docs, tmp_path, on_duplicate="first")
    assert counts == {"documents": 4, "empty": 0, "duplicates": 3}
    store, kept = Docstore(tmp_path), [docs[0], docs[1], docs[2], docs[6]]
    assert (len(store), list(store.rows())) == (4, kept)
    assert store.find(["d", "b"]) == {"d": docs[6], "b": docs[1]}
    assert store.find(["b"], by="aligned") == {"b": docs[1]}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "aligned.npy", "aligned_rows.npy", "docs.jsonl", "ids.npy", "ids_rows.npy", "offsets.npy",
    ]  # fmt: skip


COLLIDING: list[Callable[[str], int]] = [lambda _: 7, lambda _: 0, lambda identifier: len(identifier) % 2]


@pytest.mark.parametrize("hashed", COLLIDING)
def test_ids_that_share_a_hash_are_different_ids(
    hashed: Callable[[str], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docstore, "hashed", hashed)
    docs = [*numbered("a", "b", "cc"), Doc("d", {"text": "no partner"}, "de")]
    store = stored(tmp_path, docs)
    assert store.find(["cc", "b", "a", "d", "e"]) == {"cc": docs[2], "b": docs[1], "a": docs[0], "d": docs[3]}
    assert store.find(["b", "cc", "d"], by="aligned") == {"b": docs[1], "cc": docs[2]}


@pytest.mark.parametrize("hashed", COLLIDING)
def test_a_repeated_id_is_seen_among_ids_that_share_its_hash(
    hashed: Callable[[str], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docstore, "hashed", hashed)
    docs = numbered("a", "b", "c", "b", "c")
    with pytest.raises(DataError, match=r"doc_id 'b' \(de\) occurs twice: documents 2 and 4; 2 documents repeat"):
        write(docs, tmp_path)
    assert write(docs, tmp_path, on_duplicate="first") == {"documents": 3, "empty": 0, "duplicates": 2}
    assert list(Docstore(tmp_path).rows()) == docs[:3]


ids = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(ids, st.sampled_from([docstore.hashed, *COLLIDING]))
def test_whatever_the_ids_and_hashes_the_first_of_each_is_stored_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], hashed: Callable[[str], int]
) -> None:
    monkeypatch.setattr(docstore, "hashed", hashed)
    docs = numbered(*given)
    first = {doc.doc_id: doc for doc in reversed(docs)}
    counts = write(docs, tmp_path, on_duplicate="first")
    store = Docstore(tmp_path)
    assert (counts["documents"], counts["duplicates"]) == (len(first), len(docs) - len(first))
    assert list(store.rows()) == [doc for n, doc in enumerate(docs) if doc.doc_id not in given[:n]]
    assert store.find([*given, "none"]) == first


def test_documents_without_text_are_kept_dropped_or_refused_and_always_counted(tmp_path: Path) -> None:
    docs = [
        Doc("a", {"title": " ", "text": "\t\n"}, "de"),
        Doc("b", {"title": "x", "text": ""}, "de"),
        Doc("c", {}, "de"),
    ]
    assert write(docs, tmp_path) == {"documents": 3, "empty": 2, "duplicates": 0}
    assert write(docs, tmp_path, on_empty="drop") == {"documents": 1, "empty": 2, "duplicates": 0}
    assert list(Docstore(tmp_path).rows()) == [docs[1]]
    with pytest.raises(DataError, match=r"document 'a' \(de\) has no text in title, text"):
        write(docs, tmp_path, on_empty="error")


def test_a_doc_id_that_two_collections_have_in_common_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("de", "en", "fr"):
        (tmp_path / name).mkdir()
    german, english = stored(tmp_path / "de", numbered("a", "b")), stored(tmp_path / "en", numbered("c", "b"))
    assert (german.shared(english), english.shared(german)) == ("b", "b")
    monkeypatch.setattr(docstore, "hashed", lambda _: 7)
    german, french = stored(tmp_path / "de", numbered("a", "b")), stored(tmp_path / "fr", numbered("x", "y"))
    assert german.shared(french) is None


MEMORY = """
import resource, sys
from pathlib import Path
from clir_cli.docstore import Docstore, write
from clir_cli.types import Doc
import numpy
n, folder = int(sys.argv[1]), Path(sys.argv[2])
write((Doc(f"de-{i}", {"text": f"{i} " * 100}, "de", str(i)) for i in range(n)), folder)
store = Docstore(folder)
assert sum(1 for _ in store.rows()) == n and len(store.find([f"de-{i}" for i in range(0, n, n // 100)])) == 100
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kb(documents: int, folder: Path) -> int:
    folder.mkdir()
    command = [sys.executable, "-c", MEMORY, str(documents), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return int(done.stdout)


def test_memory_does_not_grow_with_the_collection_but_for_tens_of_bytes_a_document(tmp_path: Path) -> None:
    small, large = peak_kb(2_000, tmp_path / "small"), peak_kb(60_000, tmp_path / "large")
    size = (tmp_path / "large" / "docs.jsonl").stat().st_size
    assert size > 30e6 and large - small < 58_000 * 0.12, f"{small} kB for 2000 documents, {large} kB for 60000"
