"""Probabilities from a local model: of labels as the next token, and of whole texts. No sampling, no parsing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from clir_cli.errors import ConfigError

if TYPE_CHECKING:
    import torch

SHARED = 32  # tokens: a shorter common beginning is not worth a forward pass of its own
POSITIONS = 4096  # positions whose logits over the whole vocabulary are held at once (2.5 GB for 150,000 words)


class Scored(NamedTuple):
    """Some prompts' scores."""

    at: list[int]  # which prompts
    values: torch.Tensor  # (prompts, labels) or (prompts, 1), float32
    shared: int  # tokens of each prompt that were computed once for the batch


class Plan(NamedTuple):
    """Prompts that are computed together, and how many tokens all of them begin with."""

    at: list[int]
    shared: int


def plan(rows: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[Plan]:
    """Batches of at most `batch_tokens` padded tokens, prompts with a long common beginning together.

    Sorted by their tokens, prompts of one query (of one first document) stand together; a new group begins where the
    beginning that neighbours share gets clearly shorter than usual. Inside a group the longest come first.
    """
    order = sorted(range(len(rows)), key=lambda i: list(rows[i]))
    shared = [_common(rows[a], rows[b]) for a, b in pairwise(order)]
    usual = sorted(shared)[len(shared) // 2] if shared else 0
    groups: list[list[int]] = [[]]
    for place, at in enumerate(order):
        if place and shared[place - 1] < 0.9 * usual:
            groups.append([])
        groups[-1].append(at)
    for group in groups:
        group.sort(key=lambda i: (-len(rows[i]), list(rows[i])))
        start = 0
        while start < len(group):
            count = max(1, batch_tokens // max(1, len(rows[group[start]])))
            batch = group[start : start + count]
            beginning = min((_common(rows[batch[0]], rows[i]) for i in batch[1:]), default=0)
            beginning = min(beginning, min(len(rows[i]) for i in batch) - 1)  # something must be left to score
            yield Plan(batch, beginning if beginning >= SHARED else 0)
            start += count


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two prompts begin with in common."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # equal beginnings of a beginning are equal
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def label_scores(
    network: Any, rows: Sequence[Sequence[int]], labels: Sequence[int], batch_tokens: int, begun: Sequence[int] = ()
) -> Iterator[Scored]:
    """Log-probabilities of `labels` among themselves as the token after each prompt, (prompts, labels) float32.

    `begun`: the tokens that an encoder-decoder's answer begins with. Only the labels' rows of the output matrix are
    multiplied, in float32, with the hidden state at the last real token.
    """
    import torch

    for batch, shared in plan(rows, batch_tokens):
        if network.config.is_encoder_decoder:
            start = [[network.generation_config.decoder_start_token_id, *begun]] * len(batch)
            hidden = _decoder_states(network, [rows[i] for i in batch], start)[:, -1]
            shared = 0
        else:
            hidden = _last_states(network, [rows[i] for i in batch], shared)
        yield Scored(batch, torch.log_softmax(_logits(network, hidden, labels), dim=1).cpu(), shared)


def text_scores(
    network: Any,
    rows: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    batch_tokens: int,
    begun: Sequence[int] = (),
) -> Iterator[Scored]:
    """Sum of the log-probabilities of the tokens of `texts`, each after its prompt, or after `begun`: (prompts, 1) float32."""
    import torch

    whole = [[*row, *text] for row, text in zip(rows, texts, strict=True)]
    for batch, _ in plan(whole, batch_tokens):
        said = [list(texts[i]) for i in batch]
        if network.config.is_encoder_decoder:
            start = [network.generation_config.decoder_start_token_id, *begun]
            states = _decoder_states(network, [rows[i] for i in batch], [[*start, *text[:-1]] for text in said])
            found = [states[at, len(begun) : len(begun) + len(text)] for at, text in enumerate(said)]
        else:
            states = _states(network, [whole[i] for i in batch])
            found = [states[at, len(rows[i]) - 1 : len(whole[i]) - 1] for at, i in enumerate(batch)]
        sums = [_text_score(network, hidden, text) for hidden, text in zip(found, said, strict=True)]
        yield Scored(batch, torch.tensor(sums)[:, None], 0)


def _text_score(network: Any, hidden: torch.Tensor, text: list[int]) -> float:
    import torch

    total = 0.0
    for start in range(0, len(text), POSITIONS):
        logits = _logits(network, hidden[start : start + POSITIONS])
        wanted = torch.tensor(text[start : start + POSITIONS], device=logits.device)[:, None]
        total += float(torch.log_softmax(logits, dim=1).gather(1, wanted).double().sum())
    return total


def _last_states(network: Any, rows: Sequence[Sequence[int]], shared: int) -> torch.Tensor:
    """Hidden states (rows, width) at the last real tokens; the first `shared` tokens, the same in all rows, are read once."""
    import torch

    last = torch.tensor([len(row) - shared - 1 for row in rows], device=network.device)
    states = _states(network, rows, shared)
    return states[torch.arange(len(rows), device=network.device), last]


def _states(network: Any, rows: Sequence[Sequence[int]], shared: int = 0) -> torch.Tensor:
    """Hidden states (rows, tokens, width) of a causal model, padded on the right, which no real token sees."""
    import torch

    body = network.get_decoder()
    ids, mask = _padded([row[shared:] for row in rows], network.device)
    with torch.inference_mode():
        if not shared:
            states: torch.Tensor = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            return states
        beginning = torch.tensor([rows[0][:shared]], device=network.device)
        cache = body(input_ids=beginning, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(rows))
        seen = torch.cat([mask.new_ones(len(rows), shared), mask], dim=1)
        states = body(input_ids=ids, attention_mask=seen, past_key_values=cache).last_hidden_state
        return states


def _decoder_states(network: Any, rows: Sequence[Sequence[int]], decoded: Sequence[Sequence[int]]) -> torch.Tensor:
    """Hidden states (rows, tokens, width) of an encoder-decoder model's decoder over `decoded`."""
    import torch

    ids, mask = _padded(rows, network.device)
    begun, begun_mask = _padded(decoded, network.device)
    with torch.inference_mode():
        read = network.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        states: torch.Tensor = network.get_decoder()(
            input_ids=begun, attention_mask=begun_mask, encoder_hidden_states=read, encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state  # fmt: skip
        return states


def _padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def _logits(network: Any, hidden: torch.Tensor, labels: Sequence[int] | None = None) -> torch.Tensor:
    """Logits (rows, labels or vocabulary) in float32, with what some architectures do to them."""
    import torch

    head, config = network.get_output_embeddings(), network.config.get_text_config(decoder=True)
    rows = None if labels is None else torch.tensor(list(labels), device=head.weight.device)
    weight = head.weight if rows is None else head.weight[rows]
    bias = getattr(head, "bias", None)
    with torch.inference_mode():
        hidden = hidden.float()
        if getattr(config, "scale_decoder_outputs", False):  # T5 with tied embeddings
            hidden = hidden * config.d_model**-0.5
        logits: torch.Tensor = hidden @ weight.float().T
        if bias is not None:
            logits = logits + (bias if rows is None else bias[rows]).float()
        logits = logits * getattr(config, "logit_scale", 1.0)  # Cohere
        logits = logits / getattr(config, "logits_scaling", 1.0)  # Granite
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
            logits = cap * torch.tanh(logits / cap)
        return logits


def check_head(network: Any) -> None:
    """Raise ConfigError unless our logits are the model's own: an architecture may do something to them that we do not know."""
    import torch

    ids = torch.arange(3, 11, device=network.device)[None]
    with torch.inference_mode():
        if network.config.is_encoder_decoder:
            begun = torch.tensor([[network.generation_config.decoder_start_token_id]], device=network.device)
            own = network(input_ids=ids, decoder_input_ids=begun).logits[:, -1]
            hidden = _decoder_states(network, ids.tolist(), begun.tolist())[:, -1]
        else:
            own = network(input_ids=ids).logits[:, -1]
            hidden = _last_states(network, ids.tolist(), 0)
    ours, own = torch.log_softmax(_logits(network, hidden), 1), torch.log_softmax(own.float(), 1)
    if (ours - own).abs().max() > (1e-3 if network.dtype == torch.float32 else 0.2):
        raise ConfigError(
            f"{type(network).__name__} does something to its logits that clir does not know: set reranker.answer=text"
        )
