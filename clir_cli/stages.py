"""The story of an experiment: read, translate, index, retrieve, fuse, rerank. One function each; building runs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from clir_cli import ledger, passages, reranking, selection, translation, truncation, views
from clir_cli.config import Config, known_revision
from clir_cli.docstore import Docstore
from clir_cli.docstore import write as write_docs
from clir_cli.errors import ConfigError, DataError, LanguageError, RunError
from clir_cli.expansion import Expansion, ProvidedQueries, check_aggregate, to_fields
from clir_cli.files import read_json
from clir_cli.passages import Passages
from clir_cli.progress import say, track
from clir_cli.rerankers.cascade import Cascade
from clir_cli.rerankers.listwise import Listwise
from clir_cli.rerankers.none import Keep
from clir_cli.rerankers.oracle import JudgedReranker
from clir_cli.rerankers.pairwise import Pairwise
from clir_cli.rerankers.setwise import Setwise
from clir_cli.reranking import Shown
from clir_cli.retrievers.expanded import Expanded
from clir_cli.retrievers.hybrid import Hybrid
from clir_cli.retrievers.run_file import RunFile
from clir_cli.retrievers.single_vector import SingleVector
from clir_cli.steps import Counts, Needs, Ranking, Shards, Step, derives, digest, identity, model_identity, pending
from clir_cli.store import At, Store
from clir_cli.translators.provided import Provided
from clir_cli.types import Candidates, DerivingRetriever, Doc, Journal, LanguageAware, Run, ShardedRetriever, Text
from clir_cli.views import DocView, ExpandedView, Fields, PassageView, QueryView, read_queries, write_queries

TRANSLATE_DOCS = 2_000  # documents in a shard of translation
CUT_DOCS = 10_000  # documents in a shard of passages
EXPAND_TEXTS = 500  # texts in a shard of expansion
RERANK_QUERIES = 64  # queries in a shard of reranking: their prompts are batched together


@dataclass(frozen=True)
class Stages:
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
            with _unchanged(source.files):
                docs: Iterable[Doc] = dataset.read_docs(lang)
                if dataset.sample_docs:
                    judged = {row.doc_id for row in selection.judgments(cfg)}
                    docs = selection.sampled(docs, judged, dataset.sample_docs, dataset.sample_seed)
                docs = track(docs, None, f"read {cfg.labels['dataset']}.{lang}", "documents")
                counts = write_docs(docs, at.draft, dataset.on_empty, dataset.on_duplicate)
            if not counts["documents"]:
                raise DataError(f"{', '.join(map(str, source.files))}: no documents")
            _tell(
                counts,
                f"{cfg.labels['dataset']}.{lang}",
                {"empty": "documents without text", "duplicates": "repeated doc_ids (the first kept)"},
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
            with _unchanged(source.files):
                queries = selection.select(cfg, dataset.read_topics(lang))
            filled = [q for q in queries if any(text.strip() for text in q.fields.values())]
            empty = len(queries) - len(filled)
            if empty and dataset.on_empty == "error":
                raise DataError(f"{source.files[0]}: {empty} topics without text; dataset.on_empty=warn keeps them")
            _tell({"empty": empty}, f"{source.files[0]}", {"empty": f"topics without text ({dataset.on_empty})"})
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
        return {"files": [self.store.prints.fingerprint(f) for f in source.files], "reading": dict(source.reading)}

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
                _tell(counts, label, {"missing": f"documents without a translation ({translator.missing})"})
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
            rows, counts = self._translate([d.fields for d in docs], translator, source, target)
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
            write_docs(_joined(at.shards()), at.draft, "warn", "error")
            _append([shard / translation.ALIGNMENT for shard in at.shards()], at.draft / translation.ALIGNMENT)
            _tell_translated([read_json(shard / "counts.json") for shard in at.shards()], label)
            _drop_shards(at)
            return {}

        return self._step(Step(
            "translate", label, cfg.plain, meaning, make, parents=(original,), candidates=only,
            shards=Shards(total, shard, "documents", TRANSLATE_DOCS), needs=_needs(translator),
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
                _tell(counts, label, {"missing": f"topics without a translation ({translator.missing})"})
            else:
                translated, counts = self._translate([q.fields for q in queries], translator, source, target)
                fields = [{name: made.text for name, made in row.items()} for row in translated]
                rows = [q._replace(fields=f, lang=target) for q, f in zip(queries, fields, strict=True)]
                _tell_translated([counts], label)
            write_queries(rows, at.draft)
            return {"queries": len(rows), **counts}

        return self._step(Step(
            "translate", label, cfg.plain, meaning, make, parents=(original,), needs=_needs(translator),
            check=self._checks(translator, source, target),
        ))  # fmt: skip

    def _concrete(self, translator: Any, source: str, target: str) -> Any:
        """The translator of one direction, where a family has a model for each: `opus-mt-{source}-{target}`."""
        if "{source}" not in getattr(translator, "model", ""):
            return translator
        name = translator.model_for(source, target)
        revision = known_revision(name, self.store.root / "models.lock")
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
    def way(self, translator: Any, source: str, target: str) -> Iterator[list[translation.Leg]]:
        """The directions that lead from source to target, each with this store's memory of it."""
        with ExitStack() as stack:
            found = []
            for leg in self._legs(translator, source, target):
                name = digest(self._leg(leg))
                memory = stack.enter_context(closing(self.store.memory(f"translations/{name}")))
                found.append(leg._replace(memory=memory, identity=name))
            yield found

    def open_models(self, translator: Any, source: str, target: str) -> list[str]:
        """The hub models of a translation whose revision is to be resolved."""
        meanings = [self._leg(leg) for leg in self._legs(translator, source, target)]
        return [found.model for found in pending(meanings) if found.model]

    def _translate(
        self, rows: Sequence[Mapping[str, str]], translator: Any, source: str, target: str
    ) -> tuple[list[dict[str, translation.Translated]], Counts]:
        """Field by field: title and body are translated and stored apart."""
        texts = [text for row in rows for text in row.values()]
        with self.way(translator, source, target) as way:
            translated, counts = translation.translate_through(texts, way)
        given = iter(translated)
        return [{name: next(given) for name in row} for row in rows], asdict(counts)

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

    # Passages -----------------------------------------------------------------------------------------------------------

    def passages(self, cfg: Config, docs: DocView, how: Passages, component: Any, first: bool) -> PassageView:
        """The view's documents cut into passages; `component` is whose tokens count. `first`: no more than one each."""
        originals = tuple(self.docs(cfg, lang) for lang in cfg.dataset.doc_langs)
        tokens = passages.tokens_of(component)
        if how.unit == "tokens" and tokens is None:
            raise ConfigError(
                f"passages.unit=tokens: {type(component).__name__} has no tokens of its own; choose words or sentences"
            )
        meaning = {
            "cut": how.meaning, "first": first, "shown": [[lang for lang, _ in part] for part in docs.parts],
            **_fields_meaning(docs.fields),
            **({"tokenizer": self._tokenizer(component)} if how.unit == "tokens" else {}),
        }  # fmt: skip

        def shard(at: At, i: int, folder: Path) -> Counts:
            texts = list(docs.read(at, i * CUT_DOCS, (i + 1) * CUT_DOCS))
            cuts = how.cut([text.parts[0][1] for text in texts], tokens)
            found = 0
            with (folder / "docs.jsonl").open("w", encoding="utf-8") as out:
                known = docs.versions(at, [text.id for text in texts], originals)
                for text, spans in zip(texts, cuts, strict=True):
                    cut = known[text.id].cut(text.parts[0][0], spans[:1] if first else spans)
                    found += len(cut.places)
                    out.write(json.dumps([text.id, cut.fields(), text.lang], ensure_ascii=False) + "\n")
            return {"documents": len(texts), "passages": found}

        def make(at: At) -> Counts:
            import numpy as np

            firsts = [0]

            def rows() -> Iterator[Doc]:
                for doc in _joined(at.shards()):
                    firsts.append(firsts[-1] + len(doc.fields["original"].split(" ")))
                    yield doc

            write_docs(rows(), at.draft, "warn", "error")
            np.save(at.draft / "firsts.npy", np.asarray(firsts))
            _drop_shards(at)
            return {}

        label = f"{cfg.labels['dataset']}{cfg.dataset.selection}.{'+'.join(docs.langs)}.{how.unit}{how.window}"
        step = self._step(Step(
            "passages", label, cfg.plain, meaning, make, tuple(dict.fromkeys([*docs.steps, *originals])),
            shards=Shards(docs.count, shard, "documents", CUT_DOCS),
            needs=_needs(component) if how.unit == "tokens" else Needs(), work=f"cut documents at {how.window} {how.unit}",
        ))  # fmt: skip
        return PassageView(docs, step)

    def _tokenizer(self, component: Any) -> Any:
        """Whose tokens count: a model's, or what else decides the component's index."""
        whole = identity(component, self.store.prints, "index")
        if any(f.metadata.get("role") == "model" and f.name == "model" for f in fields(component)):
            model = model_identity(component.model, getattr(component, "revision", None), self.store.prints)
            return {"model": model, "engines": whole.get("engines")}
        return whole

    def _units(self, cfg: Config) -> DocView | PassageView:
        """What the first stage indexes: the documents as it sees them, or their passages."""
        docs, how = self.doc_view(cfg, "retrieve"), cfg.retrieve.passages
        return docs if how is None else self.passages(cfg, docs, how, cfg.retriever, how.aggregate == "first")

    # Expansion ----------------------------------------------------------------------------------------------------------

    def _indexed(self, cfg: Config) -> DocView | PassageView | ExpandedView:
        """What is indexed: documents or passages, with the queries that `retrieve.expansion` has for each."""
        units, how = self._units(cfg), cfg.retrieve.expansion
        if how is None:
            return units
        if not isinstance(how, Expansion):
            raise ConfigError("retrieve.expansion must be a component of clir_cli.expansion; experiment=xqg sets one")
        check_aggregate(how, _has_single_vectors(cfg.retriever), type(cfg.retriever).__name__)
        step = (
            self._provided_queries(cfg, units, how)
            if isinstance(how, ProvidedQueries)
            else self._written(cfg, units, how)
        )
        return ExpandedView(units, step, _query_langs(cfg, how), how.aggregate == "concat_text")

    def _expansion(self, cfg: Config, units: DocView | PassageView, how: Expansion) -> tuple[dict[str, Any], str]:
        """What decides the queries of every text, and what the step is called."""
        docs, langs = units.docs if isinstance(units, PassageView) else units, _query_langs(cfg, how)
        meaning = {
            "component": identity(how, self.store.prints, "index"), "langs": langs,
            "shown": [[lang for lang, _ in part] for part in docs.parts], **_fields_meaning(docs.fields),
        }  # fmt: skip
        shown = f"{'+'.join(docs.langs)}-{'+'.join(langs)}"
        return meaning, f"{type(how).__name__}.{cfg.labels['dataset']}{cfg.dataset.selection}.{shown}"

    def _provided_queries(self, cfg: Config, units: DocView | PassageView, how: ProvidedQueries) -> Step:
        meaning, label = self._expansion(cfg, units, how)
        langs = _query_langs(cfg, how)

        def make(at: At) -> Counts:
            path = Path(how.file).expanduser()
            with _unchanged((path,)):
                rows = (Doc(i, to_fields(queries), "") for i, queries in how.read(langs))
                written = write_docs(track(rows, None, f"expand {label}", "lines"), at.draft)
            lacking = total = 0
            for texts in _chunks(units.read(at), views.CHUNK):
                found = views.stored_queries(at.draft, units, [text.id for text in texts])
                absent = [text.id for text in texts if text.id not in found]
                if absent and how.missing == "error":
                    raise DataError(
                        f"{path} has no queries for {absent[0]!r}\n"
                        "  retrieve.expansion.missing=count indexes such texts as they are and counts them"
                    )
                lacking, total = lacking + len(absent), total + len(texts)
            counts = {"documents": total, "lines": written["documents"], "without_queries": lacking}
            _tell(counts, label, {"without_queries": "texts without queries, indexed as they are"})
            return counts

        work = f"look up {how.n} queries in {', '.join(langs)} for each text"
        return self._step(Step("expand", label, cfg.plain, meaning, make, units.steps, work=work))

    def _written(self, cfg: Config, units: DocView | PassageView, how: Any) -> Step:
        meaning, label = self._expansion(cfg, units, how)
        langs = _query_langs(cfg, how)

        def shard(at: At, i: int, folder: Path) -> Counts:
            texts = list(units.read(at, i * EXPAND_TEXTS, (i + 1) * EXPAND_TEXTS))
            with ExitStack() as stack:
                writer = how
                if hasattr(how, "llm"):
                    from clir_cli.llms.remembered import Remembered

                    name = digest({"llm": identity(how.llm, self.store.prints), "repeat": 0, "seed": 0})
                    memory = stack.enter_context(closing(self.store.memory(f"answers/{name}")))
                    writer = replace(how, llm=Remembered(how.llm, memory, name, ledger.of_step(how.llm, at.draft)))
                found, counts = writer.write(texts, langs)
            rows = ([text.id, to_fields(of), ""] for text, of in zip(texts, found, strict=True))
            with (folder / "docs.jsonl").open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return {"documents": len(texts), **counts}

        def make(at: At) -> Counts:
            truncation.warn("expansion", "texts", truncation.of_shards(at.shards()), how.reads)
            write_docs(_joined(at.shards()), at.draft, "warn", "error")
            _drop_shards(at)
            return {}

        return self._step(Step(
            "expand", label, cfg.plain, meaning, make, units.steps, needs=_needs(how),
            shards=Shards(units.count, shard, "texts", EXPAND_TEXTS),
            work=f"write {how.n} queries in {', '.join(langs)} for each text",
            check=getattr(getattr(how, "llm", None), "check", None),
        ))  # fmt: skip

    # First stage --------------------------------------------------------------------------------------------------------

    def first_stage(self, cfg: Config) -> Ranking:
        """The ranking that the reranker gets: of one retriever, of a pool's parts, or of a hybrid's."""
        if isinstance(cfg.retriever, Hybrid):
            parts = [self.first_stage(part).step for part in cfg.parts]
            fusion = cfg.retriever
            meaning = {
                "method": fusion.method,
                "k": fusion.k if fusion.method == "rrf" else None,
                "weights": fusion.weights,
            }
            return Ranking(self._fused(cfg, parts, meaning, lambda runs: fusion.fuse(runs, tie_break(cfg))))
        if cfg.retrieve.pool == "per_language" and len(cfg.dataset.doc_langs) > 1:
            parts = [self.retrieve(cfg.for_doc_lang(lang), whole=cfg) for lang in cfg.dataset.doc_langs]
            return Ranking(
                self._fused(cfg, parts, {"method": f"pool {cfg.retrieve.merge}"}, lambda runs: _merged(runs, cfg))
            )
        return Ranking(self.retrieve(cfg))

    def index(self, cfg: Config) -> Step:
        """The collection made searchable: by the retriever's fields that are not `searched`, and the documents' view alone."""
        retriever, docs, seen = cfg.retriever, self._indexed(cfg), self.doc_view(cfg, "retrieve")
        component = identity(retriever, self.store.prints, "index")
        shown = [[lang for lang, _ in part] for part in seen.parts]
        meaning = {"component": component, "shown": shown, **_fields_meaning(seen.fields)}
        expansion = cfg.retrieve.expansion
        if expansion is not None:
            meaning["expansion"] = expansion.combination
        if files := [self.store.prints.fingerprint(f) for f in _index_files(retriever, docs.langs)]:
            meaning["files"] = files
        label = f"{cfg.labels['retriever']}.{cfg.labels['dataset']}{cfg.dataset.selection}.{'+'.join(docs.langs)}"
        if isinstance(retriever, ShardedRetriever):
            size = retriever.shard_docs

            def shard(at: At, i: int, folder: Path) -> Counts:
                texts, encoder = list(docs.read(at, i * size, (i + 1) * size)), retriever
                if isinstance(docs, ExpandedView) and not docs.shown:
                    alpha = expansion.alpha if expansion.aggregate == "weighted" else None
                    assert isinstance(retriever, SingleVector)
                    encoder = Expanded.over(retriever, docs.queries(at, [text.id for text in texts]), alpha)
                encoder.index_shard(texts, folder)
                report = folder / "report.json"
                return {
                    "documents": min(size, docs.count(at) - i * size),
                    **(read_json(report) if report.exists() else {}),
                }

            shards = Shards(docs.count, shard, "documents", size)

            def finish(at: At) -> Counts:
                cut_at = getattr(retriever, "doc_tokens", None)
                truncation.warn(cfg.labels["retriever"], "documents", truncation.of_shards(at.shards()), cut_at)
                return {}

            return self._step(
                Step(
                    "index",
                    label,
                    cfg.plain,
                    meaning,
                    finish,
                    docs.steps,
                    shards=shards,
                    needs=_needs(retriever),
                )
            )

        def make(at: At) -> Counts:
            count = docs.count(at)
            retriever.index(track(docs.read(at), count, f"index {label}", "documents"), at.draft)
            return {"documents": count}

        return self._step(Step("index", label, cfg.plain, meaning, make, docs.steps, needs=_needs(retriever)))

    def derived(self, cfg: Config, indexed: Step, query_langs: Sequence[str], doc_langs: Sequence[str]) -> Step | None:
        """What the retriever makes of its finished index before it searches; None if nothing."""
        retriever = cfg.retriever
        if not (isinstance(retriever, DerivingRetriever) and derives(retriever)):
            return None
        files = [self.store.prints.fingerprint(f) for f in _own_files(retriever, query_langs, doc_langs)]
        meaning = {
            "component": identity(retriever, self.store.prints, "derive"),
            **({"langs": [list(query_langs), list(doc_langs)]} if retriever.derives_per_language else {}),
            **({"files": files} if files else {}),
        }
        label = f"{cfg.labels['retriever']}.{pair_label(cfg)}"

        def make(at: At) -> Counts:
            return retriever.derive(at[indexed], at.draft, query_langs, doc_langs)

        return self._step(Step("derive", label, cfg.plain, meaning, make, (indexed,), needs=_needs(retriever)))

    def retrieve(self, cfg: Config, whole: Config | None = None) -> Step:
        """The collection ranked for every query, `retrieve.depth` documents deep."""
        if isinstance(cfg.retriever, RunFile):
            return self._run_file(cfg)
        queries, docs, how = self.query_view(cfg, "retrieve", whole), self._indexed(cfg), cfg.retrieve.passages
        units = docs.units if isinstance(docs, ExpandedView) else docs
        if isinstance(cfg.retriever, LanguageAware):
            cfg.retriever.check_languages(queries.langs, docs.langs)
        indexed, depth = self.index(cfg), cfg.retrieve.depth
        derived = self.derived(cfg, indexed, queries.langs, docs.langs)
        files = [self.store.prints.fingerprint(f) for f in _own_files(cfg.retriever, queries.langs, docs.langs)]
        meaning = {
            "component": identity(cfg.retriever, self.store.prints),
            "depth": depth,
            "langs": queries.langs,
            **_fields_meaning(queries.fields),
            **({"files": files} if files else {}),
        }
        if how is not None:
            more_than_most = {"k": how.k} if how.aggregate == "topk_mean" else {}
            meaning["passages"] = {"aggregate": how.aggregate, "tie_break": tie_break(cfg), **more_than_most}

        def make(at: At) -> Counts:
            from clir_cli import runs

            texts = queries.read(at)
            more = {} if derived is None else {"derived": at[derived]}
            counts: dict[str, float] = {}

            def search(asked: Sequence[Text], deep: int) -> Run:
                run: Run = cfg.retriever.search(at[indexed], asked, deep, **more)
                _check_queries(run, asked)
                counts.update(run.attrs.get("counts", {}))
                return run

            if isinstance(units, PassageView) and how is not None:
                run = _documents_by_passages(cfg, at, units, how, search, texts)
            else:
                run = runs.cut(search(texts, depth), depth)
            runs.write_trec(run, at.draft / "run.trec")
            return {"queries": len(texts), **counts}

        label = f"{cfg.labels['retriever']}.{pair_label(cfg)}"
        return self._step(
            Step(
                "retrieve",
                label,
                cfg.plain,
                meaning,
                make,
                (indexed, *((derived,) if derived else ()), *queries.steps),
                needs=_needs(cfg.retriever),
                check=getattr(cfg.retriever, "check", None),
            )
        )

    def _run_file(self, cfg: Config) -> Step:
        """Somebody else's ranking, checked against the collection and the topics."""
        retriever, dataset = cfg.retriever, cfg.dataset
        path = retriever.file(dataset.query_lang, dataset.doc_label)
        topics, docs = self.topics(cfg), [self.docs(cfg, lang) for lang in dataset.doc_langs]
        meaning = {
            "component": identity(retriever, self.store.prints), "file": self.store.prints.fingerprint(path),
            "depth": cfg.retrieve.depth, "tie_break": tie_break(cfg),
        }  # fmt: skip

        def make(at: At) -> Counts:
            from clir_cli import runs

            with _unchanged((path,)):
                run = retriever.read(path, tie_break(cfg))
            wanted = [q.query_id for q in read_queries(at[topics])]
            others = sorted(set(run["query_id"]) - set(wanted))
            run = runs.cut(run[run["query_id"].isin(wanted)].reset_index(drop=True), cfg.retrieve.depth)
            ids = run["doc_id"].unique().tolist()
            unknown = set(ids).difference(*(Docstore(at[step]).find(ids) for step in docs))
            if unknown:
                raise DataError(
                    f"{path}: {len(unknown)} documents are not in the collection, for example {min(unknown)!r}"
                )
            missing = [q for q in wanted if q not in set(run["query_id"])]
            _tell(
                {"missing": len(missing), "others": len(others)},
                str(path),
                {
                    "missing": f"topics without results ({', '.join(missing[:5])}{', ...' if missing[5:] else ''})",
                    "others": "queries that are not selected topics, left out",
                },
            )
            runs.write_trec(run, at.draft / "run.trec")
            return {"queries": len(wanted), "topics_without_results": len(missing), "other_queries": len(others)}

        return self._step(
            Step("retrieve", f"{cfg.labels['retriever']}.{pair_label(cfg)}", cfg.plain, meaning, make, (topics, *docs))
        )

    def _fused(self, cfg: Config, parts: Sequence[Step], how: Mapping[str, Any], fuse: Any) -> Step:
        meaning = {**how, "depth": cfg.retrieve.depth, "tie_break": tie_break(cfg)}

        def make(at: At) -> Counts:
            from clir_cli import runs

            read = [runs.read_made(at[step] / "run.trec") for step in parts]
            run = runs.cut(fuse(read), cfg.retrieve.depth)
            found = [passages.read_best(at[step]) for step in parts]
            if (best := passages.fused_best(list(zip(read, found, strict=True)), run)) is not None:
                passages.write_best(best, at.draft)
            runs.write_trec(run, at.draft / "run.trec")
            return {"queries": run["query_id"].nunique()}

        return self._step(
            Step("fuse", f"{cfg.labels['retriever']}.{pair_label(cfg)}", cfg.plain, meaning, make, tuple(parts))
        )

    # Second stage -------------------------------------------------------------------------------------------------------

    def second_stages(self, cfg: Config, first: Ranking) -> list[Ranking]:
        """The ranking after each reranker: none, one, or a cascade's."""
        if isinstance(cfg.reranker, Keep):
            return []
        if not isinstance(cfg.reranker, Cascade):
            return [self.rerank(cfg, first, cfg.rerank.depth, first)]
        rankings: list[Ranking] = []
        for part, depth in zip(cfg.cascade, cfg.reranker.depths, strict=True):
            rankings.append(self.rerank(part, rankings[-1] if rankings else first, depth, first))
        return rankings

    def rerank(self, cfg: Config, ranking: Ranking, depth: int, first: Ranking) -> Ranking:
        """The first `depth` documents of `ranking` in the reranker's order; identified by which they are, not by how they were found.

        `first` is the ranking whose passages `rerank.unit` may mean.
        """
        reranker, dataset = cfg.reranker, cfg.dataset
        queries = self.query_view(cfg, "rerank")
        docs = self._seen_by_reranker(cfg, (ranking, depth))
        if isinstance(reranker, LanguageAware):
            reranker.check_languages(queries.langs, docs.langs)
        originals = tuple(self.docs(cfg, lang) for lang in dataset.doc_langs)
        made = tuple(
            s for s in docs.steps if s.shards
        )  # translations: what they say follows from the originals and the translator
        given = tuple(
            s for s in docs.steps if not s.shards and s not in originals
        )  # provided ones count by what they hold
        meaning: dict[str, Any] = {
            "component": identity(reranker, self.store.prints),
            "docs": [[step.meaning if step not in originals else lang for lang, step in part] for part in docs.parts],
            "doc_fields": _fields_meaning(docs.fields), "query_fields": _fields_meaning(queries.fields), "langs": queries.langs,
            **({"repeat": cfg.rerank.repeat} if cfg.rerank.repeat else {}), **({"seed": cfg.rerank.seed} if cfg.rerank.seed else {}),
        }  # fmt: skip
        if isinstance(reranker, JudgedReranker):
            meaning["qrels"] = self._qrels_meaning(cfg)
        shown, candidates = self._unit(cfg, docs, originals), ranking
        if shown is not None:
            meaning["unit"] = shown.meaning
            candidates = Ranking(self._select(cfg, ranking, depth, first)) if shown.how is None else ranking

        def total(at: At) -> int:
            return len(at.store.lists(candidates, depth))

        def shard(at: At, i: int, folder: Path) -> Counts:
            lists = list(at.store.lists(candidates, depth).items())
            chosen = dict(lists[i * RERANK_QUERIES : (i + 1) * RERANK_QUERIES])
            return self._rerank_shard(cfg, at, chosen, queries, docs, folder, shown)

        def make(at: At) -> Counts:
            truncation.warn(cfg.labels["reranker"], "documents", truncation.of_shards(at.shards()))
            reranking.join_shards(at.shards(), at.draft)
            _drop_shards(at)
            return {}

        label = f"{cfg.labels['reranker']}.{cfg.labels['retriever']}.{pair_label(cfg)}"
        step = self._step(Step(
            "rerank", label, cfg.plain, meaning, make, (*queries.steps, *originals, *given), made,
            (candidates, depth), Shards(total, shard, "queries", RERANK_QUERIES), _needs(reranker),
            _calls(reranker, depth, shown), getattr(reranker, "check", None),
        ))  # fmt: skip
        return Ranking(step, ranking if cfg.rerank.tail == "keep" else None)

    def _seen_by_reranker(self, cfg: Config, candidates: tuple[Ranking, int]) -> DocView:
        """A translation of the whole collection where the first stage has it anyway, else of the candidates only."""
        whole = self.doc_view(cfg, "rerank")
        first = {
            step
            for part in (cfg.parts or (cfg,))
            if not isinstance(part.retriever, RunFile | Hybrid)
            for step in self.doc_view(part, "retrieve").steps
        }
        translations = [s for s in whole.steps if s.stage == "translate"]
        at_hand = {self.store.promise(s) for s in first}
        if all(s.shards is None or self.store.promise(s) in at_hand or self.store.folder(s) for s in translations):
            return whole
        return self.doc_view(cfg, "rerank", candidates)

    def _unit(self, cfg: Config, docs: DocView, originals: Sequence[Step]) -> Shown | None:
        """What the reranker is shown of a candidate; None: the whole document."""
        unit = cfg.rerank.unit
        if unit == "document" or isinstance(cfg.reranker, JudgedReranker):  # judgments are of documents
            return None
        stages = [part for part in (cfg.parts or (cfg,)) if not isinstance(part.retriever, RunFile | Hybrid)]
        found = next((part for part in stages if part.retrieve.passages is not None), None)
        if unit == "best_passage":
            if found is None:
                raise ConfigError(
                    "rerank.unit=best_passage: the first stage ranks whole documents and knows no best passage\n"
                    "  give it some, e.g. 'retrieve.passages={unit:sentences,window:6}', or choose rerank.unit=passages with rerank.passages"
                )
            return Shown(docs, tuple(originals))
        if isinstance(cfg.reranker, Listwise | Pairwise | Setwise):
            raise ConfigError(
                f"rerank.unit=passages: {type(cfg.reranker).__name__} orders its candidates and scores none: there is nothing to sum up over passages\n"
                "  choose rerank.unit=best_passage, or a reranker that scores each text, e.g. a cross-encoder"
            )
        how, whose = cfg.rerank.passages, cfg.reranker
        if how is None:
            if found is None or found.retrieve.passages is None:
                raise ConfigError(
                    "rerank.unit=passages: nothing says how to cut; give e.g. 'rerank.passages={unit:sentences,window:6}'"
                )
            how, whose = found.retrieve.passages, found.retriever
        tokens = passages.tokens_of(whose) if how.unit == "tokens" else None
        if how.unit == "tokens" and tokens is None:
            raise ConfigError(
                f"rerank.passages.unit=tokens: {type(whose).__name__} has no tokens of its own; choose words or sentences"
            )
        tokenizer = self._tokenizer(whose) if how.unit == "tokens" else None
        return Shown(docs, tuple(originals), replace(how, aggregate=cfg.rerank.aggregate), tokens, tokenizer)

    def _select(self, cfg: Config, ranking: Ranking, depth: int, first: Ranking) -> Step:
        """The candidates with their best passages: `doc_id#place` for doc_id, the place as in passages.place."""

        def make(at: At) -> Counts:
            from clir_cli import runs

            found = passages.read_best(at[first.step])
            assert found is not None
            best = {(q, d): p for q, d, p in zip(found["query_id"], found["doc_id"], found["original"], strict=True)}
            lists = at.store.lists(ranking, depth)
            hits = {
                q: [(f"{d}{passages.JOINT}{best.get((q, d), '')}", float(len(docs) - i)) for i, d in enumerate(docs)]
                for q, docs in lists.items()
            }
            runs.write_trec(runs.from_hits(hits), at.draft / "run.trec")
            asked = [(q, d) for q, docs in lists.items() for d in docs]
            counts = {"queries": len(lists), "documents": len(asked), "whole": sum(a not in best for a in asked)}
            _tell(
                counts, label, {"whole": "candidates without a passage, found by a part without passages: shown whole"}
            )
            return counts

        label = f"{cfg.labels['retriever']}.{pair_label(cfg)}"
        parents = tuple(dict.fromkeys([*ranking.steps, first.step]))
        return self._step(
            Step(
                "select", label, cfg.plain, {"depth": depth, "rule": 1}, make, parents, work="look up the best passages"
            )
        )

    def _rerank_shard(
        self, cfg: Config, at: At, lists: Mapping[str, list[str]], queries: QueryView, docs: DocView, folder: Path,
        shown: Shown | None,
    ) -> Counts:  # fmt: skip
        texts = {q.id: q for q in queries.read(at)}
        ids = sorted({d for docs_of in lists.values() for d in docs_of})
        found = {d: [t] for d, t in docs.find(at, ids).items()} if shown is None else shown.read(at, ids)
        absent = [(q, d) for q, ids in lists.items() for d in ids if d not in found]
        if absent:
            raise DataError(
                f"{len(absent)} candidates have no text in this view, for example {absent[0][1]!r} for query {absent[0][0]!r}"
            )
        documents = [Candidates(texts[q], [found[d][0] for d in ids]) for q, ids in lists.items() if q in texts]
        candidates = documents
        if shown is not None and shown.how is not None:
            candidates = [Candidates(q, [text for d in lists[q.id] for text in found[d]]) for q, _ in documents]
            documents = [
                Candidates(q, [doc._replace(id=d) for d, doc in zip(lists[q.id], docs, strict=True)])
                for q, docs in documents
            ]
        journal, reranker = Journal(), cfg.reranker
        memory = asked = None
        if any(f.name == "llm" for f in fields(reranker)):
            from clir_cli.llms.remembered import Remembered

            name = digest(
                {"llm": identity(reranker.llm, self.store.prints), "repeat": cfg.rerank.repeat, "seed": cfg.rerank.seed}
            )
            memory = self.store.memory(f"answers/{name}")
            asked = Remembered(reranker.llm, memory, name, ledger.of_step(reranker.llm, at.draft))
            reranker = replace(reranker, llm=asked)
        try:
            run = (
                reranker.rerank_judged(candidates, selection.judgments(cfg))
                if isinstance(reranker, JudgedReranker)
                else reranker.rerank(candidates, journal)
            )
        finally:
            if memory is not None:
                memory.close()
        if shown is not None and shown.how is not None:
            run, _ = passages.aggregated(run, shown.how, {}, None, "doc_id")
        reranking.write_shard(run, documents, journal, folder)
        return {
            "queries": len(candidates),
            "documents": sum(len(c.docs) for c in documents),
            **({"passages": sum(len(c.docs) for c in candidates)} if candidates is not documents else {}),
            **reranking.totals(journal),
            **({} if asked is None else asked.costs()),
        }


# Helpers of the stages ------------------------------------------------------------------------------------------------


def pair_label(cfg: Config) -> str:
    """`ciral-test.en-sw`: the dataset, its split and selection, and the language pair."""
    dataset = cfg.dataset
    split = f"-{dataset.split}" if dataset.split else ""
    return f"{cfg.labels['dataset']}{split}{dataset.selection}.{dataset.query_lang}-{dataset.doc_label}"


def tie_break(cfg: Config) -> Literal["doc_id", "hash"]:
    chosen = cfg.retrieve.tie_break
    if chosen == "auto":
        return "hash" if len(cfg.dataset.doc_langs) > 1 else "doc_id"
    return chosen


def replace_sample(cfg: Config) -> Config:
    """The whole collection: translations are looked up there, also for a sample."""
    return replace(cfg, dataset=replace(cfg.dataset, sample_docs=None))


def _needs(component: Any) -> Needs:
    return Needs(gpus=int(getattr(component, "gpus", 0)), python=getattr(component, "python", None))


def _index_files(component: Any, doc_langs: Sequence[str]) -> list[Path]:
    """The files behind the paths with {doc_lang} that an index is made of."""
    return list(component.index_files(doc_langs)) if hasattr(component, "index_files") else []


def _own_files(component: Any, query_langs: Sequence[str], doc_langs: Sequence[str]) -> list[Path]:
    """The files behind a component's paths with {query_lang} and {doc_lang}; they count by their bytes."""
    return list(component.files(query_langs, doc_langs)) if hasattr(component, "files") else []


def _fields_meaning(chosen: Fields) -> dict[str, Any]:
    return {"fields": chosen.names, "separator": chosen.separator}


def _tell(counts: Mapping[str, float], where: str, names: Mapping[str, str]) -> None:
    for key, text in names.items():
        if counts.get(key):
            say(f"{where}: {int(counts[key])} {text}")


class _unchanged:  # noqa: N801  used as a statement: with _unchanged(files)
    """Fails if a file changes while it is read."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = list(files)

    def _state(self) -> list[tuple[int, int]]:
        try:
            return [(s.st_size, s.st_mtime_ns) for s in (f.stat() for f in self.files)]
        except FileNotFoundError as error:
            raise DataError(f"{error.filename} does not exist") from error

    def __enter__(self) -> None:
        self.before = self._state()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._state() != self.before:
            raise DataError(
                f"{', '.join(map(str, self.files))} changed while it was read: run again when it is complete"
            )


def _joined(shards: Sequence[Path]) -> Iterator[Doc]:
    for shard in shards:
        with (shard / "docs.jsonl").open(encoding="utf-8") as lines:
            yield from (Doc(*json.loads(line)) for line in lines)


def _append(parts: Sequence[Path], whole: Path) -> None:
    """The bytes of all parts, in order, in one file."""
    import shutil

    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, out)


def _tell_translated(counts: Sequence[Counts], label: str) -> None:
    """One line about what is worth a look in a translation, if anything is."""
    names = {name for part in counts for name in part}
    if said := translation.complaint({name: sum(part.get(name, 0) for part in counts) for name in names}):
        say(f"translate {label}: {said}")


def _drop_shards(at: At) -> None:
    import shutil

    shutil.rmtree(at.draft / "shards")


def _has_single_vectors(retriever: Any) -> bool:
    """Whether an index holds one vector per text and nothing else."""
    return getattr(type(retriever), "index_shard", None) is SingleVector.index_shard


def _query_langs(cfg: Config, how: Expansion) -> tuple[str, ...]:
    return how.langs or (cfg.dataset.query_lang,)


def _chunks(texts: Iterable[Text], size: int) -> Iterator[list[Text]]:
    given = iter(texts)
    while chunk := list(islice(given, size)):
        yield chunk


def _calls(reranker: Any, depth: int, shown: Shown | None) -> str:
    """What a reranker asks for each query at most."""
    if not hasattr(reranker, "calls"):
        return ""
    return f"{reranker.calls(depth)} calls" if shown is None or shown.how is None else "one call a passage"


def _documents_by_passages(
    cfg: Config,
    at: At,
    view: PassageView,
    how: Passages,
    search: Callable[[Sequence[Text], int], Run],
    texts: Sequence[Text],
) -> Run:
    """Documents ranked by their passages, `retrieve.depth` deep; leaves the best passages in the draft."""
    from clir_cli import runs

    rows, seen = passages.search_documents(search, texts, cfg.retrieve.depth, view.count(at))
    counts: dict[str, int] = {}
    if how.aggregate in {"mean", "topk_mean"}:
        ids = sorted({passages.split_id(i)[0] for i in rows["doc_id"]})
        counts = {doc_id: len(cut.places) for doc_id, cut in view.find(at, ids).items()}
    run, best = passages.aggregated(rows, how, counts, seen, tie_break(cfg))
    run = runs.cut(run, cfg.retrieve.depth)
    best = run[["query_id", "doc_id"]].merge(best, on=["query_id", "doc_id"])
    cuts = view.find(at, sorted(set(best["doc_id"])))
    found = [(cuts[d], n) for d, n in zip(best["doc_id"], best["passage"], strict=True)]
    spans = [next(iter(cut.spans.values()))[n] for cut, n in found]  # of the language shown first
    best = best.assign(start=[a for a, _ in spans], end=[b for _, b in spans], original=[c.places[n] for c, n in found])
    passages.write_best(best, at.draft)
    return run


def _check_queries(run: Any, texts: Sequence[Any]) -> None:
    if strange := set(run["query_id"]) - {t.id for t in texts}:
        raise RunError(f"the retriever answered a query that was not asked: {min(strange)!r}")


def _merged(runs: Sequence[Any], cfg: Config) -> Any:
    from clir_cli import runs as table

    how, ties = cfg.retrieve.merge, tie_break(cfg)
    if how == "rrf":
        return table.reciprocal_rank_fusion(runs, tie_break=ties)
    if how == "zscore":
        return table.score_fusion(runs, "zscore", tie_break=ties)
    return table.interleaved(runs, how, ties)
