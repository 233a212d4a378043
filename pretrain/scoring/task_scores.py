"""lm-eval's tasks while training, by the training engine itself: only those that compare likelihoods.

What a model would generate is asked of an export, by launch/evaluate.py: generation under ZeRO-3 gathers
the whole model for every token.
"""

import importlib.util
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PretrainedConfig

from data_prep.errors import ConfigError
from data_prep.shards.reader import ShardSet
from pretrain.config import RunConfig, Tasks
from pretrain.distributed import Ranks
from pretrain.export.tokenizer_files import load_tokenizer
from pretrain.export.weights import meta_model

if TYPE_CHECKING:
    from pretrain.engine.engine import Engine

LIKELIHOODS = ("loglikelihood", "loglikelihood_rolling", "multiple_choice")


def check_tasks(settings: Tasks) -> None:
    """Raise ConfigError for tasks that cannot be scored while training; their data is fetched now."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            "tasks: lm-eval is not installed; install the project with its extra eval: "
            "pip install -e '.[eval]'"
        )
    os.environ.setdefault("TQDM_DISABLE", "1")  # its bars would cross the training's
    from pretrain.scoring.evaluation import resolve_tasks

    names, manager = resolve_tasks(settings.names)
    try:
        tasks = manager.load(names)["tasks"]
    except Exception as error:  # data sets have many ways not to be there
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"tasks.names: the data of {', '.join(settings.names)} cannot be had"
            f"{'' if settings.online else ' from the cache (tasks.online: true would fetch it)'}: {reason}"
        ) from error
    import datasets

    # From here on all ranks score what is there, whatever the hub has by then.
    datasets.config.HF_HUB_OFFLINE = True
    for name, task in tasks.items():
        kind = task.get_config("output_type")
        if kind not in LIKELIHOODS:
            raise ConfigError(
                f"tasks.names: {name} needs {kind}, which is not done while training (only "
                f"{', '.join(LIKELIHOODS)}); leave it to launch/evaluate.py on an export"
            )


class TaskScorer:
    """Scores the run's tasks; made and called by all ranks at once, after `check_tasks`."""

    def __init__(
        self,
        config: RunConfig,
        shards: ShardSet,
        model_config: PretrainedConfig,
        engine: "Engine",
        ranks: Ranks,
    ):
        """`shards`: of which the tokenizer and the length of a row are taken."""
        from pretrain.scoring.engine_scorer import EngineScorer
        from pretrain.scoring.evaluation import resolve_tasks

        assert config.tasks is not None
        self._settings = config.tasks
        self._engine = engine
        self._tasks, self._manager = resolve_tasks(config.tasks.names)
        self._scorer = EngineScorer(
            meta_model(model_config),
            load_tokenizer(shards, model_config),
            engine.logits,
            engine.device,
            ranks,
            config.training.micro_batch,
            shards.manifest.sequence_length,
        )

    def score(self, step: int) -> dict[str, Any]:
        """{"step", "tasks": {task: {metric: value}}} on the first rank of each node, {} on the others."""
        from pretrain.scoring.evaluation import quiet_evaluate, task_scores

        self._engine.deepspeed.eval()
        with _random_states_kept():
            evaluated = quiet_evaluate(
                self._scorer,
                self._tasks,
                task_manager=self._manager,
                limit=self._settings.limit,
                num_fewshot=self._settings.few_shot,
                bootstrap_iters=0,  # others would wait for the first rank's 100,000 draws
                log_samples=False,
            )
        if evaluated is None:
            return {}
        scores: dict[str, dict[str, float]] = {}
        for task, metric, value, _ in task_scores(evaluated):
            scores.setdefault(task, {})[metric] = value
        return {"step": step, "tasks": scores}


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """lm-eval seeds every generator that it knows."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)
