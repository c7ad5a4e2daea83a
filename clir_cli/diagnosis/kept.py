"""What is left of the texts of a finished experiment, by the steps that its manifest names: nothing is identified anew.

The steps hold what the stages saw, also where the collection's files changed since, or are on another machine.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clir_cli.config import Config, Rerank, Retrieve
from clir_cli.docstore import Docstore
from clir_cli.files import read_json
from clir_cli.rerankers.none import Keep
from clir_cli.rerankers.oracle import JudgedReranker
from clir_cli.retrievers.hybrid import Hybrid
from clir_cli.retrievers.run_file import RunFile
from clir_cli.text.passages import FILE, FieldSpans, read_place
from clir_cli.text.translation import read_alignment
from clir_cli.types import Doc, Query
from clir_cli.views import Fields, Versions, read_queries, targets


class Made(NamedTuple):
    """A step that the manifest names."""

    stage: str
    label: str
    key: str
    folder: Path  # which is empty where the step was removed, or did not come with the experiment

    @property
    def there(self) -> bool:
        return (self.folder / "step.json").is_file()


class Reader(NamedTuple):
    """A stage that reads texts: which fields, in which languages."""

    name: str  # bm25_dt, or the reranker's label
    query_langs: tuple[str, ...]
    doc_views: Mapping[str, tuple[str, ...]]  # a document's own language -> those it is read in
    query_fields: Fields
    doc_fields: Fields
    unit: str  # document, best_passage or passages


class DocTexts(NamedTuple):
    """A document in its own language and as the readers had it, field by field joined; its best passage alike."""

    lang: str
    texts: Mapping[str, str]  # language -> text, the document's own first
    passage: Mapping[str, str]  # empty where the first stage ranks whole documents, or the passage is all of it


@dataclass(frozen=True)
class Kept:
    """The texts of one experiment, as far as its steps are still there."""

    folder: Path
    cfg: Config

    @cached_property
    def steps(self) -> list[Made]:
        root, listed = self.folder.parents[1], read_json(self.folder / "manifest.json")["steps"]
        return [Made(s["stage"], s["label"], s["key"], root / s["folder"]) for s in listed]

    @property
    def gone(self) -> list[Made]:
        """The steps with texts that are not there any more."""
        passages = any(part.retrieve.passages for part in (self.cfg, *self.cfg.parts))
        stages = {"docs", "topics", "translate", *(("retrieve", "fuse") if passages else ())}
        return [s for s in self.steps if s.stage in stages and not s.there]

    @property
    def translated_twice(self) -> list[str]:
        """The directions, as de-en, in which the stages had different translators."""
        found = ["-".join(langs) for langs, _ in self._translations("docs")]
        return sorted({direction for direction in found if found.count(direction) > 1})

    @cached_property
    def readers(self) -> list[Reader]:
        """The first stage (or each that a hybrid fuses), then the rerankers; what ranks without texts is left out."""
        first = [p for p in (self.cfg.parts or (self.cfg,)) if not isinstance(p.retriever, RunFile | Hybrid)]
        blind = Keep | JudgedReranker
        second = [p for p in (self.cfg.cascade or (self.cfg,)) if not isinstance(p.reranker, blind)]
        return [
            *(self._reader(p, p.retrieve, p.labels["retriever"], "document") for p in first),
            *(self._reader(p, p.rerank, p.labels["reranker"], p.rerank.unit) for p in second),
        ]

    def _reader(self, cfg: Config, node: Retrieve | Rerank, name: str, unit: str) -> Reader:
        dataset = cfg.dataset
        own, langs = dataset.query_lang, tuple(dataset.doc_langs)
        return Reader(
            name,
            tuple(targets(node.query, own, own, langs)),
            {lang: tuple(targets(node.doc, lang, own, [lang])) for lang in langs},
            Fields(node.query_fields or dataset.query_fields, dataset.field_separator),
            Fields(node.doc_fields or dataset.doc_fields, dataset.field_separator),
            unit,
        )

    # Topics -----------------------------------------------------------------------------------------------------------

    @cached_property
    def topics(self) -> dict[str, dict[str, Query]]:
        """language -> query_id -> topic, the query language first, then what translations there are for the stages."""
        own = [(self.cfg.dataset.query_lang, s) for s in self.steps if s.stage == "topics" and s.there]
        read = {lang for reader in self.readers for lang in reader.query_langs}
        others = [(lang, s) for (_, lang), s in self._translations("topics") if lang in read]
        found: dict[str, dict[str, Query]] = {}
        for lang, step in [*own, *others]:
            found.setdefault(lang, {q.query_id: q for q in read_queries(step.folder)})
        return found

    # Documents --------------------------------------------------------------------------------------------------------

    def docs(self, query_id: str, ids: Sequence[str]) -> dict[str, DocTexts]:
        """The documents with these ids; one that no step has any more is left out."""
        best = self._best(query_id)
        found: dict[str, DocTexts] = {}
        for lang in self.cfg.dataset.doc_langs:
            originals = self._find([s for s in self._collections(lang) if s.there], ids)
            if not originals:
                continue
            wanted = [other for other in self._langs(lang) if other != lang]
            steps = {other: self._translated(lang, other) for other in wanted}
            shown = {other: self._find(of, list(originals)) for other, of in steps.items()}
            starts = {other: self._alignment(of, list(originals)) for other, of in steps.items()}
            for doc_id, doc in originals.items():
                columns = {lang: doc, **{other: docs[doc_id] for other, docs in shown.items() if doc_id in docs}}
                pairs = {other: starts[other].get(doc_id, {}) for other in columns if other != lang}
                versions = Versions(doc, columns, pairs, self._fields)
                texts = dict(versions.text().parts)
                passage = dict(versions.passage(best[doc_id]).parts) if best.get(doc_id) else {}
                found[doc_id] = DocTexts(lang, texts, {k: v for k, v in passage.items() if v != texts[k]})
        return found

    @property
    def _fields(self) -> Fields:
        """The fields that the last reader reads."""
        dataset = self.cfg.dataset
        return self.readers[-1].doc_fields if self.readers else Fields(dataset.doc_fields, dataset.field_separator)

    def _langs(self, own: str) -> list[str]:
        """What there is a document in: what the last reader reads first, then what nobody does, as with an oracle."""
        read = [lang for r in reversed(self.readers) for lang in r.doc_views.get(own, ())]
        made = [target for (source, target), _ in self._translations("docs") if source == own]
        return list(dict.fromkeys([*read, *made]))

    def _collections(self, lang: str) -> list[Made]:
        """The steps that hold the documents of a language; the sample that was ranked before the whole collection."""
        return [s for s in self.steps if s.stage == "docs" and s.label.rpartition(".")[2] == lang]

    def _translated(self, source: str, target: str) -> list[Made]:
        """The translations from one language to another, the last reader's own first where two translators were used."""
        found = [s for langs, s in self._translations("docs") if langs == (source, target)]
        reranks = [s for s in self.steps if s.stage == "rerank" and s.there]
        own = set(read_json(reranks[-1].folder / "step.json")["before"]) if reranks and len(found) > 1 else set()
        return sorted(found, key=lambda step: step.key not in own)

    def _translations(self, part: Literal["docs", "topics"]) -> Iterator[tuple[tuple[str, str], Made]]:
        for step in self.steps:
            if step.stage == "translate" and step.there:
                meaning = read_json(step.folder / "step.json")["meaning"]
                if meaning["part"] == part:
                    yield (meaning["source"], meaning["target"]), step

    @staticmethod
    def _find(steps: Sequence[Made], ids: Sequence[str]) -> dict[str, Doc]:
        """The documents, each from the first of these steps that has it."""
        found: dict[str, Doc] = {}
        for step in steps:
            found |= Docstore(step.folder).find([i for i in ids if i not in found])
        return {i: found[i] for i in ids if i in found}

    @staticmethod
    def _alignment(steps: Sequence[Made], ids: Sequence[str]) -> Mapping[str, Any]:
        return read_alignment(steps[0].folder, ids) if steps else {}

    def _best(self, query_id: str) -> dict[str, FieldSpans]:
        """doc_id -> where its best passage lies in the original's fields, as the first stage found it."""
        having = [s.folder / FILE for s in self.steps if s.stage != "rerank" and (s.folder / FILE).is_file()]
        found: dict[str, FieldSpans] = {}
        if having:
            with gzip.open(having[-1], "rt", encoding="utf-8") as lines:
                names = next(lines).rstrip("\n").split("\t")
                for line in lines:
                    if line.startswith(f"{query_id}\t"):
                        row = dict(zip(names, line.rstrip("\n").split("\t"), strict=True))
                        found[row["doc_id"]] = read_place(row["original"])
        return found
