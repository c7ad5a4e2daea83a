"""A collection at rest: one line per document, readable in order from any point and by id, in flat memory."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from clir_cli.errors import DataError
from clir_cli.types import Doc

if TYPE_CHECKING:
    import numpy as np

Key = Literal["ids", "aligned"]
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def hashed(identifier: str) -> int:
    """64 bits of an id. Two ids may share them: whoever looks one up reads the document's own."""
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "big")


def write(
    docs: Iterable[Doc],
    folder: Path,
    on_empty: Literal["warn", "error", "drop"] = "warn",
    on_duplicate: Literal["error", "first"] = "error",
) -> dict[str, float]:
    """Store documents in `folder` and count them: documents, empty, duplicates. 32 bytes of memory a document.

    Raises DataError for an empty text or a repeated id where the options say so; otherwise they are counted.
    """
    import numpy as np

    sizes, ids, aligned, aligned_rows = array("q", [0]), array("Q"), array("Q"), array("q")
    empty = 0
    with (folder / "docs.jsonl").open("wb") as out:
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
            sizes.append(out.write(_line(doc)))
        out.flush()
        os.fsync(out.fileno())
    np.save(folder / "offsets.npy", np.cumsum(np.array(sizes, np.int64)))  # (documents + 1,), bytes
    _save_lookup(folder, "ids", np.array(ids, np.uint64), np.arange(len(ids)))
    _save_lookup(folder, "aligned", np.array(aligned, np.uint64), np.array(aligned_rows, np.int64))
    duplicates = _repeated(folder)
    if duplicates and on_duplicate == "error":
        _refuse_duplicates(folder, duplicates)
    if duplicates:
        write(_without(folder, set(duplicates)), folder)
    return {"documents": float(len(ids) - len(duplicates)), "empty": float(empty), "duplicates": float(len(duplicates))}


def _line(doc: Doc) -> bytes:
    return (_encode([doc.doc_id, doc.lang, doc.aligned, dict(doc.fields)]) + "\n").encode()


def _save_lookup(folder: Path, name: Key, hashes: np.ndarray, rows: np.ndarray) -> None:
    """Hashes in rising order, and whose they are; equal ones in the collection's order."""
    import numpy as np

    order = np.argsort(hashes, kind="stable")
    np.save(folder / f"{name}.npy", hashes[order])
    np.save(folder / f"{name}_rows.npy", rows[order])


def _repeated(folder: Path) -> list[int]:
    """The rows whose doc_id an earlier row has; documents are read only where hashes are equal."""
    import numpy as np

    hashes, rows = np.load(folder / "ids.npy", mmap_mode="r"), np.load(folder / "ids_rows.npy", mmap_mode="r")
    same = np.flatnonzero(hashes[1:] == hashes[:-1])
    suspects = sorted({int(rows[i + k]) for i in same for k in (0, 1)})
    seen: set[str] = set()
    repeated = []
    for row, doc in zip(suspects, Docstore(folder).take(suspects), strict=True):
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
        f"{len(rows)} documents repeat an id\n  dataset.on_duplicate=first keeps the first of each"
    )


def _without(folder: Path, rows: set[int]) -> Iterator[Doc]:
    """The documents but for `rows`; what they are read from has lost its name, so that it can be written again."""
    with (folder / "docs.jsonl").open("rb") as lines:
        (folder / "docs.jsonl").unlink()
        yield from (_doc(line) for row, line in enumerate(lines) if row not in rows)


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

        array: np.ndarray = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array

    def _open(self) -> IO[bytes]:
        return (self.folder / "docs.jsonl").open("rb")

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Doc]:
        """Documents `start` to `stop` in collection order."""
        stop = len(self) if stop is None else min(stop, len(self))
        if start >= stop:
            return
        with self._open() as lines:
            lines.seek(int(self._offsets[start]))
            for _ in range(stop - start):
                yield _doc(lines.readline())

    def take(self, rows: Iterable[int]) -> Iterator[Doc]:
        """The documents at these places of the collection order."""
        with self._open() as lines:
            for row in rows:
                lines.seek(int(self._offsets[row]))
                yield _doc(lines.readline())

    def find(self, ids: Sequence[str], by: Key = "ids") -> dict[str, Doc]:
        """The documents with these doc_ids, or aligned ids; what is not there is left out.

        Raises DataError where two documents share an aligned id: which of them is the translation nobody knows.
        """
        import numpy as np

        hashes, rows = self._array(by), self._array(f"{by}_rows")
        wanted = np.array([hashed(i) for i in ids], dtype=np.uint64)
        first, last = np.searchsorted(hashes, wanted, "left").tolist(), np.searchsorted(hashes, wanted, "right").tolist()
        found: dict[str, Doc] = {}
        for identifier, begin, end in zip(ids, first, last, strict=True):
            same = [d for d in self.take(rows[begin:end]) if (d.doc_id if by == "ids" else d.aligned) == identifier]
            if len(same) > 1:
                raise DataError(
                    f"documents {same[0].doc_id!r} and {same[1].doc_id!r} ({same[0].lang}) share the aligned id "
                    f"{identifier!r}\n  dataset.aligned must tell the documents of one language apart"
                )
            if same:
                found[identifier] = same[0]
        return found


def _doc(line: bytes) -> Doc:
    doc_id, lang, aligned, fields = json.loads(line)
    return Doc(doc_id, fields, lang, aligned)
