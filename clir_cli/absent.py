"""Planning with data that is not on this machine yet: what is missing is named, and stands in identities as unknown."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PosixPath
from typing import Any, NamedTuple

from clir_cli.config import Config
from clir_cli.datasets.collection import Source, TestCollection
from clir_cli.errors import DataError
from clir_cli.fingerprints import Fingerprints
from clir_cli.steps import Pending

SHARED = frozenset(f.name for f in fields(TestCollection))  # settings that say nothing about where documents are


class Missing(PosixPath):
    """Stands for the files of a part that nobody can name yet; `reason` says what to do."""

    reason = ""

    def exists(self) -> bool:
        return True  # they are expected: whether a collection has translated documents is seen when it is there


class Tolerant(Fingerprints):
    """Fingerprints of a plan: a file that is not here is to be fingerprinted."""

    def fingerprint(self, path: Path) -> str:
        if isinstance(path, Missing):
            return Pending(path.reason)
        if not path.exists():
            return Pending(f"{path} is not here: to be fingerprinted")
        return super().fingerprint(path)


class Asked(NamedTuple):
    """A part of a dataset that a plan needs: where it comes from, or why nobody can say."""

    dataset: Any
    part: str
    lang: str
    name: str
    source: Source | None
    why: str = ""


@dataclass
class Tolerance:
    """Makes configurations whose datasets have parts that are not here, each dataset once; keeps what is asked of them."""

    known: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # with the dataset, so that its id stays
    asked: dict[tuple[int, str, str, str], Asked] = field(default_factory=dict)

    def __call__(self, cfg: Config) -> Config:
        parts, cascade = (tuple(map(self, cfgs)) for cfgs in (cfg.parts, cfg.cascade))
        return replace(cfg, dataset=self._dataset(cfg.dataset), parts=parts, cascade=cascade)

    def _dataset(self, dataset: Any) -> Any:
        if id(dataset) not in self.known:
            if (kind := type(dataset)) not in _KINDS:
                _KINDS[kind] = _tolerant(kind)
            copy = object.__new__(_KINDS[kind])
            vars(copy).update({**vars(dataset), "_asked": self.asked})
            self.known[id(dataset)] = dataset, copy
        return self.known[id(dataset)][1]


_KINDS: dict[type[Any], type[Any]] = {}


def _tolerant(cls: type[Any]) -> type[Any]:
    """A dataset's class whose `source` answers also where its files are not here."""

    def source(self: Any, part: str, lang: str, name: str = "") -> Source:
        asked = vars(self).get("_asked", {})  # a copy with another language (dataclasses.replace) has none
        key = id(self), part, lang, name
        try:
            found: Source = cls.source(self, part, lang, name)
            asked[key] = Asked(self, part, lang, name, found)
        except DataError as error:
            asked[key] = Asked(self, part, lang, name, None, str(error))
            own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in SHARED}
            chosen = [] if part == "docs" else [self.split, list(self.doc_langs), name]
            missing = Missing(f"{part}.{lang}")
            missing.reason = str(error)
            return Source((missing,), {"of": repr(own), "part": part, "lang": lang, "chosen": chosen})
        return found

    return type(
        cls.__name__, (cls,), {"source": source, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    )
