"""How rankings lean to languages: of documents inside a pool, and of queries that ask the same in several languages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from clir_cli.diagnosis import fairness
from clir_cli.diagnosis.finished import Finished
from clir_cli.progress import say, track

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    _Lists: TypeAlias = dict[str, tuple[np.ndarray, np.ndarray]]

COLUMNS = ["experiment", "query_lang", "doc_lang", "measure", "value"]
RBO_DEPTH = 100  # ranks that are compared: with p = 0.9 those behind have 0.003 % of the weight


class Row(NamedTuple):
    """A line of bias.csv; `doc_lang` is a language, or the whole pool (`de+en`) where the value is of all of them."""

    experiment: str
    query_lang: str
    doc_lang: str
    measure: str
    value: float


def rows(experiments: Sequence[Finished], k: int, stage: str = "final", judgments: str | None = None) -> list[Row]:
    """All that can be said of each experiment alone, and of those that differ in nothing but the queries' language."""
    found: list[Row] = []
    loaded = []
    for one in track(experiments, len(experiments), "bias", "experiments"):
        seen = _Seen(one, stage, judgments)
        found += seen.rows(k)
        loaded.append(seen)
    groups: dict[str, list[_Seen]] = {}
    for seen in loaded:
        groups.setdefault(seen.one.meaning("dataset.query_lang", "dataset.pair"), []).append(seen)
    for group in groups.values():
        found += _parallel(group)
    return found


class _Seen:
    """An experiment's ranking with the language of every document, and its judgments."""

    def __init__(self, one: Finished, stage: str, judgments: str | None) -> None:
        import pandas as pd

        self.one, self.langs = one, one.cfg.dataset.doc_langs
        run, qrels = one.run(stage), one.qrels(judgments)
        self.topics = one.topics
        self.stores = {lang: one.docs(lang) for lang in self.langs}
        self.behind = 1 + min(
            one.cfg.retrieve.depth, sum(map(len, self.stores.values()))
        )  # the rank of what was not found
        ids = sorted({*run["doc_id"], *(row.doc_id for row in qrels)})
        found = [(d, lang, doc.aligned) for lang, store in self.stores.items() for d, doc in store.find(ids).items()]
        self.documents = pd.DataFrame(found, columns=["doc_id", "lang", "aligned"]).astype({"doc_id": str, "lang": str})
        known = set(self.documents["doc_id"])
        self.qrels = [row for row in qrels if row.doc_id in known]
        self.run = run.merge(self.documents, on="doc_id")
        judged = pd.DataFrame(self.qrels, columns=["query_id", "doc_id", "relevance"]).astype({"query_id": str})
        self.judged = judged.merge(self.documents, on="doc_id")
        self.relevant = self.judged[self.judged["relevance"] > 0]

    @property
    def label(self) -> str:
        return str(self.one.cfg.dataset.doc_label)

    def row(self, lang: str, measure: str, value: float, query_lang: str | None = None) -> Row:
        return Row(self.one.name, query_lang or self.one.cfg.dataset.query_lang, lang, measure, float(value))

    def rows(self, k: int) -> Iterator[Row]:
        yield from self._shares(k)
        if len(self.relevant):
            yield from self._ndcg(k)
            if len(self.langs) > 1:
                yield from self._peer(k)
                yield from self._aligned()

    def _shares(self, k: int) -> Iterator[Row]:
        """share@k: of the first k places, averaged over topics with results; relevant_share@k: of all relevant documents there.

        share_of_collection and share_of_relevant are what they would be if languages made no difference.
        """
        top = self.run[self.run["rank"] <= k]
        sizes = {lang: len(store) for lang, store in self.stores.items()}
        places = top.groupby("query_id").size()
        hits = top.merge(self.relevant[["query_id", "doc_id"]], on=["query_id", "doc_id"])
        for lang in self.langs:
            yield self.row(lang, "share_of_collection", sizes[lang] / sum(sizes.values()))
            if len(places):
                own = top[top["lang"] == lang].groupby("query_id").size().reindex(places.index, fill_value=0)
                yield self.row(lang, f"share@{k}", (own / places).mean())
            if len(self.relevant):
                yield self.row(lang, "share_of_relevant", (self.relevant["lang"] == lang).mean())
            if len(hits):
                yield self.row(lang, f"relevant_share@{k}", (hits["lang"] == lang).mean())

    def _ndcg(self, k: int) -> Iterator[Row]:
        """nDCG@k by the judgments of one language: in the pool's ranking, and `within` the language's own documents.

        Means over the topics with a relevant document in that language.
        """
        from clir_cli import evaluation, runs

        measure = [evaluation.parse_measures([f"nDCG@{k}"])[0]]
        ranking = self.run.sort_values(["query_id", "rank"], kind="stable")
        top = runs.cut(ranking, k)
        lang_of = dict(zip(self.documents["doc_id"], self.documents["lang"], strict=True))
        for lang in self.langs:
            qrels = [row for row in self.qrels if lang_of[row.doc_id] == lang]
            if not any(row.relevance > 0 for row in qrels):
                continue
            own = ranking[ranking["lang"] == lang].copy()
            own["rank"] = own.groupby("query_id").cumcount() + 1
            for name, run in ((f"nDCG@{k}", top), (f"nDCG(within)@{k}", runs.cut(own, k))):
                yield self.row(lang, name, evaluation.evaluate(run, qrels, measure, "relevant")["value"].mean())

    def _peer(self, k: int) -> Iterator[Row]:
        """PEER@k (Yang et al. 2024): the mean over topics of fairness.equal_rank_probability of the relevant grades.

        A topic's grades above 0 have the same weight; one of which nothing was found, or whose documents are in one
        language, counts 1. PEER(rel=0)@k: of the documents in the first k that are judged not relevant or not judged.
        Topics without a relevant document are left out of the first.
        """
        import numpy as np

        top = self.run[self.run["rank"] <= k]
        grades = top.merge(self.judged[["query_id", "doc_id", "relevance"]], on=["query_id", "doc_id"], how="left")
        after = top.groupby("query_id").size().to_dict()
        rest = grades[~(grades["relevance"] > 0)]
        values = [self._probability(part, after[query]) for query, part in rest.groupby("query_id")]
        if values:
            yield self.row(self.label, f"PEER(rel=0)@{k}", float(np.mean(values)))
        ranked = self.relevant.merge(top[["query_id", "doc_id", "rank"]], on=["query_id", "doc_id"], how="left")
        by_topic: dict[str, list[float]] = {}
        for (query, _), part in ranked.groupby(["query_id", "relevance"]):
            by_topic.setdefault(str(query), []).append(self._probability(part, after.get(query, 0)))
        yield self.row(self.label, f"PEER@{k}", float(np.mean([np.mean(found) for found in by_topic.values()])))
        if (ranked.groupby(["query_id", "relevance", "lang"]).size() == 1).all():
            say(
                f"{self.one.name}: PEER@{k} says nothing here: no topic has two relevant documents of one grade in one language"
            )

    @staticmethod
    def _probability(part: pd.DataFrame, after: int) -> float:
        ranks: dict[str, list[float]] = {}
        for lang, rank in zip(part["lang"], part["rank"], strict=True):
            ranks.setdefault(lang, []).append(float(rank))
        return fairness.equal_rank_probability(ranks, after)

    def _aligned(self) -> Iterator[Row]:
        """Where a language stands among the versions of one document: every relevant document with its translations.

        aligned_rank: the mean place among them, from 1; versions that were not found share the places left. aligned_first:
        how often the language comes first. aligned_MRV: fairness.mean_rank_variance of their ranks in the whole ranking,
        one that was not found having the rank behind the deepest. Groups of which nothing was found are left out.
        """
        import pandas as pd

        groups = self.relevant[["query_id", "aligned"]].dropna().drop_duplicates()
        ids = sorted(set(groups["aligned"]))
        versions = [
            (a, doc.doc_id, lang) for lang, s in self.stores.items() for a, doc in s.find(ids, "aligned").items()
        ]
        members = pd.DataFrame(versions, columns=["aligned", "doc_id", "lang"]).astype({"aligned": str, "doc_id": str})
        placed = groups.merge(members, on="aligned").merge(
            self.run[["query_id", "doc_id", "rank"]], on=["query_id", "doc_id"], how="left"
        )
        by_group = placed.groupby(["query_id", "aligned"])
        placed = placed[(by_group["rank"].transform("count") > 0) & (by_group["lang"].transform("nunique") > 1)].copy()
        if not len(placed):
            return
        placed["place"] = placed.groupby(["query_id", "aligned"])["rank"].rank(method="average", na_option="bottom")
        yield self.row(self.label, "aligned_groups", placed.groupby(["query_id", "aligned"]).ngroups)
        for lang in self.langs:
            own = placed[placed["lang"] == lang]
            if len(own):
                yield self.row(lang, "aligned_rank", own["place"].mean())
                yield self.row(lang, "aligned_first", (own["place"] == 1).mean())
        whole = placed["rank"].fillna(self.behind).groupby([placed["query_id"], placed["aligned"]])
        yield self.row(self.label, "aligned_MRV", whole.var(ddof=0).mean())


# Queries in several languages -----------------------------------------------------------------------------------------


def _parallel(group: Sequence[_Seen]) -> Iterator[Row]:
    """MRV over all query languages of a group, by the documents' language too, and RBO of each two of them.

    MRV: fairness.mean_rank_variance of every relevant document's rank for the same topic in each query language; one that
    was not found has the rank behind the deepest. RBO: fairness.rank_biased_overlap of the first 100, the mean over the
    topics that both ask; RBO(aligned) of the documents whatever their language, each at its best version's rank. A row
    with one query language is the mean over its pairs.
    """
    langs = [seen.one.cfg.dataset.query_lang for seen in group]
    if len(group) < 2:
        return
    if len(set(langs)) < len(langs):
        say(f"{group[0].one.name}: experiments with the same queries' language are not compared as parallel ones")
        return
    yield from _variance(group, "+".join(langs))
    numbers: dict[str, int] = {}
    lists = [_ranks(seen, "doc_id", numbers) for seen in group]
    several = all(len(seen.langs) > 1 and seen.run["aligned"].notna().any() for seen in group)
    kinds = {"RBO": lists} | ({"RBO(aligned)": [_ranks(seen, "aligned", numbers) for seen in group]} if several else {})
    for measure, of in kinds.items():
        values: dict[int, list[float]] = {}
        for i, j in combinations(range(len(group)), 2):
            value = _overlap(of[i], of[j])
            if value is not None:
                values.setdefault(i, []).append(value)
                values.setdefault(j, []).append(value)
                yield group[i].row(group[i].label, measure, value, f"{langs[i]}+{langs[j]}")
        for i, found in values.items():
            yield group[i].row(group[i].label, measure, sum(found) / len(found))


def _variance(group: Sequence[_Seen], langs: str) -> Iterator[Row]:
    import numpy as np

    topics = set.intersection(*(seen.topics for seen in group))
    first = group[0]
    table = first.relevant[first.relevant["query_id"].isin(topics)][["query_id", "doc_id", "lang"]]
    if not len(table):
        return
    columns = []
    for seen in group:
        here = table.merge(seen.run[["query_id", "doc_id", "rank"]], on=["query_id", "doc_id"], how="left")
        columns.append(here["rank"].fillna(seen.behind).to_numpy(float))
    ranks = np.stack(columns, axis=1)  # (relevant documents, query languages)
    yield first.row(first.label, "MRV", fairness.mean_rank_variance(ranks), langs)
    for lang in first.langs if len(first.langs) > 1 else ():
        if (own := (table["lang"] == lang).to_numpy()).any():
            yield first.row(lang, "MRV", fairness.mean_rank_variance(ranks[own]), langs)


def _ranks(seen: _Seen, by: str, numbers: dict[str, int]) -> _Lists:
    """topic -> its first documents (as `numbers`) and their ranks; with by="aligned" documents in whatever language."""
    import numpy as np

    run = seen.run.sort_values(["query_id", "rank"], kind="stable")
    if by == "aligned":
        run = run.assign(aligned=run["aligned"].fillna(run["doc_id"])).drop_duplicates(["query_id", "aligned"])
    at = run.groupby("query_id").cumcount() + 1
    run = run.assign(at=at)[at <= RBO_DEPTH]
    codes = np.array([numbers.setdefault(name, len(numbers)) for name in run[by].tolist()], dtype=int)
    nothing = np.zeros(0, int)
    found = dict.fromkeys(sorted(seen.topics), (nothing, nothing))
    for query, rows in run.groupby("query_id").indices.items():
        found[str(query)] = codes[rows], run["at"].to_numpy()[rows]
    return found


def _overlap(a: _Lists, b: _Lists) -> float | None:
    import numpy as np

    values = []
    for query in sorted(a.keys() & b.keys()):
        (one, one_at), (other, other_at) = a[query], b[query]
        _, i, j = np.intersect1d(one, other, assume_unique=True, return_indices=True)
        values.append(fairness.rank_biased_overlap(one_at[i], other_at[j], (len(one), len(other))))
    return math.fsum(values) / len(values) if values else None


# What is printed ------------------------------------------------------------------------------------------------------


def table(found: Sequence[Row]) -> str:
    """A block per experiment: a line per document language, a column per measure; below it what is of the whole pool.

    Of parallel queries the mean over pairs is shown; bias.csv has the pairs.
    """
    from clir_cli.plan import aligned

    blocks = []
    for name in dict.fromkeys(row.experiment for row in found):
        own = [row for row in found if row.experiment == name]
        query_lang = own[0].query_lang
        langs = list(dict.fromkeys(row.doc_lang for row in own if row.measure == "share_of_collection"))
        cells = {(r.doc_lang, r.measure): r.value for r in own if r.query_lang == query_lang and r.doc_lang in langs}
        measures = list(dict.fromkeys(measure for _, measure in cells))
        body = [(lang, *(f"{cells[lang, m]:.3f}" if (lang, m) in cells else "-" for m in measures)) for lang in langs]
        head = ("document language", *measures)
        lines = [f"{name}, queries in {query_lang}", *aligned([head, *body], right=range(1, len(head)))]
        for row in own:
            parallel = row.query_lang != query_lang
            if row.doc_lang == "+".join(langs) and (row.measure == "MRV" if parallel else len(langs) > 1):
                lines.append(f"{row.measure} {row.value:.3f}" + (f" (queries in {row.query_lang})" if parallel else ""))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def as_dicts(found: Sequence[Row]) -> list[dict[str, Any]]:
    return [{**row._asdict(), "value": repr(row.value)} for row in found]
