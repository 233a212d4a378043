"""The training run: set up, go on from the last checkpoint if there is one, loop, save, stop.

Every rank runs this; what differs is which sequences it computes and that rank 0 reports.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from data_prep.errors import ConfigError, ProjectError
from pretrain import distributed
from pretrain.agreement import agreed_plan, decisive
from pretrain.checkpoints.branch import model_folder
from pretrain.checkpoints.checkpoint import Checkpoints, read_state
from pretrain.checkpoints.copy import CheckpointCopy
from pretrain.checkpoints.layout import as_saved_only, changed, layout_of
from pretrain.config import RunConfig
from pretrain.data.loader import StepBatch, StepDataset, Steps
from pretrain.data.step_rows import StepRows
from pretrain.distributed import Ranks
from pretrain.engine.compilation import check_compiler
from pretrain.engine.engine import Engine
from pretrain.engine.schedule import learning_rate
from pretrain.interruption import Interruption, ignore_in_worker
from pretrain.ledger import BadRowGroup, in_order
from pretrain.model.build import build
from pretrain.model.isolation import check_isolation
from pretrain.model.model_config import model_config
from pretrain.model.sequence_parallel import SequenceParallel, check_model
from pretrain.origin import Hashes, agreed_origin, look_at_base
from pretrain.plan import Plan
from pretrain.run_folder import differences, refuse_changes
from pretrain.scoring.probe import probe
from pretrain.scoring.scoring import Scoring
from pretrain.watch.hang import INTERRUPTED, HangWatch
from pretrain.watch.memory import peak_memory
from pretrain.watch.reporter import Reporter
from pretrain.watch.spike_guard import SpikeGuard
from pretrain.watch.start_report import look_at, report_facts, report_warnings
from pretrain.watch.step_line import step_line


class Trainer:
    """One start of a run, on one rank."""

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        ranks: Ranks,
        interruption: Interruption,
        base: Hashes | None,
    ):
        self.config, self.plan, self.ranks = config, plan, ranks
        self.interruption = interruption
        self.base = base
        self.reporter = Reporter(config, plan.steps, ranks.first)
        self.device = distributed.device(ranks)
        self.watch = HangWatch(config.run, ranks.rank, ranks.world, config.guard.hang_minutes)
        self.step = 0  # completed
        self.total_tokens = 0  # trained on so far
        self.sequences: Counter[str] = Counter()  # read so far, by source
        self.overflows = 0  # steps that fp16's loss scaling left out
        self.saved_step = -1
        self.saved_at = time.monotonic()
        self.spikes = SpikeGuard(config, ranks.first)

    def run(self) -> int:
        """Train to the end or to an interruption; returns the exit code."""
        self._prepare()
        with self.watch, self.reporter.progress(self.step):
            reason = self._loop()
            self._save()
        if reason is not None:
            self._finish("interrupted", INTERRUPTED, reason)
            if self.copy:
                self.copy.leave()
            return INTERRUPTED
        self._finish("done", 0, "")
        if self.copy:
            self._warn(self.copy.finish())
        return 0

    # ---- before the first step -------------------------------------------------------------

    def _prepare(self) -> None:
        config, ranks = self.config, self.ranks
        if config.training.deterministic:
            # Without it, torch refuses every product on a GPU in this mode.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        if config.training.compile:
            check_compiler()
        distributed.check_shared_folder(config.run, ranks)
        self.plan = agreed_plan(config, self.plan, ranks)
        layout = layout_of(self.plan.deepspeed_settings, config.optimizer.name, ranks.world)
        kept = (config.checkpoint.keep, config.checkpoint.keep_every)
        folder, url = config.run / "checkpoints", config.checkpoint.copy_to
        self.checkpoints = Checkpoints(folder, ranks, layout, *kept, url)
        self.checkpoints.prepare()
        self.copy = CheckpointCopy(folder, url, *kept) if url and ranks.first else None
        found, told = self.checkpoints.newest()
        if self.copy and found:  # the last start may not have come to it
            self._warn(self.copy.start())
        state = read_state(found) if found else {}
        self.origin, more = agreed_origin(config, self.plan, ranks, self.base, state)
        self.reporter.say(*told, *more)
        changes = self._changes(state) if found else []
        module = self._build_engine()
        if begins := found or self.origin.source:
            self._load(begins)
        if found:
            self._stand_at(state)
        self._start_reporting(module, state, changes)
        self.spikes.begin(self.plan.ledger)

    def _changes(self, state: dict[str, Any]) -> list[str]:
        now = decisive(self.config, self.plan, self.origin, state["step"])
        changes = differences(state["decisive"], now)
        if state["step"] > self.plan.steps:
            raise ConfigError(
                f"training: the run would have {self.plan.steps} steps, but its checkpoint is at step "
                f"{state['step']}; give more, or another run folder"
            )
        if not self.config.accept_changes:
            refuse_changes(changes, self.config.run)
        return changes

    def _build_engine(self) -> Any:
        """Build model and engine, and test them; returns the model."""
        config, settings = self.config, self.plan.deepspeed_settings
        shared = config.training.sequence_parallel
        of_branch = model_folder(config) if config.model.branch else None
        self.model_config = model_config(
            config.model, self.plan.manifest, self.origin.extension, of_branch
        )
        model, self._guard = build(
            config.model,
            self.model_config,
            config.training.precision,
            settings,
            config.seed,
            self.origin.extension,
        )
        sequence_parallel = None
        if shared > 1:
            check_model(model.config, shared, self.device)
            sequence_parallel = SequenceParallel.create(shared)
            sequence_parallel.attach(model)
        self.engine = Engine(model, config, settings, sequence_parallel)
        self.engine.deepspeed.eval()
        check_isolation(
            self.engine.logits,
            config.data.attention,
            self.model_config.vocab_size,
            self.engine.device,
            self.plan.share.micro_batch,
        )
        self.scoring = Scoring(
            config,
            self.plan,
            self.ranks,
            self.model_config,
            self.engine,
            self.reporter,
            self.watch,
            self._to_stop,
        )
        return model

    def _load(self, path: Any) -> None:
        told = changed(read_state(path).get("layout", {}), self.checkpoints.layout)
        if told:
            self.reporter.say(f"{path.name} is taken over: {told}")
        self.checkpoints.load(self.engine.deepspeed, path)
        self.engine.restore_optimizer_settings()

    def _stand_at(self, state: dict[str, Any]) -> None:
        self.step = self.saved_step = state["step"]
        self.total_tokens = state["total_tokens"]
        self.overflows = state.get("overflows", 0)
        self.sequences = Counter(state.get("sequences", {}))

    def _start_reporting(self, module: Any, state: dict[str, Any], changes: list[str]) -> None:
        config, plan, world = self.config, self.plan, self.ranks.world
        built = look_at(module, config, plan, self.device, world)
        self.speed, self.trained_parameters = built.speed, built.trained_parameters
        if self.ranks.first:
            self.model_config.save_pretrained(config.run / "model")
        facts = report_facts(config, plan, built, world, self.step)
        rolled_back = self.reporter.start(
            plan.deepspeed_settings, plan.ledger, facts, self.saved_step
        )
        self.reporter.say(*report_warnings(config, plan, built, world, self.step))
        if state:
            event = {"step": self.step, "event": "resumed", "from_ranks": state["world"]}
            event |= {"ranks": world, "rolled_back": rolled_back, "changes": changes}
            self.reporter.write(event)

    # ---- the steps -------------------------------------------------------------------------

    def _loop(self) -> str | None:
        """Train; returns why the run was interrupted, or None at its end."""
        if not self.scoring.make_up(self.step):
            return self._reason()
        batches = self._batches()
        while self.step < self.plan.steps:
            self.watch.beat()
            started = time.perf_counter()
            batch = next(batches)
            trained_tokens = batch.trained_tokens  # its tensors are made now: waiting, too
            tokens, stop, save, bad = distributed.sum_over_ranks(
                [
                    trained_tokens,
                    self.interruption.reason is not None,
                    self._save_due(),
                    len(batch.bad),
                ],
                self.device,
            )
            waited = time.perf_counter() - started  # for the slowest rank's, too
            if stop:
                return self._reason()
            if bad:
                self._leave_out(batch.bad)
                batches = self._batches()
                continue
            # The ranks of a sequence have counted the same ones.
            if why := self._train(batch, int(tokens) // self.ranks.sequence_parallel, waited):
                self._roll_back(why)
                batches = self._batches()
                continue
            # Before saving: where the last checkpoint is, its validation is, too.
            if not self.scoring.validate(self.step):
                return self._reason()
            if save or self._at(self.config.checkpoint.every_steps):
                self._save()
            self.scoring.score_tasks(self.step)
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
        self.reporter.ledger(self.plan.ledger, entries)
        self.reporter.say(
            *(f"left out from step {self.step + 1} on: {entry.reason}" for entry in entries)
        )

    def _batches(self) -> Iterator[StepBatch]:
        config = self.config
        rows = StepRows(
            self.plan.order,
            list(self.plan.train.values()),
            self.ranks.data_rank,
            self.ranks.data_world,
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

    def _train(self, batch: StepBatch, tokens: int, waited: float) -> str | None:
        """Do the next step; returns why it must not stand, or None."""
        config = self.config
        rate = learning_rate(
            config.schedule, config.optimizer.learning_rate, self.step + 1, self.plan.steps
        )
        result = self.engine.train_step(self.step + 1, batch.micro_batches, tokens, rate)
        why = self.spikes.judge(self.step + 1, result)
        self.step += 1
        self.total_tokens += tokens
        self.overflows += result.overflow
        self.sequences.update(batch.sources)
        if self.ranks.first:
            line = step_line(
                self.plan,
                self.speed,
                result,
                step=self.step,
                rate=rate,
                waited=waited,
                trained_tokens=tokens,
                total_tokens=self.total_tokens,
                rows=batch.sources,
                sequences=self.sequences,
                memory=peak_memory(self.device),
                overflows=self.overflows,
            )
            self.reporter.step(line | {"time": time.time()})
        if result.overflow and result.loss_scale is not None:
            self.reporter.overflow(self.step, result.loss_scale, self.overflows)
        return why

    def _roll_back(self, why: str) -> None:
        """Go back to the last checkpoint, and on from there without the data of the step just done."""
        step = self.step
        self.reporter.say(f"step {step}: {why}")
        entry = self.spikes.leave_out(step, why, self.saved_step, self.plan)
        self.plan = self.plan.with_ledger(self.config, in_order([*self.plan.ledger, entry]))
        self.reporter.ledger(self.plan.ledger, [])
        bound = as_saved_only(self.checkpoints.layout)
        if self.saved_step < 0 or bound:
            self.spikes.close()
            where = f"with {bound}" if bound else "before the first checkpoint"
            raise ProjectError(
                f"step {step}: {why}, {where}; {self.config.run}/spikes has its documents. Start again: "
                "ledger.jsonl now leaves that batch out"
            )
        with self.watch.paused():
            path, told = self.checkpoints.newest()
            assert path is not None  # or newest() has said that none is left
            self.reporter.say(*told)
            self._load(path)
            self._stand_at(read_state(path))
        event = {"event": "rolled back", "from": step, "why": why, "skipped": entry.steps}
        self.reporter.roll_back(self.step, event)
        self.spikes.begin(self.plan.ledger)
        self.reporter.say(f"back at step {self.step}; the data of step {step} is left out")

    def _at(self, every: int | None) -> bool:
        return every is not None and self.step % every == 0

    # ---- saving and stopping ---------------------------------------------------------------

    def _save_due(self) -> bool:
        minutes = self.config.checkpoint.every_minutes
        elapsed = (time.monotonic() - self.saved_at) / 60
        return self.ranks.first and minutes is not None and elapsed >= minutes

    def _save(self) -> None:
        if self.step == self.saved_step:
            return
        with self.watch.paused():
            start = time.perf_counter()
            self.reporter.sync()
            self.engine.deepspeed.eval()
            state = {
                "step": self.step,
                "total_tokens": self.total_tokens,
                "overflows": self.overflows,
                "sequences": self.sequences,
                "world": self.ranks.world,
                "probe": probe(self.engine.logits, self.model_config.vocab_size, self.device),
                "decisive": decisive(self.config, self.plan, self.origin, self.step),
            }
            path = self.checkpoints.save(
                self.engine.deepspeed, self.step, state, self.trained_parameters
            )
        self.saved_step, self.saved_at = self.step, time.monotonic()
        self.reporter.saved(self.step, path.name, time.perf_counter() - start)
        if self.copy:
            self._warn(self.copy.start())

    def _warn(self, warning: str | None) -> None:
        if warning:
            self.reporter.say(f"warning: {warning}")

    def _to_stop(self) -> bool:
        """Whether any rank is; asked by all at once."""
        asked = self.interruption.reason is not None
        return distributed.sum_over_ranks([asked], self.device) != [0.0]

    def _reason(self) -> str:
        """The first rank's reason that has one."""
        return next(reason for reason in distributed.gather(self.interruption.reason) if reason)

    def _finish(self, state: str, code: int, reason: str) -> None:
        self.reporter.finish(state, self.step, code, reason)
        # The launcher kills all ranks when the first one ends with a code other than 0.
        distributed.barrier()
        distributed.stop()
        # What may take longer than others may wait.
        self.spikes.close()
        self.reporter.close()


def train(config: RunConfig, plan: Plan, ranks: Ranks, interruption: Interruption) -> int:
    """Join the process group and run; see Trainer."""
    distributed.check_precision(config.training.precision)
    base = look_at_base(config, ranks)
    distributed.start(config.timeout_minutes)
    interruption.outlive_parent()
    return Trainer(config, plan, ranks, interruption, base).run()
