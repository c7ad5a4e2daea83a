"""How long a prompt is, chat template and all, and an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from clir_cli.types import LLM, Prompt

TURN = 10  # tokens that a chat template may put around a turn (Llama 3: 5, ChatML: 5, Zephyr: 9)
START = 40  # and before the first (Llama 3.1 tells the date)


@runtime_checkable
class Renders(Protocol):
    """An LLM that sees its chat template: it counts whole prompts as the model reads them."""

    def count_prompts(self, prompts: Sequence[Prompt]) -> list[int]: ...


@runtime_checkable
class Forced(Protocol):
    """An LLM whose answers may have to be exactly as long as allowed."""

    @property
    def force_length(self) -> bool: ...


def count_prompts(llm: LLM, prompts: Sequence[Prompt]) -> list[int]:
    """Tokens of each prompt: exactly where the model is here, with a margin for the template where it is served."""
    if isinstance(llm, Renders):
        return llm.count_prompts(prompts)
    return [START + sum(TURN + n for n in llm.count_tokens([turn.content for turn in prompt])) for prompt in prompts]
