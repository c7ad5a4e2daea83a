"""Which launcher a request names. It stands in no cell: where something ran says nothing about what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from clir_cli import schema
from clir_cli.compose import Cell
from clir_cli.config import Plain, invalid
from clir_cli.errors import ConfigError
from clir_cli.launchers.outcome import Outcome
from clir_cli.launchers.serial import Serial
from clir_cli.plan import Plan


class Launcher(Protocol):
    """Makes what is missing of a plan, and keeps what it needs for that in a sweep's folder."""

    def execute(
        self, plan: Plan, folder: Path, finished: Callable[[Outcome], None] = lambda _: None
    ) -> list[Outcome]: ...


def chosen(cells: Sequence[Cell]) -> tuple[list[Cell], Launcher]:
    """The cells without their `launcher` node and overrides, and the launcher. ConfigError where they have several."""
    nodes = [cell.plain.get("launcher") for cell in cells if cell.plain]
    if any(node != nodes[0] for node in nodes):
        raise ConfigError("launcher: all cells of a sweep have one; give one value for each of its settings")
    bare = [
        replace(
            cell,
            overrides=tuple(o for o in cell.overrides if not o.startswith(("launcher=", "launcher."))),
            plain=_bare(cell.plain),
        )
        for cell in cells
    ]
    return bare, _built(nodes[0] if nodes else None)


def _bare(plain: Plain) -> Plain:
    bare = {name: node for name, node in plain.items() if name != "launcher"}
    if "names" in bare:
        bare["names"] = {**bare["names"], "launcher": "none"}
    return bare


def _built(node: Any) -> Launcher:
    if node is None:
        return Serial()
    if schema.TARGET not in node:
        raise ConfigError(f"launcher.{next(iter(node))}: choose one first: --launcher serial, local or slurm")
    problems: list[schema.Problem] = []
    launcher: Launcher = schema.build(node, "launcher", problems)
    if problems:
        raise invalid(problems)
    return launcher
