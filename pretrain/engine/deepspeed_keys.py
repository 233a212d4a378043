"""The keys that a file under configs/deepspeed/ may have.

DeepSpeed passes over a top-level key that it does not know, and names one in zero_optimization in a
traceback, on every rank. Here are the keys of deepspeed 0.19.8 that this trainer passes on; its
documentation, https://www.deepspeed.ai/docs/config-json/, says what each one does.
"""

import difflib
from collections.abc import Iterator
from typing import Any

# None: any value; a dict: a section of its own.
Keys = dict[str, Any]

COUNT = "a whole number"
SWITCH = "true or false"
SHARE = "a number from 0 to 1"
NAME = "a text"

OFFLOAD: Keys = {"device": NAME, "nvme_path": NAME, "buffer_count": COUNT, "pin_memory": SWITCH}
ZERO_OPTIMIZATION: Keys = {
    "stage": COUNT,
    "contiguous_gradients": SWITCH,
    "overlap_comm": SWITCH,
    "reduce_scatter": SWITCH,
    "reduce_bucket_size": COUNT,
    "sub_group_size": COUNT,
    # stages 1 and 2
    "allgather_partitions": SWITCH,
    "allgather_bucket_size": COUNT,
    "use_multi_rank_bucket_allreduce": SWITCH,
    "round_robin_gradients": SWITCH,
    "parameter_alignment": SWITCH,
    # stage 3
    "stage3_prefetch_bucket_size": COUNT,
    "stage3_param_persistence_threshold": COUNT,
    "stage3_model_persistence_threshold": COUNT,
    "stage3_max_live_parameters": COUNT,
    "stage3_max_reuse_distance": COUNT,
    "stage3_module_granularity_threshold": COUNT,
    "stage3_use_all_reduce_for_fetch_params": SWITCH,
    "stage3_allgather_sequential": SWITCH,
    "stage3_gather_16bit_weights_on_model_save": SWITCH,
    "memory_efficient_linear": SWITCH,
    "log_trace_cache_warnings": SWITCH,
    "enable_sanity_checks": SWITCH,
    # ZeRO++
    "zero_hpz_partition_size": COUNT,
    "zero_quantized_weights": SWITCH,
    "zero_quantized_nontrainable_weights": SWITCH,
    "zero_quantized_gradients": SWITCH,
    # ZeRO-Offload and ZeRO-Infinity
    "offload_param": OFFLOAD | {"buffer_size": COUNT, "max_in_cpu": COUNT},
    "offload_optimizer": OFFLOAD
    | {
        "pipeline_read": SWITCH,
        "pipeline_write": SWITCH,
        "fast_init": SWITCH,
        "ratio": SHARE,
        "cpuadam_cores_perc": SHARE,
    },
}
AIO: Keys = {
    "block_size": COUNT,
    "queue_depth": COUNT,
    "intra_op_parallelism": COUNT,
    "single_submit": SWITCH,
    "overlap_events": SWITCH,
    "use_gds": SWITCH,
}
FP16: Keys = {
    "enabled": SWITCH,
    "auto_cast": SWITCH,
    "loss_scale": None,
    "initial_scale_power": COUNT,
    "loss_scale_window": COUNT,
    "hysteresis": COUNT,
    "consecutive_hysteresis": SWITCH,
    "min_loss_scale": COUNT,
    "fp16_master_weights_and_grads": SWITCH,
}
BF16: Keys = {
    "enabled": SWITCH,
    "immediate_grad_update": SWITCH,
    "check_grad_overflow": SWITCH,
    "bf16_master_weights_and_grads": SWITCH,
    "bf16_optimizer_states": SWITCH,
}
TOP: Keys = {
    "zero_optimization": ZERO_OPTIMIZATION,
    "fp16": FP16,
    "bf16": BF16,
    "data_types": {"grad_accum_dtype": NAME, "keep_in_fp32_modules": None},
    "torch_autocast": {"enabled": SWITCH},
    "aio": AIO,
    "checkpoint": {"tag_validation": NAME, "load_universal": SWITCH},
    "train_micro_batch_size_per_gpu": COUNT,
    "gradient_accumulation_steps": COUNT,
    "managed_gradient_accumulation": SWITCH,
    "gradient_clipping": None,
    "gradient_allreduce_op": NAME,
    "communication_data_type": NAME,
    "seq_parallel_communication_data_type": NAME,
    "prescale_gradients": SWITCH,
    "gradient_predivide_factor": None,
    "disable_allgather": SWITCH,
    "zero_force_ds_cpu_optimizer": SWITCH,
    "steps_per_print": COUNT,
    "wall_clock_breakdown": SWITCH,
    "memory_breakdown": SWITCH,
    "dump_state": SWITCH,
    "comms_logger": None,
    "flops_profiler": None,
}


def faults(settings: dict[str, Any], known: Keys = TOP, section: str = "") -> Iterator[str]:
    """A line for each key that is unknown or has a value of another kind; all lines begin with the key."""
    for key, value in settings.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "leave it out"
            yield f"{section}{key}: this trainer passes no such setting on to DeepSpeed; {hint}"
        elif isinstance(known[key], dict):
            if isinstance(value, dict):
                yield from faults(value, known[key], f"{section}{key}.")
            else:
                yield f"{section}{key}: found {value!r}, expected an object of settings"
        elif known[key] is not None and not _is_a(known[key], value):
            yield f"{section}{key}: found {value!r}, expected {known[key]}"


def _is_a(kind: str, value: Any) -> bool:
    if kind == SWITCH or isinstance(value, bool):
        return kind == SWITCH and isinstance(value, bool)
    if kind == NAME:
        return isinstance(value, str)
    if not isinstance(value, int | float):
        return False
    if kind == SHARE:
        return 0 <= value <= 1
    return value >= 0 and float(value).is_integer()  # DeepSpeed's users write 5e8, too
