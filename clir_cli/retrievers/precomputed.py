"""Vectors that somebody else computed, from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clir_cli.errors import ConfigError, DataError, MissingData, many
from clir_cli.lines import read_lines
from clir_cli.retrievers.single_vector import SingleVector, Task
from clir_cli.search.postprocess import unit
from clir_cli.types import Text, content, neutral

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Precomputed(SingleVector):
    """Ranked as `SingleVector` says; the vectors of documents and queries are looked up by id.

    Vectors: .npy files (texts, dimensions) of float16, float32 or float64, memory-mapped. Ids: one per line, row by row.
    Paths may hold {doc_lang} or {query_lang}, the language of the texts. Files may hold more ids than are asked for;
    an id that is missing is an error.
    """

    doc_vectors: str = content()
    doc_ids: str = content()
    query_vectors: str = neutral(path=True)  # the bytes of these two count for a ranking, by `files`
    query_ids: str = neutral(path=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parallel is not None:
            raise ValueError(
                "parallel gives lines to encode, and there is no encoder; map the vectors before they come here"
            )

    @property
    def name(self) -> str:
        return "retriever.doc_vectors and query_vectors"

    def files(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> list[Path]:
        """The four files, for each language."""
        queries = [path for lang in query_langs for path in self._paths("query", lang)]
        return [*self.index_files(doc_langs), *dict.fromkeys(queries), *super().files(query_langs, doc_langs)]

    def index_files(self, doc_langs: Sequence[str]) -> list[Path]:
        """The files that the index is made of: their bytes are part of its identity."""
        return list(dict.fromkeys(path for lang in doc_langs for path in self._paths("document", lang)))

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise DataError for a file that is not there or no table of numbers, or where the dimensions differ."""
        asked: list[tuple[Task, str]] = [("document", lang) for lang in doc_langs]
        asked += [("query", lang) for lang in query_langs]
        widths = {(path := self._paths(task, lang)[0]): _mapped(path).shape[1] for task, lang in asked}
        first = next(iter(widths), None)
        for path, width in widths.items():
            if first is not None and width != widths[first]:
                raise DataError(f"{path} holds vectors of {width} numbers, and {first} of {widths[first]}: two models?")

    def encode(self, texts: Sequence[Text], task: Task) -> tuple[np.ndarray, Mapping[str, float]]:
        import numpy as np

        by_lang: dict[str, list[int]] = {}
        for i, text in enumerate(texts):
            by_lang.setdefault(text.lang, []).append(i)
        found = np.empty((0, 0), np.float32)
        for lang, at in by_lang.items():
            table = self._table(task, lang)
            if absent := [texts[i].id for i in at if texts[i].id not in table.rows]:
                raise DataError(
                    f"{self._paths(task, lang)[1]}: {len(absent)} of {len(at)} {'queries' if task == 'query' else 'documents'} "
                    f"in {lang!r} have no vector, for example {absent[0]!r}"
                )
            if not found.size:
                found = np.empty((len(texts), table.vectors.shape[1]), np.float32)
            found[at] = table.vectors[[table.rows[texts[i].id] for i in at]]
        return unit(found) if self.normalize else found, {"texts": len(texts)}

    def _table(self, task: Task, lang: str) -> Table:
        paths = self._paths(task, lang)
        return _read(*paths, *(path.stat().st_mtime_ns for path in paths if path.exists()))

    def _paths(self, task: Task, lang: str) -> tuple[Path, Path]:
        """The vectors and the ids of the texts in a language."""
        vectors, ids = (self.query_vectors, self.query_ids) if task == "query" else (self.doc_vectors, self.doc_ids)
        place = "query_lang" if task == "query" else "doc_lang"
        try:
            return tuple(Path(path.format(**{place: lang})).expanduser().absolute() for path in (vectors, ids))  # type: ignore[return-value]
        except (LookupError, ValueError) as error:
            raise ConfigError(
                f"retriever: {vectors!r} and {ids!r} may hold {{{place}}} and no other place ({error})"
            ) from error


class Table(NamedTuple):
    rows: Mapping[str, int]
    vectors: np.ndarray


@lru_cache(maxsize=16)
def _read(vectors: Path, ids: Path, *times: int) -> Table:
    """Ids and vectors. Raises DataError where they do not fit together."""
    found = _mapped(vectors)
    names = [name for _, name in read_lines(ids, "retriever.doc_ids, query_ids")]
    if len(names) != len(found):
        raise DataError(
            f"{ids} holds {many(len(names), 'id')}, and {vectors} {many(len(found), 'vector')}: they must be row by row"
        )
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) != len(names):
        twice = next(name for row, name in enumerate(names) if rows[name] != row)
        raise DataError(
            f"{ids}: {many(len(names) - len(rows), 'id stands', 'ids stand')} there twice, for example {twice!r}"
        )
    return Table(rows, found)


def _mapped(path: Path) -> np.ndarray:
    import numpy as np

    if not path.is_file():
        why = "is not a file" if path.exists() else "does not exist"
        raise MissingData(f"retriever.doc_vectors, query_vectors: {path} {why}")
    try:
        found: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is no .npy file of numbers ({error}); write it with numpy.save") from error
    if found.ndim != 2 or found.dtype.kind != "f":
        raise DataError(f"{path} holds {found.dtype} of shape {found.shape}; expected floats (texts, dimensions)")
    return found
