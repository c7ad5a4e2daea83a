"""Dense retrieval: one vector per text, documents ranked by inner product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from clir_cli.errors import ConfigError, LanguageError
from clir_cli.models import assembly, encoding, hub
from clir_cli.retrievers.single_vector import SingleVector, Task
from clir_cli.text.languages import LANGUAGES
from clir_cli.types import Text, added, model, neutral, searched

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Adapter:
    """A peft adapter (LoRA and its kin), merged into the model's weights."""

    engines: ClassVar[tuple[str, ...]] = ("peft",)

    model: str = model()  # hub id or local folder
    revision: str | None = None

    def __post_init__(self) -> None:
        encoding.check_source(self.model, self.revision, trust_remote_code=False)

    @property
    def folder(self) -> Path:
        return hub.folder(self.model, self.revision)


@dataclass(frozen=True)
class Dense(SingleVector):
    """Vectors by a sentence encoder, ranked as `SingleVector` says.

    Any model that sentence-transformers loads, or a plain transformers encoder with `pooling`; it must be on this machine
    or on the hub. `clir check --load` shows what such a model is given.
    """

    engines: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers")  # whose versions decide the result

    model: str = model()  # hub id, local folder or package:NAME
    revision: str | None = None  # of a hub model: commit, tag or branch; null: what models.lock or the hub's main says
    pooling: Literal["model", "mean", "cls", "last", "max"] = (
        "model"  # model: what its folder says; last: of the closing token
    )
    query_prefix: str | None = searched(None)  # null: what the model's folder declares, mostly nothing; "": nothing
    doc_prefix: str | None = None  # put before the text byte by byte
    query_tokens: int | None = searched(None)  # longer texts are cut; null: the model's own limit
    doc_tokens: int | None = None
    languages: tuple[str, ...] | None = neutral(None)  # that the model reads; null: many, nothing is refused
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = (
        "float32"  # of the weights; int8: the fastest on a CPU with VNNI
    )
    compile: bool = False  # some 1.3 x faster on a CPU after half a minute of compiling; changes the last digits
    trust_remote_code: bool = False  # run the Python files of the model's repository; only with a commit as revision
    batch_tokens: int | None = neutral(None)  # padded tokens a batch; null: 1024 on a CPU, 32768 on a GPU

    # What some models are given beside the text
    query_suffix: str = added("", before="", role="searched")  # put behind the text; survives where the text is cut
    doc_suffix: str = added("", before="")
    query_task: str | None = added(None, before=None, role="searched")  # as the model's own code calls it (jina-v3)
    doc_task: str | None = added(None, before=None)
    pool_prefix: bool | None = added(None, before=None)  # false: the prefix is read but not pooled; null: by the folder
    padding_side: Literal["left", "right"] | None = added(None, before=None)  # null: what the tokenizer says

    # Models that are told the language of a text
    codes: Literal["none", "nllb", "m2m100", "xmod"] = added("none", before="none")  # whose names of languages
    language_names: Mapping[str, str] | None = added(None, before=None)  # {gsw: de_CH}: names besides those of `codes`
    by_lang: Mapping[str, Any] | None = added(None, before=None)  # {sw: a Dense node}: who encodes a language's texts

    # How some models are put together
    layer: int | None = added(None, before=None)  # hidden layer to pool: 0 the embeddings, -1 the last; null: the last
    query_adapter: Adapter | None = added(None, before=None, role="searched")  # noqa: RUF009 - merged for queries
    doc_adapter: Adapter | None = added(None, before=None)  # noqa: RUF009 - merged for documents
    average: tuple[str, ...] = added(
        (), before=(), role="content"
    )  # folders: the mean of the model's and their weights
    projection: str | None = added(None, before=None, role="content")  # a .safetensors with linear.weight (out, in)
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = added(None, before=None)  # null: by transformers
    python: str | None = neutral(None)  # an interpreter with other package versions, for a model that needs them

    def __post_init__(self) -> None:
        super().__post_init__()
        encoding.check_source(self.model, self.revision, self.trust_remote_code)
        for name in ("query_tokens", "doc_tokens", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.codes == "none" and self.language_names:
            raise ValueError("language_names are the names of codes=nllb, m2m100 or xmod; say which")
        if bool(self.query_suffix) != bool(self.doc_suffix) and self.pooling == "last":
            raise ValueError(
                "pooling=last pools a text's closing token: give both query_suffix and doc_suffix, or none"
            )
        for lang, other in (self.by_lang or {}).items():
            if not isinstance(other, Dense) or other.by_lang:
                raise ValueError(f"by_lang.{lang} must be a Dense node of its own, without by_lang")

    @property
    def name(self) -> str:
        return self.model

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for a language that is not in `languages`, or that the model has no name for."""
        for lang in [*query_langs, *doc_langs]:
            reader = self.reader_of(lang)
            encoding.check_languages("retriever", reader.model, reader.languages, [lang])
            reader.language_name(lang)

    def language_name(self, lang: str) -> str | None:
        """What the model calls a language; None if it is told none. Raises LanguageError where it has no name for it."""
        if self.codes == "none":
            return None
        column = assembly.COLUMNS[self.codes]
        row = LANGUAGES.get(lang)
        name = (self.language_names or {}).get(lang) or (row and getattr(row, column))
        if not name:
            raise LanguageError(
                f"retriever.model {self.model} must be told the language of a text, and {self.codes} has no name for {lang!r}\n"
                f"  read it as a language it has, knowingly: 'retriever.language_names={{{lang}: NAME}}', or choose another model"
            )
        return str(name)

    def encode(self, texts: Sequence[Text], task: Task) -> tuple[np.ndarray, dict[str, int]]:
        """Vectors (texts, dimensions) float32 and how many texts, tokens and cut texts there were."""
        parts: dict[str, list[int]] = {}
        for i, text in enumerate(texts):
            parts.setdefault(self.lang_of(text), []).append(i)
        width = _width(self.reader_of(min(parts, default="")).load(task, self._together))

        def batches() -> Iterator[encoding.Batch]:
            for lang, at in sorted(parts.items()):
                reader = self.reader_of(lang)
                loaded = reader.load(task, self._together)
                if (found := _width(loaded)) != width:
                    raise ConfigError(f"retriever.by_lang.{lang}: vectors of {found} numbers, the others' have {width}")
                for batch in reader._batches(loaded, [texts[i].text for i in at], task, lang):
                    yield batch._replace(at=[at[i] for i in batch.at])

        return self.collected(batches(), texts, task, width, self.query_tokens)

    def load(self, task: Task = "document", together: int = 1) -> Any:
        """The sentence-transformers model for queries or documents, kept in memory with the last `together` ones."""
        adapter = self.query_adapter if task == "query" else self.doc_adapter
        if adapter is not None:
            assembly.check_base(self.model, adapter.folder)
        return encoding.encoder(
            hub.folder(self.model, self.revision),
            pooling=self.pooling,
            dtype=self.dtype,
            compiled=self.compile,
            on=encoding.device(self.device),
            trust_remote_code=self.trust_remote_code,
            parts=assembly.Assembly(
                layer=self.layer,
                adapter=None if adapter is None else adapter.folder,
                average=tuple(_folder(path) for path in self.average),
                projection=None if self.projection is None else Path(self.projection).expanduser(),
                pool_prefix=self.pool_prefix,
                padding_side=self.padding_side,
                attention=self.attention,
                codes=self.codes,
                suffixed=bool(self.suffix(task)),
            ),
            together=together,
        )

    def limit(self, loaded: Any, task: Task) -> int | None:
        """Tokens per text. Raises ConfigError for more than the model has positions for."""
        asked = self.query_tokens if task == "query" else self.doc_tokens
        name = "retriever.query_tokens" if task == "query" else "retriever.doc_tokens"
        return encoding.limit(loaded, asked, name, getattr(loaded[0], f"{task}_length", None))

    def prefix(self, loaded: Any, task: Task) -> str:
        """What stands before every text: as given, else what the folder declares."""
        given = self.query_prefix if task == "query" else self.doc_prefix
        if given is not None:
            return given
        names = (
            ["query"] if task == "query" else ["document", "passage", "corpus"]
        )  # as sentence-transformers calls them
        if own := self.query_task if task == "query" else self.doc_task:
            names.insert(0, own)
        return next((loaded.prompts[name] for name in names if loaded.prompts.get(name)), "")

    def suffix(self, task: Task) -> str:
        return self.query_suffix if task == "query" else self.doc_suffix

    def prepare(self, loaded: Any, task: Task, lang: str) -> dict[str, Any]:
        """Tell the model the language of the texts that follow; returns how they are to be preprocessed."""
        if (name := self.language_name(lang)) is not None:
            assembly.set_language(loaded, self.codes, name)
        if suffix := self.suffix(task):
            encoding.check_suffix(
                loaded, suffix, "retriever.query_suffix" if task == "query" else "retriever.doc_suffix"
            )
        limit = self.limit(loaded, task)
        options = {} if limit is None else {"processing_kwargs": {"text": {"max_length": limit}}}
        own = self.query_task if task == "query" else self.doc_task
        return {"prompt": self.prefix(loaded, task), "task": own or task, **options}

    def _batches(self, loaded: Any, texts: Sequence[str], task: Task, lang: str) -> Iterator[encoding.Batch]:
        limit, options = self.limit(loaded, task), self.prepare(loaded, task, lang)
        if suffix := self.suffix(task):
            closed = [encoding.closed(loaded, text, options["prompt"], suffix, limit) for text in texts]
            cut = [was_cut for _, was_cut in closed]
            found = encoding.batches(
                loaded, [text for text, _ in closed], "sentence_embedding", self.batch_tokens, limit, **options
            )
            for batch in found:
                yield batch._replace(cut=[cut[i] for i in batch.at])
            return
        yield from encoding.batches(loaded, texts, "sentence_embedding", self.batch_tokens, limit, **options)

    def lang_of(self, text: Text) -> str:
        """The language that decides how a text is encoded; "" where none does."""
        langs = {lang for lang, _ in text.parts}
        routed = langs & set(self.by_lang or {})
        if self.codes == "none" and not routed:
            return ""
        if len(langs) > 1:
            raise LanguageError(
                f"{text.id} is shown in {text.lang}, and {self.model} reads a text in one language: let the view show one"
            )
        return min(langs)

    def reader_of(self, lang: str) -> Dense:
        return (self.by_lang or {}).get(lang, self)  # type: ignore[no-any-return]

    @property
    def _together(self) -> int:
        return 1 + len(self.by_lang or {})


def _width(loaded: Any) -> int:
    return int(loaded.truncate_dim or loaded.get_embedding_dimension())


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"retriever.average: {path} is no folder; a hub model is first downloaded: hf download {path}"
        )
    return folder.resolve()
