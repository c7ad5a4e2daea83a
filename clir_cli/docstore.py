"""A collection at rest: one line per document, readable in order from any point and by id, in flat memory."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from clir_cli.errors import DataError, many
from clir_cli.types import Doc

if TYPE_CHECKING:
    import numpy as np

Key = Literal["ids", "aligned"]
BLOCK = 1 << 20  # numbers in memory at once
_quoted = json.encoder.encode_basestring  # as json.dumps(ensure_ascii=False) writes a text
_parsed = json.JSONDecoder().raw_decode  # json.loads without its look for blanks around


def hashed(identifier: str) -> int:
    """64 bits of an id. Two ids may share them: whoever looks one up reads the document's own."""
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "big")


def write(
    docs: Iterable[Doc],
    folder: Path,
    on_empty: Literal["warn", "error", "drop"] = "warn",
    on_duplicate: Literal["error", "first"] = "error",
) -> dict[str, float]:
    """Store documents in `folder` and count them: documents, empty, duplicates. In flat memory: 60 MB, however many.

    Raises DataError for an empty text or a repeated id where the options say so; otherwise they are counted.
    """
    with (
        _Numbers(folder / "offsets.raw", "q") as offsets,
        _Numbers(folder / "ids.raw", "Q") as ids,
        _Numbers(folder / "aligned.raw", "Q") as aligned,
        _Numbers(folder / "aligned_rows.raw", "q") as aligned_rows,
    ):
        empty = _write_lines(docs, folder / "docs.jsonl", on_empty, offsets, ids, aligned, aligned_rows)
        _save(folder / "offsets.npy", offsets.kind, len(offsets), offsets.blocks())
        _save_lookup(folder, "ids", ids, None)
        _save_lookup(folder, "aligned", aligned, aligned_rows)
        documents = len(ids)
    duplicates = _repeated(folder)
    if duplicates and on_duplicate == "error":
        _refuse_duplicates(folder, duplicates)
    if duplicates:
        _write_without(folder, set(duplicates))
    return {
        "documents": float(documents - len(duplicates)),
        "empty": float(empty),
        "duplicates": float(len(duplicates)),
    }


def _write_lines(
    docs: Iterable[Doc],
    path: Path,
    on_empty: str,
    offsets: _Numbers,
    ids: _Numbers,
    aligned: _Numbers,
    aligned_rows: _Numbers,
) -> int:
    """Write a line per document, note where it begins and what it is called, and count those without text."""
    empty = at = 0
    offsets.append(0)
    with path.open("wb") as out:
        for doc in docs:
            if not any(map(str.strip, doc.fields.values())):
                _refuse_empty(doc, on_empty)
                empty += 1
                if on_empty == "drop":
                    continue
            if doc.aligned is not None:
                aligned.append(hashed(doc.aligned))
                aligned_rows.append(len(ids))
            ids.append(hashed(doc.doc_id))
            at += out.write(_line(doc))
            offsets.append(at)
        out.flush()
        os.fsync(out.fileno())
    return empty


def _line(doc: Doc) -> bytes:
    """`[doc_id, lang, aligned, fields]` in JSON; put together here, which takes two thirds of the encoder's time."""
    aligned = "null" if doc.aligned is None else _quoted(doc.aligned)
    fields = ",".join([f"{_quoted(name)}:{_quoted(text)}" for name, text in doc.fields.items()])
    return f"[{_quoted(doc.doc_id)},{_quoted(doc.lang)},{aligned},{{{fields}}}]\n".encode()


class _Numbers:
    """A column of 8-byte integers that goes to the disk as it grows; one block of it is in memory. Removed at the end."""

    def __init__(self, path: Path, kind: Literal["q", "Q"]) -> None:
        self.path, self.kind = path, kind
        self._file, self._block, self._flushed = path.open("w+b"), array(kind), 0

    def __enter__(self) -> _Numbers:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return self._flushed + len(self._block)

    def append(self, number: int) -> None:
        self._block.append(number)
        if len(self._block) == BLOCK:
            self._flush()

    def _flush(self) -> None:
        self._block.tofile(self._file)
        self._flushed += len(self._block)
        self._block = array(self.kind)

    def blocks(self) -> Iterator[np.ndarray]:
        """All numbers, a block at a time."""
        import numpy as np

        self._flush()
        self._file.seek(0)
        while len(block := np.fromfile(self._file, self.kind, BLOCK)):
            yield block


def _save(path: Path, kind: str, count: int, blocks: Iterable[np.ndarray]) -> None:
    """An npy file of so many numbers, written block by block."""
    with path.open("wb") as out:
        _write_header(out, kind, count)
        for block in blocks:
            block.tofile(out)


def _write_header(out: IO[bytes], kind: str, count: int) -> None:
    import numpy as np

    described = np.lib.format.dtype_to_descr(np.dtype(kind))
    np.lib.format.write_array_header_1_0(out, {"descr": described, "fortran_order": False, "shape": (count,)})


def _save_lookup(folder: Path, name: Key, hashes: _Numbers, rows: _Numbers | None) -> None:
    """Hashes in rising order, and whose they are (None: in the collection's order); equal ones in that order.

    Hashes are spread evenly, so the numbers are cut into ranges of about a block, and each is sorted in memory.
    """
    import numpy as np

    count = len(hashes)
    parts = np.uint64(-(-count // BLOCK) or 1)
    with (folder / f"{name}.npy").open("wb") as sorted_hashes, (folder / f"{name}_rows.npy").open("wb") as sorted_rows:
        _write_header(sorted_hashes, "Q", count)
        _write_header(sorted_rows, "q", count)
        for part in range(int(parts)):
            mine, theirs, begin = [], [], 0
            for block, owners in zip(hashes.blocks(), repeat(None) if rows is None else rows.blocks(), strict=False):
                chosen = np.flatnonzero((block >> np.uint64(32)) * parts >> np.uint64(32) == part)
                mine.append(block[chosen])
                theirs.append(chosen + begin if owners is None else owners[chosen])
                begin += len(block)
            found = np.concatenate(mine) if mine else np.empty(0, "Q")
            order = np.argsort(found, kind="stable")
            found[order].tofile(sorted_hashes)
            (np.concatenate(theirs) if theirs else np.empty(0, "q"))[order].tofile(sorted_rows)


def _repeated(folder: Path) -> list[int]:
    """The rows whose doc_id an earlier row has; documents are read only where hashes are equal."""
    import numpy as np

    hashes, rows = np.load(folder / "ids.npy", mmap_mode="r"), np.load(folder / "ids_rows.npy", mmap_mode="r")
    suspects = set()
    for begin in range(0, len(hashes), BLOCK):
        block = np.asarray(hashes[begin : begin + BLOCK + 1])
        same = np.flatnonzero(block[1:] == block[:-1]) + begin
        suspects |= {int(rows[i + k]) for i in same for k in (0, 1)}
    seen: set[str] = set()
    repeated = []
    for row, doc in zip(sorted(suspects), Docstore(folder).take(sorted(suspects)), strict=True):
        if doc.doc_id in seen:
            repeated.append(row)
        seen.add(doc.doc_id)
    return repeated


def _refuse_empty(doc: Doc, on_empty: str) -> None:
    if on_empty == "error":
        raise DataError(
            f"document {doc.doc_id!r} ({doc.lang}) has no text in {', '.join(doc.fields)}\n"
            "  dataset.on_empty=warn keeps such documents, drop leaves them out; both are counted"
        )


def _refuse_duplicates(folder: Path, rows: Sequence[int]) -> None:
    store = Docstore(folder)
    twice = next(store.take(rows[:1]))
    first = next(row for row, doc in enumerate(store.rows()) if doc.doc_id == twice.doc_id)
    raise DataError(
        f"doc_id {twice.doc_id!r} ({twice.lang}) occurs twice: documents {first + 1} and {rows[0] + 1}; "
        f"{many(len(rows), 'document repeats', 'documents repeat')} an id\n  dataset.on_duplicate=first keeps the first of each"
    )


def _write_without(folder: Path, rows: Set[int]) -> None:
    """Write the collection again but for `rows`."""
    everything = (folder / "docs.jsonl").rename(folder / "everything.jsonl")
    with everything.open("rb") as lines:
        write((_doc(line) for row, line in enumerate(lines) if row not in rows), folder)
    everything.unlink()


class Docstore:
    """The documents that `write` put into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @cached_property
    def _offsets(self) -> np.ndarray:
        return self._array("offsets")

    def _array(self, name: str) -> np.ndarray:
        import numpy as np

        return np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r"))  # still on the disk, quicker to slice

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Doc]:
        """Documents `start` to `stop` in collection order."""
        stop = len(self) if stop is None else min(stop, len(self))
        if start >= stop:
            return
        with (self.folder / "docs.jsonl").open("rb") as lines:
            lines.seek(int(self._offsets[start]))
            for _ in range(stop - start):
                yield _doc(lines.readline())

    def take(self, rows: Iterable[int]) -> Iterator[Doc]:
        """The documents at these places of the collection order."""
        with (self.folder / "docs.jsonl").open("rb") as lines:
            for row in rows:
                yield self._read(lines, row)

    def _read(self, lines: IO[bytes], row: int) -> Doc:
        lines.seek(int(self._offsets[row]))
        return _doc(lines.readline())

    def find(self, ids: Sequence[str], by: Key = "ids") -> dict[str, Doc]:
        """The documents with these doc_ids, or aligned ids; what is not there is left out.

        Raises DataError where two documents share an aligned id: which of them is the translation nobody knows.
        """
        import numpy as np

        hashes, rows = self._array(by), self._array(f"{by}_rows")
        wanted = np.array([hashed(i) for i in ids], dtype=np.uint64)
        first, last = np.searchsorted(hashes, wanted), np.searchsorted(hashes, wanted, "right")
        found: dict[str, Doc] = {}
        with (self.folder / "docs.jsonl").open("rb") as lines:
            for identifier, begin, end in zip(ids, first.tolist(), last.tolist(), strict=True):
                docs = (self._read(lines, row) for row in rows[begin:end])
                same = [doc for doc in docs if (doc.doc_id if by == "ids" else doc.aligned) == identifier]
                if len(same) > 1:
                    _refuse_shared(same[0], same[1])
                if same:
                    found[identifier] = same[0]
        return found

    def shared(self, other: Docstore) -> str | None:
        """A doc_id that both collections have, if there is one. Documents are read only where hashes are equal."""
        import numpy as np

        mine, rows, theirs = self._array("ids"), self._array("ids_rows"), other._array("ids")
        for begin in range(0, len(mine) if len(theirs) else 0, BLOCK):
            block = mine[begin : begin + BLOCK]
            near = theirs[np.minimum(np.searchsorted(theirs, block), len(theirs) - 1)]
            suspects = sorted(rows[begin : begin + BLOCK][near == block].tolist())
            if found := other.find([doc.doc_id for doc in self.take(suspects)]):
                return next(iter(found))
        return None


def _refuse_shared(one: Doc, other: Doc) -> None:
    raise DataError(
        f"documents {one.doc_id!r} and {other.doc_id!r} ({one.lang}) share the aligned id {one.aligned!r}\n"
        "  dataset.aligned must tell the documents of one language apart"
    )


def _doc(line: bytes) -> Doc:
    (doc_id, lang, aligned, fields), _ = _parsed(line.decode())
    return Doc(doc_id, fields, lang, aligned)
