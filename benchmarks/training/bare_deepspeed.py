"""The loop of DeepSpeed's own documentation: transformers' loss, no logging, no checks.

deepspeed --module --no_local_rank benchmarks.training.bare_deepspeed JOB.json
"""

import sys

import deepspeed
import torch
import torch.distributed as dist
from transformers.integrations import HfDeepSpeedConfig

from benchmarks.training.contender import (
    Clock,
    build_model,
    build_optimizer,
    saved_batches,
)
from benchmarks.training.job import Job
from pretrain.model.build import DTYPES


def main(job: Job) -> None:
    deepspeed.init_distributed(verbose=False)
    guard = HfDeepSpeedConfig(job.deepspeed)  # alive while the model is built: partitions it
    model = build_model(job, DTYPES[job.precision])
    del guard
    if job.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=build_optimizer(job, model), config=job.deepspeed
    )
    batches = saved_batches(job, dist.get_rank())
    losses = []
    clock = Clock(job)
    engine.train()
    for micro_batches in batches:
        total = torch.zeros((), device=engine.device)
        for batch in micro_batches:
            on_device = {name: tensor.to(engine.device) for name, tensor in batch.items()}
            loss = engine(**on_device, use_cache=False).loss
            engine.backward(loss)
            engine.step()
            total += loss.detach() / len(micro_batches)
        losses.append(total)
        clock.step()
    means = torch.stack(losses) / dist.get_world_size()
    dist.all_reduce(means)
    if dist.get_rank() == 0:
        clock.write(means.tolist())
    dist.barrier()


if __name__ == "__main__":
    main(Job.read(sys.argv[1]))
