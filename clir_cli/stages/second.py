"""The second stage: the candidates seen anew, and reranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clir_cli import reranking, selection
from clir_cli.config import Config
from clir_cli.errors import ConfigError, DataError, many
from clir_cli.rerankers.cascade import Cascade
from clir_cli.rerankers.listwise import Listwise
from clir_cli.rerankers.none import Keep
from clir_cli.rerankers.oracle import JudgedReranker
from clir_cli.rerankers.pairwise import Pairwise
from clir_cli.rerankers.setwise import Setwise
from clir_cli.reranking import Shown
from clir_cli.retrievers.hybrid import Hybrid
from clir_cli.retrievers.run_file import RunFile
from clir_cli.stages.common import (
    drop_shards,
    fields_meaning,
    needs,
    pair_label,
    tell,
)
from clir_cli.stages.first import FirstStages
from clir_cli.steps import Counts, Ranking, Shards, Step, identity
from clir_cli.store import At
from clir_cli.text import passages, truncation
from clir_cli.types import Candidates, Journal, LanguageAware
from clir_cli.views import DocView, QueryView

RERANK_QUERIES = 64  # queries in a shard of reranking: their prompts are batched together


@dataclass(frozen=True)
class Stages(FirstStages):
    """Builds the steps of configurations over one store; equal parts of different cells are the same Step object."""

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
        if getattr(reranker, "seed", 0):
            raise ConfigError(f"reranker.seed={reranker.seed}: what a reranker draws follows rerank.seed; set that")
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
            "doc_fields": fields_meaning(docs.fields), "query_fields": fields_meaning(queries.fields), "langs": queries.langs,
            **({"repeat": cfg.rerank.repeat} if cfg.rerank.repeat else {}), **({"seed": cfg.rerank.seed} if cfg.rerank.seed else {}),
            **({"empty": "drop"} if cfg.rerank.empty == "drop" else {}), **({"quotes": "csv"} if cfg.rerank.quotes == "csv" else {}),
            **({"scores": "prior"} if cfg.rerank.scores == "prior" else {}),
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

        scored = ranking.steps if cfg.rerank.scores == "prior" else ()  # whose scores decide too

        def make(at: At) -> Counts:
            truncation.warn(cfg.labels["reranker"], "documents", truncation.of_shards(at.shards()))
            prior = reranking.read_ranking(at.__getitem__, ranking) if scored else None
            rounds = reranking.join_shards(at.shards(), at.draft, prior)
            drop_shards(at)
            return rounds

        label = f"{cfg.labels['reranker']}.{cfg.labels['retriever']}.{pair_label(cfg)}"
        step = self._step(Step(
            "rerank", label, cfg.plain, meaning, make, (*queries.steps, *originals, *given, *scored), made,
            (candidates, depth), Shards(total, shard, "queries", RERANK_QUERIES), needs(reranker),
            _calls(reranker, depth, shown), getattr(reranker, "check", None),
        ))  # fmt: skip
        gone = depth if cfg.rerank.empty == "drop" else 0
        return Ranking(step, ranking if cfg.rerank.tail == "keep" else None, gone)

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
            why = "without a passage, found by a part without passages: shown whole"
            tell(counts, label, {"whole": (f"candidate {why}", f"candidates {why}")})
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
                f"{many(len(absent), 'candidate has', 'candidates have')} no text in this view, for example {absent[0][1]!r} for query {absent[0][0]!r}"
            )
        asked = sum(map(len, lists.values()))
        if cfg.rerank.empty == "drop":
            written = {d for d, texts_of in found.items() if any(t.text.strip() for t in texts_of)}
            lists = {q: kept for q, ids in lists.items() if (kept := [d for d in ids if d in written])}
        if cfg.rerank.quotes == "csv":
            found = {d: [reranking.csv_quoted(t) for t in shown_of] for d, shown_of in found.items()}
        documents = [Candidates(texts[q], [found[d][0] for d in ids]) for q, ids in lists.items() if q in texts]
        candidates = documents
        if shown is not None and shown.how is not None:
            candidates = [Candidates(q, [text for d in lists[q.id] for text in found[d]]) for q, _ in documents]
            documents = [
                Candidates(q, [doc._replace(id=d) for d, doc in zip(lists[q.id], docs, strict=True)])
                for q, docs in documents
            ]
        journal, drawn = Journal(), {"seed": cfg.rerank.seed} if hasattr(cfg.reranker, "seed") else {}
        with self.remembering(replace(cfg.reranker, **drawn), at.draft, cfg.rerank.repeat, cfg.rerank.seed) as reranker:
            if isinstance(reranker, JudgedReranker):
                run = reranker.rerank_judged(candidates, selection.judgments(cfg))
            else:
                run = reranker.rerank(candidates, journal)
        if shown is not None and shown.how is not None:
            run, _ = passages.aggregated(run, shown.how, {}, None, "doc_id")
        reranking.write_shard(run, documents, journal, folder)
        return {
            "queries": len(candidates),
            "documents": sum(len(c.docs) for c in documents),
            **({"empty": asked - sum(map(len, lists.values()))} if cfg.rerank.empty == "drop" else {}),
            **({"passages": sum(len(c.docs) for c in candidates)} if candidates is not documents else {}),
            **reranking.totals(journal),
            **(reranker.llm.costs() if hasattr(reranker, "llm") else {}),
        }


def _calls(reranker: Any, depth: int, shown: Shown | None) -> str:
    """What a reranker asks for each query at most."""
    if not hasattr(reranker, "calls"):
        return ""
    return f"{reranker.calls(depth)} calls" if shown is None or shown.how is None else "one call a passage"
