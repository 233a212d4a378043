"""What `launch/export.py` is told; apart from the code, so that a mistake shows before torch loads."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from data_prep.config_file import Section


class ExportConfig(Section):
    """What to export, from which run, to where."""

    run: Path
    output: Path
    step: int | None = Field(
        None, ge=0
    )  # none: the newest checkpoint; 0: the model before training
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    merge: bool = True  # LoRA: weights merged into the base; false: the adapter alone
    shard_gb: float = Field(5.0, gt=0)  # largest file of weights, in GB
    # The checkpoint's checksums are read, and what was written is loaded and compared with the engine.
    check: bool = True
    evaluation: Path | None = None  # results.json of launch/evaluate.py, for the model card
    # For the model card, as the hub names them: licence of the weights, languages, data sets.
    license: str | None = None
    language: list[str] = ["en"]
    datasets: list[str] = []
