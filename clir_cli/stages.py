"""The story of an experiment: read, translate, index, retrieve, fuse, rerank. One function each; building runs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from clir_cli import reranking, selection, views
from clir_cli.config import Config, known_revision
from clir_cli.docstore import Docstore
from clir_cli.docstore import write as write_docs
from clir_cli.errors import ConfigError, DataError, LanguageError, RunError
from clir_cli.files import read_json
from clir_cli.progress import say, track
from clir_cli.rerankers.cascade import Cascade
from clir_cli.rerankers.none import Keep
from clir_cli.rerankers.oracle import JudgedReranker
from clir_cli.retrievers.hybrid import Hybrid
from clir_cli.retrievers.run_file import RunFile
from clir_cli.steps import Counts, Needs, Ranking, Shards, Step, derives, digest, identity
from clir_cli.store import At, Store
from clir_cli.translators.provided import Provided
from clir_cli.types import Candidates, DerivingRetriever, Doc, Journal, LanguageAware, ShardedRetriever
from clir_cli.views import DocView, Fields, QueryView, read_queries, write_queries

TRANSLATE_DOCS = 2_000  # documents in a shard of translation
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
        original, translator = self.docs(cfg, source), self._concrete(translator, source, target)
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
            shown = [doc._replace(fields=f, lang=target) for doc, f in zip(docs, rows, strict=True)]
            with (folder / "docs.jsonl").open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(list(d), ensure_ascii=False) + "\n" for d in shown)
            return {"documents": len(docs), **counts}

        def make(at: At) -> Counts:
            write_docs(_joined(at.shards()), at.draft, "warn", "error")
            _drop_shards(at)
            return {}

        return self._step(Step(
            "translate", label, cfg.plain, meaning, make, parents=(original,), candidates=only,
            shards=Shards(total, shard, "documents", TRANSLATE_DOCS), needs=_needs(translator),
        ))  # fmt: skip

    def translated_topics(self, cfg: Config, translator: Any, target: str) -> Step:
        """The selected topics in another language."""
        original, source = self.topics(cfg), cfg.dataset.query_lang
        translator = self._concrete(translator, source, target)
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
                fields, counts = self._translate([q.fields for q in queries], translator, source, target)
                rows = [q._replace(fields=f, lang=target) for q, f in zip(queries, fields, strict=True)]
            write_queries(rows, at.draft)
            return {"queries": len(rows), **counts}

        return self._step(
            Step("translate", label, cfg.plain, meaning, make, parents=(original,), needs=_needs(translator))
        )

    def _concrete(self, translator: Any, source: str, target: str) -> Any:
        """The translator of one direction, where a family has a model for each: `opus-mt-{source}-{target}`."""
        if "{source}" not in getattr(translator, "model", ""):
            return translator
        name = translator.model_for(source, target)
        revision = known_revision(name, self.store.root / "models.lock")
        return replace(translator, model=name, source=source, target=target, revision=revision)

    def _translation(
        self, cfg: Config, translator: Any, part: Literal["docs", "topics"], source: str, target: str
    ) -> dict[str, Any]:
        """What decides a translation, whoever asks for it and for how much of a collection."""
        if translator is None:
            raise ConfigError(
                f"{part} in {source!r} are to be seen in {target!r}: choose a translator, e.g. translator=nllb_600m"
            )
        said: dict[str, Any] = {
            "translator": identity(translator, self.store.prints),
            "part": part,
            "source": source,
            "target": target,
        }
        if isinstance(translator, Provided):
            if translator.file is not None:
                said["file"] = self.store.prints.fingerprint(translator.path(source, target))
            elif part == "topics":
                said["topics"] = self._files(
                    cfg.dataset.source("topics", target, "" if translator.source == "parallel" else translator.source)
                )
        elif (reason := translator.directions(source, target)) is not None:
            raise LanguageError(
                f"translator {type(translator).__name__} cannot translate {source} to {target}: {reason}"
            )
        elif hasattr(translator, "engine"):
            said["engine"] = translator.engine(source, target)
        return said

    def _translate(
        self, rows: Sequence[Mapping[str, str]], translator: Any, source: str, target: str
    ) -> tuple[list[dict[str, str]], Counts]:
        """Field by field: title and body are translated and stored apart."""
        from clir_cli.translation import translate_texts

        texts = [text for row in rows for text in row.values()]
        name = digest({"translator": identity(translator, self.store.prints)})
        memory = self.store.memory(f"translations/{name}")
        try:
            translated, counts = translate_texts(texts, translator, source, target, memory, name)
        finally:
            memory.close()
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
        retriever, docs = cfg.retriever, self.doc_view(cfg, "retrieve")
        component = identity(retriever, self.store.prints, "index")
        shown = [[lang for lang, _ in part] for part in docs.parts]
        meaning = {"component": component, "shown": shown, **_fields_meaning(docs.fields)}
        label = f"{cfg.labels['retriever']}.{cfg.labels['dataset']}{cfg.dataset.selection}.{'+'.join(docs.langs)}"
        if isinstance(retriever, ShardedRetriever):
            size = retriever.shard_docs

            def shard(at: At, i: int, folder: Path) -> Counts:
                retriever.index_shard(list(docs.read(at, i * size, (i + 1) * size)), folder)
                report = folder / "report.json"
                return {
                    "documents": min(size, docs.count(at) - i * size),
                    **(read_json(report) if report.exists() else {}),
                }

            shards = Shards(docs.count, shard, "documents", size)
            return self._step(
                Step(
                    "index",
                    label,
                    cfg.plain,
                    meaning,
                    lambda at: {},
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
            "langs": [list(query_langs), list(doc_langs)],
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
        queries, docs = self.query_view(cfg, "retrieve", whole), self.doc_view(cfg, "retrieve")
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

        def make(at: At) -> Counts:
            from clir_cli import runs

            texts = queries.read(at)
            more = {} if derived is None else {"derived": at[derived]}
            run = cfg.retriever.search(at[indexed], texts, depth, **more)
            _check_queries(run, texts)
            runs.write_trec(runs.cut(run, depth), at.draft / "run.trec")
            return {"queries": len(texts)}

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
            return [self.rerank(cfg, first, cfg.rerank.depth)]
        rankings: list[Ranking] = []
        for part, depth in zip(cfg.cascade, cfg.reranker.depths, strict=True):
            rankings.append(self.rerank(part, rankings[-1] if rankings else first, depth))
        return rankings

    def rerank(self, cfg: Config, ranking: Ranking, depth: int) -> Ranking:
        """The first `depth` documents of `ranking` in the reranker's order; identified by which they are, not by how they were found."""
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

        def total(at: At) -> int:
            return len(at.store.lists(ranking, depth))

        def shard(at: At, i: int, folder: Path) -> Counts:
            chosen = dict(list(at.store.lists(ranking, depth).items())[i * RERANK_QUERIES : (i + 1) * RERANK_QUERIES])
            return self._rerank_shard(cfg, at, chosen, queries, docs, folder)

        def make(at: At) -> Counts:
            reranking.join_shards(at.shards(), at.draft)
            _drop_shards(at)
            return {}

        label = f"{cfg.labels['reranker']}.{cfg.labels['retriever']}.{pair_label(cfg)}"
        step = self._step(Step(
            "rerank", label, cfg.plain, meaning, make, (*queries.steps, *originals, *given), made,
            (ranking, depth), Shards(total, shard, "queries", RERANK_QUERIES), _needs(reranker),
            f"{reranker.calls(depth)} calls" if hasattr(reranker, "calls") else "", getattr(reranker, "check", None),
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

    def _rerank_shard(
        self, cfg: Config, at: At, lists: Mapping[str, list[str]], queries: QueryView, docs: DocView, folder: Path
    ) -> Counts:
        texts = {q.id: q for q in queries.read(at)}
        found = docs.find(at, sorted({d for ids in lists.values() for d in ids}))
        absent = [(q, d) for q, ids in lists.items() for d in ids if d not in found]
        if absent:
            raise DataError(
                f"{len(absent)} candidates have no text in this view, for example {absent[0][1]!r} for query {absent[0][0]!r}"
            )
        candidates = [Candidates(texts[q], [found[d] for d in ids]) for q, ids in lists.items() if q in texts]
        journal, reranker = Journal(), cfg.reranker
        memory = None
        if any(f.name == "llm" for f in fields(reranker)):
            from clir_cli.llms.remembered import Remembered

            name = digest(
                {"llm": identity(reranker.llm, self.store.prints), "repeat": cfg.rerank.repeat, "seed": cfg.rerank.seed}
            )
            memory = self.store.memory(f"answers/{name}")
            reranker = replace(reranker, llm=Remembered(reranker.llm, memory, name))
        try:
            run = (
                reranker.rerank_judged(candidates, selection.judgments(cfg))
                if isinstance(reranker, JudgedReranker)
                else reranker.rerank(candidates, journal)
            )
        finally:
            if memory is not None:
                memory.close()
        reranking.write_shard(run, candidates, journal, folder)
        return {
            "queries": len(candidates),
            "documents": sum(len(c.docs) for c in candidates),
            **reranking.totals(journal),
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


def _drop_shards(at: At) -> None:
    import shutil

    shutil.rmtree(at.draft / "shards")


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
