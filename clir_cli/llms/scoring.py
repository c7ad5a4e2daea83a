"""Probabilities from a local model: of labels as the next token, and of whole texts. No sampling, no parsing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from clir_cli.errors import ConfigError
from clir_cli.models import threads

if TYPE_CHECKING:
    import torch

SHARED = 32  # tokens: a shorter common beginning is not worth a forward pass of its own
GROUPINGS = 16  # ways of grouping prompts that are compared
POSITIONS = 4096  # positions whose logits over the whole vocabulary are held at once (2.5 GB for 150,000 words)


class Scored(NamedTuple):
    """Some prompts' scores."""

    at: list[int]  # which prompts
    values: torch.Tensor  # (prompts, labels) or (prompts, 1), float32
    reused: list[int]  # tokens of each prompt that were read for another one


class Group(NamedTuple):
    """Prompts that begin alike, and in how many tokens."""

    at: list[int]
    shared: int


class Beginnings(NamedTuple):
    """What a causal model has read of some beginnings, padded on the left: what follows stands next to each."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]  # keys and values (beginnings, heads, tokens, width)
    mask: torch.Tensor  # (beginnings, tokens)


def label_scores(
    network: Any, rows: Sequence[Sequence[int]], labels: Sequence[int], batch_tokens: int, begun: Sequence[int] = ()
) -> Iterator[Scored]:
    """Log-probabilities of `labels` among themselves as the token after each prompt, (prompts, labels) float32.

    `begun`: what an encoder-decoder's answer begins with, before the label. Only the labels' rows of the output matrix are
    multiplied, in float32, with the hidden state at the last real token. What prompts begin with in common is read once,
    also where a batch holds prompts of many queries.
    """
    if not network.config.is_encoder_decoder:
        for groups in _held(group(rows), batch_tokens):
            yield from _scores_after(network, rows, labels, groups, batch_tokens)
        return
    start = [network.generation_config.decoder_start_token_id, *begun]

    def scores(at: list[int]) -> torch.Tensor:
        hidden = _decoder_states(network, [rows[i] for i in at], [start] * len(at))[:, -1]
        return _label_logs(network, hidden, labels)

    batches = list(by_length(range(len(rows)), rows, batch_tokens))
    for at, values in threads.side_by_side(scores, batches, network.device.type):
        yield Scored(at, values, [0] * len(at))


def _scores_after(
    network: Any, rows: Sequence[Sequence[int]], labels: Sequence[int], groups: Sequence[Group], batch_tokens: int
) -> Iterator[Scored]:
    """The scores of some groups' prompts: their beginnings are read first, then what follows, batches of all groups mixed."""
    import torch

    begun = _read(network, [rows[g.at[0]][: g.shared] for g in groups])
    of = {i: number for number, g in enumerate(groups) for i in g.at}
    rest = {i: rows[i][g.shared :] for g in groups for i in g.at}

    def scores(at: list[int]) -> torch.Tensor:
        states = _states(network, [rest[i] for i in at], begun, [of[i] for i in at])
        ends = torch.tensor([len(rest[i]) - 1 for i in at], device=network.device)
        return _label_logs(network, states[torch.arange(len(at), device=network.device), ends], labels)

    before = 0 if begun is None else begun.mask.shape[1]
    first = {g.at[0] for g in groups}  # they pay for what the others reuse
    batches = list(by_length(rest, rest, batch_tokens, before))
    for at, values in threads.side_by_side(scores, batches, network.device.type):
        yield Scored(at, values, [0 if i in first else groups[of[i]].shared for i in at])


def _label_logs(network: Any, hidden: torch.Tensor, labels: Sequence[int]) -> torch.Tensor:
    import torch

    return torch.log_softmax(_logits(network, hidden, labels), dim=1).cpu()


def group(rows: Sequence[Sequence[int]]) -> list[Group]:
    """Prompts by their common beginnings, so that few tokens are read: a group's beginning once, and what follows.

    Sorted by their tokens, prompts of one query (of one first document) stand together; a group ends where neighbours have
    fewer tokens in common than a limit, and the best of some limits is taken. No limit: what all have in common.
    """
    order = sorted(range(len(rows)), key=lambda i: list(rows[i]))
    shared = [_common(rows[a], rows[b]) for a, b in pairwise(order)]
    limits = sorted(set(shared))
    limits = limits[:: max(1, len(limits) // GROUPINGS)]
    ways = [_grouped(rows, order, shared, limit) for limit in limits or [0]]
    return min(ways, key=lambda way: sum(g.shared + sum(len(rows[i]) - g.shared for i in g.at) for g in way))


def _grouped(rows: Sequence[Sequence[int]], order: list[int], shared: list[int], limit: int) -> list[Group]:
    found: list[Group] = []
    start = 0
    for end in range(1, len(order) + 1):
        if end < len(order) and shared[end - 1] >= limit:
            continue
        at = order[start:end]
        most = min(len(rows[i]) for i in at) - 1  # something must be left to score
        common = min([*shared[start : end - 1], most]) if len(at) > 1 else 0
        found.append(Group(at, common if common >= SHARED else 0))
        start = end
    return found


def _held(groups: list[Group], batch_tokens: int) -> Iterator[list[Group]]:
    """Groups whose beginnings are held at once: at most `batch_tokens` with their padding; those without one together."""
    alone = [g for g in groups if not g.shared]
    groups = sorted((g for g in groups if g.shared), key=lambda g: -g.shared)
    while groups:
        count = max(1, batch_tokens // groups[0].shared)
        yield groups[:count]
        groups = groups[count:]
    if alone:
        yield alone


def by_length(
    which: Iterable[int],
    rows: Sequence[Sequence[int]] | Mapping[int, Sequence[int]],
    batch_tokens: int,
    before: int = 0,
) -> Iterator[list[int]]:
    """Those rows, the longest first, as many together as `batch_tokens` holds with padding and the tokens `before` each."""
    order = sorted(which, key=lambda i: (-len(rows[i]), list(rows[i])))
    start = 0
    while start < len(order):
        batch = order[start : start + max(1, batch_tokens // (len(rows[order[start]]) + before))]
        yield batch
        start += len(batch)


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

    def sums(batch: list[int]) -> torch.Tensor:
        said = [list(texts[i]) for i in batch]
        if network.config.is_encoder_decoder:
            start = [network.generation_config.decoder_start_token_id, *begun]
            states = _decoder_states(network, [rows[i] for i in batch], [[*start, *text[:-1]] for text in said])
            found = [states[at, len(begun) : len(begun) + len(text)] for at, text in enumerate(said)]
        else:
            states = _states(network, [whole[i] for i in batch])
            found = [states[at, len(rows[i]) - 1 : len(whole[i]) - 1] for at, i in enumerate(batch)]
        return torch.tensor([_text_score(network, hidden, text) for hidden, text in zip(found, said, strict=True)])

    batches = list(by_length(range(len(whole)), whole, batch_tokens))
    for at, values in threads.side_by_side(sums, batches, network.device.type):
        yield Scored(at, values[:, None], [0] * len(at))


def _text_score(network: Any, hidden: torch.Tensor, text: list[int]) -> float:
    import torch

    total = 0.0
    for start in range(0, len(text), POSITIONS):
        logits = _logits(network, hidden[start : start + POSITIONS])
        wanted = torch.tensor(text[start : start + POSITIONS], device=logits.device)[:, None]
        total += float(torch.log_softmax(logits, dim=1).gather(1, wanted).double().sum())
    return total


def _read(network: Any, rows: Sequence[Sequence[int]]) -> Beginnings | None:
    """The rows read, shorter ones padded on the left; None where there is nothing to read, or the model keeps something else."""
    import torch
    from transformers import DynamicCache

    if not any(rows):
        return None
    ids, mask = _padded(rows, network.device, left=True)
    cache = DynamicCache()  # of whole layers, also for a model that looks back through a window
    with torch.inference_mode():
        network.get_decoder()(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **_positions(network, mask, 0)
        )
    return Beginnings([(layer.keys, layer.values) for layer in cache.layers], mask)


def _states(
    network: Any, rows: Sequence[Sequence[int]], begun: Beginnings | None = None, of: Sequence[int] = ()
) -> torch.Tensor:
    """Hidden states (rows, tokens, width) of a causal model, padded on the right, which no real token sees.

    Each row follows the beginning `of` which it is.
    """
    import torch
    from transformers import DynamicCache

    body = network.get_decoder()
    ids, mask = _padded(rows, network.device)
    with torch.inference_mode():
        if begun is None:
            states: torch.Tensor = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            return states
        chosen = torch.tensor(list(of), device=network.device)
        cache = DynamicCache()
        for number, (keys, values) in enumerate(begun.layers):
            cache.update(keys[chosen], values[chosen], number)
        before = begun.mask.shape[1]
        mask = torch.cat([begun.mask[chosen], mask], dim=1)
        states = body(
            input_ids=ids, attention_mask=mask, past_key_values=cache, **_positions(network, mask, before)
        ).last_hidden_state
        return states


def _positions(network: Any, mask: torch.Tensor, before: int) -> dict[str, torch.Tensor]:
    """Where the tokens behind the first `before` stand, padding not counted; some architectures read it off the mask."""
    import inspect

    if "position_ids" not in inspect.signature(network.get_decoder().forward).parameters:
        return {}
    return {"position_ids": (mask.cumsum(1) - 1).clamp_min(0)[:, before:]}


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


def _padded(rows: Sequence[Sequence[int]], device: Any, *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(len(row))
        ids[at, place] = torch.tensor(row, dtype=torch.int64)
        mask[at, place] = 1
    return ids.to(device), mask.to(device)


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
            hidden = _states(network, ids.tolist())[:, -1]
    ours, own = torch.log_softmax(_logits(network, hidden), 1), torch.log_softmax(own.float(), 1)
    if (ours - own).abs().max() > (1e-3 if network.dtype == torch.float32 else 0.2):
        raise ConfigError(
            f"{type(network).__name__} does something to its logits that clir does not know: set reranker.answer=text"
        )
