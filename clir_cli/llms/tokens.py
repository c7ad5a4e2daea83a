"""Text counted and cut in a model's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from clir_cli.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_LABELS = (
    128  # whose probabilities vLLM gives in one answer (`logprob_token_ids`), in a process of its own or as a server
)


@lru_cache(maxsize=4)
def load(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; refused when it cannot say which characters a token covers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{folder} has no fast tokenizer (tokenizer.json): texts cannot be cut at a token's last character"
        )
    return tokenizer


def count(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, without special tokens."""
    if not texts:
        return []
    read = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [len(ids) for ids in read["input_ids"]]


def cut(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], tokens: int) -> list[str]:
    """Each text's first `tokens` tokens: the longest such beginning that counts no more when it stands alone."""
    if not texts:
        return []
    read = tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    return [_cut(tokenizer, text, spans, tokens) for text, spans in zip(texts, read["offset_mapping"], strict=True)]


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, spans: Sequence[tuple[int, int]], tokens: int) -> str:
    if len(spans) <= tokens:
        return text
    for keep in range(tokens, 0, -1):
        piece = text[: spans[keep - 1][1]]
        if count(tokenizer, [piece])[0] <= tokens:  # a character of several tokens may end beyond the last one
            return piece
    return ""
