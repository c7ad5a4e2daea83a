"""Which of several settings is best on some topics, and what it is worth on others."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from clir_cli.errors import ConfigError
from clir_cli.significance import EQUAL
from clir_cli.tables.cells import Part
from clir_cli.tables.testing import Scores

Topic: TypeAlias = tuple[str, str, str]  # dataset, split, query_id: the same topic in every language pair
Candidates: TypeAlias = Mapping[str, Scores]  # setting -> part -> query_id -> value


class Choice(NamedTuple):
    """The setting that is best on the topics it was chosen on."""

    setting: str
    value: float  # its mean there
    tied: int  # other settings with the same value, of which it is the first


def topic_of(part: Part, query_id: str) -> Topic:
    return (part[0], part[1], query_id)


def comparable(candidates: Candidates) -> tuple[Candidates, list[str]]:
    """The settings that have a score for every topic of every part, and those that have not."""
    every: dict[Part, set[str]] = defaultdict(set)
    for scores in candidates.values():
        for part, topics in scores.items():
            every[part] |= topics.keys()
    full = {
        name: scores
        for name, scores in candidates.items()
        if all(scores.get(part, {}).keys() == topics for part, topics in every.items())
    }
    return full, [name for name in candidates if name not in full]


def value(scores: Scores, counts: Callable[[Topic], bool] = lambda _: True) -> float:
    """The mean over parts of the mean over their topics that count; NaN where none does."""
    means = []
    for part, topics in scores.items():
        counted = [score for query_id, score in topics.items() if counts(topic_of(part, query_id))]
        if counted:
            means.append(statistics.fmean(counted))
    return statistics.fmean(means) if means else math.nan


def best(candidates: Candidates, counts: Callable[[Topic], bool] = lambda _: True) -> Choice:
    """The setting of the highest value over the topics that count; of equal ones the first. NaN is never chosen."""
    values = {name: value(scores, counts) for name, scores in candidates.items()}
    numbers = [v for v in values.values() if not math.isnan(v)]
    if not numbers:
        raise ConfigError("no setting has a value that is a number: nothing can be chosen")
    equal = [name for name, v in values.items() if v >= max(numbers) - EQUAL]
    return Choice(equal[0], values[equal[0]], len(equal) - 1)


def folds(scores: Scores, many: int, seed: int) -> dict[Topic, int]:
    """topic -> its fold, 1 to `many`: a seeded shuffle, dealt out in turn.

    A topic of several language pairs is in one fold. Topics of the same pairs are dealt out together, so that every part
    has its share in every fold. Raises ConfigError where a part has fewer topics than folds.
    """
    import numpy as np

    parts: dict[Topic, list[Part]] = defaultdict(list)
    for part, topics in scores.items():
        if len(topics) < many:
            raise ConfigError(
                f"{many} folds need as many topics; {' '.join(filter(None, part))} has {len(topics)}: give fewer --folds"
            )
        for query_id in topics:
            parts[topic_of(part, query_id)].append(part)
    strata: dict[tuple[Part, ...], list[Topic]] = defaultdict(list)
    for topic in sorted(parts):
        strata[tuple(sorted(parts[topic]))].append(topic)
    rng, dealt = np.random.default_rng(seed), 0
    found: dict[Topic, int] = {}
    for _, topics_of in sorted(strata.items()):
        for place in rng.permutation(len(topics_of)).tolist():
            found[topics_of[place]] = dealt % many + 1
            dealt += 1
    return found


def held_out(candidates: Candidates, fold_of: Mapping[Topic, int]) -> tuple[dict[int, Choice], Scores]:
    """The choice of each fold, made on the topics of the others; and each topic's score by the choice of its own fold."""
    chosen = {
        fold: best(candidates, lambda topic, fold=fold: fold_of[topic] != fold)  # type: ignore[misc]
        for fold in sorted(set(fold_of.values()))
    }
    parts: Sequence[Part] = list(next(iter(candidates.values())))
    scores = {}
    for part in parts:
        ids = next(iter(candidates.values()))[part]
        scores[part] = {q: candidates[chosen[fold_of[topic_of(part, q)]].setting][part][q] for q in ids}
    return chosen, scores
