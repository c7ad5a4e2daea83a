"""Published numbers, run again."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import typer

from clir_cli.commands.common import ConfigDir, Json, Runs, root
from clir_cli.errors import ConfigError, RunError, many


def reproduce(
    targets: Annotated[list[str] | None, typer.Argument(metavar="[NAME | KEY=VALUE]...", help="Targets, all unless named; overrides for all of them, such as where data lies.")] = None,
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
    names = list(dict.fromkeys(name for name in targets or [] if "=" not in name)) or list(known)
    more = [name for name in targets or [] if "=" in name]
    if unknown := [name for name in names if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"no target is called {unknown[0]!r}{hint}\n  there are: {', '.join(known)}")
    if output is not None and output.suffix not in (".md", ".html"):
        raise ConfigError(f"--output {output}: a report is a .md or an .html file")
    chosen = [reproduction.read(known[name]) for name in names]
    if show:
        rows = [
            (t.name, many(sum(len(r.expected) for r in t.rows), "number"), "quoted" * t.quoted, t.status, t.title)
            for t in chosen
        ]
        listed = (
            listing.dumps([reproduction.about(t) for t in chosen]) if as_json else "\n".join(aligned(rows, right=(1,)))
        )
        print(listed)
        return
    sections = []
    for findings in reproduction.reproduce(chosen, root(runs), config_dir or [], more):
        sections.append(findings)
        if not as_json:
            print(*reproduction.section(findings, quotes=len(chosen) == 1), "", sep="\n", flush=True)
    everything = [finding for findings in sections for finding in findings]
    if output is not None:
        text = reproduction.markdown(sections) if output.suffix == ".md" else reproduction.page(sections)
        write_text(output, lambda out: out.write(text))
    if as_json:
        print(listing.dumps(reproduction.records(everything)))
    else:
        last = reproduction.overview(sections) if len(sections) > 1 else [reproduction.summary(everything)]
        print(*last, sep="\n")
    if any(f.verdict in ("FAIL", "failed", "missing") for f in everything):
        raise typer.Exit(RunError.exit_code)
