"""One rank that builds models under ZeRO-3; rank 0 writes what they hold. Started by test_model.py."""

import json
import math
import sys
import threading
import time
from pathlib import Path
from typing import Any

import deepspeed
import torch
from transformers import AutoConfig, PreTrainedModel

from pretrain import distributed
from pretrain.config import Model
from pretrain.engine.deepspeed_config import effective_config
from pretrain.model.build import build
from tests import tiny


def first_loss(model: Any, vocabulary_size: int) -> float:
    """Mean loss in nats on random tokens."""
    tokens = torch.randint(vocabulary_size, (8, 32), generator=torch.manual_seed(0))
    engine, *_ = deepspeed.initialize(
        model=model,
        config={"train_micro_batch_size_per_gpu": 8, "zero_optimization": {"stage": 3}},
    )
    with torch.no_grad():
        logits = engine(input_ids=tokens, use_cache=False).logits[:, :-1].double()
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


def whole(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Every parameter, by every name that it has."""
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter]):
            found[name] = parameter.detach().clone()
    return found


def built(case: dict[str, Any], settings: dict[str, Any]) -> Any:
    model = Model.model_validate(case["model"])
    if model.path:
        config = AutoConfig.from_pretrained(model.path)
    else:
        assert model.config is not None
        chosen = dict(model.config)
        config = AutoConfig.for_model(chosen.pop("model_type"), **chosen)
    return build(model, config, case["precision"], settings, seed=5)


class PrivateMemory(threading.Thread):
    """The most anonymous memory, in bytes, that this process has had; page cache is not in it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_bytes = self.peak_bytes = self.now()
        self.start()

    @staticmethod
    def now() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    def run(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, self.now())
            time.sleep(0.002)


def main(task: Path) -> None:
    cases = json.loads(task.read_text())
    distributed.start(5)
    ranks = distributed.Ranks.from_environment()
    for name, case in cases.items():
        from pretrain.config import Training

        training = Training(steps=1, global_batch=8, precision=case["precision"])
        settings = effective_config(tiny.ROOT / "configs/deepspeed/zero3.json", training, 1)
        memory = PrivateMemory() if case.get("memory") else None
        model, _guard = built(case, settings)
        result: dict[str, Any] = {}
        if memory:
            share = sum(
                p.ds_tensor.numel() * p.ds_tensor.element_size() for p in model.parameters()
            )
            used = memory.peak_bytes - memory.start_bytes
            result["memory"] = distributed.gather((share, used))
        else:
            result["tied"] = (
                model.get_input_embeddings().weight is model.get_output_embeddings().weight
            )
            result["weights"] = whole(model)
            held = sum(p.ds_tensor.numel() for p in model.parameters())
            result["held"] = distributed.gather(held)
            if not case["model"].get("path"):
                loss = first_loss(model, model.config.vocab_size)
                result["first loss"] = loss / math.log(model.config.vocab_size)
        if ranks.first:
            torch.save(result, task.parent / f"{name}-{ranks.world}.pt")
    distributed.barrier()
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
