"""The effective DeepSpeed settings, the metrics file, the isolation test."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.errors import ConfigError, DataError
from pretrain.config import RunConfig, Training
from pretrain.engine.deepspeed_config import decisive_leaves, effective_config, run_settings
from pretrain.engine.deepspeed_keys import TOP, ZERO_OPTIMIZATION
from pretrain.model.isolation import check_isolation
from pretrain.watch.metrics import roll_back
from tests import tiny

TRAINING = Training(steps=1, global_batch=8, micro_batch=2, gradient_clipping=0.5)


def test_the_recipe_fills_in_what_the_json_leaves_out():
    settings = effective_config(tiny.ROOT / "configs/deepspeed/zero3.json", TRAINING, 4)
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["train_micro_batch_size_per_gpu"] == 2
    assert settings["gradient_accumulation_steps"] == 4
    assert settings["gradient_clipping"] == 0.5
    assert settings["bf16"]["enabled"] is True
    assert settings["data_types"]["grad_accum_dtype"] == "fp32"


@pytest.mark.parametrize(
    ("json_text", "complaint"),
    [
        (
            '{"zero_optimization": {"stage": 3}, "gradient_clipping": 1.0}',
            "gradient_clipping: found 1.0",
        ),
        (
            '{"zero_optimization": {"stage": 3}, "bf16": {"enabled": false}}',
            "bf16.enabled: found False",
        ),
        ('{"zero_optimization": {"stage": "auto"}}', "zero_optimization.stage: found 'auto'"),
        ('{"zero_optimization": {"stage": 0}}', "stage: found 0, expected 1, 2 or 3"),
        ('{"zero_optimization": {}}', "stage: found None, expected 1, 2 or 3"),
        (
            '{"zero_optimization": {"stage": 3, "reduce_buket_size": 1}}',
            "reduce_buket_size: .* did you mean reduce_bucket_size",
        ),
        (
            '{"gradient_cliping": 1, "zero_optimization": {"stage": 3}}',
            "did you mean gradient_clipping",
        ),
        (
            '{"zero_optimization": {"stage": 3, "overlap_comm": 1}}',
            "overlap_comm: found 1, expected true or false",
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": {"devise": "cpu"}}}',
            "offload_param.devise: .* did you mean device",
        ),
        (
            '{"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}',
            "offload_param: stage 2 leaves the parameters whole",
        ),
        (
            '{"zero_optimization": {"stage": 1, "zero_hpz_partition_size": 8}}',
            "zero_hpz_partition_size: stage 1 leaves",
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}',
            "offload_optimizer.device: DeepSpeed does not load a checkpoint of an optimizer on nvme",
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": {"device": "disk"}}}',
            "offload_param.device: found 'disk', expected none, cpu or nvme",
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}',
            "offload_param.nvme_path: it is missing",
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "$NO_SUCH"}}}',
            "nvme_path: \\$NO_SUCH names a variable that is not set",
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/no/such"}}}',
            "nvme_path: /no/such is no folder",
        ),
        (
            '{"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 0}}',
            "zero_hpz_partition_size: found 0",
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/tmp"}}}',
            "stage3_prefetch_bucket_size: .* set it to 0",
        ),
        ('{"zero_optimization": 3}', "zero_optimization: found 3, expected an object"),
        ('{"zero_optimization": {"stage": 3}, "optimizer": {}}', "optimizer: leave it out"),
        ("{", "line 1: not valid JSON"),
    ],
)
def test_a_value_given_twice_differently_is_refused(json_text, complaint, tmp_path):
    path = tmp_path / "zero.json"
    path.write_text(json_text)
    with pytest.raises(ConfigError, match=complaint):
        effective_config(path, TRAINING, 1)


FILES = sorted((tiny.ROOT / "configs/deepspeed").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_every_shipped_file_is_whole_for_every_precision(path, precision, tmp_path, monkeypatch):
    from deepspeed.runtime.config import DeepSpeedConfig

    monkeypatch.setenv("NVME_PATH", str(tmp_path))
    training = Training(steps=1, global_batch=8, micro_batch=2, precision=precision)
    settings = effective_config(path, training, 4)
    parsed = DeepSpeedConfig(settings)  # DeepSpeed itself takes it
    assert parsed.bfloat16_config.enabled == (precision == "bf16")
    assert parsed.float16_config.enabled == (precision == "fp16")
    assert parsed.grad_accum_dtype == "fp32"


# Every setting of deepspeed 0.19.8 that changes numerics, from its documentation
# (https://www.deepspeed.ai/docs/config-json/) and the classes behind it, with the value that it has where
# nothing is said. Each is in our dict, so that a default that moves moves no run; where one has moved,
# look at what it means and at docs/training.md.
NUMERIC_DEFAULTS: dict[str, Any] = {
    "gradient_clipping": 1.0,
    "prescale_gradients": False,
    "gradient_predivide_factor": 1.0,
    "gradient_allreduce_op": "mean",
    "communication_data_type": None,
    "seq_parallel_communication_data_type": "fp32",
    "disable_allgather": False,
    "managed_gradient_accumulation": True,
    "data_types.grad_accum_dtype": None,
    "data_types.keep_in_fp32_modules": "auto",
    "torch_autocast.enabled": False,
    "bf16.enabled": False,
    "bf16.immediate_grad_update": False,
    "bf16.check_grad_overflow": True,
    "bf16.bf16_master_weights_and_grads": False,
    "bf16.bf16_optimizer_states": False,
    "fp16.enabled": False,
    "fp16.auto_cast": False,
    "fp16.loss_scale": 0,
    "fp16.initial_scale_power": 16,
    "fp16.loss_scale_window": 1000,
    "fp16.hysteresis": 2,
    "fp16.consecutive_hysteresis": False,
    "fp16.min_loss_scale": 1,
    "fp16.fp16_master_weights_and_grads": False,
    "zero_optimization.zero_quantized_weights": False,
    "zero_optimization.zero_quantized_nontrainable_weights": False,
    "zero_optimization.zero_quantized_gradients": False,
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_setting_that_changes_numerics_is_left_to_deepspeed(path, tmp_path, monkeypatch):
    monkeypatch.setenv("NVME_PATH", str(tmp_path))
    settings = effective_config(path, TRAINING, 4)
    written = {key.removeprefix("deepspeed.") for key in decisive_leaves(settings)}
    assert set(NUMERIC_DEFAULTS) <= written


def test_the_installed_deepspeed_has_the_defaults_that_were_looked_at():
    from deepspeed.runtime import constants
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    classes = {
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
        "zero_optimization": DeepSpeedZeroConfig,
    }
    found = {}
    for key in NUMERIC_DEFAULTS:
        section, _, name = key.rpartition(".")
        if section in classes:
            found[key] = classes[section].model_fields[name].default
        else:
            found[key] = getattr(constants, constant_of(key))
    assert found == NUMERIC_DEFAULTS
    # Two sections must have no key that nobody has looked at.
    for section in ("bf16", "fp16"):
        assert set(classes[section].model_fields) == set(TOP[section])


def constant_of(key: str) -> str:
    """Where DeepSpeed has the default of a key that is in no class of settings."""
    section, _, name = key.rpartition(".")
    prefix = "TORCH_AUTOCAST_" if section == "torch_autocast" else ""
    return f"{prefix}{name.upper()}_DEFAULT"


# What else has a default among DeepSpeed's constants, bf16's and fp16's apart, whose classes are looked at above.
NO_NUMERICS = {
    *("TRAIN_BATCH_SIZE", "TRAIN_MICRO_BATCH_SIZE_PER_GPU", "GRADIENT_ACCUMULATION_STEPS"),  # ours
    *("OPTIMIZER_TYPE", "SCHEDULER_TYPE", "LEGACY_FUSION"),  # this trainer has its own
    *("ZERO_ALLOW_UNTESTED_OPTIMIZER", "ZERO_FORCE_DS_CPU_OPTIMIZER", "DATALOADER_DROP_LAST"),
    *("PARAM_DTYPE", "BUFFER_DTYPE"),  # None, as below: what the model has
    *("CHECKPOINT_TAG_VALIDATION", "CHECKPOINT_PARALLEL_WRITE_PIPELINE_STAGE"),
    *("LOAD_UNIVERSAL_CHECKPOINT", "USE_NODE_LOCAL_STORAGE_CHECKPOINT"),
    *("STEPS_PER_PRINT", "WALL_CLOCK_BREAKDOWN", "MEMORY_BREAKDOWN", "DUMP_STATE", "LOG_LEVEL"),
    *("DISABLE_PYTHON_GC", "USE_DATA_BEFORE_EXPERT_PARALLEL", "VOCABULARY_SIZE"),
}


def test_no_constant_of_the_installed_deepspeed_has_a_default_that_nobody_looked_at():
    from deepspeed.runtime import constants

    found = {name for name in vars(constants) if name.endswith("_DEFAULT")}
    of_classes = {name for name in found if name.startswith(("BFLOAT16_", "FP16_"))}
    looked_at = {constant_of(key) for key in NUMERIC_DEFAULTS}
    assert found - of_classes - looked_at == {f"{name}_DEFAULT" for name in NO_NUMERICS}
    assert constants.PARAM_DTYPE_DEFAULT is constants.BUFFER_DTYPE_DEFAULT is None


# Of zero_optimization: old names, and what this trainer does not pass on.
NOT_PASSED_ON = {
    *("cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory", "legacy_stage1"),
    *("stage3_gather_fp16_weights_on_model_save", "elastic_checkpoint", "load_from_fp32_weights"),
    *("compute_grad_norm", "ignore_unused_parameters", "leaf_module", "override_module_apply"),
    *("pipeline_loading_checkpoint", "save_muon_momentum_buffer_in_memory", "zenflow"),
}


def test_the_keys_of_zero_optimization_are_the_installed_deepspeeds():
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    names = {field.alias or name for name, field in DeepSpeedZeroConfig.model_fields.items()}
    assert names - set(ZERO_OPTIMIZATION) == NOT_PASSED_ON
    assert set(ZERO_OPTIMIZATION) <= names


def run_config(tmp_path: Path, file: str, **changes: Any) -> RunConfig:
    values = tiny.run_config(tmp_path / "run", {"a": tmp_path}, **changes)
    values["deepspeed"] = str(tiny.ROOT / "configs/deepspeed" / file)
    return RunConfig(**values)


@pytest.mark.parametrize(
    ("file", "changes", "complaint"),
    [
        (
            "zero3.json",
            {"training__gradient_clipping": 0.0},
            "needs stage 3 with reduce_scatter false",
        ),
        (
            "zero2.json",
            {"training__gradient_clipping": 0.0},
            "needs stage 3 with reduce_scatter false",
        ),
        ("zero3-muon.json", {}, "training.gradient_clipping: found 1.0"),
        (
            "zero3-muon.json",
            {"model": {"path": "x", "lora": {}}, "training__gradient_clipping": 0.0},
            "muon orthogonalises whole weights",
        ),
        (
            "zero3-offload.json",
            {"training__gradient_clipping": 0.0},
            "offload_optimizer: optimizer.name muon is not tested",
        ),
    ],
)
def test_what_muon_cannot_do_is_refused(file, changes, complaint, tmp_path):
    config = run_config(tmp_path, file, optimizer__name="muon", **changes)
    with pytest.raises(ConfigError, match=complaint):
        run_settings(config, 2, 1)


def test_hierarchical_partitions_must_fit_into_the_ranks(tmp_path):
    config = run_config(tmp_path, "zero3-hpz.json")
    assert run_settings(config, 16, 1)["zero_optimization"]["zero_hpz_partition_size"] == 8
    assert run_settings(config, 2, 1)
    with pytest.raises(ConfigError, match="found 8, which does not divide the 12 ranks"):
        run_settings(config, 12, 1)


def test_two_runs_never_swap_into_one_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NVME_PATH", str(tmp_path))
    places = set()
    for name in ("one", "two"):
        config = run_config(tmp_path, "zero3-nvme.json").model_copy(update={"run": tmp_path / name})
        zero = run_settings(config, 2, 1)["zero_optimization"]
        places.add(zero["offload_param"]["nvme_path"])
    assert len(places) == 2
    assert all(re.fullmatch(rf"{tmp_path}/biomed-[0-9a-f]{{12}}", place) for place in places)


def test_fp16s_loss_scale_is_the_jsons_to_change(tmp_path):
    path = tmp_path / "zero.json"
    path.write_text('{"zero_optimization": {"stage": 3}, "fp16": {"initial_scale_power": 12}}')
    settings = effective_config(path, TRAINING, 1)
    assert settings["fp16"]["initial_scale_power"] == 12
    assert settings["fp16"]["loss_scale_window"] == 1000


def test_every_step_stands_once_in_the_metrics_after_a_roll_back(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 0, "validation": {}}, {"step": 1}, {"step": 2}, {"step": 3}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    assert roll_back(tmp_path, 1) == 2
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1]
    moved = tmp_path / "metrics.rolled-back.jsonl"
    assert [json.loads(line)["step"] for line in moved.read_text().splitlines()] == [2, 3]
    assert roll_back(tmp_path, 1) == 0


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    settings = dict(tiny.GPT2 if request.param == "gpt2" else tiny.LLAMA)
    torch.manual_seed(0)
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=257, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


def test_the_start_up_test_tells_isolation_from_leakage(model):
    def isolated(tokens, positions):
        return model(tokens, position_ids=positions, use_cache=False).logits

    def leaking(tokens, positions):
        mask = torch.ones_like(tokens)  # with a mask, transformers no longer sees the documents
        return model(tokens, position_ids=positions, attention_mask=mask, use_cache=False).logits

    def of_first_row(tokens, positions):
        if len(tokens) > 1:  # as flash attention does: documents are seen in a batch of one only
            positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        return isolated(tokens, positions)

    cpu = torch.device("cpu")
    assert check_isolation(isolated, "document", 257, cpu) < 1e-6
    assert check_isolation(of_first_row, "document", 257, cpu) < 1e-6
    with pytest.raises(DataError, match="does not isolate"):
        check_isolation(of_first_row, "document", 257, cpu, rows=2)
    assert check_isolation(isolated, "sequence", 257, cpu) > 1e-4
    with pytest.raises(DataError, match="does not isolate"):
        check_isolation(leaking, "document", 257, cpu)
