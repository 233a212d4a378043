"""What is measured between steps: the losses on held-out text, and lm-eval's tasks."""

from collections.abc import Callable

from transformers import PretrainedConfig

from pretrain import distributed
from pretrain.config import RunConfig
from pretrain.distributed import Ranks
from pretrain.engine.engine import Engine
from pretrain.plan import Plan
from pretrain.scoring.task_scores import TaskScorer
from pretrain.scoring.validation import validate
from pretrain.watch.hang import HangWatch
from pretrain.watch.reporter import Reporter


class Scoring:
    """Of one run; every method is called by all ranks at once, `step` the number of completed ones.

    `to_stop` says, the same on all ranks, whether the run is asked to stop; it is called by all at once.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        ranks: Ranks,
        model_config: PretrainedConfig,
        engine: Engine,
        reporter: Reporter,
        watch: HangWatch,
        to_stop: Callable[[], bool],
    ):
        self.config, self.plan, self.ranks, self.engine = config, plan, ranks, engine
        self.reporter, self.watch, self.to_stop = reporter, watch, to_stop
        self._tasks = None
        if config.tasks:
            first = next(iter(plan.train.values()))
            self._tasks = TaskScorer(config, first, model_config, engine, ranks)

    def make_up(self, step: int) -> bool:
        """Measure what is due at `step` and not among its metrics; as `validate`.

        At the beginning that is the first validation, later what an earlier start did not come to.
        """
        told = distributed.from_first(self.reporter.told(step))
        done = "validation" in told or self.validate(step)
        if done and "tasks" not in told:
            self.score_tasks(step)
        return done

    def validate(self, step: int) -> bool:
        """If it is due; False, with nothing written, where the run is to stop before all is measured."""
        every = self.config.training.validate_every
        if step not in (0, self.plan.steps) and (every is None or step % every):
            return True
        results = validate(
            self.engine, self.config, self.plan, self.ranks, self.watch.beat, self.to_stop
        )
        if results is not None:
            self.reporter.validation(step, results)
        return results is not None

    def score_tasks(self, step: int) -> None:
        """If it is due."""
        settings = self.config.tasks
        if self._tasks and settings and step and step % settings.every_steps == 0:
            with self.watch.paused():
                self.reporter.tasks(self._tasks.score(step))
