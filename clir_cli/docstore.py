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


def hashed(identifier: str) -> int:
    """64 bits of an id."""
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "big")


def write(
    docs: Iterable[Doc],
    folder: Path,
    on_empty: Literal["warn", "error", "drop"] = "warn",
    on_duplicate: Literal["error", "first"] = "error",
) -> dict[str, float]:
    """Store documents in `folder` and count them. 8 bytes of memory a document while writing.

    Raises DataError for an empty text or a duplicate id where the options say so; otherwise they are counted.
    """
    import numpy as np

    offsets, hashes, aligned = array("q"), array("Q"), array("Q")
    counts = {"documents": 0, "empty": 0, "duplicates": 0}
    seen: set[int] = set()
    with (folder / "docs.jsonl").open("wb") as out:
        at = 0
        for doc in docs:
            if not any(text.strip() for text in doc.fields.values()):
                if on_empty == "error":
                    raise DataError(f"document {doc.doc_id!r} has no text in {', '.join(doc.fields)}; dataset.on_empty=warn keeps such documents, drop leaves them out")
                counts["empty"] += 1
                if on_empty == "drop":
                    continue
            key = hashed(doc.doc_id)
            if on_duplicate == "first":
                if key in seen:
                    counts["duplicates"] += 1
                    continue
                seen.add(key)
            line = json.dumps([doc.doc_id, doc.lang, doc.aligned, dict(doc.fields)], ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            out.write(line)
            offsets.append(at)
            hashes.append(key)
            aligned.append(hashed(doc.aligned) if doc.aligned is not None else 0)
            at += len(line)
        offsets.append(at)
        out.flush()
        os.fsync(out.fileno())
    counts["documents"] = len(hashes)
    np.save(folder / "offsets.npy", np.frombuffer(offsets, dtype=np.int64))
    for name, values in (("ids", np.frombuffer(hashes, dtype=np.uint64)), ("aligned", np.frombuffer(aligned, dtype=np.uint64))):
        order = np.argsort(values, kind="stable")
        np.save(folder / f"{name}.npy", values[order])
        np.save(folder / f"{name}_rows.npy", order.astype(np.int64))
    _refuse_duplicates(folder)
    return {k: float(v) for k, v in counts.items()}


def _refuse_duplicates(folder: Path) -> None:
    import numpy as np

    store = Docstore(folder)
    same = np.flatnonzero(store._ids[1:] == store._ids[:-1])
    if len(same):
        rows = sorted(int(store._id_rows[i + k]) for i in same[:1] for k in (0, 1))
        twice = next(store.rows(rows[0], rows[0] + 1))
        raise DataError(f"doc_id {twice.doc_id!r} occurs twice (documents {rows[0] + 1} and {rows[1] + 1}; {len(same)} such ids)\n  dataset.on_duplicate=first keeps the first")


class Docstore:
    """The documents that `write` put into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _array(self, name: str) -> np.ndarray:
        import numpy as np

        array: np.ndarray = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array

    @cached_property
    def _offsets(self) -> np.ndarray:
        return self._array("offsets")

    @cached_property
    def _ids(self) -> np.ndarray:
        return self._array("ids")

    @cached_property
    def _id_rows(self) -> np.ndarray:
        return self._array("ids_rows")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Doc]:
        """Documents `start` to `stop` in collection order."""
        stop = len(self) if stop is None else min(stop, len(self))
        if start >= stop:
            return
        with (self.folder / "docs.jsonl").open("rb") as lines:
            lines.seek(int(self._offsets[start]))
            for _ in range(stop - start):
                yield _doc(lines.readline())

    def find(self, ids: Sequence[str], by: Literal["ids", "aligned"] = "ids") -> dict[str, Doc]:
        """The documents with these doc_ids, or aligned ids; what is not there is left out."""
        import numpy as np

        hashes, rows = self._array(by), self._array(f"{by}_rows")
        wanted = np.array([hashed(i) for i in ids], dtype=np.uint64)
        at = np.searchsorted(hashes, wanted)
        found = {}
        with (self.folder / "docs.jsonl").open("rb") as lines:
            for identifier, key, place in zip(ids, wanted, at, strict=True):
                if place < len(hashes) and hashes[place] == key:
                    doc = self._read(lines, int(rows[place]))
                    if (doc.doc_id if by == "ids" else doc.aligned) == identifier:
                        found[identifier] = doc
        return found

    def _read(self, lines: IO[bytes], row: int) -> Doc:
        lines.seek(int(self._offsets[row]))
        return _doc(lines.readline())


def _doc(line: bytes) -> Doc:
    doc_id, lang, aligned, fields = json.loads(line)
    return Doc(doc_id, fields, lang, aligned)
