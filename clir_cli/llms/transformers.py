"""Local language models by Hugging Face transformers, on CPU or GPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from clir_cli.errors import ConfigError
from clir_cli.llms import scoring
from clir_cli.llms import tokens as model_tokens
from clir_cli.models import hub
from clir_cli.progress import track
from clir_cli.types import Answer, Message, Prompt, added, model, neutral

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


GENERATED_TOKENS = 16_384  # all read the weights together once for every word: the more the better
CPU_TOKENS = 2048  # scored in one forward pass on a CPU, where more do not fit its cache


class Loading(NamedTuple):
    """All that decides how a model is loaded."""

    folder: Path
    kind: str
    dtype: str
    quantisation: str | None
    device: str


_loaded: dict[Loading, PreTrainedModel] = {}  # one model at a time: two of them seldom fit a GPU


@dataclass(frozen=True, kw_only=True)
class Transformers:
    """A local model, causal or seq2seq, that decodes greedily, in batches over all prompts of a call.

    The same call gives the same answers; another batch size may change a float and so, rarely, a word. The checkpoint's
    own sampling settings and penalties are not used; its end tokens are.
    """

    model: str = model()
    context: int  # tokens that prompt and answer may have together
    revision: str | None = None
    kind: Literal["causal", "seq2seq"] = "causal"
    template: str = (
        "model"  # model: the tokenizer's chat template; plain: the turns' texts, a blank line between; or Jinja
    )
    template_options: Mapping[str, bool | int | str] = field(default_factory=dict)  # e.g. {enable_thinking: false}
    special_tokens: Literal["once", "twice"] = added("once", "once")
    # twice: the tokenizer puts its own before those that a chat template wrote, and BOS stands there two times (llm-rankers)
    answer_start: str = added("", "")  # what the answer begins with: the model goes on from there
    force_length: bool = (
        False  # the answer is exactly max_tokens long: the end cannot come early (as RankZephyr is run)
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: as the checkpoint is stored
    quantisation: Literal["int8", "int4"] | None = None  # by bitsandbytes, which must be installed
    device: str = neutral("auto")  # auto: the GPU where there is one; or cpu, cuda, cuda:1, mps
    batch_tokens: int | None = neutral(None)
    # prompts and answers of one batch, padding included; null: 16384 on a GPU and for written answers, else 2048

    engines: ClassVar[tuple[str, ...]] = ("transformers",)

    def __post_init__(self) -> None:
        if self.kind == "seq2seq" and self.template == "model":
            raise ValueError("a seq2seq model has no chat template: set template=plain, or a Jinja text")
        if self.template not in ("model", "plain") and "messages" not in self.template:
            raise ValueError(f"template must be model, plain or a Jinja text over `messages`, got {self.template!r}")
        if self.template == "plain" and self.special_tokens == "twice":
            raise ValueError(
                "special_tokens=twice needs a chat template, which writes them once: template=plain writes none"
            )
        if self.context < 1 or (self.batch_tokens is not None and self.batch_tokens < 1):
            raise ValueError("context and batch_tokens must be positive")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return model_tokens.count(self.tokenizer(), texts)

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        return model_tokens.cut(self.tokenizer(), texts, tokens)

    def count_prompts(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each prompt as the model reads it, the chat template's included."""
        return [len(ids) for ids in self._read_prompts(prompts)]

    def render(self, prompt: Prompt) -> str:
        """The text that the model reads, with the special tokens that a chat template writes, up to where it goes on."""
        begun = self.answer_start if self.kind == "causal" else ""  # an encoder-decoder's answer is a text of its own
        if self.template == "plain":
            return "\n\n".join(turn.content for turn in prompt) + begun
        from jinja2 import TemplateError

        tokenizer = self.tokenizer()
        if self.template == "model" and not tokenizer.chat_template:
            raise ConfigError(f"{self.model} has no chat template: set llm.template=plain, or a Jinja text")
        own = {} if self.template == "model" else {"chat_template": self.template}
        turns = [turn._asdict() for turn in prompt]
        try:
            text = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **own, **self.template_options
            )
        except TemplateError as error:
            raise ConfigError(
                f"the chat template of {self.model} refuses the prompt: {error}\n"
                "  a model without system turns wants prompt.system='', or llm.template=plain"
            ) from error
        return f"{text}{begun}"

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        """Answers of at most `max_tokens` tokens. Raises ConfigError for a prompt that does not fit the context."""
        ids = self._read_prompts(prompts)
        self._check_length(ids, max_tokens)
        answers: dict[int, Answer] = {}
        for batch in track(list(self._batches(ids, max_tokens)), None, f"generating with {self.model}", "batches"):
            answers |= zip(batch, self._answer([ids[i] for i in batch], max_tokens), strict=True)
        return [answers[i] for i in range(len(prompts))]

    # Probabilities ------------------------------------------------------------------------------------------------------

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise ConfigError unless every label is one token after a prompt, and no two are the same."""
        self._label_ids(self.render((Message("user", "?"),)), labels)

    def score_labels(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[Answer]:
        """One forward pass a prompt; `text` is the most probable label."""
        if not prompts:
            return []
        rows = self._read_prompts(prompts)
        self._check_length(rows, 1)
        ids = self._label_ids(self.render(prompts[0]), labels)
        network = self._scoring_network()
        found = scoring.label_scores(network, rows, ids, self._scored_tokens(network), self._begun())
        answers = self._scored(found, rows, [1] * len(rows))
        return [a._replace(text=max(zip(a.scores or (), labels, strict=True))[1]) for a in answers]

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Answer]:
        """The continuation's tokens are those that it has alone, without special tokens."""
        if not prompts:
            return []
        rows = self._read_prompts(prompts)
        texts = self.tokenizer()(list(continuations), add_special_tokens=False, verbose=False)["input_ids"]
        if empty := [text for text, ids in zip(continuations, texts, strict=True) if not ids]:
            raise ConfigError(f"an empty text has no likelihood: {empty[0]!r}")
        self._check_length([[*row, *text] for row, text in zip(rows, texts, strict=True)], 0)
        network = self._scoring_network()
        found = scoring.text_scores(network, rows, texts, self._scored_tokens(network), self._begun())
        return self._scored(found, rows, [len(text) for text in texts])

    def _scored_tokens(self, network: PreTrainedModel) -> int:
        return self.batch_tokens or (CPU_TOKENS if network.device.type == "cpu" else GENERATED_TOKENS)

    def _scored(
        self, found: Iterable[scoring.Scored], rows: Sequence[Sequence[int]], output: Sequence[int]
    ) -> list[Answer]:
        answers: dict[int, Answer] = {}
        begun = time.monotonic()
        for at, values, shared in track(found, None, f"scoring with {self.model}", "batches"):
            seconds = (time.monotonic() - begun) / len(at)
            for i, scores, reused in zip(at, values.tolist(), shared, strict=True):
                answers[i] = Answer(
                    "", len(rows[i]), reused, output[i], seconds, model=self.model, scores=tuple(scores)
                )
            begun = time.monotonic()
        return [answers[i] for i in range(len(rows))]

    def _label_ids(self, prompt: str, labels: Sequence[str]) -> list[int]:
        """The token that each label is, written where an answer begins."""
        tokenizer = self.tokenizer()
        if self.kind == "seq2seq":  # an answer begins a text of its own
            ids = tokenizer([str(label) for label in labels], add_special_tokens=False)["input_ids"]
        else:
            own = self._adds_special_tokens
            before, *after = tokenizer([prompt, *(prompt + label for label in labels)], add_special_tokens=own)[
                "input_ids"
            ]
            ends = len(before) - (before[-1:] == [tokenizer.eos_token_id] and own)
            ids = [row[ends : len(row) - (len(before) - ends)] for row in after]
            if any(row[:ends] != before[:ends] for row in after):  # the label melts into the prompt's last token
                ids = tokenizer([str(label) for label in labels], add_special_tokens=False)["input_ids"]
        long = {label: len(row) for label, row in zip(labels, ids, strict=True) if len(row) != 1}
        if long:
            label, count = next(iter(long.items()))
            raise ConfigError(
                f"the label {label!r} is {count} tokens to {self.model}, and its probability that of one token: choose other "
                "labels in the prompt, or reranker.answer=text"
            )
        numbers = [row[0] for row in ids]
        if len(set(numbers)) < len(numbers):
            raise ConfigError(f"{self.model} has one token for several of the labels {', '.join(labels)}")
        return numbers

    def _scoring_network(self) -> PreTrainedModel:
        network = self._network()
        if not getattr(network, "clir_checked_head", False):
            scoring.check_head(network)
            network.clir_checked_head = True
        return network

    def _check_length(self, rows: Sequence[Sequence[int]], answer: int) -> None:
        if rows and (longest := max(map(len, rows))) + answer > self.context:
            raise ConfigError(
                f"a prompt of {longest} tokens and an answer of {answer} do not fit llm.context={self.context} of {self.model}\n"
                "  lower reranker.passage_tokens, reranker.window or prompt.spare_tokens"
            )

    def _read_prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        texts, own = [self.render(prompt) for prompt in prompts], self._adds_special_tokens
        return list(self.tokenizer()(texts, add_special_tokens=own, verbose=False)["input_ids"]) if texts else []

    @property
    def _adds_special_tokens(self) -> bool:
        """Whether the tokenizer does: a chat template writes them itself."""
        return self.template == "plain" or self.special_tokens == "twice"

    def _begun(self) -> list[int]:
        """The tokens that an encoder-decoder's answer begins with; a decoder reads them at the end of its prompt."""
        if self.kind == "causal" or not self.answer_start:
            return []
        return list(self.tokenizer()(self.answer_start, add_special_tokens=False)["input_ids"])

    def _batches(self, ids: Sequence[Sequence[int]], max_tokens: int) -> Iterator[list[int]]:
        """Numbers of the prompts, longest first, as many together as `batch_tokens` holds."""
        batch: list[int] = []
        for at in sorted(range(len(ids)), key=lambda at: -len(ids[at])):
            width = max_tokens + len(ids[batch[0] if batch else at])
            if batch and width * (len(batch) + 1) > (self.batch_tokens or GENERATED_TOKENS):
                yield batch
                batch = []
            batch.append(at)
        if batch:
            yield batch

    def _answer(self, ids: Sequence[Sequence[int]], max_tokens: int) -> list[Answer]:
        import torch

        tokenizer, network = self.tokenizer(), self._network()
        begun = time.monotonic()
        width = max(map(len, ids))
        left = self.kind == "causal"  # a causal model goes on where the prompt ends
        pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        rows = [
            [pad] * (width - len(row)) + list(row) if left else list(row) + [pad] * (width - len(row)) for row in ids
        ]
        mask = [
            [0] * (width - len(row)) + [1] * len(row) if left else [1] * len(row) + [0] * (width - len(row))
            for row in ids
        ]
        said_already = [] if left else self._begun()
        more = {}
        if said_already:
            start = [network.generation_config.decoder_start_token_id, *said_already]
            more = {"decoder_input_ids": torch.tensor([start] * len(rows), device=network.device)}
        with torch.inference_mode():
            output = network.generate(
                torch.tensor(rows, device=network.device),  # (prompts, width)
                attention_mask=torch.tensor(mask, device=network.device),
                max_new_tokens=max_tokens,
                min_new_tokens=max_tokens if self.force_length else None,
                do_sample=False,
                pad_token_id=pad,
                **more,
            )
        first = width if left else 1 + len(said_already)  # an encoder-decoder's answer begins with its start token
        said = output[:, first:]  # (prompts, <= max_tokens)
        seconds = (time.monotonic() - begun) / len(ids)
        return [
            self._read(row, len(prompt), max_tokens, seconds) for row, prompt in zip(said.tolist(), ids, strict=True)
        ]

    def _read(self, row: list[int], prompt_tokens: int, max_tokens: int, seconds: float) -> Answer:
        ends = self._network().generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        length = next((at + 1 for at, token in enumerate(row) if token in ends), len(row))
        return Answer(
            text=str(self.tokenizer().decode(row[:length], skip_special_tokens=True)),
            prompt_tokens=prompt_tokens,
            output_tokens=length,
            seconds=seconds,
            model=self.model,
            truncated=length == max_tokens and row[length - 1] not in ends and not self.force_length,
        )

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return model_tokens.load(hub.folder(self.model, self.revision))

    def _network(self) -> PreTrainedModel:
        loading = Loading(
            hub.folder(self.model, self.revision), self.kind, self.dtype, self.quantisation, _device(self.device)
        )
        if loading not in _loaded:
            _loaded.clear()
            gc.collect()  # the old model's memory is free before the new one is read
            _loaded[loading] = _load(loading)
        return _loaded[loading]


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(loading: Loading) -> PreTrainedModel:
    import importlib.util

    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BitsAndBytesConfig, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # progress.py says what is done
    dtype = loading.dtype if loading.dtype == "auto" else getattr(torch, loading.dtype)
    more = {}
    if loading.quantisation is not None:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(f"llm.quantisation={loading.quantisation} needs bitsandbytes: pip install bitsandbytes")
        bits = {"load_in_8bit": True} if loading.quantisation == "int8" else {"load_in_4bit": True}
        more = {"quantization_config": BitsAndBytesConfig(**bits), "device_map": loading.device}
    kind = AutoModelForCausalLM if loading.kind == "causal" else AutoModelForSeq2SeqLM
    network = kind.from_pretrained(loading.folder, dtype=dtype, **more).eval()
    if not more:
        network = network.to(loading.device)
    stored = network.generation_config
    network.generation_config = GenerationConfig(  # without the checkpoint's temperature, penalties and length
        bos_token_id=stored.bos_token_id,
        eos_token_id=stored.eos_token_id,
        decoder_start_token_id=stored.decoder_start_token_id,
    )
    return network
