"""Hydra's composition of yaml files, fast enough for thousands of combinations. With compose.py the only file that knows Hydra."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clir_cli import grid
from clir_cli.config import Plain
from clir_cli.errors import ConfigError
from clir_cli.grid import Constraint
from clir_cli.labels import COLUMNS
from clir_cli.schema import one_line

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
QUIRK = "quirk"


@dataclass(frozen=True)
class Base:
    """What group choices compose to, before values are set on it."""

    unresolved: Plain
    resolved: Plain
    names: Mapping[str, str]  # group -> what is chosen in it
    referred: frozenset[str]  # nodes that others show by interpolation
    constraints: tuple[Constraint, ...]  # of the experiment's yaml
    marks: Mapping[str, tuple[str, ...]]  # group -> the quirks that changed something of it


MARKED = {  # whose label; a translator's quirks stand in those of the stages that translate
    "retriever": ("retriever", "retrieve"),
    "reranker": ("reranker", "rerank", "llm", "prompt"),
    "translator": ("translator",),
}


@contextmanager
def hydra(search: Sequence[Path]) -> Iterator[Any]:
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


class Yamls:
    """Hydra's own composition of group choices, every yaml read once: a tenth of the time of `hydra.compose`.

    Hydra says which yamls make a configuration, in which order and under which node; they are merged here as it merges
    them. Quirks come last, over the experiment, and each only `when` it applies.
    """

    def __init__(self, loader: Any) -> None:
        from hydra._internal.config_repository import CachingConfigRepository

        self.loader, self.repository = loader, CachingConfigRepository(loader.repository)
        self.repository.group_exists = cache(self.repository.group_exists)  # type: ignore[method-assign]
        self.layers: dict[tuple[Any, ...], Plain] = {}

    def composed(self, overrides: Sequence[Any]) -> Base:
        """What these group choices, parsed, compose to; Hydra's errors where they do not."""
        from hydra._internal.defaults_list import create_defaults_list

        found = create_defaults_list(
            self.repository, "config", list(overrides), prepend_hydra=False, skip_missing=False
        )
        names = {k: str(v or "none") for k, v in found.overrides.known_choices.items() if k in GROUPS}
        quirks = [d for d in found.defaults if str(d.config_path).startswith(f"{QUIRK}/")]
        plain: Plain = {}
        for layer in (d for d in found.defaults if d not in quirks):
            self._merge(plain, self._layer(layer))
        applied, marks = list[str](), dict[str, tuple[str, ...]]()
        for layer in quirks:
            content = dict(self._layer(layer))
            if grid.matches(content.pop("when", {}), plain, names):
                before = copied(plain)
                self._merge(plain, content)
                applied.append(str(layer.config_path).removeprefix(f"{QUIRK}/"))
                for group, nodes in MARKED.items():
                    if any(_said(plain, node) != _said(before, node) for node in nodes):
                        marks[group] = (*marks.get(group, ()), applied[-1])
        if found.config_overrides:
            plain = self._set(plain, found.config_overrides)
        left_out = grid.constraints(plain.pop("constraints", None) or [], f"experiment {names.get('experiment')}")
        referred = frozenset(re.findall(r"\$\{(?:oc\.select:)?(\w+)", str(plain)))
        names |= {QUIRK: "+".join(applied) or "none"}
        return Base(plain, resolved(plain), names, referred, left_out, marks)

    def _layer(self, default: Any) -> Plain:
        """What one yaml says, under the node it belongs to."""
        from omegaconf import OmegaConf

        key = (default.config_path, default.package, default.is_self, default.primary)
        if key not in self.layers:
            alone = self.loader._compose_config_from_defaults_list([default], self.repository)
            plain = OmegaConf.to_container(alone, resolve=False)
            assert isinstance(plain, dict)
            self.layers[key] = {str(k): v for k, v in plain.items()}
        return self.layers[key]

    def _merge(self, into: Plain, layer: Mapping[str, Any], path: str = "") -> None:
        """As OmegaConf merges: mappings key by key, everything else replaced; ??? leaves what is there."""
        for key, value in layer.items():
            there = into.get(key)
            if isinstance(there, str) and "${" in there and isinstance(value, dict):
                raise ConfigError(
                    f"{path}{key} is {there}, and a yaml sets something in it; set it on that node instead"
                )
            if isinstance(there, dict) and isinstance(value, dict):
                self._merge(there, value, f"{path}{key}.")
            elif value != "???" or key not in into:
                into[key] = copied(value)

    def _set(self, plain: Plain, overrides: Sequence[Any]) -> Plain:
        """With additions (+key=value) and deletions (~key) of the command line."""
        from omegaconf import OmegaConf

        changed = OmegaConf.create(plain)
        OmegaConf.set_struct(changed, True)
        self.loader._apply_overrides_to_config(list(overrides), changed)
        found = OmegaConf.to_container(changed, resolve=False)
        assert isinstance(found, dict)
        return {str(k): v for k, v in found.items()}


def _said(plain: Plain, node: str) -> Any:
    """What a node says beside what is a column of metrics.csv, and so no part of a label."""
    said = plain.get(node)
    return {k: v for k, v in said.items() if k not in COLUMNS.get(node, ())} if isinstance(said, dict) else said


def without(group: str) -> str:
    """`quirk=null` as Hydra takes it: a list of none, where several may be chosen, else a deletion."""
    name, _, value = group.partition("=")
    if value != "null" or "@" in group:
        return group
    return f"{name}=[]" if name == QUIRK else f"~{name}"


# Plain configurations -------------------------------------------------------------------------------------------------


def copied(value: Any) -> Any:
    """A deep copy of what yaml can hold."""
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    return [copied(v) for v in value] if isinstance(value, list) else value


_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?(\w+)(?:,null)?\}")  # ${llm}, ${oc.select:llm,null}: a whole node


def resolved(plain: Plain) -> Plain:
    """The configuration with every interpolation replaced by what it shows."""
    if (shown := _shown(plain, plain)) is not _OTHERWISE:
        return dict(shown)
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        found = OmegaConf.to_container(OmegaConf.create(plain), resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


_OTHERWISE: Any = object()  # holds an interpolation that OmegaConf has to resolve


def _shown(value: Any, root: Plain) -> Any:
    """A copy in which references to whole nodes, the usual ones, are replaced: a tenth of OmegaConf's time."""
    if isinstance(value, dict):
        found = {k: _shown(v, root) for k, v in value.items()}
        return _OTHERWISE if any(v is _OTHERWISE for v in found.values()) else found
    if isinstance(value, list):
        rows = [_shown(v, root) for v in value]
        return _OTHERWISE if any(v is _OTHERWISE for v in rows) else rows
    if not isinstance(value, str) or "${" not in value:
        return value
    name = reference[1] if (reference := _REFERENCE.fullmatch(value)) else ""
    if not isinstance(root.get(name, ""), dict | None):
        return _OTHERWISE
    return _shown(root[name], {k: v for k, v in root.items() if k != name})  # without it: OmegaConf tells of circles
