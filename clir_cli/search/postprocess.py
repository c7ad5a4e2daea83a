"""Linear and piecewise linear maps of vectors, fitted on documents or on parallel lines, never on judgments.

A chain of them is an artefact: fitted once from a finished index, kept as `post.npz`, applied to documents and queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from clir_cli import schema
from clir_cli.errors import ConfigError, DataError, LanguageError
from clir_cli.progress import say
from clir_cli.schema import Problem

if TYPE_CHECKING:
    import numpy as np

Arrays: TypeAlias = dict[str, "np.ndarray"]
Blocks: TypeAlias = Callable[[str | None], Iterator["np.ndarray"]]  # a language's vectors (None: all), block by block
Task: TypeAlias = Literal["query", "document"]
ALL = "*"  # the group of a step that is fitted on all languages together


@dataclass(frozen=True)
class Source:
    """What a chain is fitted on. Blocks are (texts, dimensions) float32 and may be read any number of times."""

    docs: Blocks
    doc_langs: tuple[str, ...]
    queries: Mapping[str, np.ndarray] = field(default_factory=dict)  # lines by query language, encoded as queries
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)  # lines by document language, encoded as documents

    def group(self, name: str) -> Callable[[], Iterator[np.ndarray]]:
        """The vectors of a language, of its lines where there are no documents in it, or of all documents."""
        if name == ALL:
            return lambda: self.docs(None)
        if name in self.doc_langs:
            return lambda: self.docs(name)
        return lambda: iter([self.queries[name]])

    def after(self, step: Step, arrays: Arrays) -> Source:
        """The same texts, mapped by a fitted step."""

        def docs(lang: str | None) -> Iterator[np.ndarray]:
            for each in self.doc_langs if lang is None else (lang,):
                for block in self.docs(each):
                    yield step.apply(arrays, block, each, "document")

        return Source(
            docs,
            self.doc_langs,
            {lang: step.apply(arrays, lines, lang, "query") for lang, lines in self.queries.items()},
            {lang: step.apply(arrays, lines, lang, "document") for lang, lines in self.targets.items()},
        )


class Step:
    """A map with fitted arrays."""

    def languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> tuple[list[str], list[str]]:
        """The query and the document languages whose lines it is fitted on. Raises LanguageError for what it cannot map."""
        return [], []

    def fit(self, source: Source) -> Arrays:
        raise NotImplementedError

    def apply(self, arrays: Arrays, vectors: np.ndarray, lang: str, task: Task) -> np.ndarray:
        """The map of (texts, dimensions) float32, all in one language."""
        raise NotImplementedError


@dataclass(frozen=True)
class First(Step):
    """The first `dims` numbers, of length 1 again where `normalize`: Matryoshka vectors (Kusupati et al. 2022)."""

    dims: int
    normalize: bool

    def fit(self, source: Source) -> Arrays:
        width = next(source.docs(None)).shape[1]
        if self.dims > width:
            raise ConfigError(f"retriever.dims={self.dims}: the index holds vectors of {width} numbers")
        return {}

    def apply(self, arrays: Arrays, vectors: np.ndarray, lang: str, task: Task) -> np.ndarray:
        first = vectors[:, : self.dims]
        return unit(first) if self.normalize else first


@dataclass(frozen=True)
class Grouped(Step):
    """A step that is fitted for each language by itself, or for all documents at once.

    By language, a query language without documents is fitted on its lines; queries in a language with documents get
    what was fitted on those.
    """

    by: Literal["language", "all"] = "all"

    def languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> tuple[list[str], list[str]]:
        return ([lang for lang in query_langs if lang not in doc_langs] if self.by == "language" else []), []

    def fit(self, source: Source) -> Arrays:
        groups = dict.fromkeys([*source.doc_langs, *source.queries]) if self.by == "language" else [ALL]
        return {
            f"{name}/{key}": array
            for name in groups
            for key, array in self.fit_group(source.group(name)).items()
        }  # fmt: skip

    def apply(self, arrays: Arrays, vectors: np.ndarray, lang: str, task: Task) -> np.ndarray:
        name = lang if self.by == "language" else ALL
        mine = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
        if not mine:
            fitted = ", ".join(dict.fromkeys(key.split("/")[0] for key in arrays))
            raise LanguageError(
                f"retriever.post: {type(self).__name__.lower()} was fitted by language for {fitted}, not for {lang!r}"
            )
        return self.apply_group(mine, vectors)

    def fit_group(self, blocks: Callable[[], Iterator[np.ndarray]]) -> Arrays:
        raise NotImplementedError

    def apply_group(self, arrays: Arrays, vectors: np.ndarray) -> np.ndarray:
        raise NotImplementedError


@dataclass(frozen=True)
class Center(Grouped):
    """x - mean: without the part that all texts of a language share (Libovický, Rosa & Fraser 2020)."""

    by: Literal["language", "all"] = "language"

    def fit_group(self, blocks: Callable[[], Iterator[np.ndarray]]) -> Arrays:
        return {"mean": mean(blocks)}

    def apply_group(self, arrays: Arrays, vectors: np.ndarray) -> np.ndarray:
        return _float(vectors - arrays["mean"])


@dataclass(frozen=True)
class ZCA(Grouped):
    """(x - mean) U (L + epsilon)^(-1/2) U', with U L U' the covariance: white and as near to x as can be.

    Bell & Sejnowski 1997; for sentence vectors across languages Hämmerl et al. 2023. The covariance divides by n.
    """

    epsilon: float = 1e-5  # added to the variances, so that directions without any do not become noise

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"epsilon must not be negative, got {self.epsilon}")

    def fit_group(self, blocks: Callable[[], Iterator[np.ndarray]]) -> Arrays:
        import numpy as np

        center, count = mean(blocks), sum(len(block) for block in blocks())
        if count <= len(center):
            say(
                f"warning: zca is fitted on {count} vectors of {len(center)} numbers: what it scales up most is chance; "
                "a larger epsilon (variances are about 1 / numbers) dampens it"
            )
        values, vectors = np.linalg.eigh(covariance(blocks, center))
        scale = np.maximum(values, 0) + self.epsilon
        if (scale <= 0).any():
            raise ConfigError(
                "retriever.post: zca with epsilon=0, and some directions have no variance; give an epsilon"
            )
        return {"mean": center, "map": (vectors / np.sqrt(scale)) @ vectors.T}

    def apply_group(self, arrays: Arrays, vectors: np.ndarray) -> np.ndarray:
        return _float((vectors - arrays["mean"]) @ arrays["map"])


@dataclass(frozen=True, kw_only=True)
class CBIE(Grouped):
    """Cluster-based isotropy enhancement (Rajaee & Pilehvar 2021): x' = x - m, then x' - sum of (x' u) u.

    m is the mean of x's cluster and u its first `directions` principal components; the cluster is that of the nearest
    centre of a k-means with `clusters` centres, which for documents and queries alike is found by the same centres.
    """

    clusters: int
    directions: int
    seed: int = 0  # of the k-means, which sees a seeded sample of at most SAMPLE vectors

    def __post_init__(self) -> None:
        if self.clusters < 1 or self.directions < 0:
            raise ValueError(
                f"clusters must be at least 1 and directions 0 or more, got {self.clusters}, {self.directions}"
            )

    def fit_group(self, blocks: Callable[[], Iterator[np.ndarray]]) -> Arrays:
        import numpy as np

        centres = kmeans(sample(blocks, self.seed), self.clusters, self.seed)
        count, width = centres.shape
        if self.directions > width:
            raise ConfigError(f"retriever.post: cbie takes away {self.directions} directions of {width}")
        sizes, means, squares = np.zeros(count), np.zeros((count, width)), np.zeros((count, width, width))
        for block in blocks():
            at = nearest(block, centres)
            for cluster in np.unique(at):
                sizes[cluster] += (at == cluster).sum()
                means[cluster] += block[at == cluster].sum(axis=0, dtype=np.float64)
        means /= sizes[:, None]
        for block in blocks():
            at = nearest(block, centres)
            for cluster in np.unique(at):
                rest = block[at == cluster] - means[cluster]
                squares[cluster] += rest.T @ rest
        directions = np.linalg.eigh(squares)[1].transpose(0, 2, 1)[:, ::-1][:, : self.directions]
        return {"centres": centres, "means": means, "directions": directions}

    def apply_group(self, arrays: Arrays, vectors: np.ndarray) -> np.ndarray:
        import numpy as np

        found, at = np.empty(vectors.shape, np.float32), nearest(vectors, arrays["centres"])
        for cluster in np.unique(at):
            rest = vectors[at == cluster] - arrays["means"][cluster]
            directions = arrays["directions"][cluster]  # (directions, dimensions)
            found[at == cluster] = rest - rest @ directions.T @ directions
        return found


@dataclass(frozen=True)
class DropDims(Step):
    """Without outlier dimensions: those where |m| > mean(m) + sigmas * deviation(m), m the mean vector.

    As Hämmerl et al. 2023 find them, with m the mean of the languages' means, and deviation(m) dividing by d - 1.
    """

    sigmas: float = 3.0

    def fit(self, source: Source) -> Arrays:
        import numpy as np

        means = np.mean([mean(source.group(lang)) for lang in source.doc_langs], axis=0)
        return {"kept": np.flatnonzero(np.abs(means) <= means.mean() + self.sigmas * means.std(ddof=1))}

    def apply(self, arrays: Arrays, vectors: np.ndarray, lang: str, task: Task) -> np.ndarray:
        return vectors[:, arrays["kept"]]


@dataclass(frozen=True)
class Linear(Step):
    """q W for queries, with the W that brings the query side X of parallel lines nearest to the documents' side Y.

    least squares: min |X W - Y| (Mikolov, Le & Sutskever 2013). Queries in the documents' own language stay.
    """

    def languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> tuple[list[str], list[str]]:
        foreign = [lang for lang in query_langs if lang not in doc_langs]
        if len(doc_langs) > 1:
            raise LanguageError(
                f"retriever.post: {type(self).__name__.lower()} maps queries into one language, and the documents are in "
                f"{'+'.join(doc_langs)}\n  retrieve.pool=per_language maps them into each language's part by itself"
            )
        return foreign, list(doc_langs) if foreign else []

    def fit(self, source: Source) -> Arrays:
        maps: Arrays = {}
        for lang, lines in source.queries.items():
            target = source.targets[source.doc_langs[0]]
            if len(lines) != len(target):
                raise DataError(
                    f"retriever.parallel: {len(lines)} lines in {lang!r} and {len(target)} in {source.doc_langs[0]!r}; "
                    "line i of one must translate line i of the other"
                )
            maps[lang] = self.solve(lines.astype("float64"), target.astype("float64"))
        return maps

    def solve(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        import numpy as np

        found: np.ndarray = np.linalg.lstsq(x, y, rcond=None)[0]
        return found

    def apply(self, arrays: Arrays, vectors: np.ndarray, lang: str, task: Task) -> np.ndarray:
        return _float(vectors @ arrays[lang]) if task == "query" and lang in arrays else vectors


@dataclass(frozen=True)
class Procrustes(Linear):
    """As `linear` with an orthogonal W: U V' of the singular vectors of X'Y (Schönemann 1966; Smith et al. 2017)."""

    def solve(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        import numpy as np

        u, _, v = np.linalg.svd(x.T @ y)
        found: np.ndarray = u @ v
        return found


STEPS: Mapping[str, type[Step]] = {
    "center": Center, "drop_dims": DropDims, "zca": ZCA, "cbie": CBIE, "linear": Linear, "procrustes": Procrustes,
}  # fmt: skip


def parse(post: Sequence[str | Mapping[str, object]]) -> tuple[Step, ...]:
    """`center`, or `{name: zca, epsilon: 0.001}`, as steps. Raises ValueError for a name or setting that does not exist."""
    steps = []
    for i, given in enumerate(post):
        settings = {"name": given} if isinstance(given, str) else dict(given)
        name = settings.pop("name", None)
        if name not in STEPS:
            raise ValueError(f"post: {name!r} is none of {', '.join(STEPS)}, or {{name: ..., setting: value}}")
        problems: list[Problem] = []
        step = schema.construct(STEPS[str(name)], settings, f"post.{i}", problems)
        if step is None:
            raise ValueError("; ".join(map(str, problems)))
        steps.append(step)
    return tuple(steps)


# Chains ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """Fitted steps, one after another; vectors have length 1 after the last where `normalize`."""

    steps: tuple[tuple[Step, Arrays], ...]
    normalize: bool

    def __call__(self, vectors: np.ndarray, lang: str, task: Task) -> np.ndarray:
        for step, arrays in self.steps:
            vectors = step.apply(arrays, vectors, lang, task)
        return unit(vectors) if self.normalize else vectors

    def save(self, file: Path) -> None:
        import numpy as np

        np.savez(file, **{f"{i}/{key}": array for i, (_, own) in enumerate(self.steps) for key, array in own.items()})  # type: ignore[arg-type]


def fit(steps: Sequence[Step], source: Source, normalize: bool) -> Chain:
    """Each step fitted on what the ones before it leave of the source."""
    done: list[tuple[Step, Arrays]] = []
    for step in steps:
        arrays = step.fit(source)
        source = source.after(step, arrays)
        done.append((step, arrays))
    return Chain(tuple(done), normalize)


def load(file: Path, steps: Sequence[Step], normalize: bool) -> Chain:
    """The chain that `Chain.save` wrote; its steps are the configuration's."""
    import numpy as np

    with np.load(file, allow_pickle=False) as kept:
        found: list[Arrays] = [{} for _ in steps]
        for name in kept.files:
            at, _, key = name.partition("/")
            found[int(at)][key] = kept[name]
    return Chain(tuple(zip(steps, found, strict=True)), normalize)


# Numbers --------------------------------------------------------------------------------------------------------------

SAMPLE = 100_000  # vectors that a k-means sees


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    import numpy as np

    return _float(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _float(vectors: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(vectors, np.float32)


def mean(blocks: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
    """The mean row, float64. Raises DataError where there are no rows."""
    import numpy as np

    total, count = np.zeros(1), 0
    for block in blocks():
        total, count = total + block.sum(axis=0, dtype=np.float64), count + len(block)
    if not count:
        raise DataError("retriever.post: there are no vectors to fit it on")
    return np.asarray(total / count)


def covariance(blocks: Callable[[], Iterator[np.ndarray]], center: np.ndarray) -> np.ndarray:
    """(dimensions, dimensions) float64, divided by n."""
    import numpy as np

    total, count = np.zeros((len(center), len(center))), 0
    for block in blocks():
        rest = block - center
        total, count = total + rest.T @ rest, count + len(block)
    return np.asarray(total / count)


def sample(blocks: Callable[[], Iterator[np.ndarray]], seed: int, size: int | None = None) -> np.ndarray:
    """At most `size` rows, every one as likely, in their order, float32."""
    import numpy as np

    size = SAMPLE if size is None else size
    count = sum(len(block) for block in blocks())
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:size])
    found, start = [], 0
    for block in blocks():
        inside = chosen[(chosen >= start) & (chosen < start + len(block))] - start
        found.append(block[inside])
        start += len(block)
    return np.concatenate(found).astype(np.float32)


def nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The number of the centre that each row is nearest to (Euclid)."""
    found: np.ndarray = ((centres**2).sum(axis=1) - 2 * vectors @ centres.T).argmin(axis=1)
    return found


def kmeans(vectors: np.ndarray, clusters: int, seed: int, rounds: int = 25) -> np.ndarray:
    """At most `clusters` centres (centres, dimensions) float64 by Lloyd's algorithm from seeded rows; none is empty."""
    import numpy as np

    distinct = np.unique(vectors, axis=0)
    at = np.sort(np.random.default_rng(seed).permutation(len(distinct))[:clusters])
    centres = distinct[at].astype(np.float64)
    for _ in range(rounds):
        own = nearest(vectors, centres)
        centres = np.array(
            [vectors[own == i].mean(axis=0, dtype=np.float64) for i in range(len(centres)) if (own == i).any()]
        )
    return centres[np.isin(np.arange(len(centres)), nearest(vectors, centres))]
