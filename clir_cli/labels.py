"""What an experiment is called: the yaml's name, plus every override that changes the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clir_cli import schema
from clir_cli.config import Plain
from clir_cli.errors import ConfigError

COLUMNS = {  # stage settings that are columns of metrics.csv, so no part of a label
    "retrieve": {"query", "doc", "depth", "query_fields"},
    "rerank": {"query", "doc", "depth", "repeat"},
}
DEFAULT_TRANSLATOR = "provided"


def label_all(
    plain: Plain,
    unset: Plain,
    names: Mapping[str, str],
    values: Mapping[str, str],
    quirks: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """`bm25_dt[k1=1.2]`: the yaml's name, or `.label=`, plus every override and quirk that changes the result."""
    labels = {}
    if isinstance(inner := (plain.get("reranker") or {}).get("llm"), dict):
        inner.pop("label", None)  # the reranker holds a copy of the node
    for group, stage in (("dataset", ""), ("retriever", "retrieve"), ("reranker", "rerank"), ("llm", "")):
        node, name = plain.get(group), names.get(group, "none")
        if isinstance(node, dict) and (own := node.pop("label", None)):
            labels[group] = str(own)
            continue
        given = [] if group == "dataset" else _changes(group, stage, plain, unset, values)
        if (
            group == "retriever"
            and (plain.get("retrieve") or {}).get("expansion")
            and names.get("experiment", "none") != "none"
        ):
            given.append(f"expansion={names['experiment']}")
        own = [*quirks.get(group, ()), *(quirks.get("translator", ()) if stage and translates(plain[stage]) else ())]
        if own and name != "none":
            given.append(f"quirk={'+'.join(own)}")
        other = names.get("translator") != DEFAULT_TRANSLATOR
        if stage and other and name != "none" and translates(plain[stage]):
            given.append(f"translator={names['translator']}")
        labels[group] = name + (f"[{','.join(given)}]" if given else "")
    return labels


def marked(label: str, mark: str) -> str:
    """`hybrid[k=10]` and `x=1` make `hybrid[k=10,x=1]`."""
    return f"{label[:-1]},{mark}]" if label.endswith("]") else f"{label}[{mark}]"


def translates(stage: Mapping[str, Any]) -> bool:
    return any(stage.get(side) != "original" for side in ("query", "doc"))


def _changes(group: str, stage: str, plain: Plain, unset: Plain, values: Mapping[str, str]) -> list[str]:
    found = []
    for key in sorted(values):
        node, _, name = key.partition(".")
        if _get(plain, key) == _unset(unset, node, name):
            continue
        if (node == group and name != "label" and _changes_result(plain.get(group), name)) or (
            stage and node == stage and name not in COLUMNS[stage]
        ):
            found.append(f"{name}={_brief(_get(plain, key))}")
        elif (
            stage
            and node == "translator"
            and translates(plain[stage])
            and _changes_result(plain.get("translator"), name)
        ):
            found.append(f"translator.{name}={_brief(_get(plain, key))}")
    return found


def _unset(unset: Plain, node: str, name: str) -> Any:
    """What a key is without its override: the yaml's value, else the component's default."""
    given = unset.get(node)
    if not isinstance(given, dict) or name in given or schema.TARGET not in given:
        return _get(unset, f"{node}.{name}")
    try:
        return schema.default(schema.find(given[schema.TARGET]), name)
    except ConfigError:
        return None


def _changes_result(node: Any, name: str) -> bool:
    try:
        return (
            not isinstance(node, dict)
            or schema.role(schema.find(node[schema.TARGET]), name.split(".", maxsplit=1)[0]) != "neutral"
        )
    except (ConfigError, KeyError):
        return True


def _get(plain: Plain, key: str) -> Any:
    node: Any = plain
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(_brief(v) for v in value)
    if isinstance(value, dict):
        return "+".join(f"{name}:{_brief(v)}" for name, v in value.items())
    return str(value).rstrip("/").rsplit("/", 1)[-1]
