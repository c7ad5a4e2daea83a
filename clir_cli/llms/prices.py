"""What served models cost: dollars per million tokens, from prices.yaml or from the user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

MILLION = 1_000_000


class Price(NamedTuple):
    """Dollars per million tokens; `cached_input` is for a prompt's beginning that the server had read before."""

    input: float
    output: float
    cached_input: float | None = None  # None: as input

    def usd(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = max(0, prompt_tokens - cached_tokens)
        return (fresh * self.input + cached_tokens * cached + output_tokens * self.output) / MILLION


@cache
def table() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """prices.yaml: host -> model -> input, cached_input, output, date."""
    import yaml

    text = files("clir_cli.llms").joinpath("prices.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def listed(host: str, model: str) -> Price | None:
    """The price of a model, also under a dated name (gpt-4.1-2025-04-14); None where the table has none."""
    models = table().get(host, {})
    row = models.get(model) or models.get(re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model))
    if row is None:
        return None
    cached = row.get("cached_input")
    return Price(float(row["input"]), float(row["output"]), None if cached is None else float(cached))


def given(price: Mapping[str, float]) -> Price:
    """A price as a user writes it. Raises ValueError where it is none."""
    known = set(Price._fields)
    if not {"input", "output"} <= set(price) <= known or any(value < 0 for value in price.values()):
        raise ValueError(
            f"price takes input, output and perhaps cached_input, in dollars per million tokens; got {dict(price)}"
        )
    return Price(**price)
