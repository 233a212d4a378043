"""The training run: set up, go on from the last checkpoint if there is one, loop, save, stop.

Every rank runs this; what differs is which sequences it computes and that rank 0 reports.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch

from data_prep.config_file import to_yaml
from data_prep.errors import DataError
from data_prep.files import write_atomically, write_json
from data_prep.tokenizer.extension import Extension
from pretrain import display, distributed
from pretrain.checkpoint import Checkpoints, read_state
from pretrain.config import RunConfig, decisive_settings
from pretrain.deepspeed_config import decisive_leaves
from pretrain.distributed import Ranks
from pretrain.engine import Engine
from pretrain.interruption import Interruption, ignore_in_worker
from pretrain.isolation import check_isolation
from pretrain.ledger import BadRowGroup, as_json, in_order, write_ledger
from pretrain.loader import StepBatch, StepDataset, Steps
from pretrain.metrics import Metrics, roll_back
from pretrain.model import build, local_folder, model_config, parameter_count, weights_hash
from pretrain.plan import Plan, check_tokenizer, ledger_of
from pretrain.run_folder import differences, refuse_changes, write_status
from pretrain.schedule import learning_rate
from pretrain.start_report import start_facts
from pretrain.step_rows import StepRows
from pretrain.validation_rows import validation_batches

INTERRUPTED = (
    75  # exit code: stopped with a checkpoint written, start again (sysexits' EX_TEMPFAIL)
)


class Trainer:
    """One start of a run, on one rank."""

    def __init__(self, config: RunConfig, plan: Plan, ranks: Ranks, interruption: Interruption):
        self.config, self.plan, self.ranks = config, plan, ranks
        self.interruption = interruption
        self.folder = config.run
        self.device = distributed.device(ranks)
        self.step = 0  # completed
        self.total_tokens = 0  # trained on so far
        self.extension: Extension | None = None  # of the model's vocabulary, by the shards
        self.saved_step = -1
        self.saved_at = time.monotonic()

    def run(self) -> int:
        """Train to the end or to an interruption; returns the exit code."""
        self._prepare()
        if self.ranks.first:
            write_status(self.folder, "running", self.step)
        with display.training_display(self.folder.name, self.step, self.plan.steps) as self.display:
            reason = self._loop()
        self._save()
        if reason is None:
            self._finish("done", 0, "")
            return 0
        self._finish("interrupted", INTERRUPTED, reason)
        return INTERRUPTED

    # ---- before the first step -------------------------------------------------------------

    def _prepare(self) -> None:
        config = self.config
        settings = self.plan.deepspeed_settings
        if config.training.deterministic:
            torch.use_deterministic_algorithms(True)
        distributed.check_shared_folder(self.folder, self.ranks)
        self._agree()
        self.checkpoints = Checkpoints(
            self.folder / "checkpoints", self.ranks, config.checkpoint.keep
        )
        self.checkpoints.prepare()
        self.base_hash = self._base_hash()
        found, skipped = self.checkpoints.newest()
        self._say(*skipped)
        state = read_state(found) if found else {}
        changes = self._changes(state, settings) if found else []
        universal = bool(found) and state["world"] != self.ranks.world
        if found and universal:
            self._say(f"converting {found.name} from {state['world']} to {self.ranks.world} ranks")
            found = self.checkpoints.as_universal(found)
        settings["checkpoint"]["load_universal"] = universal
        self.engine = self._engine(settings)
        if found:
            self.checkpoints.load(self.engine.deepspeed, found, frozen=bool(self.config.model.lora))
            self.engine.restore_optimizer_settings()
            self.step = self.saved_step = state["step"]
            self.total_tokens = state["total_tokens"]
        self._start_reporting(settings, state, changes)

    def _agree(self) -> None:
        """Plan with the ledger as it is now that nobody else writes it, the same on all ranks."""
        ledger = distributed.from_first(ledger_of(self.config) if self.ranks.first else None)
        self.plan = self.plan.with_ledger(self.config, ledger)
        seen = distributed.gather(
            decisive_settings(self.config) | self.plan.identity(self.plan.steps)
        )
        for rank, other in enumerate(seen):
            if found := differences(seen[0], other):
                raise DataError(
                    f"rank {rank} would train on something else than rank 0 ({found[0]}, there); give "
                    "every node the same config and the same shard sets"
                )

    def _base_hash(self) -> str | None:
        """Hash of the weights the run starts from; the first process of each node may download them."""
        path = self.config.model.path
        if path is None:
            return None
        if self.ranks.local_rank == 0:
            local_folder(path, self.config.model.revision)
        distributed.barrier()
        folder = local_folder(path, self.config.model.revision)
        self.extension = check_tokenizer(next(iter(self.plan.train.values())), folder)
        return distributed.from_first(weights_hash(folder) if self.ranks.first else None)

    def _decisive(self, settings: dict[str, Any], step: int) -> dict[str, Any]:
        """Everything that order or numerics of the first `step` steps depend on, to be compared at a resume."""
        return (
            decisive_settings(self.config)
            | self.plan.identity(step)
            | decisive_leaves(settings)
            | {"base model's weights": self.base_hash}
        )

    def _changes(self, state: dict[str, Any], settings: dict[str, Any]) -> list[str]:
        changes = differences(state["decisive"], self._decisive(settings, state["step"]))
        if not self.config.accept_changes:
            refuse_changes(changes, self.folder)
        return changes

    def _engine(self, settings: dict[str, Any]) -> Engine:
        config = self.config
        self.settings = settings
        self.model_config = model_config(config.model, self.plan.manifest, self.extension)
        model, self._guard = build(
            config.model,
            self.model_config,
            config.training.precision,
            settings,
            config.seed,
            self.extension,
        )
        self.parameters, self.trained_parameters = parameter_count(model)
        engine = Engine(model, config, settings)
        engine.deepspeed.eval()
        check_isolation(
            engine.logits,
            config.data.attention,
            self.model_config.vocab_size,
            engine.device,
            self.plan.share.micro_batch,
        )
        return engine

    def _start_reporting(
        self, settings: dict[str, Any], state: dict[str, Any], changes: list[str]
    ) -> None:
        if not self.ranks.first:
            return
        with write_atomically(self.folder / "config.yaml") as partial:
            partial.write_text(to_yaml(self.config), encoding="utf-8")
        write_ledger(self.folder, self.plan.ledger)
        write_json(self.folder / "deepspeed.json", settings)
        self.model_config.save_pretrained(self.folder / "model")
        rolled_back = roll_back(self.folder, self.saved_step)
        self.metrics = Metrics(
            self.folder, self.config.tracking, self.config.model_dump(mode="json")
        )
        if state:
            event = {"step": self.step, "event": "resumed", "from_ranks": state["world"]}
            event |= {"ranks": self.ranks.world, "rolled_back": rolled_back, "changes": changes}
            self.metrics.write(event)
        display.console.print_json(data=settings)
        facts = start_facts(
            self.config,
            self.plan,
            self.model_config,
            self.parameters,
            self.trained_parameters,
            self.ranks.world,
            self.step,
        )
        display.report(f"Run {self.folder}", facts)

    # ---- the steps -------------------------------------------------------------------------

    def _loop(self) -> str | None:
        """Train; returns why the run was interrupted, or None at its end."""
        if self.saved_step < 0:
            self._validate()
        batches = self._batches()
        while self.step < self.plan.steps:
            started = time.perf_counter()
            batch = next(batches)
            trained_tokens = batch.trained_tokens  # its tensors are made now: waiting, too
            waited = time.perf_counter() - started
            tokens, stop, save, bad = distributed.sum_over_ranks(
                [
                    trained_tokens,
                    self.interruption.reason is not None,
                    self._save_due(),
                    len(batch.bad),
                ],
                self.device,
            )
            if stop:
                return self._reason()
            if bad:
                self._leave_out(batch.bad)
                batches = self._batches()
                continue
            self._train(batch, int(tokens), waited)
            # Before saving: where the last checkpoint is, its validation is, too.
            if self._at(self.config.training.validate_every) or self.step == self.plan.steps:
                self._validate()
            if save or self._at(self.config.checkpoint.every_steps):
                self._save()
        return None

    def _leave_out(self, found: list[BadRowGroup]) -> None:
        """Enter what any rank could not read into the ledger, and go on with an order without it."""
        bad = {
            (entry.source, entry.group): entry
            for part in distributed.gather(found)
            for entry in part
        }
        entries = [bad[key] for key in sorted(bad)]
        self.plan = self.plan.with_ledger(self.config, in_order([*self.plan.ledger, *entries]))
        if self.ranks.first:
            write_ledger(self.folder, self.plan.ledger)
            for entry in entries:
                self.metrics.write(as_json(entry))
        self._say(*(f"left out from step {self.step + 1} on: {entry.reason}" for entry in entries))

    def _batches(self) -> Iterator[StepBatch]:
        config = self.config
        rows = StepRows(
            self.plan.order,
            list(self.plan.train.values()),
            self.ranks.rank,
            self.ranks.world,
            config.training.micro_batch,
            config.data.bad_row_groups,
        )
        steps = Steps(
            StepDataset(rows, config.data.attention, self.step, self.plan.steps),
            config.data.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=ignore_in_worker,
        )
        return iter(steps)

    def _train(self, batch: StepBatch, tokens: int, waited: float) -> None:
        rate = learning_rate(
            self.config.schedule,
            self.config.optimizer.learning_rate,
            self.step + 1,
            self.plan.steps,
        )
        result = self.engine.train_step(self.step + 1, batch.micro_batches, tokens, rate)
        self.step += 1
        self.total_tokens += tokens
        if self.ranks.first:
            seconds = result.seconds + waited
            sequences = self.plan.order.global_batch_at(batch.step)
            seen = sequences * self.plan.manifest.sequence_length
            line = {
                "step": self.step,
                "loss": result.loss,
                "learning_rate": rate,
                "gradient_norm": result.gradient_norm,
                "trained_tokens": tokens,
                "total_tokens": self.total_tokens,
                "tokens_per_second": seen / seconds,
                "seconds": seconds,
                "data_seconds": waited,
                "rows": batch.sources,
                "epochs": self.plan.order.epochs(self.step),
            }
            self.metrics.write(line)
            self.display.update(self.step, line)

    def _at(self, every: int | None) -> bool:
        return every is not None and self.step % every == 0

    def _validate(self) -> None:
        training, results = self.config.training, {}
        for name, shards in self.plan.validation.items():
            batches = validation_batches(
                shards,
                self.ranks.rank,
                self.ranks.world,
                training.micro_batch,
                self.config.data.attention,
                limit=training.validation_sequences,
            )
            loss, tokens = self.engine.evaluate(batches)
            perplexity = float(torch.tensor(loss, dtype=torch.float64).exp())
            results[name] = {"loss": loss, "perplexity": perplexity, "tokens": tokens}
        if self.ranks.first and results:
            self.metrics.write({"step": self.step, "validation": results})
            losses = "  ".join(f"{name} {result['loss']:.4f}" for name, result in results.items())
            self._say(f"step {self.step}  validation loss  {losses}")

    # ---- saving and stopping ---------------------------------------------------------------

    def _save_due(self) -> bool:
        minutes = self.config.checkpoint.every_minutes
        elapsed = (time.monotonic() - self.saved_at) / 60
        return self.ranks.first and minutes is not None and elapsed >= minutes

    def _save(self) -> None:
        if self.step == self.saved_step:
            return
        start = time.perf_counter()
        if self.ranks.first:
            self.metrics.sync()  # no checkpoint without the lines that lead to it
        state = {
            "step": self.step,
            "total_tokens": self.total_tokens,
            "world": self.ranks.world,
            "decisive": self._decisive(self.settings, self.step),
        }
        path = self.checkpoints.save(
            self.engine.deepspeed, self.step, state, self.trained_parameters
        )
        self.saved_step, self.saved_at = self.step, time.monotonic()
        if self.ranks.first:
            seconds = time.perf_counter() - start
            self.metrics.write({"step": self.step, "event": "checkpoint", "seconds": seconds})
            write_status(self.folder, "running", self.step)
            self._say(f"step {self.step}  checkpoint {path.name} ({seconds:.1f} s)")

    def _reason(self) -> str:
        """The first rank's reason that has one."""
        return next(reason for reason in distributed.gather(self.interruption.reason) if reason)

    def _finish(self, state: str, code: int, reason: str) -> None:
        if self.ranks.first:
            self.metrics.close()
            write_status(self.folder, state, self.step, code, reason)
            told = f" by {reason}: start it again with the same command" if reason else ""
            self._say(f"{state} at step {self.step} of {self.plan.steps}{told}")
        # The launcher kills all ranks when the first one ends with a code other than 0.
        distributed.barrier()
        distributed.stop()

    def _say(self, *lines: str) -> None:
        if self.ranks.first:
            for line in lines:
                display.say(line)


def train(config: RunConfig, plan: Plan, ranks: Ranks, interruption: Interruption) -> int:
    """Join the process group and run; see Trainer."""
    distributed.start(config.timeout_minutes)
    interruption.outlive_parent()
    return Trainer(config, plan, ranks, interruption).run()
