"""Language models that were trained to judge a pair: the logit of a label as the token that follows a fixed template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clir_cli.errors import ConfigError
from clir_cli.models import encoding
from clir_cli.models.encoding import DType

if TYPE_CHECKING:
    import torch


class Cut(NamedTuple):
    """As a fast tokenizer's encoding says it."""

    overflowing: bool


class Features(dict[str, Any]):
    """A batch of token ids, and of each whether its document was cut."""

    def __init__(self, values: Mapping[str, Any], cut: Sequence[bool]) -> None:
        super().__init__(values)
        self.encodings = [Cut(was) for was in cut]


@dataclass(frozen=True)
class Template:
    """Texts around {query} and {doc}. Each segment is tokenised by itself, without special tokens but those it writes."""

    segments: tuple[str, ...]
    instruction: str = ""

    def fill(self, query: str, doc: str) -> list[tuple[str, tuple[int, int] | None]]:
        """The segments' texts; of the one that holds the document, where in it the document stands."""
        filled: list[tuple[str, tuple[int, int] | None]] = []
        for segment in self.segments:
            before, mark, after = segment.partition("{doc}")
            before, after = (self._fill(part, query) for part in (before, after))
            span = (len(before), len(before) + len(doc)) if mark else None
            filled.append((before + (doc if mark else "") + after, span))
        return filled

    def _fill(self, part: str, query: str) -> str:
        head, mark, tail = part.partition("{query}")
        head, tail = (text.replace("{instruction}", self.instruction) for text in (head, tail))
        return head + (query if mark else "") + tail


@dataclass(frozen=True)
class NextTokenModel:
    """A causal or encoder-decoder model with the label rows alone as its output matrix, in float32.

    The architecture's own forward pass does the rest (scaling of tied T5, Gemma 2's soft cap), so that the logits are
    those of the whole matrix. `batches` takes it as it takes a sentence-transformers model.
    """

    network: Any
    tokenizer: Any
    template: Template
    positions: int

    @property
    def device(self) -> torch.device:
        return self.network.device  # type: ignore[no-any-return]

    def count_fixed(self, queries: Sequence[str]) -> list[int]:
        """Tokens of the template with each query and no document."""
        return [sum(len(ids) for ids, _ in self._segments(query, "")) for query in queries]

    def check_limit(self, asked: int, field: str) -> None:
        """Raise ConfigError naming `field` where the model has no positions for so many tokens."""
        if asked > self.positions:
            raise ConfigError(f"{field}={asked}: the model has positions for {self.positions} tokens")

    def preprocess(self, pairs: Sequence[tuple[str, str]], most: int) -> Features:
        """Token ids of (query, document) pairs in the template; only the document is cut, at its end, to `most` in all."""
        import torch

        found = [self._read(query, doc, most) for query, doc in pairs]
        width = max(len(ids) for ids, _ in found)
        left = self.tokenizer.padding_side == "left"
        rows, mask = [], []
        for ids, _ in found:
            pad, real = [0] * (width - len(ids)), [1] * len(ids)
            rows.append(pad + ids if left else ids + pad)
            mask.append(pad + real if left else real + pad)
        return Features(
            {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}, [was_cut for _, was_cut in found]
        )

    def __call__(self, features: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """`scores` (pairs, 1): the logit of yes, less that of no where there is one."""
        import torch

        ids, mask = features["input_ids"], features["attention_mask"]
        if self.network.config.is_encoder_decoder:
            start = self.network.config.decoder_start_token_id
            begun = torch.full((len(ids), 1), start, device=ids.device)
            said = self.network(input_ids=ids, attention_mask=mask, decoder_input_ids=begun, use_cache=False)
        else:
            places = (mask.cumsum(1) - 1).clamp(min=0)  # the padding is on the left
            said = self.network(
                input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=1, use_cache=False
            )
        logits = said.logits[:, -1].float()
        return {"scores": logits[:, :1] - (logits[:, 1:] if logits.shape[1] > 1 else 0)}

    def _segments(self, query: str, doc: str) -> list[tuple[list[int], tuple[int, int] | None]]:
        """Token ids of each segment; of the document's, which of its tokens are the document's alone."""
        found: list[tuple[list[int], tuple[int, int] | None]] = []
        for text, span in self.template.fill(query, doc):
            read = self.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=span is not None, verbose=False
            )
            ids, tokens = list(read["input_ids"]), None
            if span is not None:
                spans = read["offset_mapping"]
                begin = sum(end <= span[0] for _, end in spans)
                tokens = (begin, begin + sum(start < span[1] for start, _ in spans[begin:]))
            found.append((ids, tokens))
        return found

    def _read(self, query: str, doc: str, most: int) -> tuple[list[int], bool]:
        segments = self._segments(query, doc)
        excess = sum(len(ids) for ids, _ in segments) - most
        whole: list[int] = []
        for ids, tokens in segments:
            if tokens is not None and excess > 0:
                begin, end = tokens
                if end - begin <= excess:
                    raise ConfigError(f"{most} tokens leave no room for a document behind the query {query[:80]!r}")
                ids = ids[: end - excess] + ids[end:]
            whole += ids
        return whole, excess > 0


@lru_cache(maxsize=1)
def load(folder: Path, *, template: Template, labels: tuple[str, ...], dtype: DType, on: str) -> NextTokenModel:
    """The model in evaluation mode on device `on`; `labels` are tokens as the vocabulary spells them: yes, maybe no.

    Raises ConfigError for a label that is no token of the vocabulary or that no answer begins with.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    with encoding.loading(folder):
        config = AutoConfig.from_pretrained(folder)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        network = kind.from_pretrained(folder, dtype=getattr(torch, dtype), config=config)
    read, rows = tokenizer(folder, labels)
    read.padding_side = "right" if config.is_encoder_decoder else "left"
    network.set_output_embeddings(_label_rows(network.get_output_embeddings(), rows))
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30  # T5's are relative
    return NextTokenModel(network.to(on).eval(), read, template, positions)


def tokenizer(folder: Path, labels: Sequence[str]) -> tuple[Any, list[int]]:
    """The folder's tokenizer and the numbers of the labels. Raises ConfigError as `load` does."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(folder)
    if not found.is_fast:
        raise ConfigError(f"{folder} has no fast tokenizer: nobody knows which tokens are the document's")
    rows = [label_token(found, label, folder) for label in labels]
    if len(set(rows)) < len(rows):
        raise ConfigError(f"{folder}: the labels {', '.join(labels)} are one token")
    return found, rows


def _label_rows(head: Any, rows: Sequence[int]) -> Any:
    import torch

    class LabelRows(torch.nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden.float())

    found = LabelRows(head.in_features, len(rows), bias=head.bias is not None, device=head.weight.device)
    with torch.no_grad():
        found.weight.copy_(head.weight[list(rows)])
        if head.bias is not None:
            found.bias.copy_(head.bias[list(rows)])
    return found


def label_token(tokenizer: Any, label: str, folder: Path) -> int:
    """The number of a token given as the vocabulary spells it (yes; of SentencePiece models \u2581yes).

    Raises ConfigError for one that the vocabulary lacks, and for a piece that no answer begins with.
    """
    number = tokenizer.get_vocab().get(label)
    if number is None or number in tokenizer.all_special_ids:
        raise ConfigError(
            f"{folder}: the vocabulary has no token {label!r}, which is to be a label\n"
            f"  an answer is read as {tokenizer.tokenize(label.lstrip(chr(0x2581)))}; the checkpoint's card or its training code names its labels"
        )
    text = tokenizer.convert_tokens_to_string([label])
    begins = tokenizer.tokenize(text)[:1] if text.strip() else [label]  # mT5's lone \u2581 begins many answers
    if begins != [label]:
        raise ConfigError(
            f"{folder}: no answer begins with the token {label!r}: {text!r} begins with {begins[0] if begins else 'nothing'!r}, "
            "which is probably the label"
        )
    return int(number)
