"""What experiments and encoders are like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clir_cli.commands.common import ConfigDir, Json, Multirun, Zip
from clir_cli.errors import ConfigError

Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where the CSV files go; the target's folder, or the current one for several, unless given.")]  # fmt: skip


def bias(
    targets: Annotated[list[Path], typer.Argument(metavar="EXPERIMENTS", help="Experiment folders, or sweep folders for all their cells.")],
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="Ranks that share@k, PEER@k and nDCG@k look at.")] = 20,
    stage: Annotated[str, typer.Option(metavar="STAGE", help="first_stage, rerank_1, ..., final.")] = "final",
    judgments: Annotated[str | None, typer.Option(metavar="NAME", help="Which of the dataset's; the first unless given.")] = None,
    output: Output = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Measure how rankings lean to languages, and write bias.csv.

    clir bias runs/demo.en-de+es/static_multi-KEY
    """
    from clir_cli.diagnosis import bias as leaning
    from clir_cli.diagnosis.finished import opened
    from clir_cli.experiment import write_rows
    from clir_cli.verbs import listing

    found = leaning.rows(opened(targets), k, stage, judgments)
    path = _place(targets, output) / ("bias.csv" if stage == "final" else f"bias.{stage}.csv")
    rows = leaning.as_dicts(found)
    write_rows(path, leaning.COLUMNS, rows)
    print(listing.dumps([row._asdict() for row in found]) if as_json else f"{leaning.table(found)}\n\n{path}")


def inspect(
    targets: Annotated[list[str], typer.Argument(metavar="EXPERIMENTS", help="Experiment or sweep folders; with --bitext overrides, as of clir run.")],
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="Ranks in which unjudged documents are counted.")] = 10,
    bitext: Annotated[bool, typer.Option("--bitext", help="Look at an encoder on parallel texts instead: --bitext retriever=labse dataset=bitext ...")] = False,
    lines: Annotated[int, typer.Option(metavar="N", min=4, help="With --bitext: pairs of texts at most.")] = 1000,
    output: Output = None, multirun: Multirun = False, zips: Zip = None, config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Show faults of texts, and where a ranking loses what it loses.

    clir inspect runs/demo.en-de/bm25_dt-KEY
    """
    if bitext:
        _inspect_encoders(targets, lines, output, multirun, zips or [], config_dir or [], as_json)
        return
    if multirun or zips or config_dir:
        raise ConfigError("-m, --zip and --config-dir go with --bitext and overrides; without it name folders")
    from clir_cli.diagnosis import inspection
    from clir_cli.diagnosis.finished import opened
    from clir_cli.experiment import write_rows
    from clir_cli.verbs import listing

    folders = [Path(target) for target in targets]
    found = inspection.inspected(opened(folders), k)
    path = _place(folders, output) / "inspect.csv"
    write_rows(path, inspection.COLUMNS, inspection.as_dicts(found))
    if as_json:
        print(listing.dumps({"rows": [row._asdict() for row in found.rows], "notes": found.notes}))
    else:
        print(f"{inspection.table(found)}\n\n{path}")


def _inspect_encoders(
    overrides: list[str], lines: int, output: Path | None, multirun: bool, zips: list[str], config_dirs: list[Path], as_json: bool
) -> None:  # fmt: skip
    from clir_cli import compose, config
    from clir_cli.diagnosis import alignment
    from clir_cli.experiment import write_rows
    from clir_cli.progress import say
    from clir_cli.verbs import listing

    cells = compose.cells(overrides, multirun, zips, config_dirs)
    for dropped in dict.fromkeys(name for cell in cells for name in cell.dropped):
        say(f"dropped {dropped}, which not every component has")
    found = alignment.analysed([config.built(cell.plain) for cell in cells if cell.plain], lines)
    folder = output or Path()
    for file in alignment.FILES:
        write_rows(folder / f"{file}.csv", alignment.COLUMNS, alignment.as_dicts(found, file))
    if as_json:
        print(listing.dumps([row._asdict() for row in found]))
    else:
        print(f"{alignment.table(found)}\n\n{folder}/{{{','.join(alignment.FILES)}}}.csv")


def _place(targets: list[Path], output: Path | None) -> Path:
    return output or (targets[0] if len(targets) == 1 else Path())
