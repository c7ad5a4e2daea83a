"""What a reranker's weights are made of besides its folder: adapters, sparse differences, averaged checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clir_cli.errors import ConfigError, MissingModel
from clir_cli.files import read_json
from clir_cli.models import assembly


@dataclass(frozen=True)
class Composition:
    """What is asked of a cross-encoder beyond its folder; as it stands here nothing is."""

    average: tuple[Path, ...] = ()  # folders: the mean of their weights and the model's
    adapters: tuple[Path, ...] = ()  # folders of peft or AdapterHub, .safetensors differences, one after the other


AS_IT_IS = Composition()


def compose(model: Any, folder: Path, asked: Composition, load: Callable[[Path], Any]) -> None:
    """Average, then put each adapter on what stands there. Raises ConfigError where the parts do not fit each other."""
    if asked.average:
        try:
            assembly.average(model, folder, asked.average, load)
        except ConfigError as error:
            raise ConfigError(str(error).replace("retriever.", "reranker.")) from error
    for path in asked.adapters:
        if _is_adapterhubs(path):
            from clir_cli.models import adapterhub

            adapterhub.put_on(assembly.body(model), path, head=path == _heads_adapter(asked))
        elif (path / "adapter_config.json").is_file():
            assembly.merge_adapter(model, path)
        elif path.is_file() and path.suffix == ".safetensors":
            add_difference(assembly.body(model), path)
        else:
            raise MissingModel(
                f"{path} is neither an adapter of peft or AdapterHub (a folder with adapter_config.json) nor a .safetensors file of "
                "differences"
            )


def brought_head(asked: Composition) -> tuple[str, ...]:
    """The names of the weights of the scoring head that AdapterHub's last adapter brings; none where it brings none."""
    if (path := _heads_adapter(asked)) is None:
        return ()
    from clir_cli.models import adapterhub

    return tuple(adapterhub.scoring_head(path))


def _heads_adapter(asked: Composition) -> Path | None:
    """The last adapter of AdapterHub's, which is the task's: the others' heads are those that they were trained with."""
    return next((path for path in reversed(asked.adapters) if _is_adapterhubs(path)), None)


def _is_adapterhubs(path: Path) -> bool:
    config = path / "adapter_config.json"
    try:
        return config.is_file() and "peft_type" not in read_json(config)
    except ValueError as error:
        raise MissingModel(f"{config} cannot be read: {error}") from error


def add_difference(network: Any, path: Path) -> None:
    """Add a sparse fine-tuning to a transformers model's weights: theta + phi (Ansell et al. 2022, composable-sft).

    The file holds, for a weight NAME, `diffs.NAME` of its shape, or the flat places `diffs.NAME.indices` and the numbers
    there `diffs.NAME.values`, or `abs.NAME`, which replaces it (the head that a task was trained with). A head that the
    model does not have (a language model's) is left out. Raises ConfigError for any other weight that it does not have.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(str(path))
    except SafetensorError as error:
        raise MissingModel(f"{path} cannot be read as safetensors: {error}") from error
    weights = dict(network.named_parameters())
    with torch.no_grad():
        for key, value in found.items():
            kind, _, name = key.partition(".")
            if kind == "abs" and name in weights:
                weights[name].copy_(_fitting(value, weights[name], key, path))
            elif kind == "diffs" and name in weights:
                weights[name].copy_(weights[name].float() + _fitting(value, weights[name], key, path).float())
            elif kind == "diffs" and name.removesuffix(".indices") in weights:
                own = weights[name.removesuffix(".indices")]
                values = found.get(f"{key.removesuffix('.indices')}.values")
                if values is None or values.shape != value.shape or not _within(value, own.numel()):
                    raise ConfigError(f"{path}: {key} has no values for its places, or places that the weight lacks")
                flat = own.float().flatten()
                own.copy_(flat.index_add(0, value.long().to(own.device), values.float().to(own.device)).view_as(own))
            elif not (kind == "abs" or (kind == "diffs" and f"{key.removesuffix('.values')}.indices" in found)):
                raise ConfigError(
                    f"{path} has {key}, and the model ({type(network).__name__}) no such weight\n"
                    f"  a difference is named after a weight, as diffs.{next(iter(weights))}; was it trained on this architecture?"
                )


def _within(places: Any, count: int) -> bool:
    return not len(places) or (int(places.min()) >= 0 and int(places.max()) < count)


def _fitting(value: Any, weight: Any, key: str, path: Path) -> Any:
    if value.shape != weight.shape:
        raise ConfigError(f"{path}: {key} has shape {tuple(value.shape)}, and the model's weight {tuple(weight.shape)}")
    return value.to(weight.device)
