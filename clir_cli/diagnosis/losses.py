"""Where a ranking loses: what was not found, what the reranker never saw, how it was ordered, and how much translation cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clir_cli.diagnosis.finished import Finished
from clir_cli.types import Qrel

if TYPE_CHECKING:
    from clir_cli.types import Run

TRANSLATORS = ("translator", "query_translator", "doc_translator")
PROVIDED = "clir_cli.translators.provided."


@dataclass(frozen=True)
class Losses:
    """One measure of one experiment, from the best that there could be to what there is; averaged over the same topics.

    ideal: of the judgments' best ranking. found: of all that the first stage retrieved, ordered by relevance. candidates: of
    the first `rerank.depth` ordered by relevance, the rest behind them as they stand (or cut off, as rerank.tail says). It is
    the ceiling of every reranker of them. Without a reranker candidates are what was found.
    """

    measure: str
    ideal: float
    found: float
    candidates: float
    first_stage: float
    final: float

    def parts(self) -> dict[str, float]:
        """ideal - final, taken apart; the parts add up to it.

        loss_retrieval = ideal - found: relevant documents that the first stage did not retrieve. loss_depth = found -
        candidates: those below rerank.depth. loss_order = candidates - final: the order that the last stage gave them.
        """
        return {
            "loss_retrieval": self.ideal - self.found,
            "loss_depth": self.found - self.candidates,
            "loss_order": self.candidates - self.final,
        }

    def rows(self) -> Iterator[tuple[str, float]]:
        yield from (("ideal", self.ideal), ("found", self.found), ("candidates", self.candidates))
        yield from (("first_stage", self.first_stage), ("final", self.final))
        yield from self.parts().items()
        yield "reranker_gain", self.final - self.first_stage


def losses(one: Finished, qrels: Sequence[Qrel]) -> list[Losses]:
    """A Losses per measure of the experiment, without those that count judgments."""
    from clir_cli import evaluation, runs

    measures = [m for m in evaluation.parse_measures(one.experiment.measures) if not str(m).startswith("Judged")]
    rerank = one.cfg.rerank
    first, final = one.run("first_stage"), one.run("final")
    grades = {(q, d): grade for q, d, grade in qrels}
    best = _ideal(qrels, one.cfg.retrieve.depth)
    if one.experiment.second:
        head = _by_relevance(runs.cut(first, rerank.depth), grades)
        candidates = runs.with_tail(head, runs.below(first, rerank.depth)) if rerank.tail == "keep" else head
    else:
        candidates = _by_relevance(first, grades)
    stages = {
        "ideal": best,
        "found": _by_relevance(first, grades),
        "candidates": candidates,
        "first_stage": first,
        "final": final,
    }
    values: dict[str, dict[str, float]] = {}
    for name, run in stages.items():
        scores = evaluation.evaluate(run, qrels, measures)
        for row in evaluation.summary(scores, qrels, one.cfg.evaluate.topics):
            values.setdefault(row.measure, {})[name] = row.value
    return [Losses(measure, **of) for measure, of in values.items()]


def _by_relevance(run: Run, grades: Mapping[tuple[str, str], int]) -> Run:
    """Every topic's documents by falling grade, those of one grade (or none) as they stand."""
    from clir_cli import runs

    relevance = [max(grades.get(pair, 0), 0) for pair in zip(run["query_id"], run["doc_id"], strict=True)]
    ordered = run.assign(relevance=relevance, topic=run["query_id"])
    ordered = ordered.sort_values(["topic", "relevance", "rank"], ascending=[True, False, True], kind="stable")
    hits: dict[str, list[tuple[str, float]]] = {}
    for query, doc in zip(ordered["query_id"], ordered["doc_id"], strict=True):
        found = hits.setdefault(query, [])
        found.append((doc, -float(len(found))))
    return runs.from_hits(hits)


def _ideal(qrels: Sequence[Qrel], depth: int) -> Run:
    from clir_cli import runs

    hits: dict[str, list[tuple[str, float]]] = {}
    for query, doc, grade in sorted(qrels, key=lambda row: (row.query_id, -row.relevance, row.doc_id)):
        if grade > 0 and len(hits.setdefault(query, [])) < depth:
            hits[query].append((doc, -float(len(hits[query]))))
    return runs.from_hits(hits)


# Translation ----------------------------------------------------------------------------------------------------------


def translators(one: Finished) -> list[str]:
    """The classes of its translators, by the steps that made its texts."""
    steps = [step for step in one.experiment.steps if step.stage == "translate"]
    return [str(step.meaning.get("translator", {}).get("class", "")) for step in steps]


def references(experiments: Sequence[Finished]) -> tuple[dict[str, Finished], list[str]]:
    """experiment -> the one that differs from it in the translator alone and reads provided translations; what is missing.

    What the other one gains is what translation costs: the same retriever, reranker, views and topics over the collection's
    own translations, as people made them.
    """
    found: dict[str, Finished] = {}
    notes = []
    provided = {one.meaning(*TRANSLATORS): one for one in experiments if (own := translators(one)) and all(c.startswith(PROVIDED) for c in own)}  # fmt: skip
    for one in experiments:
        own = translators(one)
        if not own or all(c.startswith(PROVIDED) for c in own):
            continue
        if (other := provided.get(one.meaning(*TRANSLATORS))) is not None:
            found[one.name] = other
        else:
            notes.append(
                f"{one.name}: how much translation costs is seen beside the same experiment with human translations: "
                "make one with translator=provided where the collection has them, and name both"
            )
    return found, notes
