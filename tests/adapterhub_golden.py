"""Small cross-encoders and adapters whose weights are a formula of their names, in the format of AdapterHub's library `adapters`.

Run by a Python that has that library it checks that the folders written here are the ones that the library saves, and
writes into adapterhub_golden.json the scores that the library computes:

    pip install adapters==1.3.0 torch==2.13.0 && python tests/adapterhub_golden.py
"""

from __future__ import annotations

import json
import math
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch

GOLDEN = Path(__file__).with_suffix(".json")
HIDDEN, LAYERS = 16, 2
PAIRS = [
    ("where does the cat sit", "die katze sitzt auf der matte"),
    ("where does the cat sit", "paka ameketi juu ya mkeka"),
    ("nairobi rains", "the cat"),
]
WORDS = list(dict.fromkeys(" ".join(f"{query} {doc}" for query, doc in PAIRS).split()))
SPECIAL = {"bert": ["[CLS]", "[PAD]", "[SEP]", "[UNK]"], "xlm-roberta": ["<s>", "<pad>", "</s>", "<unk>"]}
PREFIX = {"bert": "bert.", "xlm-roberta": "roberta."}
CLASS = {"bert": "BertForSequenceClassification", "xlm-roberta": "XLMRobertaForSequenceClassification"}

# `config` of adapter_config.json as adapters 1.3.0 writes it, for its architecture seq_bn
SEQ_BN: dict[str, Any] = {
    "adapter_residual_before_ln": False, "cross_adapter": False, "dropout": 0.0, "factorized_phm_W": True,
    "factorized_phm_rule": False, "hypercomplex_nonlinearity": "glorot-uniform", "init_weights": "bert",
    "init_weights_seed": None, "inv_adapter": None, "inv_adapter_reduction_factor": None, "is_parallel": False,
    "learn_phm": True, "leave_out": [], "ln_after": False, "ln_before": False, "mh_adapter": False,
    "non_linearity": "relu", "original_ln_after": True, "original_ln_before": True, "output_adapter": True,
    "phm_bias": True, "phm_c_init": "normal", "phm_dim": 4, "phm_init_range": 0.0001, "phm_layer": False, "phm_rank": 1,
    "reduction_factor": 2, "residual_before_ln": True, "scaling": 1.0, "shared_W_phm": False, "shared_phm_rule": True,
    "stochastic_depth": 0.0, "use_gating": False,
}  # fmt: skip
INV = {"inv_adapter": "nice", "inv_adapter_reduction_factor": 2}
DOUBLE = {"mh_adapter": True, "original_ln_before": False, "non_linearity": "swish"}
PLAIN, ONLY_LAST, FIRST_TOKEN = "own head", "no head", "head on the first token"  # how a stack is saved
# model, [(adapter, how it differs from seq_bn), ...], its head; the last adapter is the task's
CASES: dict[str, tuple[str, list[tuple[str, dict[str, Any]]], str]] = {
    "MAD-X, German": ("bert", [("de", INV), ("rank", {"reduction_factor": 4})], PLAIN),
    "MAD-X, Swahili": ("bert", [("sw", INV), ("rank", {"reduction_factor": 4})], PLAIN),
    "the task alone": ("bert", [("rank", {"reduction_factor": 4})], PLAIN),
    "a language alone, on a trained head": ("bert", [("de", INV)], ONLY_LAST),
    "the head of an AdapterModel": ("bert", [("de", INV), ("rank", {})], FIRST_TOKEN),
    "MAD-X on XLM-R": ("xlm-roberta", [("de", INV), ("rank", {"reduction_factor": 16})], PLAIN),
    "the head of an AdapterModel on XLM-R": ("xlm-roberta", [("de", INV), ("rank", {})], FIRST_TOKEN),
    "Houlsby": ("xlm-roberta", [("de", {**DOUBLE, **INV}), ("rank", DOUBLE)], PLAIN),
    "MAD-X 2.0, no language adapter in the last layer": (
        "xlm-roberta", [("de", {**INV, "leave_out": [1]}), ("rank", {})], PLAIN),
    "of two invertible ones only the first": ("bert", [("de", INV), ("sw", INV), ("rank", INV)], PLAIN),
    "around the bottleneck before the LayerNorm, after the sum": (
        "bert", [("de", {"residual_before_ln": "post_add", "non_linearity": "gelu"}),
                 ("rank", {"residual_before_ln": "post_add"})], PLAIN),
    "around the bottleneck after the LayerNorm": (
        "bert", [("de", {"residual_before_ln": False, "non_linearity": "gelu_new"}),
                 ("rank", {"residual_before_ln": False})], PLAIN),
    "norms of its own": (
        "bert", [("de", {"ln_before": True}), ("rank", {"ln_after": True, **DOUBLE})], PLAIN),
    "norms of its own around the residual": (
        "bert", [("de", {"ln_after": True, "adapter_residual_before_ln": True, "ln_before": True}),
                 ("rank", {"ln_after": True, "adapter_residual_before_ln": True})], PLAIN),
    "Adapter+": (
        "bert", [("de", {"scaling": "learned", "reduction_factor": {"0": 8, "default": 2}, "non_linearity": "leakyrelu"}),
                 ("rank", {"original_ln_after": False, "residual_before_ln": False, "scaling": "channel"})], PLAIN),
}  # fmt: skip


def formula(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight of this name: a chirp whose phase is the name's checksum; near 1 where 1 changes nothing."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    wave = torch.sin(0.013 * i * i + 1.7 * i + zlib.crc32(name.encode()) % 1000)
    near_one = name.endswith(("LayerNorm.weight", "norm_before.weight", "norm_after.weight", "scaling"))
    return ((1 + 0.3 * wave) if near_one else 0.4 * wave).to(torch.float32).reshape(shape)


def fill(network: Any, prefix: str = "") -> None:
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(formula(_norm(prefix + name, network), tuple(value.shape)))


def _norm(name: str, network: Any) -> str:
    """A LayerNorm before a bottleneck has two names: this is the one it goes by."""
    other = name.replace("adapter_down.0.", "adapter_norm_before.")
    return other if other != name and other in network.state_dict() else name


def save_base(folder: Path, kind: str, *, head: bool) -> Path:
    """A model of its own words without a scoring head, as multilingual BERT comes, or with one."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    start, pad, end, unknown = SPECIAL[kind]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL[kind], *WORDS])}, unk_token=unknown))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = f"{start} $A {end} $B:1 {end}:1" if kind == "bert" else f"{start} $A {end} {end} $B {end}"
    words.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", pair=pair, special_tokens=[(start, 0), (end, 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=pad, unk_token=unknown, cls_token=start, sep_token=end,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    size = {
        "vocab_size": len(SPECIAL[kind]) + len(WORDS), "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 514, "pad_token_id": 1,
        "type_vocab_size": 2,
    }  # fmt: skip
    size |= {"num_labels": 1} if head else {}
    name = CLASS[kind] if head else CLASS[kind].replace("ForSequenceClassification", "Model")
    config = getattr(transformers, name.replace("ForSequenceClassification", "").replace("Model", "") + "Config")(
        **size
    )
    network = getattr(transformers, name)(config)
    fill(network, "" if head else PREFIX[kind])
    network.save_pretrained(folder)
    return folder


def adapter_weights(kind: str, name: str, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of an adapter by their names in the library's files."""
    shapes: dict[str, tuple[int, ...]] = {}
    sites = [site for site, has in (("attention.output", "mh_adapter"), ("output", "output_adapter")) if config[has]]
    for i in (i for i in range(LAYERS) if i not in config["leave_out"]):
        factor = config["reduction_factor"]
        factor = factor.get(str(i), factor["default"]) if isinstance(factor, dict) else factor
        narrow, first = max(int(HIDDEN // factor), 1), int(config["ln_before"])
        for at in (f"encoder.layer.{i}.{site}.adapters.{name}." for site in sites):
            if isinstance(config["scaling"], str):
                shapes[f"{at}scaling"] = (1 if config["scaling"] == "learned" else HIDDEN,)
            for norm, has in (
                ("adapter_norm_before", "ln_before"),
                ("adapter_down.0", "ln_before"),
                ("adapter_norm_after", "ln_after"),
            ):
                if config[has]:
                    shapes |= {f"{at}{norm}.weight": (HIDDEN,), f"{at}{norm}.bias": (HIDDEN,)}
            shapes |= {
                f"{at}adapter_down.{first}.weight": (narrow, HIDDEN),
                f"{at}adapter_down.{first}.bias": (narrow,),
            }
            shapes |= {f"{at}adapter_up.weight": (HIDDEN, narrow), f"{at}adapter_up.bias": (HIDDEN,)}
    if config["inv_adapter"]:
        half = HIDDEN // 2
        narrow = half // config["inv_adapter_reduction_factor"]
        for at in (f"invertible_adapters.{name}.{part}" for part in ("F", "G")):
            shapes |= {f"{at}.0.weight": (narrow, half), f"{at}.0.bias": (narrow,)}
            shapes |= {f"{at}.2.weight": (half, narrow), f"{at}.2.bias": (half,)}
    found = {}
    for key, shape in shapes.items():
        first_norm = config["ln_before"] and "adapter_down.0." in key
        called = key.replace("adapter_down.0.", "adapter_norm_before.") if first_norm else key
        found[PREFIX[kind] + key] = formula(PREFIX[kind] + called, shape)
    return found


def head_weights(kind: str, how: str, name: str) -> dict[str, torch.Tensor]:
    if how == FIRST_TOKEN:
        at, shapes = f"heads.{name}.", {"1": (HIDDEN, HIDDEN), "4": (1, HIDDEN)}
    else:
        at, shapes = "classifier", {"": (1, HIDDEN)}
        if kind != "bert":
            shapes = {".dense": (HIDDEN, HIDDEN), ".out_proj": (1, HIDDEN)}
    names = {
        f"{at}{part}.{w}": shape if w == "weight" else shape[:1]
        for part, shape in shapes.items()
        for w in ("weight", "bias")
    }
    return {key: formula(key, shape) for key, shape in names.items()}


def save_adapter(folder: Path, kind: str, name: str, differs: dict[str, Any], how: str = ONLY_LAST) -> Path:
    """The folder of an adapter, file for file and key for key as adapters 1.3.0 saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = SEQ_BN | differs
    flexible = CLASS[kind].replace("ForSequenceClassification", "AdapterModel")
    about = {
        "hidden_size": HIDDEN, "model_class": flexible if how == FIRST_TOKEN else CLASS[kind], "model_name": "",
        "model_type": kind, "version": "adapters.1.3.0",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({**about, "config": config, "name": name}, indent=2))
    torch.save(adapter_weights(kind, name, config), folder / "pytorch_adapter.bin")
    if how != ONLY_LAST:
        head: dict[str, Any] = {"config": None, "name": None, "num_labels": 1, "label2id": {"LABEL_0": 0}}
        if how == FIRST_TOKEN:
            built = {
                "activation_function": "tanh", "bias": True, "dropout_prob": None, "head_type": "classification",
                "label2id": {"LABEL_0": 0}, "layers": 2, "num_labels": 1, "use_pooler": False,
            }  # fmt: skip
            head = {"config": built, "name": name}
        (folder / "head_config.json").write_text(json.dumps({**about, **head}, indent=2))
        torch.save(head_weights(kind, how, name), folder / "pytorch_model_head.bin")
    return folder


# What only a Python with the library runs -----------------------------------------------------------------------------


def by_the_library(folder: Path, kind: str, stack: list[tuple[str, dict[str, Any]]], how: str) -> list[float]:
    """The scores of PAIRS by the library, which reads the folders written here; they must be the ones it writes itself."""
    import adapters
    import transformers
    from adapters.composition import Stack

    base = save_base(folder / "base", kind, head=how == ONLY_LAST)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    if how == FIRST_TOKEN:
        network = adapters.AutoAdapterModel.from_pretrained(base)
    else:
        network = getattr(transformers, CLASS[kind]).from_pretrained(base, num_labels=1)
        adapters.init(network)
    for i, (name, differs) in enumerate(stack):
        head = how if i == len(stack) - 1 else ONLY_LAST
        written = save_adapter(folder / name, kind, name, differs, head)
        network.load_adapter(str(written), with_head=head != ONLY_LAST)
    network.set_active_adapters(Stack(*(name for name, _ in stack)))
    for name, _ in stack:
        theirs = folder / f"{name} as the library saves it"
        network.save_adapter(str(theirs), name, with_head=how != ONLY_LAST)
        for path in (folder / name).iterdir():
            check_same(path, theirs / path.name)
    with torch.no_grad():
        return [float(network.eval()(**tokenizer(q, d, return_tensors="pt")).logits[0, 0]) for q, d in PAIRS]


def check_same(mine: Path, theirs: Path) -> None:
    if mine.suffix == ".json":
        told = (
            {"model_name", "model_class"} if mine.name == "adapter_config.json" else {"model_name"}
        )  # differ by what loads
        one, other = (json.loads(path.read_text()) | dict.fromkeys(told) for path in (mine, theirs))
        assert one == other, (mine, one, other)
        return
    one, other = (torch.load(path, weights_only=True) for path in (mine, theirs))
    assert set(one) == set(other), (mine, set(one) ^ set(other))
    assert all(torch.equal(one[key], other[key]) for key in one), mine


if __name__ == "__main__":
    import datetime

    import adapters
    import transformers

    with tempfile.TemporaryDirectory() as made:
        scores = {case: by_the_library(Path(made) / str(i), *parts) for i, (case, parts) in enumerate(CASES.items())}
    by = {"adapters": adapters.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    GOLDEN.write_text(json.dumps({"by": by | {"on": f"{datetime.date.today()}"}, "scores": scores}, indent=1) + "\n")
