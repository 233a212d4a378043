"""Plain PyTorch, one process, no DeepSpeed: fp32 weights, and bf16 by autocast where the job says bf16.

python -m benchmarks.training.plain_torch JOB.json
"""

import sys
from pathlib import Path

import torch

from benchmarks.training.contender import Clock, build_model, build_optimizer, saved_batches
from benchmarks.training.job import Job


def main(job: Job) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:
        model = build_model(job, torch.float32)
    if job.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = build_optimizer(job, model)
    ranks = len(list(Path(job.batches).glob("*.pt")))
    batches = [
        [batch for rank in step for batch in rank]
        for step in zip(*(saved_batches(job, rank) for rank in range(ranks)), strict=True)
    ]
    losses = []
    clock = Clock(job)
    model.train()
    for micro_batches in batches:
        total = torch.zeros((), device=device)
        for batch in micro_batches:
            on_device = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=job.precision == "bf16"):
                loss = model(**on_device).loss / len(micro_batches)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), job.clipping)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        clock.step()
    clock.write(torch.stack(losses).tolist())


if __name__ == "__main__":
    main(Job.read(sys.argv[1]))
