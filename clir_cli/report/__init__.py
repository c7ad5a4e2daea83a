"""`clir report`: finished experiments as one HTML file, and their plots as files for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from clir_cli.errors import ConfigError
from clir_cli.files import write_text


def write(
    sources: Sequence[Path],
    out: Path,
    *,
    measure: str = "main",
    baseline: str | None = None,
    title: str | None = None,
    plots: Path | None = None,
    plot_format: Literal["svg", "pdf"] = "pdf",
) -> list[str]:
    """Write the report of experiment folders, sweep folders or metrics.csv files; what it leaves out comes back.

    `plots`: a folder for the plots as files.

    ConfigError where there is nothing to show, or no such measure or baseline.
    """
    from clir_cli.report.gather import gather
    from clir_cli.report.page import page

    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name the file to write, e.g. -o report.html")
    report = gather(sources, measure, baseline)
    html = page(report, title or _title(sources, len(report.rows)))
    write_text(out, lambda file: file.write(html))
    if plots is not None:
        from clir_cli.report import plots as drawn

        drawn.write(report, plots, plot_format)
    return report.left_out


def _title(sources: Sequence[Path], rows: int) -> str:
    if len(sources) == 1:
        source = sources[0].absolute()
        return (source if source.is_dir() else source.parent).name
    return f"{rows} experiments"
