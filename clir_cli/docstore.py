"""A collection at rest: one line per document, readable in order from any point and by id, in flat memory."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence, Set
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
    """Store documents in `folder` and count them: documents, empty, duplicates. Tens of bytes of memory a document.

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
    np.save(folder / "offsets.npy", np.cumsum(np.asarray(sizes)))  # (documents + 1,), bytes
    _save_lookup(folder, "ids", np.asarray(ids), np.arange(len(ids)))
    _save_lookup(folder, "aligned", np.asarray(aligned), np.asarray(aligned_rows))
    duplicates = _repeated(folder)
    if duplicates and on_duplicate == "error":
        _refuse_duplicates(folder, duplicates)
    if duplicates:
        _write_without(folder, set(duplicates))
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

        same = np.isin(self._array("ids"), other._array("ids"))
        ids = [doc.doc_id for doc in self.take(sorted(self._array("ids_rows")[same].tolist()))]
        return next(iter(other.find(ids)), None)


def _refuse_shared(one: Doc, other: Doc) -> None:
    raise DataError(
        f"documents {one.doc_id!r} and {other.doc_id!r} ({one.lang}) share the aligned id {one.aligned!r}\n"
        "  dataset.aligned must tell the documents of one language apart"
    )


def _doc(line: bytes) -> Doc:
    doc_id, lang, aligned, fields = json.loads(line)
    return Doc(doc_id, fields, lang, aligned)
