"""The Run table: the only place that orders, cuts, fuses, reads and writes rankings."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from clir_cli.errors import ConfigError, DataError, many
from clir_cli.lines import content
from clir_cli.progress import say
from clir_cli.types import Run

COLUMNS = ["query_id", "doc_id", "score", "rank"]
TieBreak: TypeAlias = Literal["doc_id", "hash"]
_LAYOUT = "query_id Q0 doc_id rank score tag"
_BLANK = re.compile(r"[ \t\n\v\f\r]")  # what separates fields for trec_eval; other white space may stand in an id
Hits: TypeAlias = Mapping[str, Sequence[tuple[str, float]]]  # query_id -> (doc_id, score), best first


def from_hits(hits: Hits) -> Run:
    """A Run in the order given: an engine's own order is kept, also among equal scores."""
    rows = [
        (query, doc, float(score), rank) for query, found in hits.items() for rank, (doc, score) in enumerate(found, 1)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"query_id": str, "doc_id": str, "score": float, "rank": int})


def ranked(rows: pd.DataFrame, tie_break: TieBreak = "doc_id") -> Run:
    """Rows of query_id, doc_id, score as a Run: by falling score, ties by doc_id descending as trec_eval breaks them.

    `tie_break="hash"` orders ties by a hash of the two ids instead: ids that begin with a language code then favour no
    language. Queries keep the order of their first row.
    """
    at, scores = pd.factorize(rows["query_id"])[0], rows["score"].to_numpy(float)
    order = np.lexsort((-scores, at))
    same = (at[order][1:] == at[order][:-1]) & (scores[order][1:] == scores[order][:-1])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    docs, queries = (rows[name].tolist() if len(edges) else [] for name in ("doc_id", "query_id"))
    for begin, last in edges.reshape(-1, 2):  # ids are compared only where scores are equal
        tied = order[begin : last + 1].tolist()
        tied.sort(key=lambda i: _hash(queries[i], docs[i]) if tie_break == "hash" else docs[i], reverse=True)
        order[begin : last + 1] = tied
    return _numbered(rows.iloc[order])


def cut(run: Run, depth: int) -> Run:
    """The first `depth` documents of every query."""
    return run[run["rank"] <= depth].reset_index(drop=True)


def below(run: Run, depth: int) -> Run:
    """What `cut` leaves out."""
    return run[run["rank"] > depth].reset_index(drop=True)


def with_tail(top: Run, rest: Run) -> Run:
    """`top`, then the documents of `rest` that it lacks, in their order and with scores below it (rerank.tail=keep)."""
    marked = pd.concat([top.assign(part=0), rest.assign(part=1)], ignore_index=True)
    marked = marked.drop_duplicates(["query_id", "doc_id"], keep="first")
    marked["at"] = pd.factorize(marked["query_id"])[0]
    marked = marked.sort_values(["at", "part", "rank"], kind="stable")
    run, tail = _numbered(marked), marked["part"].to_numpy() == 1
    if tail.any():  # a tail's own scores mean nothing beside the reranker's: only the order is kept
        tops = top.groupby("query_id")["score"]
        floor = run["query_id"].map(tops.min()).fillna(0.0).to_numpy()
        size = run["query_id"].map(tops.size()).fillna(0).to_numpy()
        run.loc[tail, "score"] = (floor - (run["rank"].to_numpy() - size))[tail]
    return run


def in_slots(run: Run, prior: Run) -> Run:
    """`run` as evaluators sort it if its places have the scores of `prior`'s: documents of equal scores by falling doc_id.

    Scores one float32 step apart were equal before they were written (see strictly_falling).
    """
    slots: dict[str, np.ndarray] = {}
    for query, rows in prior.groupby("query_id", sort=False):
        scores = rows["score"].to_numpy(np.float32)
        falls = np.nextafter(scores[:-1], np.float32(-np.inf)) > scores[1:]
        slots[str(query)] = -np.concatenate([[0], np.cumsum(falls)])  # equal where the scores are
    values = [float(slots[q][rank - 1]) for q, rank in zip(run["query_id"], run["rank"], strict=True)]
    return ranked(run.assign(score=values))


def _numbered(rows: pd.DataFrame) -> Run:
    rows = rows.reset_index(drop=True)
    return rows.assign(rank=rows.groupby("query_id", sort=False).cumcount() + 1)[COLUMNS]


def _hash(query_id: str, doc_id: str) -> str:
    return hashlib.blake2b(f"{query_id}\0{doc_id}".encode(), digest_size=8).hexdigest()


# Fusion ---------------------------------------------------------------------------------------------------------------


def reciprocal_rank_fusion(
    runs: Sequence[Run], k: int = 60, weights: Sequence[float] | None = None, tie_break: TieBreak = "doc_id"
) -> Run:
    """Sum weight / (k + rank) over the runs (Cormack et al. 2009); a document missing from a run gets nothing from it."""
    weights = _weights(runs, weights)
    parts = [run.assign(score=weight / (k + run["rank"])) for run, weight in zip(runs, weights, strict=True)]
    return _summed(parts, tie_break)


def score_fusion(
    runs: Sequence[Run],
    normalise: Literal["minmax", "zscore"],
    weights: Sequence[float] | None = None,
    tie_break: TieBreak = "doc_id",
) -> Run:
    """Sum weight * normalised score (CombSUM, Fox & Shaw 1994); missing documents get the run's lowest value (0 for minmax).

    Normalised per query over what the run holds; where all scores of a query are equal they count 1 (minmax) or 0 (zscore).
    """
    weights, parts = _weights(runs, weights), []
    everything = pd.concat([run[["query_id", "doc_id"]] for run in runs]).drop_duplicates()
    for run, weight in zip(runs, weights, strict=True):
        by_query = run.groupby("query_id")["score"]
        low, high = by_query.transform("min"), by_query.transform("max")
        if normalise == "minmax":
            value = ((run["score"] - low) / (high - low).where(high > low, 1.0)).where(high > low, 1.0)
            missing = pd.Series(0.0, index=run["query_id"].unique())
        else:
            spread = by_query.transform("std", ddof=0).where(high > low, 1.0)
            value = ((run["score"] - by_query.transform("mean")) / spread).where(high > low, 0.0)
            missing = value.groupby(run["query_id"]).min()
        full = everything.merge(run[["query_id", "doc_id"]].assign(score=value), how="left", on=["query_id", "doc_id"])
        full["score"] = weight * full["score"].fillna(full["query_id"].map(missing)).fillna(0.0)
        parts.append(full)
    return _summed(parts, tie_break)


def interpolation(runs: Sequence[Run], weights: Sequence[float] | None = None, tie_break: TieBreak = "doc_id") -> Run:
    """Sum weight * score, each run's scores as they are; a document missing from a run gets nothing from it.

    Of two runs with the weights alpha and 1 - alpha this is Pyserini's `fusion --method interpolation`. Where a run's scores
    are negative, a document that it misses is above those that it found.
    """
    weights = _weights(runs, weights)
    return _summed([run.assign(score=w * run["score"]) for run, w in zip(runs, weights, strict=True)], tie_break)


def interleaved(runs: Sequence[Run], how: Literal["score", "round_robin"], tie_break: TieBreak = "doc_id") -> Run:
    """Runs over disjoint documents in one list: by their own scores, or by rank in turn (Voorhees et al. 1995)."""
    if how == "score":
        return ranked(pd.concat(runs, ignore_index=True)[["query_id", "doc_id", "score"]], tie_break)
    turns = [run.assign(score=-(run["rank"] * len(runs) + i).astype(float)) for i, run in enumerate(runs)]
    return ranked(pd.concat(turns, ignore_index=True)[["query_id", "doc_id", "score"]], tie_break)


def _summed(parts: Sequence[pd.DataFrame], tie_break: TieBreak) -> Run:
    rows = pd.concat([p[["query_id", "doc_id", "score"]] for p in parts], ignore_index=True)
    at = rows.groupby(["query_id", "doc_id"], sort=False).ngroup()
    rows = rows.iloc[np.lexsort((rows["score"], at))]  # the same points have the same sum, whichever run gave which
    return ranked(rows.groupby(["query_id", "doc_id"], sort=False)["score"].sum().reset_index(), tie_break)


def _weights(runs: Sequence[Run], weights: Sequence[float] | None) -> Sequence[float]:
    if weights is None:
        return [1.0] * len(runs)
    if len(weights) != len(runs):
        raise ConfigError(f"fusion got {len(weights)} weights for {len(runs)} runs")
    return weights


# TREC files -----------------------------------------------------------------------------------------------------------


def strictly_falling(scores: np.ndarray) -> np.ndarray:
    """Scores lowered as little as needed to fall strictly as float32, so that no evaluator re-sorts them.

    trec_eval keeps scores as float32 and breaks ties by doc_id; ir_measures' MS MARCO provider compares float64.
    """
    with np.errstate(over="ignore"):
        out = np.asarray(scores, np.float64).astype(np.float32) + np.float32(0)  # -0 becomes 0
    if not np.isfinite(out).all():
        raise DataError(
            "a ranking holds a score that is NaN, infinite or beyond float32; the component that made it is at fault"
        )
    low = np.float32(-np.inf)
    for i in np.flatnonzero(out[1:] >= out[:-1]) + 1:
        while i < len(out) and out[i] >= out[i - 1]:
            out[i] = np.nextafter(out[i - 1], low)
            i += 1
    return out


def write_trec(run: Run, path: Path, tag: str = "clir") -> None:
    """Write `qid Q0 docid rank score tag`: ranks from 1 without gaps, scores strictly falling as float32, `%.9g`.

    Written beside the target and renamed; of the tag, 24 characters of [A-Za-z0-9_.-] stay. Refuses duplicates, ids that
    are empty or hold white space, NaN and infinity.
    """
    doubled = run.duplicated(["query_id", "doc_id"])
    if doubled.any():
        row = run[doubled].iloc[0]
        raise DataError(f"{path.name}: document {row['doc_id']!r} is ranked twice for query {row['query_id']!r}")
    for column in ("query_id", "doc_id"):
        for text in run[column].unique():
            if not text or _BLANK.search(text):
                raise DataError(
                    f"{path.name}: {column} {text!r} is empty or holds white space, which a TREC file cannot say"
                )
    tag = re.sub(r"[^A-Za-z0-9_.-]+", "-", tag)[:24] or "clir"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as out:
            at = pd.factorize(run["query_id"])[0]
            order = np.argsort(at, kind="stable")
            ends = np.cumsum(np.bincount(at)).tolist() if len(at) else []
            ids, docs = run["query_id"].to_numpy(object)[order], run["doc_id"].to_numpy(object)[order].tolist()
            scores = run["score"].to_numpy(float)[order]
            for begin, end in zip([0, *ends], ends, strict=False):
                falling = strictly_falling(scores[begin:end]).tolist()
                out.writelines(
                    f"{ids[begin]} Q0 {doc} {rank} {score:.9g} {tag}\n"
                    for rank, (doc, score) in enumerate(zip(docs[begin:end], falling, strict=True), 1)
                )
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_trec(
    path: Path,
    order: Literal["score", "rank", "any"] = "score",
    duplicates: Literal["error", "first"] = "error",
    tie_break: TieBreak = "doc_id",
    option: str = "",
) -> Run:
    """Read a TREC run (gz too; blanks or tabs; ranks from 0 or 1) ordered by score as trec_eval orders it.

    With `order="score"` a file whose rank column disagrees is refused; `"rank"` follows the rank column, `"any"` trusts
    the score. A document listed twice for a query is refused, or the first line kept and the others counted. Raises
    DataError with file, line, found and valid; `option` stands before the names of these two where the user gives them.
    """
    rows = _columns(path)
    with np.errstate(over="ignore"):  # trec_eval keeps scores as float32
        scores = pd.to_numeric(rows["score"], errors="coerce").to_numpy(float).astype(np.float32)
    ranks = pd.to_numeric(rows["rank"], errors="coerce").to_numpy(float)
    for column, bad, valid in (
        ("score", ~np.isfinite(scores), "a finite number"),
        ("rank", ~(np.abs(ranks) < 1e15) | (ranks % 1 != 0), "an integer"),
    ):
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise DataError(f"{path}:{rows.index[at]}: expected {valid} as {column}, got {rows[column].iloc[at]!r}")
    again = rows.duplicated(["query_id", "doc_id"]).to_numpy()
    if again.any() and duplicates == "error":
        line, row = rows.index[again][0], rows[again].iloc[0]
        raise DataError(
            f"{path}:{line}: document {row['doc_id']!r} is listed twice for query {row['query_id']!r} ({many(again.sum(), 'such line')})\n"
            f"  {option}duplicates=first keeps the first"
        )
    if again.any():
        say(f"{path}: {many(again.sum(), 'line lists', 'lines list')} a document again for its query; the first counts")
    rows = rows.assign(score=scores.astype(float), rank=ranks.astype(int), at=pd.factorize(rows["query_id"])[0])[~again]
    given = rows.sort_values(["at", "rank"], kind="stable")
    if order == "rank":
        return _numbered(given)
    run = ranked(rows, tie_break)
    differs = given["score"].to_numpy() != run["score"].to_numpy()
    if order == "score" and differs.any():
        row = given.iloc[int(np.flatnonzero(differs)[0])]
        raise DataError(
            f"{path}:{row.name}: the rank column disagrees with the scores (first at query {row['query_id']!r}, rank {row['rank']}, document {row['doc_id']!r})\n"
            f"  {option}order=rank follows the ranks, {option}order=any the scores (what trec_eval does)"
        )
    return run


def read_made(path: Path) -> Run:
    """A run that clir wrote itself: read as any other, but it may be empty where no query found anything."""
    return read_trec(path) if path.stat().st_size else from_hits({})


def _columns(path: Path) -> pd.DataFrame:
    """A run's blank- or tab-separated columns as text, indexed by line number; DataError names a line that does not fit."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; expected lines of: {_LAYOUT}")
    lines = content(path).removeprefix(b"\xef\xbb\xbf").splitlines()
    if lines and lines[0].startswith(
        b"# ir_metadata.start"
    ):  # a header that some tools write; ids may begin with # too
        end = next((n for n, line in enumerate(lines) if line.startswith(b"# ir_metadata.end")), -1)
        lines[: end + 1] = [b""] * (end + 1)
    split = [line.split() for line in lines]  # bytes split at ASCII white space only: an id may hold others
    numbers = [number for number, fields in enumerate(split, 1) if fields]
    for number in numbers:
        if len(split[number - 1]) != 6:
            line = lines[number - 1].decode(errors="replace")
            raise DataError(
                f"{path}:{number}: expected 6 fields ({_LAYOUT}), got {len(split[number - 1])}: {line[:160]!r}"
            )
    if not numbers:
        raise DataError(f"{path} is empty; expected lines of: {_LAYOUT}")
    try:
        query_ids, _, doc_ids, ranks, scores, _ = zip(*filter(None, split), strict=True)
        columns = {"query_id": query_ids, "doc_id": doc_ids, "rank": ranks, "score": scores}
        texts = {name: [field.decode() for field in column] for name, column in columns.items()}
    except UnicodeDecodeError:
        number, raw = next((n, line) for n, line in enumerate(lines, 1) if not _is_utf8(line))
        raise DataError(f"{path}:{number}: not UTF-8: {raw[:80]!r}; convert the file (iconv -t UTF-8)") from None
    return pd.DataFrame(texts, index=numbers)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
