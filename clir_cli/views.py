"""How a stage sees texts: which fields, in which languages, translated by what."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clir_cli.docstore import Docstore
from clir_cli.errors import ConfigError, DataError
from clir_cli.progress import say
from clir_cli.text.expansion import Queries, appended
from clir_cli.text.expansion import from_fields as from_stored
from clir_cli.text.languages import language
from clir_cli.text.passages import (
    Cut,
    FieldSpans,
    Pairs,
    Placed,
    flipped,
    from_fields,
    moved,
    passage_id,
    place,
    split_id,
    to_fields,
)
from clir_cli.types import Doc, Query, Text

if TYPE_CHECKING:
    from clir_cli.steps import Step
    from clir_cli.store import At

VIEWS = ("original", "query_lang", "doc_lang")
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
        elif near := difflib.get_close_matches(name, VIEWS, 1, 0.7):
            raise ConfigError(
                f"{name!r} is no view; did you mean {near[0]}? There are {', '.join(VIEWS)} and language codes "
                "(retrieve.query, retrieve.doc, rerank.query, rerank.doc)"
            )
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
        names = self._chosen(identifier, fields, where)
        return self.separator.join([text for name in names if (text := fields[name].strip())])

    def _chosen(self, identifier: str, fields: Mapping[str, str], where: str) -> tuple[str, ...]:
        if self.names is None:
            return tuple(fields)
        if absent := [name for name in self.names if name not in fields]:
            raise ConfigError(f"{where}: {identifier!r} has no field {absent[0]!r}; it has: {', '.join(fields)}")
        return self.names

    def layout(self, doc: Doc) -> list[Placed]:
        """Where the document's fields stand in the text that `join` makes of them."""
        at, found, order = 0, [], list(doc.fields)
        for name in self._chosen(doc.doc_id, doc.fields, "doc_fields"):
            given = doc.fields[name]
            if text := given.strip():
                found.append(Placed(order.index(name), given.index(text[0]), at, len(text)))
                at += len(text) + len(self.separator)
        return found


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

    def versions(self, at: At, ids: Sequence[str], originals: Sequence[Step]) -> dict[str, Versions]:
        """The documents with these ids, field by field, with the originals and what aligns the translations with them.

        `originals`: the step that holds the part's documents as they are, one per part.
        """
        found: dict[str, Versions] = {}
        for part, original in zip(self.parts, originals, strict=True):
            own = Docstore(at[original]).find(ids)
            columns = {lang: own if step == original else Docstore(at[step]).find(list(own)) for lang, step in part}
            pairs = {lang: _alignment(at[step], list(own)) for lang, step in part if step != original}
            for doc_id, doc in own.items():
                if all(doc_id in docs for docs in columns.values()):
                    shown = {lang: docs[doc_id] for lang, docs in columns.items()}
                    aligned = {lang: docs.get(doc_id, {}) for lang, docs in pairs.items()}
                    found[doc_id] = Versions(doc, shown, aligned, self.fields)
        return found

    def _texts(self, columns: Sequence[tuple[str, Mapping[str, Doc]]]) -> Iterator[Text]:
        """The documents that all columns have, in the first one's order."""
        for doc_id in columns[0][1]:
            if all(doc_id in docs for _, docs in columns):
                shown = ((lang, self.fields.join(doc_id, docs[doc_id].fields, "doc_fields")) for lang, docs in columns)
                yield Text(doc_id, tuple(shown))


@dataclass(frozen=True)
class Versions:
    """A document as a view shows it, and how its translations lie beside the original."""

    original: Doc
    shown: Mapping[str, Doc]  # language -> its document
    pairs: Mapping[str, Mapping[str, Pairs]]  # translation's language -> field -> sentence pairs
    fields: Fields

    def text(self) -> Text:
        join = self.fields.join
        return Text(
            self.original.doc_id,
            tuple((lang, join(d.doc_id, d.fields, "doc_fields")) for lang, d in self.shown.items()),
        )

    def to_original(self, lang: str, span: tuple[int, int]) -> FieldSpans:
        """What a span of the text shown in `lang` covers in the original's fields."""
        return self._moved(lang, to_fields(span, self.fields.layout(self.shown[lang])), back=True)

    def from_original(self, lang: str, spans: FieldSpans) -> tuple[int, int]:
        """The span of the text shown in `lang` that shows these parts of the original's fields."""
        return from_fields(self._moved(lang, spans, back=False), self.fields.layout(self.shown[lang]))

    def _moved(self, lang: str, spans: FieldSpans, back: bool) -> FieldSpans:
        if lang not in self.pairs:
            return spans
        names, found = list(self.original.fields), {}
        for index, span in spans.items():
            ends = self.original.fields[names[index]], self.shown[lang].fields[names[index]]
            pairs = self.pairs[lang].get(names[index])
            source, target = reversed(ends) if back else ends
            there = moved(span, source, target, flipped(pairs) if back else pairs)
            if there[0] < there[1]:
                found[index] = there
        return found

    def passage(self, spans: FieldSpans) -> Text:
        """The parts of the text, in every language shown, that show these parts of the original; all of it where none does."""
        parts = []
        for lang, text in self.text().parts:
            a, b = self.from_original(lang, spans) if spans else (0, 0)
            parts.append((lang, text[a:b] if a < b else text))
        return Text(self.original.doc_id, tuple(parts))

    def cut(self, lang: str, spans: Sequence[tuple[int, int]]) -> Cut:
        """These spans of the text shown in `lang`, the same in the other languages, and their places in the original."""
        places = [self.to_original(lang, span) for span in spans]
        others = {other: [self.from_original(other, p) for p in places] for other in self.shown if other != lang}
        return Cut(self.original.doc_id, {lang: spans, **others}, [place(p) for p in places])


def _alignment(folder: Path, ids: Sequence[str]) -> Mapping[str, Mapping[str, Pairs]]:
    """doc_id -> field -> where sentences and their translations start; nothing where that was not written."""
    if not (folder / "alignment.jsonl").is_file():
        _tell_unaligned(folder.name.rpartition("-")[0])
        return {}
    from clir_cli.text.translation import read_alignment

    return read_alignment(folder, ids)


@cache
def _tell_unaligned(name: str) -> None:
    say(
        f"{name}: the translations come without sentence alignment; a passage is found in them by its relative position"
    )


@dataclass(frozen=True)
class PassageView:
    """The passages of a view's documents, as `step` cut them."""

    docs: DocView
    step: Step

    @property
    def langs(self) -> tuple[str, ...]:
        return self.docs.langs

    @property
    def steps(self) -> tuple[Step, ...]:
        return (self.step, *self.docs.steps)

    def count(self, at: At) -> int:
        return int(self._firsts(at)[-1])

    def _firsts(self, at: At) -> Any:
        import numpy as np

        return np.load(at[self.step] / "firsts.npy", mmap_mode="r")  # (documents + 1,): the first passage of each

    def read(self, at: At, start: int = 0, stop: int | None = None) -> Iterator[Text]:
        """Passages `start` to `stop`, counted over the collection in its order; ids are those of passages.passage_id."""
        firsts, store = self._firsts(at), Docstore(at[self.step])
        stop = int(firsts[-1]) if stop is None else min(stop, int(firsts[-1]))
        document = int(firsts.searchsorted(start, "right")) - 1
        while start < stop:
            cuts = [Cut.read(d.doc_id, d.fields) for d in store.rows(document, document + CHUNK)]
            texts = self.docs.find(at, [cut.doc_id for cut in cuts])
            for cut in cuts:
                first, last = (
                    start - int(firsts[document]),
                    min(stop, int(firsts[document + 1])) - int(firsts[document]),
                )
                for number in range(first, last):
                    parts = [(lang, text[slice(*cut.spans[lang][number])]) for lang, text in texts[cut.doc_id].parts]
                    yield Text(passage_id(cut.doc_id, number), tuple(parts))
                start, document = int(firsts[document]) + last, document + 1
                if start >= stop:
                    return

    def find(self, at: At, ids: Sequence[str]) -> dict[str, Cut]:
        """doc_id -> its passages."""
        return {d: Cut.read(d, doc.fields) for d, doc in Docstore(at[self.step]).find(ids).items()}


@dataclass(frozen=True)
class ExpandedView:
    """Documents or passages with the queries that `step` holds for each; `shown`: the queries stand behind the text."""

    units: DocView | PassageView
    step: Step
    query_langs: tuple[str, ...]
    shown: bool

    @property
    def langs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.units.langs, *(self.query_langs if self.shown else ())]))

    @property
    def steps(self) -> tuple[Step, ...]:
        return (self.step, *self.units.steps)

    def count(self, at: At) -> int:
        return self.units.count(at)

    def read(self, at: At, start: int = 0, stop: int | None = None) -> Iterator[Text]:
        texts = self.units.read(at, start, stop)
        if not self.shown:
            yield from texts
            return
        while chunk := list(islice(texts, CHUNK)):
            found = self.queries(at, [text.id for text in chunk])
            yield from (appended(text, found.get(text.id, {})) for text in chunk)

    def queries(self, at: At, ids: Sequence[str]) -> dict[str, Queries]:
        """id -> language -> queries."""
        return stored_queries(at[self.step], self.units, ids)


def stored_queries(folder: Path, units: DocView | PassageView, ids: Sequence[str]) -> dict[str, Queries]:
    """What an expand step's folder has for these texts; a passage without any of its own has its document's."""
    store = Docstore(folder)
    found = store.find(ids)
    if isinstance(units, PassageView) and (others := [i for i in ids if i not in found]):
        whole = store.find(sorted({split_id(i)[0] for i in others}))
        found |= {i: doc for i in others if (doc := whole.get(split_id(i)[0]))}
    return {i: from_stored(doc.fields) for i, doc in found.items()}


def _refuse_shared_ids(parts: Sequence[tuple[str, Docstore]]) -> None:
    """Raise DataError if a doc_id stands in two parts of a pool: its ranking could not tell them apart."""
    for i, (lang, store) in enumerate(parts):
        for other_lang, other in parts[:i]:
            if shared := store.shared(other):
                raise _shared_id(shared, other_lang, lang)


def _shared_id(doc_id: str, lang: str, other: str) -> DataError:
    return DataError(
        f"doc_id {doc_id!r} stands in the {lang} and in the {other} part of the pool\n"
        "  a ranking could not tell them apart: put the language into the ids, as in de-17 and en-17\n"
        "  (dataset.doc_ids=lang does, where the collection is read by columns or by ir_datasets)"
    )


def write_queries(queries: Sequence[Query], folder: Path) -> None:
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps([q.query_id, q.lang, dict(q.fields)], ensure_ascii=False) + "\n" for q in queries)


def read_queries(folder: Path) -> list[Query]:
    with (folder / "queries.jsonl").open(encoding="utf-8") as lines:
        rows: list[Any] = [json.loads(line) for line in lines]
    return [Query(query_id, fields, lang) for query_id, lang, fields in rows]
