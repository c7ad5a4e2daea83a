"""Encoders in 8 bits on a CPU: the first half of every feed-forward block of a BERT or RoBERTa, the rest in bfloat16.

Weights have one scale per output, inputs one scale and one lowest value per token, taken as they come (no calibration).
Each input dimension is first divided by the size that LayerNorm's weights give it, and the weights are multiplied by it
(SmoothQuant, Xiao et al. 2023, with LayerNorm in place of calibration data), so that a few large dimensions do not decide
the scale. Only this layer is in 8 bits: with the second half or the attention's projections too, MiniLM's vectors come
below cosine 0.999.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clir_cli.errors import ConfigError

if TYPE_CHECKING:
    import torch

SPREAD = 3.0  # a normalised dimension is mostly within so many of LayerNorm's weights around its bias


def quantise(model: Any, field: str) -> None:
    """Replace the layers, in place. Raises ConfigError naming `field` for a machine or a model that it does not fit."""
    import torch

    if model.device.type != "cpu":
        raise ConfigError(f"{field} is for CPUs; on {model.device} choose bfloat16 or float16")
    if not torch.cpu._is_vnni_supported():
        raise ConfigError(
            f"{field} needs a CPU with AVX-512 VNNI, which this one lacks: choose float32 with compile=true"
        )
    blocks = [block for block in model.modules() if _fits(block)]
    if not blocks:
        body = getattr(model[0], "model", model[0])
        raise ConfigError(
            f"{field} knows the layers of BERT and RoBERTa (LaBSE, mE5, BGE-M3, MiniLM), and {type(body).__name__} has others: "
            "choose bfloat16 or float32"
        )
    for block in blocks:
        block.intermediate.dense = _linear(block.intermediate.dense, block.attention.output.LayerNorm)


def _fits(block: Any) -> bool:
    from torch import nn

    norm = getattr(getattr(getattr(block, "attention", None), "output", None), "LayerNorm", None)
    return isinstance(norm, nn.LayerNorm) and isinstance(
        getattr(getattr(block, "intermediate", None), "dense", None), nn.Linear
    )


def _linear(layer: torch.nn.Linear, norm: torch.nn.LayerNorm) -> torch.nn.Module:
    """The layer with weights in 8 bits, for inputs that come out of `norm`."""
    import torch

    weight = layer.weight.detach().float()
    smooth = (norm.weight.abs() * SPREAD + norm.bias.abs()).detach().float().clamp_min(1e-5)
    weight = weight * smooth
    scales = weight.abs().amax(1).clamp_min(1e-12) / 127
    rounded = (weight / scales[:, None]).round().to(torch.int8)
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float()

    class Int8Linear(torch.nn.Module):
        """Rows (..., inputs) to (..., outputs) in their own dtype, multiplied as unsigned by signed 8-bit numbers."""

        weight: torch.Tensor
        scales: torch.Tensor
        zeros: torch.Tensor
        sums: torch.Tensor
        bias: torch.Tensor
        shrink: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.ops.onednn.qlinear_prepack(rounded, None))
            self.register_buffer("scales", scales)
            self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))
            self.register_buffer("sums", rounded.float().sum(1) * scales)  # what an input of all ones gives
            self.register_buffer("bias", bias)
            self.register_buffer("shrink", 1 / smooth)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            rows = inputs.float() * self.shrink
            lowest = rows.amin(-1, keepdim=True)
            step = ((rows.amax(-1, keepdim=True) - lowest) / 255).clamp_min(1e-12)
            # compiled, the range may come from numbers that were rounded to bfloat16 and the rows not: stay within 8 bits
            coded = ((rows - lowest) / step).round().clamp(0, 255).to(torch.uint8)
            product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
                coded, 1.0, 0, self.weight, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )
            return (product * step + (lowest * self.sums + self.bias)).to(inputs.dtype)

    return Int8Linear()
