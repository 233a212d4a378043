"""The batches of one rank, step after step, read from shard sets.

Nothing is written, locked or shared between processes: every rank and every worker computes the order and
decodes the row groups it needs. A run is continued by naming the step to start at.
"""

import copy
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.context import BaseContext

import torch.utils.data

from data_prep.errors import ConfigError, ProjectError
from pretrain.data.batch import Attention, Tensors, assemble, micro_batches, trained_tokens
from pretrain.data.packed_rows import PackedRows
from pretrain.data.step_rows import StepRows
from pretrain.ledger import BadRowGroup
from pretrain.order.share import Share


@dataclass
class StepBatch:
    """What one rank computes in one step.

    `micro_batches` are the tensors of pretrain.data.batch.assemble, as many on every rank and of one shape: views
    of `tensors`, all the rank's rows, which are made when they are first asked for. Between processes go
    the packed rows, a twelfth of them. `trained_tokens` counts the labels this rank's loss is summed
    over, `tokens` the document tokens (padding and filler excluded) of its rows. `sources` gives the rows
    of each source in the whole global batch, equal on all ranks, without those that the ledger declares
    bad. `bad` names the row groups of the rank's rows that could not be read; nothing is trained in
    their place.
    """

    step: int
    rows: PackedRows
    share: Share
    attention: Attention
    sources: dict[str, int]
    bad: list[BadRowGroup]

    @cached_property
    def tensors(self) -> Tensors:
        return assemble(self.rows, self.attention)

    @property
    def micro_batches(self) -> list[Tensors]:
        return micro_batches(self.tensors, self.share.micro_batch)

    @cached_property
    def trained_tokens(self) -> int:
        return trained_tokens(self.tensors["labels"])

    @property
    def tokens(self) -> int:
        return self.rows.document_tokens

    def pin_memory(self) -> "StepBatch":
        """With tensors in page-locked memory; a DataLoader with pin_memory=True calls this, in a thread."""
        self.tensors = {name: tensor.pin_memory() for name, tensor in self.tensors.items()}
        return self


class StepDataset(torch.utils.data.IterableDataset):
    """The `StepBatch` of a rank, whose rows are `rows`, for each step from `start_step` up to `stop_step`.

    In a DataLoader (batch_size=None), or through Steps, n workers take the steps in turn and the loader
    gives them in order, the same ones for any n. Memory and row groups that cannot be read: StepRows.
    """

    def __init__(
        self,
        rows: StepRows,
        attention: Attention,
        start_step: int,
        stop_step: int,
    ):
        super().__init__()
        self.rows = rows
        self.attention: Attention = attention
        self.steps = range(start_step, stop_step)

    def __iter__(self) -> Iterator[StepBatch]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in self.rows.read(self.steps[first::stride]):
            yield StepBatch(
                step.step, step.rows, step.share, self.attention, step.sources, step.bad
            )

    def starting_at(self, step: int) -> "StepDataset":
        """The same, from another step on."""
        other = copy.copy(self)
        other.steps = range(step, self.steps.stop)
        return other


class _ErrorsAsItems(torch.utils.data.IterableDataset):
    """Passes an error on as the last item: across processes torch would wrap its traceback around it."""

    def __init__(self, dataset: StepDataset):
        super().__init__()
        self.dataset = dataset

    def __iter__(self) -> Iterator[StepBatch | ProjectError]:
        try:
            yield from self.dataset
        except ProjectError as error:
            yield error


def _worker_processes() -> BaseContext:
    """Workers come from a server that has no threads, so they can begin in mid-run.

    Forked from a rank, one now and then stands still at its first breath: a thread of the backward pass held a
    lock of the interpreter (seen with Python 3.11.7, torch 2.13).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pretrain.data.worker_server", __name__])
    return context


class Steps:
    """The dataset's steps in order, prepared by `workers` processes (0: by this one).

        steps = Steps(dataset, workers=2)
        steps.load_state_dict(state)
        for batch in steps:
            state = steps.state_dict()  # goes on after this batch

    Each worker prepares `prefetch` steps ahead. An iteration begins at the step that the state names, at
    first the dataset's own first; the state moves on with the batches given, not with those prepared, and
    holds for any number of workers. Raises what the dataset raises, with its own one-line message, when
    its step is due.
    """

    def __init__(
        self,
        dataset: StepDataset,
        workers: int = 0,
        prefetch: int = 2,
        pin_memory: bool = False,
        worker_init_fn: Callable[[int], None] | None = None,
    ):
        self.dataset = dataset
        self.workers, self.prefetch, self.pin_memory = workers, prefetch, pin_memory
        self.worker_init_fn = worker_init_fn
        self._step = dataset.steps.start

    def __iter__(self) -> Iterator[StepBatch]:
        loader = torch.utils.data.DataLoader(
            _ErrorsAsItems(self.dataset.starting_at(self._step)),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            multiprocessing_context=_worker_processes() if self.workers else None,
            pin_memory=self.pin_memory,
            worker_init_fn=self.worker_init_fn,
        )
        for item in loader:
            if isinstance(item, ProjectError):
                raise item
            self._step = item.step + 1
            yield item

    def state_dict(self) -> dict[str, int]:
        """`step`: how many steps of the run lie behind."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Begin the next iteration where `state` was taken; raises ConfigError for one of another run."""
        step, stop = state.get("step"), self.dataset.steps.stop
        if type(step) is not int or not 0 <= step <= stop:
            raise ConfigError(
                f"loader: the state's step is {step!r}; expected 0 to {stop}, the steps of this run: "
                "load a state that belongs to it"
            )
        self._step = step
