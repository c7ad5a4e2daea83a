"""The README runs: its commands print what it says, its component works as a plug-in, its tree is the tree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from conftest import Clir

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


def plain(line: str, folder: Path) -> str:
    """A line without what differs from one machine to the next: the folder, and keys that hold engine versions."""
    return re.sub(r"-[0-9a-f]{16}", "-KEY", line.replace(f"{folder}/", "")).strip()


def test_every_console_block_runs_and_prints_what_it_says(clir: Clir) -> None:
    shell = clir.folder / "bin"
    shell.mkdir()
    command = " ".join(clir.command())
    (shell / "clir").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (shell / "clir").chmod(0o755)
    asked = 0
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, *expected = part.splitlines()
            env = clir.env(None)
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=clir.folder,
                env={**env, "PATH": f"{shell}:{env['PATH']}"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            printed = [plain(text, clir.folder) for text in done.stdout.splitlines()]
            for text in expected:
                assert plain(text, clir.folder) in printed, f"$ {line}\n{text}\nis not in\n{done.stdout}"
            asked += 1
    assert asked >= 4


def test_the_example_component_is_one_dataclass_and_one_yaml(clir: Clir) -> None:
    (example,) = blocks("python")
    package = clir.folder / "site" / "shortest_first"
    (package / "configs" / "retriever").mkdir(parents=True)
    imports = (
        "from __future__ import annotations\nimport json\nfrom collections.abc import Iterable, Sequence\nfrom dataclasses import dataclass\nfrom pathlib import Path\n"
        "from clir_cli.runs import from_hits\nfrom clir_cli.types import Run, Text, searched\n\n"
    )
    (package / "__init__.py").write_text(imports + example)
    (package / "configs" / "retriever" / "shortest.yaml").write_text(
        "# clir run retriever=shortest\n# The shortest documents first.\n_target_: shortest_first.Shortest\n"
    )
    info = clir.folder / "site" / "shortest_first-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shortest-first\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clir]\nshortest = shortest_first\n")
    env = {"PYTHONPATH": f"{ROOT}:{clir.folder / 'site'}"}
    first = clir.experiment("retriever=shortest", "retrieve.doc=query_lang", env=env)
    assert first.name.startswith("shortest-") and (first / "run.trec").stat().st_size
    again = clir.experiment("retriever=shortest", "retrieve.doc=query_lang", "retriever.least=2", env=env)
    assert "index/" in (again / "costs.csv").read_text()
    index = next(line for line in (again / "costs.csv").read_text().splitlines() if "index/" in line)
    assert index.split(",")[2] == "true", "a searched field builds no index"


def test_the_tree_names_every_file_of_the_package() -> None:
    tree = README.split("## The house")[1]
    for path in sorted((ROOT / "clir_cli").rglob("*.py")):
        if path.name not in {"__init__.py", "__main__.py"}:
            assert path.stem in tree, f"{path.relative_to(ROOT)} is not in the README's tree"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 290
