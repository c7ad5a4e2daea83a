"""BM25, by Lucene, and its queries expanded by RM3 or Rocchio."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from clir_cli.errors import DataError
from clir_cli.models import hub
from clir_cli.text import analysis, lucene
from clir_cli.types import VIEW_SEPARATOR, Run, Text, added, neutral, searched

BATCH = 200  # documents that a Python analyser gets at once


@dataclass(frozen=True)
class BM25:
    """Rank documents by BM25 (Robertson & Zaragoza 2009), as Lucene computes it and Anserini searches it:

        score(q, d) = sum over the query's terms t of  qtf(t) * idf(t) * tf / (tf + k1 * (1 - b + b * |d| / avgdl))
        idf(t)      = ln(1 + (N - df(t) + 0.5) / (df(t) + 0.5))

    tf: occurrences of t in d, qtf: in the query, df: documents that have t, N: documents that have any term, |d|: terms
    of d, kept in one byte (exact below 40, then with three significant bits fewer), avgdl: exact mean of |d| over N.

    A *joint* index holds documents in several languages, each analysed in its own; df and avgdl are those of the pool.
    There a query in one language is analysed by every analyser of the pool and searched as the union of the terms, each
    as often as the analysis that has it most often: it meets each document in that document's own analysis. Of a query
    shown in several languages, a part in one of the pool's languages goes through that language's analyser only.

    `feedback` expands each query with terms of the best documents that it finds and searches again, both times by BM25:
    RM3 (Abdul-Jaleel et al. 2004; Lavrenko & Croft 2001) or Rocchio (1971, without documents that count against a term),
    as Anserini implements them and with its defaults. They read the documents' terms: an index with `doc_vectors`.
    """

    analyser: str = "language"
    # "language": Lucene's for the text's language · "whitespace": lower-cased words, "whitespace_cased": as Anserini has ha so sw yo · "ngram4" (any N): lower-cased
    # character N-grams · a language code: Lucene's of that language for every text · "icu": words by Unicode's rules and
    # ICU's dictionaries, any language · "jieba" zh, "pythainlp" th, "fugashi" ja, "kiwipiepy" ko: that language's own
    # segmenter · "hf": the pieces of `tokenizer` (analysis.py says what each does)
    k1: float = searched(0.9)  # how fast more occurrences stop to count; 0.9 and 0.4 are Anserini's defaults
    b: float = searched(0.4)  # length normalisation: 0 none, 1 full
    threads: int = neutral(2)  # of the JVM; the first BM25 of a process decides
    heap: str = neutral("1g")  # of the JVM, likewise; 1 GB does for any number of documents
    tokenizer: str | None = added(None, None, "model")  # of analyser=hf: a hub id or a folder with tokenizer.json
    revision: str | None = None
    doc_vectors: bool = added(
        False, False
    )  # keep every document's terms in the index, for feedback: 2.3 times the size
    feedback: Literal["none", "rm3", "rocchio"] = added("none", "none", "searched")
    fb_docs: int = added(10, 10, "searched")  # documents of the first search that terms are taken from
    fb_terms: int = added(10, 10, "searched")  # terms that a query is expanded to
    original_query_weight: float = added(0.5, 0.5, "searched")  # of RM3: 1 is the query alone
    rocchio_alpha: float = added(1.0, 1.0, "searched")  # weight of the query
    rocchio_beta: float = added(0.75, 0.75, "searched")  # weight of the documents' mean

    def __post_init__(self) -> None:
        if self.analyser != "language" and not analysis.exists(self.analyser):
            raise ValueError(
                f"analyser must be language, whitespace, ngramN, {', '.join(analysis.SEGMENTERS)} or the code of a "
                f"language that Lucene analyses, not {self.analyser!r}"
            )
        if (self.analyser == "hf") != (self.tokenizer is not None):
            raise ValueError(
                "analyser=hf and tokenizer (a hub id or a folder with tokenizer.json) go together, got "
                f"analyser={self.analyser} and tokenizer={self.tokenizer}"
            )
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ValueError(f"k1 must be 0 or more and b between 0 and 1, got k1={self.k1} and b={self.b}")
        if self.threads < 1:
            raise ValueError(f"threads must be 1 or more, got {self.threads}")
        if not re.fullmatch(r"[1-9]\d*[kmgKMG]", self.heap):
            raise ValueError(f"heap must be a number of bytes as Java writes it, like 512m or 4g, got {self.heap!r}")
        if self.feedback != "none" and not self.doc_vectors:
            raise ValueError(
                f"feedback={self.feedback} reads the documents' terms, which this index does not keep: "
                "retriever.doc_vectors=true indexes them"
            )
        if self.fb_docs < 1 or self.fb_terms < 1 or not 0 <= self.original_query_weight <= 1:
            raise ValueError(
                "fb_docs and fb_terms must be 1 or more and original_query_weight between 0 and 1, got "
                f"fb_docs={self.fb_docs}, fb_terms={self.fb_terms}, original_query_weight={self.original_query_weight}"
            )

    @property
    def engines(self) -> tuple[str, ...]:
        """The packages whose versions decide the result."""
        kinds = [] if self.analyser == "language" else analysis.engines(self.analyser)
        return tuple(dict.fromkeys(("anserini", *kinds)))

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError where the documents cannot be analysed; queries go through the documents' analysers."""
        for lang in sorted(set(doc_langs)):
            analysis.check(self._kind(lang), lang)

    def _kind(self, lang: str) -> str:
        return lang if self.analyser == "language" else self.analyser

    def _analyse(self, kind: str) -> analysis.Analyse:
        return analysis.analyser(kind, tokenizer=self._tokenizer())

    def _tokenizer(self) -> Path | None:
        return hub.folder(self.tokenizer, self.revision) if self.tokenizer else None

    def index(self, docs: Iterable[Text], folder: Path) -> None:
        """Leave `folder/lucene` and, last, `folder/index.json`; a draft that somebody left behind is removed."""
        import shutil
        from uuid import uuid4

        lucene.start(self.heap, self.threads)
        done, draft = folder / "index.json", folder / f"draft-{uuid4().hex}"
        done.unlink(missing_ok=True)
        langs: set[str] = set()

        def checked() -> Iterator[Text]:
            for doc in docs:
                for lang, _ in doc.parts:
                    if lang not in langs:
                        self.check_languages([], [lang])
                        langs.add(lang)
                yield doc

        texts: Iterator[tuple[str, dict[str, str]]] = ((doc.id, self._by_analyser(doc)) for doc in checked())
        if analysis.in_python(self.analyser):
            texts = self._as_terms(texts)
        documents = lucene.write(draft, texts, vectors=self.doc_vectors)
        for old in (folder / "lucene", *(d for d in folder.glob("draft-*") if d != draft)):
            shutil.rmtree(old, ignore_errors=True)
        draft.rename(folder / "lucene")
        facts = {
            "documents": documents,
            "languages": sorted(langs),
            "engine": lucene.engine_version(),
            **self._asked(),
        }
        done.with_suffix(".new").write_text(json.dumps(facts) + "\n")
        done.with_suffix(".new").replace(done)

    def _asked(self) -> dict[str, Any]:
        """What search must share with the index: the analyser, the versions that decide its terms, document vectors."""
        asked: dict[str, Any] = {"analyser": self.analyser}
        if versions := analysis.versions(self.analyser, self._tokenizer()):
            asked["versions"] = versions
        if self.doc_vectors:
            asked["doc_vectors"] = True
        return asked

    def _by_analyser(self, doc: Text) -> dict[str, str]:
        texts: dict[str, list[str]] = {}
        for lang, text in doc.parts:
            texts.setdefault(self._kind(lang), []).append(text)
        return {kind: VIEW_SEPARATOR.join(parts) for kind, parts in texts.items()}

    def _as_terms(self, docs: Iterator[tuple[str, dict[str, str]]]) -> Iterator[tuple[str, dict[str, str]]]:
        """Documents as the terms that a Python analyser makes of them."""
        analyse = self._analyse(self.analyser)
        while batch := list(islice(docs, BATCH)):
            found = analyse([VIEW_SEPARATOR.join(texts.values()) for _, texts in batch])
            for (doc_id, _), terms in zip(batch, found, strict=True):
                yield doc_id, {lucene.TERMS: lucene.as_terms(terms)}

    def search(self, folder: Path, queries: Sequence[Text], depth: int) -> Run:
        """The `depth` best documents per query in Anserini's order, to the bit as Pyserini ranks and scores them.

        A query without a term in the index gets no rows. Raises DataError where the index is not finished or was made
        with another analyser, or another version of it.
        """
        from clir_cli.runs import from_hits

        facts = self._facts(folder)
        kinds = sorted({self._kind(lang) for lang in facts["languages"]})
        if not kinds:  # an index of nothing
            return from_hits({})
        lucene.start(self.heap, self.threads)
        if len(kinds) > 1:
            kind, asked = lucene.TERMS, list(self._in_pool(queries, kinds))
        elif analysis.in_python(kinds[0]):
            terms = self._analyse(kinds[0])([query.text for query in queries])
            ids = [query.id for query in queries]
            kind, asked = lucene.TERMS, list(zip(ids, map(lucene.as_terms, terms), strict=True))
        else:
            kind, asked = kinds[0], [(query.id, query.text) for query in queries]
        feedback = self._feedback(english=kinds == ["en"])
        return from_hits(lucene.search(folder / "lucene", kind, asked, depth, k1=self.k1, b=self.b, feedback=feedback))

    def _feedback(self, english: bool) -> lucene.Feedback | None:
        """RM3's filter of terms beyond a-z and 0-9, Anserini's default, is for English only: elsewhere it drops words."""
        if self.feedback == "none":
            return None
        rm3 = self.feedback == "rm3"
        weights = (self.original_query_weight, 0.0) if rm3 else (self.rocchio_alpha, self.rocchio_beta)
        return lucene.Feedback(self.feedback, self.fb_docs, self.fb_terms, *weights, english)

    def _facts(self, folder: Path) -> dict[str, Any]:
        file = folder / "index.json"
        if not file.is_file():
            raise DataError(f"{file}: missing, so {folder} holds no finished BM25 index: index the documents first")
        facts: dict[str, Any] = json.loads(file.read_text())
        asked = self._asked()
        for name in ("analyser", "versions"):
            if (made := facts.get(name)) != asked.get(name):
                raise DataError(
                    f"{file}: the index was made with {_said(name, made)}, the search asks for "
                    f"{_said(name, asked.get(name))}: index again or search with what it was made with"
                )
        if self.feedback != "none" and not facts.get("doc_vectors"):
            raise DataError(
                f"{file}: the index keeps no terms of documents, which feedback={self.feedback} reads: "
                "retriever.doc_vectors=true indexes them"
            )
        return facts

    def _in_pool(self, queries: Sequence[Text], kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each query's id and the terms by which it meets documents in `kinds` (the rule is in the class's docstring)."""
        texts = list(dict.fromkeys(text for query in queries for _, text in query.parts))
        found = {kind: dict(zip(texts, self._analyse(kind)(texts), strict=True)) for kind in kinds}
        for query in queries:
            counts: Counter[str] = Counter()
            for lang, text in query.parts:
                own = len(query.parts) > 1 and lang in found
                for each in [lang] if own else kinds:
                    counts |= Counter(found[each][text])  # the greater of two counts
            yield query.id, lucene.as_terms(counts.elements())


def _said(name: str, value: Any) -> str:
    if name == "versions":
        return ", ".join(f"{package} {version}" for package, version in (value or {}).items()) or "none"
    return f"retriever.analyser={value}"
