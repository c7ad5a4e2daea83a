"""A collection of any size passes through in flat memory: read row by row, sorted block by block."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import Clir

from clir_cli import docstore
from clir_cli.datasets.bitext import Bitext
from clir_cli.datasets.hub import Hub
from clir_cli.docstore import Docstore, hashed, write
from clir_cli.errors import DataError
from clir_cli.types import Doc

MEASURED = """
import sys, threading, time
def held():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) // 1024
{work}
import numpy
before, peak, done = held(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.01):
        peak = max(peak, held())
thread = threading.Thread(target=watch)
thread.start()
work(int(sys.argv[1]), sys.argv[2])
done.set()
thread.join()
print(peak - before)
"""


EXACT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}  # what is freed is not kept for later


def growth(work: str, count: int, path: Path) -> int:
    """MB that `work(count, path)` needs at most, beyond what Python and numpy need."""
    command = [sys.executable, "-c", MEASURED.replace("{work}", work), str(count), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=Clir.env(EXACT))
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def numbered(count: int) -> Iterator[Doc]:
    return (Doc(f"d{n}", {"text": f"text {n}"}, "de", f"a{n}" if n % 3 else None) for n in range(count))


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_a_collection_sorted_block_by_block_is_the_same_as_at_once(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docstore, "BLOCK", block)
    assert write(numbered(300), tmp_path) == {"documents": 300.0, "empty": 0.0, "duplicates": 0.0}
    hashes = np.array([hashed(f"d{n}") for n in range(300)], dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    assert np.array_equal(np.load(tmp_path / "ids.npy"), hashes[order])
    assert np.array_equal(np.load(tmp_path / "ids_rows.npy"), order)
    store = Docstore(tmp_path)
    assert (len(store), list(store.rows())) == (300, list(numbered(300)))
    assert store.find(["a299", "a1", "a3"], by="aligned").keys() == {"a299", "a1"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "aligned.npy", "aligned_rows.npy", "docs.jsonl", "ids.npy", "ids_rows.npy", "offsets.npy",
    ]  # fmt: skip


def test_ids_that_repeat_across_blocks_are_found_and_what_two_collections_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docstore, "BLOCK", 16)
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    twice = [*numbered(100), Doc("d3", {"text": "again"}, "de"), Doc("d99", {"text": "again"}, "de")]
    with pytest.raises(DataError, match=r"doc_id 'd3' .* occurs twice: documents 4 and 101; 2 documents repeat an id"):
        write(twice, one)
    assert write(twice, one, on_duplicate="first")["duplicates"] == 2
    write((doc._replace(doc_id=f"x{doc.doc_id}") for doc in numbered(50)), other)
    assert Docstore(one).shared(Docstore(other)) is None
    write((doc for doc in numbered(200) if doc.doc_id == "d77" or doc.doc_id > "d99"), other)
    assert Docstore(one).shared(Docstore(other)) in {"d77", "d99"}


def test_a_million_documents_are_stored_in_the_memory_of_a_few_hundred_thousand(tmp_path: Path) -> None:
    work = """
from pathlib import Path
from clir_cli import docstore
from clir_cli.types import Doc
docstore.BLOCK = 1 << 16
def work(count, folder):
    docstore.write((Doc(f"d{n}", {"text": "x"}, "de") for n in range(count)), Path(folder))
"""
    few, many = growth(work, 150_000, tmp_path), growth(work, 1_000_000, tmp_path)
    assert many - few < 10, f"{few} MB for 150,000 documents, {many} MB for 1,000,000"


def test_a_parquet_file_is_read_in_flat_memory_however_large_its_row_groups(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = np.random.default_rng(3).integers(0, 10**18, (200_000, 8))
    for count in (20_000, 200_000):
        rows = {"_id": [f"d{n}" for n in range(count)], "text": [" ".join(map(str, row)) for row in texts[:count]]}
        parquet.write_table(pa.table(rows), tmp_path / f"{count}.parquet", row_group_size=count)
    work = """
from pathlib import Path
from clir_cli.datasets.rows import Rows
def work(count, folder):
    assert sum(1 for _ in Rows(Path(folder) / f"{count}.parquet", "dataset.docs")) == count
"""
    few, many = growth(work, 20_000, tmp_path), growth(work, 200_000, tmp_path)
    assert many - few < 20, f"{few} MB for 20,000 rows, {many} MB for 200,000 in one row group (30 MB of text)"


def test_documents_come_before_the_end_of_their_file_is_read(tmp_path: Path) -> None:
    good = [json.dumps({"_id": str(n), "text": "x"}) for n in range(3)]
    (tmp_path / "d.jsonl").write_text("\n".join([*good, "no JSON"]) + "\n")
    (tmp_path / "t.de").write_bytes(b"eins\nzwei\n\xff\n")
    hub = Hub(
        docs=str(tmp_path / "d.jsonl"), topics="t", query_lang="en", doc_lang="de",
        docs_columns={"doc_id": "_id", "text": "text"}, topics_columns={"query_id": "_id", "text": "text"},
    )  # fmt: skip
    lines = Bitext(texts=f"{tmp_path}/t.{{lang}}", query_lang="en", doc_lang="de")
    assert [doc.doc_id for doc in islice(hub.read_docs("de"), 3)] == ["0", "1", "2"]
    assert [doc.doc_id for doc in islice(lines.read_docs("de"), 2)] == ["de-1", "de-2"]
    with pytest.raises(DataError, match=r"d\.jsonl:4: expected one JSON object"):
        list(hub.read_docs("de"))
