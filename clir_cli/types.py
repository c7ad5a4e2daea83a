"""The words every room shares: texts, candidates, runs, and what a component promises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import pandas as pd

    Run: TypeAlias = pd.DataFrame  # columns query_id, doc_id, score, rank; made and ordered only in runs.py
else:
    Run: TypeAlias = Any  # pandas is imported by what ranks, never by what plans

VIEW_SEPARATOR = "\n"  # stands between the languages of a text that is shown in several


class Query(NamedTuple):
    """A topic in one language; `fields` are title, description, ... in the dataset's order."""

    query_id: str
    fields: Mapping[str, str]
    lang: str


class Doc(NamedTuple):
    """A document; `aligned` is an id that the translations of one document share."""

    doc_id: str
    fields: Mapping[str, str]
    lang: str
    aligned: str | None = None


class Qrel(NamedTuple):
    """A judgment: relevance 0 is judged and not relevant, > 0 is a grade."""

    query_id: str
    doc_id: str
    relevance: int


class Text(NamedTuple):
    """A query or document as a stage's view shows it: the chosen fields, in one or several languages."""

    id: str
    parts: tuple[tuple[str, str], ...]  # (language, text) in the view's order; one part unless the view is a list

    @property
    def text(self) -> str:
        return VIEW_SEPARATOR.join(text for _, text in self.parts)

    @property
    def lang(self) -> str:
        """The language, or `de+en` where several stand in one text."""
        return "+".join(lang for lang, _ in self.parts)


class Candidates(NamedTuple):
    """What a reranker orders: a query and its documents, best first."""

    query: Text
    docs: Sequence[Text]


class Message(NamedTuple):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Shown(NamedTuple):
    """A text as a reranker's prompt shows it: one line, cut, and its language (`de+en` where it stands in both)."""

    text: str
    lang: str


Component: TypeAlias = Any  # a frozen dataclass of a component room


Prompt: TypeAlias = tuple[Message, ...]


class Answer(NamedTuple):
    """What an LLM said to one prompt, and what it cost; `error` is set where no answer came."""

    text: str
    prompt_tokens: int = 0
    cached_prefix_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    error: str | None = None
    model: str | None = None  # as the server names itself
    cached: bool = False  # answered from the store, not asked
    truncated: bool = False  # the server stopped at the token limit
    scores: tuple[float, ...] | None = (
        None  # natural log-probabilities: of each label among them, or of the continuation
    )
    fingerprint: str | None = None  # of the served model's configuration, as the server names it


class Journal:
    """What a reranking cost, query by query, and every answer as it came."""

    def __init__(self) -> None:
        self.queries: dict[str, dict[str, float]] = {}
        self.answers: list[dict[str, Any]] = []

    def add(self, query_id: str, **amounts: float) -> None:
        """Add amounts of: calls, calls_from_cache, rounds, prompt_tokens, cached_prefix_tokens, output_tokens, seconds,
        repaired, failed, texts, texts_cut; and of what a method reports beside them (flips, picked_first, ...)."""
        row = self.queries.setdefault(query_id, {})
        for name, amount in amounts.items():
            row[name] = row.get(name, 0) + amount

    def answer(self, query_id: str, status: str, answer: Answer, **more: Any) -> None:
        """Keep an answer's raw text and its parse status: ok, partial, repaired or failed."""
        self.answers.append({"query_id": query_id, "status": status, **more, **answer._asdict()})


@runtime_checkable
class Translator(Protocol):
    """Translates sentences; splitting, deduplication, caching and joining are done around it (translation.py)."""

    def directions(self, source: str, target: str) -> str | None:
        """None if it translates source to target, else the reason why not and what it has."""
        ...

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """As many translations as texts, in their order."""
        ...


@runtime_checkable
class Retriever(Protocol):
    """Ranks a collection for queries. `index` leaves all that `search` needs in `folder`."""

    def index(self, docs: Iterable[Text], folder: Path) -> None: ...
    def search(self, folder: Path, queries: Sequence[Text], depth: int) -> Run: ...


@runtime_checkable
class ShardedRetriever(Protocol):
    """A retriever whose index is made of independent shards of `shard_docs` documents, `folder/shards/00000`, ..."""

    @property
    def shard_docs(self) -> int: ...
    def index_shard(self, docs: Sequence[Text], folder: Path) -> None: ...
    def search(self, folder: Path, queries: Sequence[Text], depth: int) -> Run: ...


@runtime_checkable
class DerivingRetriever(Protocol):
    """A retriever that can make something more of its finished index: an approximate one, a smaller copy, a fitted map.

    Its fields marked `derived` say what. While all of them have their defaults nothing is derived and `search` gets None.
    """

    @property
    def derives_per_language(self) -> bool:
        """Whether another language of the queries or the documents makes it another."""
        ...

    def derive(
        self, index: Path, folder: Path, query_langs: Sequence[str], doc_langs: Sequence[str]
    ) -> Mapping[str, float]:
        """Leave in `folder` what `search` needs besides the index; returns counts for the step's record."""
        ...

    def search(self, folder: Path, queries: Sequence[Text], depth: int, derived: Path | None = None) -> Run: ...


@runtime_checkable
class Reranker(Protocol):
    """Orders the candidates of many queries at once, so that batches can cross queries; returns each exactly once."""

    def rerank(self, candidates: Sequence[Candidates], journal: Journal) -> Run: ...


@runtime_checkable
class LLM(Protocol):
    """Answers chat prompts; batched over whatever it is given at once."""

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...
    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        """Each text's first `tokens` tokens."""
        ...

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]: ...


@runtime_checkable
class ScoresLabels(Protocol):
    """An LLM that says how probable each of some labels is as the next token: one token of output, no parsing."""

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise ConfigError unless every label is one token that no other label shares."""
        ...

    def score_labels(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[Answer]:
        """`Answer.scores` holds a log-probability for each label, among the labels; -inf where a server hid it.

        Where a server gives none at all `scores` is None, and `text` is the token that it wrote.
        """
        ...


@runtime_checkable
class ScoresTexts(Protocol):
    """An LLM that says how probable a text is after a prompt."""

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Answer]:
        """`Answer.scores` holds one number: the sum of the log-probabilities of the continuation's `output_tokens` tokens."""
        ...


@runtime_checkable
class LanguageAware(Protocol):
    """A component that handles some languages only; asked before anything runs."""

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError naming the language and the explicit opt-in."""
        ...


@runtime_checkable
class Memory(Protocol):
    """Answers and translations kept over all experiments; the store decides where (segments.py)."""

    def get(self, key: str) -> Any | None: ...
    def put(self, items: Mapping[str, Any]) -> None:
        """Keep JSON values; all of one call or, after a crash, none."""
        ...


# What a component's field means for identity (CONTRACT.md section 5). Without a mark it is `indexed`.


def searched(default: Any = MISSING) -> Any:
    """A field that changes the search only: another value builds no index."""
    return field(default=default, metadata={"role": "searched"})


def derived(default: Any, content: bool = False) -> Any:
    """A field that changes what is made of a finished index, never the index. At its default it stands in no identity.

    `content`: it is a path whose bytes count, not its name.
    """
    return field(default=default, metadata={"role": "derived", "before": default, "content": content})


def neutral(default: Any = MISSING, path: bool = False) -> Any:
    """A field that changes speed or place, never the result: in no identity.

    `path`: it names files, which a stage makes part of an identity by what they hold.
    """
    return field(default=default, metadata={"role": "neutral", "path": path})


def word_or_path(default: str, words: tuple[str, ...]) -> Any:
    """One of these words, or a file's path, whose bytes a stage makes part of an identity."""
    return field(default=default, metadata={"words": words})


def content(default: Any = MISSING) -> Any:
    """A path (or several) whose bytes count, not its name."""
    return field(default=default, metadata={"role": "content"})


def model(default: Any = MISSING) -> Any:
    """A model: a hub id (with the sibling field `revision`), a local folder or `package:NAME` (their bytes count)."""
    return field(default=default, metadata={"role": "model"})


def added(default: Any, before: Any, role: str = "indexed") -> Any:
    """A field added later: left out of identities while it has the value that reproduces the old output."""
    return field(default=default, metadata={"role": role, "before": before})
