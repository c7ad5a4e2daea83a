"""Vectors from any server that speaks OpenAI's embeddings: OpenAI itself, vLLM, text-embeddings-inference, Ollama, ..."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clir_cli.errors import RunError
from clir_cli.models import encoding
from clir_cli.models.server import NoAnswer, Server, estimate_tokens
from clir_cli.progress import say, track
from clir_cli.retrievers.single_vector import SingleVector, Task
from clir_cli.search import vectors
from clir_cli.search.postprocess import unit
from clir_cli.types import Run, Text, neutral, searched

if TYPE_CHECKING:
    import numpy as np
    from openai import AsyncOpenAI


@dataclass(frozen=True, kw_only=True)
class Served(SingleVector):
    """Vectors by a model behind an OpenAI-compatible server, ranked as `SingleVector` says.

    How it is asked, and what is tried again, says `server.Server`. Texts go out in batches of about `batch_tokens`; a
    text that is longer than the model reads is refused by the server or cut by it, as the server is set up. A text
    without words gets a vector of zeros and is not sent. The key stands in no message and no file.
    """

    model: str  # the name that is sent
    dimensions: int | None = None  # sent where it is not null: the server shortens its vectors
    served_revision: str | None = None  # what the server runs under that name, where you know it; only for the identity
    query_prefix: str = searched("")  # put before the text byte by byte
    doc_prefix: str = ""
    extra: Mapping[str, object] = field(default_factory=dict)  # sent in the request as it is
    languages: tuple[str, ...] | None = neutral(None)  # that the model reads; null: many, nothing is refused
    base_url: str | None = neutral(None)  # e.g. http://127.0.0.1:8000/v1; null: OpenAI's
    api_key_env: str | None = neutral(
        "OPENAI_API_KEY"
    )  # environment variable with the key; null: the server wants none
    batch_tokens: int = neutral(8_000)  # estimated tokens of a request
    batch_texts: int = neutral(128)  # and texts at most
    max_concurrency: int = neutral(8)
    timeout: float = neutral(60.0)  # seconds for one try
    retries: int = neutral(6)
    backoff: float = neutral(0.5)  # seconds before the first retry, doubled each time up to a minute

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.max_concurrency, self.batch_tokens, self.batch_texts) < 1 or self.timeout <= 0:
            raise ValueError("max_concurrency, batch_tokens, batch_texts and timeout must be positive")
        if self.retries < 0 or self.backoff < 0:
            raise ValueError("retries and backoff must not be negative")
        if self.dimensions is not None and self.dimensions < 1:
            raise ValueError(f"dimensions must be at least 1, got {self.dimensions}")

    @property
    def name(self) -> str:
        return self.model

    @property
    def shard_docs(self) -> int:
        """Few, because what is paid for is kept shard by shard."""
        return 2_000

    @cached_property
    def server(self) -> Server:
        return Server(
            "retriever", self.model, self.base_url, self.api_key_env, self.max_concurrency, self.timeout, self.retries, self.backoff,
            {400: "the request does not suit the server: a text longer than the model reads, or retriever.dimensions"},
        )  # fmt: skip

    @cached_property
    def served(self) -> Counter[str]:
        """The model as the server named it, counted over this object's answers."""
        return Counter()

    def check(self) -> None:
        """Raise ConfigError if the key is not set, or is none."""
        self.server.key()

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for a language that is not in `languages`."""
        encoding.check_languages("retriever", self.model, self.languages, [*query_langs, *doc_langs])

    def index_shard(self, docs: Sequence[Text], folder: Path) -> None:
        """As `SingleVector.index_shard`; `served.json` names the models that answered."""
        self.served.clear()
        super().index_shard(docs, folder)
        (folder / "served.json").write_text(json.dumps(sorted(self.served)) + "\n", encoding="utf-8")

    def search(self, folder: Path, queries: Sequence[Text], depth: int, derived: Path | None = None) -> Run:
        """As `SingleVector.search`. Raises RunError where another model answers than the one that made the index."""
        self.served.clear()
        run = super().search(folder, queries, depth, derived)
        files = [path / "served.json" for path in vectors.shard_folders(folder)]
        made = {name for file in files for name in json.loads(file.read_text(encoding="utf-8"))}
        if made and (others := sorted(set(self.served) - made)):
            raise RunError(
                f"the index was made by {', '.join(sorted(made))}, and for the queries the server answers as {others[0]}: "
                "their vectors cannot be compared\n  serve the same model, or set retriever.served_revision and index again"
            )
        return run

    def encode(self, texts: Sequence[Text], task: Task) -> tuple[np.ndarray, Mapping[str, float]]:
        """Vectors (texts, dimensions) float32 and counts: texts, empty, calls, retried, tokens and prompt_tokens as billed."""
        import numpy as np

        prefix = self.query_prefix if task == "query" else self.doc_prefix
        distinct = list(dict.fromkeys(prefix + text.text for text in texts if text.text.strip()))
        batches, before = self._batches(distinct), self.server.retried
        shown = iter(track(range(len(batches)), len(batches), f"asking {self.model}", "requests"))
        next(shown, None)
        answers = self.server.ask_all(batches, self._ask, lambda: next(shown, None))
        rows = [row for found, _ in answers for row in found]
        widths = {len(row) for row in rows}
        if len(widths) > 1 or (self.dimensions and widths - {self.dimensions}):
            asked = f", asked for {self.dimensions} (retriever.dimensions)" if self.dimensions else ""
            raise RunError(f"{self.model} gives vectors of {', '.join(map(str, sorted(widths)))} numbers{asked}")
        table = np.zeros((len(rows) + 1, max(widths, default=self.dimensions or 1)), np.float32)  # the last: no words
        table[:-1] = rows or table[:-1]
        at = {text: i for i, text in enumerate(distinct)}
        found = table[[at.get(prefix + text.text, -1) for text in texts]]
        tokens = sum(used for _, used in answers)
        return unit(found) if self.normalize else found, {
            "texts": len(texts), "empty": sum(not text.text.strip() for text in texts), "calls": len(batches),
            "retried": self.server.retried - before, "tokens": tokens, "prompt_tokens": tokens,
        }  # fmt: skip

    def _batches(self, texts: Sequence[str]) -> list[list[str]]:
        batches: list[list[str]] = []
        tokens = 0
        for text in texts:
            cost = estimate_tokens(text)
            if not batches or tokens + cost > self.batch_tokens or len(batches[-1]) == self.batch_texts:
                batches.append([])
                tokens = 0
            batches[-1].append(text)
            tokens += cost
        return batches

    async def _ask(self, client: AsyncOpenAI, texts: list[str]) -> tuple[list[list[float]], int]:
        """The texts' vectors and the tokens that they cost."""
        sizes: dict[str, Any] = {} if self.dimensions is None else {"dimensions": self.dimensions}
        raw = await client.embeddings.with_raw_response.create(
            model=self.model, input=texts, encoding_format="float", **sizes, extra_body=dict(self.extra) or None
        )
        try:
            said = json.loads(raw.text)
            found = sorted(said["data"], key=lambda row: int(row["index"]))
            rows = [[float(x) for x in row["embedding"]] for row in found]
            tokens = int((said.get("usage") or {}).get("prompt_tokens") or 0)
            named = str(said.get("model") or self.model)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise NoAnswer(f"the answer holds no embeddings: {raw.text!r}") from None
        if [row["index"] for row in found] != list(range(len(texts))) or not all(rows):
            raise NoAnswer(f"{len(texts)} texts were sent, and the answer holds {len(rows)} embeddings, or some twice")
        self._watch(named)
        return rows, tokens

    def _watch(self, named: str) -> None:
        if named not in self.served and (self.served or named != self.model):
            first: Any = next(iter(self.served), None)
            then = f", after {first}: one index of two models" if first else ""
            say(f"warning: {self.model} was asked, and {named} answered{then}")
        self.served[named] += 1
