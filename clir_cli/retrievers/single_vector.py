"""Retrieval with one vector per text, wherever the vectors come from: what is stored, what is made of it, how it is searched."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clir_cli.errors import ConfigError, DataError, LanguageError, RunError, many
from clir_cli.lines import read_lines
from clir_cli.models import encoding
from clir_cli.progress import say, track
from clir_cli.search import approximate, postprocess, vectors
from clir_cli.search.margin import by_margin
from clir_cli.text import truncation
from clir_cli.text.languages import language
from clir_cli.types import Run, Text, added, derived, neutral, searched

if TYPE_CHECKING:
    import numpy as np

Task = Literal["query", "document"]
BLOCK = 1 << 14  # vectors in memory at once while a step reads them all


@dataclass(frozen=True, kw_only=True)
class SingleVector:
    """Rank documents by the inner product of their vector with the query's, exactly, over 16-bit copies of the vectors.

    A base: subclasses say in `encode` where vectors come from, and in `name` who gives them, for errors. The fields
    marked `derived` make another copy of the finished index's vectors, in the order dims, post, then quantize or
    faiss_factory; nothing is encoded again.
    """

    normalize: bool = True  # vectors of length 1: inner product is cosine
    similarity: Literal["dot", "cosine"] = searched("dot")  # cosine differs only where normalize is false
    dims: int | None = derived(None)  # the first n numbers, for encoders trained for that (Matryoshka)
    post: tuple[str | Mapping[str, object], ...] = derived(())  # e.g. [center, zca]; all: postprocess.STEPS
    parallel: str | None = neutral(
        None, path=True
    )  # lines by {lang} or {iso3}: for linear, procrustes, query languages without documents
    quantize: Literal["none", "int8", "binary"] = derived("none")
    rescore: int = added(4, 4, "searched")  # of quantised vectors: depth x rescore documents are scored again; 0: none
    faiss_factory: str | None = derived(
        None
    )  # faiss.index_factory: HNSW32, 'IVF4096,PQ64'; null: exact, right to 10 M documents
    faiss_search: Mapping[str, object] | None = added(None, None, "searched")  # {nprobe: 16}, {efSearch: 128}
    recall_queries: int = neutral(100)  # queries that an approximate search is compared with the exact one on; 0: none
    margin: Literal["none", "absolute", "ratio", "distance"] = added("none", "none", "searched")  # absolute is none
    margin_neighbours: int = added(4, 4, "searched")
    device: str = neutral("auto")  # auto: the GPU if there is one; cpu, cuda, cuda:1, mps

    def __post_init__(self) -> None:
        postprocess.parse(self.post)
        for name, least in (("dims", 1), ("rescore", 0), ("recall_queries", 0), ("margin_neighbours", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.faiss_factory is not None and self.quantize != "none":
            raise ValueError(
                f"quantize={self.quantize} and faiss_factory={self.faiss_factory} are two answers; choose one"
            )
        if self.faiss_search and self.faiss_factory is None:
            raise ValueError("faiss_search is for faiss_factory, which is null")
        if self._cosine and (self.faiss_factory or self.quantize != "none"):
            raise ValueError("quantize and faiss_factory know inner products only: normalize=true makes them cosines")
        if self._margin and not (self.normalize or self._cosine):
            raise ValueError("margin compares cosines: normalize=true, or similarity=cosine")
        if self._margin and self.quantize != "none" and not self.rescore:
            raise ValueError(f"margin compares cosines, and quantize={self.quantize} has none without rescore")

    @property
    def search_engines(self) -> tuple[str, ...]:
        """Whose versions decide the result of an approximate search."""
        return ("faiss",) if self.faiss_factory else ()

    @property
    def name(self) -> str:
        """Who gives the vectors, for errors."""
        raise NotImplementedError

    @property
    def shard_docs(self) -> int:
        """Documents per shard; fixed, because batches are formed inside a shard and the bytes depend on them."""
        return 50_000

    def encode(self, texts: Sequence[Text], task: Task) -> tuple[np.ndarray, Mapping[str, float]]:
        """Vectors (texts, dimensions) float32, normalised if `normalize`, and counts: texts, tokens, cut."""
        raise NotImplementedError

    @property
    def _cosine(self) -> bool:
        return self.similarity == "cosine" and not self.normalize

    @property
    def _margin(self) -> Literal["ratio", "distance"] | None:
        return None if self.margin in {"none", "absolute"} else self.margin  # type: ignore[return-value]

    @property
    def _steps(self) -> tuple[postprocess.Step, ...]:
        first = () if self.dims is None else (postprocess.First(self.dims, self.normalize),)
        return (*first, *postprocess.parse(self.post))

    # The index --------------------------------------------------------------------------------------------------------

    def index_shard(self, docs: Sequence[Text], folder: Path) -> None:
        """Write `vectors.npy` (documents, dimensions) float16, `ids.txt`, `langs.json` and `report.json` of counts.

        Raises RunError naming a document whose vector has a number that is NaN or too large for 16 bits.
        """
        encoded, report = self.encode(docs, "document")
        halves = _halves(encoded)
        zeros = _checked(halves, docs, self.name)
        vectors.write_shard(folder, [doc.id for doc in docs], halves, [doc.lang for doc in docs])
        (folder / "report.json").write_text(json.dumps({**report, **zeros}) + "\n", encoding="utf-8")

    # What is made of it -------------------------------------------------------------------------------------------------

    def files(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> list[Path]:
        """The files of `parallel` that `post` is fitted on. Raises LanguageError where it needs one and there is none."""
        return list(
            dict.fromkeys(self._line_file(lang) for langs in self._line_langs(query_langs, doc_langs) for lang in langs)
        )

    def _line_langs(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> tuple[list[str], list[str]]:
        needed = [step.languages(query_langs, doc_langs) for step in self._steps] if query_langs else []
        return (
            list(dict.fromkeys(lang for queries, _ in needed for lang in queries)),
            list(dict.fromkeys(lang for _, docs in needed for lang in docs)),
        )

    def _line_file(self, lang: str) -> Path:
        if self.parallel is None:
            raise LanguageError(
                f"retriever.post is fitted on texts in {lang!r}, and no documents are in that language\n"
                "  give a file with a text per line: retriever.parallel=lines.{lang}.txt, aligned for linear and procrustes"
            )
        try:
            path = self.parallel.format(lang=lang, iso3=language(lang).iso3)
        except (LookupError, ValueError) as error:
            raise ConfigError(
                f"retriever.parallel={self.parallel!r} does not parse ({error}); it may hold {{lang}} and {{iso3}}"
            ) from error
        return Path(path).expanduser().absolute()

    def _lines(self, lang: str, task: Task) -> np.ndarray:
        """The vectors of a language's lines, (lines, dimensions) float32."""
        path = self._line_file(lang)
        rows = list(read_lines(path, "retriever.parallel"))
        if not rows or rows[-1][0] != len(rows):
            at = next((i for i, (number, _) in enumerate(rows, 1) if number != i), 1)
            raise DataError(f"{path}:{at}: an empty line; every line must hold a text, so that lines stay aligned")
        texts = [Text(f"{path.name}:{number}", ((lang, text),)) for number, text in rows]
        encoded, _ = self.encode(texts, task)
        _checked(encoded, texts, self.name)
        return encoded

    @property
    def derives_per_language(self) -> bool:
        return bool(self.post)

    def derive(
        self, index: Path, folder: Path, query_langs: Sequence[str], doc_langs: Sequence[str]
    ) -> Mapping[str, float]:
        """Leave in `folder` the mapped vectors and their maps, the quantised ones, or the faiss index. Returns counts."""
        counts, stored = {}, index
        if self._steps:
            counts, stored = self._map(index, folder, query_langs, doc_langs), folder
        if self.quantize != "none":
            counts |= approximate.quantise(stored, folder / "codes", self.quantize)
        if self.faiss_factory is not None:
            counts |= approximate.build_faiss(stored, folder / "index.faiss", self.faiss_factory)
        return counts

    def _map(self, index: Path, folder: Path, query_langs: Sequence[str], doc_langs: Sequence[str]) -> dict[str, float]:
        """Fit `post`, and write the documents' mapped vectors in the layout of an index. Memory stays flat."""
        import numpy as np

        shards = {path: vectors.read_vectors(path) for path in vectors.shard_folders(index)}
        langs = {path: vectors.read_langs(path) for path in shards}

        def docs(lang: str | None) -> Iterator[np.ndarray]:
            for path, rows in shards.items():
                for own, begin, end in langs[path]:
                    for start in range(begin, end, BLOCK) if lang in {None, own} else ():
                        yield rows[start : min(end, start + BLOCK)].astype(np.float32)

        queries, targets = self._line_langs(query_langs, doc_langs)
        source = postprocess.Source(
            docs,
            tuple(dict.fromkeys(lang for spans in langs.values() for lang, _, _ in spans)),
            {lang: self._lines(lang, "query") for lang in queries},
            {lang: self._lines(lang, "document") for lang in targets},
        )
        width = next(iter(shards.values())).shape[1]
        for lang, lines in [*source.queries.items(), *source.targets.items()]:
            if lines.shape[1] != width:
                raise DataError(
                    f"{index} holds vectors of {width} numbers, and {self.name} gives {lang!r} {lines.shape[1]}: index again"
                )
        say(f"fitting {', '.join(type(step).__name__ for step in self._steps)}")
        chain = postprocess.fit(self._steps, source, self.normalize)
        chain.save(folder / "post.npz")
        before, after, count = np.zeros(1), np.zeros(1), 0
        for path, rows in track(shards.items(), len(shards), "map vectors", "shards"):
            made: list[np.ndarray] = []
            for lang, begin, end in langs[path]:
                for start in range(begin, end, BLOCK):
                    block = rows[start : min(end, start + BLOCK)].astype(np.float32)
                    mapped = chain(block, lang, "document")
                    before, after = (
                        before + postprocess.unit(block).sum(axis=0),
                        after + postprocess.unit(mapped).sum(axis=0),
                    )
                    made.append(_halves(mapped))
            halves = np.concatenate(made)
            if not np.isfinite(halves).all():
                raise RunError(
                    "retriever.post makes numbers that 16 bits cannot hold: retriever.normalize=true, or a larger epsilon"
                )
            vectors.write_shard(folder / "shards" / path.name, vectors.read_ids(path), halves, _spelled(langs[path]))
            count += len(halves)
        return {
            "documents": count,
            "dimensions_before": width,
            "dimensions": halves.shape[1],
            "bytes_per_document": 2 * halves.shape[1],
            "mean_cosine_before": float(np.square(before / count).sum()),  # of two random documents: anisotropy
            "mean_cosine": float(np.square(after / count).sum()),
        }

    # Encoding ---------------------------------------------------------------------------------------------------------

    def collected(
        self, batches: Iterable[encoding.Batch], texts: Sequence[Text], task: Task, width: int, query_tokens: int | None
    ) -> tuple[np.ndarray, dict[str, int]]:
        """Vectors (texts, `width`) float32 out of batches in any order, and how many texts, tokens and cut texts there were.

        `query_tokens`: what cut queries were cut at, for the warning that some were.
        """
        import numpy as np
        import torch

        encoded = np.empty((len(texts), width), np.float32)
        report = {"texts": len(texts), "tokens": 0, "cut": 0}
        was_cut = [False] * len(texts)

        def done() -> Iterator[int]:
            for batch in batches:
                values = batch.values[:, :width]
                encoded[batch.at] = torch.nn.functional.normalize(values, dim=1) if self.normalize else values
                report["tokens"] += sum(batch.tokens)
                report["cut"] += sum(batch.cut)
                for i, cut in zip(batch.at, batch.cut, strict=True):
                    was_cut[i] = cut
                yield from batch.at

        for _ in track(done(), len(texts), "encode", "documents" if task == "document" else "queries"):
            pass
        languages = truncation.by_language((text.lang, cut) for text, cut in zip(texts, was_cut, strict=True))
        if task == "query":
            truncation.warn(self.name, "queries", languages, query_tokens)
        return encoded, {**report, **languages}

    # Search -------------------------------------------------------------------------------------------------------------

    def search(self, folder: Path, queries: Sequence[Text], depth: int, derived: Path | None = None) -> Run:
        """The `depth` best documents of every query; equal scores by doc_id descending.

        `attrs["counts"]` of the run: what encoding the queries cost, and the recall of an approximate search.
        """
        import numpy as np

        from clir_cli import runs

        encoded, report = self.encode(queries, "query")
        zeros = _checked(encoded, queries, self.name)
        ids, stored = [query.id for query in queries], folder
        if self._steps:
            stored = _needed(derived)
            for path in vectors.shard_folders(folder)[:1]:
                vectors.check_dimensions(folder, encoded, vectors.read_vectors(path))
            chain = postprocess.load(stored / "post.npz", self._steps, self.normalize)
            mapped = [chain(encoded[i : i + 1], query.lang, "query") for i, query in enumerate(queries)]
            encoded = np.concatenate(mapped) if mapped else encoded[:, :0]
        if self._cosine:
            encoded = postprocess.unit(encoded)
        deep = max(depth, self.margin_neighbours) if self._margin else depth
        run, counts = self._nearest(stored, derived, ids, encoded, deep)
        if self._margin:
            run = by_margin(run, stored, ids, encoded, self._margin, self.margin_neighbours, cosine=self._cosine)
        run = runs.cut(run, depth)
        run.attrs["counts"] = {name: value for name, value in report.items() if name != "texts"} | counts | zeros
        return run

    def _nearest(
        self, stored: Path, derived: Path | None, ids: Sequence[str], encoded: np.ndarray, depth: int
    ) -> tuple[Run, dict[str, float]]:
        """Exactly, by quantised vectors, or by faiss; of the last two the recall too."""
        on = encoding.device(self.device)

        def exact(ids: Sequence[str], encoded: np.ndarray) -> Run:
            return vectors.search_exact(stored, ids, encoded, depth, cosine=self._cosine, device=on)

        if self.quantize != "none":
            codes = _needed(derived) / "codes"
            run = approximate.search_quantised(codes, self.quantize, ids, encoded, depth * (self.rescore or 1), on)
            if self.rescore:
                run = approximate.rescored(run, stored, ids, encoded, depth)
        elif self.faiss_factory is not None:
            file = _needed(derived) / "index.faiss"
            run = approximate.search_faiss(stored, file, ids, encoded, depth, self.faiss_search or {})
        else:
            return exact(ids, encoded), {}
        some = sorted({i * len(ids) // self.recall_queries for i in range(self.recall_queries)})
        if not some:
            return run, {}
        best = exact([ids[i] for i in some], encoded[some])
        counts = {f"recall_at_{k}": approximate.recall(run, best, k) for k in dict.fromkeys((min(10, depth), depth))}
        found = ", ".join(f"{value:.3f} of the exact top {name.split('_')[-1]}" for name, value in counts.items())
        say(f"{self.faiss_factory or self.quantize} finds {found} ({many(len(some), 'query', 'queries')})")
        return run, {**counts, "recall_queries": len(some)}


def _needed(derived: Path | None) -> Path:
    if derived is None:
        raise RunError("the vectors that this search needs were not derived from the index")
    return derived


def _spelled(spans: Sequence[tuple[str, int, int]]) -> list[str]:
    return [lang for lang, begin, end in spans for _ in range(end - begin)]


def _halves(encoded: np.ndarray) -> np.ndarray:
    import torch

    halves: np.ndarray = torch.from_numpy(encoded).half().numpy()
    return halves


def _checked(encoded: np.ndarray, texts: Sequence[Text], name: str) -> dict[str, int]:
    """How many vectors hold nothing but zeros, as `zeros` if there are any. Raises RunError for NaN and infinity."""
    import numpy as np

    bad = np.flatnonzero(~np.isfinite(encoded).all(axis=1))
    if len(bad):
        text = texts[int(bad[0])]
        raise RunError(
            f"{name} gives {text.id} ({len(bad)} of {len(texts)} texts) a vector with NaN or infinity: {text.text[:80]!r}\n"
            "  try retriever.dtype=float32 and retriever.normalize=true; an empty text has no last token to pool"
        )
    zeros = len(encoded) - int(np.count_nonzero(encoded.any(axis=1)))
    return {"zeros": zeros} if zeros else {}
