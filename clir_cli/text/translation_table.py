"""Tables of translation probabilities p(target | source): read, built from dictionaries and parallel texts, kept, pruned."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from clir_cli.errors import ConfigError, DataError, MissingData
from clir_cli.lines import parse_json, raw_lines, read_lines

if TYPE_CHECKING:
    import numpy as np

Rows: TypeAlias = dict[str, dict[str, float]]  # source -> target -> probability
Analyse: TypeAlias = Callable[[Sequence[str]], list[list[str]]]
Aligner: TypeAlias = Literal["model1", "eflomal"]

MOST = 1.01  # of a row's sum: tables are rounded
LEAST = 1e-4  # of a probability that is kept of a parallel text
ITERATIONS = 5  # of EM
LONGEST = 200  # terms of a sentence; longer pairs are left out
CHUNK = 1_000  # texts analysed at once
CELLS = 1 << 22  # pairs of terms that EM looks at together (some 200 MB)


# Reading --------------------------------------------------------------------------------------------------------------


def header(path: Path) -> dict[str, str]:
    """What a table says of itself: its first line `# tokens=terms query_analyser=en doc_analyser=de` (in JSON under "#")."""
    if is_json(path):
        said = _read_json(path).get("#", "")
        return _header(said) if isinstance(said, str) else {}
    first = next(read_lines(path, "retriever.table"), (1, ""))[1]
    return _header(first[1:]) if first.startswith("#") else {}


def _header(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split() if "=" in part)


def read(path: Path, sums: Literal["refuse", "normalise"] = "refuse", limit: int | None = None) -> Rows:
    """A table: TSV of source, target, probability, or JSON {source: {target: probability}}; gzipped too.

    `limit`: only the first lines of a TSV, to see whether it parses. Raises DataError naming file, line and value: of what
    is no number in 0..1, of a pair that comes twice, and of a source whose probabilities sum to more than 1.01, unless
    `sums` is normalise, which divides such a row (no other) by its sum.
    """
    rows: Rows = defaultdict(dict)
    first: dict[str, str] = {}  # where a source begins
    for where, source, target, value in _entries(path, limit):
        probability = _number(value)
        if probability is None or not 0 <= probability <= 1:
            raise DataError(f"{where}: expected a probability from 0 to 1 for {source!r} -> {target!r}, got {value!r}")
        if target in rows[source]:
            raise DataError(f"{where}: {source!r} -> {target!r} comes a second time (first at {first[source]})")
        first.setdefault(source, where)
        if probability > 0:
            rows[source][target] = probability
    for source, row in rows.items():
        if (total := math.fsum(row.values())) > MOST:
            if sums == "refuse":
                raise DataError(
                    f"{first[source]}: the probabilities of {source!r} sum to {total:.4g}, more than 1\n"
                    "  retriever.table_sums=normalise divides such rows by their sum; if the table's first column is the "
                    "documents' language, say retriever.given=doc"
                )
            rows[source] = {target: value / total for target, value in row.items()}
    return dict(rows)


def _entries(path: Path, limit: int | None) -> Iterator[tuple[str, str, str, Any]]:
    if is_json(path):
        text, place, line = _read_text(path), 0, 1
        for source, row in _read_json(path).items():
            if source == "#":
                continue
            if (found := text.find(json.dumps(source, ensure_ascii=False), place)) >= 0:
                place, line = found, line + text.count("\n", place, found)
            where = f"{path}:{line}"
            if not isinstance(row, dict):
                raise DataError(f"{where}: expected {{target: probability}} for {source!r}, got {str(row)[:80]!r}")
            for target, value in row.items():
                yield where, source, target, value
        return
    for number, text in read_lines(path, "retriever.table"):
        if number == 1 and text.startswith("#"):
            continue
        if limit is not None and number > limit:
            return
        fields = text.split("\t")
        if len(fields) != 3:
            raise DataError(
                f"{path}:{number}: expected source, target and probability between tabs, got {text[:120]!r}"
            )
        yield f"{path}:{number}", fields[0], fields[1], fields[2]


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def is_json(path: Path) -> bool:
    """Whether a table's name says that it is one JSON object; everything else is TSV."""
    return path.name.removesuffix(".gz").endswith(".json")


def _read_text(path: Path) -> str:
    return "\n".join(text for _, text in _all_lines(path))


def _all_lines(path: Path) -> Iterator[tuple[int, str]]:
    """As read_lines, but empty lines are there too."""
    expected = 1
    for number, text in read_lines(path, "retriever.table"):
        for missing in range(expected, number):
            yield missing, ""
        yield number, text
        expected = number + 1


def _read_json(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path}: {twice!r} comes twice in one object")
        return found

    text = _read_text(path)
    try:
        table = parse_json(text, once)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"{path}:{line}: not JSON ({error}); expected {{source: {{target: probability}}}}") from error
    if not isinstance(table, dict):
        raise DataError(
            f"{path}: expected a JSON object {{source: {{target: probability}}}}, got a {type(table).__name__}"
        )
    return table


def read_dictionary(path: Path, given: Literal["query", "doc"], limit: int | None = None) -> Rows:
    """A bilingual dictionary, TSV of query-language entry, document-language entry and, in all lines or none, a weight.

    p(target | source) = weight / sum of the source's weights; without weights all translations are equally probable.
    Raises DataError as `read` does.
    """
    weights: Rows = defaultdict(dict)
    columns = 0
    for number, line in read_lines(path, "retriever.dictionary"):
        if limit is not None and number > limit:
            break
        if line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("\t")]
        columns = columns or len(fields)
        if len(fields) != columns or columns not in (2, 3) or not all(fields):
            wanted = {2: "two entries", 3: "two entries and a weight"}.get(columns, "two entries, or two and a weight")
            raise DataError(f"{path}:{number}: expected {wanted} between tabs, got {line[:120]!r}")
        source, target = fields[:2] if given == "query" else fields[1::-1]
        weight = _number(fields[2]) if columns == 3 else 1.0
        if weight is None or not 0 < weight < math.inf:
            raise DataError(f"{path}:{number}: expected a weight above 0, got {fields[2]!r}")
        weights[source][target] = weights[source].get(target, 0.0) + (weight if columns == 3 else 0.0)
        if columns == 2:
            weights[source][target] = 1.0
    return {s: {t: w / math.fsum(row.values()) for t, w in row.items()} for s, row in weights.items()}


def read_parallel(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Sentence pairs (query language, document language): of one TSV with two columns, or of two files line by line."""
    if len(paths) == 1:
        for number, line in read_lines(paths[0], "retriever.parallel"):
            fields = line.split("\t")
            if len(fields) != 2:
                raise DataError(f"{paths[0]}:{number}: expected two sentences between a tab, got {line[:120]!r}")
            yield fields[0], fields[1]
        return
    one, other = (_count_lines(path) for path in paths)
    if one != other:
        raise DataError(
            f"{paths[0]} has {one} lines and {paths[1]} has {other}: line i of one must translate line i of the other"
        )
    for (_, left), (_, right) in zip(_all_lines(paths[0]), _all_lines(paths[1]), strict=False):
        if left and right:
            yield left, right


def _count_lines(path: Path) -> int:
    if not path.is_file():
        raise MissingData(f"retriever.parallel: {path} does not exist")
    return sum(1 for _ in raw_lines(path))


# Making ---------------------------------------------------------------------------------------------------------------


def analysed(rows: Rows, source: Analyse, target: Analyse) -> tuple[Rows, dict[str, int]]:
    """A table of words as one of terms, and counts.

    Targets that become one term add up; a target of several terms gives each an equal part; one without terms (a stop
    word) is lost with its probability. A source of several terms gives its row to each; where several sources become one
    term, its row is their mean: nothing says which is more frequent. So no row sums to more than before.
    """
    words = sorted({target for row in rows.values() for target in row})
    terms = dict(zip(words, _in_chunks(target, words), strict=True))
    sources = sorted(rows)
    gathered: dict[str, list[str]] = defaultdict(list)
    for word, found in zip(sources, _in_chunks(source, sources), strict=True):
        for term in dict.fromkeys(found):
            gathered[term].append(word)
    made: Rows = {}
    for term, from_words in gathered.items():
        row: dict[str, float] = defaultdict(float)
        for word in from_words:
            for to, probability in rows[word].items():
                for each in terms[to]:
                    row[each] += probability / len(terms[to]) / len(from_words)
        if row:
            made[term] = dict(row)
    kept = {word for term in made for word in gathered[term]}
    return made, {
        "sources_without_terms": len(rows) - len(kept),
        "targets_without_terms": sum(not found for found in terms.values()),
    }


def _in_chunks(analyse: Analyse, texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), CHUNK):
        yield from analyse(texts[start : start + CHUNK])


def aligned(
    pairs: Iterable[tuple[str, str]], source: Analyse, target: Analyse, aligner: Aligner
) -> tuple[Rows, dict[str, int]]:
    """p(target term | source term) of sentence pairs (source, target), and counts; less than 0.0001 is left out.

    model1: IBM Model 1 (Brown et al. 1993) with the empty word, 5 rounds of EM from equal probabilities: the same pairs
    give the same table. eflomal: word alignments by eflomal (Östling & Tiedemann 2016) in both directions, p = links
    between the two terms / links of the source term; it draws samples, so that another run gives another table.
    Raises DataError where no pair is left.
    """
    sources, targets = _Numbers(), _Numbers()
    sentences: list[tuple[np.ndarray, np.ndarray]] = []
    counts = {"pairs": 0, "pairs_without_terms": 0, "pairs_too_long": 0}
    for chunk in _chunks(pairs):
        lefts, rights = source([left for left, _ in chunk]), target([right for _, right in chunk])
        for left, right in zip(lefts, rights, strict=True):
            counts["pairs"] += 1
            if not left or not right:
                counts["pairs_without_terms"] += 1
            elif max(len(left), len(right)) > LONGEST:
                counts["pairs_too_long"] += 1
            else:
                sentences.append((sources.of(left), targets.of(right)))
    if not sentences:
        raise DataError(f"no sentence pair with terms on both sides among the {counts['pairs']} of retriever.parallel")
    made = _model1(sentences, len(sources)) if aligner == "model1" else _eflomal(sentences)
    rows: Rows = defaultdict(dict)
    left_terms, right_terms = list(sources.numbers), list(targets.numbers)
    for one, other, probability in zip(*made, strict=True):
        rows[left_terms[one]][right_terms[other]] = probability
    return dict(rows), counts


def _chunks(pairs: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    from itertools import islice

    given = iter(pairs)
    while chunk := list(islice(given, CHUNK)):
        yield chunk


class _Numbers:
    """Terms by number, from 0."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def of(self, terms: Sequence[str]) -> np.ndarray:
        import numpy as np

        return np.array([self.numbers.setdefault(term, len(self.numbers)) for term in terms], np.int64)

    def __len__(self) -> int:
        return len(self.numbers)


Triples: TypeAlias = tuple[list[int], list[int], list[float]]  # source, target, probability


def _model1(sentences: Sequence[tuple[np.ndarray, np.ndarray]], sources: int) -> Triples:
    from tempfile import TemporaryDirectory

    import numpy as np

    width = int(max(right.max() for _, right in sentences)) + 1
    empty = sources  # the number of the empty word
    known = np.empty(0, np.int64)  # pairs that stand in one sentence pair, as source * width + target
    parts = 0
    with TemporaryDirectory() as folder:  # what every round reads again: on disk, 8 bytes a cell
        for keys, words in _cells(sentences, width, empty):
            own, at = np.unique(keys, return_inverse=True)
            for name, data in (("own", own), ("at", at.astype(np.uint32)), ("words", words.astype(np.uint32))):
                np.save(f"{folder}/{parts}.{name}.npy", data, allow_pickle=False)
            known = np.union1d(known, own)
            parts += 1
        source = known // width
        probability = 1.0 / np.bincount(source, minlength=sources + 1)[source]
        for _ in range(ITERATIONS):
            expected = np.zeros(len(known))
            for part in range(parts):
                own, at, words = (np.load(f"{folder}/{part}.{name}.npy") for name in ("own", "at", "words"))
                place = np.searchsorted(known, own)
                share = probability[place][at]
                share /= np.bincount(words, share)[
                    words
                ]  # of every target word, over the source words it may come from
                expected[place] += np.bincount(at, share, minlength=len(own))
            probability = expected / np.bincount(source, expected, minlength=sources + 1)[source]
    kept = (probability >= LEAST) & (source != empty)
    return source[kept].tolist(), (known % width)[kept].tolist(), probability[kept].tolist()


def _cells(
    sentences: Sequence[tuple[np.ndarray, np.ndarray]], width: int, empty: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of a source and a target word of the same sentence pair, and the number of the target word's place."""
    import numpy as np

    keys: list[np.ndarray] = []
    words: list[np.ndarray] = []
    held = places = 0
    for left, right in sentences:
        left = np.append(left, empty)
        keys.append((left[:, None] * width + right[None, :]).ravel())
        words.append(np.tile(np.arange(places, places + len(right)), len(left)))
        places += len(right)
        held += len(left) * len(right)
        if held >= CELLS:
            yield np.concatenate(keys), np.concatenate(words)
            keys, words, held, places = [], [], 0, 0
    if keys:
        yield np.concatenate(keys), np.concatenate(words)


def check_aligner(aligner: Aligner) -> None:
    """Raise ConfigError where the aligner is not installed."""
    import importlib.util

    if aligner == "eflomal" and importlib.util.find_spec("eflomal") is None:
        raise ConfigError(
            "retriever.aligner=eflomal is not installed: pip install clir[psq], or retriever.aligner=model1"
        )


def _eflomal(sentences: Sequence[tuple[np.ndarray, np.ndarray]]) -> Triples:
    import importlib
    from collections import Counter
    from tempfile import TemporaryDirectory

    check_aligner("eflomal")
    eflomal = importlib.import_module("eflomal")  # it has no types

    links: Counter[tuple[int, int]] = Counter()
    with TemporaryDirectory() as folder:
        files = {"links_filename_fwd": f"{folder}/forward", "links_filename_rev": f"{folder}/reverse"}
        texts = [[" ".join(map(str, side.tolist())) for side in sides] for sides in zip(*sentences, strict=True)]
        eflomal.Aligner().align(*texts, **files)  # numbers for words: terms may hold blanks
        for path in files.values():
            with Path(path).open(encoding="ascii") as lines:
                for (left, right), line in zip(sentences, lines, strict=True):
                    for link in line.split():
                        i, j = map(int, link.split("-"))
                        links[int(left[i]), int(right[j])] += 1
    totals: Counter[int] = Counter()
    for (left_word, _), count in links.items():
        totals[left_word] += count
    kept = [(s, t, count / totals[s]) for (s, t), count in sorted(links.items()) if count / totals[s] >= LEAST]
    return [s for s, _, _ in kept], [t for _, t, _ in kept], [p for _, _, p in kept]


# Keeping and pruning --------------------------------------------------------------------------------------------------


def write(folder: Path, rows: Rows) -> dict[str, int]:
    """Keep a table as arrays, rows sorted by source, in a row the most probable first, equal ones by term; returns counts."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    sources, targets = sorted(rows), sorted({target for row in rows.values() for target in row})
    numbers = {target: number for number, target in enumerate(targets)}
    ordered = [sorted(rows[source].items(), key=lambda item: (-item[1], item[0])) for source in sources]
    entries = [item for row in ordered for item in row]
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, ordered)]), allow_pickle=False)
    np.save(folder / "targets.npy", np.array([numbers[t] for t, _ in entries], np.int64), allow_pickle=False)
    np.save(folder / "probabilities.npy", np.array([p for _, p in entries], np.float64), allow_pickle=False)
    (folder / "terms.json").write_text(json.dumps({"sources": sources, "targets": targets}), encoding="utf-8")
    return {"sources": len(sources), "targets": len(targets), "entries": len(entries)}


class Pruning(NamedTuple):
    """What stays of a row, in this order: `threshold`, `cumulative`, `most`, `renormalise`."""

    threshold: float  # entries below are dropped
    cumulative: float  # the fewest of the most probable that sum to it stay; all where they do not reach it, or 1
    most: int | None  # and of them the first so many
    renormalise: bool  # what is left is divided by its sum


def load(folder: Path, pruning: Pruning) -> tuple[list[str], list[str], Any]:
    """Sources, targets, and the pruned probabilities as a scipy CSR matrix (sources, targets)."""
    import numpy as np
    from scipy import sparse

    names = json.loads((folder / "terms.json").read_text(encoding="utf-8"))
    offsets, targets, kept = (
        np.load(folder / f"{n}.npy", allow_pickle=False) for n in ("offsets", "targets", "probabilities")
    )
    row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))

    def within(values: np.ndarray) -> np.ndarray:
        """Sums from the start of each row to before each entry."""
        total: np.ndarray = np.concatenate([[0.0], np.cumsum(values)])
        before: np.ndarray = total[:-1] - total[offsets[row]]
        return before

    stays = kept >= pruning.threshold
    if pruning.cumulative < 1:
        # 1e-9: a row of 0.6, 0.3 and 0.1 reaches 0.9 with two entries, whatever the last bits of the sum say
        stays &= within(np.where(stays, kept, 0.0)) < pruning.cumulative - 1e-9
    if pruning.most is not None:
        stays &= within(stays.astype(np.float64)) < pruning.most
    row, targets, kept = row[stays], targets[stays], kept[stays]
    if pruning.renormalise:
        kept = kept / np.bincount(row, kept, minlength=len(offsets))[row]
    shape = (len(names["sources"]), len(names["targets"]))
    return names["sources"], names["targets"], sparse.csr_matrix((kept, (row, targets)), shape=shape)


def select(folder: Path, pruning: Pruning, terms: Iterable[str], given: Literal["query", "doc"]) -> Rows:
    """The pruned translations of query terms: of a table given the query term its row, given the document term its column."""
    sources, targets, matrix = load(folder, pruning)
    names, others = (sources, targets) if given == "query" else (targets, sources)
    matrix = matrix if given == "query" else matrix.T.tocsr()
    numbers: Mapping[str, int] = {name: number for number, name in enumerate(names)}
    found: Rows = {}
    for term in terms:
        if (at := numbers.get(term)) is not None:
            start, end = matrix.indptr[at], matrix.indptr[at + 1]
            columns, values = matrix.indices[start:end].tolist(), matrix.data[start:end].tolist()
            if columns:
                found[term] = {others[i]: value for i, value in zip(columns, values, strict=True)}
    return found
