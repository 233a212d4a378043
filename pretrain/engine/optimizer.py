"""The optimizers: AdamW, Lion, Muon, with their groups of parameters.

Weights with two or more dimensions decay, norms and biases do not (as GPT-2 and LLaMA did). All states
are in fp32, whatever the precision of the model: ZeRO gives an optimizer its own fp32 copies.

AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101): two moments, 8 bytes a parameter.
Lion (Chen et al. 2023, arXiv:2302.06675): one, 4 bytes; its updates are signs, all of one size, so the
learning rate is 3 to 10 times smaller than AdamW's and the decay as much larger (the paper, section 5).
Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum, then orthogonalised,
for the matrices inside the model; embeddings, head and vectors go to AdamW. Scaled as by Liu et al. 2025
(arXiv:2502.16982), so that both take AdamW's learning rate and decay.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from pretrain.config import Optimizer
from pretrain.engine.deepspeed_config import offload_device
from pretrain.engine.deepspeed_op import load_offload_ops

Group = dict[str, Any]


class Lion(torch.optim.Optimizer):
    """Lion as its paper gives it (arXiv:2302.06675, algorithm 2), fused over each group's tensors.

    u = sign(b1 m + (1 - b1) g);  p <- p - rate (u + decay p);  m <- b2 m + (1 - b2) g.
    Elementwise, so it does the same on ZeRO's partitions as on whole weights. DeepSpeed's own for CPU
    takes 1 for the sign of 0 (0.19.8: csrc/lion/cpu_lion_impl.cpp) and so moves the embeddings of tokens
    that do not occur; it also keeps a second moment that it does not use.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            first, second = group["betas"]
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(parameter)
                state["step"] += 1
            gradients = [parameter.grad for parameter in parameters]
            moments = [self.state[parameter]["exp_avg"] for parameter in parameters]
            updates = torch._foreach_lerp(moments, gradients, 1 - first)
            torch._foreach_sign_(updates)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
            torch._foreach_lerp_(moments, gradients, 1 - second)


def build_optimizer(
    model: torch.nn.Module, settings: Optimizer, deepspeed_settings: dict[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer of a model's trained parameters, to be handed to deepspeed.initialize.

    With offload_optimizer in the DeepSpeed settings, AdamW is DeepSpeed's own for CPU, built on first use;
    ProjectError where it cannot be built. With muon, parameters are tagged for DeepSpeed.
    """
    offloaded = offload_device(deepspeed_settings) != "none"
    load_offload_ops(deepspeed_settings["zero_optimization"], settings.name)
    rate, betas = settings.learning_rate, settings.betas
    if settings.name == "muon":
        return _muon(model, settings)
    groups = parameter_groups(model, settings)
    if settings.name == "lion":
        return Lion(groups, lr=rate, betas=betas)
    if offloaded:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, lr=rate, betas=betas, eps=settings.eps, adamw_mode=True)
    fused = torch.cuda.is_available()
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=settings.eps, fused=fused)


def parameter_groups(model: torch.nn.Module, settings: Optimizer) -> list[Group]:
    """The trained parameters in two groups: those that decay and those that do not."""
    matrices, vectors = _by_dimensions(model)
    groups = [(matrices, settings.weight_decay), (vectors, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step; a group of Muon's takes its own multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_factor", 1.0)


def group_settings(optimizer: torch.optim.Optimizer) -> list[Group]:
    """The settings of each group as they are now, without parameters and learning rate."""
    return [
        {key: value for key, value in group.items() if key not in ("params", "lr")}
        for group in optimizer.param_groups
    ]


def restore_settings(optimizer: torch.optim.Optimizer, settings: list[Group]) -> None:
    """Undo what loading a checkpoint does to the optimizer DeepSpeed was given (deepspeed 0.19.8).

    `settings`: group_settings before deepspeed.initialize. A load brings back those the run was saved
    with, although a change may have been accepted, and step counters that parameters may share, which each
    one's step would advance.
    """
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        for key in set(group) - set(own) - {"params", "lr"}:
            del group[key]  # of another group, or of another optimizer (ratio, bias_correction)
        group |= own
    counts_in_tensor = isinstance(optimizer, torch.optim.AdamW)
    for parameter, state in optimizer.state.items():
        if "step" in state:
            state["step"] = (
                torch.as_tensor(
                    state["step"], dtype=torch.float32, device=_counter_device(optimizer, parameter)
                ).clone()
                if counts_in_tensor
                else int(state["step"])
            )


def _counter_device(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> torch.device:
    """Where torch's AdamW keeps its count: with its kernel, the parameter's device."""
    fused = optimizer.defaults.get("fused")
    return parameter.device if fused else torch.device("cpu")


def _shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """A ZeRO-3 parameter is an empty tensor that knows its whole shape."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _by_dimensions(
    model: torch.nn.Module,
) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """The trained parameters with two or more dimensions, and the others."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if len(_shape(parameter)) >= 2]
    vectors = [parameter for parameter in trained if len(_shape(parameter)) < 2]
    return matrices, vectors


def _muon(model: torch.nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """DeepSpeed's Muon, whose orthogonalisation is in its ZeRO-3; in its own words, MuonWithAuxAdam.

    DeepSpeed multiplies the orthogonalised update of a matrix (rows, columns) by
    sqrt(max(1, rows / columns)); AdamW's size is 0.2 sqrt(max(rows, columns)) (arXiv:2502.16982, equation
    4). What is missing, 0.2 sqrt(columns), is a factor of the group's rate and a divisor of its decay.
    """
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    matrices, vectors = _by_dimensions(model)
    outer = _embeddings_and_head(model)
    by_columns: dict[int, list[torch.nn.Parameter]] = {}
    for parameter in matrices:
        # DeepSpeed's own choice goes by names and would take GPT-2's wte and wpe for inner weights.
        parameter.use_muon = id(parameter) not in outer  # type: ignore[attr-defined]
        if id(parameter) not in outer:
            by_columns.setdefault(_shape(parameter)[-1], []).append(parameter)
    groups: list[Group] = []
    for columns, parameters in sorted(by_columns.items()):
        factor = 0.2 * math.sqrt(columns)
        groups.append(
            {
                "params": parameters,
                "use_muon": True,
                "rate_factor": factor,
                "lr": settings.learning_rate * factor,
                "weight_decay": settings.weight_decay / factor,
                "momentum": settings.momentum,
                "ns_method": "standard",  # the iteration of the sources, in bf16
            }
        )
    outer_matrices = [parameter for parameter in matrices if id(parameter) in outer]
    for parameters, decay in ((outer_matrices, settings.weight_decay), (vectors, 0.0)):
        if parameters:
            groups.append(
                {
                    "params": parameters,
                    "use_muon": False,
                    "lr": settings.learning_rate,
                    "betas": settings.betas,
                    "eps": settings.eps,
                    "weight_decay": decay,
                }
            )
    return MuonWithAuxAdam(groups)


def _embeddings_and_head(model: torch.nn.Module) -> set[int]:
    modules = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    modules += [head] if head is not None else []
    return {id(parameter) for module in modules for parameter in module.parameters()}
