"""Late-interaction retrieval: a vector per token, documents ranked by MaxSim, exactly or through a PLAID index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clir_cli import progress
from clir_cli.errors import ConfigError
from clir_cli.models import encoding, multi_vector
from clir_cli.models.multi_vector import Encoded, MultiVectorModel, TokenVectors
from clir_cli.search import plaid, vectors
from clir_cli.text import truncation
from clir_cli.types import Run, Text, derived, neutral, searched

if TYPE_CHECKING:
    import numpy as np
    import torch

LARGE = 20_000_000  # token vectors, some 100,000 passages: beyond it exact search is named slow, never refused


@dataclass(frozen=True, kw_only=True)
class LateInteraction(MultiVectorModel):
    """Rank documents by MaxSim of the query's token vectors with theirs (Khattab & Zaharia 2020).

    The index holds every token vector in 16 bits (128 numbers, 180 tokens: 46 kB a document). `search_with=exact` reads them
    all for every search: the reference, and quick enough up to some 100,000 passages. `search_with=plaid` derives an index
    of centroids and residuals (Santhanam et al. 2022), with `nbits=4` some 28 % of the size, and reads only the
    documents near the query. The 16-bit vectors stay: both ways of searching, every `nbits` and the check of PLAID's
    recall are made from them without encoding again, and encoding costs far more than the disk.
    """

    search_with: Literal["exact", "plaid"] = derived("exact")
    centroids: int | None = derived(None)  # null: 2 ** floor(log2(16 sqrt(tokens))), as PLAID does
    nbits: Literal[1, 2, 4] = derived(4)  # bits per number of a residual
    kmeans_iterations: int = derived(4)
    seed: int = derived(0)  # of the sample that k-means sees
    n_probe: int = searched(8)  # centroids per query token whose documents are candidates
    threshold: float | None = searched(None)  # centroids less like every query token do not count at first
    n_full_scores: int = searched(2048)  # documents decompressed, the best of the candidates by centroids alone
    recall_queries: int = neutral(32)  # documents asked as queries to measure recall of exact MaxSim; 0: none

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.search_with == "exact" and (self.centroids, self.nbits, self.kmeans_iterations, self.seed) != (
            None,
            4,
            4,
            0,
        ):
            raise ValueError("centroids, nbits, kmeans_iterations and seed need search_with=plaid")
        for name in ("centroids", "kmeans_iterations", "n_probe", "n_full_scores"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def shard_docs(self) -> int:
        """Documents per shard; fixed, because batches are formed inside a shard and the bytes depend on them."""
        return 10_000

    def index_shard(self, docs: Sequence[Text], folder: Path) -> None:
        """Write `tokens.npy` (tokens, dimensions) float16, `lengths.npy`, `ids.txt` and `report.json`.

        The report has texts, tokens the model read, cut texts, vectors (scored tokens) and bytes.
        """
        was_cut: list[tuple[str, bool]] = []

        def encoded() -> Iterator[Encoded]:
            for found in self.encode(docs, "document"):
                was_cut.append((docs[found.at].lang, found.cut))
                yield found

        report = multi_vector.write_shard(folder, [doc.id for doc in docs], encoded())
        report |= truncation.by_language(was_cut)
        (folder / "report.json").write_text(json.dumps(report) + "\n", encoding="utf-8")

    @property
    def derives_per_language(self) -> bool:
        return False

    def derive(
        self, index: Path, folder: Path, query_langs: Sequence[str], doc_langs: Sequence[str]
    ) -> Mapping[str, float]:
        """The PLAID index of the finished index; counts: documents, vectors, centroids, bytes, its recall@10."""
        on = encoding.device(self.device)
        built = plaid.build(
            index, folder, centroids=self.centroids, nbits=self.nbits, iterations=self.kmeans_iterations,
            seed=self.seed, on=on,
        )  # fmt: skip
        documents = max(1.0, built["documents"])
        progress.say(
            f"plaid: {built['documents']:.0f} documents, {built['vectors']:.0f} token vectors, {built['centroids']:.0f} centroids, "
            f"{built['bytes'] / documents:.0f} bytes a document (16-bit vectors: {built['stored_bytes'] / documents:.0f})"
        )
        if not self.recall_queries:
            return built
        recall = plaid.recall(index, folder, self.recall_queries, self._search(10), seed=self.seed, on=on)
        progress.say(
            f"plaid: recall@10 of exact MaxSim {recall:.3f}, {self.recall_queries} sampled documents asked as queries"
        )
        return {**built, "recall_at_10": recall}

    def search(self, folder: Path, queries: Sequence[Text], depth: int, derived: Path | None = None) -> Run:
        """The `depth` best documents of every query; equal scores by doc_id descending.

        Raises ConfigError for a depth that `n_full_scores` does not reach, DataError for the index of another model.
        """
        if not queries:
            return vectors.as_run([], [], [])
        on = encoding.device(self.device)
        encoded = self.encode_queries(queries)
        ids = [query.id for query in queries]
        if derived is None:
            return _search_exact(folder, ids, encoded, depth, on)
        if depth > self.n_full_scores:
            raise ConfigError(
                f"retriever.n_full_scores={self.n_full_scores} documents are scored in full and retrieve.depth={depth} are asked "
                "for: raise the one or lower the other"
            )
        hits = plaid.search(derived, encoded, depth, self._search(depth), on=on)
        scores = [[score for _, score in found] for found in hits]
        return vectors.as_run(ids, scores, [[doc for doc, _ in found] for found in hits])

    def _search(self, depth: int) -> plaid.Search:
        return plaid.Search(self.n_probe, self.threshold, max(self.n_full_scores, depth))


def _search_exact(folder: Path, query_ids: Sequence[str], queries: TokenVectors, depth: int, on: str) -> Run:
    """Every document of the index scored with every query, shard by shard with a running best."""
    import torch

    shards = list(multi_vector.read_shards(folder))
    total = sum(len(shard.tokens.vectors) for shard in shards)
    if total > LARGE:
        progress.say(
            f"exact MaxSim reads {total:,} token vectors for {len(query_ids)} queries; beyond some {LARGE:,} "
            "retriever.search_with=plaid is the faster choice"
        )
    scores = torch.empty(len(query_ids), 0)  # (queries, up to depth): the best so far
    rows = torch.empty(len(query_ids), 0, dtype=torch.int64)  # counted over all shards
    names: dict[int, str] = {}  # the documents that `rows` holds
    offset = 0
    for ids, tokens in progress.track(shards, len(shards), "maxsim", "shards"):
        multi_vector.check_dimensions(folder, queries, tokens.vectors.shape[1])
        scores, rows = _merge(scores, rows, multi_vector.maxsim(queries, tokens, on), offset, depth, names, ids)
        offset += len(ids)
    return vectors.as_run(query_ids, scores.tolist(), [[names[row] for row in found] for found in rows.tolist()])


def _merge(
    scores: torch.Tensor, rows: torch.Tensor, found: np.ndarray, offset: int, depth: int, names: dict[int, str],
    ids: Sequence[str],
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The best of before and of a shard; `names` then holds the ids of all that are left."""
    import torch

    def name(row: int) -> str:
        return ids[row - offset] if row >= offset else names[row]

    here = torch.arange(offset, offset + len(ids)).expand(len(found), -1)
    best, at = vectors.best_rows(torch.from_numpy(found), here, depth, name)
    best, at = vectors.best_rows(torch.cat([scores, best], 1), torch.cat([rows, at], 1), depth, name)
    left = {row: name(row) for row in torch.unique(at).tolist()}
    names.clear()
    names.update(left)
    return best, at
