"""What a run says of itself in ir_metadata (Breuer et al. 2022, www.ir-metadata.org, schema 0.1), by PRIMAD.

The schema proposes comment lines at the head of the run. pytrec_eval and ir_measures refuse such lines, so the same yaml
stands in a file beside the run; `runs.read_trec` skips them in runs of others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clir_cli import config, schema
from clir_cli.config import Plain
from clir_cli.errors import ConfigError
from clir_cli.files import read_json, write_text
from clir_cli.labels import translates

FILE = "ir_metadata.yaml"
COMPONENTS = ("platform", "research goal", "implementation", "method", "actor", "data")
TIES = {"doc_id": "reverse alphabetical order", "hash": "by a hash of query and document id"}
Metadata = dict[str, Any]


def of(folder: Path, tag: str, own: Mapping[str, Any] | None = None) -> Metadata:
    """The metadata of an experiment folder's run. `own`: what its author adds or says otherwise (`read`).

    Nobody is named but by `own`: no person, no host, no folder of this machine.
    """
    plain, manifest = config.load(folder / "config.yaml"), read_json(folder / "manifest.json")
    said = {
        "schema-version": 0.1,
        "run-version": 1.0,
        "tag": tag,
        "platform": _platform(manifest),
        "research goal": {"evaluation": {"reported measures": _measures(manifest)}},
        "implementation": {
            "executable": {"cmd": "clir run --config config.yaml"},
            "source": {"lang": ["Python"], **({"commit": manifest["git"]} if manifest.get("git") else {})},
        },
        "method": _method(plain),
        "actor": {},
        "data": {"test collection": _collection(plain)},
    }
    return _with(said, own or {})


def dumped(metadata: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=120))


def write(metadata: Mapping[str, Any], path: Path) -> None:
    write_text(path, lambda out: out.write(dumped(metadata)))


def read(path: Path) -> Metadata:
    """What a user adds: yaml with the schema's components, e.g. `actor: {team: ours}`. ConfigError names an unknown one."""
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--metadata {path}: {schema.one_line(error)}") from error
    if not isinstance(given, dict) or (strange := [k for k in given if k not in (*COMPONENTS, "run-version")]):
        found = f"{strange[0]!r}" if isinstance(given, dict) else "no mapping"
        raise ConfigError(f"--metadata {path}: expected yaml with some of {', '.join(COMPONENTS)}; found {found}")
    return given


def _with(said: Mapping[str, Any], own: Mapping[str, Any]) -> Metadata:
    merged = dict(said)
    for name, value in own.items():
        inside = merged.get(name)
        merged[name] = _with(inside, value) if isinstance(inside, Mapping) and isinstance(value, Mapping) else value
    return merged


def _platform(manifest: Mapping[str, Any]) -> Metadata:
    packages = dict(manifest["packages"])
    clir = packages.pop("clir", None)
    cpu = {"model": manifest.get("cpu"), "number of cores": manifest.get("cpus")}
    hardware: Metadata = {"cpu": {k: v for k, v in cpu.items() if v}}
    if manifest.get("gpus"):
        hardware["gpu"] = {"model": manifest["gpus"][0], "number": len(manifest["gpus"])}
    if manifest.get("ram_gb"):
        hardware["ram"] = f"{manifest['ram_gb']} GB"
    libraries = [f"python=={manifest['python']}", *(f"{name}=={version}" for name, version in packages.items())]
    return {
        "hardware": hardware,
        "operating system": {"kernel": manifest["platform"]},
        "software": {
            "libraries": {"python": libraries},
            "retrieval toolkit": [f"clir=={clir}" if clir else "clir"],
        },
    }


def _measures(manifest: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(m for asked in manifest["evaluated"] for m in asked["measures"]))


def _method(plain: Plain) -> Metadata:
    retrieve, pool = plain["retrieve"], isinstance(plain["dataset"].get("doc_lang"), list)
    ties = retrieve["tie_break"] if retrieve["tie_break"] != "auto" else ("hash" if pool else "doc_id")
    analyser = plain["retriever"].get("analyser")
    stages = [plain, *(plain.get("parts") or {}).values()]
    translator = plain.get("translator") if any(translates(s["retrieve"]) for s in stages) else None
    if translator is None and translates(plain["rerank"]):
        translator = plain.get("translator")
    return {
        "automatic": True,
        "score ties": TIES[ties],
        **({"indexing": {"tokenizer": analyser}} if analyser else {}),
        **({"translation": _component(plain["names"]["translator"], translator)} if translator else {}),
        "retrieval": list(_pipeline(plain)),
    }


def _pipeline(plain: Plain) -> Iterator[Metadata]:
    """The rankers in their order; each names the one whose output it takes."""
    parts, labels = plain.get("parts") or {}, plain["labels"]
    for part in parts.values():
        yield {**_component(part["labels"]["retriever"], part["retriever"]), **_views(part["retrieve"])}
    first = {**_component(labels["retriever"], plain["retriever"]), **_views(plain["retrieve"])}
    if parts:
        first["ensembles"] = [part["labels"]["retriever"] for part in parts.values()]
    yield {**first, "documents": plain["retrieve"]["depth"]}
    below = labels["retriever"]
    if plain["names"].get("reranker", "none") == "none" or labels["reranker"] == "none":
        return
    cascade, depths = plain.get("cascade") or {}, plain["reranker"].get("depths") or []
    rerankers = list(cascade.values()) or [plain]
    for node, depth in zip(rerankers, depths if cascade else [plain["rerank"]["depth"]], strict=True):
        name = node["labels"]["reranker"]
        views = _views(node["rerank"])
        yield {**_component(name, node["reranker"]), **views, "documents": depth, "reranks": below}
        below = name


def _views(stage: Mapping[str, Any]) -> Metadata:
    return {name: stage[name] for name in ("query", "doc") if stage.get(name, "original") != "original"}


def _component(name: str, node: Mapping[str, Any]) -> Metadata:
    """A component's name, class and the settings that decide its result; of paths, only what the file is called."""
    cls = schema.find(node[schema.TARGET])
    said: Metadata = {"name": name, "method": node[schema.TARGET]}
    for key, value in node.items():
        if key == schema.TARGET or value is None or schema.role(cls, key) == "neutral":
            continue
        if isinstance(value, dict) and schema.TARGET in value:
            said[key] = {k: v for k, v in _component(key, value).items() if k != "name"}
        elif schema.is_path(cls, key, value) and not (schema.role(cls, key) == "model" and _is_hub_id(value)):
            said[key] = _names(value)
        else:
            said[key] = value
    return said


def _is_hub_id(value: Any) -> bool:
    return isinstance(value, str) and not re.match(r"^[/~.]", value)


def _names(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _names(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_names(v) for v in value]
    return str(value).rstrip("/").rsplit("/", 1)[-1]


def _collection(plain: Plain) -> Metadata:
    dataset = plain["dataset"]
    about = dataset.get("about") or {}
    said = {
        "name": about.get("title") or plain["labels"]["dataset"],
        "source": about.get("url"),
        "split": dataset.get("split"),
        "query language": dataset["query_lang"],
        "document language": dataset["doc_lang"],
        "qrels": _names(dataset.get("qrels")) if dataset.get("qrels") else None,
        "topics": _names(dataset["topics"]) if dataset.get("topics") else None,
    }
    return {name: value for name, value in said.items() if value}
