"""Run under the deepspeed launcher: scores CONFIG's tasks with its model under ZeRO-3; writes OUTPUT.

Every rank writes OUTPUT.RANK.json: forward passes, and on rank 0 the scores. The raw answers of all
requests are in OUTPUT.RANK.json, too.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import deepspeed
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.config_file import load_config
from data_prep.shards.reader import ShardSet
from pretrain import distributed
from pretrain.config import RunConfig
from pretrain.distributed import Ranks
from pretrain.scoring.task_scores import TaskScorer, check_tasks


def main(config_path: Path, output: Path) -> None:
    config = load_config(RunConfig, config_path)
    assert config.tasks is not None
    assert config.model.path is not None
    check_tasks(config.tasks)
    distributed.start(5)
    model_config = AutoConfig.from_pretrained(config.model.path)
    model = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float32)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
            "zero_allow_untested_optimizer": True,
        },
    )
    forwards = 0

    def logits(tokens: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        nonlocal forwards
        forwards += 1
        return engine(input_ids=tokens, position_ids=position_ids, use_cache=False).logits

    acting: Any = SimpleNamespace(deepspeed=engine, logits=logits, device=engine.device)
    ranks = Ranks.from_environment()
    shards = ShardSet(next(iter(config.data.train.values())).path)
    scorer = TaskScorer(config, shards, model_config, acting, ranks)
    answers: list[Any] = []
    inner = scorer._scorer._loglikelihood_tokens

    def kept(requests: Any, **options: Any) -> Any:
        found = inner(requests, **options)
        for (strings, *_), answer in zip(requests, found, strict=True):
            answers.append([strings, *answer])
        return found

    scorer._scorer._loglikelihood_tokens = kept  # type: ignore[method-assign, assignment]
    before = torch.get_rng_state()
    scores = scorer.score(12)
    about = {"scores": scores, "forwards": forwards, "answers": answers}
    about["random state kept"] = torch.equal(before, torch.get_rng_state())
    output.with_suffix(f".{ranks.rank}.json").write_text(json.dumps(about))
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
