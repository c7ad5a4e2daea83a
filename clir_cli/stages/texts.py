"""Documents, topics, their translations, and how a stage sees them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from clir_cli import selection, views
from clir_cli.config import Config, known_revision
from clir_cli.docstore import Docstore
from clir_cli.docstore import write as write_docs
from clir_cli.errors import ConfigError, DataError, LanguageError, many
from clir_cli.files import read_json
from clir_cli.progress import say, track
from clir_cli.stages.common import (
    drop_shards,
    joined,
    needs,
    tell,
    unchanged,
)
from clir_cli.steps import Counts, Ranking, Shards, Step, digest, identity, pending
from clir_cli.store import At, Store
from clir_cli.text import translation
from clir_cli.translators.provided import Provided
from clir_cli.types import Doc
from clir_cli.views import DocView, Fields, QueryView, read_queries, write_queries

TRANSLATE_DOCS = 2_000  # documents in a shard of translation


@dataclass(frozen=True)
class Texts:
    """Builds the steps of configurations over one store; equal parts of different cells are the same Step object."""

    store: Store
    known: dict[str, Step] = field(default_factory=dict)

    def _step(self, step: Step) -> Step:
        """The step, or the equal one that was promised before."""
        return self.known.setdefault(self.store.promise(step), step)

    # Documents and topics -------------------------------------------------------------------------------------------

    def docs(self, cfg: Config, lang: str) -> Step:
        """The collection in one language, checked and stored for reading in order and by id."""
        dataset = cfg.dataset
        source = dataset.source("docs", lang)
        meaning: dict[str, Any] = {"docs": self._files(source)}
        if dataset.sample_docs:
            meaning["sample"] = [dataset.sample_docs, dataset.sample_seed, self._qrels_meaning(cfg)]

        def make(at: At) -> Counts:
            with unchanged(source.files):
                docs: Iterable[Doc] = dataset.read_docs(lang)
                if dataset.sample_docs:
                    judged = {row.doc_id for row in selection.judgments(cfg)}
                    docs = selection.sampled(docs, judged, dataset.sample_docs, dataset.sample_seed)
                docs = track(docs, None, f"read {cfg.labels['dataset']}.{lang}", "documents")
                counts = write_docs(docs, at.draft, dataset.on_empty, dataset.on_duplicate)
            if not counts["documents"]:
                raise DataError(f"{', '.join(map(str, source.files))}: no documents")
            if counts["empty"] == counts["documents"] and dataset.on_empty == "warn":
                raise DataError(
                    f"{', '.join(map(str, source.files))}: none of {many(counts['documents'], 'document')} has text; "
                    "are the fields the right ones?"
                )
            tell(
                counts,
                f"{cfg.labels['dataset']}.{lang}",
                {
                    "empty": ("document without text", "documents without text"),
                    "duplicates": ("repeated doc_id (the first kept)", "repeated doc_ids (the first kept)"),
                },
            )
            return counts

        return self._step(Step("docs", f"{cfg.labels['dataset']}{dataset.selection}.{lang}", cfg.plain, meaning, make))

    def topics(self, cfg: Config) -> Step:
        """The selected topics in the query language."""
        dataset, lang = cfg.dataset, cfg.dataset.query_lang
        source = dataset.source("topics", lang)
        meaning: dict[str, Any] = {
            "topics": self._files(source),
            "queries": self._selection(cfg),
            "limit": dataset.limit_queries,
        }

        def make(at: At) -> Counts:
            with unchanged(source.files):
                queries = selection.select(cfg, dataset.read_topics(lang))
            filled = [q for q in queries if any(text.strip() for text in q.fields.values())]
            empty = len(queries) - len(filled)
            if empty and dataset.on_empty == "error":
                raise DataError(
                    f"{source.files[0]}: {many(empty, 'topic')} without text; dataset.on_empty=warn keeps them"
                )
            if queries and not filled:
                raise DataError(
                    f"{source.files[0]}: none of {many(empty, 'topic')} has text; are the fields the right ones?"
                )
            kept = f"without text ({dataset.on_empty})"
            tell({"empty": empty}, f"{source.files[0]}", {"empty": (f"topic {kept}", f"topics {kept}")})
            queries = filled if dataset.on_empty == "drop" else queries
            write_queries(queries, at.draft)
            return {"queries": len(queries), "empty": empty}

        return self._step(
            Step("topics", f"{cfg.labels['dataset']}{dataset.selection}.{lang}", cfg.plain, meaning, make)
        )

    def _selection(self, cfg: Config) -> Any:
        chosen = cfg.dataset.queries
        if chosen == "judged":
            return ["judged", self._qrels_meaning(cfg)]
        if isinstance(chosen, str) and chosen != "all":
            selection.ids_in(path := Path(chosen).expanduser())
            return self.store.prints.fingerprint(path)
        return chosen

    def _qrels_meaning(self, cfg: Config) -> Any:
        return [self._files(cfg.dataset.source("qrels", "", name)) for name in cfg.dataset.judgment_names]

    def _files(self, source: Any) -> Any:
        return {"files": self.store.prints.fingerprints(source.files), "reading": dict(source.reading)}

    # Translation ----------------------------------------------------------------------------------------------------

    def translated_docs(
        self, cfg: Config, translator: Any, source: str, target: str, only: tuple[Ranking, int] | None = None
    ) -> Step:
        """The collection in another language; with `only`, just the candidates of a ranking."""
        original = self.docs(cfg, source)
        label = f"{cfg.labels['dataset']}{cfg.dataset.selection}.{source}-{target}"
        meaning = self._translation(cfg, translator, "docs", source, target)
        if isinstance(translator, Provided):
            if translator.file is None and not all(f.exists() for f in cfg.dataset.source("docs", target).files):
                raise LanguageError(
                    f"translator=provided: the dataset has no documents in {target!r} to stand for those in {source!r}; choose another translator, or give translator.file"
                )
            parallel = self.docs(replace_sample(cfg), target) if translator.file is None else None

            def provide(at: At) -> Counts:
                store, counts = Docstore(at[original]), {"missing": 0}
                find = translator.finder(source, target, Docstore(at[parallel]) if parallel else None)

                def rows() -> Iterator[Doc]:
                    for begin in range(0, len(store), 1000):
                        docs = list(store.rows(begin, begin + 1000))
                        shown, missing = translator.replaced(docs, find(docs), target)
                        counts["missing"] += missing
                        yield from shown

                written = write_docs(track(rows(), len(store), f"translate {label}", "documents"), at.draft)
                _tell_provided({**written, **counts}, label, "document", translator)
                return {**written, **counts}

            parents = (original, parallel) if parallel else (original,)
            return self._step(Step("translate", label, cfg.plain, meaning, provide, parents=parents))

        def ids(at: At) -> list[str] | None:
            if only is None:
                return None
            return sorted({d for docs in at.store.lists(*only).values() for d in docs})

        def total(at: At) -> int:
            wanted = ids(at)
            return len(Docstore(at[original])) if wanted is None else len(wanted)

        def shard(at: At, i: int, folder: Path) -> Counts:
            store, begin, wanted = Docstore(at[original]), i * TRANSLATE_DOCS, ids(at)
            if wanted is None:
                docs = list(store.rows(begin, begin + TRANSLATE_DOCS))
            else:
                docs = list(store.find(wanted[begin : begin + TRANSLATE_DOCS]).values())
            rows, counts = self._translate([d.fields for d in docs], translator, source, target, at.draft)
            shown = [
                doc._replace(fields={name: made.text for name, made in row.items()}, lang=target)
                for doc, row in zip(docs, rows, strict=True)
            ]
            with (folder / "docs.jsonl").open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(list(d), ensure_ascii=False) + "\n" for d in shown)
            starts = ({name: made.starts for name, made in row.items()} for row in rows)
            translation.write_alignment(
                zip((d.doc_id for d in docs), starts, strict=True), folder / translation.ALIGNMENT
            )
            return {"documents": len(docs), **counts}

        def make(at: At) -> Counts:
            write_docs(joined(at.shards()), at.draft, "warn", "error")
            _append([shard / translation.ALIGNMENT for shard in at.shards()], at.draft / translation.ALIGNMENT)
            _tell_translated([read_json(shard / "counts.json") for shard in at.shards()], label)
            drop_shards(at)
            return {}

        return self._step(Step(
            "translate", label, cfg.plain, meaning, make, parents=(original,), candidates=only,
            shards=Shards(total, shard, "documents", TRANSLATE_DOCS), needs=needs(translator),
            check=self._checks(translator, source, target),
        ))  # fmt: skip

    def translated_topics(self, cfg: Config, translator: Any, target: str) -> Step:
        """The selected topics in another language."""
        original, source = self.topics(cfg), cfg.dataset.query_lang
        meaning = self._translation(cfg, translator, "topics", source, target)
        label = f"{cfg.labels['dataset']}{cfg.dataset.selection}.topics.{source}-{target}"

        def make(at: At) -> Counts:
            queries = read_queries(at[original])
            if isinstance(translator, Provided):
                found = translator.topics(cfg.dataset, source, target)
                rows, missing = translator.replaced(queries, found, target)
                counts: Counts = {"missing": missing}
                empty = sum(not any(map(str.strip, row.fields.values())) for row in rows)
                _tell_provided({"missing": missing, "empty": empty}, label, "topic", translator)
            else:
                translated, counts = self._translate([q.fields for q in queries], translator, source, target, at.draft)
                fields = [{name: made.text for name, made in row.items()} for row in translated]
                rows = [q._replace(fields=f, lang=target) for q, f in zip(queries, fields, strict=True)]
                _tell_translated([counts], label)
            write_queries(rows, at.draft)
            return {"queries": len(rows), **counts}

        return self._step(Step(
            "translate", label, cfg.plain, meaning, make, parents=(original,), needs=needs(translator),
            check=self._checks(translator, source, target),
        ))  # fmt: skip

    def _concrete(self, translator: Any, source: str, target: str) -> Any:
        """The translator of one direction, where a family has a model for each: `opus-mt-{source}-{target}`."""
        if "{source}" not in getattr(translator, "model", ""):
            return translator
        name = translator.model_for(source, target)
        revision = self.store.pins.get(name) or known_revision(name, self.store.root / "models.lock")
        return replace(translator, model=name, source=source, target=target, revision=revision)

    def _legs(self, translator: Any, source: str, target: str) -> list[translation.Leg]:
        """The directions that lead from source to target, each with the translator that goes it."""
        found = translation.legs(translator, source, target)
        return [leg._replace(translator=self._concrete(leg.translator, leg.source, leg.target)) for leg in found]

    def _checks(self, translator: Any, source: str, target: str) -> Callable[[], None] | None:
        """What the translator refuses before anything runs: a model folder that lacks a file, a language it has not."""
        if isinstance(translator, Provided):
            return None

        def check() -> None:
            for leg in self._legs(translator, source, target):
                if hasattr(leg.translator, "check"):
                    leg.translator.check(leg.source, leg.target)

        return check

    def _translation(
        self, cfg: Config, translator: Any, part: Literal["docs", "topics"], source: str, target: str
    ) -> dict[str, Any]:
        """What decides a translation, whoever asks for it and for how much of a collection."""
        if translator is None:
            raise ConfigError(
                f"{part} in {source!r} are to be seen in {target!r}: choose a translator, e.g. translator=nllb_600m"
            )
        said: dict[str, Any] = {"part": part, "source": source, "target": target}
        if isinstance(translator, Provided):
            said["translator"] = identity(translator, self.store.prints)
            if translator.file is not None:
                said["file"] = self.store.prints.fingerprint(translator.path(source, target))
            elif part == "topics":
                said["topics"] = self._files(cfg.dataset.source("topics", target, translator.edition or ""))
            return said
        first, *onward = [self._leg(leg) for leg in self._legs(translator, source, target)]
        return {**said, **first, **({"pivot": translator.pivot, "onward": onward} if onward else {})}

    def _leg(self, leg: translation.Leg) -> dict[str, Any]:
        """What decides one direction of a translation. Raises LanguageError for one that the translator has not."""
        if (reason := leg.translator.directions(leg.source, leg.target)) is not None:
            name = type(leg.translator).__name__
            raise LanguageError(f"translator {name} cannot translate {leg.source} to {leg.target}: {reason}")
        said: dict[str, Any] = {"translator": identity(leg.translator, self.store.prints)}
        if hasattr(leg.translator, "engine"):
            said["engine"] = leg.translator.engine(leg.source, leg.target)
        return said

    @contextmanager
    def way(
        self, translator: Any, source: str, target: str, draft: Path | None = None
    ) -> Iterator[list[translation.Leg]]:
        """The directions that lead from source to target, each with this store's memory of it."""
        with ExitStack() as stack:
            found = []
            for leg in self._legs(translator, source, target):
                name = digest(self._leg(leg))
                memory = stack.enter_context(closing(self.store.memory(f"translations/{name}")))
                remembering = stack.enter_context(self.remembering(leg.translator, draft))
                found.append(leg._replace(translator=remembering, memory=memory, identity=name))
            yield found

    @contextmanager
    def remembering(self, part: Any, draft: Path | None, repeat: int = 0, seed: int = 0) -> Iterator[Any]:
        """The component with its language model's answers kept over all experiments, and paid for.

        They are paid out of the model's own budget, whose ledger is in the step's `draft`, and of the sweep's.
        """
        if not any(f.name == "llm" for f in fields(part)):
            yield part
            return
        from clir_cli import ledger  # it brings asyncio
        from clir_cli.llms.remembered import Remembered

        name = digest({"llm": identity(part.llm, self.store.prints), "repeat": repeat, "seed": seed})
        with closing(self.store.memory(f"answers/{name}")) as memory:
            ledgers = ledger.of_step(part.llm, draft, *self.store.ledgers)
            yield replace(part, llm=Remembered(part.llm, memory, name, ledgers))

    def open_models(self, translator: Any, source: str, target: str) -> list[str]:
        """The hub models of a translation whose revision is to be resolved."""
        meanings = [self._leg(leg) for leg in self._legs(translator, source, target)]
        return [found.model for found in pending(meanings) if found.model]

    def _translate(
        self, rows: Sequence[Mapping[str, str]], translator: Any, source: str, target: str, draft: Path
    ) -> tuple[list[dict[str, translation.Translated]], Counts]:
        """Field by field: title and body are translated and stored apart."""
        texts, usd = [text for row in rows for text in row.values()], dict[str, float]()
        with self.way(translator, source, target, draft) as way:
            translated, counts = translation.translate_through(texts, way)
            for leg in way:
                for name, amount in leg.translator.llm.costs().items() if hasattr(leg.translator, "llm") else ():
                    usd[name] = usd.get(name, 0) + amount
        given = iter(translated)
        return [{name: next(given) for name in row} for row in rows], {**asdict(counts), **usd}

    # Views ------------------------------------------------------------------------------------------------------------

    def query_view(self, cfg: Config, stage: Literal["retrieve", "rerank"], whole: Config | None = None) -> QueryView:
        """The topics as a stage sees them. `whole`: the pool whose topics a part of it answers."""
        node, dataset = getattr(cfg, stage), cfg.dataset
        topics_of = whole or cfg
        translator = node.query_translator or cfg.translator
        columns = []
        for lang in views.targets(node.query, dataset.query_lang, dataset.query_lang, dataset.doc_langs):
            step = (
                self.topics(topics_of)
                if lang == dataset.query_lang
                else self.translated_topics(topics_of, translator, lang)
            )
            columns.append((lang, step))
        return QueryView(tuple(columns), Fields(node.query_fields or dataset.query_fields, dataset.field_separator))

    def doc_view(
        self, cfg: Config, stage: Literal["retrieve", "rerank"], only: tuple[Ranking, int] | None = None
    ) -> DocView:
        """The documents as a stage sees them; with `only`, translations are made of a ranking's candidates alone."""
        node, dataset = getattr(cfg, stage), cfg.dataset
        translator = node.doc_translator or cfg.translator
        parts = []
        for own in dataset.doc_langs:
            columns = []
            for lang in views.targets(node.doc, own, dataset.query_lang, [own]):
                step = self.docs(cfg, own) if lang == own else self.translated_docs(cfg, translator, own, lang, only)
                columns.append((lang, step))
            parts.append(tuple(columns))
        return DocView(tuple(parts), Fields(node.doc_fields or dataset.doc_fields, dataset.field_separator))


def replace_sample(cfg: Config) -> Config:
    """The whole collection: translations are looked up there, also for a sample."""
    return replace(cfg, dataset=replace(cfg.dataset, sample_docs=None))


def _append(parts: Sequence[Path], whole: Path) -> None:
    """The bytes of all parts, in order, in one file."""
    import shutil

    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, out)


def _tell_provided(counts: Counts, label: str, what: str, translator: Provided) -> None:
    missing, empty = f"without a translation ({translator.missing})", "whose translation has no text"
    tell(counts, label, {name: (f"{what} {said}", f"{what}s {said}") for name, said in (("missing", missing), ("empty", empty))})  # fmt: skip


def _tell_translated(counts: Sequence[Counts], label: str) -> None:
    """One line about what is worth a look in a translation, if anything is."""
    names = {name for part in counts for name in part}
    if said := translation.complaint({name: sum(part.get(name, 0) for part in counts) for name in names}):
        say(f"translate {label}: {said}")
