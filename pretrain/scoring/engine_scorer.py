"""lm-eval's model on top of a model that many ranks hold together.

Under ZeRO-3 a forward pass is a collective: all ranks must do equally many (issue 2951 of DeepSpeed and
others hang where they do not). So every rank is given all requests, computes its share of their batches,
and all answers are gathered.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pretrain import distributed
from pretrain.distributed import Ranks
from pretrain.scoring.evaluation import QuietScorer, quiet

WIDTH_STEP = 64  # rows are padded to a multiple of it: fewer shapes for kernels to be chosen for
LOGITS = 1 << 28  # of a batch at most, unless a row has more: 1 GiB in fp32

Row = tuple[int, ...]


class EngineScorer(QuietScorer):
    """Log-likelihoods by `logits`, as HFLM computes them; it does not generate."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        device: torch.device,
        ranks: Ranks,
        micro_batch: int,
        max_length: int,
    ):
        """`model`: the architecture without weights. `logits`: of tokens and position_ids, by all ranks."""
        with quiet():
            super().__init__(
                pretrained=model, tokenizer=tokenizer, batch_size=micro_batch, max_length=max_length
            )
        self.logits, self.where, self.ranks = logits, device, ranks
        self.micro_batch = micro_batch
        self.vocabulary_size = model.config.vocab_size

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
    ) -> Any:
        """(sum of log-probabilities, whether all tokens are the likeliest) of each continuation."""
        asked: dict[Row, list[int]] = defaultdict(list)  # requests that one row of tokens answers
        targets = {}
        for number, (_, context, continuation) in enumerate(requests):
            whole = (*context, *continuation)[-(self.max_length + 1) :]
            asked[whole[:-1]].append(number)
            targets[number] = whole[1:][-len(continuation) :]
        rounds = batches(list(asked), self.micro_batch, self.max_length, self.vocabulary_size)
        answers: dict[int, tuple[float, bool]] = {}
        for first in range(0, len(rounds), self.ranks.data_world):
            # Where this rank has no batch left, it computes the first one again, for nobody.
            place = first + self.ranks.data_rank
            rows, width = rounds[place if place < len(rounds) else first]
            scores = self._scores(rows, width)
            for row, spread in zip(rows, scores, strict=True):
                for number in asked[row]:
                    answers[number] = _answer(spread[: len(row)], targets[number])
        gathered: dict[int, tuple[float, bool]] = {}
        for part in distributed.gather(answers):
            gathered |= part
        return [gathered[number] for number in range(len(requests))]

    @torch.no_grad()
    def _scores(self, rows: Sequence[Row], width: int) -> torch.Tensor:
        """(rows, width, V) logits; what is right of a row does not reach it."""
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row)
        positions = torch.arange(width, device=self.where).expand(len(rows), -1)
        return self.logits(tokens.to(self.where), positions)


def batches(
    rows: Sequence[Row], micro_batch: int, longest: int, vocabulary_size: int
) -> list[tuple[list[Row], int]]:
    """Rows put together with the width that they are padded to, longest first, the same on all ranks."""
    found: list[tuple[list[Row], int]] = []
    for row in sorted(rows, key=lambda row: (-len(row), row)):
        if found:
            inside, width = found[-1]
            if len(inside) < min(micro_batch, max(1, LOGITS // (width * vocabulary_size))):
                inside.append(row)
                continue
        found.append(([row], min(longest, -(-len(row) // WIDTH_STEP) * WIDTH_STEP)))
    return found


def _answer(logits: torch.Tensor, target: Sequence[int]) -> tuple[float, bool]:
    """The answer from a row's logits (L, V), of which the last ones say `target`."""
    spread = logits[-len(target) :].float().log_softmax(-1)
    wanted = torch.tensor(target, device=logits.device)
    likeliest = bool((spread.argmax(-1) == wanted).all())
    return float(spread.gather(-1, wanted[:, None]).sum()), likeliest
