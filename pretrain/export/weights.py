"""Where each weight of an exported model comes from: the checkpoint, the model it began from, or both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from data_prep.errors import DataError
from data_prep.files import read_json
from data_prep.shards.reader import ShardSet
from data_prep.tokenizer.extension import Extension
from pretrain.checkpoints.branch import identity
from pretrain.checkpoints.names import MANIFEST, STATE, name_of, saved_steps
from pretrain.config import Lora, RunConfig
from pretrain.export.lazy_weights import LazyTensor, checkpoint_weights, folder_weights, of_tensor
from pretrain.model.base_model import local_folder
from pretrain.model.build import with_adapters
from pretrain.model.vocabulary import fill
from pretrain.plan import check_tokenizer

_ADAPTED = "base_model.model."  # what peft puts before every name


def model_weights(
    run: RunConfig, checkpoint: Path | None, model: Any, shards: ShardSet
) -> dict[str, LazyTensor]:
    """The whole model's weights by name, adapters merged, tied ones left out.

    `model`: of meta_model. `checkpoint`: none for the model as it was before training. Raises DataError naming the first weight
    that is nowhere, or has another shape than the architecture.
    """
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name not in model.all_tied_weights_keys
    }
    trained = checkpoint_weights(checkpoint) if checkpoint else {}
    weights = dict(trained)
    if checkpoint is None or run.model.lora or run.model.freeze:
        weights = _before_training(run, model, shards) | trained
    if run.model.lora:
        weights = _merged(weights, run.model.lora, model)
    missing = sorted(expected.keys() - weights.keys())
    if missing:
        raise DataError(
            f"{checkpoint}: the checkpoint has no weights for {missing[0]} ({len(missing)} missing)"
        )
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise DataError(
                f"{checkpoint}: {name} has the shape {list(weights[name].shape)} there, expected "
                f"{list(shape)} by the run's model/config.json"
            )
    return {name: weights[name] for name in expected}


def meta_model(config: PretrainedConfig) -> Any:
    """The architecture without weights."""
    # Not by from_config, which under ZeRO-3 would gather and initialise what is not there.
    kind: Any = AutoModelForCausalLM._model_mapping[type(config)]
    with torch.device("meta"), no_init_weights():
        return kind(config)


def write_adapter(
    folder: Path,
    run: RunConfig,
    checkpoint: Path | None,
    model: Any,
    dtype: torch.dtype,
) -> None:
    """Write the adapter alone, as peft saves it: adapter_model.safetensors and adapter_config.json."""
    with torch.device("meta"):
        model = with_adapters(model, run.model)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if checkpoint is None:
        raise DataError("step: before training an adapter changes nothing; export the base model")
    trained = checkpoint_weights(checkpoint)
    missing = [name for name in names if name not in trained]
    if missing:
        raise DataError(
            f"{checkpoint}: the checkpoint has no weights for {missing[0]} ({len(missing)} missing)"
        )
    model.peft_config["default"].base_model_name_or_path = run.model.path
    weights = {name: trained[name].read().to(dtype) for name in names}
    model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)


def _before_training(run: RunConfig, model: Any, shards: ShardSet) -> dict[str, LazyTensor]:
    """What the run began with: the base model, another run's checkpoint, or a fresh draw."""
    if run.model.branch:
        branch = run.model.branch
        own = saved_steps(run.run / "checkpoints")
        if not own:
            raise DataError(
                f"step: {run.run} has no checkpoint yet, and with it no record of that of {branch.run} it "
                "began with; export that run"
            )
        # The oldest: with accept_changes a later one may have been told another step.
        state = read_json(run.run / "checkpoints" / name_of(own[-1]) / STATE)
        recorded = state["decisive"]["branch"]
        source = branch.run / "checkpoints" / name_of(recorded["step"])
        if not (source / MANIFEST).exists() or identity(source) != recorded:
            raise DataError(
                f"model.branch: {branch.run} no longer has the checkpoint of step {recorded['step']}, which "
                "this run began with"
            )
        return checkpoint_weights(source)
    if run.model.path is None:
        torch.manual_seed(run.seed)
        drawn = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
        return _in_memory(drawn)
    base = local_folder(run.model.path, run.model.revision)
    weights = _base_weights(base, model)
    extension = check_tokenizer(shards, base)
    return _extended(weights, extension, model) if extension else weights


def _base_weights(folder: Path, model: Any) -> dict[str, LazyTensor]:
    """A folder's weights under the names of the model's parameters."""
    expected = model.state_dict().keys()
    prefix = model.base_model_prefix + "."
    tied: Mapping[str, str] = model.all_tied_weights_keys
    weights: dict[str, LazyTensor] = {}
    for name, tensor in folder_weights(folder).items():
        # Files of a model without its head lack the prefix.
        spellings = (name, prefix + name, name.removeprefix(prefix))
        known = next((spelling for spelling in spellings if spelling in expected), None)
        if known is not None:
            weights[known] = tensor
    for left_out, kept in tied.items():
        if kept not in weights and left_out in weights:
            weights[kept] = weights[left_out]
    if expected - tied.keys() <= weights.keys():
        return weights
    # transformers knows other names of some models' weights, and joins some: held in memory.
    return _in_memory(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def _in_memory(model: Any) -> dict[str, LazyTensor]:
    return {name: of_tensor(tensor) for name, tensor in model.state_dict().items()}


def _extended(
    weights: dict[str, LazyTensor], extension: Extension, model: Any
) -> dict[str, LazyTensor]:
    """With the rows of new vocabulary entries, as training began with them."""
    size = model.config.vocab_size
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if any(module is embedding for embedding in embeddings)
        for part in ("weight", "bias")
    }

    def extended(tensor: LazyTensor) -> LazyTensor:
        def read() -> torch.Tensor:
            old = tensor.read()
            rows = old.new_zeros((size, *old.shape[1:]))
            rows[: len(old)] = old
            fill(rows, extension)
            return rows

        return LazyTensor((size, *tensor.shape[1:]), tensor.dtype, read)

    return {name: extended(tensor) if name in names else tensor for name, tensor in weights.items()}


def _merged(weights: dict[str, LazyTensor], lora: Lora, model: Any) -> dict[str, LazyTensor]:
    """Base weights plus what the adapters of the same weights have learnt."""
    base = {name: tensor for name, tensor in weights.items() if not name.startswith(_ADAPTED)}
    adapters = {
        name.removeprefix(_ADAPTED): tensor
        for name, tensor in weights.items()
        if name.startswith(_ADAPTED)
    }
    scale = lora.alpha / lora.rank
    for name, down in adapters.items():
        module, _, kind = name.partition(".lora_")
        if kind not in ("A.default.weight", "embedding_A.default"):
            continue
        up = adapters[f"{module}.lora_{kind.replace('A.', 'B.', 1)}"]
        target = model.get_submodule(module)
        # Both keep their weight as (in, out), where a linear layer has (out, in).
        transposed = isinstance(target, Conv1D | torch.nn.Embedding)
        weight = f"{module}.weight"
        base[weight] = _with_adapter(base[weight], down, up, scale, transposed)
    return base


def _with_adapter(
    base: LazyTensor, down: LazyTensor, up: LazyTensor, scale: float, transposed: bool
) -> LazyTensor:
    """base + scale * up @ down in fp32 (peft's LoraLayer.get_delta_weight)."""

    def read() -> torch.Tensor:
        product = up.read() @ down.read()
        return (product.T if transposed else product).mul_(scale).add_(base.read())

    return LazyTensor(base.shape, torch.float32, read)
