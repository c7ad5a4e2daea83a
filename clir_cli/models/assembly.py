"""What an encoder is put together from besides its folder: adapters, averaged checkpoints, a projection, a text's language."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from clir_cli.errors import ConfigError, LanguageError, MissingModel
from clir_cli.files import read_json

Codes: TypeAlias = Literal["none", "nllb", "m2m100", "xmod"]
COLUMNS = {"nllb": "nllb", "m2m100": "m2m100", "xmod": "xmod"}  # of languages.py, which hold the models' own names


@dataclass(frozen=True)
class Assembly:
    """What is asked of an encoder beyond its folder; as it stands here nothing is."""

    layer: int | None = None  # whose token vectors are pooled; 0: the embeddings, -1: the last
    adapter: Path | None = None
    average: tuple[Path, ...] = ()
    projection: Path | None = None
    pool_prefix: bool | None = None
    padding_side: Literal["left", "right"] | None = None
    attention: str | None = None
    codes: Codes = "none"
    suffixed: bool = False  # texts bring their own closing token


AS_IT_IS = Assembly()


def assemble(model: Any, folder: Path, asked: Assembly, load: Callable[[Path], Any]) -> Any:
    """The loaded sentence-transformers model with all that is asked; `load` loads another folder the same way.

    Raises ConfigError where the parts do not fit each other.
    """
    check_body(model, folder, asked.codes)
    if asked.average:
        average(model, folder, asked.average, load)
    if asked.adapter is not None:
        merge_adapter(model, asked.adapter)
    if asked.layer is not None:
        choose_layer(model, asked.layer)
    if asked.projection is not None:
        append_projection(model, asked.projection)
    if asked.padding_side is not None:
        model.tokenizer.padding_side = asked.padding_side
    if asked.pool_prefix is not None:
        for pool in poolings(model, "retriever.pool_prefix"):
            pool.include_prompt = asked.pool_prefix
    return model


def poolings(model: Any, field: str) -> list[Any]:
    """The modules that pool token vectors. Raises ConfigError naming `field` where the model has none."""
    found = [part for part in model if hasattr(part, "pooling_mode")]
    if not found:
        raise ConfigError(f"{field}: the model has no pooling of its own to change ({type(model[0]).__name__})")
    return found


# The transformer itself -----------------------------------------------------------------------------------------------


def body(model: Any) -> Any | None:
    """The transformers model inside; None where there is none (static vectors, a repository's own code)."""
    return getattr(model[0], "model", None)


def check_body(model: Any, folder: Path, codes: Codes) -> None:
    """Refuse what would encode something else in silence: a decoder's states, a text without its language."""
    inner = body(model)
    if inner is None:
        if codes != "none":
            raise ConfigError(f"retriever.codes={codes}: {folder} is no transformer that reads a language")
        return
    if getattr(inner.config, "is_encoder_decoder", False) and getattr(inner, "decoder", None) is not None:
        raise ConfigError(
            f"{folder} ({type(inner).__name__}) has an encoder and a decoder, and only its whole was loaded: "
            "its vectors would be the decoder's\n"
            "  models whose encoder loads alone: T5, mT5, UMT5, M2M100, NLLB"
        )
    needed = language_input(model)
    if needed is not None and codes == "none":
        raise ConfigError(
            f"{folder} reads every text in a language that it is told ({needed}), else in {_default_language(model)} "
            f"whatever the text is\n  say how it calls languages: retriever.codes={needed}"
        )
    if codes not in {"none", needed}:
        raise ConfigError(
            f"retriever.codes={codes}: {folder} ({inner.config.model_type}) "
            + ("is told no language: set it to none" if needed is None else f"calls languages as {needed} does")
        )


def language_input(model: Any) -> Codes | None:
    """How the model is told a text's language; None: not at all."""
    inner = body(model)
    kind = "" if inner is None else getattr(inner.config, "model_type", "")
    if kind == "xmod":
        return "xmod"
    tokenizer = getattr(model, "tokenizer", None)
    if kind != "m2m_100" and not hasattr(tokenizer, "src_lang"):
        return None
    return "m2m100" if "M2M100" in type(tokenizer).__name__ else "nllb"


def _default_language(model: Any) -> str:
    inner = body(model)
    default = getattr(getattr(inner, "config", None), "default_language", None)
    return str(default or getattr(model.tokenizer, "src_lang", None) or "one of its own choice")


def set_language(model: Any, codes: Codes, name: str) -> None:
    """Make the model read the following texts as `name`, spelled as the model spells it.

    Raises LanguageError where it has no such language.
    """
    inner = body(model)
    if codes == "xmod":
        if name not in inner.config.languages:  # type: ignore[union-attr]
            raise LanguageError(
                f"the model has no adapter {name!r}; it has {', '.join(inner.config.languages)}\n"  # type: ignore[union-attr]
                "  read the language by another's adapter, knowingly: 'retriever.language_names={xx: yy_YY}'"
            )
        inner.set_default_language(name)  # type: ignore[union-attr]
        return
    tokenizer = model.tokenizer
    token = f"__{name}__" if codes == "m2m100" else name
    number = tokenizer.convert_tokens_to_ids(token)
    if number is None or number == tokenizer.unk_token_id:
        raise LanguageError(
            f"the tokenizer of the model has no language {token!r}\n"
            "  read the language as another one, knowingly: 'retriever.language_names={xx: eng_Latn}'"
        )
    tokenizer.src_lang = name
    if number not in tokenizer("a")["input_ids"]:
        raise ConfigError(f"the tokenizer does not put {token!r} beside a text: it would be read in no language")


def choose_layer(model: Any, layer: int) -> None:
    """Pool the token vectors of hidden layer `layer`: 0 are the embeddings, -1 is the last."""
    inner = body(model)
    layers = getattr(getattr(inner, "config", None), "num_hidden_layers", None)
    if layers is None:
        raise ConfigError(f"retriever.layer={layer}: {type(model[0]).__name__} has no layers to choose from")
    if not -layers - 1 <= layer <= layers:
        raise ConfigError(
            f"retriever.layer={layer}: the model has layers 0 (embeddings) to {layers}, or -1 to {-layers - 1}"
        )
    poolings(model, "retriever.layer")
    model[0].modality_config["text"]["method_output_name"] = ("hidden_states", layer)


# Weights --------------------------------------------------------------------------------------------------------------


def average(model: Any, folder: Path, others: Sequence[Path], load: Callable[[Path], Any]) -> None:
    """Set the weights to the mean of the model's and the others', computed in float32, one checkpoint in memory at a time."""
    import torch

    own = model.state_dict()
    total = {name: value.float() for name, value in own.items() if value.is_floating_point()}
    for path in others:
        found = load(path).state_dict()
        if {n: v.shape for n, v in found.items()} != {n: v.shape for n, v in own.items()}:
            differ = sorted(set(found) ^ set(own)) or [n for n in own if own[n].shape != found[n].shape]
            raise ConfigError(
                f"retriever.average: {path} and {folder} are different architectures ({differ[0]}): no mean of their weights"
            )
        for name in total:
            total[name] += found[name].float()
    with torch.no_grad():
        for name, value in total.items():
            own[name].copy_(value / (len(others) + 1))


def merge_adapter(model: Any, folder: Path) -> None:
    """Merge a peft adapter into the weights. Raises ConfigError where one does not belong to the other."""
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise ConfigError("an adapter needs the package peft: pip install clir[peft]") from error

    if not (folder / "adapter_config.json").exists():
        raise MissingModel(f"{folder} is no peft adapter: it has no adapter_config.json")
    inner = body(model)
    if inner is None:
        raise ConfigError(f"{type(model[0]).__name__} is no transformer: no adapter fits it")
    if "peft_type" not in read_json(folder / "adapter_config.json"):
        raise ConfigError(
            f"{folder} is no peft adapter but AdapterHub's, which cross-encoders take (reranker.adapters)"
        )
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    trained = f"it was trained on {config.base_model_name_or_path} as {config.task_type or 'no task type'}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft's own calls into transformers
            wrapped = PeftModel(inner, config, "default")
            loaded = wrapped.load_adapter(str(folder), "default", torch_device=str(inner.device))
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"the adapter in {folder} does not fit the model: {reason}\n  {trained}") from error
    # one that was trained on encoder and decoder has weights for the decoder, which is not here
    wrong = [*loaded.missing_keys, *(name for name in loaded.unexpected_keys if ".decoder." not in name)]
    if wrong:
        raise ConfigError(
            f"the adapter in {folder} does not fit the model: {len(wrong)} of its weights find no place or none is there for them, "
            f"as {wrong[0]}\n  {trained}"
        )
    model[0].model = wrapped.merge_and_unload()


def check_base(model: str, adapter: Path) -> None:
    """Raise ConfigError where an adapter names another hub model than `model` as its base (a folder cannot be compared)."""
    path = adapter / "adapter_config.json"
    base = str(read_json(path).get("base_model_name_or_path") or "") if path.exists() else ""
    is_hub = [name.count("/") == 1 and not Path(name).expanduser().exists() for name in (base, model)]
    if all(is_hub) and base.casefold() != model.casefold():
        raise ConfigError(f"the adapter in {adapter} was trained on {base}, not on {model}: set retriever.model={base}")


def append_projection(model: Any, path: Path) -> None:
    """Put a linear map behind the pooling: `linear.weight` (out, in) and maybe `linear.bias` of a safetensors file."""
    import torch
    from safetensors.torch import load_file
    from sentence_transformers.base.modules import Dense as Linear

    if not path.is_file():
        raise MissingModel(f"retriever.projection: {path} does not exist (a .safetensors file)")
    weights = load_file(str(path))
    weight, width = weights.get("linear.weight"), int(model.get_embedding_dimension())
    if weight is None or weight.ndim != 2 or weight.shape[1] != width:
        found = ", ".join(f"{name} {tuple(value.shape)}" for name, value in weights.items())
        raise ConfigError(f"retriever.projection: {path} holds {found}; it needs linear.weight of shape (out, {width})")
    part = Linear(width, weight.shape[0], bias="linear.bias" in weights, activation_function=torch.nn.Identity())
    part.load_state_dict(weights)
    model.append(part)
