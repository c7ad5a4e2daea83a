"""What the small verbs print and write: metric tables, configs, list, evaluate, new, step."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clir_cli import compose, config
from clir_cli.errors import ConfigError, DataError
from clir_cli.experiment import Experiment, add_evaluation, read_rows
from clir_cli.files import read_json, write_text
from clir_cli.plan import aligned
from clir_cli.progress import say
from clir_cli.stages import Stages
from clir_cli.store import Store

if TYPE_CHECKING:
    from clir_cli.evaluation import Summary

GROUPS = (*compose.GROUPS, "sweep")
MEASURES = ("nDCG@10", "nDCG@20", "AP", "RR@10", "R@100")  # of a run file, unless others are asked for
Rows = list[dict[str, Any]]


def dumps(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def metric_table(rows: Rows) -> str:
    """measure x stage of an experiment's metrics.csv."""
    if not rows:
        return "no judgments: nothing to measure"
    stages = list(dict.fromkeys(r["stage"] for r in rows))
    if all(r["reranker"] == "none" for r in rows):
        stages = ["final"]  # the first stage is the final one
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for r in rows:
        found.setdefault((r["measure"], r["judgments"], r["topics"]), {})[r["stage"]] = f"{float(r['value']):.4f}"
    several = len({judgments for _, judgments, _ in found}) > 1
    body = [
        (measure, judgments if several else "", *(values.get(s, "-") for s in stages), topics)
        for (measure, judgments, topics), values in found.items()
    ]
    head = ("measure", "judgments" if several else "", *stages, "topics")
    return "\n".join(aligned([head, *body], right=range(2, len(head))))


def configs(group: str | None, name: str | None, config_dirs: Sequence[Path], as_json: bool) -> str:
    """A line per choice: group=name and description; or one yaml as it stands."""
    if group is not None:
        _check_name(group, GROUPS, "group")
    if group is not None and name is not None:
        found = compose.choices(group, config_dirs)
        _check_name(name, found, group)
        yaml = found[name].read_text(encoding="utf-8").rstrip()
        return (
            dumps({"group": group, "name": name, "path": str(found[name]), "yaml": yaml})
            if as_json
            else f"# {found[name]}\n{yaml}"
        )
    rows = [
        {"group": g, "name": n, "description": compose.description(p)[1], "command": compose.description(p)[0]}
        for g in ([group] if group else GROUPS)
        for n, p in compose.choices(g, config_dirs).items()
    ]
    if as_json:
        return dumps(rows)
    if not rows:
        return f"no choices in {group}"
    return _fitting(aligned([(f"{r['group']}={r['name']}", r["description"]) for r in rows]))


def _check_name(name: str, valid: Collection[str], what: str) -> None:
    if name not in valid:
        near = difflib.get_close_matches(name, valid, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}? There are" if near else "there are"
        raise ConfigError(f"{what} {name!r} does not exist; {hint}: {', '.join(valid) or 'none'}")


def _fitting(lines: Sequence[str]) -> str:
    """The lines, on a terminal cut at its edge: one that wraps breaks the columns."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    return "\n".join(line[: width - 1] + "…" if width and len(line) > width else line for line in lines)


def experiments(root: Path, as_json: bool) -> str:
    """A line per finished experiment: its folder, when it was made, its main measure."""
    rows: Rows = []
    for manifest in sorted(root.glob("*.*/[!.]*/manifest.json")):
        try:
            made = read_json(manifest)["made"][:19]
            metrics = [r for r in read_rows(manifest.parent / "metrics.csv") if r["stage"] == "final"]
        except DataError as error:  # the others are there
            say(f"left out: {error}")
            continue
        rows.append({
            "experiment": str(manifest.parent), "made": made,
            "measure": metrics[0]["measure"] if metrics else None, "value": float(metrics[0]["value"]) if metrics else None,
        })  # fmt: skip
    if as_json:
        return dumps(rows)
    if not rows:
        return f"no experiments in {root} yet: clir run"

    def main(r: dict[str, Any]) -> str:
        return f"{r['measure']} {r['value']:.4f}" if r["measure"] else "no judgments"

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    folders = [_from_here(r["experiment"]) for r in rows]
    for characters in (19, 10, 0):  # of the time when it was made: all, the day, or nothing
        lines = aligned([(f, r["made"][:characters], main(r)) for f, r in zip(folders, rows, strict=True)])
        if max(map(len, lines)) <= width:
            return "\n".join(lines)
    room = width - 2 - max(len(main(r)) for r in rows)
    return "\n".join(aligned([(_cut(f, room), main(r)) for f, r in zip(folders, rows, strict=True)]))


def _cut(folder: str, room: int) -> str:
    """A path without its middle, if it must be: its end is the key by which other verbs know it."""
    if len(folder) <= room:
        return folder
    end = max(min(16, room - 1), 1)
    return f"{folder[: max(room - 1 - end, 0)]}…{folder[-end:]}"


def _from_here(folder: str) -> str:
    """A path as one types it: relative if it is below the current directory."""
    path, here = Path(folder), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else folder


# Evaluate -------------------------------------------------------------------------------------------------------------


def score(
    run: Path,
    qrels: Path,
    measures: Sequence[str],
    topics: Literal["judged", "relevant"],
    per_query: bool,
    order: Literal["score", "rank", "any"],
    duplicates: Literal["error", "first"],
    as_json: bool,
) -> str:
    """Any TREC run against any judgments, by the evaluation policy of CONTRACT.md section 4."""
    from clir_cli import evaluation, runs

    judgments = evaluation.read_qrels(qrels)
    asked = evaluation.parse_measures(measures or MEASURES)
    ranked = runs.read_trec(run, order=order, duplicates=duplicates, option="--")
    _check_topics(run, set(ranked["query_id"]), qrels, {judgment.query_id for judgment in judgments})
    scores = evaluation.evaluate(ranked, judgments, asked)
    counted = evaluation.counted(scores, judgments, topics)
    found = evaluation.summary(scores, judgments, topics)
    if as_json:
        rows = {"per_query": counted.to_dict("records")} if per_query else {}
        return dumps({"summary": [row._asdict() for row in found], **rows})
    lines = []
    if per_query:
        columns = zip(counted["query_id"], counted["measure"], counted["value"], strict=True)
        lines = [
            *aligned([("query_id", "measure", "value"), *((q, m, f"{v:.4f}") for q, m, v in columns)], right=[2]),
            "",
        ]
    return "\n".join([*lines, *_summary_table(found, topics)])


def _check_topics(run: Path, found: set[str], qrels: Path, judged: set[str]) -> None:
    """Refuse a run of other topics than the judged ones; say how many of these it has no result for."""
    both = found & judged
    if not both:
        raise DataError(
            f"{run} and {qrels} have no topic in common: the run has {_few(found)}, the judgments {_few(judged)}\n"
            "  Their query_ids must be the same, letter by letter; check that the two belong to one set of topics"
        )
    if len(both) < len(judged):
        without = _few(judged - both)
        say(f"the run has results for {len(both)} of {len(judged)} judged topics; the others ({without}) count 0")


def _few(ids: set[str]) -> str:
    return ", ".join(sorted(ids)[:3]) + (", ..." if len(ids) > 3 else "")


def _summary_table(found: Sequence[Summary], topics: Literal["judged", "relevant"]) -> list[str]:
    """measure, value, topics; where some topics have no relevant document, also what the other policy gives."""
    without = found[0].topics_without_relevant if found else 0
    other = {"judged": "relevant", "relevant": "judged"}[topics] if without else ""
    body = [
        (r.measure, f"{r.value:.4f}", str(r.topics), f"{r.value if r.other is None else r.other:.4f}" if other else "")
        for r in found
    ]
    lines = aligned([("measure", "value", "topics", other), *body], right=[1, 2, 3])
    if other:
        judged = found[0].topics + (without if topics == "relevant" else 0)
        count = judged - without if other == "relevant" else judged
        have = "topics have" if judged != 1 else "topic has"
        lines.append(
            f"{without} of {judged} judged {have} no relevant document; --topics {other} averages over {count}"
        )
    return lines


def score_experiment(folder: Path, measures: Sequence[str], judgments: Sequence[str], topics: str | None) -> Rows:
    """A finished experiment's metrics, after adding the measures and judgments asked; nothing is ranked again."""
    if not (folder / "manifest.json").exists():
        raise DataError(f"{folder} is not an experiment folder (no manifest.json); for a run file give --qrels")
    plain = config.load(folder / "config.yaml")
    asked = {"measures": list(measures), "judgments": list(judgments), "topics": topics}
    plain["evaluate"] |= {name: value for name, value in asked.items() if value}
    store = Store(folder.absolute().parents[1])
    experiment = Experiment(config.built(plain), Stages(store))
    add_evaluation(folder, store, experiment.cfg, experiment.asked())
    return read_rows(folder / "metrics.csv")


# Make -----------------------------------------------------------------------------------------------------------------


def make_step(draft: Path) -> None:
    """Make the step that a draft folder's request.json asks for, and refuse if it means something else here."""
    if not (draft / "request.json").exists():
        raise ConfigError(f"{draft} has no request.json: it is no draft of a step")
    request = read_json(draft / "request.json")
    store = Store(Path(request["root"]))
    experiment = Experiment(config.built(request["config"]), Stages(store))
    for step in experiment.steps:
        if store.key(step) == request["key"]:
            store.fill(step, request["key"], draft)
            return
    raise ConfigError(
        f"{draft}: no step of this configuration has the key {request['key']}: files, package versions or clir itself changed since it was asked for"
    )


TEMPLATES = {
    "dataset": """\
# clir run dataset={name} dataset.pair=en-de
# One line that says what this collection is.
_target_: clir_cli.datasets.files.Files
docs: docs.{{lang}}.jsonl           # JSONL or TSV, plain or .gz; relative to this file; {{lang}} {{iso3}} {{split}} may stand in paths
topics: topics.{{lang}}.tsv         # query_id TAB text, or a header line with the columns' names
qrels: qrels.{{doc_lang}}.txt       # query_id 0 doc_id relevance; or several: {{shallow: a.txt, pools: b.txt}}
query_lang: en
doc_lang: de                      # a list is one pool: [de, sw]
# docs_columns: {{doc_id: id, title: headline, text: body}}   # where your columns have other names; numbers from 1 without a header
# topics_columns: {{query_id: number, title: title}}
# aligned: "[a-z]+-(.*)"          # the part of a doc_id that translations of one document share
# query_fields: [title]           # what is searched for; null: all fields in order
measures: [nDCG@10, AP, R@100]    # the first is the main measure
""",
    "retriever": """\
# clir run retriever={name}
# One line that says what this encoder is.
_target_: clir_cli.retrievers.dense.Dense
model: owner/name                 # a hub id, or a folder: ./my-encoder is beside this file
revision: null                    # resolved on first use and kept in runs/models.lock
pooling: mean                     # mean, cls or last; model: what a sentence-transformers folder says
query_prefix: ""                  # byte for byte what stands before a query, e.g. "query: "
doc_prefix: ""
normalize: true
query_tokens: 64
doc_tokens: 512
languages: null                   # null: many; or a list, and other languages are refused
""",
    "reranker": """\
# clir run reranker={name}
# One line that says what this reranker is.
_target_: clir_cli.rerankers.cross_encoder.CrossEncoder
model: owner/name                 # a hub id, or a folder: ./my-reranker is beside this file
revision: null                    # resolved on first use and kept in runs/models.lock
max_tokens: 512                   # query and document together; the document is cut
""",
}


def new(kind: str, name: str, folder: Path) -> Path:
    """Write a commented yaml to start from; an existing one is not touched."""
    _check_name(kind, TEMPLATES, "kind of yaml")
    if not re.fullmatch(r"[\w-]+", name, re.ASCII):
        raise ConfigError(f"a yaml's name is letters, digits, _ and -; got {name!r}")
    path = folder / kind / f"{name}.yaml"
    if path.exists():
        raise ConfigError(f"{path} exists already, and stays as it is; choose another name")
    write_text(path, lambda out: out.write(TEMPLATES[kind].format(name=name)))
    return path
