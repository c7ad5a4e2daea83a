"""Judgments and measures: a score for every judged topic, and their mean (CONTRACT.md section 4)."""

from __future__ import annotations

import contextlib
import re
import subprocess
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from clir_cli import answers
from clir_cli.errors import ConfigError, DataError, RunError, many
from clir_cli.lines import content, parse_grade
from clir_cli.progress import say
from clir_cli.types import Qrel, Run

if TYPE_CHECKING:
    import pandas as pd

PerQuery: TypeAlias = "pd.DataFrame"  # columns query_id, measure (its name), value; one row per topic and measure
Measure: TypeAlias = Any  # an ir_measures.Measure: str() of it is the name in files and tables
Topics: TypeAlias = Literal["judged", "relevant"]

# Our own measures, spelled like ir_measures' (`Name@20`): name -> (judgments, ranking) of one topic -> value. Both are
# data frames: query_id, doc_id, relevance, and query_id, doc_id, score with the best document first, cut at the cut-off.
# A topic without results scores 0 unasked.
OWN: dict[str, Callable[[pd.DataFrame, pd.DataFrame], float]] = {
    **{f"R@{k}kt": answers.recall_at(k) for k in (2, 5)},
    **{f"R(punkt)@{k}kt": answers.recall_at(k, "punkt") for k in (2, 5)},  # the tokens of XOR-Retrieve's script
}


class Summary(NamedTuple):
    """One measure over one run."""

    measure: str
    value: float  # unrounded mean over `topics`; NaN where there are none
    topics: int  # how many were averaged
    topics_without_relevant: int  # of the judged topics, under either policy
    other: float | None  # the value under the other policy of `evaluate.topics`, where it differs


# Measures --------------------------------------------------------------------------------------------------------------


def parse_measures(names: Sequence[str]) -> list[Measure]:
    """The measures of these names, and after each with a cut-off the `Judged@k` that tells how far to trust it.

    Names are ir_measures' (`AP`, `nDCG@20`, `P(rel=2)@10`, `nDCG(judged_only=True)@20`), its aliases (`MAP`, `MRR@10`)
    and those of `OWN`. A name given twice counts once. Raises ConfigError for what is unknown or cannot be computed.
    """
    import ir_measures

    asked = [_parse(name) for name in names]
    found: dict[Measure, None] = {}
    for measure in asked:
        found[measure] = None
        if "cutoff" in measure.params and (judged := ir_measures.Judged @ measure.params["cutoff"]) not in asked:
            found[judged] = None
    return list(found)


def _parse(name: str) -> Measure:
    import ir_measures

    own, _, cutoff = name.partition("@")
    try:
        if name in OWN:  # R@2kt
            answers.check_installed("punkt" if "punkt" in name else "rules")
            measure = ir_measures.define_byquery(OWN[name], name)
        elif own in OWN:
            measure = ir_measures.define_byquery(OWN[own], own)
            measure = measure @ int(cutoff) if cutoff else measure
        else:
            with warnings.catch_warnings():  # it reads names with ast.Num, which Python 3.12 warns of
                warnings.simplefilter("ignore", DeprecationWarning)
                measure = ir_measures.parse_measure(name)
        measure.validate_params()
    except NameError:
        raise ConfigError(f"measure {name!r} is unknown{_nearest(name)}") from None
    except AssertionError as error:  # ir_measures' check of the parameters
        reason = re.sub(r"invalid param (\w+)=<.*", r"it needs a \1", str(error))
        raise ConfigError(f"measure {name!r}: {reason}{_nearest(name)}") from None
    except ValueError:
        raise ConfigError(f"measure {name!r} does not parse{_nearest(name)}") from None
    if measure.params.get("cutoff", 1) < 1:
        raise ConfigError(f"measure {name!r}: a cut-off is at least 1")
    if not any(p.supports(measure) and p.is_available() for p in ir_measures.DefaultPipeline.providers):
        able = [p for p in ir_measures.DefaultPipeline.providers if p.supports(measure)]
        install = "; ".join(p.install_instructions() or p.NAME for p in able)
        raise ConfigError(f"measure {name!r} needs a package that is not installed ({install or 'none computes it'})")
    return measure


def _nearest(name: str) -> str:
    import difflib

    import ir_measures
    from ir_measures.measures import registry

    near = []
    with contextlib.suppress(ValueError):  # somebody who types trec_eval's names
        near = [str(measure) for measure in ir_measures.parse_trec_measure(name.strip())][:3]
    if not near:
        known = {spelled.casefold(): measure.NAME for spelled, measure in registry.items()} | {
            n.casefold(): n for n in OWN
        }
        bare = re.split(r"[@(\s]", name.strip().casefold())[0]
        near = list(dict.fromkeys(known[spelled] for spelled in difflib.get_close_matches(bare, known, n=3)))
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{hint}\n  measures are spelled as ir_measures spells them: AP, nDCG@20, R@100, RR@10, P(rel=2)@10"


# Scores ----------------------------------------------------------------------------------------------------------------


def evaluate(run: Run, qrels: Sequence[Qrel], measures: Iterable[Measure], topics: Topics = "judged") -> PerQuery:
    """The value of every measure for every judged topic, in the order of the judgments; no results score 0.

    `topics="relevant"` leaves out topics without a relevant document. Judged ids that no topics file has count, results
    for unjudged topics do not. Every measure sees the run's own order, whatever its scores. Raises DataError for a
    document that is ranked twice.
    """
    import pandas as pd

    doubled = run.duplicated(["query_id", "doc_id"])
    if doubled.any():
        row = run[doubled].iloc[0]
        raise DataError(f"document {row['doc_id']!r} is ranked twice for query {row['query_id']!r}")
    judged: dict[str, dict[str, int]] = {}
    for query_id, doc_id, relevance in qrels:
        judged.setdefault(query_id, {})[doc_id] = relevance
    ranking: dict[str, dict[str, float]] = {}  # -rank falls strictly, as float32 too: no measure sorts by other rules
    for query_id, doc_id, rank in zip(run["query_id"], run["doc_id"], run["rank"].tolist(), strict=True):
        ranking.setdefault(query_id, {})[doc_id] = -float(rank)
    measures = list(measures)
    values = _calculate(measures, judged, ranking)
    rows = [(query_id, str(m), values[str(m), query_id]) for m in measures for query_id in judged]
    scores = pd.DataFrame(rows, columns=["query_id", "measure", "value"]).astype({"query_id": str, "value": float})
    return counted(scores, qrels, topics)


def _calculate(
    measures: list[Measure], judged: dict[str, dict[str, int]], ranking: dict[str, dict[str, float]]
) -> dict[tuple[str, str], float]:
    """(measure, query_id) -> value. Measures with gains of their own go one by one: ir_measures 0.4.3 may hand the
    gains of one nDCG to the next."""
    import ir_measures

    groups = [[m for m in measures if "gains" not in m.params], *([m] for m in measures if "gains" in m.params)]
    values = {}
    for group in groups if judged else []:
        try:
            metrics = list(ir_measures.iter_calc(group, judged, ranking)) if group else []
        except (subprocess.CalledProcessError, FileNotFoundError) as error:  # gdeval, for ERR and exp-log2
            names = ", ".join(map(str, group))
            raise RunError(
                f"one of {names} is computed by gdeval, which needs perl and integer topic ids: {error}"
            ) from error
        values.update({(str(metric.measure), metric.query_id): float(metric.value) for metric in metrics})
    return values


def counted(scores: PerQuery, qrels: Iterable[Qrel], topics: Topics) -> PerQuery:
    """The rows of the topics that the policy averages: all judged ones, or those with a relevant document."""
    if topics == "judged":
        return scores
    relevant = {qrel.query_id for qrel in qrels if qrel.relevance > 0}
    return scores[scores["query_id"].isin(relevant)].reset_index(drop=True)


def summary(scores: PerQuery, qrels: Sequence[Qrel], topics: Topics = "judged") -> list[Summary]:
    """Each measure's mean over the topics that count; `scores` are those of all judged topics.

    The mean is arithmetic, unless the measure's definition says otherwise (`NumRet` and `NumQ` are sums).
    """
    other: Topics = "relevant" if topics == "judged" else "judged"
    without = len({q.query_id for q in qrels}) - len({q.query_id for q in qrels if q.relevance > 0})
    rows = []
    for measure, mine in scores.groupby("measure", sort=False):
        name = str(measure)
        values = counted(mine, qrels, topics)["value"]
        value, elsewhere = _aggregate(name, values), _aggregate(name, counted(mine, qrels, other)["value"])
        rows.append(Summary(name, value, len(values), without, None if value == elsewhere else elsewhere))
    return rows


def _aggregate(name: str, values: Iterable[float]) -> float:
    aggregator = _parse(name).aggregator()
    for value in values:
        aggregator.add(value)
    return float(aggregator.result())


# Judgments -------------------------------------------------------------------------------------------------------------

_LAYOUT = "query_id 0 doc_id relevance, or query-id corpus-id score under such a header"


def read_qrels(path: Path) -> list[Qrel]:
    """The judgments of a TREC file (4 columns) or a BEIR file (3 columns under a header), gz too, in file order.

    Columns are separated by blanks or tabs. Negative grades are kept: they are judged and not relevant. A pair judged
    twice alike counts once. The numbers of both are said. Raises DataError with file and line for a pair judged
    differently, a line of other columns, a grade that is no integer, text that is not UTF-8, and an empty file.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; expected lines of: {_LAYOUT}")
    columns, again = 0, 0
    grades: dict[bytes, int] = {}
    judged: dict[tuple[bytes, bytes], int] = {}
    found: list[Qrel] = []
    for number, line in enumerate(content(path).removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if not columns:
            columns = len(fields)
            if columns == 3 and not _is_number(fields[2]):
                continue
            columns = 4
        if len(fields) != columns:
            raise DataError(
                f"{path}:{number}: expected {columns} fields ({_LAYOUT}), got {len(fields)}: {_shown(line)}"
            )
        query, doc, grade = fields[0], fields[-2], fields[-1]
        if grade not in grades:
            grades[grade] = parse_grade(f"{path}:{number}", grade.decode(errors="replace"), line=_shown(line))
        if (before := judged.setdefault((query, doc), grades[grade])) != grades[grade]:
            raise DataError(
                f"{path}:{number}: judged {before} before, now {grades[grade]}: {_shown(line)}; keep one of them"
            )
        if len(judged) == len(found):
            again += 1
            continue
        try:
            found.append(Qrel(query.decode(), doc.decode(), grades[grade]))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: not UTF-8: {line[:80]!r}; convert the file (iconv -t UTF-8)") from error
    if not found:
        raise DataError(f"{path} holds no judgments; expected lines of: {_LAYOUT}")
    tell_odd(str(path), again, sum(row.relevance < 0 for row in found))
    return found


@cache  # what a run reads for its topics and again for its measures is said once
def tell_odd(place: str, again: int, below: int) -> None:
    """Say what is odd about judgments, once in a process: how many are there twice, and how many are below 0."""
    if again:
        say(
            f"{place}: {many(again, 'judgment stands', 'judgments stand')} there twice, with the same grade; each counts once"
        )
    if below:
        say(f"{place}: {many(below, 'grade is', 'grades are')} below 0: judged and not relevant")


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(text: bytes) -> str:
    return repr(text.decode(errors="replace").strip()[:160])
