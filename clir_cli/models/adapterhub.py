"""Adapters as AdapterHub's library `adapters` saves them: MAD-X's language adapters (Pfeiffer et al. 2020) and a task's.

A folder holds adapter_config.json with adapter.safetensors or pytorch_adapter.bin, and where it was saved with its head,
head_config.json with model_head.safetensors or pytorch_model_head.bin. What its settings mean was read in adapters 1.3.0,
whose names the weights keep here. This module imports torch: import it where a model is at hand.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clir_cli.errors import ConfigError, MissingModel
from clir_cli.files import read_json

INVERTIBLE = "invertible_adapters"
LAYOUTS = ("bert", "roberta", "xlm-roberta")  # one attention.output and one output per layer, LayerNorm after the sum
OTHERS = ("is_parallel", "use_gating", "phm_layer", "cross_adapter")  # of other kinds: false in what is read here
IDLE = {  # training's settings, phm_layer's, and two of AdapterFusion in the oldest folders: no score depends on them
    "architecture", "dropout", "init_weights", "init_weights_seed", "stochastic_depth", "phm_dim", "phm_rank", "phm_bias",
    "phm_c_init", "phm_init_range", "learn_phm", "factorized_phm_W", "factorized_phm_rule", "shared_W_phm",
    "shared_phm_rule", "hypercomplex_nonlinearity", "attention_type", "new_attention_norm",
}  # fmt: skip


@dataclass(frozen=True)
class Design:
    """How an adapter is built: `config` of adapter_config.json, and what the library assumes where it is silent."""

    mh_adapter: bool  # behind the attention
    output_adapter: bool  # behind the feed-forward block
    reduction_factor: float | Mapping[str, float]  # hidden size by bottleneck; {"0": 8, "default": 16} by layer
    non_linearity: str
    original_ln_before: bool = False  # the layer's own sum and LayerNorm come before the adapter ...
    original_ln_after: bool = True  # ... and (again) after the last one
    ln_before: bool = False  # a LayerNorm of the adapter's own, before its bottleneck
    ln_after: bool = False  # or after it
    residual_before_ln: bool | str = True  # what goes around the bottleneck; post_add: between sum and LayerNorm
    adapter_residual_before_ln: bool = False  # and joins before ln_after
    scaling: float | str = 1.0  # of what the bottleneck adds; learned: one number, channel: one per dimension
    inv_adapter: str | None = None
    inv_adapter_reduction_factor: float | None = None
    leave_out: Sequence[int] = ()  # layers without an adapter

    def width(self, layer: int, hidden: int) -> int:
        """Of the bottleneck in a layer."""
        factor = self.reduction_factor
        if isinstance(factor, Mapping):
            factor = factor.get(str(layer), factor.get("default", 0))
        if factor <= 0:
            raise ValueError(f"reduction_factor={self.reduction_factor} says nothing for layer {layer}")
        return max(int(hidden // factor), 1)


def put_on(network: Any, folder: Path, *, head: bool) -> None:
    """Put an adapter behind those that a transformers model has, in place, and with `head` the scoring head it was saved with.

    Of a stack only the first adapter's invertible part is used, as the library does. Raises ConfigError for an adapter that
    does not fit the model or is of a kind that is not read, MissingModel for a folder that is not whole.
    """
    found = read_json(folder / "adapter_config.json")
    _check_model(network, found, folder)
    base, prefix = network.base_model, f"{network.base_model_prefix}."
    stored = _weights(folder, "adapter.safetensors", "pytorch_adapter.bin")
    weights = {_today(name).removeprefix(prefix): value for name, value in stored.items()}
    try:
        parts = _parts(_design(found, weights), base.config)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the adapter in {folder} is not read: adapter_config.json: {error}") from error
    _fill(parts, weights, str(found.get("name")), folder)
    first = not isinstance(base.encoder.layer[0].output, Output)
    for layer in base.encoder.layer if first else ():
        layer.attention.output, layer.output = Output(layer.attention.output), Output(layer.output)
    invertible = parts.pop(INVERTIBLE, None)
    for site, part in parts.items():
        base.get_submodule(site).adapters.append(part)
    if first and invertible is not None:
        base.add_module(INVERTIBLE, invertible)
        base.embeddings.register_forward_hook(lambda _embeddings, _given, embedded: invertible(embedded))
    base.to(base.device, base.dtype)
    if head:
        _put_head(network, scoring_head(folder), folder)


def _put_head(network: Any, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    own = network.state_dict()
    for name, value in weights.items():
        if name not in own or own[name].shape != value.shape:
            raise ConfigError(
                f"the head in {folder} does not fit the model: {name} has shape {tuple(value.shape)}, and "
                f"{type(network).__name__} {tuple(own[name].shape) if name in own else 'none'}"
            )
        own[name].copy_(value)


def scoring_head(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that an adapter brings for a model's scoring head, as the model calls them; a language model's are none.

    Raises ConfigError for a head of several labels or of a form that the model's own cannot take.
    """
    if not (folder / "head_config.json").is_file():
        return {}
    found = read_json(folder / "head_config.json")
    built = found.get("config")
    kind = built.get("head_type") if built else found.get("model_class")
    if kind not in {"classification", "multilabel_classification"} and not str(kind).endswith(
        "ForSequenceClassification"
    ):
        return {}
    labels = found.get("num_labels") or (built or {}).get("num_labels")
    if labels not in {None, 1}:
        raise ConfigError(f"the head in {folder} gives {labels} labels per pair: a reranker needs one (num_labels=1)")
    weights = _weights(folder, "model_head.safetensors", "pytorch_model_head.bin")
    if not built:  # saved from a ...ForSequenceClassification: it has that model's names
        return weights
    bert = found.get("model_type") == "bert"
    form = (built.get("layers"), built.get("activation_function"), bool(built.get("use_pooler")))
    # BERT's pooler is a layer with tanh on the first token: with the classifier it is the library's usual head
    layers = {"1": "bert.pooler.dense" if bert else "classifier.dense", "4": f"classifier{'' if bert else '.out_proj'}"}
    if bert and form[0] == 1 and form[2]:
        layers = {"1": "classifier"}
    elif form != (2, "tanh", False):
        raise ConfigError(
            f"the head in {folder} is not read: layers={form[0]} activation_function={form[1]} use_pooler={form[2]}\n"
            "  what is read: two layers with tanh on the first token, or, for bert, one layer on the pooler"
        )
    names = {
        f"heads.{found.get('name')}.{i}.{kind}": f"{own}.{kind}"
        for i, own in layers.items()
        for kind in ("weight", "bias")
    }
    if set(names) != set(weights):
        raise ConfigError(f"the head in {folder} holds {', '.join(sorted(weights))}, not {', '.join(names)}")
    return {names[name]: value for name, value in weights.items()}


# What an adapter is made of -------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """Down, non-linearity, up, and the way around it, on what a layer's dense part gives and what is added to that."""

    def __init__(self, design: Design, hidden: int, narrow: int) -> None:
        super().__init__()
        self.design = design
        down: list[nn.Module] = [nn.Linear(hidden, narrow), _activation(design.non_linearity)]
        if design.ln_before:
            self.adapter_norm_before = nn.LayerNorm(hidden)
            down.insert(0, self.adapter_norm_before)
        self.adapter_down = nn.Sequential(*down)
        self.adapter_up = nn.Linear(narrow, hidden)
        if design.ln_after:
            self.adapter_norm_after = nn.LayerNorm(hidden)
        self.scaling: Any = design.scaling
        if isinstance(design.scaling, str):
            self.scaling = nn.Parameter(torch.ones(1 if design.scaling == "learned" else hidden))

    def forward(self, states: torch.Tensor, skipped: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        design, around = self.design, states
        if design.original_ln_before:
            states = states + skipped
            if design.residual_before_ln == "post_add":
                around = states
            states = norm(states)
        if not design.residual_before_ln:
            around = states
        change = self.adapter_up(self.adapter_down(states)) * self.scaling
        if design.adapter_residual_before_ln:
            change = change + around
        if design.ln_after:
            change = self.adapter_norm_after(change)
        result: torch.Tensor = change if design.adapter_residual_before_ln else change + around
        return result


class Output(nn.Module):
    """BERT's attention.output or output with a stack of adapters between its dense part and its LayerNorm."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.dense, self.dropout, self.LayerNorm = plain.dense, plain.dropout, plain.LayerNorm
        self.adapters = nn.ModuleList()

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.dropout(self.dense(hidden_states))
        for adapter in self.adapters:
            states = adapter(states, input_tensor, self.LayerNorm)
        if not self.adapters or self.adapters[-1].design.original_ln_after:  # type: ignore[union-attr]
            states = self.LayerNorm(states + input_tensor)
        return states


class Nice(nn.Module):
    """MAD-X's invertible adapter: each half of the embedding is moved by a function of the other (NICE, Dinh et al. 2015)."""

    def __init__(self, hidden: int, factor: float, non_linearity: str) -> None:
        super().__init__()
        self.first = hidden // 2
        self.F = self._moves(hidden - self.first, self.first, factor, non_linearity)
        self.G = self._moves(self.first, hidden - self.first, factor, non_linearity)

    @staticmethod
    def _moves(given: int, moved: int, factor: float, non_linearity: str) -> nn.Sequential:
        if factor <= 0:
            raise ValueError(f"inv_adapter_reduction_factor={factor} is not above 0")
        narrow = int(given // factor)
        return nn.Sequential(nn.Linear(given, narrow), _activation(non_linearity), nn.Linear(narrow, moved))

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        first, second = embedded[..., : self.first], embedded[..., self.first :]
        first = first + self.F(second)
        return torch.cat((first, second + self.G(first)), -1)


def _activation(name: str) -> nn.Module:
    from transformers.activations import ACT2FN

    name = name.lower()
    if name == "leakyrelu":  # the library's own word
        return nn.LeakyReLU()
    if name not in ACT2FN:
        raise ValueError(f"non_linearity={name} is none that transformers has: {', '.join(sorted(ACT2FN))}")
    known: nn.Module = ACT2FN[name]
    return known


# What a folder says ---------------------------------------------------------------------------------------------------


def _check_model(network: Any, found: Mapping[str, Any], folder: Path) -> None:
    own: Any = getattr(network, "config", None)
    kind, trained = getattr(own, "model_type", type(network).__name__), found.get("model_type")
    if kind not in LAYOUTS:
        raise ConfigError(f"{folder} is AdapterHub's, which clir puts on {', '.join(LAYOUTS)}; the model is {kind}")
    on = f"it was trained on {found.get('model_name') or 'a model it does not name'}"
    for field, theirs, ours in (
        ("model_type", trained, kind),
        ("hidden_size", found.get("hidden_size"), own.hidden_size),
    ):
        if theirs not in {None, ours}:
            raise ConfigError(f"the adapter in {folder} has {field} {theirs}, and the model {ours}: {on}")


def _design(found: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> Design:
    """Raises ValueError for what is not read."""
    said = _said_today(found, weights)
    known = {field.name: field.default is MISSING for field in fields(Design)}
    if lacking := [name for name, needed in known.items() if needed and said.get(name) is None]:
        raise ValueError(f"config lacks {', '.join(lacking)}")
    if unknown := sorted(set(said) - set(known) - IDLE - set(OTHERS)):
        raise ValueError(f"clir does not know config's {', '.join(unknown)}, which may change what is computed")
    if other := [name for name in OTHERS if said.get(name)]:
        raise ValueError(f"config has {other[0]}={said[other[0]]}; only sequential bottlenecks without gates are read")
    design = Design(**{name: value for name, value in said.items() if name in known})
    around, scaling = design.residual_before_ln, design.scaling
    if around not in ({True, False, "post_add"} if design.original_ln_before else {True, False}):
        raise ValueError(f"residual_before_ln={around}: true, false, or with original_ln_before post_add")
    if not isinstance(scaling, int | float) and scaling not in {"learned", "channel"}:
        raise ValueError(f"scaling={scaling}: a number, learned or channel")
    if design.inv_adapter not in {None, "nice"}:
        raise ValueError(f"inv_adapter={design.inv_adapter}: only nice is read (adapters 1.3.0 cannot run glow either)")
    return design


def _said_today(found: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """`config` in the words of adapters 1.3.0, by what that does with older folders."""
    said = found.get("config")
    if not isinstance(said, Mapping) or said.get("architecture"):
        kind = said.get("architecture") if isinstance(said, Mapping) else said
        raise ValueError(f"config is {kind}, not a bottleneck's (seq_bn, double_seq_bn, with or without _inv)")
    said = {**said, "leave_out": tuple(said.get("leave_out") or ())}
    own: Any = said.get("non_linearity")
    if nested := said.pop("invertible_adapter", None):  # before version 2
        if nested.get("non_linearity", own) != own:
            raise ValueError(
                f"invertible_adapter.non_linearity={nested['non_linearity']} beside non_linearity={own}: "
                "adapter-transformers 1 read the first, adapters 1.3.0 reads the second; remove the first to do so too"
            )
        said["inv_adapter"] = nested.get("block_type")
        said["inv_adapter_reduction_factor"] = nested.get("reduction_factor")
    if found.get("type") == "text_task" and not any(f"{INVERTIBLE}." in name for name in weights):
        said["inv_adapter"] = None  # old task adapters name one and have none
    if "version" not in found:
        said["non_linearity"] = {"gelu": "gelu_new", "gelu_orig": "gelu"}.get(own, own)
    return said


def _parts(design: Design, config: Any) -> dict[str, nn.Module]:
    """What an adapter adds to a model by where it stands there: its bottlenecks, and the invertible one."""
    hidden, factor = config.hidden_size, design.inv_adapter_reduction_factor
    sites = [name for name, has in (("attention.output", design.mh_adapter), ("output", design.output_adapter)) if has]
    parts: dict[str, nn.Module] = {
        f"encoder.layer.{i}.{site}": Bottleneck(design, hidden, design.width(i, hidden))
        for i in range(config.num_hidden_layers)
        if i not in design.leave_out
        for site in sites
    }
    return parts | ({INVERTIBLE: Nice(hidden, factor or 0, design.non_linearity)} if design.inv_adapter else {})


def _fill(parts: Mapping[str, nn.Module], weights: Mapping[str, torch.Tensor], name: str, folder: Path) -> None:
    own = {
        f"{site}.{name}.{key}" if site == INVERTIBLE else f"{site}.adapters.{name}.{key}": value
        for site, part in parts.items()
        for key, value in part.state_dict().items()
    }
    problem = f"the adapter in {folder} does not fit what its adapter_config.json says of it on this model: "
    if lacking := [key for key in own if key not in weights]:
        raise ConfigError(f"{problem}it lacks {len(lacking)} weights, as {lacking[0]}")
    if spare := [key for key in weights if key not in own]:
        raise ConfigError(f"{problem}{len(spare)} of its weights find no place, as {spare[0]}")
    for key, value in own.items():
        if weights[key].shape != value.shape:
            raise ConfigError(f"{problem}{key} has shape {tuple(weights[key].shape)}, not {tuple(value.shape)}")
        value.copy_(weights[key])


def _today(name: str) -> str:
    """What the library has called a weight since version 2."""
    name = re.sub(r"\b(attention|layer)_text_(task|lang)_adapters\b", "adapters", name)
    return name.replace("invertible_lang_adapters", INVERTIBLE)


def _weights(folder: Path, *names: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for path in (folder / name for name in names):
        if path.is_file():
            try:
                if path.suffix == ".safetensors":
                    return load_file(str(path))
                return dict(torch.load(path, map_location="cpu", weights_only=True))
            except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
                raise MissingModel(f"{path} cannot be read as weights alone: {error}") from error
    raise MissingModel(f"{folder} has its configuration and no weights: neither {' nor '.join(names)}")
