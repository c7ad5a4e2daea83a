"""What every test collection has, whatever its files look like."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clir_cli.errors import DataError, MissingData
from clir_cli.text.languages import language
from clir_cli.types import Qrel, neutral, word_or_path

KEPT = 100_000  # ids whose lines are remembered: a larger collection's repeats are found by the docstore, without lines

# What a collection's yaml says about it under `about`, for `clir datasets` and for its checks. Only what a source says:
# a number that nobody gave is left out.
ABOUT: Mapping[str, str] = {
    "title": "what it is called",
    "query_langs": "languages of the topics: a list",
    "doc_langs": "languages of the documents: a list",
    "pairs": "the pairs it is used with, where not all are: a list of en-de",
    "splits": "split -> what it is",
    "judgments": "name of the judgments -> what they are, with their grades",
    "grades": "grade -> what it means",
    "title_policy": "whether and where documents and topics have titles",
    "translations": "translations that it brings: direction -> what, and how much is covered",
    "size": "counts, by language and split",
    "topics": "judged or relevant: which topics the literature averages over (evaluate.topics)",
    "licence": "who may use it for what",
    "access": "how to obtain it",
    "place": "where to put it",
    "url": "its page",
    "citation": "the paper that describes it",
    "defects": "what is known to be wrong with it, and what clir does about it",
    "source": "where these facts were read",
}


class Source(NamedTuple):
    """Where one part of a collection comes from: its files, and the settings that decide how they are read."""

    files: tuple[Path, ...]
    reading: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class TestCollection:
    """The settings that all datasets share; an adapter adds how its files are read."""

    __test__ = False  # the field's name for it, not a pytest class

    query_lang: str
    doc_lang: str | tuple[str, ...]  # several: one pool
    pair: str | None = None  # `en-de` sets query_lang and doc_lang: one sweep axis for both
    split: str | None = None  # stands for {split} in paths
    judgments: tuple[str, ...] | None = None  # names of qrels to evaluate with; None: all the dataset has
    queries: Literal["judged", "all"] | str | tuple[str | int, ...] = word_or_path(  # or ids
        "judged", ("judged", "all")
    )
    limit_queries: int | None = None  # the first n selected topics, for a quick look; stands in the label
    sample_docs: int | None = None  # judged documents + n others, chosen by a seeded hash; stands in the label
    sample_seed: int = 0
    query_fields: tuple[str, ...] | None = None  # what retrieve.query_fields is when it is null; None: all, in order
    doc_fields: tuple[str, ...] | None = None
    field_separator: str = " "
    measures: tuple[str, ...] = ("nDCG@10", "AP", "R@100")  # the first is the dataset's main measure
    on_empty: Literal["warn", "error", "drop"] = "warn"  # a document or topic without text: kept and counted, ...
    on_duplicate: Literal["error", "first"] = "error"  # an id that occurs twice
    on_unknown: Literal["warn", "error"] = neutral("warn")  # a judged document that the collection does not have
    path: str | None = neutral(None, path=True)  # {path} in places: the folder of data that you obtain yourself
    env: str | None = neutral(None)  # the environment variable that names that folder where `path` does not
    about: Mapping[str, Any] | None = neutral(None)  # facts for `clir datasets NAME`, keys as in ABOUT

    def __post_init__(self) -> None:
        if not isinstance(self.queries, str):  # the command line reads [11,237] as numbers
            object.__setattr__(self, "queries", tuple(map(str, self.queries)))
        for code in (self.query_lang, *self.doc_langs):
            if "+" in code:
                raise ValueError(
                    f"{code!r} is no language; documents of several are a pool: doc_lang=[{code.replace('+', ',')}]"
                )
            language(code)
        if len(set(self.doc_langs)) != len(self.doc_langs):
            raise ValueError(f"doc_lang names a language twice: {'+'.join(self.doc_langs)}")
        for name in ("limit_queries", "sample_docs"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._check_about()
        self._check_split()

    def _check_about(self) -> None:
        """Refuse a language or a split that the collection does not have, where its yaml lists those it has."""
        about = self.about or {}
        if unknown := set(about) - set(ABOUT):
            raise ValueError(f"about has no key {min(unknown)!r}; it may have: {', '.join(ABOUT)}")
        _check_one_of("query_lang", (self.query_lang,), about.get("query_langs"))
        _check_one_of("doc_lang", self.doc_langs, about.get("doc_langs"))
        if self.split is not None:
            _check_one_of("split", (self.split,), about.get("splits"))

    def _check_split(self) -> None:
        """Refuse a split that chooses nothing: two of them would be the same topics under two names."""
        if self.split is not None and not self._has_split(self.split):
            raise ValueError(
                f"dataset.split={self.split}: no path holds {{split}}, so every split would be the same topics; "
                "write {split} into the paths, or leave dataset.split out (dataset.label names a collection)"
            )

    def _has_split(self, split: str) -> bool:
        """Whether a split chooses something; an adapter with a way of its own to choose by it says so here."""
        own = [getattr(self, f.name) for f in fields(self) if f.name not in {"about", "split"}]
        return split in ((self.about or {}).get("splits") or ()) or any("{split}" in text for text in _texts(own))

    def root(self) -> Path:
        """The folder of a collection that everybody obtains himself. Raises MissingData saying how, and where to put it."""
        given = self.path or os.environ.get(self.env or "")
        folder = Path(given).expanduser().absolute() if given else None
        if folder is not None and folder.is_dir():
            return folder
        about = self.about or {}
        why = (
            f"{folder} is no folder"
            if folder
            else "dataset.path is not set" + (f", nor {self.env}" if self.env else "")
        )
        lines = [f"{about.get('title', 'the collection')} is not on this machine: {why}"]
        lines += [
            f"  {head}{about[key]}"
            for key, head in (("access", "how to get it: "), ("place", "where it lies: "))
            if key in about
        ]
        lines.append(
            "  then: dataset.path=/that/folder"
            + (f", or for all commands: export {self.env}=/that/folder" if self.env else "")
        )
        raise MissingData("\n".join(lines))

    @property
    def doc_langs(self) -> tuple[str, ...]:
        return (self.doc_lang,) if isinstance(self.doc_lang, str) else self.doc_lang

    @property
    def doc_label(self) -> str:
        return "+".join(self.doc_langs)

    @property
    def selection(self) -> str:
        """`~q5~d1000`, what stands behind the dataset's name when only a part of it is used."""
        queries = f"~q{self.limit_queries}" if self.limit_queries else ""
        return queries + (f"~d{self.sample_docs}" if self.sample_docs else "")


def _texts(value: Any) -> Iterator[str]:
    """The texts in a setting, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value.values()])
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _check_one_of(name: str, values: Sequence[str], known: Any) -> None:
    if known and (absent := [value for value in values if value not in known]):
        raise ValueError(f"{name}: the collection has no {absent[0]!r}; it has: {' '.join(map(str, known))}")


@dataclass(frozen=True)
class Once:
    """Refuses an id that comes twice, naming both lines, where `dataset.on_duplicate` asks for that."""

    what: str  # "doc_id 'd1' (de) occurs twice", with the id as {}
    on_duplicate: str
    lines: dict[str, tuple[Path, int]] = field(default_factory=dict)

    def see(self, path: Path, line: int, identifier: str) -> None:
        """Raises DataError with file and lines. Only the first ids are remembered, others are refused without lines."""
        if self.on_duplicate != "error":
            return
        if (first := self.lines.get(identifier)) is not None:
            where = f"line {first[1]}" if first[0] == path else f"{first[0]}:{first[1]}"
            raise DataError(
                f"{path}:{line}: {self.what.format(repr(identifier))}, first in {where}\n"
                "  dataset.on_duplicate=first keeps the first of each"
            )
        if len(self.lines) < KEPT:
            self.lines[identifier] = path, line


def united(parts: Iterable[tuple[Path, Iterable[Qrel]]]) -> list[Qrel]:
    """The judgments of several files, each pair once. Raises DataError where two files judge it differently."""
    judged: dict[tuple[str, str], Qrel] = {}
    for path, rows in parts:
        for row in rows:
            first = judged.setdefault((row.query_id, row.doc_id), row)
            if first != row:
                raise DataError(
                    f"{path}: {row.doc_id!r} is judged {row.relevance} for query {row.query_id!r}, "
                    f"and {first.relevance} in another language's file of the pool"
                )
    return list(judged.values())
