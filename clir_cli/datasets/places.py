"""Where the files of a collection are: a path, a file of a hub dataset, or an address; fetched when they are read.

corpus/{lang}.jsonl                      a path; `*` and `?` stand for any characters, files come in their names' order
hub:OWNER/NAME[@REVISION]/a/*.parquet    files of a hub dataset
https://HOST/a/b.zip!c/d.json            a file by its address; behind `!` a member of the zip or tar it is
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from clir_cli.datasets import download
from clir_cli.errors import DataError, MissingData, many
from clir_cli.models import hub
from clir_cli.text.languages import language

BRACES = re.compile(r"\{([^{}]*)\}")
HUB = re.compile(r"hub:([^/@\s]+/[^/@\s]+)(?:@([^/\s]+))?/(.+)")
WEB = ("https://", "http://")


class HubFiles(NamedTuple):
    """Files of a hub dataset: `pattern` is a path in it, with * and ?."""

    repo: str
    revision: str | None
    pattern: str


def languages(prefix: str, code: str, spelled: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a language is called in paths: `lang`, `iso3`, `flores` and `name` (`german`), each behind `prefix`.

    `spelled` says how the files write a language where `lang` is not its code.
    """
    row = language(code)
    names = {"lang": (spelled or {}).get(code, code), "iso3": row.iso3, "name": row.name.lower().replace(" ", "_")}
    if row.flores is not None:
        names["flores"] = row.flores
    return {f"{prefix}{name}": value for name, value in names.items()}


def filled(option: str, place: str, values: Mapping[str, str | None]) -> str:
    """The place with its braces filled. Raises ValueError for an unknown one, or one without a value."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            there = " ".join(f"{{{name}}}" for name in values)
            raise ValueError(f"{option}: {{{found[1]}}} is no place in {place!r}; there are: {there}")
        if (chosen := values[found[1]]) is None:
            how = "choose one with dataset.split=..." if found[1] == "split" else "the documents are a pool"
            raise ValueError(f"{option}: {place!r} holds {{{found[1]}}}: {how}")
        return chosen

    return BRACES.sub(value, place)


def rooted(place: str, root: Callable[[], Path]) -> str:
    """The place with {path} filled, the folder of data that everybody obtains himself. `root` raises where it is missing."""
    return place.replace("{path}", str(root())) if "{path}" in place else place


def is_remote(place: str) -> bool:
    return place.startswith(("hub:", *WEB))


def fingerprinted(place: str) -> tuple[Path, ...]:
    """The files that say what a place holds: the files themselves, or a note of the commit or address they come from."""
    if (wanted := _hub(place)) is not None:
        return (_noted(wanted)[1],)
    if place.startswith(WEB):
        return (download.note(f"web--{place.removeprefix('https://')}", {"url": place}),)
    return _local(place)


def files(option: str, place: str) -> list[Path]:
    """The files of a place, fetched where they are not on this machine. Raises DataError where there are none."""
    if (wanted := _hub(place)) is not None:
        return _from_hub(option, wanted)
    if place.startswith(WEB):
        return [_from_web(option, place)]
    found = _local(place)
    if absent := [path for path in found if not path.is_file()]:
        raise MissingData(f"{option}: {absent[0]} {'is not a file' if absent[0].exists() else 'does not exist'}")
    return list(found)


def _hub(place: str) -> HubFiles | None:
    if not place.startswith("hub:"):
        return None
    found = HUB.fullmatch(place)
    if found is None:
        raise DataError(f"{place!r} is no hub place; it looks like hub:OWNER/NAME/path or hub:OWNER/NAME@REVISION/path")
    return HubFiles(found[1], unquote(found[2]) if found[2] else None, found[3])


def _local(place: str) -> tuple[Path, ...]:
    """Paths; what has a wildcard stands for the files that there are, or for itself where there are none."""
    path = Path(place).expanduser().absolute()
    if not _is_pattern(place):
        return (path,)
    root, pattern = Path(path.anchor), path.relative_to(path.anchor).as_posix()
    return tuple(sorted(p for p in root.glob(pattern) if p.is_file())) or (path,)


def _is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


def _from_hub(option: str, wanted: HubFiles) -> list[Path]:
    repo, _, pattern = wanted
    commit, _ = _noted(wanted)
    names = [pattern]
    if _is_pattern(pattern):
        there = download.hub_list(repo, commit)
        names = sorted((name for name in there if _matches(name, pattern)), key=_by_number)
        if not names:
            shown = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
            raise DataError(f"{option}: hub dataset {repo} at {commit} has no {pattern}; it has: {shown}")
    if download.is_offline() and (absent := _absent(repo, commit, names)):
        raise MissingData(_to_fetch(option, repo, commit, absent))
    return [download.hub_file(repo, name, commit) for name in names]


def _noted(wanted: HubFiles) -> tuple[str, Path]:
    """The commit, and the note of it. MissingData says which files are wanted too."""
    try:
        return download.hub_note(wanted.repo, wanted.revision)
    except MissingData as error:
        raise MissingData(f"{error}\n  wanted of it:      {wanted.pattern}") from error


def _matches(name: str, pattern: str) -> bool:
    """`*` does not cross a slash."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _by_number(name: str) -> list[str | int]:
    """docs-2 before docs-10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _absent(repo: str, commit: str, names: Sequence[str]) -> list[str]:
    snapshot = hub.cache_folder() / f"datasets--{repo.replace('/', '--')}" / "snapshots" / commit
    return [name for name in names if not (snapshot / name).is_file()]


def _to_fetch(option: str, repo: str, commit: str, names: Sequence[str]) -> str:
    named = " ".join(names[:20]) + (f" ... ({len(names)} files)" if len(names) > 20 else "")
    cache = hub.cache_folder()
    return (
        f"{option}: this machine is offline and lacks {many(len(names), 'file')} of the hub dataset {repo} at {commit}\n"
        f"  with a network:    hf download {repo} --repo-type dataset --revision {commit} {named}\n"
        f"                     or the same command as `clir prefetch`, without HF_HUB_OFFLINE and CLIR_OFFLINE\n"
        f"  without a network: copy the folder datasets--{repo.replace('/', '--')} of another machine's hub cache to {cache}"
    )


def _from_web(option: str, place: str) -> Path:
    address, _, member = place.partition("!")
    parts = urlsplit(address)
    server = f"{parts.hostname or ''}{f'_{parts.port}' if parts.port else ''}"
    asked = [hashlib.sha256(parts.query.encode()).hexdigest()[:16]] if parts.query else []  # ?file=docs, ?file=topics
    into = download.data_folder() / "web" / Path(server, *asked, *_safe(parts.path))
    fetched = download.fetch(address, into)
    if not member:
        return fetched
    folder = download.unpack(fetched, into.with_name(f"{into.name}.unpacked"))
    path = folder / Path(*_safe(member))
    if not path.is_file():
        there = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        raise DataError(f"{option}: {fetched} has no {member!r}; it has: {', '.join(there[:8])}")
    return path


def _safe(path: str) -> list[str]:
    return [part for part in path.replace(os.sep, "/").split("/") if part not in {"", ".", ".."}]
