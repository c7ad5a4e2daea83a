"""Language models trained as rerankers: monoT5 and mT5, Qwen3-Reranker, bge-reranker-v2-gemma."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from clir_cli.models import encoding, hub, next_token
from clir_cli.rerankers.cross_encoder import Pair, PairReranker, Reader, is_here


@dataclass(frozen=True)
class NextToken(PairReranker):
    """Order candidates by the logit of one token, less that of another, after the checkpoint's own template.

    The difference orders as the probability of yes among the two does (Nogueira et al. 2020, monoT5) and never saturates.
    A language model that was not trained on such a template is asked by reranker=pointwise.
    """

    engines: ClassVar[tuple[str, ...]] = ("transformers",)

    template: tuple[str, ...] = field(kw_only=True)  # segments, tokenised each by itself; they hold {query} and {doc}
    yes_token: str = field(kw_only=True)  # a token as the vocabulary spells it; checked when the model is loaded
    no_token: str | None = field(kw_only=True)  # null: the score is the logit of yes alone
    instruction: str = ""  # stands at {instruction}

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = "".join(self.template)
        if whole.count("{query}") != 1 or whole.count("{doc}") != 1:
            raise ValueError(f"template must hold {{query}} and {{doc}} once each, got {whole!r}")
        if whole.find("{doc}") < whole.find("{query}"):
            raise ValueError("template: {query} must stand before {doc}")
        if bool(self.instruction) != ("{instruction}" in whole):
            raise ValueError("an instruction needs {instruction} in the template, and that an instruction")
        if self.trust_remote_code:
            raise ValueError(
                "trust_remote_code: causal and encoder-decoder rerankers run by transformers' own code alone"
            )

    @property
    def _labels(self) -> tuple[str, ...]:
        return (self.yes_token,) if self.no_token is None else (self.yes_token, self.no_token)

    def check(self) -> None:
        """Raise ConfigError for labels that the tokenizer does not have, where the model is on this machine."""
        if is_here(self.model, self.revision):
            next_token.tokenizer(hub.folder(self.model, self.revision), self._labels)

    def readers(self, pairs: Sequence[Pair]) -> Iterator[Reader]:
        loaded = next_token.load(
            hub.folder(self.model, self.revision),
            template=next_token.Template(self.template, self.instruction),
            labels=self._labels,
            dtype=self.dtype,
            on=encoding.device(self.device),
        )
        loaded.check_limit(self.max_tokens, "reranker.max_tokens")
        yield Reader(loaded, range(len(pairs)), {"most": self.max_tokens})

    def _room(self, loaded: Any, queries: Sequence[str]) -> list[int]:
        return [self.max_tokens - count for count in loaded.count_fixed(queries)]
