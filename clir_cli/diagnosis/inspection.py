"""What is wrong with an experiment's texts, translations, tokens and candidates, language by language."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clir_cli.config import Config
from clir_cli.diagnosis import losses, tokens
from clir_cli.diagnosis.finished import Finished
from clir_cli.docstore import Docstore
from clir_cli.progress import track
from clir_cli.steps import Step
from clir_cli.text import language_id, truncation
from clir_cli.types import Doc, Query
from clir_cli.views import read_queries

COLUMNS = ["experiment", "section", "part", "lang", "measure", "value"]
SAMPLE = 2_000  # texts of a step that tokens and languages are counted of, spread evenly over it
BLOCKS, BLOCK = 100, 1_000  # documents that query words are looked for in: all, or so many, spread evenly
_OF_PIECES = (
    "empty",
    "copied",
    "cut",
    "unfinished",
    "loops",
    "length_ratio_outliers",
    "malformed",
)  # counts of translation.py

_NUMBERS = {
    "texts", "empty_texts", "duplicates", "mean_characters", "language_checked", "pieces", "missing", "different_words", "topics",
    "topics_without_results",
}  # fmt: skip


class Row(NamedTuple):
    """A line of inspect.csv; `part` says of what: topics, docs, a step, a stage, a measure, a model."""

    experiment: str
    section: str
    part: str
    lang: str
    measure: str
    value: float


class Inspected(NamedTuple):
    """All that was found, and what would have to be there to say more."""

    rows: list[Row]
    notes: list[str]


class _Corpus(NamedTuple):
    """The texts of one step: topics or documents, as they are or translated."""

    part: str  # topics, docs; with `, translated from de` behind it
    lang: str
    step: Step
    folder: Path
    original: Path | None

    def texts(self, most: int | None = None) -> Iterator[tuple[str, str]]:
        """(id, text) of all, or of `most` spread evenly over them."""
        rows: Iterable[Query | Doc]
        if self.part.startswith("topics"):
            queries = read_queries(self.folder)
            rows = queries if most is None else [queries[i] for i in _spread(len(queries), most)]
        else:
            store = Docstore(self.folder)
            rows = store.rows() if most is None else store.take(_spread(len(store), most))
        return ((row[0], _joined(row)) for row in rows)

    def originals(self, ids: Sequence[str]) -> dict[str, str]:
        """id -> the text that was translated."""
        assert self.original is not None
        rows: Iterable[Query | Doc]
        rows = (
            read_queries(self.original)
            if self.part.startswith("topics")
            else Docstore(self.original).find(ids).values()
        )
        return {row[0]: _joined(row) for row in rows}


def _spread(size: int, most: int) -> list[int]:
    return list(range(size)) if size <= most else sorted({i * size // most for i in range(most)})


def inspected(experiments: Sequence[Finished], k: int) -> Inspected:
    """Every section of every experiment; losses by translation where another of them shows what it costs."""
    found: list[Row] = []
    references, notes = losses.references(experiments)
    of: dict[str, list[losses.Losses]] = {}
    known: dict[str, list[tuple[str, str, str, str, float]]] = {}  # by step: many experiments read the same texts
    for one in track(experiments, len(experiments), "inspect", "experiments"):
        corpora = _corpora(one)
        for corpus in corpora:
            key = str(corpus.folder)
            if key not in known:
                known[key] = [*_texts(corpus), *(_translation(one, corpus) if corpus.original else ())]
            found += [Row(one.name, *row) for row in known[key]]
        found += [Row(one.name, *row) for row in _vocabulary(one)]
        found += [Row(one.name, *row) for row in _tokens(one, corpora, notes)]
        found += [Row(one.name, *row) for row in _truncation(one)]
        qrels = one.qrels()
        found += [Row(one.name, *row) for row in _rankings(one, qrels, k)]
        if qrels:
            of[one.name] = losses.losses(one, qrels)
            found += [Row(one.name, "losses", loss.measure, "", m, v) for loss in of[one.name] for m, v in loss.rows()]
        else:
            notes.append(f"{one.name}: no judgments, so nothing is said of what was missed")
    for name, other in references.items():
        found += _of_translation(name, of.get(name, []), of.get(other.name, []))
    return Inspected(found, list(dict.fromkeys(notes)))


def _of_translation(name: str, own: Sequence[losses.Losses], other: Sequence[losses.Losses]) -> Iterator[Row]:
    """translation_loss: final of the provided translations - final; its parts; its share of ideal - final."""
    better = {loss.measure: loss for loss in other}
    for loss in own:
        if (reference := better.get(loss.measure)) is None:
            continue
        yield Row(name, "losses", loss.measure, "", "translation_loss", reference.final - loss.final)
        theirs = reference.parts()
        for part, value in loss.parts().items():
            yield Row(name, "losses", loss.measure, "", f"{part}_by_translation", value - theirs[part])
        if loss.ideal > loss.final:
            share = (reference.final - loss.final) / (loss.ideal - loss.final)
            yield Row(name, "losses", loss.measure, "", "translation_share", share)


Found = tuple[str, str, str, str, float]  # a Row without the experiment


# Texts ----------------------------------------------------------------------------------------------------------------


def _corpora(one: Finished) -> list[_Corpus]:
    """Every text of the experiment; a collection that only lends its translations stands there as the translation."""
    found = []
    for step in one.experiment.steps:
        folder = one.step(step)
        if step.stage == "topics":
            found.append(_Corpus("topics", one.cfg.dataset.query_lang, step, folder, None))
        elif step.stage == "docs":
            langs = [doc.lang for doc in Docstore(folder).rows(0, 1)]
            found += [_Corpus("docs", lang, step, folder, None) for lang in langs if lang in one.cfg.dataset.doc_langs]
        elif step.stage == "translate":
            said = f"{step.meaning['part']}, translated from {step.meaning['source']}"
            found.append(_Corpus(said, str(step.meaning["target"]), step, folder, one.step(step.parents[0])))
    return found


def _joined(row: Query | Doc) -> str:
    return " ".join(text for text in row.fields.values() if text.strip())


def _texts(corpus: _Corpus) -> Iterator[Found]:
    """texts, empty_texts, duplicates (the same text under another id before), wrong_language of language_checked (a sample)."""
    count, empty, characters = 0, 0, 0
    hashes: Counter[bytes] = Counter()
    for _, text in corpus.texts():
        count += 1
        characters += len(text)
        if text.strip():
            hashes[hashlib.blake2b(text.strip().encode(), digest_size=8).digest()] += 1
        else:
            empty += 1
    checked, wrong = language_id.check([text for _, text in corpus.texts(SAMPLE)], corpus.lang)
    values = {
        "texts": count, "empty_texts": empty, "duplicates": hashes.total() - len(hashes), "mean_characters": characters / max(count, 1),
        "language_checked": checked, **({"wrong_language": wrong / checked} if checked else {}),
    }  # fmt: skip
    for measure, value in values.items():
        yield "texts", corpus.part, corpus.lang, measure, float(value)


def _translation(one: Finished, corpus: _Corpus) -> Iterator[Found]:
    """Shares of the translated pieces (sentences, chunks or documents) that text/translation.py counted, and copied_words:

    of the translation's words, those that stand in its source too: names and numbers, and what was left untranslated.
    """
    counts = one.experiment.store.record(corpus.step)["counts"]
    where = ("translation", corpus.part, corpus.lang)
    if unique := counts.get("unique"):
        yield *where, "pieces", float(unique)
        for name in _OF_PIECES:
            yield *where, name, counts.get(name, 0) / unique
        if checked := unique - counts.get("language_not_checked", 0):
            yield *where, "wrong_language", counts.get("wrong_language", 0) / checked
    elif "missing" in counts:
        yield *where, "missing", float(counts["missing"])
    own, source = tokens.words_of(corpus.lang), tokens.words_of(str(corpus.step.meaning["source"]))
    if own is None or source is None:
        return
    translated = dict(corpus.texts(SAMPLE))
    words = copied = 0
    for name, text in corpus.originals(list(translated)).items():
        if name in translated:
            there, mine = set(source(text)), own(translated[name])
            words += len(mine)
            copied += sum(word in there for word in mine)
    if words:
        yield *where, "copied_words", copied / words


# Vocabulary and tokens ------------------------------------------------------------------------------------------------


def _vocabulary(one: Finished) -> Iterator[Found]:
    """Of the queries as a first stage sees them: the share of different words that no document it sees holds, by language.

    Words are case-folded and not stemmed; an encoder may know a word that no document holds, BM25 does not. Languages
    without spaces are told apart by ICU, and left out where PyICU is not installed.
    """
    parts: Sequence[Config] = one.cfg.parts or (one.cfg,)
    for cfg in parts:
        label = "query words" if len(parts) == 1 else f"query words, {cfg.labels['retriever']}"
        queries = one.experiment.stages.query_view(cfg, "retrieve").read(one.at)
        wanted: dict[str, set[str]] = {}
        for query in queries:
            for lang, text in query.parts:
                if (split := tokens.words_of(lang)) is not None:
                    wanted.setdefault(lang, set()).update(split(text))
        missing = {lang: set(words) for lang, words in wanted.items()}
        docs = one.experiment.stages.doc_view(cfg, "retrieve")
        size = docs.count(one.at)
        starts = [0] if size <= BLOCKS * BLOCK else [i * size // BLOCKS for i in range(BLOCKS)]
        for start in starts:
            for doc in docs.read(one.at, start, size if len(starts) == 1 else start + BLOCK):
                for lang, text in doc.parts:
                    if (split := tokens.words_of(lang)) is not None and any(missing.values()):
                        here = split(text)
                        for left in missing.values():
                            left.difference_update(here)
        for lang, words in wanted.items():
            yield "vocabulary", label, lang, "different_words", float(len(words))
            yield "vocabulary", label, lang, "in_no_document", len(missing[lang]) / max(len(words), 1)


def _tokens(one: Finished, corpora: Iterable[_Corpus], notes: list[str]) -> Iterator[Found]:
    """Fertility, characters per token and unknown tokens of every model's tokenizer on every text of the experiment."""
    components = [part for cfg in (one.cfg.parts or (one.cfg,)) for part in (cfg.retriever,)]
    components += [cfg.reranker for cfg in (one.cfg.cascade or (one.cfg,))]
    for found in tokens.tokenizers_of(components):
        if isinstance(found, str):
            notes.append(found)
            continue
        for corpus in corpora:
            counted = tokens.count(found, [text for _, text in corpus.texts(SAMPLE)], corpus.lang)
            for measure, value in counted.shares.items():
                yield "tokens", f"{Path(found.model).name}: {corpus.part}", corpus.lang, measure, value


def _truncation(one: Finished) -> Iterator[Found]:
    """The share of texts that a step's model cut, by language; of rerankers the share of the texts they were shown."""
    for step in one.experiment.steps:
        counts = one.experiment.store.record(step)["counts"]
        name = f"{step.stage} {step.label}"
        for lang, share in truncation.shares(counts).items():
            yield "truncation", name, lang, "cut_share", share
        if counts.get("texts") and "texts_cut" in counts:
            yield "truncation", name, "", "cut_share", counts["texts_cut"] / counts["texts"]


# Rankings -------------------------------------------------------------------------------------------------------------


def _rankings(one: Finished, qrels: Sequence[Any], k: int) -> Iterator[Found]:
    """Topics without results; unjudged@k: the share of the first k places that nobody judged, by the documents' language too.

    recall_of_candidates: R@k of the first stage at rerank.depth, and recall_of_found of all that it retrieved: the share of
    a topic's relevant documents, averaged as the experiment averages its measures (evaluate.topics).
    """
    topics = len(one.topics)
    judged = {(q, d) for q, d, _ in qrels}
    for stage in one.stages:
        run = one.run(stage)
        yield "ranking", stage, "", "topics", float(topics)
        yield "ranking", stage, "", "topics_without_results", float(topics - run["query_id"].nunique())
        top = run[run["rank"] <= k]
        if not judged or not len(top):
            continue
        unjudged = [pair not in judged for pair in zip(top["query_id"], top["doc_id"], strict=True)]
        yield "ranking", stage, "", f"unjudged@{k}", sum(unjudged) / len(unjudged)
        if len(one.cfg.dataset.doc_langs) > 1:
            ids = sorted(set(top["doc_id"]))
            lang_of = {d: lang for lang in one.cfg.dataset.doc_langs for d in one.docs(lang).find(ids)}
            langs = [lang_of.get(doc, "") for doc in top["doc_id"]]
            for lang in one.cfg.dataset.doc_langs:
                own = [u for u, other in zip(unjudged, langs, strict=True) if other == lang]
                if own:
                    yield "ranking", stage, lang, f"unjudged@{k}", sum(own) / len(own)
    if not any(grade > 0 for _, _, grade in qrels):
        return
    from clir_cli import evaluation

    first = one.run("first_stage")
    depths = {"recall_of_found": one.cfg.retrieve.depth}
    if one.experiment.second:
        depths = {"recall_of_candidates": one.cfg.rerank.depth, **depths}
    for measure, depth in depths.items():
        scores = evaluation.evaluate(first, qrels, evaluation.parse_measures([f"R@{depth}"]))
        recall, *_ = evaluation.summary(scores, qrels, one.cfg.evaluate.topics)  # and behind it Judged@k
        yield "ranking", one.stages[0], "", measure, recall.value


# What is printed ------------------------------------------------------------------------------------------------------


def table(found: Inspected) -> str:
    """A block per experiment and section: a line per part and language, a column per measure; of losses the other way."""
    from clir_cli.plan import aligned

    blocks = []
    for name in dict.fromkeys(row.experiment for row in found.rows):
        blocks.append(name)
        own = [row for row in found.rows if row.experiment == name]
        for section in dict.fromkeys(row.section for row in own):
            rows = [row for row in own if row.section == section]
            measures = list(dict.fromkeys(row.measure for row in rows))
            cells = {(row.part, row.lang, row.measure): row.value for row in rows}
            body: list[tuple[str, ...]] = [(section, "lang" if any(row.lang for row in rows) else "", *measures)]
            for part, lang in dict.fromkeys((row.part, row.lang) for row in rows):
                body.append((part, lang, *(_shown(m, cells.get((part, lang, m))) for m in measures)))
            body = _turned(body) if section == "losses" else body
            lines = aligned(body, right=range(1 if section == "losses" else 2, len(body[0])))
            blocks.append("\n".join(f"  {line}" for line in lines))
        blocks += [f"  {line}" for line in _in_words([row for row in own if row.section == "losses"])]
    return "\n\n".join([*blocks, *found.notes])


def _in_words(rows: Sequence[Row]) -> Iterator[str]:
    """What the first measure loses and to what, in a sentence."""
    of = {row.measure: row.value for row in rows if row.part == rows[0].part}
    if not of or of["ideal"] <= of["final"]:
        return
    lost = of["ideal"] - of["final"]
    shares = [
        f"{of[part] / lost:.0%} {said}".replace("%", " %")
        for part, said in (
            ("loss_retrieval", "was not retrieved"), ("loss_depth", "stands below the reranking depth"), ("loss_order", "is order"),
        )
        if part != "loss_depth" or of[part]
    ]  # fmt: skip
    cost = (
        f"; translation makes {of['translation_share']:.0%} of it".replace("%", " %")
        if "translation_share" in of
        else ""
    )
    yield f"{rows[0].part} loses {lost:.3f}: of that {', '.join(shares)}{cost}"


def _turned(body: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Measures as columns: what is lost stands in lines of its own."""
    head, *rest = body
    return [
        (head[0], *(row[0] for row in rest)),
        *((name, *(row[i] for row in rest)) for i, name in enumerate(head) if i > 1),
    ]


def _shown(measure: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if measure in _NUMBERS else f"{value:.3f}"


def as_dicts(found: Inspected) -> list[dict[str, Any]]:
    return [{**row._asdict(), "value": repr(row.value)} for row in found.rows]
