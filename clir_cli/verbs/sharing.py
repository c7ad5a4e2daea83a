"""Experiments that leave this machine and come to it: archives, and runs as evaluation campaigns want them."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clir_cli import __version__, archive, config, ir_metadata
from clir_cli.errors import ConfigError, DataError, many
from clir_cli.experiment import RUNS, read_rows, tag_of
from clir_cli.files import read_json, sync
from clir_cli.progress import say
from clir_cli.provenance import checksum, without_names
from clir_cli.steps import KEY

SUFFIX = ".tar.zst"
PLACES = {"experiments": 4, "steps": 4, "sweeps": 3}  # how many parts a name there has at least
SAME = (*RUNS, "metrics.csv", "per_query.csv")  # what makes two folders of one key the same experiment
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,19}")  # NIST's rule: at most 20 of these
NAMED = ("config.yaml", "manifest.json", "step.json", "plan.json", "cells.csv", ir_metadata.FILE)  # may name a folder


def experiments(targets: Sequence[Path], root: Path) -> list[Path]:
    """The experiment folders that are meant: themselves, or those of a sweep folder; each once."""
    found: list[Path] = []
    for target, folder in ((target, _folder(target, root)) for target in targets):
        if (folder / "manifest.json").exists():
            found.append(folder.absolute())
        elif (folder / "cells.csv").exists():
            runs = folder.absolute().parents[1]
            found += [
                runs / name for name in dict.fromkeys(r["experiment"] for r in read_rows(folder / "cells.csv")) if name
            ]
        else:
            raise DataError(
                f"{target} is neither an experiment nor a sweep: it has no manifest.json and no cells.csv (clir list)"
            )
    if gone := [p for p in found if not (p / "manifest.json").exists()]:
        raise DataError(
            f"{gone[0]} is not there any more, though its sweep lists it; give the same `clir run -m` again"
        )
    return list(dict.fromkeys(found))


def _folder(target: Path, root: Path) -> Path:
    """A path as it is given, or under the root."""
    return target if target.exists() or target.is_absolute() else root / target


# Archives -------------------------------------------------------------------------------------------------------------


def export(targets: Sequence[Path], root: Path, out: Path, with_steps: bool, names: bool, own: Path | None) -> None:
    """Pack experiments and sweeps into `out`; with `with_steps` also what they were made of, documents too.

    Home folders become `~` and hosts are left out, unless `names`. Raises DataError for a file that is not what its
    experiment or step recorded.
    """
    if not out.name.endswith(SUFFIX):
        raise ConfigError(f"the last argument is the archive to write, e.g. experiment{SUFFIX}; got {out}")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out}: the folder {out.parent} does not exist")
    metadata = ir_metadata.read(own) if own else None
    folders = experiments(targets, root)
    members: dict[str, archive.Content] = {}
    recorded: dict[str, str] = {}
    for folder in folders:
        members |= _experiment(folder, names, metadata, recorded)
    for sweep in (_folder(target, root).absolute() for target in targets):
        if (sweep / "cells.csv").exists():
            tables = [path for path in _files(sweep) if path.suffix == ".csv" or path.name == "plan.json"]
            members |= {f"sweeps/{sweep.name}/{path.name}": _content(path, names) for path in tables}
    if with_steps:
        for step in dict.fromkeys(step for folder in folders for step in _steps(folder)):
            members |= _step(step, names, recorded)
    about = {"clir": __version__, "experiments": [f"{f.parent.name}/{f.name}" for f in folders], "steps": with_steps}
    archive.write(out, dict(sorted(members.items())), about, recorded)
    if not names:
        _tell_names(members)


def _experiment(
    folder: Path, names: bool, own: Mapping[str, Any] | None, recorded: dict[str, str]
) -> dict[str, archive.Content]:
    place, manifest = f"experiments/{folder.parent.name}/{folder.name}", read_json(folder / "manifest.json")
    if lacks := [name for name in manifest["files"] if not (folder / name).exists()]:
        raise DataError(f"{folder} is incomplete: it lacks {', '.join(lacks)}")
    members = {f"{place}/{path.name}": _content(path, names) for path in _files(folder)}
    settings = members[f"{place}/config.yaml"]
    if isinstance(settings, bytes) and checksum(folder / "config.yaml") == manifest["files"]["config.yaml"]:
        manifest["files"]["config.yaml"] = archive.sha256(settings)
        manifest.pop("host", None)
        members[f"{place}/manifest.json"] = without_names(_dumped(manifest)).encode()
    if own:
        said = ir_metadata.of(folder, tag_of(config.load(folder / "config.yaml")["labels"]), own)
        members[f"{place}/{ir_metadata.FILE}"] = ir_metadata.dumped(said).encode()
    recorded |= {f"{place}/{name}": sha256 for name, sha256 in manifest["files"].items()}
    return members


def _steps(folder: Path) -> Iterator[Path]:
    """The folders of the steps that an experiment was made of."""
    for step in read_json(folder / "manifest.json")["steps"]:
        found = folder.parents[1] / step["folder"]
        if not (found / "step.json").exists():
            raise DataError(
                f"{folder}: its step {step['folder']} is not there any more; make it again with "
                f"clir run --config {folder}/config.yaml, or export without --with-steps"
            )
        yield found


def _step(folder: Path, names: bool, recorded: dict[str, str]) -> dict[str, archive.Content]:
    place, files = f"steps/{folder.parent.name}/{folder.name}", read_json(folder / "step.json")["files"]
    if lacks := [name for name in files if not (folder / name).exists()]:
        raise DataError(f"{folder} lacks {lacks[0]}; see: clir cache verify")
    recorded |= {f"{place}/{name}": sha256 for name, sha256 in files.items()}
    return {f"{place}/{name}": folder / name for name in files} | {
        f"{place}/step.json": _content(folder / "step.json", names)
    }


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _content(path: Path, names: bool) -> archive.Content:
    """The file as it stands, or as text that names neither the home folder nor the host."""
    if names or path.name not in NAMED:
        return path
    text = path.read_text(encoding="utf-8")
    if path.name in {"manifest.json", "step.json"}:
        value = json.loads(text)
        value.pop("host", None)
        text = _dumped(value)
    return without_names(text).encode()


def _dumped(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _tell_names(members: Mapping[str, archive.Content]) -> None:
    """Say where the login name still stands: in a path outside the home folder, which only its owner can judge."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        return
    found = [n for n, text in members.items() if isinstance(text, bytes) and f"/{user}/".encode() in text]
    if found and len(user) > 1:
        others = f", and {many(len(found) - 1, 'more file does', 'more files do')}" if found[1:] else ""
        say(f"note: {found[0]} names a folder of {user!r}{others}")


# Import ---------------------------------------------------------------------------------------------------------------


def import_(file: Path, root: Path) -> list[Path]:
    """Unpack and verify an archive, then put every folder in its place whole; returns the experiments' folders.

    What is there already with the same results stays as it is. Raises DataError, before anything is in place, for an
    archive that is damaged or tampered with, and for an experiment that is there with other results.
    """
    root.mkdir(parents=True, exist_ok=True)
    draft = root / f".import-{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    draft.mkdir()
    try:
        archive.read(file, draft, PLACES)
        found = sorted(
            p
            for place, depth in (("steps", 2), ("experiments", 2), ("sweeps", 1))
            for p in _folders(draft / place, depth)
        )
        moves = [(folder, _place(folder, draft, root)) for folder in sorted(found, key=_first_steps)]
        wanted = [(folder, to) for folder, to in moves if not _is_there(file, folder, to)]
        for folder, to in wanted:
            to.parent.mkdir(parents=True, exist_ok=True)
            _publish(folder, to)
        return [_standing(to) for folder, to in moves if (folder.parents[1].name) == "experiments"]
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _folders(place: Path, depth: int) -> Iterable[Path]:
    return place.glob("/".join("*" * depth))


def _first_steps(folder: Path) -> tuple[bool, str]:
    return "steps" not in folder.parts[-3:], str(folder)


def _place(folder: Path, draft: Path, root: Path) -> Path:
    """Where an unpacked folder belongs; DataError if it is not what its own record says."""
    kind, *rest = folder.relative_to(draft).parts
    if kind == "sweeps":
        return root / "sweeps" / rest[0]
    record = folder / ("step.json" if kind == "steps" else "manifest.json")
    try:
        said = read_json(record)
        named, files = said["key"], dict(said["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{kind}/{'/'.join(rest)} has no whole {record.name}; nothing was imported") from error
    if not folder.name.endswith(f"-{named}") or len(named) != KEY:
        raise DataError(f"{kind}/{'/'.join(rest)} says that its key is {named!r}; nothing was imported")
    for name, sha256 in files.items():
        if not (folder / name).is_file() or checksum(folder / name) != sha256:
            raise DataError(f"{kind}/{'/'.join(rest)}/{name} is not what it was when it was made; nothing was imported")
    return (root if kind == "experiments" else root / "steps").joinpath(*rest)


def _standing(to: Path) -> Path:
    """The folder at hand with the key of `to`, whatever its label."""
    mine = f"-{to.name[-KEY:]}"
    return next((p for p in to.parent.glob(f"[!.]*{mine}") if p.name.endswith(mine)), to) if to.parent.is_dir() else to


def _is_there(file: Path, folder: Path, to: Path) -> bool:
    """Whether it stands there already. DataError for an experiment of the same key with other results."""
    there = to if to.parent.name == "sweeps" else _standing(to)
    if not there.exists():
        return False
    if to.parent.name == "sweeps" or (there / "step.json").exists():
        return True
    names = {p.name for place in (folder, there) for pattern in SAME for p in place.glob(pattern)}
    other = [n for n in sorted(names) if _sum(folder / n) != _sum(there / n)]
    if other:
        raise DataError(
            f"{there} is there already, and its {', '.join(other)} differ from those in {file}; nothing was imported\n"
            "  import into another place with --runs DIR, and compare them with clir diff"
        )
    say(f"{there} is there already, with the same results")
    return True


def _sum(path: Path) -> str:
    return checksum(path) if path.exists() else ""


def _publish(folder: Path, to: Path) -> None:
    sync(folder)
    try:
        folder.rename(to)
    except OSError:
        if not to.is_dir():
            raise  # somebody else was first: success


# Campaigns ------------------------------------------------------------------------------------------------------------


def campaign(
    targets: Sequence[Path], root: Path, into: Path, tag: str, depth: int | None, own: Path | None
) -> list[Path]:
    """Write each experiment's final ranking as `<tag>.<pair>.trec` with the tag in its last column, and its ir_metadata.

    `depth`: how many documents a topic keeps. ConfigError for a tag that NIST refuses, and for two experiments of one pair.
    """
    from clir_cli import runs

    if not TAG.fullmatch(tag):
        raise ConfigError(
            f"--tag: a run tag is 1 to 20 letters, digits and _ . -, and begins with a letter or digit; got {tag!r}"
        )
    if depth is not None and depth < 1:
        raise ConfigError(f"--depth must be at least 1, got {depth}")
    metadata = ir_metadata.read(own) if own else None
    by_pair: dict[str, Path] = {}
    for folder in experiments(targets, root):
        pair = folder.parent.name.rsplit(".", 1)[-1]
        if pair in by_pair:
            raise ConfigError(
                f"--tag: {by_pair[pair]} and {folder} are both of {pair}: a tag has one run for each pair; give each its own"
            )
        by_pair[pair] = folder
    into.mkdir(parents=True, exist_ok=True)
    written = []
    for pair, folder in by_pair.items():
        run = runs.read_made(folder / "run.trec")
        out = into / f"{tag}.{pair}.trec"
        runs.write_trec(run if depth is None else runs.cut(run, depth), out, tag)
        ir_metadata.write(ir_metadata.of(folder, tag, metadata), into / f"{tag}.{pair}.{ir_metadata.FILE}")
        _tell_topics(folder, run, pair)
        written.append(out)
    return written


def _tell_topics(folder: Path, run: Any, pair: str) -> None:
    """Say how many topics have no result: campaigns refuse runs that leave topics out."""
    asked = [row["query_id"] for row in read_rows(folder / "queries.csv")]
    judged = {row["query_id"] for row in read_rows(folder / "per_query.csv")}
    lacks = sorted({*asked, *judged} - set(run["query_id"]))
    if lacks:
        say(
            f"{pair}: {many(len(lacks), 'topic has', 'topics have')} no result: {', '.join(lacks[:5])}{', ...' if lacks[5:] else ''}"
        )
