"""BM25, by Lucene."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clir_cli import lucene
from clir_cli.errors import DataError
from clir_cli.languages import LANGUAGES
from clir_cli.types import VIEW_SEPARATOR, Run, Text, neutral, searched


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
    """

    engines: ClassVar[tuple[str, ...]] = ("anserini",)  # whose versions decide the result

    analyser: str = "language"
    # "language": Lucene's for the text's language · "whitespace": lower-cased words · "ngram4" (any N): lower-cased
    # character N-grams · a language code: that language's for every text
    k1: float = searched(0.9)  # how fast more occurrences stop to count; 0.9 and 0.4 are Anserini's defaults
    b: float = searched(0.4)  # length normalisation: 0 none, 1 full
    threads: int = neutral(2)  # of the JVM; the first BM25 of a process decides
    heap: str = neutral("1g")  # of the JVM, likewise; 1 GB does for any number of documents

    def __post_init__(self) -> None:
        coded = self.analyser in LANGUAGES and LANGUAGES[self.analyser].lucene
        if not coded and not re.fullmatch(r"language|whitespace|ngram[1-9]\d?", self.analyser):
            raise ValueError(
                f"analyser must be language, whitespace, ngramN or the code of a language that Lucene analyses, not {self.analyser!r}"
            )
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ValueError(f"k1 must be 0 or more and b between 0 and 1, got k1={self.k1} and b={self.b}")
        if self.threads < 1:
            raise ValueError(f"threads must be 1 or more, got {self.threads}")
        if not re.fullmatch(r"[1-9]\d*[kmgKMG]", self.heap):
            raise ValueError(f"heap must be a number of bytes as Java writes it, like 512m or 4g, got {self.heap!r}")

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError where Lucene cannot analyse the documents; queries go through the documents' analysers."""
        for kind in sorted({self._kind(lang) for lang in doc_langs}):
            lucene.check_analyser(kind)

    def _kind(self, lang: str) -> str:
        return lang if self.analyser == "language" else self.analyser

    def index(self, docs: Iterable[Text], folder: Path) -> None:
        """Leave `folder/lucene` and, last, `folder/index.json`; a draft that somebody left behind is removed."""
        import shutil
        from uuid import uuid4

        lucene.start(self.heap, self.threads)
        done, draft = folder / "index.json", folder / f"draft-{uuid4().hex}"
        done.unlink(missing_ok=True)
        langs: set[str] = set()

        def texts() -> Iterator[tuple[str, dict[str, str]]]:
            for doc in docs:
                self.check_languages([], list({lang for lang, _ in doc.parts} - langs))
                langs.update(lang for lang, _ in doc.parts)
                yield doc.id, self._by_analyser(doc)

        documents = lucene.write(draft, texts())
        for old in (folder / "lucene", *(d for d in folder.glob("draft-*") if d != draft)):
            shutil.rmtree(old, ignore_errors=True)
        draft.rename(folder / "lucene")
        facts = {
            "documents": documents,
            "analyser": self.analyser,
            "languages": sorted(langs),
            "engine": lucene.engine_version(),
        }
        done.with_suffix(".new").write_text(json.dumps(facts) + "\n")
        done.with_suffix(".new").replace(done)

    def _by_analyser(self, doc: Text) -> dict[str, str]:
        texts: dict[str, list[str]] = {}
        for lang, text in doc.parts:
            texts.setdefault(self._kind(lang), []).append(text)
        return {kind: VIEW_SEPARATOR.join(parts) for kind, parts in texts.items()}

    def search(self, folder: Path, queries: Sequence[Text], depth: int) -> Run:
        """The `depth` best documents per query in Anserini's order, to the bit as Pyserini ranks and scores them.

        A query without a term in the index gets no rows. Raises DataError where the index is not finished or was made
        with another analyser.
        """
        from clir_cli.runs import from_hits

        facts = self._facts(folder)
        kinds = sorted({self._kind(lang) for lang in facts["languages"]})
        if not kinds:  # an index of nothing
            return from_hits({})
        lucene.start(self.heap, self.threads)
        if len(kinds) == 1:
            kind, asked = kinds[0], [(query.id, query.text) for query in queries]
        else:
            kind, asked = lucene.TERMS, list(self._in_pool(queries, kinds))
        return from_hits(lucene.search(folder / "lucene", kind, asked, depth, k1=self.k1, b=self.b))

    def _facts(self, folder: Path) -> dict[str, Any]:
        file = folder / "index.json"
        if not file.is_file():
            raise DataError(f"{file}: missing, so {folder} holds no finished BM25 index: index the documents first")
        facts: dict[str, Any] = json.loads(file.read_text())
        if facts["analyser"] != self.analyser:
            raise DataError(
                f"{file}: the index was made with retriever.analyser={facts['analyser']}, the search asks for "
                f"{self.analyser}: index again or search with {facts['analyser']}"
            )
        return facts

    def _in_pool(self, queries: Sequence[Text], langs: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each query's id and the terms by which it meets documents in `langs` (the rule is in the class's docstring)."""
        analysers = {lang: lucene.analyser(lang) for lang in langs}
        for query in queries:
            counts: Counter[str] = Counter()
            for lang, text in query.parts:
                own = len(query.parts) > 1 and lang in analysers
                for each in [lang] if own else langs:
                    counts |= Counter(lucene.terms(analysers[each], text))  # the greater of two counts
            yield query.id, "".join(term + lucene.TERM_END for term in counts.elements())
