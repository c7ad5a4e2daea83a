"""Documents in passages: where they are cut, how their scores become a document's, where one lies in a translation."""

from __future__ import annotations

import gzip
import io
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from clir_cli.errors import ConfigError
from clir_cli.text.languages import split_sentences

if TYPE_CHECKING:
    import pandas as pd

    from clir_cli.types import Run

Span: TypeAlias = tuple[int, int]  # characters, start and end
Spans: TypeAlias = Callable[[Sequence[str]], list[list[Span]]]  # where the units of each text are
Aggregate: TypeAlias = Literal["max", "first", "mean", "sum", "topk_mean"]
FILE = "passages.tsv.gz"  # beside a run.trec: the best passage of every document ranked
COLUMNS = ["query_id", "doc_id", "passage", "start", "end", "score", "original"]
JOINT = "#"  # between a doc_id and the number, or the place, of a passage


@dataclass(frozen=True)
class Passages:
    """How documents are cut, and how their passages' scores become theirs (MaxP, FirstP ...: Dai & Callan 2019).

    A passage is as many whole sentences as `window` units hold; a sentence of more units is cut every `window` units.
    The next one begins with the last sentence that begins at most `stride` units further on, and leaves nothing out.
    Every document has a passage, also an empty one.
    """

    unit: Literal["tokens", "words", "sentences"]
    # tokens: of the encoder's tokenizer, special ones not counted · words: between white space; where a script has none
    # between words, two characters of Han or kana, or four letters of Thai, Lao, Khmer, Burmese or Tibetan, are a word
    window: int
    stride: int | None = None  # null: the window, no overlap
    aggregate: Aggregate = "max"
    # max: the best passage · first: the first one, nothing else is searched · mean, sum: of all · topk_mean: of the best k.
    # A first stage ranks by max and first exactly; by the others by the passages that its search reached (`aggregated`)
    k: int = 3  # of topk_mean

    def __post_init__(self) -> None:
        if self.window < 1 or self.k < 1:
            raise ValueError(f"window and k must be at least 1, got window={self.window} and k={self.k}")
        if self.stride is not None and not 1 <= self.stride <= self.window:
            raise ValueError(f"stride must be from 1 to window={self.window}, or text is skipped; got {self.stride}")

    @property
    def meaning(self) -> dict[str, Any]:
        """What decides where texts are cut."""
        return {"rule": 1, "unit": self.unit, "window": self.window, "stride": self.stride or self.window}

    def cut(self, texts: Sequence[str], tokens: Spans | None = None) -> list[list[Span]]:
        """The passages of every text as character spans; `tokens` says where a text's tokens are."""
        if self.unit == "sentences":
            return [_cut(text, None, self.window, self.stride or self.window) for text in texts]
        if self.unit == "tokens" and tokens is None:
            raise ConfigError("passages of tokens need a tokenizer")
        units = tokens(texts) if self.unit == "tokens" and tokens else [word_spans(text) for text in texts]
        return [_cut(t, u, self.window, self.stride or self.window) for t, u in zip(texts, units, strict=True)]


# Units ----------------------------------------------------------------------------------------------------------------

_STACKED = [range(0x0E00, 0x1100), range(0x1780, 0x1800)]  # Thai, Lao, Tibetan, Burmese; Khmer
_MARKS = "".join(chr(c) for block in _STACKED for c in block if unicodedata.category(chr(c)).startswith("M"))
_LETTERS = "".join(
    chr(c) for block in _STACKED for c in block if unicodedata.category(chr(c)) in {"Lo", "Po", "Nd", "Lm"}
)
_HAN = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(
    rf"[{_HAN}]{{1,2}}|(?:[{_LETTERS}][{_MARKS}]*){{1,4}}|[^\s{_HAN}{_LETTERS}]+",
)


def word_spans(text: str) -> list[Span]:
    """Where the words of a text are, by the rule that `Passages.unit` states; only white space lies between them."""
    return [found.span() for found in _WORD.finditer(text)]


def sentence_spans(text: str) -> list[Span]:
    """Where the sentences of a text are (languages.split_sentences)."""
    spans, at = [], 0
    for sentence in split_sentences(text, max_chars=max(len(text), 1)):
        start = text.index(sentence, at)  # only white space is lost between two
        at = start + len(sentence)
        spans.append((start, at))
    return spans


def token_spans(tokenizer: Any, texts: Sequence[str]) -> list[list[Span]]:
    """Where the tokens of each text are, special ones left out.

    `tokenizer`: of transformers, or of the package tokenizers. ConfigError for a slow one, which does not know places.
    """
    if not texts:
        return []
    if hasattr(tokenizer, "encode_batch"):
        from tokenizers import Tokenizer

        whole = Tokenizer.from_str(tokenizer.to_str())  # a copy: the model's own may cut or pad
        whole.no_truncation()
        whole.no_padding()
        return [list(encoded.offsets) for encoded in whole.encode_batch(list(texts), add_special_tokens=False)]
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"passages.unit=tokens: {type(tokenizer).__name__} does not tell where its tokens are; choose words or sentences"
        )
    found = tokenizer(
        list(texts), add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
    )
    return [[(int(a), int(b)) for a, b in offsets] for offsets in found["offset_mapping"]]


def tokens_of(component: Any) -> Spans | None:
    """What tells where a component's tokens are: its method `token_spans`, the tokenizer of what it loads, or what its
    encoder has; else None."""
    if hasattr(component, "token_spans"):
        spans: Spans = component.token_spans
        return spans
    if hasattr(component, "load"):
        return lambda texts: token_spans(component.load().tokenizer, texts)
    return tokens_of(component.encoder) if hasattr(component, "encoder") else None


# Cutting --------------------------------------------------------------------------------------------------------------


def _cut(text: str, units: Sequence[Span] | None, window: int, stride: int) -> list[Span]:
    segments = list(_segments(sentence_spans(text), units, window))
    if not segments:
        return [(0, 0)]
    found = _windows([size for _, _, size in segments], window, stride)
    return [(segments[first][0], segments[end - 1][1]) for first, end in found]


def _segments(sentences: Sequence[Span], units: Sequence[Span] | None, window: int) -> Iterator[tuple[int, int, int]]:
    """Sentences, and parts of those longer than the window: start, end, units."""
    starts = [start for start, _ in units or ()]
    for start, end in sentences:
        if units is None:
            yield start, end, 1
            continue
        first, last = bisect_left(starts, start), bisect_left(starts, end)
        if last - first <= window:
            yield start, end, last - first
            continue
        at = start
        for i in range(first, last, window):
            stop = end if i + window >= last else units[i + window - 1][1]
            if stop > at:  # several tokens may share one character
                yield at, stop, min(window, last - i)
                at = max(stop, units[i + window][0]) if i + window < last else stop


def _windows(sizes: Sequence[int], window: int, stride: int) -> Iterator[tuple[int, int]]:
    """First and end segment of every passage."""
    before = [0, *accumulate(sizes)]
    first = last = 0
    while last < len(sizes):
        end = first + 1
        while end < len(sizes) and before[end + 1] - before[first] <= window:
            end += 1
        if end > last:  # else it lies in the one before
            yield first, end
            last = end
        following = first + 1
        while following < end and before[following + 1] - before[first] <= stride:
            following += 1
        first = following


# The passages of a collection -----------------------------------------------------------------------------------------


class Cut(NamedTuple):
    """A document's passages."""

    doc_id: str
    spans: Mapping[str, Sequence[Span]]  # language shown -> spans in the view's text; as many in each
    places: Sequence[str]  # of each passage in the original's fields, see `place`

    def fields(self) -> dict[str, str]:
        """As a document of a docstore."""
        rows = {lang: " ".join(f"{a}-{b}" for a, b in spans) for lang, spans in self.spans.items()}
        return {**rows, "original": " ".join(place or "-" for place in self.places)}

    @classmethod
    def read(cls, doc_id: str, fields: Mapping[str, str]) -> Cut:
        spans = {lang: [_span(s) for s in row.split()] for lang, row in fields.items() if lang != "original"}
        return cls(doc_id, spans, ["" if p == "-" else p for p in fields["original"].split(" ")])


def _span(text: str) -> Span:
    start, _, end = text.partition("-")
    return int(start), int(end)


def passage_id(doc_id: str, number: int) -> str:
    return f"{doc_id}{JOINT}{number}"


def split_id(identifier: str) -> tuple[str, str]:
    """doc_id, and what stands behind it: a passage's number or place."""
    doc_id, _, rest = identifier.rpartition(JOINT)
    return doc_id, rest


# Places: where a passage lies in the original's fields, whatever view it was found in ----------------------------------


class Placed(NamedTuple):
    """A field in a view's text: the document's field number `field` stands from `start` on, without its first `skip` characters."""

    field: int
    skip: int
    start: int
    length: int


FieldSpans: TypeAlias = dict[int, Span]  # number of the field -> characters of it


def place(spans: FieldSpans) -> str:
    """`0.0-12;1.0-340`: characters 0 to 12 of the first field and 0 to 340 of the second."""
    return ";".join(f"{index}.{a}-{b}" for index, (a, b) in sorted(spans.items()))


def read_place(text: str) -> FieldSpans:
    parts = (part.partition(".") for part in text.split(";") if part)
    return {int(index): _span(span) for index, _, span in parts}


def to_fields(span: Span, layout: Sequence[Placed]) -> FieldSpans:
    """The part of every field that a span of the view's text covers."""
    found = {}
    for index, skip, start, length in layout:
        a, b = max(span[0], start), min(span[1], start + length)
        if a < b:
            found[index] = (a - start + skip, b - start + skip)
    return found


def from_fields(spans: FieldSpans, layout: Sequence[Placed]) -> Span:
    """The span of the view's text from the first to the last of these characters; (0, 0) where the view shows none."""
    found = []
    for index, skip, start, length in layout:
        if index in spans:
            a, b = (min(max(at - skip, 0), length) + start for at in spans[index])
            if a < b:
                found.append((a, b))
    return (min(a for a, _ in found), max(b for _, b in found)) if found else (0, 0)


Pairs: TypeAlias = Sequence[tuple[int, int]]  # where a sentence starts in the source, where its translation starts


def moved(span: Span, source: str, target: str, pairs: Pairs | None) -> Span:
    """Where a span of `source` lies in its translation: the translations of the sentences that it touches.

    Without `pairs`: the sentences of `target` whose middle lies as far in as the span reaches, at least the nearest one.
    """
    a, b = span
    if pairs:
        ends = [*pairs[1:], (len(source), len(target))]
        touched = [(t, u) for (s, t), (end, u) in zip(pairs, ends, strict=True) if s < b and end > a and t < u]
        if touched:
            return min(t for t, _ in touched), max(u for _, u in touched)
    sentences = sentence_spans(target)
    if not sentences or a >= b:
        return 0, 0
    scale = max(len(target), 1) / max(len(source), 1)
    inside = [s for s in sentences if a * scale <= (s[0] + s[1]) / 2 <= b * scale]
    middle = (a + b) / 2 * scale
    inside = inside or [min(sentences, key=lambda s: abs((s[0] + s[1]) / 2 - middle))]
    return inside[0][0], inside[-1][1]


def flipped(pairs: Pairs | None) -> Pairs | None:
    """Pairs of a translation read backwards: from the translation to its original."""
    return None if pairs is None else [(t, s) for s, t in pairs]


# Scores ---------------------------------------------------------------------------------------------------------------


def search_documents(
    search: Callable[[Sequence[Any], int], Run], queries: Sequence[Any], depth: int, total: int
) -> tuple[pd.DataFrame, set[str]]:
    """Passages enough for `depth` documents a query, and the queries of which all that match were seen.

    The passage depth begins at twice `depth` and doubles, for the queries that lack documents, until each has them or
    its search returns fewer passages than asked for: of an exact search that is all that match.
    """
    import pandas as pd

    found, seen, wanted = [], set[str](), list(queries)
    deep = 2 * depth
    while wanted:
        asked = min(deep, total)
        run = search(wanted, asked)
        run = run.assign(document=[split_id(i)[0] for i in run["doc_id"]])
        rows = run.groupby("query_id").size().to_dict()
        documents = run.groupby("query_id")["document"].nunique().to_dict()
        whole = {q.id for q in wanted if rows.get(q.id, 0) < asked or asked >= total}
        enough = whole | {q.id for q in wanted if documents.get(q.id, 0) >= depth}
        seen |= whole
        found.append(run[run["query_id"].isin(enough)])
        wanted = [q for q in wanted if q.id not in enough]
        deep *= 2
    rows_found = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    order = {q.id: i for i, q in enumerate(queries)}
    return rows_found.sort_values("query_id", key=lambda ids: ids.map(order), kind="stable", ignore_index=True), seen


def aggregated(
    rows: pd.DataFrame,
    how: Passages,
    counts: Mapping[str, int],
    seen: set[str] | None,
    tie_break: Literal["doc_id", "hash"],
) -> tuple[Run, pd.DataFrame]:
    """Documents ranked by their passages' scores, and the best passage of each (query_id, doc_id, passage, score).

    `rows`: query_id, doc_id (a passage's id), score, rank. `counts`: the passages that each document has; None: all are
    in `rows`. For mean and topk_mean a passage that is not there counts as the lowest score of its query, or, in a
    query of `seen` (all that match are there), as 0 if that is less; sum adds what is there.
    """
    import numpy as np
    import pandas as pd

    from clir_cli import runs

    ids = [split_id(i) for i in rows["doc_id"]]
    table = pd.DataFrame({
        "query_id": rows["query_id"].to_numpy(), "doc_id": [doc for doc, _ in ids],
        "passage": np.array([int(number) for _, number in ids], dtype=np.int64), "score": rows["score"].to_numpy(float),
        "rank": rows["rank"].to_numpy(),
    })  # fmt: skip
    table = table.sort_values("rank", kind="stable", ignore_index=True)
    best = table.drop_duplicates(["query_id", "doc_id"], keep="first")  # in the engine's own order, also among equals
    if how.aggregate == "first":
        best = table[table["passage"] == 0].drop_duplicates(["query_id", "doc_id"])
    if how.aggregate in {"max", "first"}:
        scored = best[["query_id", "doc_id", "score"]]
    else:
        scored = _combined(table, how, counts, seen)
    order = {query: i for i, query in enumerate(dict.fromkeys(rows["query_id"]))}
    scored = scored.sort_values("query_id", key=lambda q: q.map(order), kind="stable")
    return runs.ranked(scored, tie_break), best[["query_id", "doc_id", "passage", "score"]]


def _combined(table: pd.DataFrame, how: Passages, counts: Mapping[str, int], seen: set[str] | None) -> pd.DataFrame:
    most = how.k if how.aggregate == "topk_mean" else None
    lowest_of = table.groupby("query_id")["score"].min()
    if most is not None:  # rows stand best first
        table = table[table.groupby(["query_id", "doc_id"]).cumcount() < most]
    groups = table.groupby(["query_id", "doc_id"], sort=False)["score"]
    found = groups.agg(["sum", "size"]).reset_index()
    if how.aggregate == "sum":
        return found.rename(columns={"sum": "score"})[["query_id", "doc_id", "score"]]
    has = found["doc_id"].map(counts).astype(int) if counts else found["size"]
    if most is not None:
        has = has.clip(upper=most)
    lowest = found["query_id"].map(lowest_of)
    if seen is not None:
        lowest = lowest.where(~found["query_id"].isin(seen), lowest.clip(upper=0.0))
    total = found["sum"] + (has - found["size"]) * lowest
    return found.assign(score=total / has)[["query_id", "doc_id", "score"]]


# The best passages beside a ranking -----------------------------------------------------------------------------------


def write_best(rows: pd.DataFrame, folder: Path) -> None:
    """Write `passages.tsv.gz`: query_id, doc_id, passage, start, end, score, original."""
    text = io.StringIO()
    rows[COLUMNS].to_csv(text, sep="\t", index=False, float_format="%.9g", lineterminator="\n")
    with gzip.GzipFile(folder / FILE, "wb", mtime=0) as out:  # no time stamp: the same bytes every time
        out.write(text.getvalue().encode())


def read_best(folder: Path) -> pd.DataFrame | None:
    """The best passages of a ranking's documents; None where it has none."""
    import pandas as pd

    if not (folder / FILE).is_file():
        return None
    kinds: dict[str, Any] = {"query_id": str, "doc_id": str, "original": str}
    return pd.read_csv(folder / FILE, sep="\t", dtype=kinds, keep_default_na=False, quoting=3)


def fused_best(parts: Sequence[tuple[Run, pd.DataFrame | None]], run: Run) -> pd.DataFrame | None:
    """The best passages of a fused ranking: of the part that ranks the document highest, of equals the first.

    A document that only parts without passages found has none. None where no part has passages.
    """
    import pandas as pd

    given = [
        best.merge(part[["query_id", "doc_id", "rank"]], on=["query_id", "doc_id"]).assign(part=i)
        for i, (part, best) in enumerate(parts)
        if best is not None
    ]
    if not given:
        return None
    rows = pd.concat(given, ignore_index=True).sort_values(["rank", "part"], kind="stable")
    rows = rows.drop_duplicates(["query_id", "doc_id"])
    return run[["query_id", "doc_id"]].merge(rows, on=["query_id", "doc_id"])
