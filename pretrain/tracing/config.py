"""What `launch/trace.py` is told."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from data_prep.config_file import Section


class TraceConfig(Section):
    """Which run, and a step or a document of it."""

    run: Path
    step: int | None = Field(None, ge=1)  # as in the run's metrics.jsonl: the first is 1
    document: str | None = None  # an id: pmid:10704411, pmcid:PMC176545, …
    as_json: bool = Field(False, alias="json")  # a line of JSON for each row, not a table

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.step is None) == (self.document is None):
            raise ValueError("give either step (which documents?) or document (which steps?)")
        return self
