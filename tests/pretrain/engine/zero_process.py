"""Training steps under DeepSpeed on made-up tokens, as a process of a test: `run` starts its ranks.

One fixed model and batch, whatever the number of ranks, so that losses can be compared across ranks,
ZeRO options and plain PyTorch.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from tests import ranks, tiny

# Its weights are large enough to be swapped: DeepSpeed leaves partitions below 1 MiB in memory.
WIDE = {"hidden_size": 512, "intermediate_size": 2048}
SEQUENCES, MICRO_BATCHES, LENGTH, VOCABULARY = 4, 2, 16, 257


def run(folder: Path, world: int = 1, **options: Any) -> dict[str, Any]:
    """What rank 0 says of the steps that `main` takes with these options."""
    swap = folder / "nvme"
    swap.mkdir(parents=True)
    result = folder / "result.json"
    # Muon's functions are compiled on first use, which takes longer than the steps of a test.
    own = {"TORCHDYNAMO_DISABLE": "1", "NVME_PATH": str(swap)}
    arguments = ["-m", "tests.pretrain.engine.zero_process", str(result), json.dumps(options)]
    ranks.end(ranks.start(arguments, world, **own), timeout_s=500)
    return json.loads(result.read_text())


def model(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A small LLaMA with the same weights in every process; to be built outside of zero.Init."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    settings = dict(tiny.LLAMA) | changes
    kind = settings.pop("model_type")
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **settings)
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def batch(step: int) -> torch.Tensor:
    """(SEQUENCES, LENGTH) tokens of a step: two batches by turns, which can be learnt."""
    generator = torch.Generator().manual_seed(step % 2)
    return torch.randint(0, VOCABULARY, (SEQUENCES, LENGTH), generator=generator)


def main(
    zero: dict[str, Any] | str,
    optimizer: dict[str, Any],
    steps: int = 4,
    first: int = 0,
    precision: str = "fp32",
    clipping: float = 0.0,
    save: str | None = None,
    load: str | None = None,
    resharded: bool = False,
    wide: bool = False,
) -> dict[str, Any]:
    """Steps `first` to `steps`; `zero`: a section, or the name of a file in configs/deepspeed."""
    import deepspeed

    from pretrain import distributed
    from pretrain.checkpoints.reshard import restore
    from pretrain.config import Optimizer, Training
    from pretrain.engine.deepspeed_config import effective_config
    from pretrain.engine.nvme_parameters import let_checkpoints_load
    from pretrain.engine.optimizer import (
        build_optimizer,
        group_settings,
        restore_settings,
        set_learning_rate,
    )

    distributed.start(5)
    place = distributed.Ranks.from_environment()
    training = Training(
        steps=steps,
        global_batch=SEQUENCES,
        precision=precision,  # type: ignore[arg-type]
        gradient_clipping=clipping,
    )
    path = tiny.ROOT / "configs/deepspeed" / (zero if isinstance(zero, str) else "zero3.json")
    settings = effective_config(path, training, MICRO_BATCHES)
    if isinstance(zero, dict):
        settings["zero_optimization"] |= zero
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    built = model(dtypes[precision], **(WIDE if wide else {}))
    if settings["zero_optimization"]["stage"] == 3:
        # Small parameters stay whole on each rank, or in memory, and a small model has no others.
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        if "max_in_cpu" in settings["zero_optimization"].get("offload_param", {}):
            small = {"max_in_cpu": 0, "buffer_size": 1_100_000}
            settings["zero_optimization"]["offload_param"] |= small
        deepspeed.zero.Init(module=built, config_dict_or_path=settings)
    recipe = Optimizer(**optimizer)
    chosen = build_optimizer(built, recipe, settings)
    own = group_settings(chosen)
    engine, *_ = deepspeed.initialize(model=built, optimizer=chosen, config=settings)
    let_checkpoints_load(engine)
    if load and resharded:
        restore(engine, Path(load))
        restore_settings(chosen, own)
    elif load:
        assert engine.load_checkpoint(str(Path(load).parent), tag=Path(load).name)[0]
        restore_settings(chosen, own)
    losses = []
    for step in range(first, steps):
        set_learning_rate(engine.optimizer, recipe.learning_rate)
        mine = batch(step)[place.rank :: place.world]
        engine.train()
        total = 0.0
        for number, part in enumerate(mine.chunk(MICRO_BATCHES)):
            engine.set_gradient_accumulation_boundary(number == MICRO_BATCHES - 1)
            loss = engine(input_ids=part, labels=part, use_cache=False).loss
            total += loss.item() / MICRO_BATCHES
            engine.backward(loss)
            engine.step()
        losses.append(distributed.sum_over_ranks([total], engine.device)[0] / place.world)
    if save:
        engine.save_checkpoint(str(Path(save).parent), tag=Path(save).name, save_latest=False)
    states = [
        {
            name: str(value.dtype) if torch.is_tensor(value) else value
            for name, value in state.items()
        }
        for state in chosen.state.values()
    ]
    return {
        "losses": losses,
        "groups": group_settings(chosen),
        "own": own,
        "states": states,
        "class": type(chosen).__name__,
    }


if __name__ == "__main__":
    found = main(**json.loads(sys.argv[2]))
    if os.environ["RANK"] == "0":
        Path(sys.argv[1]).write_text(json.dumps(found))
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)
