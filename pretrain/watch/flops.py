"""What a step computes: FLOPs that the model needs, and those that a card can do.

Counted as in PaLM's appendix B (arXiv:2204.02311) and llm-foundry's table of throughputs, so that figures
compare: multiplications of weights and of attention, two FLOPs each (multiply, add), forward and backward.
What is computed twice to save memory does not count (model FLOPs utilisation, not the hardware's), nor do
norms, softmax and embedding look-ups. Every token counts as attending to the whole sequence, although the causal
half, and with attention inside documents less than that, is enough.
"""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

# A weight's FLOPs for a token: forward, gradient of its input, gradient of itself. The second is left out where
# nothing below is trained, the third where the weight is frozen.
FORWARD, OF_INPUT, OF_WEIGHT = 2, 2, 2
MIXTURE_OF_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")

# Dense peaks in TFLOP/s of 16-bit numbers multiplied on tensor cores and added up in fp32, by a pattern in the
# name that CUDA gives; the first that is found. From NVIDIA's data sheets (where those state figures with
# sparsity, half of them), GeForce from the architectures' white papers.
PEAKS = {
    r"GB200": 2500,  # "GB200 NVL72"
    r"B200": 2250,  # "DGX B200", eight of them 36 PFLOP/s with sparsity
    r"GH200": 990,  # "GH200 Grace Hopper Superchip"
    r"H200 NVL": 835,  # "H200 Tensor Core GPU"
    r"H200": 989,
    r"H100 NVL": 835,  # "H100 Tensor Core GPU"
    r"H100 PCIe": 756,
    r"H100": 989,
    r"A100": 312,  # "A100 Tensor Core GPU"
    r"A40\b": 149.7,  # "A40"
    r"A30\b": 165,  # "A30 Tensor Core GPU"
    r"A10\b": 125,  # "A10 Tensor Core GPU"; an A10G is another card
    r"L40S": 362,  # "L40S"
    r"L40\b": 181,  # "L40"
    r"L4\b": 121,  # "L4 Tensor Core GPU"
    r"V100S": 130,  # "V100"
    r"V100-PCIE": 112,
    r"V100": 125,
    r"T4\b": 65,  # "T4 Tensor Core GPU"
    r"RTX 5090(?! D| Laptop)": 209.5,  # "NVIDIA RTX Blackwell GPU architecture"
    r"RTX 4090(?! D| Laptop)": 165.2,  # "NVIDIA Ada GPU architecture"
    r"RTX 3090 Ti": 80,  # "NVIDIA Ampere GA102 GPU architecture"
    r"RTX 3090": 71,
}
WITHOUT_BF16 = r"V100|T4\b"
PART_OF_A_CARD = r"\bMIG\b"


def flops_per_token(model: nn.Module, config: Any, sequence_length: int) -> float | None:
    """FLOPs of one token, forward and backward; None for a mixture of experts, which uses some of its weights.

    `model` may have adapters, frozen weights and weights partitioned by ZeRO-3; `config` is transformers' own.
    With everything trained it is 6 x (weights of linear layers, the output head among them) + 12 x layers x
    heads x size of a head x sequence_length.
    """
    if any((getattr(config, key, None) or 1) > 1 for key in MIXTURE_OF_EXPERTS):
        return None
    if not hasattr(config, "num_attention_heads"):  # Mamba and its like
        return None
    head = model.get_output_embeddings()  # type: ignore[operator]
    weights = 0.0  # FLOPs
    layers = below = (
        0  # weights of linear layers but for the head, and those of them below all that is trained
    )
    reached = False
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D):
            size = getattr(module.weight, "ds_numel", module.weight.numel())
            trained = module.weight.requires_grad
            weights += size * (FORWARD + OF_INPUT * reached + OF_WEIGHT * trained)
            reached |= trained
            if module is not head:
                layers += size
                below += size * (not reached)
        else:
            reached |= any(p.requires_grad for p in module.parameters(recurse=False))
    above = 1 - below / layers if layers else 1.0
    # Two products of activations (scores, and values by scores), each with two gradients.
    attention = 2 * FORWARD * (1 + 2 * above) * _attention_width(config) * sequence_length
    return weights + attention


def _attention_width(config: Any) -> int:
    """layers x query heads x size of a head."""
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers * heads * size


def peak_flops(device_name: str, precision: str) -> float | None:
    """The most FLOP/s that a card does in `precision`; None for one not known, a part of one, and fp32."""
    lacking = precision == "bf16" and re.search(WITHOUT_BF16, device_name)
    if precision == "fp32" or lacking or re.search(PART_OF_A_CARD, device_name):
        return None
    found = (peak for pattern, peak in PEAKS.items() if re.search(pattern, device_name))
    peak = next(found, None)
    return None if peak is None else peak * 1e12


@dataclass(frozen=True)
class Speed:
    """What turns tokens a second into FLOP/s and model FLOPs utilisation (MFU)."""

    flops_per_token: float | None
    peak: float | None  # FLOP/s of all cards together

    def of(self, tokens_per_second: float) -> dict[str, float]:
        """model_flops_per_second and mfu, a fraction, as far as they are known."""
        if self.flops_per_token is None:
            return {}
        rate = self.flops_per_token * tokens_per_second
        known = {"model_flops_per_second": rate}
        return known if self.peak is None else known | {"mfu": rate / self.peak}
