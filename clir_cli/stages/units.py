"""What is indexed: documents or passages, with the queries written for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from clir_cli import views
from clir_cli.config import Config
from clir_cli.docstore import write as write_docs
from clir_cli.errors import ConfigError, DataError
from clir_cli.progress import track
from clir_cli.retrievers.single_vector import SingleVector
from clir_cli.stages.common import (
    chunks,
    drop_shards,
    fields_meaning,
    joined,
    needs,
    tell,
    unchanged,
)
from clir_cli.stages.texts import Texts
from clir_cli.steps import Counts, Needs, Shards, Step, identity, model_identity
from clir_cli.store import At
from clir_cli.text import passages, truncation
from clir_cli.text.expansion import Expansion, ProvidedQueries, check_aggregate, to_fields
from clir_cli.text.passages import Passages
from clir_cli.types import Doc
from clir_cli.views import DocView, ExpandedView, PassageView

CUT_DOCS = 10_000  # documents in a shard of passages
EXPAND_TEXTS = 500  # texts in a shard of expansion


@dataclass(frozen=True)
class Units(Texts):
    """Cuts documents into passages and expands them."""

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
            **fields_meaning(docs.fields),
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
                for doc in joined(at.shards()):
                    firsts.append(firsts[-1] + len(doc.fields["original"].split(" ")))
                    yield doc

            write_docs(rows(), at.draft, "warn", "error")
            np.save(at.draft / "firsts.npy", np.asarray(firsts))
            drop_shards(at)
            return {}

        label = f"{cfg.labels['dataset']}{cfg.dataset.selection}.{'+'.join(docs.langs)}.{how.unit}{how.window}"
        step = self._step(Step(
            "passages", label, cfg.plain, meaning, make, tuple(dict.fromkeys([*docs.steps, *originals])),
            shards=Shards(docs.count, shard, "documents", CUT_DOCS),
            needs=needs(component) if how.unit == "tokens" else Needs(), work=f"cut documents at {how.window} {how.unit}",
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
            raise ConfigError(
                "retrieve.expansion must be a component of clir_cli.text.expansion; experiment=xqg sets one"
            )
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
            "shown": [[lang for lang, _ in part] for part in docs.parts], **fields_meaning(docs.fields),
        }  # fmt: skip
        shown = f"{'+'.join(docs.langs)}-{'+'.join(langs)}"
        return meaning, f"{type(how).__name__}.{cfg.labels['dataset']}{cfg.dataset.selection}.{shown}"

    def _provided_queries(self, cfg: Config, units: DocView | PassageView, how: ProvidedQueries) -> Step:
        meaning, label = self._expansion(cfg, units, how)
        langs = _query_langs(cfg, how)

        def make(at: At) -> Counts:
            path = Path(how.file).expanduser()
            with unchanged((path,)):
                rows = (Doc(i, to_fields(queries), "") for i, queries in how.read(langs))
                written = write_docs(track(rows, None, f"expand {label}", "lines"), at.draft)
            lacking = total = 0
            for texts in chunks(units.read(at), views.CHUNK):
                found = views.stored_queries(at.draft, units, [text.id for text in texts])
                absent = [text.id for text in texts if text.id not in found]
                if absent and how.missing == "error":
                    raise DataError(
                        f"{path} has no queries for {absent[0]!r}\n"
                        "  retrieve.expansion.missing=count indexes such texts as they are and counts them"
                    )
                lacking, total = lacking + len(absent), total + len(texts)
            counts = {"documents": total, "lines": written["documents"], "without_queries": lacking}
            tell(
                counts,
                label,
                {
                    "without_queries": (
                        "text without queries, indexed as it is",
                        "texts without queries, indexed as they are",
                    )
                },
            )
            return counts

        work = f"look up {how.n} queries in {', '.join(langs)} for each text"
        return self._step(Step("expand", label, cfg.plain, meaning, make, units.steps, work=work))

    def _written(self, cfg: Config, units: DocView | PassageView, how: Any) -> Step:
        meaning, label = self._expansion(cfg, units, how)
        langs = _query_langs(cfg, how)

        def shard(at: At, i: int, folder: Path) -> Counts:
            texts = list(units.read(at, i * EXPAND_TEXTS, (i + 1) * EXPAND_TEXTS))
            with self.remembering(how, at.draft) as writer:
                found, counts = writer.write(texts, langs)
            rows = ([text.id, to_fields(of), ""] for text, of in zip(texts, found, strict=True))
            with (folder / "docs.jsonl").open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return {"documents": len(texts), **counts}

        def make(at: At) -> Counts:
            truncation.warn("expansion", "texts", truncation.of_shards(at.shards()), how.reads)
            write_docs(joined(at.shards()), at.draft, "warn", "error")
            drop_shards(at)
            return {}

        return self._step(Step(
            "expand", label, cfg.plain, meaning, make, units.steps, needs=needs(how),
            shards=Shards(units.count, shard, "texts", EXPAND_TEXTS),
            work=f"write {how.n} queries in {', '.join(langs)} for each text",
            check=getattr(getattr(how, "llm", None), "check", None),
        ))  # fmt: skip


def _has_single_vectors(retriever: Any) -> bool:
    """Whether an index holds one vector per text and nothing else."""
    return getattr(type(retriever), "index_shard", None) is SingleVector.index_shard


def _query_langs(cfg: Config, how: Expansion) -> tuple[str, ...]:
    return how.langs or (cfg.dataset.query_lang,)
