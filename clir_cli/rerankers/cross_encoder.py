"""Cross-encoders: query and document are read together by a trained classifier."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from clir_cli import progress
from clir_cli.errors import ConfigError, LanguageError, RunError
from clir_cli.files import read_json
from clir_cli.models import assembly, encoding, hub
from clir_cli.models.composition import Composition
from clir_cli.text import passages, truncation
from clir_cli.text.languages import LANGUAGES
from clir_cli.types import Candidates, Journal, Run, Text, added, model, neutral

Pair = tuple[Text, Text]  # a query and a document


class Reader(NamedTuple):
    """A loaded model and the pairs that it reads."""

    loaded: Any
    at: Sequence[int]
    options: Mapping[str, Any]  # of its `preprocess`


@dataclass(frozen=True)
class PairReranker:
    """A base: order candidates by the number that a model gives to (query, document), whatever else it is given."""

    engines: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers")  # whose versions decide the result

    model: str = model()  # hub id, local folder or package:NAME
    revision: str | None = None  # of a hub model; null: what models.lock or the hub's main says
    max_tokens: int = 512  # query and document together; only the document is cut, and the cut ones are counted
    languages: tuple[str, ...] | None = neutral(None)  # that the model reads; null: many, nothing is refused
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the weights; scores are float32
    trust_remote_code: bool = False  # run the Python files of the model's repository; only with a commit as revision
    device: str = neutral("auto")  # auto: the GPU if there is one
    batch_tokens: int | None = neutral(None)  # padded tokens a batch; null: 1024 on a CPU, 32768 on a GPU

    def __post_init__(self) -> None:
        encoding.check_source(self.model, self.revision, self.trust_remote_code)
        for name in ("max_tokens", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    # What a subclass says -----------------------------------------------------------------------------------------------

    def readers(self, pairs: Sequence[Pair]) -> Iterator[Reader]:
        """Who reads which pairs; together all of them, each once."""
        raise NotImplementedError

    def _room(self, loaded: Any, queries: Sequence[str]) -> list[int]:
        """Tokens that each query leaves for a document, out of `max_tokens`."""
        raise NotImplementedError

    # What they share ----------------------------------------------------------------------------------------------------

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for a language that is not in `languages`."""
        encoding.check_languages("reranker", self.model, self.languages, [*query_langs, *doc_langs])

    def token_spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Where the tokens of each text are, for passages of tokens. ConfigError for a slow tokenizer."""
        from transformers import AutoTokenizer

        folder = hub.folder(self.model, self.revision)
        with encoding.loading(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=self.trust_remote_code)
        return passages.token_spans(tokenizer, texts)

    def rerank(self, candidates: Sequence[Candidates], journal: Journal) -> Run:
        """The candidates of every query by falling score, equal scores by doc_id descending.

        The journal gets calls (pairs), texts, texts_cut and prompt_tokens of each query. Raises ConfigError for a query
        that leaves a document no room, RunError for a score that is no number.
        """
        import pandas as pd

        from clir_cli import runs

        pairs = [(asked.query, doc) for asked in candidates for doc in asked.docs]
        scores = [0.0] * len(pairs)

        def done() -> Iterator[int]:
            for loaded, at, options in self.readers(pairs):
                self._check_queries(loaded, list(dict.fromkeys(pairs[i][0] for i in at)))
                texts = [(query.text, doc.text) for query, doc in (pairs[i] for i in at)]
                for batch in encoding.batches(loaded, texts, "scores", self.batch_tokens, self.max_tokens, **options):
                    for place, score, tokens, cut in zip(
                        batch.at, batch.values.flatten().tolist(), batch.tokens, batch.cut, strict=True
                    ):
                        scores[at[place]] = score
                        query, doc = pairs[at[place]]
                        languages = truncation.by_language([(doc.lang, cut)])
                        journal.add(query.id, calls=1, texts=1, texts_cut=cut, prompt_tokens=tokens, **languages)
                        yield place

        for _ in progress.track(done(), len(pairs), "rerank", "documents"):
            pass
        for (query, doc), score in zip(pairs, scores, strict=True):
            if not math.isfinite(score):
                raise RunError(
                    f"{self.model} scores document {doc.id} {score} for query {query.id}; try reranker.dtype=float32"
                )
        rows = [(query.id, doc.id, score) for (query, doc), score in zip(pairs, scores, strict=True)]
        return runs.ranked(pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]))

    def _check_queries(self, loaded: Any, queries: Sequence[Text]) -> None:
        for query, room in zip(queries, self._room(loaded, [query.text for query in queries]), strict=True):
            if room < 1:
                raise ConfigError(
                    f"query {query.id} has {self.max_tokens - room} tokens and reranker.max_tokens={self.max_tokens} leaves no room for a document\n"
                    "  choose shorter topics (rerank.query_fields=[title]) or raise reranker.max_tokens, if the model has the positions"
                )


@dataclass(frozen=True)
class CrossEncoder(PairReranker):
    """Order candidates by the score that a sequence classifier with one label gives to (query, document).

    The score is the raw logit: a sigmoid orders alike but makes ties of the best documents (float32 ends at 1 - 6e-8).
    """

    # Models that are told a language: a pair has one, that of its document or of its query
    language_of: Literal["doc", "query"] = added("doc", before="doc")
    codes: Literal["none", "xmod"] = added("none", before="none")  # whose names of languages the model knows
    language_names: Mapping[str, str] | None = added(None, before=None)  # {yo: sw_KE}: names besides those of `codes`

    # How some models are put together: averaged, then the pair's language adapter, then the task's
    average: tuple[str, ...] = added(
        (), before=(), role="content"
    )  # folders: the mean of the model's and their weights
    language_adapters: Mapping[str, str | None] | None = added(
        None, before=None, role="content"
    )  # {sw: PATH, en: null}
    adapters: tuple[str, ...] = added(
        (), before=(), role="content"
    )  # in order: folders of peft or AdapterHub, .safetensors differences

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codes == "none" and self.language_names:
            raise ValueError("language_names are the names of codes=xmod; say so")

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for a language that is not in `languages`, or that the model has no adapter for."""
        super().check_languages(query_langs, doc_langs)
        known = self._known_languages()
        for lang in doc_langs if self.language_of == "doc" else query_langs:
            name = self._language_name(lang)
            if name is not None and known is not None:
                self._check_adapter(lang, name, known)
            if self.language_adapters is not None:
                self._parts(lang)

    def readers(self, pairs: Sequence[Pair]) -> Iterator[Reader]:
        groups: dict[str, list[int]] = {} if pairs else {"": []}
        for i, (query, doc) in enumerate(pairs):
            groups.setdefault(self._lang(doc if self.language_of == "doc" else query), []).append(i)
        for lang, at in sorted(groups.items()):
            loaded = self._load(lang)
            limit = encoding.limit(loaded, self.max_tokens, "reranker.max_tokens")
            if at and (name := self._language_name(lang)) is not None:
                self._check_adapter(lang, name, loaded[0].model.config.languages)
                assembly.set_language(loaded, "xmod", name)
            yield Reader(
                loaded, at, {"processing_kwargs": {"text": {"max_length": limit, "truncation": "only_second"}}}
            )

    def _load(self, lang: str) -> Any:
        loaded = encoding.cross_encoder(
            hub.folder(self.model, self.revision),
            dtype=self.dtype,
            on=encoding.device(self.device),
            trust_remote_code=self.trust_remote_code,
            parts=self._parts(lang),
        )
        told = assembly.language_input(loaded) == "xmod"
        if told != (self.codes == "xmod"):
            raise ConfigError(
                f"{self.model} "
                + ("reads a pair in a language that it is told: " if told else "is told no language: ")
                + f"set reranker.codes={'xmod' if told else 'none'}"
            )
        return loaded

    def _room(self, loaded: Any, queries: Sequence[str]) -> list[int]:
        if not queries:
            return []
        room = self.max_tokens - loaded.tokenizer.num_special_tokens_to_add(pair=True)
        counts = loaded.tokenizer(list(queries), add_special_tokens=False, verbose=False)["input_ids"]
        return [room - len(ids) for ids in counts]

    def _lang(self, text: Text) -> str:
        """The language that decides how a pair is read; "" where none does."""
        if self.codes == "none" and self.language_adapters is None:
            return ""
        if len({lang for lang, _ in text.parts}) > 1:
            raise LanguageError(
                f"{text.id} is shown in {text.lang}, and {self.model} reads a pair in one language: let the view show one"
            )
        return text.lang

    def _language_name(self, lang: str) -> str | None:
        """What X-MOD calls a language; None if the model is told none. Raises LanguageError where it has no name for it."""
        if self.codes == "none":
            return None
        row = LANGUAGES.get(lang)
        name = (self.language_names or {}).get(lang) or (row and row.xmod)
        if not name:
            raise LanguageError(
                f"reranker.model {self.model} has an adapter per language, and {self.codes} none for {lang!r}\n"
                f"  read it by another's, knowingly: 'reranker.language_names={{{lang}: NAME}}', choose another model, or "
                f"reranker.language_of={'query' if self.language_of == 'doc' else 'doc'}"
            )
        return str(name)

    def _known_languages(self) -> list[str] | None:
        """The adapters that X-MOD's folder has; None where it is not on this machine yet, or no X-MOD."""
        if self.codes == "none" or not is_here(self.model, self.revision):
            return None
        path = hub.folder(self.model, self.revision) / "config.json"
        return read_json(path).get("languages") if path.is_file() else None

    def _check_adapter(self, lang: str, name: str, known: Sequence[str]) -> None:
        if name not in known:
            raise LanguageError(
                f"{self.model} has no adapter {name!r}; it has {', '.join(known)}\n"
                f"  read {lang} by another's adapter, knowingly: 'reranker.language_names={{{lang}: NAME}}'"
            )

    def _parts(self, lang: str) -> Composition:
        """What the model is made of for a language. Raises LanguageError where it has adapters, and none for this one."""
        first: tuple[str, ...] = ()
        if self.language_adapters is not None and lang:
            if lang not in self.language_adapters:
                raise LanguageError(
                    f"reranker.language_adapters has none for {lang!r}, only for {', '.join(sorted(self.language_adapters))}\n"
                    f"  read it without one, knowingly: 'reranker.language_adapters={{..., {lang}: null}}'"
                )
            own = self.language_adapters[lang]
            first = () if own is None else (own,)
        return Composition(
            average=tuple(_path(path) for path in self.average),
            adapters=tuple(_path(path) for path in (*first, *self.adapters)),
        )


def is_here(name: str, revision: str | None) -> bool:
    """Whether the model is on this machine, so that it can be looked into before anything runs."""
    return hub.local_folder(name) is not None or hub.cached_revision(name, revision) is not None


def _path(path: str) -> Path:
    found = Path(path).expanduser()
    if not found.exists():
        raise ConfigError(f"{path} does not exist; a hub repository is first downloaded: hf download {path}")
    return found.resolve()
