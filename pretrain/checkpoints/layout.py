"""How a checkpoint's files are divided: over how many ranks, by which ZeRO stage, in which precision. No torch here."""

from typing import Any

from data_prep.errors import ConfigError

# fp32 tensors of a parameter's size that an optimizer keeps; Muon has one, AdamW's part of it two.
MOMENTS = {"adamw": 2, "lion": 1, "muon": 2}


def layout_of(settings: dict[str, Any], optimizer: str, world: int) -> dict[str, Any]:
    """What decides how the files look, from the effective DeepSpeed settings; JSON-able."""
    zero = settings["zero_optimization"]
    precisions = [name for name in ("bf16", "fp16") if settings.get(name, {}).get("enabled")]
    return {
        "world": world,
        "stage": zero["stage"],
        "precision": precisions[0] if precisions else "fp32",
        "optimizer": optimizer,
        "offload_optimizer": (zero.get("offload_optimizer") or {}).get("device", "none"),
        "offload_parameters": (zero.get("offload_param") or {}).get("device", "none"),
    }


def changed(saved: dict[str, Any], now: dict[str, Any]) -> str:
    """How a run is divided otherwise than its checkpoint, in words for the user; empty where alike."""
    return ", ".join(
        f"{key.replace('_', ' ')} {saved[key]} → {now[key]}"
        for key in now
        if key in saved and saved[key] != now[key]
    )


def as_saved_only(layout: dict[str, Any]) -> str:
    """What keeps a checkpoint from being loaded into any other layout; empty where nothing does."""
    if "nvme" in (layout.get("offload_optimizer"), layout.get("offload_parameters")):
        return "offload to NVMe"  # in DeepSpeed's swap files
    # DeepSpeed keeps its momentum apart from the moments
    return "muon" if layout.get("optimizer") == "muon" else ""


def check_loadable(saved: dict[str, Any], now: dict[str, Any], place: str) -> None:
    """Raise ConfigError where a checkpoint cannot be loaded into the layout of this run."""
    before = saved.get("optimizer", now["optimizer"])
    if before != now["optimizer"]:
        raise ConfigError(
            f"optimizer.name: {place} has the moments of {before}, which {now['optimizer']} cannot go on "
            f"with; restore {before}, or train on from the exported weights"
        )
    bound, told = as_saved_only(saved) or as_saved_only(now), changed(saved, now)
    if bound and told:
        raise ConfigError(
            f"{place}: {bound} can go on only as it was saved, not with {told}; restore that, or train on from "
            "the exported weights"
        )


def bytes_needed(parameters: int, layout: dict[str, Any]) -> int:
    """Size of a checkpoint with `parameters` trained ones: weights and moments in fp32, and, but for stage 3,
    weights once more in training precision."""
    model = 0 if layout["stage"] == 3 else 4 if layout["precision"] == "fp32" else 2
    return parameters * (4 + 4 * MOMENTS[layout["optimizer"]] + model)
