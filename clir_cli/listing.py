"""What the small verbs print and write: configs, list, evaluate, new, step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clir_cli import config
from clir_cli.errors import ConfigError, DataError
from clir_cli.experiment import Experiment, add_evaluation, read_rows
from clir_cli.files import read_json, write_text
from clir_cli.stages import Stages
from clir_cli.store import Store

GROUPS = (*config.GROUPS, "sweep")


def configs(group: str | None, name: str | None, config_dirs: Sequence[Path], as_json: bool) -> str:
    """A line per choice: name, description, command; or one yaml as it stands."""
    if group is not None and group not in GROUPS:
        raise ConfigError(f"no group {group!r}; there are: {', '.join(GROUPS)}")
    if group is not None and name is not None:
        found = config.choices(group, config_dirs)
        if name not in found:
            raise ConfigError(f"no {group} {name!r}; there are: {', '.join(found)}")
        return f"# {found[name]}\n{found[name].read_text(encoding='utf-8').rstrip()}"
    rows = [
        {"group": g, "name": n, "description": config.description(p)[1], "command": config.description(p)[0]}
        for g in ([group] if group else GROUPS)
        for n, p in config.choices(g, config_dirs).items()
    ]
    if as_json:
        return json.dumps(rows, indent=1, ensure_ascii=False)
    width = max((len(r["group"]) + len(r["name"]) for r in rows), default=0) + 1
    return "\n".join(f"{r['group'] + '=' + r['name']:<{width}}  {r['description']}" for r in rows)


def experiments(root: Path, as_json: bool) -> str:
    """A line per finished experiment: folder, when, its main measure, and what made it."""
    rows = []
    for manifest in sorted(root.glob("*/*/manifest.json")):
        if manifest.parent.parent.name in {"sweeps", "steps"} or manifest.parent.name.startswith("."):
            continue
        metrics = [r for r in read_rows(manifest.parent / "metrics.csv") if r["stage"] == "final"]
        main = metrics[0] if metrics else None
        rows.append({
            "experiment": str(manifest.parent), "made": read_json(manifest)["made"][:19],
            "measure": main["measure"] if main else "", "value": float(main["value"]) if main else None,
        })  # fmt: skip
    if as_json:
        return json.dumps(rows, indent=1, ensure_ascii=False)
    if not rows:
        return f"no experiments in {root} yet: clir run"
    width = max(len(r["experiment"]) for r in rows)
    return "\n".join(
        f"{r['experiment']:<{width}}  {r['made']}  {r['measure']} {r['value']:.4f}"
        if r["measure"]
        else f"{r['experiment']:<{width}}  {r['made']}  (no judgments)"
        for r in rows
    )


def score(run: Path, qrels: Path, measures: list[str], topics: Any, per_query: bool, order: Any, as_json: bool) -> str:
    """Any TREC run against any judgments, by the evaluation policy of CONTRACT.md section 4."""
    from clir_cli import evaluation, runs

    judgments = evaluation.read_qrels(qrels)
    scores = evaluation.evaluate(runs.read_trec(run, order=order), judgments, evaluation.parse_measures(measures))
    counted = evaluation.counted(scores, judgments, topics)
    found = evaluation.summary(scores, judgments, topics)
    if as_json:
        rows = counted.to_dict("records") if per_query else []
        return json.dumps({"summary": [row._asdict() for row in found], "per_query": rows}, indent=1)
    lines = (
        [
            f"{q}\t{m}\t{v:.4f}"
            for q, m, v in zip(counted["query_id"], counted["measure"], counted["value"], strict=True)
        ]
        if per_query
        else []
    )
    for row in found:
        other = (
            f"   ({row.other:.4f} with --topics {'relevant' if topics == 'judged' else 'judged'})"
            if row.other is not None
            else ""
        )
        lines.append(
            f"{'all' + chr(9) if per_query else ''}{row.measure}\t{row.value:.4f}\t{row.topics} topics, {row.topics_without_relevant} without a relevant document{other}"
        )
    return "\n".join(lines)


def score_experiment(
    folder: Path, root: Path, measures: list[str], judgments: list[str], topics: str
) -> list[dict[str, Any]]:
    """A finished experiment's metrics, after adding the measures and judgments asked; nothing is ranked again."""
    if not (folder / "manifest.json").exists():
        raise DataError(f"{folder} is not an experiment folder (no manifest.json); for a run file give --qrels")
    plain = config.load(folder / "config.yaml")
    asked = (
        plain["evaluate"]
        | {"topics": topics}
        | ({"measures": measures} if measures else {})
        | ({"judgments": judgments} if judgments else {})
    )
    experiment = Experiment(config.built(plain | {"evaluate": asked}), Stages(Store(root)))
    add_evaluation(folder, experiment.store, experiment.cfg, experiment.asked())
    return read_rows(folder / "metrics.csv")


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
    if kind not in TEMPLATES:
        raise ConfigError(f"clir new makes a {', '.join(TEMPLATES)}; got {kind!r}")
    if not name.replace("_", "").replace("-", "").isalnum():
        raise ConfigError(f"a yaml's name is letters, digits, _ and -; got {name!r}")
    path = folder / kind / f"{name}.yaml"
    if path.exists():
        raise ConfigError(f"{path} exists already")
    write_text(path, lambda out: out.write(TEMPLATES[kind].format(name=name)))
    return path
