"""Overrides -> frozen plain configurations. The only file that knows Hydra and OmegaConf."""

from __future__ import annotations

import copy
import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clir_cli import config, schema
from clir_cli.config import Plain, construct, invalid
from clir_cli.errors import ConfigError
from clir_cli.labels import DEFAULT_TRANSLATOR, label_all, marked, translates
from clir_cli.schema import Problem, one_line

GROUPS = (
    "dataset",
    "translator",
    "llm",
    "prompt",
    "retriever",
    "reranker",
    "evaluate",
    "launcher",
    "quirk",
    "experiment",
)
NODES = (
    "dataset",
    "translator",
    "llm",
    "prompt",
    "retriever",
    "reranker",
    "retrieve",
    "rerank",
    "evaluate",
    "launcher",
)
_SHARED = frozenset({"llm", "prompt"})  # groups whose node is copied into the components that use it
DERIVED = ("parts", "cascade", "names", "labels")  # what freezing adds


@dataclass(frozen=True)
class Cell:
    """One experiment of a request: what was asked, and its frozen configuration."""

    overrides: tuple[str, ...]
    plain: Plain
    dropped: tuple[str, ...] = ()  # overrides that the chosen component does not have (sweeps only)


def packaged() -> Path:
    """The configs that come with clir."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def folders(config_dirs: Sequence[Path] = ()) -> list[Path]:
    """Where yaml files are looked up, the first wins: --config-dir, ./configs, plug-ins, clir's own."""
    for folder in config_dirs:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder} is not a folder")
    here = [Path("configs").absolute()] if Path("configs").is_dir() else []
    own = [p for p in schema.plugins().values() if p]
    return list(dict.fromkeys([*(f.absolute() for f in config_dirs), *here, *own, packaged()]))


@contextmanager
def _hydra(search: Sequence[Path]) -> Iterator[Any]:
    """Hydra, initialised with these folders; yields its config loader."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    _user_folders(search[:-1])
    with initialize_config_dir(str(search[-1]), job_name="clir", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def _user_folders(search: Sequence[Path]) -> None:
    """Prepend folders to Hydra's search path, so that a user's yaml wins over clir's of the same name."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    global _plugin
    if _plugin is None:

        class UserConfigs(SearchPathPlugin):
            folders: tuple[Path, ...] = ()

            def manipulate_search_path(self, search_path: Any) -> None:
                for folder in reversed(UserConfigs.folders):
                    search_path.prepend(provider="user", path=f"file://{folder}")

        Plugins.instance().register(UserConfigs)
        _plugin = UserConfigs
    _plugin.folders = tuple(search)


_plugin: Any = None  # Hydra keeps its plug-ins for the life of the process


def cells(
    overrides: Sequence[str], multirun: bool = False, zips: Sequence[str] = (), config_dirs: Sequence[Path] = ()
) -> list[Cell]:
    """The experiments that the overrides ask for, each composed, checked and frozen. ConfigError lists every problem."""
    search = folders(config_dirs)
    with _hydra(search) as loader:
        composer = _Composer(loader, search)
        problems: list[Problem] = []
        axes = composer.axes(overrides, multirun, zips, problems)
        if problems:
            composer.look_at_the_rest(axes, problems)
            raise invalid(problems)
        found = [
            composer.cell(tuple(itertools.chain(*choice)), multirun, problems) for choice in itertools.product(*axes)
        ]
        if problems:
            raise invalid(problems)
        return [cell for cell in found if cell is not None]


class _Composer:
    """Composes once per combination of group choices (45 ms) and sets values on it (1 ms a cell)."""

    def __init__(self, loader: Any, search: Sequence[Path]) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self.loader, self.search = loader, search
        self.parser = OverridesParser.create(config_loader=loader)
        self.parsed: dict[str, Any] = {}
        self.resolved: dict[tuple[str, ...], Plain] = {}
        self.bases: dict[tuple[str, ...], tuple[Plain, dict[str, str]]] = {}

    # Overrides

    def axes(
        self, overrides: Sequence[str], multirun: bool, zips: Sequence[str], problems: list[Problem]
    ) -> list[list[tuple[str, ...]]]:
        """Per axis the choices, each a tuple of overrides that are set together (several on a zipped axis)."""
        single: dict[str, list[str]] = {}
        for text in overrides:
            if (parsed := self._parse(text, problems)) is None:
                continue
            key = parsed.get_key_element()
            if key in single:
                problems.append(Problem("", f"{text!r}: {key} is given twice"))
            if parsed.is_sweep_override() and not multirun:
                problems.append(
                    Problem(
                        "", f"{text!r} asks for several experiments: add -m to sweep, or write a list as '{key}=[...]'"
                    )
                )
            elif parsed.is_sweep_override():
                single[key] = [f"{key}={value}" for value in parsed.sweep_string_iterator()]
            else:
                single[key] = [text]
        for strings in single.values():
            for text in strings:
                if (parsed := self._parse(text, problems)) is not None:
                    self._check_choice(parsed, problems)
        zipped = [self._zip(names.split(","), single, problems) for names in zips]
        alone: list[list[tuple[str, ...]]] = [[(text,) for text in strings] for strings in single.values()]
        return alone + zipped

    def look_at_the_rest(self, axes: list[list[tuple[str, ...]]], problems: list[Problem]) -> None:
        """What else is wrong, beside overrides that do not parse and choices that do not exist: all problems at once."""
        first = [text for axis in axes if axis for text in axis[0]]
        wrong = {key for text in first if (key := self._root(text)) and self._is_wrong(text)}
        self.cell(tuple(t for t in first if (root := self._root(t)) in NODES and root not in wrong), False, problems)

    def _root(self, text: str) -> str:
        return str(self.parsed[text].key_or_group).split(".")[0] if text in self.parsed else ""

    def _is_wrong(self, text: str) -> bool:
        found: list[Problem] = []
        self._check_choice(self.parsed[text], found)
        return bool(found)

    def _parse(self, text: str, problems: list[Problem]) -> Any:
        from hydra.errors import HydraException

        if text not in self.parsed:
            try:
                (self.parsed[text],) = self.parser.parse_overrides([text])
            except (HydraException, ValueError) as error:
                if quoted := _quoted(text):
                    (self.parsed[text],) = self.parser.parse_overrides([quoted])
                    return self.parsed[text]
                reason = str(error).strip().splitlines()[0]
                problems.append(
                    Problem(
                        "",
                        f"{text!r} is not an override like group=choice or node.key=value ({reason})\n    quote what holds blanks, =, (), {{}} or other than ASCII twice: 'key=\"value\"'",
                    )
                )
                return None
        return self.parsed[text]

    @staticmethod
    def _zip(names: list[str], single: dict[str, list[str]], problems: list[Problem]) -> list[tuple[str, ...]]:
        absent = [n for n in names if n not in single]
        lengths = {n: len(single[n]) for n in names if n in single}
        if absent or len(set(lengths.values())) > 1:
            problems.append(
                Problem(
                    "--zip " + ",".join(names),
                    f"no override for {', '.join(absent)}" if absent else f"the axes have different lengths: {lengths}",
                )
            )
            return []
        return list(zip(*(single.pop(n) for n in names), strict=True))

    def _check_choice(self, parsed: Any, problems: list[Problem]) -> None:
        key, value = parsed.key_or_group, parsed.value()
        if key in GROUPS and not parsed.is_delete():
            for name in value if isinstance(value, list) else [value]:
                options = self.loader.get_group_options(key)
                if value is not None and name not in options:
                    problems.append(Problem("", f"{key} {str(name)!r} does not exist; {_nearest(str(name), options)}"))
        elif key.split(".")[0] not in NODES and "/" not in key and "@" not in key:
            problems.append(
                Problem(
                    "",
                    f"{key!r} is neither a group nor a node; {_nearest(key.split('.')[0], sorted({*GROUPS, *NODES}))}",
                )
            )

    def _is_value(self, text: str) -> bool:
        parsed = self.parsed[text]
        return not (
            parsed.is_add() or parsed.is_delete() or parsed.package or "@" in parsed.key_or_group or "/" in parsed.key_or_group
            or parsed.key_or_group in GROUPS
        )  # fmt: skip

    # One cell

    def base(self, groups: tuple[str, ...]) -> tuple[Plain, dict[str, str]]:
        """The composition of group choices, unresolved, and the name chosen in every group."""
        from hydra import compose
        from hydra.errors import HydraException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        if groups not in self.bases:
            wanted = [f"~{g.split('=')[0]}" if g.endswith("=null") and "@" not in g else g for g in groups]
            try:
                composed = compose("config", overrides=wanted, return_hydra_config=True)
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                raise ConfigError(f"{' '.join(groups)}: {one_line(error)}") from error
            names = {k: v for k, v in composed.hydra.runtime.choices.items() if k in GROUPS}
            OmegaConf.set_struct(composed, False)
            composed.pop("hydra")
            plain = OmegaConf.to_container(composed, resolve=False)
            assert isinstance(plain, dict)
            self.bases[groups] = (
                {str(k): v for k, v in plain.items()},
                {k: str(v or "none") for k, v in names.items()},
            )
        return self.bases[groups]

    def compose(self, overrides: Sequence[str]) -> tuple[Plain, Plain, dict[str, str]]:
        """The resolved configuration, the same without the value overrides, and the chosen names."""
        values = [text for text in overrides if self._is_value(text)]
        groups = tuple(text for text in overrides if text not in values)
        unresolved, names = self.base(groups)
        if groups not in self.resolved:
            self.resolved[groups] = _resolve(unresolved)
        unset, given = self.resolved[groups], {self.parsed[t].key_or_group: self.parsed[t].value() for t in values}
        if any(_is_referred_to(unresolved, key) or "${" in str(value) for key, value in given.items()):
            return _resolve(_with(unresolved, given)), unset, names
        return _with(unset, given), unset, names  # resolving again, 6 ms, would say the same

    def cell(self, overrides: tuple[str, ...], sweep: bool, problems: list[Problem]) -> Cell | None:
        """One experiment; in a sweep, overrides that its component does not have are dropped and listed."""
        kept, dropped = list(overrides), list[str]()
        while True:
            found: list[Problem] = []
            try:
                plain = self.freeze(tuple(kept))
                unknown = set(plain) - {*NODES, *DERIVED}
                found += [Problem(k, f"unknown; {_nearest(k, NODES)}") for k in sorted(unknown)]
                construct(plain, found)
            except ConfigError as error:
                found.append(Problem("", str(error)))
            droppable = [
                t
                for t in kept
                if sweep and self._is_value(t) and any(_names(p, self.parsed[t].key_or_group) for p in found)
            ]
            if not droppable:
                problems += found
                return None if found else Cell(overrides, plain, tuple(dropped))
            dropped += droppable
            kept = [t for t in kept if t not in droppable]

    def freeze(self, overrides: tuple[str, ...]) -> Plain:
        """The complete plain configuration of a cell: parts composed by name, paths absolute, labels and names added."""
        plain, unset, names = self.compose(overrides)
        keys = {self.parsed[t].key_or_group: t for t in overrides if self._is_value(t)}
        self._place(plain, unset, names)
        _pair(plain.get("dataset"))
        plain |= {"names": names, "labels": label_all(plain, unset, names, keys)}
        self._parts(plain, overrides)
        for stage, side in itertools.product(("retrieve", "rerank"), ("query_translator", "doc_translator")):
            if isinstance(name := plain[stage].get(side), str):
                plain[stage][side] = self._named("translator", name, overrides)["translator"]
        return config.completed(plain)

    def _parts(self, plain: Plain, overrides: tuple[str, ...]) -> None:
        """A hybrid's first stages and a cascade's rerankers, each composed by its name with all other overrides."""
        for group, stage, into in (("retriever", "retrieve", "parts"), ("reranker", "rerank", "cascade")):
            node = plain.get(group) or {}
            if "parts" not in node:
                continue
            if not isinstance(node["parts"], list) or not node["parts"]:
                raise ConfigError(
                    f"{group}.parts must name at least one {group}, e.g. '{group}.parts=[a,b]'; got {node['parts']!r}"
                )
            plain[into] = {}
            for name in node["parts"]:
                part = self._named(group, str(name), overrides)
                if "parts" in part[group]:
                    raise ConfigError(f"{group}.parts: {name} is itself made of parts")
                plain[into][str(name)] = {k: part[k] for k in (group, stage, "translator", "names", "labels")}
            chosen = plain["names"]["translator"]
            if chosen != DEFAULT_TRANSLATOR and any(translates(part[stage]) for part in plain[into].values()):
                plain["labels"][group] = marked(plain["labels"][group], f"translator={chosen}")

    def _named(self, group: str, name: str, overrides: tuple[str, ...]) -> Plain:
        """The configuration with another choice in one group and without the overrides of that group's node."""
        options = self.loader.get_group_options(group)
        if name not in options:
            raise ConfigError(f"{group} {name!r} does not exist; {_nearest(name, options)}")
        choice = f"{group}={name}"
        self._parse(choice, [])
        others = tuple(t for t in overrides if self.parsed[t].key_or_group.split(".")[0] != group)
        plain, unset, names = self.compose((*others, choice))
        self._place(plain, unset, names)
        keys = {self.parsed[t].key_or_group: t for t in others if self._is_value(t)}
        return {**plain, "names": names, "labels": label_all(plain, unset, names, keys)}

    def _place(self, plain: Plain, unset: Plain, names: Mapping[str, str]) -> None:
        """Make paths absolute: a user's yaml gives them beside itself, the command line from the current directory."""
        expansion = (plain.get("retrieve") or {}).get("expansion")
        users = [node for node in (plain.get("reranker"), plain.get("translator"), expansion) if isinstance(node, dict)]
        for group in NODES:
            copies = [node.get(group) for node in users] if group in _SHARED else []
            for node in (plain.get(group), *copies):
                _absolute(node, unset.get(group), self._folder(group, names.get(group, "none")))
        before = (unset.get("retrieve") or {}).get("expansion")
        _absolute(expansion, before, self._folder("experiment", names.get("experiment", "none")))

    def _folder(self, group: str, name: str) -> Path | None:
        """The folder of the user's yaml that a choice came from; None for clir's own."""
        found = next((f / group for f in self.search if (f / group / f"{name}.yaml").exists()), None)
        return None if found is None or found.parent == self.search[-1] else found


def _quoted(text: str) -> str | None:
    """A plain text that the grammar takes only in quotes: a path with {lang}, blanks, other than ASCII. None for lists, dicts, sweeps."""
    key, equals, value = text.partition("=")
    if (
        not equals
        or not value
        or value[0] in "[{'\""
        or "," in value
        or not re.fullmatch(r"[\w.@/+~-]+", key, re.ASCII)
    ):
        return None
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'


def _names(problem: Problem, key: str) -> bool:
    return problem.unknown and (problem.path == key or key.startswith(f"{problem.path}."))


def _nearest(name: str, options: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, options, 3, 0.5)
    return (f"did you mean {' or '.join(near)}? " if near else "") + f"There are: {', '.join(options) or 'none'}"


def _with(plain: Plain, values: Mapping[str, Any]) -> Plain:
    """A copy with these values set."""
    copied = copy.deepcopy(plain)
    for key, value in values.items():
        _set(copied, key, value)
    return copied


def _is_referred_to(unresolved: Plain, key: str) -> bool:
    """Whether another node shows this one by interpolation (`${llm}`), or this one is itself such a reference."""
    node: Any = unresolved
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, str) and "${" in node:
            return True
    return key.split(".", maxsplit=1)[0] in set(re.findall(r"\$\{(?:oc\.select:)?(\w+)", str(unresolved)))


def _set(plain: Plain, key: str, value: Any) -> None:
    *path, last = key.split(".")
    node: Any = plain
    for at, name in enumerate(path):
        if isinstance(node.get(name), str) and "${" in node[name]:
            raise ConfigError(f"{key}: {'.'.join(path[: at + 1])} is {node[name]}; set that instead")
        if not isinstance(node.get(name), dict):
            node[name] = {}
        node = node[name]
    node[last] = _value(value)


def _value(value: Any) -> Any:
    """Hydra's parsed values as plain ones: a quoted string is a string."""
    if isinstance(value, list):
        return [_value(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _value(v) for k, v in value.items()}
    return value.text if hasattr(value, "text") and hasattr(value, "quote") else value


def _resolve(plain: Plain) -> Plain:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved = OmegaConf.to_container(OmegaConf.create(plain), resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    assert isinstance(resolved, dict)
    return {str(k): v for k, v in resolved.items()}


def _absolute(node: Any, unset: Any, folder: Path | None) -> None:
    """Make the paths of a component, and of the components in it, absolute; `unset` is the node without overrides."""
    if not isinstance(node, dict):
        return
    cls = None
    if schema.TARGET in node:
        try:
            cls = schema.find(node[schema.TARGET])
        except ConfigError:
            return
    for name, value in node.items():
        before = unset.get(name) if isinstance(unset, dict) else None
        from_yaml = isinstance(unset, dict) and value == before
        if cls is not None and schema.is_path(cls, name) and (folder is not None or not from_yaml):
            is_model = schema.role(cls, name) == "model"
            node[name] = _beside(value, folder if from_yaml and folder else Path.cwd(), is_model)
        elif isinstance(value, dict) and name not in _SHARED:
            _absolute(value, before, folder)


def _beside(value: Any, folder: Path, is_model: bool) -> Any:
    if isinstance(value, dict):
        return {k: _beside(v, folder, is_model) for k, v in value.items()}
    if isinstance(value, list):
        return [_beside(v, folder, is_model) for v in value]
    if not isinstance(value, str) or value == "???" or re.match(r"^(/|~|clir:|package:)", value):
        return value
    if is_model and not value.startswith(".") and not (folder / value).is_dir():
        return value  # a hub id
    return str(folder / value)


def _pair(dataset: Any) -> None:
    """`pair=en-de` is query_lang=en and doc_lang=de."""
    if not isinstance(dataset, dict) or not dataset.get("pair"):
        return
    pair = str(dataset.pop("pair"))
    query, dash, doc = pair.partition("-")
    if not (query and dash and doc):
        raise ConfigError(
            f"dataset.pair: expected QUERY-DOCUMENT such as en-de (or en-fa+ru+zh for a pool), got {pair!r}"
        )
    dataset["query_lang"] = query
    dataset["doc_lang"] = doc.split("+") if "+" in doc else doc


# The yaml files -------------------------------------------------------------------------------------------------------


def choices(group: str, config_dirs: Sequence[Path] = ()) -> dict[str, Path]:
    """name -> yaml file of a group, clir's and the user's."""
    found: dict[str, Path] = {}
    for folder in reversed(folders(config_dirs)):
        found |= {p.stem: p for p in sorted((folder / group).glob("*.yaml"))}
    return dict(sorted(found.items()))


def description(path: Path) -> tuple[str, str]:
    """The command and the description in a yaml's first comment lines."""
    lines = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    lines = [line for line in lines if not line.startswith("@package")]
    return (lines[0] if lines else "", lines[1] if len(lines) > 1 else "")
