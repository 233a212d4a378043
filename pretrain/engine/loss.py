"""The training loss: summed over trained tokens, to be divided by their number in the global batch.

The output head computes it itself, some tokens at a time, so that the logits of a whole micro-batch
never exist (4 GB in fp32 for 8,192 tokens and a vocabulary of 128,000, several times over). Its gradient
is computed in the same pass (as Liger does, arXiv:2410.10989), for a loss whose gradient is 1, and scaled
when autograd asks for it: nothing is recomputed and the weight is not needed again.

Own code, because torch.nn.functional.linear_cross_entropy (torch 2.13) sums a bf16 loss in bf16, DeepSpeed's
vocab_parallel_linear_cross_entropy projects twice and waits for the GPU, Liger needs triton, and none of
them has the z-loss.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pretrain.data.batch import IGNORED

# Logits that exist at a time: 0.5 GB in fp32, a thousand tokens of a vocabulary of 128,000; with fewer,
# the sums over chunks of the weight's gradient take longer than the products.
CHUNK_ELEMENTS = 2**27
# The smallest fp16 numbers are 6e-8, as small as a probability; 1,024 times as large they stay exact.
FP16_SHIFT = 1024.0


def following(labels: torch.Tensor) -> torch.Tensor:
    """(B, L): the label that each place predicts, of unshifted `labels` (B, L); nothing at a row's end."""
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def trained_places(predicted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(places, targets), each (T,) int64: where a trained token is predicted from, and that token.

    `predicted` is what `following` gives, or columns of it; places count through B x L. On the CPU,
    please: the number of places decides shapes, and a GPU would be waited for.
    """
    flat = predicted.flatten()
    places = (flat != IGNORED).nonzero().flatten()
    return places, flat[places]


def loss_of_logits(
    logits: torch.Tensor, places: torch.Tensor, targets: torch.Tensor, z_loss: float
) -> torch.Tensor:
    """(2,) fp32: the summed loss with its z term, and the z term alone, of whole logits (…, V)."""
    predicted = logits.flatten(0, -2)[places]
    predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
    z_term = z_loss * predicted.logsumexp(-1).square().sum()
    return torch.stack(
        (functional.cross_entropy(predicted, targets, reduction="sum") + z_term, z_term.detach())
    )


class LossHead(nn.Linear):
    """An output head that, while targets are set, gives the loss in place of the logits.

    An existing head becomes one (`loss_head`) and keeps its parameters under their names, so that
    checkpoints and exports know nothing of it. Under ZeRO-3, DeepSpeed's hooks of this module gather the
    weight: it is whole in here only.
    """

    _aim: tuple[torch.Tensor, torch.Tensor, float] | None = None

    @contextmanager
    def aimed_at(
        self, places: torch.Tensor, targets: torch.Tensor, z_loss: float
    ) -> Iterator[None]:
        """Give, for hidden states (…, H), what `loss_of_logits` gives for their logits (…, V)."""
        self._aim = (places, targets, z_loss)
        try:
            yield
        finally:
            self._aim = None

    @torch.compiler.disable  # the number of trained tokens changes from batch to batch
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._aim is None:
            return super().forward(hidden)
        places, targets, z_loss = self._aim
        chosen = hidden.flatten(0, -2).index_select(0, places)
        total, z_term = _ChunkedLoss.apply(
            chosen, self.weight, self.bias, targets, z_loss, torch.is_grad_enabled()
        )
        return torch.stack((total, z_term))


def loss_head(model: Any) -> LossHead | None:
    """The output head of a transformers model, now a LossHead; none where it is no plain linear layer."""
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return None
    head.__class__ = LossHead  # type: ignore[assignment]
    return cast(LossHead, head)


@torch.no_grad()
def passes_on(forward: Callable[[], torch.Tensor], head: LossHead) -> bool:
    """Whether the model gives what its head gives: some scale or cap the logits afterwards (Gemma 2, Cohere).

    `forward` runs the model on a few tokens and gives its logits; every rank must call this at once.
    """
    given: list[torch.Tensor] = []

    def replace(_module: Any, _inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        # Both small numbers and such as only a cap would change.
        known = torch.linspace(-100, 100, logits.numel(), device=logits.device)
        given.append(known.view_as(logits).to(logits.dtype))
        return given[-1]

    hook = head.register_forward_hook(replace)
    try:
        found = forward()
    finally:
        hook.remove()
    return len(given) == 1 and torch.equal(found.float().flatten(), given[0].float().flatten())


class _ChunkedLoss(torch.autograd.Function):
    """(summed loss with its z term, z term) of hidden states (T, H); fp32, or fp64 of fp64."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        z_loss: float,
        differentiate: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        of_hidden, of_weight, of_bias = (
            differentiate and needed for needed in ctx.needs_input_grad[:3]
        )
        wide = torch.promote_types(hidden.dtype, torch.float32)
        # A GPU multiplies 16-bit numbers and adds up in fp32; elsewhere both are done in fp32.
        narrow = hidden.dtype if hidden.is_cuda else wide
        shift = FP16_SHIFT if narrow == torch.float16 else 1.0
        inputs, matrix = hidden.to(narrow), weight.to(narrow)
        loss, z_sum = (hidden.new_zeros((), dtype=wide) for _ in range(2))
        hidden_gradient = torch.empty_like(hidden, dtype=wide) if of_hidden else None
        weight_gradient = torch.zeros_like(weight, dtype=wide) if of_weight else None
        bias_gradient = torch.zeros_like(bias, dtype=wide) if bias is not None and of_bias else None
        rows = max(1, CHUNK_ELEMENTS // len(weight))
        for first in range(0, len(hidden), rows):
            part, target = inputs[first : first + rows], targets[first : first + rows, None]
            logits = _product(part, matrix.t(), wide)
            if bias is not None:
                logits += bias
            largest = logits.amax(1, keepdim=True)
            chosen = logits.gather(1, target)
            # From here on `logits` becomes, in place, what the names say: memory is the point.
            exponentials = logits.sub_(largest).exp_()
            total = exponentials.sum(1, keepdim=True)
            normalizer = total.log() + largest  # log(sum(exp(logits)))
            loss += (normalizer - chosen).sum()
            z_sum += normalizer.square().sum()
            if not (of_hidden or of_weight or of_bias):
                continue
            # Softmax, times what the z term adds, less one at the target.
            slope = exponentials.mul_((1 + 2 * z_loss * normalizer) / total)
            slope.scatter_(1, target, slope.gather(1, target) - 1)
            if bias_gradient is not None:
                bias_gradient += slope.sum(0)
            slope = slope.mul_(shift).to(narrow) if shift != 1 else slope.to(narrow)
            if hidden_gradient is not None:
                hidden_gradient[first : first + rows] = _product(slope, matrix, wide)
            if weight_gradient is not None:
                _add_product(weight_gradient, slope.t(), part)
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.shift = shift
        z_term = z_loss * z_sum
        ctx.mark_non_differentiable(z_term)
        return loss + z_term, z_term

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, _of_z_term: Any) -> tuple[Any, ...]:
        shifts = (ctx.shift, ctx.shift, 1.0)
        scaled = (
            None if saved is None else _scaled(saved, gradient / shift, dtype)
            for saved, shift, dtype in zip(ctx.saved_tensors, shifts, ctx.dtypes, strict=True)
        )
        return (*scaled, None, None, None)


def _scaled(values: torch.Tensor, factor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """values x factor, rounded once, without another tensor between."""
    return torch.mul(values, factor, out=torch.empty_like(values, dtype=dtype))


def _product(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """left @ right, added up and given in `dtype`."""
    if left.dtype == dtype:
        return left @ right
    return torch.mm(left, right, out_dtype=dtype)  # CUDA only


def _add_product(into: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """into += left @ right, added up in the precision of `into`."""
    if left.dtype == into.dtype:
        into.addmm_(left, right)
    else:
        torch.addmm(into, left, right, out_dtype=into.dtype, out=into)  # CUDA only
