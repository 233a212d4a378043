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
