"""Sequence parallelism for long contexts: S ranks share each row of tokens.

Every rank of a group computes L / S columns of the same rows. Inside attention alone, an all-to-all
gives it whole rows of a share of the heads, and a second one brings its columns back (DeepSpeed-Ulysses,
Jacobs et al. 2023, arXiv:2309.14509). So activations take an S-th of the memory.

To DeepSpeed all ranks are data ranks that hold a part of the loss each: it partitions, divides and saves
as it does without, and a checkpoint does not know S. Its own class (UlyssesSPAttentionHF, 0.19.8) is not
used: it gives attention neither masks nor the borders of documents, and wants micro-batches of one size.
Nor is its mpu: with it, ZeRO-3 divides summed gradients by the number of ranks where it scatters them,
and by that of groups where it does not.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional
from transformers import AttentionInterface, PretrainedConfig

from data_prep.errors import ConfigError
from pretrain.model.attention import VARLEN, model_inputs, obstacle, varlen_attention

ULYSSES = "ulysses"  # transformers' name of the attention


def check_model(config: PretrainedConfig, size: int, device: torch.device) -> None:
    """Raise ConfigError where `size` ranks cannot share the model's attention.

    `config` is that of the built model, for `config.dtype` is the one trained in.
    """
    found = obstacle(device, config)
    heads = config.get_text_config().num_attention_heads
    if not found and heads % size:
        found = f"the model's {heads} attention heads are no multiple of it"
    if found:
        raise ConfigError(
            f"training.sequence_parallel: found {size}, which this model cannot be trained with, for "
            f"{found}; change that or set it to 1"
        )


@dataclass(frozen=True)
class SequenceParallel:
    """The ranks that share this rank's rows: `size` consecutive ones, of which it is number `rank`."""

    size: int
    rank: int
    group: dist.ProcessGroup

    @classmethod
    def create(cls, size: int) -> "SequenceParallel":
        """Divide the world into groups of `size`, which divides it; all ranks call this at once."""
        group, _ = dist.new_subgroups(size)
        return cls(size, dist.get_rank(group), group)

    def attach(self, model: Any) -> None:
        """Let the attention of a transformers model, with adapters or without, go through the group.

        The model is one that passes `check_model`.
        """
        # Of a name without a mask function, transformers makes no mask (masking_utils, checked with 5.23).
        AttentionInterface.register(ULYSSES, self.attention)
        model.set_attn_implementation(ULYSSES)

    def columns(self, rows: torch.Tensor, filler: int) -> torch.Tensor:
        """This rank's columns (B, ceil(L / S)) of `rows` (B, L), which `filler` makes long enough."""
        filled = functional.pad(rows, (0, -rows.shape[1] % self.size), value=filler)
        return filled.chunk(self.size, dim=1)[self.rank].contiguous()

    @torch.no_grad()
    def whole_rows(self, columns: torch.Tensor, length: int) -> torch.Tensor:
        """Rows (B, length, ...) from every rank's columns, without their gradient."""
        parts = [torch.empty_like(columns) for _ in range(self.size)]
        dist.all_gather(parts, columns.contiguous(), group=self.group)
        return torch.cat(parts, dim=1)[:, :length]

    def model_inputs(self, tokens: torch.Tensor, position_ids: torch.Tensor) -> dict[str, Any]:
        """As pretrain.model.attention.model_inputs: of this rank's columns, with the borders of whole rows.

        Tokens and position_ids (B, L). Columns that are added to the rows are documents of one token.
        """
        missing = -position_ids.shape[1] % self.size
        filled = functional.pad(position_ids, (0, missing))
        inputs = model_inputs(functional.pad(tokens, (0, missing)), filled, VARLEN)
        own = {key: self.columns(inputs[key], 0) for key in ("input_ids", "position_ids")}
        return inputs | own

    @torch.compiler.disable  # torch 2.13 cannot trace the exchange
    def attention(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        """An attention function of transformers over columns: pretrain.model.attention.varlen_attention of whole rows.

        (B, H, L / S, D) query, (B, K, L / S, D) key and value to (B, L / S, H, D).
        """
        query, key, value = self._heads_of_whole_rows(query, key, value)
        rows, _ = varlen_attention(module, query, key, value, attention_mask, **options)
        return self._columns_of_all_heads(rows), None

    # ---- the exchange ----------------------------------------------------------------------

    def _heads_of_whole_rows(self, *parts: torch.Tensor) -> list[torch.Tensor]:
        """(B, H, L / S, D) each to (B, H / S, L, D), in one exchange."""
        # Keys and values of too few heads, or of a number that S does not divide, are sent repeatedly.
        by_rank = [
            part.repeat_interleave(
                self.size // math.gcd(part.shape[1], self.size), dim=1
            ).unflatten(1, (self.size, -1))
            for part in parts
        ]
        sent = torch.cat(by_rank, dim=2).transpose(0, 1)
        received = _Exchange.apply(sent, self.group)  # place i: the columns of rank i
        rows = received.permute(1, 2, 0, 3, 4).flatten(2, 3)
        return list(rows.split([part.shape[2] for part in by_rank], dim=1))

    def _columns_of_all_heads(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, L, H / S, D) to (B, L / S, H, D)."""
        sent = rows.unflatten(1, (self.size, -1)).transpose(0, 1)
        received = _Exchange.apply(sent, self.group)  # place i: the heads of rank i
        return received.permute(1, 2, 0, 3, 4).flatten(2, 3)


class _Exchange(torch.autograd.Function):
    """All-to-all: place i of the first dimension goes to rank i of the group; gradients come back alike."""

    @staticmethod
    def forward(ctx: Any, sent: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        sent = sent.contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Exchange.forward(ctx, gradients[0], ctx.group), None
