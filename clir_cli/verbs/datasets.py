"""What `clir datasets` prints: which collections there are, and all that is known of one, read from the yaml files alone."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clir_cli import compose, schema
from clir_cli.errors import ConfigError
from clir_cli.files import read_yaml

Row = dict[str, Any]
SHOWN = {  # key of `about` -> how the page calls it, in the page's order
    "query_langs": "topics in", "doc_langs": "documents in", "pairs": "usual pairs", "splits": "splits",
    "judgments": "judgments", "grades": "grades", "size": "size", "title_policy": "fields", "translations": "translations",
    "topics": "topics averaged over", "licence": "licence", "access": "how to get it", "place": "where it lies",
    "url": "page", "citation": "citation", "defects": "known defects", "source": "read in",
}  # fmt: skip
# What the page of a collection says where its yaml says nothing; of the rest it names what no source that was read states.
UNSAID = {"splits": "one, nothing to choose", "translations": "none", "topics": "judged, clir's default; what the literature does was not read"}  # fmt: skip
WANTED = ("query_langs", "doc_langs", "judgments", "grades", "size", "title_policy", "licence", "citation")


def rows(config_dirs: Sequence[Path] = (), lang: str | None = None) -> list[Row]:
    """A row per collection, of all or of those with documents or topics in a language."""
    found = [_row(name, path) for name, path in compose.choices("dataset", config_dirs).items()]
    return [row for row in found if lang is None or lang in {*row["query_langs"], *row["doc_langs"]}]


def _row(name: str, path: Path) -> Row:
    node = read_yaml(path) or {}
    command, description = compose.description(path)
    about = node.get("about") or {}
    return {
        "name": name, "title": about.get("title", name), "description": description, "command": command,
        "query_langs": _langs(about, "query_langs"), "doc_langs": _langs(about, "doc_langs"),
        "split": node.get("split"), "splits": list(about.get("splits") or {}),
        "judgments": list(node["qrels"]) if isinstance(node.get("qrels"), dict) else [],
        "measures": node.get("measures") or list(_default(node, "measures") or []),
        "query_fields": node.get("query_fields"), "doc_fields": node.get("doc_fields"),
        "env": node.get("env"), "obtained": _obtained(node), "on_this_machine": _is_here(node), "about": about,
        "path": str(path),
    }  # fmt: skip


def _langs(about: Mapping[str, Any], key: str) -> list[str]:
    return ["no" if code is False else str(code) for code in about.get(key) or []]  # yaml reads `no` as false


def _default(node: Mapping[str, Any], name: str) -> Any:
    try:
        return schema.default(schema.find(node[schema.TARGET]), name)
    except (ConfigError, KeyError):
        return None


def _obtained(node: Mapping[str, Any]) -> str:
    """How the data comes to this machine: shipped, download, folder, ir_datasets or own."""
    if str(node.get(schema.TARGET, "")).endswith(".Irds"):
        return "ir_datasets"
    places = str([node.get(part) for part in ("docs", "topics", "qrels", "texts", "repo")])
    if "clir:" in places:
        return "shipped"
    if node.get("env") or "{path}" in places:
        return "folder"
    return "download" if node.get("repo") or any(text in places for text in ("hub:", "https://")) else "own"


def _is_here(node: Mapping[str, Any]) -> bool | None:
    """Whether the folder of a collection that everybody obtains himself is named and there; None: nothing to name."""
    if not node.get("env"):
        return None
    given = node.get("path") or os.environ.get(str(node["env"]))
    return bool(given) and Path(str(given)).expanduser().is_dir()


# Pages ----------------------------------------------------------------------------------------------------------------


def show(name: str | None, config_dirs: Sequence[Path], as_json: bool, lang: str | None = None) -> str:
    """The table of all collections, or the page of one. Raises ConfigError for a name that is none."""
    from clir_cli.plan import aligned
    from clir_cli.verbs import listing

    if name is None:
        found = rows(config_dirs, lang)
        if not found:
            raise ConfigError(
                f"no collection says that it has {lang!r}; `clir datasets` lists them, `clir languages` the codes"
            )
        if as_json:
            return listing.dumps(found)
        head = ("dataset", "topics in", "documents in", "measure", "data", "what it is")
        return listing._fitting(aligned([head, *(_line(row) for row in found)]))
    there = {row["name"]: row for row in rows(config_dirs)}
    if name not in there:
        near = difflib.get_close_matches(name, there, 3, 0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"there is no dataset {name!r}{hint}\n  there are: {', '.join(there)}")
    return listing.dumps(there[name]) if as_json else "\n".join(page(there[name]))


def _line(row: Row) -> tuple[str, ...]:
    data = row["obtained"]
    if row["on_this_machine"] is not None:
        data = f"${row['env']}" + ("" if row["on_this_machine"] else " (not set)")
    measure = str(row["measures"][0]) if row["measures"] else "-"
    return (row["name"], _several(row["query_langs"]), _several(row["doc_langs"]), measure, data, row["description"])


def _several(codes: Sequence[str]) -> str:
    if not codes:
        return "-"
    return " ".join(codes) if len(codes) <= 5 else f"{' '.join(codes[:3])} ... ({len(codes)})"


def page(row: Row) -> Iterator[str]:
    """All that the yaml says: what a collection holds, how it is evaluated, how to obtain it."""
    about, unknown = row["about"], list[str]()
    if about.get("doc_langs"):  # a collection, and no format that anybody's files may have
        about = {**UNSAID, **about}
        unknown = [SHOWN[key] for key in WANTED if key not in about]
    yield f"{row['name']}: {row['title']}"
    if row["description"]:
        yield f"  {row['description']}"
    facts: list[tuple[str, Any]] = [
        (SHOWN[key], about[key]) for key in ("query_langs", "doc_langs", "pairs", "splits") if key in about
    ]
    facts += [
        ("split unless said", row["split"]),
        ("topic fields", ", ".join(row["query_fields"] or []) or "all, in their order"),
        ("document fields", ", ".join(row["doc_fields"] or []) or "all, in their order"),
        (
            "measures",
            f"{' '.join(map(str, row['measures']))}   (the first is the main one)" if row["measures"] else None,
        ),
    ]
    facts += [(title, about[key]) for key, title in SHOWN.items() if key in about and title not in dict(facts)]
    facts += [("not stated", f"{', '.join(unknown)}: in no source that was read")] if unknown else []
    width = max(len(title) for title, _ in facts)
    for title, value in facts:
        if value is not None:
            yield from _fact(title, value, width)
    if row["on_this_machine"] is not None:
        state = "yes" if row["on_this_machine"] else f"no: export {row['env']}=/its/folder, or dataset.path=/its/folder"
        yield from _fact("on this machine", state, width)
    yield f"\n{row['command']}"


def _fact(title: str, value: Any, width: int) -> Iterator[str]:
    """A line, or a line per entry; languages of a list are one line."""
    import textwrap

    lines = [f"{key}: {_said(inner)}" for key, inner in value.items()] if isinstance(value, Mapping) else [_said(value)]
    for number, line in enumerate(lines):
        head = title if number == 0 else ""
        folded = textwrap.wrap(line, 118 - width - 4, break_long_words=False, break_on_hyphens=False) or [""]
        yield f"  {head:<{width}}  {folded[0]}"
        yield from (f"  {'':<{width}}    {more}" for more in folded[1:])


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return " ".join("no" if item is False else str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
