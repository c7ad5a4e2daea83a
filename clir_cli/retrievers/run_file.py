"""Somebody else's ranking, from a TREC run file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clir_cli.types import Run, content


@dataclass(frozen=True)
class RunFile:
    """The ranking in a TREC file, ordered by score as trec_eval orders it; the path may hold {query_lang} and {doc_lang}."""

    path: str = content()
    order: Literal["score", "rank", "any"] = "score"  # score: refuse a file whose rank column disagrees
    duplicates: Literal["error", "first"] = "error"

    def file(self, query_lang: str, doc_lang: str) -> Path:
        return Path(self.path.format(query_lang=query_lang, doc_lang=doc_lang)).expanduser().absolute()

    def read(self, path: Path, tie_break: Literal["doc_id", "hash"]) -> Run:
        from clir_cli.runs import read_trec

        return read_trec(path, self.order, self.duplicates, tie_break, "retriever.")
