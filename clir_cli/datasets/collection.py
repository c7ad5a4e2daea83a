"""What every test collection has, whatever its files look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from clir_cli.text.languages import language
from clir_cli.types import neutral


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
    queries: Literal["judged", "all"] | str | tuple[str | int, ...] = "judged"  # or a file of query_ids, or ids
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

    def __post_init__(self) -> None:
        if not isinstance(self.queries, str):  # the command line reads [11,237] as numbers
            object.__setattr__(self, "queries", tuple(map(str, self.queries)))
        for code in (self.query_lang, *self.doc_langs):
            language(code)
        if len(set(self.doc_langs)) != len(self.doc_langs):
            raise ValueError(f"doc_lang names a language twice: {'+'.join(self.doc_langs)}")
        for name in ("limit_queries", "sample_docs"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

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
