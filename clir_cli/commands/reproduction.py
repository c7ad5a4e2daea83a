"""Published numbers, run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clir_cli.commands.common import ConfigDir, Json, Runs, root
from clir_cli.errors import ConfigError, RunError, many


def reproduce(
    targets: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Targets; all unless given.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Only list the targets, with their sources.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write a report too: .md or .html")] = None,
    config_dir: ConfigDir = None, runs: Runs = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Run published experiments again, and compare the numbers.

    clir reproduce miracl_bm25 -o report.html
    """
    from clir_cli.files import write_text
    from clir_cli.plan import aligned
    from clir_cli.verbs import listing, reproduction

    known = reproduction.names(config_dir or [])
    if unknown := [name for name in targets or [] if name not in known]:
        raise ConfigError(f"no target is called {unknown[0]!r}; there are: {', '.join(known)}")
    if output is not None and output.suffix not in (".md", ".html"):
        raise ConfigError(f"--output {output}: a report is a .md or an .html file")
    chosen = [reproduction.read(known[name]) for name in targets or known]
    if show:
        rows = [(t.name, many(sum(len(r.expected) for r in t.rows), "number"), t.status, t.title) for t in chosen]
        print(listing.dumps([reproduction.about(t) for t in chosen]) if as_json else "\n".join(aligned(rows)))
        return
    findings = list(reproduction.reproduce(chosen, root(runs), config_dir or []))
    if output is not None:
        text = reproduction.markdown(findings) if output.suffix == ".md" else reproduction.page(findings)
        write_text(output, lambda out: out.write(text))
    print(listing.dumps(reproduction.records(findings)) if as_json else "\n".join(reproduction.lines(findings)))
    if any(f.verdict in ("FAIL", "failed", "missing") for f in findings):
        raise typer.Exit(RunError.exit_code)
