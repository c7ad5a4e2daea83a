"""Any collection of the ir_datasets catalogue (MacAvaney et al. 2021) by its id: the only file that knows the package."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from clir_cli.datasets import download
from clir_cli.datasets.collection import Source, TestCollection, united
from clir_cli.errors import ClirError, ConfigError, DataError, LanguageError, MissingData
from clir_cli.progress import say
from clir_cli.types import Doc, Qrel, Query

PLACE = re.compile(r"\{([^{}]*)\}")
JUDGMENTS = "qrels"
NOT_TEXT = {
    "doc_id", "query_id", "url", "time", "date", "cc_file", "marked_up_doc", "source", "translation_lang", "report",
    "report_url", "report_date", "type", "qtype", "query_type",
}  # fmt: skip
HUMAN, MACHINE = (
    "human translation",
    "machine translation",
)  # the versions of a topic (HC4, NeuCLIR): ht_title, mt_title
Part = Literal["docs", "topics", "qrels"]


@dataclass(frozen=True, kw_only=True)
class Irds(TestCollection):
    """Documents, topics and judgments that ir_datasets reads, which downloads them or says how to obtain them.

    `id` may hold {query_lang} {doc_lang} {split}: clirmatrix/{doc_lang}/bi139-base/{query_lang}/{split}. Text fields
    are those of the catalogue, the title first; of topics in several languages, those in the language that is asked for
    (`title_zh`, `ht_title`, `zh_mt_title`). Its downloads lie in IR_DATASETS_HOME, else ~/.ir_datasets.
    """

    id: str
    docs_columns: Mapping[str, str] | None = None  # field -> name in the catalogue; None: all that are text
    topics_columns: Mapping[str, str] | None = None  # the same; a name may hold {lang}
    codes: Mapping[str, str] | None = None  # {nl: dt}: how ids spell a language where it is not its code
    doc_ids: Literal["plain", "lang"] = (
        "plain"  # lang: `de-ID` where the documents are a pool, for ids that languages share without being the same
    )
    topic_source: Literal["human translation", "machine translation"] | None = (
        None  # None: the original, else the human
    )

    def __post_init__(self) -> None:
        TestCollection.__post_init__(self)
        for lang in self.doc_langs:
            self.irds_id(lang)

    # Where things are

    def irds_id(self, doc_lang: str) -> str:
        """The catalogue's id for documents in one language."""
        codes = self.codes or {}
        values = {
            "query_lang": codes.get(self.query_lang, self.query_lang), "doc_lang": codes.get(doc_lang, doc_lang),
            "split": self.split,
        }  # fmt: skip

        def value(found: re.Match[str]) -> str:
            if found[1] not in values:
                there = " ".join(f"{{{name}}}" for name in values)
                raise ValueError(f"id: {{{found[1]}}} is no place in {self.id!r}; there are: {there}")
            if (chosen := values[found[1]]) is None:
                raise ValueError(f"id: {self.id!r} holds {{split}}: choose one with dataset.split=...")
            return chosen

        return PLACE.sub(value, self.id)

    @property
    def judgment_names(self) -> tuple[str, ...]:
        return (JUDGMENTS,) if self.judgments is None else self.judgments

    def source(self, part: Part, lang: str, name: str = "") -> Source:
        """Notes of the ids and the version of the package, which checks what it downloads."""
        codes = self.doc_langs if part != "docs" else (lang,)
        ids = list(dict.fromkeys(self.irds_id(code) for code in codes))
        version = ".".join(_version().split(".")[:2])
        notes = tuple(download.note(f"irds--{i}", {"irds": i, "ir_datasets": version}) for i in ids)
        reading: dict[str, object] = {"kind": "irds", "ids": ids, "lang": lang}
        if part == "qrels":
            self._check_name(name)
        elif part == "topics":
            reading |= {"columns": _ordered(self.topics_columns), "source": name or self.topic_source}
        else:
            reading |= {"columns": _ordered(self.docs_columns)}
        if part != "topics" and self._by_language():
            reading["doc_ids"] = "lang"
        return Source(notes, {**reading, "on_empty": self.on_empty, "on_duplicate": self.on_duplicate})

    def _check_name(self, name: str) -> None:
        if name != JUDGMENTS:
            raise ConfigError(f"dataset.judgments: no judgments {name!r}; there are: {JUDGMENTS}")

    # Reading

    def _by_language(self) -> bool:
        return self.doc_ids == "lang" and len(self.doc_langs) > 1

    def _doc_id(self, own: str, lang: str) -> str:
        return f"{lang}-{own}" if self._by_language() else own

    def read_docs(self, lang: str) -> Iterator[Doc]:
        """All documents in the catalogue's order."""
        dataset = _load(identifier := self.irds_id(lang))
        if not dataset.has_docs():
            raise DataError(f"ir_datasets {identifier}: it has no documents")
        if (said := dataset.docs_lang()) is not None and said != lang:
            raise LanguageError(f"ir_datasets {identifier}: its documents are in {said!r}, not in {lang!r}")
        columns = self._columns(identifier, "docs", dataset.docs_cls(), self.docs_columns)
        for row in _read(identifier, "docs", dataset.docs_iter):
            yield Doc(self._doc_id(row.doc_id, lang), _fields(identifier, row.doc_id, row, columns), lang)

    def read_topics(self, lang: str, source: str | None = None) -> list[Query]:
        """The topics in one language, of all document languages of the pool, each id once."""
        found: dict[str, Query] = {}
        for identifier in dict.fromkeys(self.irds_id(code) for code in self.doc_langs):
            seen = set()
            dataset = _load(identifier)
            if not dataset.has_queries():
                raise DataError(
                    f"ir_datasets {identifier}: it has no topics; ids with topics begin so: {_below(identifier)}"
                )
            columns = self._topic_columns(identifier, dataset, lang, source or self.topic_source)
            for row in _queries(identifier, dataset):
                if row.query_id in seen and self.on_duplicate == "error":
                    raise DataError(f"ir_datasets {identifier}: topic {row.query_id!r} stands there twice")
                seen.add(row.query_id)
                fields = _fields(identifier, row.query_id, row, columns)
                found.setdefault(row.query_id, Query(row.query_id, fields, lang))
        if not found:
            raise DataError(f"ir_datasets {self.irds_id(self.doc_langs[0])}: no topics")
        if not any(text.strip() for query in found.values() for text in query.fields.values()):
            raise DataError(f"ir_datasets {self.irds_id(self.doc_langs[0])}: no topic has text in {lang!r}")
        return list(found.values())

    def read_qrels(self, name: str) -> list[Qrel]:
        """The judgments of all document languages of the pool; grades below 0 are judged and not relevant."""
        self._check_name(name)
        parts = []
        for identifier, code in {self.irds_id(code): code for code in self.doc_langs}.items():
            dataset = _load(identifier)
            if not dataset.has_qrels():
                raise DataError(
                    f"ir_datasets {identifier}: it has no judgments; ids with judgments begin so: {_below(identifier)}"
                )
            rows = _read(identifier, "qrels", dataset.qrels_iter)
            parts.append(
                (Path(identifier), [Qrel(r.query_id, self._doc_id(r.doc_id, code), int(r.relevance)) for r in rows])
            )
        return united(parts)

    # Which fields

    def _columns(self, identifier: str, part: Part, cls: Any, chosen: Mapping[str, str] | None) -> dict[str, str]:
        """Field -> name in the catalogue."""
        if chosen is None:
            names = [n for n in cls._fields if n not in NOT_TEXT and cls.__annotations__.get(n) in {str, "str"}]
            chosen = {name: name for name in sorted(names, key=lambda name: name != "title")}
        if absent := [column for column in chosen.values() if column not in cls._fields]:
            raise ConfigError(
                f"dataset.{part}_columns: ir_datasets {identifier} has no {absent[0]!r}; it has: {', '.join(cls._fields)}"
            )
        if not chosen:
            raise ConfigError(
                f"ir_datasets {identifier}: none of {', '.join(cls._fields)} is text; choose with dataset.{part}_columns"
            )
        return dict(chosen)

    def _topic_columns(self, identifier: str, dataset: Any, lang: str, source: str | None) -> dict[str, str]:
        """Field -> name in the catalogue for one language. Raises DataError where the topics have none in it."""
        cls = dataset.queries_cls()
        if self.topics_columns is not None:
            chosen = {field: name.replace("{lang}", lang) for field, name in self.topics_columns.items()}
            if absent := [name for name in chosen.values() if name not in cls._fields]:
                raise DataError(
                    f"ir_datasets {identifier}: no topics in {lang!r}: no {absent[0]!r} (dataset.topics_columns); "
                    f"it has: {', '.join(cls._fields)}"
                )
            return chosen
        return _columns_in(identifier, cls, lang, self._original(dataset), source)

    def _original(self, dataset: Any) -> str:
        """The language of the topics that are no translations; what the catalogue does not say is as the user says."""
        if (said := dataset.queries_lang()) is not None:
            return str(said)
        translated = any(re.search(r"(^|_)[hm]t_", name) for name in dataset.queries_cls()._fields)
        return "en" if translated else self.query_lang


def _columns_in(identifier: str, cls: Any, lang: str, original: str, source: str | None) -> dict[str, str]:
    """Field -> column of one language among `title`, `title_zh`, `ht_title`, `mt_title`, `zh_mt_title`; "" where there is none."""
    names = [n for n in cls._fields if n not in NOT_TEXT and cls.__annotations__.get(n) in {str, "str"}]
    plain = [n for n in names if not re.search(r"(^|_)[hm]t_|_[a-z]{2}\d?$", n)]
    by_source = {HUMAN: ("ht_{}", "{lang}_ht_{}"), MACHINE: ("mt_{}", "{lang}_mt_{}")}
    if source is not None and source not in by_source:
        raise ConfigError(f"dataset.topic_source: no version {source!r}; there are: {HUMAN}, {MACHINE}")
    spelled: list[str] = []
    if lang == original and source is None:
        spelled.append("{}")
    spelled.append("{}_{lang}")
    if lang != original:
        spelled += [pattern for kind in ([source] if source else [HUMAN, MACHINE]) for pattern in by_source[kind]]
    bases = plain or list(dict.fromkeys(re.sub(r"_[a-z]{2}\d?$", "", n) for n in names))
    for pattern in spelled:
        found = {b: pattern.format(b, lang=lang) for b in bases if pattern.format(b, lang=lang) in names}
        if found:
            if lacks := [b for b in bases if b not in found]:
                say(
                    f"ir_datasets {identifier}: its topics have no {', '.join(lacks)} in {lang!r}, though the original has"
                )
            return {base: found.get(base, "") for base in sorted(bases, key=lambda name: name != "title")}
    raise DataError(
        f"ir_datasets {identifier}: its topics are in {original!r}, there are none in {lang!r}"
        f"{f' ({source})' if source else ''}; it has: {', '.join(cls._fields)}"
    )


def _fields(identifier: str, row_id: str, row: Any, columns: Mapping[str, str]) -> dict[str, str]:
    fields = {}
    for field, column in columns.items():
        text = getattr(row, column) if column else ""
        if text is not None and not isinstance(text, str):
            raise DataError(f"ir_datasets {identifier}: {row_id!r}: expected text as {column}, found {text!r:.80}")
        fields[field] = text or ""
    return fields


def _ordered(columns: Mapping[str, str] | None) -> list[list[str]] | None:
    return None if columns is None else [[field, name] for field, name in columns.items()]


# The package ----------------------------------------------------------------------------------------------------------


def _version() -> str:
    try:
        return metadata.version("ir_datasets")
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            "dataset=irds and the collections read through it need a package: pip install ir_datasets"
        ) from error


@cache
def _package() -> Any:
    """ir_datasets, whose every download is one process's at a time, and none where the machine is set offline.

    The package writes its files without a lock (its issue 228): several jobs that begin together would break them.
    """
    _version()
    import ir_datasets  # type: ignore[import-untyped]
    from ir_datasets.util.download import Download, LocalDownload  # type: ignore[import-untyped]

    fetch: Callable[[Any, bool], Any] = Download.path
    package_home: Callable[[], Any] = ir_datasets.util.home_path

    def path(self: Any, force: bool = True) -> Any:
        place = self._cache_path  # None: a temporary file, unpacked at once
        if not force or self._path is not None or (place is not None and Path(place).exists()):
            return fetch(self, force)
        given = [m._path for m in self.mirrors if isinstance(m, LocalDownload)]
        if download.is_offline() and not any(file.exists() for file in given):
            address = next((str(m.url) for m in self.mirrors if hasattr(m, "url")), "see https://ir-datasets.com")
            into = place or next(iter(given), package_home())
            raise MissingData(
                f"{into} is not on this machine, which is set offline (CLIR_OFFLINE, HF_HUB_OFFLINE)\n"
                f"  fetch it elsewhere: {address}\n  and put it there   (IR_DATASETS_HOME moves {package_home()})"
            )
        if place is None:
            return fetch(self, force)
        with download.only_one(Path(place)):
            return fetch(self, force)

    def own(self: Any, force: bool = True) -> Any:
        if force and not self._path.exists() and self._message:
            raise MissingData(f"{self._path} is not on this machine\n  {' '.join(str(self._message).split())}")
        return look(self, force)

    look: Callable[[Any, bool], Any] = LocalDownload.path
    Download.path, LocalDownload.path = path, own
    return ir_datasets


def _load(identifier: str) -> Any:
    """The catalogue's entry. Raises ConfigError naming the nearest ids where there is none."""
    package = _package()
    try:
        return package.load(identifier)
    except KeyError as error:
        raise ConfigError(f"ir_datasets has no {identifier!r}; near it are: {_below(identifier)}") from error


def _below(identifier: str) -> str:
    """Some ids of the catalogue that begin alike."""
    known = sorted(_package().registry._registered)
    parts = identifier.split("/")
    for length in range(len(parts), 0, -1):
        begin = "/".join(parts[:length])
        if found := [i for i in known if i.startswith(f"{begin}/") and i != identifier]:
            return ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
    return ", ".join(sorted({i.split("/")[0] for i in known}))


def _read(identifier: str, part: Part, rows: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """The rows, the first under a lock: the package fetches and unpacks when the first one is asked for."""
    home = Path(_package().util.home_path())
    with _explained(identifier, part):
        with download.only_one(home / "locks" / identifier.replace("/", "--")):
            given = iter(rows())
            first = list(islice(given, 1))
        yield from chain(first, given)


@contextmanager
def _explained(identifier: str, part: Part) -> Iterator[None]:
    """The package's errors in one sentence: what it cannot fetch, it says how to obtain."""
    try:
        yield
    except ClirError:
        raise
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except UnicodeDecodeError as error:
        raise DataError(f"ir_datasets {identifier}: its {part} are not {error.encoding} ({error.reason})") from error
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise MissingData(
            f"ir_datasets {identifier}: its {part} cannot be read ({type(error).__name__}: {why[:600]})\n"
            f"  how to obtain them: https://ir-datasets.com/{identifier.split('/', maxsplit=1)[0]}.html"
        ) from error


def _queries(identifier: str, dataset: Any) -> list[Any]:
    """The topics. Of NeuCLIR's trec-2023 the package leaves none (its issue 292: it looks among the judgments of 2022);
    there they are read past that filter, and those kept that this collection judges."""
    found = list(_read(identifier, "topics", dataset.queries_iter))
    if found or not dataset.has_qrels():
        return found
    inner = getattr(dataset.queries_handler(), "_queries_handler", None)
    if inner is None:
        return found
    judged = {row.query_id for row in _read(identifier, "qrels", dataset.qrels_iter)}
    kept = [row for row in _read(identifier, "topics", inner.queries_iter) if row.query_id in judged]
    say(
        f"ir_datasets {identifier}: its filter leaves no topics (ir_datasets issue 292); {len(kept)} judged topics are read past it"
    )
    return kept
