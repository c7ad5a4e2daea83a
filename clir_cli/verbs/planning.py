"""What a plan will cost: jobs, model loads, and the most that language models are asked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from clir_cli import plan as plans
from clir_cli import selection
from clir_cli.config import Config
from clir_cli.errors import ClirError, many
from clir_cli.experiment import Experiment
from clir_cli.launchers import jobs
from clir_cli.plan import Plan, aligned
from clir_cli.progress import silence

INSTRUCTIONS = 2048  # tokens that a prompt's own words are counted as; the longest of clir's has some 300
MARK = 48  # tokens that stand around a passage: its number, its language, a turn of the chat
SMALL = 8 << 20  # bytes of a topics or judgments file that a plan reads


@dataclass
class Asked:
    """What one language model is asked at most, where every answer is usable."""

    model: str
    gpus: int
    steps: int = 0
    calls: int = 0
    tokens: int = 0
    per_query: int = 0  # calls, of the step that asks most
    per_call: int = 0  # tokens
    unknown: int = 0  # steps of which nobody knows yet how many queries or passages they have

    def record(self) -> dict[str, Any]:
        return {**vars(self), "where": self.where}

    @property
    def where(self) -> str:
        return "GPU" if self.gpus else "served or CPU"


@dataclass
class Counting:
    """How many queries each collection and query language has, each counted once."""

    plan: Plan
    known: dict[str, int | None] = field(default_factory=dict)

    def queries(self, experiment: Experiment) -> int | None:
        """As the finished topics say, else as their files do where they are small; None where neither is there."""
        store, cfg = self.plan.store, experiment.cfg
        step = experiment.stages.topics(cfg)
        if (name := store.promise(step)) not in self.known:
            made = store.folder(step)
            self.known[name] = int(store.record(step)["counts"]["queries"]) if made else _counted(cfg)
        return self.known[name]


def _counted(cfg: Config) -> int | None:
    dataset = cfg.dataset
    try:
        sources = [dataset.source("topics", dataset.query_lang)]
        sources += [dataset.source("qrels", "", name) for name in dataset.judgment_names]
        if any(file.stat().st_size > SMALL for source in sources for file in source.files):
            return None
        with silence(True), offline():
            return len(selection.select(cfg, dataset.read_topics(dataset.query_lang)))
    except (ClirError, OSError):
        return None  # what is wrong with them, the run will say


@contextmanager
def offline() -> Iterator[None]:
    """A plan downloads nothing."""
    before = os.environ.get("CLIR_OFFLINE")
    os.environ["CLIR_OFFLINE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("CLIR_OFFLINE")
        if before is not None:
            os.environ["CLIR_OFFLINE"] = before


def asked(plan: Plan) -> list[Asked]:
    """A row per language model that the missing reranking steps ask."""
    counting, rows = Counting(plan), dict[str, Asked]()
    seen = set()
    for experiment in plan.experiments:
        parts = experiment.cfg.cascade or (experiment.cfg,)
        for ranking, part in zip(experiment.second, parts, strict=bool(experiment.second)):
            step, reranker = ranking.step, part.reranker
            if step in seen or not hasattr(reranker, "llm") or plan.store.folder(step) is not None:
                continue
            seen.add(step)
            row = rows.setdefault(model := str(reranker.llm.model), Asked(model, step.needs.gpus))
            row.steps += 1
            queries = counting.queries(experiment)
            if part.rerank.unit == "passages" or step.candidates is None:
                row.unknown += 1
                continue
            calls, tokens = reranker.calls(step.candidates[1]), _tokens(reranker)
            row.per_query, row.per_call = max(row.per_query, calls), max(row.per_call, tokens)
            row.calls += calls * (queries or 0)
            row.tokens += calls * (queries or 0) * tokens
            row.unknown += queries is None
    return list(rows.values())


def _tokens(reranker: Any) -> int:
    """The most that one call reads and writes: its context, or less where passages are cut shorter."""
    context = int(reranker.llm.context)
    if reranker.passage_tokens == "auto":
        return context
    request = reranker.largest()
    shown = len(request.docs) if hasattr(request, "docs") else len(request)  # Compare has two, Score one
    return min(context, shown * (int(reranker.passage_tokens) + MARK) + int(reranker.query_tokens) + INSTRUCTIONS)


def record(plan: Plan, packing: jobs.Packing | None = None) -> dict[str, Any]:
    """The plan for machines, with what it will cost; `packing`: a launcher's, else the usual one."""
    cost = {**jobs.count(jobs.jobs(plan, packing)), "llms": [row.record() for row in asked(plan)]}
    return {**plans.record(plan), "cost": cost}


def text(plan: Plan, full: bool = False, packing: jobs.Packing | None = None) -> str:
    """The plan as `clir plan` prints it; of a sweep also what it will cost."""
    said = plans.text(plan, full)
    return said if len(plan.cells) + len(plan.skipped) < 2 else "\n".join([said, *costs(plan, packing)])


def costs(plan: Plan, packing: jobs.Packing | None = None) -> list[str]:
    """The lines about jobs, model loads and language models; none where everything is done."""
    count = jobs.count(jobs.jobs(plan, packing))
    if not count["jobs"]:
        return []
    loads = f", {many(count['model_loads'], 'model load')}" if count["model_loads"] else ""
    gpus = f", {count['gpu_jobs']} of them with a GPU" if count["gpu_jobs"] else ", none with a GPU"
    return [f"{many(count['jobs'], 'job')} on a cluster{gpus}{loads}", *_llms(asked(plan))]


def _llms(rows: Sequence[Asked]) -> list[str]:
    if not rows:
        return []
    head = ("model", "steps", "calls at most", "tokens at most", "where")
    if len(rows) > 1:
        whole = Asked("together", 0)
        for name in ("steps", "calls", "tokens", "unknown"):
            setattr(whole, name, sum(getattr(row, name) for row in rows))
        rows = [*rows, whole]
    body = [(r.model, str(r.steps), _number(r, r.calls, r.per_query, "query"), _number(r, r.tokens, r.per_call, "call"),
             "" if r.model == "together" else r.where) for r in rows]  # fmt: skip
    return aligned([head, *body], right=range(1, 4))


def _number(row: Asked, amount: int, each: int, of: str) -> str:
    """The amount; where nobody knows how many queries there are yet, what one takes."""
    if row.unknown == row.steps:
        return f"{each:,} a {of}" if each else "?"
    return f"{amount:,}" + (" + ?" if row.unknown else "")
