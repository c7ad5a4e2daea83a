"""Language and task adapters in AdapterHub's format give the scores of the library that trained them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import adapterhub_golden as golden
import pytest
import small_encoders as small
import torch
from adapterhub_golden import CASES, FIRST_TOKEN, INV, ONLY_LAST, PAIRS, PLAIN

from clir_cli import compose, config
from clir_cli.errors import ConfigError, LanguageError, MissingModel
from clir_cli.rerankers.cross_encoder import CrossEncoder
from clir_cli.retrievers.dense import Adapter, Dense
from clir_cli.types import Candidates, Journal, Text

SCORES = json.loads(golden.GOLDEN.read_text())["scores"]


def scores(
    reranker: CrossEncoder, query_lang: str = "en", doc_langs: tuple[str, ...] = ("de", "sw", "en")
) -> list[float]:
    found = []
    for (query, doc), lang in zip(PAIRS, doc_langs, strict=True):
        asked = Candidates(Text("q", ((query_lang, query),)), [Text("d", ((lang, doc),))])
        found += list(reranker.rerank([asked], Journal())["score"])
    return found


def close(expected: list[float]) -> Any:
    return pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapterhub")


@pytest.fixture(scope="module")
def base(made: Path) -> str:
    return str(golden.save_base(made / "base", "bert", head=False))


@pytest.fixture(scope="module")
def de(made: Path) -> str:
    return str(golden.save_adapter(made / "de", "bert", "de", INV))


@pytest.fixture(scope="module")
def rank(made: Path) -> str:
    return str(golden.save_adapter(made / "rank", "bert", "rank", {"reduction_factor": 4}, PLAIN))


@pytest.mark.parametrize("case", CASES)
def test_a_stack_scores_as_the_library_scores_it(case: str, tmp_path: Path) -> None:
    kind, stack, how = CASES[case]
    base = golden.save_base(tmp_path / "base", kind, head=how == ONLY_LAST)
    paths = [
        str(
            golden.save_adapter(
                tmp_path / name, kind, name, differs, how if (name, differs) == stack[-1] else ONLY_LAST
            )
        )
        for name, differs in stack
    ]
    assert scores(CrossEncoder(str(base), adapters=tuple(paths), device="cpu")) == close(SCORES[case])


def test_trained_with_english_it_ranks_with_the_adapter_of_the_documents_or_the_querys_language(
    made: Path, base: str, de: str, rank: str
) -> None:
    sw = str(golden.save_adapter(made / "sw", "bert", "sw", INV))
    (cell,) = compose.cells([
        "reranker=cross_encoder_adapters", f"reranker.model={base}", "reranker.device=cpu",
        f"reranker.language_adapters={{de: {de}, sw: {sw}, en: null}}", f"reranker.adapters=[{rank}]",
    ])  # fmt: skip
    by_doc = config.built(cell.plain).reranker
    german, swahili, none = SCORES["MAD-X, German"], SCORES["MAD-X, Swahili"], SCORES["the task alone"]
    assert scores(by_doc) == close([german[0], swahili[1], none[2]])
    by_query = CrossEncoder(
        base, language_adapters={"de": de, "sw": sw}, adapters=(rank,), language_of="query", device="cpu"
    )
    assert scores(by_query, query_lang="sw") == close(swahili)
    with pytest.raises(LanguageError, match="none for 'fr'"):
        by_doc.check_languages(["de"], ["fr"])


def test_an_old_folder_is_read_as_the_library_reads_it(tmp_path: Path, base: str, de: str, rank: str) -> None:
    """Version 1 named weights by adapter type and kept the invertible adapter's settings in a dictionary of their own."""
    for path, kind in ((Path(de), "lang"), (Path(rank), "task")):
        old = tmp_path / path.name
        old.mkdir()
        found = json.loads((path / "adapter_config.json").read_text())
        said = {key: value for key, value in found["config"].items() if not key.startswith(("phm", "inv_", "shared"))}
        said |= {
            "attention_type": "sent-lvl-dynamic", "new_attention_norm": False,
            "invertible_adapter": {"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2},
        }  # fmt: skip
        about = {"name": path.name, "type": f"text_{kind}", "model_type": "bert", "hidden_size": golden.HIDDEN}
        (old / "adapter_config.json").write_text(json.dumps({**about, "config": said}))
        weights = torch.load(path / "pytorch_adapter.bin", weights_only=True)
        renamed = {
            re.sub(r"output\.adapters", f"output.layer_text_{kind}_adapters", key).replace(
                "invertible_adapters", "invertible_lang_adapters"
            ): value
            for key, value in weights.items()
        }
        torch.save(renamed, old / "pytorch_adapter.bin")
        for head in path.glob("*head*"):
            (old / head.name).write_bytes(head.read_bytes())
    stack = (str(tmp_path / "de"), str(tmp_path / "rank"))
    assert scores(CrossEncoder(base, adapters=stack, device="cpu")) == close(SCORES["MAD-X, German"])


def test_safetensors_are_read_as_well_and_a_language_models_head_is_left_out(
    tmp_path: Path, base: str, de: str, rank: str
) -> None:
    from safetensors.torch import save_file

    for path in (Path(de), Path(rank)):
        (tmp_path / path.name).mkdir()
        for file in path.iterdir():
            if file.suffix == ".bin":
                name = {"pytorch_adapter": "adapter", "pytorch_model_head": "model_head"}[file.stem]
                save_file(torch.load(file, weights_only=True), str(tmp_path / path.name / f"{name}.safetensors"))
            else:
                (tmp_path / path.name / file.name).write_bytes(file.read_bytes())
    about = {"config": None, "model_class": "BertForMaskedLM", "model_type": "bert"}
    (tmp_path / "de" / "head_config.json").write_text(json.dumps(about))
    stack = (str(tmp_path / "de"), str(tmp_path / "rank"))
    assert scores(CrossEncoder(base, adapters=stack, device="cpu")) == close(SCORES["MAD-X, German"])
    with pytest.raises(ConfigError, match=r"is no cross-encoder: its config\.json names BertModel"):
        scores(CrossEncoder(base, adapters=stack[:1], device="cpu"))


def changed(folder: Path, to: Path, at: str = "", **values: Any) -> str:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    found = json.loads((to / "adapter_config.json").read_text())
    (found[at] if at else found).update(values)
    (to / "adapter_config.json").write_text(json.dumps(found))
    return str(to)


@pytest.mark.parametrize(
    ("at", "values", "said"),
    [
        ("", {"hidden_size": 768}, "hidden_size 768, and the model 16"),
        ("", {"model_type": "xlm-roberta"}, "model_type xlm-roberta, and the model bert"),
        ("", {"config": {"architecture": "lora", "r": 8}}, "config is lora, not a bottleneck's"),
        ("", {"name": "en"}, r"lacks \d+ weights, as encoder\.layer\.0\.output\.adapters\.en"),
        ("config", {"reduction_factor": 4}, r"adapter_down\.0\.weight has shape \(8, 16\), not \(4, 16\)"),
        ("config", {"reduction_factor": {"0": 2}}, "says nothing for layer 1"),
        ("config", {"mh_adapter": True}, r"lacks \d+ weights, as encoder\.layer\.0\.attention\.output"),
        ("config", {"inv_adapter": None}, "8 of its weights find no place, as invertible_adapters"),
        ("config", {"inv_adapter": "glow"}, "only nice is read"),
        ("config", {"phm_layer": True}, "config has phm_layer=True"),
        ("config", {"is_parallel": True}, "config has is_parallel=True"),
        ("config", {"residual_before_ln": "post_add", "original_ln_before": False}, "with original_ln_before post_add"),
        ("config", {"scaling": "guessed"}, "scaling=guessed: a number, learned or channel"),
        ("config", {"non_linearity": "wave"}, "non_linearity=wave is none that transformers has"),
        ("config", {"non_linearity": None}, "config lacks non_linearity"),
        ("config", {"next_year": 1}, "does not know config's next_year"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(
    at: str, values: dict[str, Any], said: str, tmp_path: Path, base: str, de: str, rank: str
) -> None:
    wrong = changed(Path(de), tmp_path / "wrong", at, **values)
    with pytest.raises(ConfigError, match=said):
        scores(CrossEncoder(base, adapters=(wrong, rank), device="cpu"))


def test_two_readings_of_an_old_invertible_adapter_are_not_chosen_between(
    tmp_path: Path, base: str, de: str, rank: str
) -> None:
    old = changed(Path(de), tmp_path / "old")
    found = json.loads((Path(old) / "adapter_config.json").read_text())
    del found["config"]["inv_adapter"]
    found["config"]["invertible_adapter"] = {"block_type": "nice", "non_linearity": "gelu", "reduction_factor": 2}
    (Path(old) / "adapter_config.json").write_text(json.dumps(found))
    with pytest.raises(ConfigError, match=r"adapter-transformers 1 read the first, adapters 1\.3\.0 reads the second"):
        scores(CrossEncoder(base, adapters=(old, rank), device="cpu"))


def test_weights_that_are_missing_or_no_weights_are_refused(tmp_path: Path, base: str, de: str, rank: str) -> None:
    empty = changed(Path(de), tmp_path / "empty")
    (Path(empty) / "pytorch_adapter.bin").unlink()
    with pytest.raises(MissingModel, match=r"no weights: neither adapter\.safetensors nor pytorch_adapter\.bin"):
        scores(CrossEncoder(base, adapters=(empty, rank), device="cpu"))
    torch.save({"name": Path}, Path(empty) / "pytorch_adapter.bin")  # a pickle that is more than weights
    with pytest.raises(MissingModel, match="cannot be read as weights alone"):
        scores(CrossEncoder(base, adapters=(empty, rank), device="cpu"))
    (Path(empty) / "adapter_config.json").write_text("{")
    with pytest.raises(MissingModel, match=r"adapter_config\.json cannot be read"):
        scores(CrossEncoder(base, adapters=(empty, rank), device="cpu"))


def test_a_head_of_another_form_is_refused(tmp_path: Path, base: str, rank: str) -> None:
    flexible = golden.save_adapter(tmp_path / "rank", "bert", "rank", {"reduction_factor": 4}, FIRST_TOKEN)
    path = flexible / "head_config.json"
    found = json.loads(path.read_text())
    for values, said in (
        ({"layers": 3}, "head in .* is not read: layers=3 activation_function=tanh"),
        ({"num_labels": 2}, "gives 2 labels per pair"),
    ):
        path.write_text(json.dumps({**found, "config": found["config"] | values}))
        with pytest.raises(ConfigError, match=said):
            scores(CrossEncoder(base, adapters=(str(flexible),), device="cpu"))
    path.write_text(json.dumps({**found, "name": "other"}))
    with pytest.raises(ConfigError, match=r"holds heads\.rank\.1\.bias.*not heads\.other"):
        scores(CrossEncoder(base, adapters=(str(flexible),), device="cpu"))


def test_an_encoder_that_takes_one_adapter_says_who_takes_this_one(tmp_path: Path, de: str) -> None:
    base = small.bert(tmp_path / "base")
    encoder = Dense(str(base), pooling="mean", doc_adapter=Adapter(de), device="cpu")
    with pytest.raises(ConfigError, match=r"no peft adapter but AdapterHub's, which cross-encoders take"):
        encoder.load()
