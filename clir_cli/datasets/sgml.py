"""Collections in the SGML of TREC, CLEF and FIRE: documents between <DOC> and </DOC>, topics between <top> and </top>."""

from __future__ import annotations

import codecs
import glob
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clir_cli.datasets import places
from clir_cli.datasets.collection import Once, Source, TestCollection, united
from clir_cli.errors import ConfigError, DataError
from clir_cli.evaluation import read_qrels
from clir_cli.lines import parse_id, raw_lines
from clir_cli.text.languages import language
from clir_cli.types import Doc, Qrel, Query

Part = Literal["docs", "topics", "qrels"]
PLACE = re.compile(r"\{([^{}]*)\}")
TSV = "tsv"
ANY = "*"  # the key of what holds for every language that has no entry of its own
TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--.*?-->|<[!?][^<>]*>", re.DOTALL)
LABEL = re.compile(r"\s*(Number|Topic|Description|Narrative)\s*:\s*")  # TREC's topics repeat what the tag says
SKIPPED = {".dtd", ".z"}


class Markup(NamedTuple):
    """Where texts of one kind are, and which tags hold what."""

    files: tuple[str, ...]  # patterns of paths, or addresses
    id: str  # the tag of the id
    fields: tuple[tuple[str, tuple[str, ...]], ...]  # (field, tags) in the order of the text; `TEXT/P` is a P in a TEXT
    encoding: str
    record: str  # the tag around one text; of topics also `tsv`: a line each, `id` and `fields` are columns from 1

    @classmethod
    def made(cls, option: str, given: Mapping[str, Any], record: str, usual: str) -> Markup:
        """Raises ValueError naming the key that is wrong."""
        if unknown := set(given) - set(cls._fields):
            raise ValueError(f"{option} has no key {min(unknown)!r}; it may have: {', '.join(cls._fields)}")
        if absent := [key for key in ("files", "id", "fields") if not given.get(key)]:
            raise ValueError(
                f"{option} needs {absent[0]}, such as files: '{{path}}/*.sgml', id: DOCNO, fields: {{text: TEXT}}"
            )
        encoding = str(given.get("encoding", usual))
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise ValueError(
                f"{option}: encoding {encoding!r} is unknown; such as utf-8, iso-8859-1, gb18030"
            ) from error
        fields = tuple((str(name), _several(tags)) for name, tags in dict(given["fields"]).items())
        return cls(_several(given["files"]), str(given["id"]), fields, encoding, str(given.get("record", record)))

    def spelled(self, lang: str) -> Markup:
        """The same with {lang} and {LANG} filled in tags: CLEF writes <DE-title>."""
        fields = tuple((name, tuple(_tag(tag, lang) for tag in tags)) for name, tags in self.fields)
        return self._replace(id=_tag(self.id, lang), fields=fields)


@dataclass(frozen=True, kw_only=True)
class Sgml(TestCollection):
    """Documents and topics in SGML, judgments in TREC's columns.

    `docs`: language (or "*") -> sources, each {files, id, fields: {text: TEXT, title: [TI, HEADLINE]}, encoding, record}; the
    fields stand in the order of the text. `topics`: language (or "*") -> the same. Places may hold {path} {lang} {LANG}
    {iso3} {name} {split}, where a list of topics or qrels stands for the first that exists.

    A document without its end tag, a field without one, and a missing id are errors; topics may lack end tags, as old
    TREC's do. White space is one blank, markup inside a field is dropped, entities are characters.
    """

    docs: Mapping[str, tuple[Mapping[str, Any], ...]]
    topics: Mapping[str, Mapping[str, Any]]
    qrels: str | Mapping[str, str | tuple[str, ...]] | None = (
        None  # one place, or name -> place (or several to look at)
    )
    encoding: str = "utf-8"  # of what does not say another
    topic_id: str = "(.+)"  # a pattern whose group 1 is the id as the judgments spell it: C141 is 141

    def __post_init__(self) -> None:
        TestCollection.__post_init__(self)
        try:
            if re.compile(self.topic_id).groups != 1:
                raise ValueError(f"topic_id must be a pattern with one group, such as 'C0*(.+)', got {self.topic_id!r}")
        except re.error as error:
            raise ValueError(f"topic_id is no regular expression: {self.topic_id!r} ({error})") from error
        for lang in self.doc_langs:
            self._sources(lang)
        self._topics(self.query_lang)
        for place in (p for name in self._qrels() for p in self._qrels()[name]):
            for lang in self.doc_langs:
                self._filled(place, lang)

    # Where things are

    def _sources(self, lang: str) -> list[Markup]:
        given = self.docs.get(lang, self.docs.get(ANY))
        if given is None:
            raise ConfigError(f"dataset.docs has none in {lang!r}; there are: {' '.join(self.docs)}")
        return [Markup.made(f"docs.{lang}.{i}", source, "DOC", self.encoding) for i, source in enumerate(given)]

    def _topics(self, lang: str) -> Markup:
        given = self.topics.get(lang, self.topics.get(ANY))
        if given is None:
            raise ConfigError(f"dataset.topics has none in {lang!r}; there are: {' '.join(self.topics)}")
        return Markup.made(f"topics.{lang}", given, "top", self.encoding).spelled(lang)

    def _qrels(self) -> dict[str, tuple[str, ...]]:
        given = {"qrels": self.qrels} if isinstance(self.qrels, str) else dict(self.qrels or {})
        return {name: _several(value) for name, value in given.items()}

    @property
    def judgment_names(self) -> tuple[str, ...]:
        return tuple(self._qrels()) if self.judgments is None else self.judgments

    def _filled(self, place: str, lang: str) -> str:
        """The place with all but {path} filled."""
        spoken = language(lang)
        values = {
            "lang": lang, "LANG": lang.upper(), "iso3": spoken.iso3, "name": spoken.name.lower(), "split": self.split,
            "doc_lang": self.doc_langs[0] if len(self.doc_langs) == 1 else None, "path": "{path}",
        }  # fmt: skip

        def value(found: re.Match[str]) -> str:
            if found[1] not in values:
                there = " ".join(f"{{{name}}}" for name in values)
                raise ValueError(f"{{{found[1]}}} is no place in {place!r}; there are: {there}")
            if (chosen := values[found[1]]) is None:
                why = "choose one with dataset.split=..." if found[1] == "split" else "doc_lang is a pool"
                raise ValueError(f"{place!r} holds {{{found[1]}}}: {why}")
            return chosen

        return PLACE.sub(value, place)

    def _files(self, place: str, lang: str) -> list[Path]:
        """The files of a place in the order of their paths, without fetching any; an address is its note."""
        text = self._filled(place, lang)
        if text.startswith(places.WEB):
            return list(places.fingerprinted(text))
        root = str(self.root()) if "{path}" in text else ""
        if any(character in text for character in "*?["):
            return list(_matching(Path(text.replace("{path}", glob.escape(root))).expanduser().absolute()))
        path = Path(text.replace("{path}", root)).expanduser().absolute()
        return [path] if path.is_file() else []

    def _first(self, option: str, wanted: Sequence[str], lang: str) -> tuple[str, Path]:
        """The first place that exists, and its file."""
        for place in wanted:
            if found := self._files(place, lang):
                return self._filled(place, lang), found[0]
        looked = ", ".join(
            self._filled(place, lang).replace("{path}", str(self.path or "$" + str(self.env))) for place in wanted
        )
        raise DataError(f"dataset.{option}: none in {lang!r}; looked for {looked}")

    def source(self, part: Part, lang: str, name: str = "") -> Source:
        """The files of one part and what decides how they are read."""
        if part == "qrels":
            wanted = [self._first("qrels", self._named(name), code) for code in self.doc_langs]
            return Source(tuple(dict.fromkeys(path for _, path in wanted)), {"kind": "sgml", **_elsewhere(wanted)})
        if part == "topics":
            markup = self._topics(lang)
            reading: dict[str, object] = {
                "markup": _plain(markup),
                "topic_id": self.topic_id,
                "lang": lang,
                "source": name or None,
            }
            first = self._first("topics", markup.files, lang)
            return Source((first[1],), {"kind": "sgml", **reading, **self._policy(), **_elsewhere([first])})
        sources = [(markup, self._doc_files(markup, lang)) for markup in self._sources(lang)]
        plain = [[_plain(markup), len(files)] for markup, files in sources]
        reading = {"markup": plain, "lang": lang}
        return Source(tuple(f for _, files in sources for f in files), {"kind": "sgml", **reading, **self._policy()})

    def _policy(self) -> dict[str, object]:
        return {"on_empty": self.on_empty, "on_duplicate": self.on_duplicate}

    def _doc_files(self, markup: Markup, lang: str) -> list[Path]:
        found = []
        for place in markup.files:
            there = self._files(place, lang)
            if not there:
                shown = self._filled(place, lang).replace("{path}", str(self.root()) if "{path}" in place else "")
                raise DataError(
                    f"dataset.docs: no documents in {lang!r} at {shown}\n  "
                    + str((self.about or {}).get("place", "dataset.docs says where each source lies"))
                )
            found += there
        return list(dict.fromkeys(found))

    def _named(self, name: str) -> tuple[str, ...]:
        if name not in self._qrels():
            there = ", ".join(self._qrels()) or "none (dataset.qrels is not set)"
            raise ConfigError(f"dataset.judgments: no judgments {name!r}; there are: {there}")
        return self._qrels()[name]

    # Reading

    def read_docs(self, lang: str) -> Iterator[Doc]:
        """All documents of one language, source by source, file by file. Raises DataError with file and line."""
        sources = [(markup, self._doc_files(markup, lang)) for markup in self._sources(lang)]
        names = dict.fromkeys(name for markup, _ in sources for name, _ in markup.fields)  # some sources lack a field
        once = Once(f"doc_id {{}} ({lang}) occurs twice", self.on_duplicate)
        for markup, files in sources:
            for path in files:
                for line, text in records(path, markup.record, markup.encoding):
                    doc_id = parse_id(path, line, f"<{markup.id}>", _one(path, line, text, markup.id, markup.record))
                    once.see(path, line, doc_id)
                    fields = {name: _text(path, line, text, tags) for name, tags in markup.fields}
                    yield Doc(doc_id, {**fields, **{name: "" for name in names if name not in fields}}, lang)

    def read_topics(self, lang: str, source: str | None = None) -> list[Query]:
        """All topics in one language, in file order; end tags may be missing."""
        if source:
            raise ConfigError(f"dataset.topics: the topics have one version in {lang!r}, there is no {source!r}")
        markup = self._topics(lang)
        path = self._local("topics", *self._first("topics", markup.files, lang))
        tags = [markup.id, *(tag for _, given in markup.fields for tag in given)]
        found, once = list[Query](), Once(f"topic {{}} is listed twice ({lang})", self.on_duplicate)
        for line, parts in _topic_rows(path, markup, tags):
            if markup.id.lower() not in parts:
                raise DataError(f"{path}:{line}: a topic without <{markup.id}>")
            said = _flat(parts[markup.id.lower()])
            spelled = re.fullmatch(self.topic_id, said)
            if spelled is None:
                raise DataError(f"{path}:{line}: topic id {said!r} does not match dataset.topic_id={self.topic_id!r}")
            fields = {
                name: " ".join(filter(None, (_flat(parts.get(tag.lower(), "")) for tag in given)))
                for name, given in markup.fields
            }
            query_id = parse_id(path, line, f"<{markup.id}>", spelled[1])
            once.see(path, line, query_id)
            found.append(Query(query_id, fields, lang))
        if not found:
            between = "" if markup.record == TSV else f" between <{markup.record}> and </{markup.record}>"
            raise DataError(f"{path}: no topics{between}")
        if not any(text for query in found for text in query.fields.values()):
            raise DataError(
                f"{path}: no topic has text in {', '.join(f'<{tag}>' for tag in tags[1:])}; are the tags those of {lang!r}?"
            )
        return found

    def read_qrels(self, name: str) -> list[Qrel]:
        """The judgments called `name`, over all document languages of the pool."""
        wanted = dict.fromkeys(self._first("qrels", self._named(name), code) for code in self.doc_langs)
        paths = [self._local("qrels", *place) for place in wanted]
        return united((path, read_qrels(path)) for path in paths)

    @staticmethod
    def _local(option: str, place: str, path: Path) -> Path:
        return places.files(f"dataset.{option}", place)[0] if place.startswith(places.WEB) else path


def _several(value: Any) -> tuple[str, ...]:
    return (str(value),) if isinstance(value, str | int) else tuple(map(str, value or ()))


def _tag(tag: str, lang: str) -> str:
    return tag.replace("{lang}", lang).replace("{LANG}", lang.upper())


def _elsewhere(wanted: Sequence[tuple[str, Path]]) -> dict[str, object]:
    """The addresses among the places: what stands for them in an identity, beside their notes."""
    return {"places": found} if (found := [place for place, _ in wanted if place.startswith(places.WEB)]) else {}


def _plain(markup: Markup) -> dict[str, object]:
    """What decides how a source is read: not where its files are."""
    fields = [[name, list(tags)] for name, tags in markup.fields]
    return {"id": markup.id, "fields": fields, "encoding": markup.encoding, "record": markup.record}


def _matching(pattern: Path) -> tuple[Path, ...]:
    """The files of a pattern in the order of their paths; looked for once, since every cell of a sweep asks."""
    if not _found.get(pattern):
        root = Path(pattern.anchor)
        _found[pattern] = tuple(sorted(p for p in root.glob(pattern.relative_to(root).as_posix()) if _is_data(p)))
    return _found[pattern]


_found: dict[Path, tuple[Path, ...]] = {}


def _is_data(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in SKIPPED


# The markup -----------------------------------------------------------------------------------------------------------


def lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """(line number, text with its line break) of a file, plain or gzipped, one line in memory."""
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else encoding
    for number, line in raw_lines(path):
        try:
            yield number, line.decode(encoding if number == 1 else encoding.removesuffix("-sig"))
        except UnicodeDecodeError as error:
            found = line[error.start : error.start + 4]
            raise DataError(
                f"{path}:{number}: expected {encoding.removesuffix('-sig')}, found {found!r} at byte {error.start}; "
                "the source's `encoding` says how a file is written"
            ) from error


def records(path: Path, tag: str, encoding: str) -> Iterator[tuple[int, str]]:
    """(line of its begin, text) of what stands between <tag> and </tag>, one record in memory."""
    begin, parts = 0, list[str]()
    for number, line in lines(path, encoding):
        at = 0
        for found in _edges(tag).finditer(line) if "<" in line else ():
            if not found[1]:
                if begin:
                    raise DataError(
                        f"{path}:{begin}: <{tag}> has no </{tag}> before the next one begins in line {number}"
                    )
                begin, parts, at = number, [], found.end()
            elif not begin:
                raise DataError(f"{path}:{number}: </{tag}> without a <{tag}> before it")
            else:
                yield begin, "".join([*parts, line[at : found.start()]])
                begin = 0
        if begin:
            parts.append(line[at:])
    if begin:
        raise DataError(f"{path}:{begin}: <{tag}> has no </{tag}> before the file ends; is the file complete?")


@cache
def _edges(tag: str) -> re.Pattern[str]:
    return re.compile(rf"<(/?){re.escape(tag)}(?:\s[^<>]*)?>", re.IGNORECASE)


def _inside(path: Path, line: int, text: str, tag: str) -> list[str]:
    """What stands inside each <tag> ... </tag>, or inside `a/b`. Raises DataError for one that is not closed."""
    head, _, rest = tag.partition("/")
    found, begin = list[str](), -1
    for edge in _edges(head).finditer(text):
        if edge[1]:
            if begin >= 0:
                found.append(text[begin : edge.start()])
            begin = -1
        elif begin >= 0:
            raise DataError(f"{path}:{line + text.count(chr(10), 0, begin)}: <{head}> has no </{head}>")
        else:
            begin = edge.end()
    if begin >= 0:
        raise DataError(f"{path}:{line + text.count(chr(10), 0, begin)}: <{head}> has no </{head}>")
    return [part for outer in found for part in _inside(path, line, outer, rest)] if rest else found


def _one(path: Path, line: int, text: str, tag: str, record: str) -> str:
    found = [_flat(part) for part in _inside(path, line, text, tag)]
    if not found or not found[0]:
        raise DataError(f"{path}:{line}: a <{record}> without <{tag}>")
    return found[0]


def _text(path: Path, line: int, text: str, tags: Sequence[str]) -> str:
    parts = (_flat(part) for tag in tags for part in _inside(path, line, text, tag))
    return " ".join(filter(None, parts))


def _open_fields(text: str, tags: Sequence[str]) -> dict[str, str]:
    """Tag (lower case) -> its text, which ends at its end tag, or where one of these tags or a line with any tag begins."""
    names = "|".join(re.escape(tag) for tag in tags)
    pattern = rf"<(/?)({names})(?:\s[^<>]*)?>|^[ \t]*<(/?)([A-Za-z][\w-]*)(?:\s[^<>]*)?>"
    edges = list(re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE))
    found: dict[str, str] = {}
    for edge, after in zip(edges, [*edges[1:], None], strict=True):
        if edge[2] and not edge[1]:
            inside = text[edge.end() : after.start() if after else len(text)]
            label = LABEL.match(inside)
            found.setdefault(edge[2].lower(), inside[label.end() :] if label else inside)
    return found


def _topic_rows(path: Path, markup: Markup, tags: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, tag in lower case -> text) of every topic."""
    if markup.record != TSV:
        yield from ((n, _open_fields(text, tags)) for n, text in records(path, markup.record, markup.encoding))
        return
    for number, line in lines(path, markup.encoding):
        if line.strip():
            cells = {str(i): cell for i, cell in enumerate(line.rstrip("\r\n").split("\t"), 1)}
            if absent := [tag for tag in tags if tag not in cells]:
                raise DataError(f"{path}:{number}: expected a column {absent[0]} behind a tab, found {line[:120]!r}")
            yield number, cells


def _flat(text: str) -> str:
    """Text without markup, entities as characters, white space as single blanks."""
    if "<" in text:
        text = TAG.sub(" ", text)
    if "&" in text:
        text = html.unescape(text)
    return " ".join(text.split())
