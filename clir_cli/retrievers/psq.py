"""Probabilistic structured queries: documents are matched by what their terms may translate."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clir_cli.errors import DataError, LanguageError, many
from clir_cli.progress import say
from clir_cli.search import inverted
from clir_cli.text import analysis, translation_table
from clir_cli.types import Run, Text, derived, searched

if TYPE_CHECKING:
    import numpy as np

FIRST_LINES = 1_000  # of a table, a dictionary or a parallel text that are parsed before anything runs
SMALL = 8 << 20  # bytes of a JSON table that is parsed before anything runs
CHUNK = 500  # documents analysed at once


@dataclass(frozen=True)
class PSQ:
    """Probabilistic structured queries (Darwish & Oard 2003): each query term e is matched by all its translations f.

    The table is p(f|e), `given: query`, or p(e|f), `given: doc`; below, p is the one that it holds. A document has

        tf(e, d) = sum over f of p * tf(f, d)        df(e) = min(N, sum over f of p * df(f))

    scorer=bm25, with tf and df as above in BM25 as Lucene writes it, but with the exact |d| where Lucene keeps one byte:

        score = sum over e of  qtf(e) * ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * |d| / avgdl))

    N: documents with any term, |d|: terms of d, avgdl: their mean over N, qtf: occurrences in the query.

    scorer=hmm, the two-state model of Xu & Weischedel (2000), which needs p(e|f), `given: doc`:

        P(Q|d) = product over e of (alpha * P(e) + (1 - alpha) * sum over f of p(e|f) * tf(f, d) / |d|) ** qtf(e)

    P(e), the background, is taken of the collection through the table, sum over f of p(e|f) * cf(f) / sum of all cf: the
    paper counts e in texts of the query's language. The score is ln P(Q|d) less that of a document without any
    translation, so it is above 0 and orders as P does. A term e that no document can have counts nowhere.

    *Table.* `table`: TSV of source, target, p(target|source), or JSON {source: {target: p}}; the source is of the side
    that `given` names. `dictionary`: TSV of query-language entry, document-language entry and perhaps a weight: p is the
    weight's share, or the same for all. `parallel`: sentence pairs, the query language first. Exactly one of them; paths
    may hold {query_lang} and {doc_lang}; .gz is read. The table is made once (step derive), kept, and counted.

    *Tokens.* Queries are analysed by `query_analyser` in their language, documents by `analyser` in theirs, and both sides
    of a table, dictionary or parallel text by the same two: words that become one target term add up, the rest is in
    `translation_table.analysed`. `table_tokens: terms` says that a table holds such terms already; one whose first line
    (`# tokens=terms query_analyser=en doc_analyser=de`; in JSON the value of "#") names others is refused.

    *Pruning*, at search, row by row p(.|source), most probable first, equal ones by term: (1) `threshold` drops smaller
    p; (2) of the rest the fewest that sum to `cumulative` stay, all if they do not reach it; (3) of them the first
    `max_terms`; (4) `renormalise` divides by what is left of the row. Without it a row of 0.7 stays 0.7.

    A query term that has no translation left is searched as it is, with p = 1 (`untranslated: keep`: names and numbers; of
    a word with this one term, what the document's analyser makes of the word), or dropped. How many have translations is
    said. A document in the query's own language needs no table: there e matches itself. In a pool each document is matched
    by its own language's translations, N, |d| and avgdl are the pool's, df sums over the languages.
    """

    analyser: str = "language"  # of documents, as retriever=bm25 has it: language, whitespace, ngramN, icu, jieba, ...
    query_analyser: str = derived("language")  # of queries, likewise
    table: str | None = derived(None, content=True)
    dictionary: str | None = derived(None, content=True)
    parallel: tuple[str, ...] | None = derived(None, content=True)  # one TSV of two columns, or two files line by line
    aligner: Literal["model1", "eflomal"] = derived("model1")
    given: Literal["query", "doc"] = derived("query")  # which side's term the probabilities are conditioned on
    table_tokens: Literal["words", "terms"] = derived("words")
    table_sums: Literal["refuse", "normalise"] = derived("refuse")  # of rows that sum to more than 1.01
    scorer: Literal["bm25", "hmm"] = searched("bm25")
    k1: float = searched(0.9)  # bm25: as retriever=bm25
    b: float = searched(0.4)
    alpha: float = searched(0.7)  # hmm: the background's share; 0.7 in Xu & Weischedel 2000
    threshold: float = searched(0.0)
    cumulative: float = searched(0.97)  # Patapsco's default, which renormalises too; 1: all
    max_terms: int | None = searched(None)
    renormalise: bool = searched(True)
    untranslated: Literal["keep", "drop"] = searched("keep")

    def __post_init__(self) -> None:
        for name in ("analyser", "query_analyser"):
            kind = getattr(self, name)
            if kind != "language" and (not analysis.exists(kind) or kind == "hf"):
                raise ValueError(
                    f"{name} must be language, whitespace, ngramN, icu, a language's code, ..., not {kind!r}"
                )
        origins = [name for name in ("table", "dictionary", "parallel") if getattr(self, name) is not None]
        if len(origins) != 1:
            raise ValueError(
                f"one of table, dictionary and parallel must be given, got {' and '.join(origins) or 'none'}"
            )
        if self.parallel is not None and len(self.parallel) not in (1, 2):
            raise ValueError(f"parallel must be one file or two, got {len(self.parallel)}")
        if self.scorer == "hmm" and self.given != "doc":
            raise ValueError(
                "scorer=hmm needs p(query term | document term): given=doc, with a table of that direction"
            )
        if self.k1 < 0 or not 0 <= self.b <= 1 or not 0 < self.alpha < 1:
            raise ValueError(
                f"k1 must be 0 or more, b in 0..1, alpha above 0 and below 1; got {self.k1}, {self.b}, {self.alpha}"
            )
        if not 0 <= self.threshold <= 1 or not 0 < self.cumulative <= 1 or (self.max_terms or 1) < 1:
            raise ValueError(
                "threshold must be in 0..1, cumulative above 0 and at most 1, max_terms at least 1; "
                f"got {self.threshold}, {self.cumulative}, {self.max_terms}"
            )

    @property
    def engines(self) -> tuple[str, ...]:
        """Whose versions decide the documents' terms."""
        return analysis.engines(self.analyser)

    @property
    def search_engines(self) -> tuple[str, ...]:
        """Whose versions decide the queries' terms, and the table where it is aligned."""
        return *analysis.engines(self.query_analyser), *(
            ["eflomal"] if self.parallel and self.aligner == "eflomal" else []
        )

    # What is there -----------------------------------------------------------------------------------------------------

    def files(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> list[Path]:
        """The files that the tables of these languages are made of."""
        pairs = [(q, d) for q in query_langs for d in doc_langs if q != d]
        return sorted({path for pair in pairs for path in self._files(*pair)})

    def _files(self, query_lang: str, doc_lang: str) -> list[Path]:
        named = self.parallel or tuple(filter(None, (self.table, self.dictionary)))
        given = (name.format(query_lang=query_lang, doc_lang=doc_lang) for name in named)
        return [Path(name).expanduser().absolute() for name in given]

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError where a pair has no table or a language no analyser; DataError where a table does not begin well."""
        for lang in doc_langs:
            analysis.check(_kind(self.analyser, lang), lang)
        for lang in query_langs:
            analysis.check(_kind(self.query_analyser, lang), lang)
        if self.parallel:
            translation_table.check_aligner(self.aligner)
        for query_lang in query_langs:
            for doc_lang in doc_langs:
                if query_lang != doc_lang:
                    self._check(query_lang, doc_lang)

    def _check(self, query_lang: str, doc_lang: str) -> None:
        option = next(name for name in ("table", "dictionary", "parallel") if getattr(self, name) is not None)
        paths = self._files(query_lang, doc_lang)
        for path in paths:
            if not path.is_file():
                raise LanguageError(
                    f"retriever.{option}: there is no {path}, so {query_lang}-{doc_lang} cannot be searched; put it there, "
                    "name another (the path may hold {query_lang} and {doc_lang}), or translate: retriever=bm25_qt"
                )
        if option == "dictionary":
            translation_table.read_dictionary(paths[0], self.given, FIRST_LINES)
        elif option == "table" and (not translation_table.is_json(paths[0]) or paths[0].stat().st_size <= SMALL):
            self._check_header(paths[0], query_lang, doc_lang)
            translation_table.read(paths[0], self.table_sums, FIRST_LINES)

    def _check_header(self, path: Path, query_lang: str, doc_lang: str) -> None:
        """Raise DataError where a table says that its tokens are not those of this configuration."""
        own = {
            "tokens": self.table_tokens,
            "query_analyser": _kind(self.query_analyser, query_lang),
            "doc_analyser": _kind(self.analyser, doc_lang),
            "given": self.given,
        }
        for name, said in translation_table.header(path).items():
            if name in own and own[name] != said:
                option = {"tokens": "table_tokens", "doc_analyser": "analyser"}.get(name, name)
                raise DataError(
                    f"{path}:1: the table says {name}={said}, the search has {own[name]}: its tokens would not meet the "
                    f"index's\n  make the table anew, or set retriever.{option}={said}"
                )

    # Index --------------------------------------------------------------------------------------------------------------

    @property
    def shard_docs(self) -> int:
        """Documents per shard: some hundred MB while it is made."""
        return 50_000

    def index_shard(self, docs: Sequence[Text], folder: Path) -> None:
        """Write the postings of terms "LANG TERM" (inverted.py) and `report.json` {terms, documents_without_terms}."""
        report = {"terms": 0, "documents_without_terms": 0}

        def counted() -> Iterator[tuple[str, Mapping[str, float]]]:
            for start in range(0, len(docs), CHUNK):
                chunk = docs[start : start + CHUNK]
                found = self._analysed(chunk, self.analyser)
                for doc, terms in zip(chunk, found, strict=True):
                    report["terms"] += len(terms)
                    report["documents_without_terms"] += not terms
                    yield doc.id, Counter(terms)

        langs = sorted({lang for doc in docs for lang, _ in doc.parts})
        inverted.write_shard(folder, counted(), counts=True, facts={"analyser": self.analyser, "languages": langs})
        (folder / "report.json").write_text(json.dumps(report) + "\n", encoding="utf-8")

    def _analysed(self, texts: Sequence[Text], kind: str) -> list[list[str]]:
        """Each text's terms as "LANG TERM", each part by the analyser of its language."""
        by_lang: dict[str, list[tuple[int, str]]] = {}
        for at, text in enumerate(texts):
            for lang, part in text.parts:
                by_lang.setdefault(lang, []).append((at, part))
        found: list[list[str]] = [[] for _ in texts]
        for lang, parts in by_lang.items():
            analyse = _analyser(_kind(kind, lang))
            for (at, _), terms in zip(parts, analyse([part for _, part in parts]), strict=True):
                found[at].extend(f"{lang} {term}" for term in terms)
        return found

    # Table --------------------------------------------------------------------------------------------------------------

    @property
    def derives_per_language(self) -> bool:
        return True

    def derive(
        self, index: Path, folder: Path, query_langs: Sequence[str], doc_langs: Sequence[str]
    ) -> Mapping[str, float]:
        """Leave the table of every pair in `folder/en-de`; counts: sources, targets, entries, and what had no terms."""
        total: Counter[str] = Counter()
        for query_lang in query_langs:
            for doc_lang in doc_langs:
                if query_lang != doc_lang:
                    total.update(self._derive(folder / f"{query_lang}-{doc_lang}", query_lang, doc_lang))
        return dict(total)

    def _derive(self, folder: Path, query_lang: str, doc_lang: str) -> dict[str, int]:
        paths, counts = self._files(query_lang, doc_lang), dict[str, int]()
        analysers = [_analyser(_kind(self.query_analyser, query_lang)), _analyser(_kind(self.analyser, doc_lang))]
        order = 1 if self.given == "query" else -1
        source, target = analysers[::order]
        if self.parallel:
            pairs = ((pair[::order][0], pair[::order][1]) for pair in translation_table.read_parallel(paths))
            rows, counts = translation_table.aligned(pairs, source, target, self.aligner)
        elif self.dictionary:
            rows, counts = translation_table.analysed(
                translation_table.read_dictionary(paths[0], self.given), source, target
            )
        else:
            self._check_header(paths[0], query_lang, doc_lang)
            rows = translation_table.read(paths[0], self.table_sums)
            if self.table_tokens == "words":
                rows, counts = translation_table.analysed(rows, source, target)
        if not rows:
            raise DataError(f"{paths[0]}: no entry is left for {query_lang}-{doc_lang}: {counts}")
        counts |= translation_table.write(folder, rows)
        say(
            f"psq {query_lang}-{doc_lang}: {many(counts['entries'], 'translation')} of {many(counts['sources'], 'term')} into "
            f"{counts['targets']}, from {', '.join(path.name for path in paths)}"
        )
        return counts

    # Search -------------------------------------------------------------------------------------------------------------

    def search(self, folder: Path, queries: Sequence[Text], depth: int, derived: Path | None = None) -> Run:
        """The `depth` best documents of every query; equal scores by doc_id descending.

        A query without a translation that the index has gets no rows. Raises DataError where the index was made with
        another analyser or the table of a pair is missing.
        """
        inverted.check_facts(folder, {"analyser": self.analyser})
        doc_langs = inverted.union(folder, "languages")
        asked = [Counter(terms) for terms in self._analysed(queries, self.query_analyser)]
        translations = self._translations(queries, asked, doc_langs, derived)
        known = inverted.statistics(folder, sorted({f for row in translations.values() for f in row}))
        wanted = {e: inverted.Wanted(row, self._scorer(row, known)) for e, row in translations.items() if row}
        features = [{e: float(count) for e, count in counts.items() if e in wanted} for counts in asked]
        return inverted.search(folder, list(zip([query.id for query in queries], features, strict=True)), wanted, depth)

    def _translations(
        self, queries: Sequence[Text], asked: Sequence[Counter[str]], doc_langs: Sequence[str], folder: Path | None
    ) -> dict[str, dict[str, float]]:
        """Of every query term "LANG TERM" the document terms "LANG TERM" that it is matched by, with their p."""
        found: dict[str, dict[str, float]] = {term: {} for counts in asked for term in counts}
        pruning = translation_table.Pruning(self.threshold, self.cumulative, self.max_terms, self.renormalise)
        by_lang: dict[str, list[str]] = {}
        for term in sorted(found):
            by_lang.setdefault(term.split(" ", 1)[0], []).append(term.split(" ", 1)[1])
        for query_lang, terms in by_lang.items():
            for doc_lang in doc_langs:
                rows: translation_table.Rows = {}
                if query_lang != doc_lang:
                    path = None if folder is None else folder / f"{query_lang}-{doc_lang}"
                    if path is None or not path.is_dir():
                        raise DataError(
                            f"{folder}: no table for {query_lang}-{doc_lang}; delete it and give the same command again"
                        )
                    rows = translation_table.select(path, pruning, terms, self.given)
                    _say_coverage(queries, asked, query_lang, doc_lang, rows)
                rest = [term for term in terms if term not in rows]
                if query_lang == doc_lang or self.untranslated == "keep":
                    rows |= self._kept(queries, query_lang, doc_lang, rest)
                for term, row in rows.items():
                    found[f"{query_lang} {term}"].update({f"{doc_lang} {f}": p for f, p in row.items()})
        return found

    def _kept(
        self, queries: Sequence[Text], query_lang: str, doc_lang: str, terms: Sequence[str]
    ) -> translation_table.Rows:
        """Query terms as document terms: of a word that is this one term, what the document's analyser makes of it."""
        kinds = _kind(self.query_analyser, query_lang), _kind(self.analyser, doc_lang)
        kept: translation_table.Rows = {term: {term: 1.0} for term in terms}
        if kinds[0] == kinds[1]:
            return kept
        words = sorted({w for q in queries for lang, text in q.parts if lang == query_lang for w in text.split()})
        forms = zip(*(_analyser(kind)(words) for kind in kinds), strict=True)
        for asked, held in forms:
            if len(asked) == 1 and asked[0] in kept and held:
                kept[asked[0]] = {form: held.count(form) / len(held) for form in held}
        return kept

    def _scorer(self, row: Mapping[str, float], known: inverted.Statistics[str]) -> Any:
        """tf(e, d) and |d| of documents -> their points for e."""
        import numpy as np

        n = known.documents
        if self.scorer == "hmm":
            background = sum(p * known.cf[f] for f, p in row.items()) / max(known.length, 1.0)
            ratio = (1 - self.alpha) / (self.alpha * background) if background else 0.0
            return lambda tf, length: np.log1p(ratio * tf / length)
        df = min(float(n), sum(p * known.df[f] for f, p in row.items()))
        idf, average = np.log1p((n - df + 0.5) / (df + 0.5)), known.length / max(n, 1)

        def points(tf: np.ndarray, length: np.ndarray) -> np.ndarray:
            scored: np.ndarray = idf * tf / (tf + self.k1 * (1 - self.b + self.b * length / average))
            return scored

        return points


def _kind(chosen: str, lang: str) -> str:
    return lang if chosen == "language" else chosen


@cache
def _analyser(kind: str) -> analysis.Analyse:
    return analysis.analyser(kind)


def _say_coverage(
    queries: Sequence[Text],
    asked: Sequence[Counter[str]],
    query_lang: str,
    doc_lang: str,
    rows: translation_table.Rows,
) -> None:
    """Say how many of the queries' terms, each as often as it occurs, have translations."""
    total = translated = 0
    none = []
    for query, counts in zip(queries, asked, strict=True):
        own = {term: n for term, n in counts.items() if term.startswith(f"{query_lang} ")}
        found = sum(n for term, n in own.items() if term.split(" ", 1)[1] in rows)
        total, translated = total + sum(own.values()), translated + found
        if own and not found:
            none.append(query.id)
    share = f" ({100 * translated / total:.1f} %)" if total else ""
    named = (
        f"; {many(len(none), 'query has', 'queries have')} none: {', '.join(none[:5])}{', ...' if none[5:] else ''}"
        if none
        else ""
    )
    say(f"psq {query_lang}-{doc_lang}: {translated} of {total} query terms have translations{share}{named}")
