"""`status`, `logs`, `collect` and `cancel`: a sweep as its folder, its store and the queue show it to any shell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from clir_cli import sweep
from clir_cli.errors import ConfigError, many
from clir_cli.launchers import frozen
from clir_cli.launchers.campaign import Campaign
from clir_cli.launchers.outcome import Outcome
from clir_cli.launchers.work import Order
from clir_cli.plan import Planned, aligned, planned
from clir_cli.stages import pair_label

SHOWN = 60  # cells that are listed where a sweep has more: the unfinished ones first
TAIL = 40  # lines of each log


def find(name: str | None, root: Path) -> Path:
    """The folder of a sweep by its path or the beginning of its name; without a name, the one begun last."""
    if name is not None and (Path(name) / frozen.NOTE).exists():
        return Path(name).absolute()
    begun = sorted((root / "sweeps").glob(f"*/{frozen.NOTE}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    if not begun:
        raise ConfigError(f"there is no sweep in {root}; `clir run -m` makes one")
    found = [path.parent for path in begun if name is None or path.parent.name.startswith(name)]
    if not found:
        there = ", ".join(path.parent.name for path in begun[:5])
        raise ConfigError(f"no sweep is called {name!r}; there are {there}")
    return found[0]


def campaign(folder: Path) -> Campaign:
    """A sweep built again from its frozen cells, with what its jobs have come to."""
    cells = frozen.Frozen(folder)
    found = Campaign.of_folder(planned([cells[i] for i in range(len(cells))], cells.store()), folder)
    assert found is not None
    return found


def status(found: Campaign, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A line per cell, with the first line of its error; then the counts, and the jobs that are queued."""
    long = len(outcomes) > SHOWN
    first = sorted(outcomes, key=lambda o: long and o.status in {"done", "cached"})[:SHOWN]
    common = set[str].intersection(*(set(o.cell.cell.overrides) for o in outcomes)) if len(outcomes) > 1 else set[str]()
    rows = [(str(o.cell.number), o.status, _name(o.cell, common), _why(o)) for o in first]
    yield from aligned(rows, right={0})
    if long:
        more = len(outcomes) - SHOWN
        yield f"and {many(more, 'more cell')}: {found.folder / 'cells.csv'} lists all that were collected"
    jobs = [found.queued[job.id] for job in found.jobs.values() if found.alive(job.id)]
    if jobs:
        running = sum(job.means == "running" for job in jobs)
        yield f"{many(len(jobs), 'job')}: {running} running, {len(jobs) - running} waiting"
    yield sweep.counted(outcomes)
    if any(outcome.status == "stopped" for outcome in outcomes):
        yield f"nobody is at work on what is stopped; to go on: {found.note.get('command', 'the same `clir run`')}"


def _name(item: Planned, common: set[str]) -> str:
    """What a cell was asked that the others were not."""
    own = [text for text in item.cell.overrides if text not in common]
    return " ".join(own) or (item.experiment.name if item.experiment else "")


def _why(outcome: Outcome) -> str:
    return "" if outcome.status == "stopped" else sweep.brief(outcome.error)  # said once, below


def logs(found: Campaign, cell: str) -> Iterator[str]:
    """The end of the log of every step of a cell, and of the jobs that died without one."""
    item = _cell(found, cell)
    if item.same_as is not None:
        item = found.plan.cells[item.same_as]
    if item.experiment is None:
        yield f"cell {item.number}: {item.error}"
        return
    told: set[Path] = set()
    for step in item.experiment.steps:
        promise = found.plan.store.promise(step)
        paths = [Order(item.number, promise, step.stage, step.label).log(found.folder)]
        job = found.of.get(promise)
        if job is not None and job.id and found.plan.store.folder(step) is None:
            paths.append(job.log(found.folder))
        for path in paths:
            if path.exists() and path not in told:
                told.add(path)
                yield f"== {step.stage} {step.label} ({path})"
                yield from path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    if not told:
        yield f"cell {item.number} has no logs: this sweep has made none of its steps in a worker (launcher={found.note['launcher']})"


def _cell(found: Campaign, asked: str) -> Planned:
    items = found.plan.cells
    if asked.isdigit() and 0 < int(asked) <= len(items):
        return items[int(asked) - 1]
    named = [item for item in items if (e := item.experiment) and asked in {e.name, f"{pair_label(e.cfg)}/{e.name}"}]
    if len(named) == 1:
        return named[0]
    what = f"the name of {len(named)} cells" if named else f"no cell of {found.folder.name}"
    raise ConfigError(f"{asked!r} is {what}; give a number from 1 to {len(items)}, as `clir status` lists them")


def cancel(found: Campaign) -> int:
    """Take a sweep's jobs out of the queue; how many there were. Finished shards stay."""
    if (launcher := found.note["launcher"]) != "slurm":
        raise ConfigError(f"{found.folder.name} has no jobs (launcher={launcher}): stop it with Ctrl-C where it runs")
    return found.cancel()
