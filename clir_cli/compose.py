"""Overrides -> frozen plain configurations. With composition.py the only file that knows Hydra."""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from clir_cli import composition, config, grid, schema
from clir_cli.composition import QUIRK, Base, Yamls, copied, hydra, resolved, without
from clir_cli.config import Plain, construct, invalid
from clir_cli.errors import ConfigError
from clir_cli.grid import Choice, Constraint
from clir_cli.labels import DEFAULT_TRANSLATOR, label_all, marked, translates
from clir_cli.schema import Problem, one_line

GROUPS = composition.GROUPS
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
SWEEP = "sweep"


@dataclass(frozen=True)
class Cell:
    """One experiment of a request: what was asked, and its frozen configuration."""

    overrides: tuple[str, ...]
    plain: Plain
    dropped: tuple[str, ...] = ()  # overrides that the chosen component does not have (sweeps only)
    skipped: str = ""  # the constraint that leaves this cell out (sweeps only); then `plain` is empty


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


def cells(
    overrides: Sequence[str], multirun: bool = False, zips: Sequence[str] = (), config_dirs: Sequence[Path] = ()
) -> list[Cell]:
    """The experiments that the overrides ask for, each composed, checked and frozen. ConfigError lists every problem."""
    search = folders(config_dirs)
    with hydra(search) as loader:
        composer = _Composer(loader, search)
        problems: list[Problem] = []
        axes, left_out = composer.axes(overrides, multirun, zips, problems)
        if problems:
            composer.look_at_the_rest(axes, problems)
            raise invalid(problems)
        found = [
            composer.cell(tuple(itertools.chain(*choice)), multirun, problems, left_out)
            for choice in itertools.product(*axes)
        ]
        if problems:
            raise invalid(problems)
        return [cell for cell in found if cell is not None]


def values(overrides: Sequence[str]) -> dict[str, Any]:
    """key -> value of overrides like `dataset.docs=here.jsonl`, by Hydra's grammar. ConfigError lists every problem."""
    if not overrides:
        return {}
    problems: list[Problem] = []
    with hydra([packaged()]) as loader:
        composer = _Composer(loader, [packaged()])
        found = [composer.value(text, problems) for text in overrides]
    if problems:
        raise invalid(problems)
    return dict(found)


class _Composer:
    """Composes once per combination of group choices (10 ms) and sets values on it (1 ms a cell)."""

    def __init__(self, loader: Any, search: Sequence[Path]) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self.loader, self.search = loader, search
        self.parser = OverridesParser.create(config_loader=loader)
        self.yamls = Yamls(loader)
        self.parsed: dict[str, Any] = {}
        self.bases: dict[Choice, Base] = {}
        self.options = cache(lambda group: tuple(_choices(group, search)))
        self.beside = cache(self._folder)
        self.memo: config.Memo = {}

    # Overrides

    def axes(
        self, overrides: Sequence[str], multirun: bool, zips: Sequence[str], problems: list[Problem]
    ) -> tuple[list[list[Choice]], tuple[Constraint, ...]]:
        """Per axis the choices, each a tuple of overrides that are set together; and the constraints of `sweep=`."""
        single, together = self._given(overrides, multirun, problems), list[list[Choice]]()
        wanted, left_out = [names.split(",") for names in zips], tuple[Constraint, ...]()
        if (sweep := self._grid(single, multirun, problems)) is not None:
            wanted += [left for names in sweep.zips if (left := [n for n in names if n not in single])]
            for places in sweep.together:
                choices, single = self._restricted(places, single, problems)
                together.append(choices)
            texts = {**sweep.axes, **{key: (text,) for key, text in sweep.overrides.items()}}
            own = {
                k: [p for text in of for p in self._places(text, problems)]
                for k, of in texts.items()
                if k not in single
            }
            single, left_out = {**own, **single}, sweep.constraints
        for text in [*itertools.chain(*single.values()), *(t for axis in together for choice in axis for t in choice)]:
            if (parsed := self._parse(text, problems)) is not None:
                self._check_choice(parsed, problems)
        zipped = [self._zip(names, single, problems) for names in wanted]
        alone: list[list[Choice]] = [[(text,) for text in strings] for strings in single.values()]
        return together + alone + zipped, left_out

    def _given(self, overrides: Sequence[str], multirun: bool, problems: list[Problem]) -> dict[str, list[str]]:
        """key -> the places of its axis, of the command line."""
        single: dict[str, list[str]] = {}
        for text in overrides:
            if (parsed := self._parse(text, problems)) is None:
                continue
            key = parsed.get_key_element()
            if key in single:
                problems.append(Problem("", f"{text!r}: {key} is given twice"))
            if parsed.is_sweep_override() and not multirun:
                several = f"{text!r} asks for several experiments: add -m to sweep"
                several += "" if key in GROUPS and key != QUIRK else f", or write a list as '{key}=[...]'"
                problems.append(Problem("", several))
            else:
                single[key] = self._places(text, problems)
        return single

    def _places(self, text: str, problems: list[Problem]) -> list[str]:
        """The places of an axis that an override spans; one, unless it is a sweep of Hydra's grammar."""
        parsed = self._parse(text, problems)
        if parsed is None or not parsed.is_sweep_override():
            return [text]
        return [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]

    def _grid(self, single: dict[str, list[str]], multirun: bool, problems: list[Problem]) -> grid.Grid | None:
        """The yaml that `sweep=NAME` names, taken out of the overrides."""
        if not (given := single.pop(SWEEP, [])) or (name := self.parsed[given[0]].value()) is None:
            return None
        known = _choices(SWEEP, self.search)
        if len(given) == 1 and multirun and name in known:
            return grid.read(known[name])
        if len(given) > 1:
            problems.append(Problem("", f"sweep= names one sweep, not {len(given)}"))
        elif name not in known:
            problems.append(Problem("", f"sweep {str(name)!r} does not exist; {_nearest(str(name), tuple(known))}"))
        else:
            problems.append(Problem("", f"sweep={name} asks for several experiments: add -m"))
        return None

    def _restricted(
        self, places: Sequence[Mapping[str, str]], single: dict[str, list[str]], problems: list[Problem]
    ) -> tuple[list[Choice], dict[str, list[str]]]:
        """An axis of several keys as the command line's overrides leave it, and which of those are left."""
        for text in dict.fromkeys(t for texts in [*(p.values() for p in places), *single.values()] for t in texts):
            self._parse(text, problems)
        if problems:
            return [], single
        return grid.combined(
            places, single, lambda a, b: _value(self.parsed[a].value()) == _value(self.parsed[b].value())
        )

    def look_at_the_rest(self, axes: list[list[Choice]], problems: list[Problem]) -> None:
        """What else is wrong, beside overrides that do not parse and choices that do not exist: all problems at once."""
        first = [text for axis in axes if axis for text in axis[0]]
        wrong = {key for text in first if (key := self._root(text)) and self._is_wrong(text)}
        kept = tuple(t for t in first if (root := self._root(t)) in NODES and root not in wrong)
        self.cell(kept, False, problems, ())

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
                problems.append(Problem("", _no_override(text, str(error).strip().splitlines()[0])))
                return None
        return self.parsed[text]

    def value(self, text: str, problems: list[Problem]) -> tuple[str, Any]:
        """The key and the plain value of one override; a Problem for one that chooses a group, sweeps, or does not parse."""
        if (parsed := self._parse(text, problems)) is None:
            return "", None
        if not self._is_value(text) or parsed.is_sweep_override():
            problems.append(Problem("", f"{text!r}: expected node.key=value"))
            return "", None
        return parsed.key_or_group, _value(parsed.value())

    @staticmethod
    def _zip(names: list[str], single: dict[str, list[str]], problems: list[Problem]) -> list[Choice]:
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
                options = self.options(key)
                if value is not None and name not in options:
                    problems.append(Problem("", f"{key} {str(name)!r} does not exist; {_nearest(str(name), options)}"))
        elif key.split(".")[0] not in NODES and "/" not in key and "@" not in key:
            problems.append(
                Problem(
                    "",
                    f"{key!r} is neither a group nor a node; {_meant(key) or _nearest(key.split('.')[0], sorted({*GROUPS, *NODES}))}",
                )
            )

    def _is_value(self, text: str) -> bool:
        parsed = self.parsed[text]
        return not (
            parsed.is_add() or parsed.is_delete() or parsed.package or "@" in parsed.key_or_group or "/" in parsed.key_or_group
            or parsed.key_or_group in GROUPS
        )  # fmt: skip

    # One cell

    def base(self, groups: Choice) -> Base:
        """The composition of group choices."""
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        if groups not in self.bases:
            try:
                found = self.yamls.composed(self.parser.parse_overrides([without(g) for g in groups]))
            except (HydraException, OmegaConfBaseException, ValueError, YAMLError) as error:
                raise ConfigError(f"{' '.join(groups)}: {one_line(error)}") from error
            self.bases[groups] = found
        return self.bases[groups]

    def compose(self, overrides: Sequence[str]) -> tuple[Plain, Base]:
        """The resolved configuration, and the same without the value overrides."""
        values = [text for text in overrides if self._is_value(text)]
        base = self.base(tuple(text for text in overrides if text not in values))
        given = {self.parsed[t].key_or_group: self.parsed[t].value() for t in values}
        if any(_is_referred_to(base, key) or "${" in str(value) for key, value in given.items()):
            return resolved(_with(base.unresolved, given)), base
        return _with(base.resolved, given), base

    def cell(
        self, overrides: Choice, sweep: bool, problems: list[Problem], left_out: Sequence[Constraint]
    ) -> Cell | None:
        """One experiment; in a sweep, overrides that its component does not have are dropped and listed."""
        kept, dropped = list(overrides), list[str]()
        while True:
            found: list[Problem] = []
            try:
                if sweep and (why := self._skipped(kept, left_out)) is not None:
                    return Cell(overrides, {}, skipped=str(why))
                plain = self.freeze(tuple(kept))
                unknown = set(plain) - {*NODES, *DERIVED}
                found += [Problem(k, f"unknown; {_nearest(k, NODES)}") for k in sorted(unknown)]
                construct(plain, found, self.memo)
                useless = self._useless(kept, plain)
            except ConfigError as error:
                found, useless = [*found, Problem("", str(error))], []
            if useless and not sweep:
                found += [
                    Problem("", f"quirk={q} changes nothing here: it is for {self._condition(q)}") for q in useless
                ]
            droppable = [
                t
                for t in kept
                if sweep and self._is_value(t) and any(_names(p, self.parsed[t].key_or_group) for p in found)
            ]
            if not droppable:
                problems += found
                return None if found else Cell(overrides, plain, (*dropped, *(f"{QUIRK}={q}" for q in useless)))
            dropped += droppable
            kept = [t for t in kept if t not in droppable]

    def _useless(self, overrides: Sequence[str], plain: Plain) -> list[str]:
        """The quirks asked for by an override that apply to nothing in this cell."""
        asked = [self.parsed[t].value() for t in overrides if self.parsed[t].key_or_group == QUIRK]
        parts = [plain, *(plain.get("parts") or {}).values(), *(plain.get("cascade") or {}).values()]
        applied = {name for part in parts for name in part["names"][QUIRK].split("+")}
        named = (name for value in asked for name in (value if isinstance(value, list) else [value]) if name)
        return [str(name) for name in named if name not in applied]

    def _condition(self, quirk: str) -> str:
        """What a quirk's yaml says it is for."""
        (layer,) = (self.yamls.layers[k] for k in self.yamls.layers if k[0] == f"{QUIRK}/{quirk}")
        return grid.said(layer.get("when", {}))

    def _skipped(self, overrides: Sequence[str], left_out: Sequence[Constraint]) -> Constraint | None:
        """The first constraint, of the sweep or of the experiment's yaml, that leaves this cell out."""
        groups = tuple(text for text in overrides if not self._is_value(text))
        every = (*left_out, *self.base(groups).constraints)
        if not every:
            return None
        plain, base = self.compose(overrides)
        return next((c for c in every if c.applies(plain, base.names)), None)

    def freeze(self, overrides: tuple[str, ...]) -> Plain:
        """The complete plain configuration of a cell: parts composed by name, paths absolute, labels and names added."""
        plain, base = self.compose(overrides)
        self._place(plain, base)
        _spelled_out(plain.get("dataset"))
        plain |= {"names": dict(base.names), "labels": self._labels(plain, base, overrides)}
        self._parts(plain, overrides)
        for stage, side in itertools.product(("retrieve", "rerank"), ("query_translator", "doc_translator")):
            if isinstance(name := plain[stage].get(side), dict):
                raise ConfigError(
                    f"{stage}.{side}: expected the name of a translator, got {name}\n"
                    "  its settings go into a yaml of your own: configs/translator/NAME.yaml"
                )
            if name is not None:
                plain[stage][side] = self._named("translator", str(name), overrides)["translator"]
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
        options = self.options(group)
        if name not in options:
            raise ConfigError(f"{group} {name!r} does not exist; {_nearest(name, options)}")
        choice = f"{group}={name}"
        self._parse(choice, [])
        others = tuple(t for t in overrides if self.parsed[t].key_or_group.split(".")[0] != group)
        plain, base = self.compose((*others, choice))
        self._place(plain, base)
        return {**plain, "names": dict(base.names), "labels": self._labels(plain, base, others)}

    def _labels(self, plain: Plain, base: Base, overrides: Choice) -> dict[str, str]:
        keys = {self.parsed[t].key_or_group: t for t in overrides if self._is_value(t)}
        return label_all(plain, base.resolved, base.names, keys, base.marks)

    def _place(self, plain: Plain, base: Base) -> None:
        """Make paths absolute: a user's yaml gives them beside itself, the command line from the current directory."""
        unset, names = base.resolved, base.names
        expansion = (plain.get("retrieve") or {}).get("expansion")
        users = [node for node in (plain.get("reranker"), plain.get("translator"), expansion) if isinstance(node, dict)]
        for group in NODES:
            copies = [node.get(group) for node in users] if group in _SHARED else []
            for node in (plain.get(group), *copies):
                _absolute(node, unset.get(group), self.beside(group, names.get(group, "none")))
        before = (unset.get("retrieve") or {}).get("expansion")
        _absolute(expansion, before, self.beside("experiment", names.get("experiment", "none")))

    def _folder(self, group: str, name: str) -> Path | None:
        """The folder of the user's yaml that a choice came from; None for clir's own."""
        found = next((f / group for f in self.search if (f / group / f"{name}.yaml").exists()), None)
        return None if found is None or found.parent == self.search[-1] else found


def _no_override(text: str, reason: str) -> str:
    """Why a text does not parse, and how it is typed if all behind its = is one text."""
    said, (key, equals, value) = f"{text!r} is not an override like group=choice or node.key=value", text.partition("=")
    if not equals:
        return f"{said}: it has no ="
    typed = shlex.quote(f"{key}={_in_quotes(value)}")
    return f"{said} ({reason})\n    if what follows the = is one text, quote it twice: {typed}"


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
    return f"{key}={_in_quotes(value)}"


def _in_quotes(value: str) -> str:
    """As Hydra's grammar reads it back: a backslash is an escape before a quote only."""
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + m[2].replace('"', '\\"'), value)
    return f'"{escaped}"'


def _names(problem: Problem, key: str) -> bool:
    return problem.unknown and (problem.path == key or key.startswith(f"{problem.path}."))


def _meant(key: str) -> str:
    """The stage nodes that have a key of this name."""
    nodes = {"retrieve": config.Retrieve, "rerank": config.Rerank, "evaluate": config.Evaluate}
    found = [f"{node}.{key}" for node, cls in nodes.items() if key in {f.name for f in fields(cls)}]
    return f"did you mean {' or '.join(found)}?" if found else ""


def _nearest(name: str, options: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, options, 3, 0.5)
    if near:
        return f"did you mean {' or '.join(near)}? There are: {', '.join(options)}"
    return f"there are: {', '.join(options) or 'none'}"


def _with(plain: Plain, values: Mapping[str, Any]) -> Plain:
    """A copy with these values set."""
    found: Plain = copied(plain)
    for key, value in values.items():
        _set(found, key, value)
    return found


def _is_referred_to(base: Base, key: str) -> bool:
    """Whether another node shows this one by interpolation (`${llm}`), or this one is itself such a reference."""
    node: Any = base.unresolved
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, str) and "${" in node:
            return True
    return key.split(".", maxsplit=1)[0] in base.referred


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
        if cls is not None and schema.is_path(cls, name, value) and (folder is not None or not from_yaml):
            is_model = schema.role(cls, name) == "model"
            node[name] = beside(value, folder if from_yaml and folder else Path.cwd(), is_model)
        elif isinstance(value, dict) and name not in _SHARED:
            _absolute(value, before, folder)


def beside(value: Any, folder: Path, is_model: bool) -> Any:
    if isinstance(value, dict):
        return {k: beside(v, folder, is_model) for k, v in value.items()}
    if isinstance(value, list):
        return [beside(v, folder, is_model) for v in value]
    if not isinstance(value, str) or value == "???" or re.match(r"^(/|~|\w+:|\{path\})", value):
        return value
    if is_model and not value.startswith(".") and not (folder / value).is_dir():
        return value  # a hub id
    return str(folder / value)


def _spelled_out(dataset: Any) -> None:
    """What short spellings of a collection mean: pair=en-de is query_lang=en and doc_lang=de, split=2015 the name "2015"."""
    if not isinstance(dataset, dict):
        return
    if type(dataset.get("split")) is int:
        dataset["split"] = str(dataset["split"])
    if not dataset.get("pair"):
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
    return _choices(group, folders(config_dirs))


def _choices(group: str, search: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in (f / group for f in reversed(search)):
        found |= {p.relative_to(folder).with_suffix("").as_posix(): p for p in sorted(folder.rglob("*.yaml"))}
    return dict(sorted(found.items()))


def description(path: Path) -> tuple[str, str]:
    """The command and the description in a yaml's first comment lines."""
    lines = [
        line[1:].strip()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("#")
    ]
    lines = [line for line in lines if not line.startswith("@package")]
    return (lines[0] if lines else "", lines[1] if len(lines) > 1 else "")
