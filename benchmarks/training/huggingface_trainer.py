"""Hugging Face Trainer with our effective DeepSpeed settings, on a list of the same rows.

deepspeed --module --no_local_rank benchmarks.training.huggingface_trainer JOB.json
"""

import sys
import tempfile
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.training.contender import Clock, build_model, saved_batches
from benchmarks.training.job import Job
from pretrain.model.build import DTYPES


class _EndOfStep(TrainerCallback):
    def __init__(self, clock: Clock):
        self.clock = clock

    def on_step_end(self, *given: Any, **named: Any) -> None:
        self.clock.step()


def _arguments(job: Job, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        deepspeed=_deepspeed(job),
        per_device_train_batch_size=job.deepspeed["train_micro_batch_size_per_gpu"],
        gradient_accumulation_steps=job.deepspeed["gradient_accumulation_steps"],
        gradient_checkpointing=job.activation_checkpointing,
        max_steps=job.steps,
        train_sampling_strategy="sequential",
        learning_rate=job.optimizer["learning_rate"],
        adam_beta1=job.optimizer["betas"][0],
        adam_beta2=job.optimizer["betas"][1],
        adam_epsilon=job.optimizer["eps"],
        weight_decay=job.optimizer["weight_decay"],
        max_grad_norm=job.clipping,
        lr_scheduler_type="constant",
        bf16=job.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        seed=job.seed,
    )


def _deepspeed(job: Job) -> dict[str, Any]:
    """Our effective settings but for one: accelerate takes any "auto" for its own, this one is DeepSpeed's."""
    types = dict(job.deepspeed["data_types"])
    types.pop("keep_in_fp32_modules", None)
    return job.deepspeed | {"data_types": types}


def _rows(job: Job) -> list[dict[str, torch.Tensor]]:
    """Single rows such that the Trainer's batches are ours: it deals them to the ranks in turn."""
    ranks = [saved_batches(job, rank) for rank in range(dist.get_world_size())]
    return [
        {name: tensor[row] for name, tensor in batch.items()}
        for step in zip(*ranks, strict=True)
        for together in zip(*step, strict=True)  # one micro-batch of every rank
        for batch in together
        for row in range(len(batch["labels"]))
    ]


def main(job: Job) -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = _arguments(job, folder)  # before the model, which it partitions
        model = build_model(job, DTYPES[job.precision])
        clock = Clock(job)
        trainer = Trainer(
            model=model, args=arguments, train_dataset=_rows(job), callbacks=[_EndOfStep(clock)]
        )
        mean = torch.tensor(trainer.train().training_loss, device=arguments.device)
    # What it tells is the mean of all steps, of its own rank's part.
    dist.all_reduce(mean)
    if dist.get_rank() == 0:
        clock.write([mean.item() / dist.get_world_size()] * job.steps)
    dist.barrier()


if __name__ == "__main__":
    main(Job.read(sys.argv[1]))
