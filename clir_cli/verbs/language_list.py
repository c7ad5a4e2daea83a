"""What `clir languages` prints: which component reads which language, asked of the components themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from clir_cli.errors import ConfigError, LanguageError, RunError
from clir_cli.text import analysis, lucene
from clir_cli.text.languages import LANGUAGES, Language, language, sentence_rules

Row = dict[str, Any]


def rows(codes: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> list[Row]:
    """A row per language, of all or of these codes. Raises LanguageError for a code that is none, naming what it may mean."""
    restricted = _restricted(config_dirs)
    return [_row(language(code), restricted) for code in codes or LANGUAGES]


def _row(row: Language, restricted: dict[str, list[str]]) -> Row:
    return {
        "code": row.code,
        "name": row.name,
        "iso3": row.iso3,
        "script": row.script,
        "analysers": analysers(row.code),
        "sentences": sentence_rules(row.code),
        "nllb": row.nllb,
        "m2m100": row.m2m100,
        "mbart": row.mbart,
        "xmod": row.xmod,
        "apertium_to": _apertium(row.code, forward=True),
        "apertium_from": _apertium(row.code, forward=False),
        "only": restricted.get(row.code, []),
    }


def analysers(code: str) -> list[str]:
    """The values of retriever.analyser that read a language here, the best first; a segmenter not installed is left out."""
    found = []
    for kind in ("language", *analysis.segmenters(code), "whitespace", "ngram4"):
        try:
            analysis.check(code if kind == "language" else kind, code)
        except (ConfigError, LanguageError, RunError):
            continue
        if kind != "whitespace" or language(code).spaces:
            found.append(kind)
    return found


@cache
def _apertium(code: str, forward: bool) -> list[str]:
    """Languages that Apertium's packages in Debian translate `code` to, or from."""
    from clir_cli.translators import apertium

    def reaches(source: str, target: str) -> bool:
        chains = apertium.chains(source, target)
        return any(apertium.lacking(chain, frozenset()) is not None for chain in chains)

    others = [other for other, row in LANGUAGES.items() if row.apertium and other != code]
    return [other for other in others if reaches(*((code, other) if forward else (other, code)))]


def _restricted(config_dirs: Sequence[Path]) -> dict[str, list[str]]:
    """Language -> the choices (group=name) whose yaml lists it among those that they read; most read many and list none."""
    import yaml

    from clir_cli import compose

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, list[str]] = {}
    for group in ("retriever", "reranker", "translator"):
        for name, path in compose.choices(group, config_dirs).items():
            text = path.read_text(encoding="utf-8")
            node = yaml.load(text, Loader=loader) if "languages:" in text else {}
            for code in _named(node):
                found.setdefault(code, []).append(f"{group}={name}")
    return found


def _named(node: Any) -> list[str]:
    """The languages that a component's yaml, or one inside it, lists."""
    if not isinstance(node, dict):
        return []
    own = node.get("languages") or []
    codes = ["no" if code is False else str(code) for code in own]  # yaml reads `no` as false
    return list(dict.fromkeys([*codes, *(code for value in node.values() for code in _named(value))]))


COLUMNS = ("code", "name", "script", "analysers", "nllb", "m2m100", "mbart", "xmod", "apertium_to", "sentences", "only")


def show(codes: Sequence[str], config_dirs: Sequence[Path], as_json: bool) -> str:
    """A table of all languages, or all that is known of a few."""
    from clir_cli.plan import aligned
    from clir_cli.verbs.listing import dumps

    found = rows(codes, config_dirs)
    if as_json:
        return dumps(found)
    if codes and len(codes) <= 3:
        return "\n\n".join("\n".join(aligned(list(_facts(row)))) for row in found)
    heads = {
        "analysers": "retriever.analyser",
        "apertium_to": "apertium to",
        "sentences": "sentences end at",
        "only": "listed by",
    }
    head = tuple(heads.get(column, column) for column in COLUMNS)
    return "\n".join(aligned([head, *(tuple(_cell(row[column]) for column in COLUMNS) for row in found)]))


def _facts(row: Row) -> list[tuple[str, str]]:
    names = {
        "code": "code",
        "name": "name",
        "iso3": "ISO 639-3",
        "script": "script",
        "analysers": "retriever.analyser",
        "sentences": "sentences end at",
        "nllb": "NLLB, FLORES-200",
        "m2m100": "M2M100",
        "mbart": "mBART-50",
        "xmod": "X-MOD adapter",
        "apertium_to": "Apertium into",
        "apertium_from": "Apertium out of",
        "only": "listed by",
    }
    lines = [(name, _cell(row[key])) for key, name in names.items()]
    if not LANGUAGES[row["code"]].lucene:
        lines.insert(5, ("", "Lucene has no analyser for it, so analyser=language is refused"))
    elif row["code"] == "th" and "language" not in row["analysers"]:
        lines.insert(5, ("", f"analyser=language needs a full JDK, {lucene.OLDEST_JAVA} or newer"))
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value) or "-"
    return "-" if value is None else str(value)
