"""Queries written for every document before it is indexed, in the languages of those who will ask (xQG)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from clir_cli.errors import ConfigError, DataError, MissingModel, RunError
from clir_cli.lines import parse_id, parse_object, read_lines
from clir_cli.models import hub
from clir_cli.text import truncation
from clir_cli.text.languages import language
from clir_cli.types import LLM, Text, content, model, neutral, searched

if TYPE_CHECKING:
    from clir_cli.steps import Counts

Queries: TypeAlias = dict[str, list[str]]  # language -> queries
IDS = ("doc_id", "docid", "id", "_id")
FIELDS = ("queries", "generated_queries")  # the second one: the files that the authors of xQG released
_NUMBERING = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):])\s+")


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """What the queries of a document do for it; subclasses say where they come from.

    `concat_text`: they stand behind its text, each in its own language (doc2query, Nogueira et al. 2019); for any
    retriever. `mean` and `weighted` are for retrievers with one vector per text: the mean of the document's vector and
    its queries', or (1 - alpha) * document + alpha * (sum of the queries) as in xQG (Zhuang et al. 2023); the queries
    are encoded as queries are.
    """

    langs: tuple[str, ...] | None = None  # of the queries; null: the language of the topics
    n: int = 5  # queries per document and language (5 in xQG)
    aggregate: Literal["concat_text", "mean", "weighted"] = searched("concat_text")
    alpha: float = searched(0.01)  # of weighted (0.01 in xQG, with 35 queries a document)

    def __post_init__(self) -> None:
        for lang in self.langs or ():
            language(lang)
        if self.n < 1 or not 0 <= self.alpha <= 1 or self.langs == ():
            raise ValueError(
                f"n must be at least 1, alpha from 0 to 1 and langs not empty; got n={self.n}, alpha={self.alpha}, langs={self.langs}"
            )

    @property
    def combination(self) -> dict[str, Any]:
        """What decides how queries and document become one, once the queries are there."""
        return {"aggregate": self.aggregate, **({"alpha": self.alpha} if self.aggregate == "weighted" else {})}


@dataclass(frozen=True, kw_only=True)
class ProvidedQueries(Expansion):
    """Queries from a file, one JSON object a line: {"doc_id": ..., "queries": {"sw": ["...", ...], ...}}.

    The keys docid and generated_queries are read as well. An id may be a passage's: `doc_id#number`, from 0.
    """

    file: str = content()  # .gz too
    missing: Literal["error", "count"] = "error"  # a document without queries: refused, or indexed as it is and counted

    def read(self, langs: Sequence[str]) -> Iterator[tuple[str, Queries]]:
        """Every id of the file with its first `n` queries per language. DataError names a line that does not parse."""
        path = Path(self.file).expanduser()
        for number, line in read_lines(path, "retrieve.expansion.file"):
            row = parse_object(path, number, line)
            name = next((key for key in IDS if key in row), "")
            given = next((row[key] for key in FIELDS if key in row), None)
            if not name or not isinstance(given, dict):
                raise DataError(
                    f'{path}:{number}: expected {{"doc_id": ..., "queries": {{"sw": ["..."]}}}}, found {", ".join(row)}'
                )
            found = {lang: given.get(lang, []) for lang in langs}
            if not all(isinstance(qs, list) and all(isinstance(q, str) for q in qs) for qs in found.values()):
                raise DataError(f"{path}:{number}: the queries of a language are a list of texts")
            yield parse_id(path, number, name, row[name]), {lang: qs[: self.n] for lang, qs in found.items()}


@dataclass(frozen=True, kw_only=True)
class Seq2SeqQueries(Expansion):
    """Queries by an encoder-decoder that was trained to write them (mT5: Zhuang et al. 2023), sampled with a seed."""

    engines: ClassVar[tuple[str, ...]] = ("transformers",)  # whose versions decide the result

    model: str = model()
    revision: str | None = None
    prompt: str = "Generate a {lang} question for this passage: {text}"  # lang: the language's English name
    max_tokens: int = 512  # of the prompt; the text is cut, and the cut ones are counted
    max_new_tokens: int = 64
    top_k: int = 50
    temperature: float = 1.0
    seed: int = 0
    batch: int = 16  # prompts sampled together: another number draws other queries
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = neutral("auto")  # auto: the GPU if there is one

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_prompt(self.prompt, {"lang", "text"})
        if min(self.max_tokens, self.max_new_tokens, self.top_k, self.batch) < 1 or self.temperature <= 0:
            raise ValueError("max_tokens, max_new_tokens, top_k and batch are at least 1, temperature more than 0")

    @property
    def reads(self) -> int:
        """Tokens of a prompt."""
        return self.max_tokens

    def write(self, texts: Sequence[Text], langs: Sequence[str]) -> tuple[list[Queries], Counts]:
        """Per text `n` queries in each language, and counts. The same texts in one call get the same queries."""
        import torch

        tokenizer, net = _load(hub.folder(self.model, self.revision), self.dtype, self.device)
        found: list[Queries] = [{} for _ in texts]
        asked = [(i, lang) for i in range(len(texts)) for lang in langs]
        cut: dict[int, bool] = {}
        cpu = torch.device("cpu")
        devices = [] if net.device == cpu else [net.device]
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            for begin in range(0, len(asked), self.batch):
                some = asked[begin : begin + self.batch]
                prompts = [self.prompt.format(lang=language(to).name, text=texts[i].text) for i, to in some]
                lengths = [len(ids) for ids in tokenizer(prompts, verbose=False)["input_ids"]]
                cut |= {i: length > self.max_tokens for (i, _), length in zip(some, lengths, strict=True)}
                batch = tokenizer(
                    prompts, truncation=True, max_length=self.max_tokens, padding=True, return_tensors="pt"
                ).to(net.device)
                torch.manual_seed(_seed(self.seed, texts[some[0][0]].id, some[0][1]))
                written = net.generate(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=True,
                    top_k=self.top_k, temperature=self.temperature, num_return_sequences=self.n, num_beams=1,
                    max_new_tokens=self.max_new_tokens,
                )  # fmt: skip
                said = tokenizer.batch_decode(written, skip_special_tokens=True)
                for at, (i, lang) in enumerate(some):
                    found[i][lang] = _clean(said[at * self.n : (at + 1) * self.n])
        counts = truncation.by_language((text.lang, cut.get(i, False)) for i, text in enumerate(texts))
        return found, {**_counted(found, langs, self.n), **counts}


@dataclass(frozen=True, kw_only=True)
class LLMQueries(Expansion):
    """Queries by a language model that is told what to write; its answers are remembered over all experiments."""

    llm: LLM
    prompt: str = (
        "Write {n} different search queries in {lang} that the following text answers. "
        "Write one query per line and nothing else.\n\n{text}"
    )
    text_tokens: int = 512  # a longer text is cut, and counted
    max_tokens: int = 400  # of an answer
    max_failed: float = neutral(0.01)  # share of answers with an error; more of them fail the step

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_prompt(self.prompt, {"n", "lang", "text"})
        if self.text_tokens < 1 or self.max_tokens < 1:
            raise ValueError("text_tokens and max_tokens are at least 1")

    @property
    def gpus(self) -> int:
        return int(getattr(self.llm, "gpus", 0))

    @property
    def reads(self) -> int:
        """Tokens of a text."""
        return self.text_tokens

    def write(self, texts: Sequence[Text], langs: Sequence[str]) -> tuple[list[Queries], Counts]:
        """Per text up to `n` queries in each language, and counts; RunError where too many answers failed."""
        lengths = self.llm.count_tokens([text.text for text in texts])
        shown = self.llm.cut([text.text for text in texts], self.text_tokens)
        asked = [(i, lang) for i in range(len(texts)) for lang in langs]
        from clir_cli.types import Message

        prompts = [
            (Message("user", self.prompt.format(n=self.n, lang=language(lang).name, text=shown[i])),)
            for i, lang in asked
        ]
        answers = self.llm.generate(prompts, self.max_tokens)
        failed = [answer for answer in answers if answer.error is not None]
        if len(failed) > self.max_failed * len(answers):
            raise RunError(f"{len(failed)} of {len(answers)} expansions failed, for example: {failed[0].error}")
        found: list[Queries] = [{} for _ in texts]
        for (i, lang), answer in zip(asked, answers, strict=True):
            found[i][lang] = _clean(_NUMBERING.sub("", row) for row in answer.text.splitlines())[: self.n]
        cut = truncation.by_language(
            (text.lang, length > self.text_tokens) for text, length in zip(texts, lengths, strict=True)
        )
        spent = {
            "calls": len(answers), "calls_from_cache": sum(a.cached for a in answers), "failed": len(failed),
            "prompt_tokens": sum(a.prompt_tokens for a in answers), "output_tokens": sum(a.output_tokens for a in answers),
        }  # fmt: skip
        return found, {**_counted(found, langs, self.n), **spent, **cut}


def _check_prompt(prompt: str, names: set[str]) -> None:
    try:
        prompt.format_map(dict.fromkeys(names, ""))
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"prompt may hold {', '.join(sorted(names))} in braces only, got {prompt!r}") from error
    if "{text}" not in prompt:
        raise ValueError(f"prompt must hold {{text}}, got {prompt!r}")


def _seed(seed: int, *names: str) -> int:
    """A seed of a batch: the same for the same first text, whatever was written before."""
    said = json.dumps([seed, *names]).encode()
    return int.from_bytes(hashlib.blake2b(said, digest_size=7).digest(), "big")


def _clean(queries: Any) -> list[str]:
    """On one line each, without empty ones."""
    return [line for query in queries if (line := " ".join(query.split()))]


def _counted(found: Sequence[Queries], langs: Sequence[str], n: int) -> dict[str, int]:
    written = sum(len(queries) for of in found for queries in of.values())
    return {"written": written, "lacking": n * len(langs) * len(found) - written}


@lru_cache(maxsize=1)
def _load(folder: Path, dtype: str, device: str) -> tuple[Any, Any]:
    """Tokenizer and model, once per process."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # progress.py says what is done
    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        net = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(where)
        return AutoTokenizer.from_pretrained(folder), net
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingModel(f"{folder} does not load as a model that writes queries: {error}") from error


# What is made of them -------------------------------------------------------------------------------------------------


def appended(text: Text, queries: Mapping[str, Sequence[str]]) -> Text:
    """The text with its queries behind it, each language's in a part of its own."""
    parts = dict(text.parts)
    for lang, given in queries.items():
        if given:
            parts[lang] = "\n".join([*([parts[lang]] if parts.get(lang) else []), *given])
    return Text(text.id, tuple(parts.items()))


def to_fields(queries: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Queries as the fields of a docstore's document."""
    return {lang: "\n".join(given) for lang, given in queries.items()}


def from_fields(fields: Mapping[str, str]) -> Queries:
    return {lang: rows.split("\n") if rows else [] for lang, rows in fields.items()}


def check_aggregate(expansion: Expansion, has_vectors: bool, retriever: str) -> None:
    """Raise ConfigError where vectors are to be combined and there are none."""
    if expansion.aggregate != "concat_text" and not has_vectors:
        raise ConfigError(
            f"retrieve.expansion.aggregate={expansion.aggregate}: {retriever} does not keep one vector per text; "
            "choose concat_text"
        )
