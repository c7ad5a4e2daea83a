"""How a stage sees texts: which fields, in which languages, translated by what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clir_cli.docstore import Docstore
from clir_cli.errors import ConfigError, DataError
from clir_cli.languages import language
from clir_cli.types import Doc, Query, Text

if TYPE_CHECKING:
    from clir_cli.steps import Step
    from clir_cli.store import At

CHUNK = 1000  # documents that are looked up in the other languages at once


def targets(view: str | Sequence[str], own: str, query_lang: str, doc_langs: Sequence[str]) -> list[str]:
    """The languages a text in `own` is shown in, in the view's order: ["de"], or ["de", "en"] for a list."""
    found: list[str] = []
    for name in [view] if isinstance(view, str) else view:
        if name == "original":
            found.append(own)
        elif name == "query_lang":
            found.append(query_lang)
        elif name == "doc_lang":
            found += doc_langs
        else:
            found.append(language(name).code)
    if not found:
        raise ConfigError("a view needs at least one of original, query_lang, doc_lang or a language code")
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Fields:
    """The fields of a text in order and what stands between them; `names` None: all that it has."""

    names: tuple[str, ...] | None
    separator: str

    def join(self, identifier: str, fields: Mapping[str, str], where: str) -> str:
        """The chosen fields that are not empty, without blanks around them; `where` is the option that chose them."""
        names = tuple(fields) if self.names is None else self.names
        if absent := [name for name in names if name not in fields]:
            raise ConfigError(f"{where}: {identifier!r} has no field {absent[0]!r}; it has: {', '.join(fields)}")
        return self.separator.join(text for name in names if (text := fields[name].strip()))


@dataclass(frozen=True)
class QueryView:
    """Topics as a stage sees them: per language shown, the step that holds them."""

    columns: tuple[tuple[str, Step], ...]
    fields: Fields

    @property
    def langs(self) -> tuple[str, ...]:
        return tuple(lang for lang, _ in self.columns)

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(step for _, step in self.columns)

    def read(self, at: At) -> list[Text]:
        """The queries in topic order; one that some language lacks is left out (translator.missing=drop counted it)."""
        columns = [(lang, {q.query_id: q for q in read_queries(at[step])}) for lang, step in self.columns]
        shared = [i for i in columns[0][1] if all(i in found for _, found in columns)]
        return [
            Text(i, tuple((lang, self.fields.join(i, found[i].fields, "query_fields")) for lang, found in columns))
            for i in shared
        ]


@dataclass(frozen=True)
class DocView:
    """Documents as a stage sees them: per document language, the steps that hold them in the languages shown."""

    parts: tuple[tuple[tuple[str, Step], ...], ...]  # one per document language of the pool
    fields: Fields

    @property
    def langs(self) -> tuple[str, ...]:
        """Every language shown, once."""
        return tuple(dict.fromkeys(lang for part in self.parts for lang, _ in part))

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(dict.fromkeys(step for part in self.parts for _, step in part))

    def count(self, at: At) -> int:
        return sum(len(Docstore(at[part[0][1]])) for part in self.parts)

    def read(self, at: At, start: int = 0, stop: int | None = None) -> Iterator[Text]:
        """Documents `start` to `stop` of the pool, part after part, in collection order.

        A document that some language shown lacks is left out (translator.missing=drop counted it). DataError where two
        parts of the pool have a doc_id in common.
        """
        parts = [[(lang, Docstore(at[step])) for lang, step in part] for part in self.parts]
        if start == 0:  # whoever reads the rest in shards reads the first one too
            _refuse_shared_ids([part[0] for part in parts])
        before = 0
        for columns in parts:
            size = len(columns[0][1])
            first, last = max(start - before, 0), size if stop is None else min(max(stop - before, 0), size)
            yield from self._shown(columns, first, last)
            before += size

    def _shown(self, columns: Sequence[tuple[str, Docstore]], first: int, last: int) -> Iterator[Text]:
        (lang, store), *more = columns
        for begin in range(first, last, CHUNK):
            docs = {doc.doc_id: doc for doc in store.rows(begin, min(begin + CHUNK, last))}
            yield from self._texts([(lang, docs), *((other, s.find(list(docs))) for other, s in more)])

    def find(self, at: At, ids: Sequence[str]) -> dict[str, Text]:
        """The documents with these ids, as shown."""
        found: dict[str, Text] = {}
        for part in self.parts:
            columns = [(lang, Docstore(at[step]).find(ids)) for lang, step in part]
            for text in self._texts(columns):
                if text.id in found:
                    raise _shared_id(text.id, found[text.id].lang, text.lang)
                found[text.id] = text
        return found

    def _texts(self, columns: Sequence[tuple[str, Mapping[str, Doc]]]) -> Iterator[Text]:
        """The documents that all columns have, in the first one's order."""
        for doc_id in columns[0][1]:
            if all(doc_id in docs for _, docs in columns):
                shown = ((lang, self.fields.join(doc_id, docs[doc_id].fields, "doc_fields")) for lang, docs in columns)
                yield Text(doc_id, tuple(shown))


def _refuse_shared_ids(parts: Sequence[tuple[str, Docstore]]) -> None:
    """Raise DataError if a doc_id stands in two parts of a pool: its ranking could not tell them apart."""
    for i, (lang, store) in enumerate(parts):
        for other_lang, other in parts[:i]:
            if shared := store.shared(other):
                raise _shared_id(shared, other_lang, lang)


def _shared_id(doc_id: str, lang: str, other: str) -> DataError:
    return DataError(
        f"doc_id {doc_id!r} stands in the {lang} and in the {other} part of the pool\n"
        "  a ranking could not tell them apart: put the language into the ids, as in de-17 and en-17"
    )


def write_queries(queries: Sequence[Query], folder: Path) -> None:
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps([q.query_id, q.lang, dict(q.fields)], ensure_ascii=False) + "\n" for q in queries)


def read_queries(folder: Path) -> list[Query]:
    with (folder / "queries.jsonl").open(encoding="utf-8") as lines:
        rows: list[Any] = [json.loads(line) for line in lines]
    return [Query(query_id, fields, lang) for query_id, lang, fields in rows]
