"""The config of a training run: configs/recipe/*.yaml."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from data_prep.config_file import Section
from data_prep.shards.storage import Place, is_url

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Minutes = Annotated[float, Field(gt=0, le=525_600)]  # a year; libraries count in 32 bits
# A Path would make s3:/bucket of s3://bucket.
SetPlace = Annotated[Place, AfterValidator(lambda place: place if is_url(place) else Path(place))]


class Lora(Section):
    """Low-rank adapters on a frozen base model (Hu et al. 2021, arXiv:2106.09685), by peft."""

    rank: Positive = 8
    alpha: Positive = 16
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[str] | Literal["all-linear"] = "all-linear"  # module names


class Branch(Section):
    """Another run's checkpoint to start from, optimizer and all, as for annealing."""

    run: Path
    step: Positive | None = None  # none: its newest whole one


class Model(Section):
    """A model from scratch (`config`), one that exists (`path`), or another run's (`branch`)."""

    config: dict[str, Any] | None = None  # transformers' own keys, model_type among them
    path: str | None = None  # local folder or hub name
    revision: str | None = None  # of a hub name
    branch: Branch | None = None
    # auto: varlen on a GPU, sdpa elsewhere; see pretrain/model/attention.py
    implementation: Literal["auto", "eager", "sdpa", "varlen", "flash_attention_2"] = "auto"
    dropout: float | None = Field(None, ge=0, lt=1)  # all of the model's rates; none: as they are
    freeze: list[str] = []  # modules that are not trained, by name; * stands for anything
    lora: Lora | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = [self.config, self.path, self.branch]
        if sum(origin is not None for origin in origins) != 1:
            raise ValueError(
                "give one of config (from scratch), path (a model to go on with) and branch (another "
                "run's checkpoint)"
            )
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs model_type, such as gpt2 or llama")
        if self.revision is not None and self.path is None:
            raise ValueError("revision is a hub name's: give path, or leave it out")
        for key in ("lora", "freeze"):
            if getattr(self, key) and self.path is None:
                raise ValueError(
                    f"{key} trains part of a model that exists: give its folder as path, in place of config or "
                    "branch (launch/export.py makes one of a run)"
                )
        if self.lora and self.freeze:
            raise ValueError("lora freezes the whole model: leave freeze out")
        return self


class TrainSource(Section):
    """One shard set to train on."""

    path: SetPlace  # a folder, or a URL that fsspec reads (s3://, gs://, https://)
    weight: int = Field(1, ge=0)  # its share of the sequences; 0: joins in a later phase


class Data(Section):
    """Which sequences, in which order; see docs/architecture.md."""

    train: dict[str, TrainSource] = Field(min_length=1)
    validation: dict[str, SetPlace] = {}  # source: shard set
    attention: Literal["document", "sequence"] = "document"  # whether it stays inside documents
    shuffle_groups: Positive = 64  # row groups shuffled into each other
    workers: int = Field(1, ge=0)  # loader processes of each rank; 0: in the training process
    require_even: bool = False  # refuse a world size that does not divide the global batch
    bad_row_groups: Literal["stop", "skip"] = "stop"  # skip: the ledger says which were left out


class Phase(Section):
    """What changes after a number of steps: the mixture (curriculum, annealing) or the batch (a ramp)."""

    from_step: Positive  # completed steps before it
    weights: dict[str, Annotated[int, Field(ge=0)]] | None = None  # by source; left out: not read
    global_batch: Positive | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.weights is None and self.global_batch is None:
            raise ValueError("give weights, global_batch, or both")
        return self


class Optimizer(Section):
    """AdamW (arXiv:1711.05101), Lion (arXiv:2302.06675) or Muon (arXiv:2502.16982); see pretrain/engine/optimizer.py.

    Weights with two or more dimensions decay.
    """

    name: Literal["adamw", "lion", "muon"] = "adamw"
    learning_rate: float = Field(gt=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)  # muon: of what it leaves to AdamW
    momentum: float = Field(0.95, ge=0, lt=1)  # muon only
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)


class Schedule(Section):
    """Linear warmup, then the named shape down to `final_fraction` of the learning rate."""

    name: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    start_fraction: float = Field(0.0, ge=0, le=1)  # where warmup begins: above 0 to re-warm
    decay_steps: int = Field(0, ge=0)  # wsd only: length of the linear decay at the end
    horizon_steps: Positive | None = None  # where cosine and linear end; none: the run's last step
    final_fraction: float = Field(0.1, ge=0, le=1)


class Training(Section):
    """Batch arithmetic, precision, and how often to look."""

    steps: Positive | None = None
    epochs: float | None = Field(None, gt=0)  # of all training sequences; instead of steps
    global_batch: Positive  # sequences a step, over all ranks
    micro_batch: Positive = 1  # sequences a rank computes at once
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"  # fp16: with loss scaling, for old cards
    gradient_clipping: float = Field(1.0, ge=0)  # global norm; 0: none
    z_loss: float = Field(0.0, ge=0)  # times log(sum(exp(logits)))^2 (PaLM, arXiv:2204.02311: 1e-4)
    activation_checkpointing: bool = False
    compile: bool = False  # torch.compile
    sequence_parallel: Positive = 1  # ranks that share each sequence (Ulysses), for long contexts
    deterministic: bool = False  # on GPU: kernels that give the same bits every time, slower
    validate_every: Positive | None = None  # steps; none: at the start and the end
    validation_sequences: Positive | None = None  # of each source; none: all

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.micro_batch > self.global_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} is larger than global_batch {self.global_batch}"
            )
        return self


class Checkpoint(Section):
    """When to save; a checkpoint is also written at the end and on SIGTERM and SIGUSR1."""

    every_steps: Positive | None = None
    every_minutes: Minutes | None = 30.0
    keep: Positive = 3  # newest whole checkpoints kept
    keep_every: Positive | None = None  # steps: multiples of it are kept for good
    # URL that each checkpoint is copied to, and fetched from if lost here
    copy_to: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _kept_are_saved(self) -> Self:
        if self.keep_every and (not self.every_steps or self.keep_every % self.every_steps):
            raise ValueError(
                f"keep_every {self.keep_every} is no multiple of every_steps ({self.every_steps}), so nothing "
                "is saved at those steps but by chance; make it one"
            )
        return self


class Guard(Section):
    """What ends or mends a run that goes wrong; see pretrain/watch/spike.py and pretrain/watch/hang.py."""

    spikes: bool = True  # roll back and leave the data out where loss or gradient leave their range
    window: int = Field(128, ge=8)  # steps that the range is taken from
    loss_deviations: float = Field(12.0, gt=0)  # robust standard deviations above the median
    gradient_deviations: float = Field(30.0, gt=0)
    skip_steps: Positive = 1  # steps left out, the one with the spike the last of them
    max_rollbacks: int = Field(3, ge=0)  # of the run; then it stops
    hang_minutes: Minutes | None = 20.0  # without a step; none: wait for ever


class Tasks(Section):
    """lm-eval's tasks, scored while training; only those that compare likelihoods."""

    names: list[str] = Field(min_length=1)  # as lm-eval knows them, or YAML files
    every_steps: Positive
    few_shot: int | None = Field(None, ge=0)
    limit: Positive | None = None  # questions of each task; none: all
    online: bool = False  # whether their data may be fetched from the hub


class Tracking(Section):
    """Weights & Biases; metrics.jsonl is written in any case."""

    wandb: Literal["off", "offline", "online"] = "off"
    project: str = "biomed-pretrain"
    name: str | None = None


class RunConfig(Section):
    """Everything `launch/pretrain.py` and `launch/instruct.py` need to know."""

    run: Path  # folder of the run: checkpoints, metrics, status
    seed: int = Field(0, ge=0, lt=2**63)  # as torch takes it
    model: Model
    data: Data
    optimizer: Optimizer
    schedule: Schedule = Schedule()  # type: ignore[call-arg]
    training: Training
    phases: list[Phase] = []  # in order; RUN/ledger.jsonl repeats them
    deepspeed: Path  # DeepSpeed's own JSON
    checkpoint: Checkpoint = Checkpoint()  # type: ignore[call-arg]
    guard: Guard = Guard()  # type: ignore[call-arg]
    tasks: Tasks | None = None
    tracking: Tracking = Tracking()
    timeout_minutes: Minutes = 30.0  # of one collective operation
    accept_changes: bool = False  # resume although settings that touch order or numerics changed

    @model_validator(mode="after")
    def _attention_of_shared_sequences(self) -> Self:
        chosen = self.model.implementation
        if self.training.sequence_parallel > 1 and chosen not in ("auto", "varlen"):
            raise ValueError(
                "training.sequence_parallel computes attention by varlen, and model.implementation is "
                f"{chosen}: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _copies_elsewhere(self) -> Self:
        url = self.checkpoint.copy_to or ""
        place = Path(url.removeprefix("file:").removeprefix("//"))
        if url.startswith("file:") and place.resolve().is_relative_to(self.run.resolve()):
            raise ValueError(
                f"checkpoint.copy_to: {url} is in the run's own folder: give another place"
            )
        return self


# What may change between two starts of a run without touching its order or numerics.
FREE_KEYS = (
    "run",
    "checkpoint",
    "guard",
    "tasks",
    "tracking",
    "timeout_minutes",
    "accept_changes",
    "data.workers",
    "data.bad_row_groups",
    # Of sources and phases, those that were read before the resume are compared: pretrain/plan.py.
    "data.train",
    "phases",
    "data.require_even",
    "data.validation",
    "training.validate_every",
    "training.validation_sequences",
    "training.micro_batch",
    "deepspeed",  # its effective values are compared instead
    "model.path",  # the weights' hash is compared instead
    "model.branch",  # its checkpoint's hash is compared instead
    "training.sequence_parallel",
)


def decisive_settings(config: RunConfig) -> dict[str, Any]:
    """Dotted key: value of every setting that order or numerics depend on."""
    flat: dict[str, Any] = {}

    def flatten(prefix: str, value: Any) -> None:
        if any(prefix == key or prefix.startswith(key + ".") for key in FREE_KEYS):
            return
        if isinstance(value, dict) and value:
            for key, below in value.items():
                flatten(f"{prefix}.{key}" if prefix else key, below)
        else:
            flat[prefix] = value

    flatten("", config.model_dump(mode="json"))
    return flat
