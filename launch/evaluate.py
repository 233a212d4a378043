"""Perplexity, bits per byte and benchmarks of models side by side.

python launch/evaluate.py --config configs/evaluate.yaml
"""

import sys
from pathlib import Path

# This folder's scripts must not shadow packages; the checkout must be importable without installing.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import glob
import os
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table

from data_prep.config_file import Section
from data_prep.documents import DocumentWriter
from data_prep.errors import ConfigError
from data_prep.files import write_atomically, write_json
from launch.command_line import run_command


class EvaluateConfig(Section):
    """Which models, on what."""

    models: dict[str, Path] = Field(
        min_length=1
    )  # name: Hugging Face folder; the first is "before"
    documents: dict[str, list[str]] = {}  # source: globs of held-out .jsonl.zst files
    tasks: list[str] = []  # lm-eval's names, or YAML files of tasks
    limit: int | None = Field(None, ge=1)  # documents of each source, questions of each task
    few_shot: int | None = Field(None, ge=0)  # examples before each question; none: the task's own
    batch_size: int = Field(1, ge=1)  # windows, or questions, at once
    context_tokens: int | None = Field(None, ge=2)  # none: the model's own
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: as stored
    online: bool = False  # whether lm-eval may fetch a task's data set
    output: Path  # folder for results.json and the samples


def main(config: EvaluateConfig) -> None:
    files = _check(config)
    # Bars for every model and task would bury the results.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not config.online:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

    try:
        import lm_eval
    except ModuleNotFoundError as error:
        raise ConfigError(
            "lm-eval is not installed; install the project with its extra eval: pip install -e '.[eval]'"
        ) from error

    from pretrain.scoring import evaluation

    documents = {
        source: evaluation.held_out(paths, config.limit) for source, paths in files.items()
    }
    if config.context_tokens is not None:
        for name, folder in config.models.items():
            evaluation.check_context(name, folder, config.context_tokens)
    models: list[dict[str, str]] = []
    perplexity: list[dict[str, Any]] = []
    tasks: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for name, folder in config.models.items():
        loaded = evaluation.load_model(name, folder, config.device, config.dtype)
        models.append({"name": name, "folder": str(folder), "hash": loaded.hash})
        for source, held_out in documents.items():
            score, lines = evaluation.score_documents(
                loaded, source, held_out, config.batch_size, config.context_tokens
            )
            perplexity.append(score)
            samples += lines
        if config.tasks:
            scores, prompts = evaluation.score_tasks(
                loaded, config.tasks, config.batch_size, config.limit, config.few_shot
            )
            tasks += scores
            answers += prompts
    results = {
        "lm_eval": lm_eval.__version__,
        "limit": config.limit,
        "dtype": config.dtype,
        "models": models,
        "perplexity": perplexity,
        "tasks": tasks,
    }
    write_json(config.output / "results.json", results)
    _write_lines(config.output / "documents.jsonl.zst", samples)
    _write_lines(config.output / "answers.jsonl.zst", answers)
    _print(results)


def _check(config: EvaluateConfig) -> dict[str, list[Path]]:
    """The files of each source; ConfigError for what can be seen to be wrong before anything is loaded."""
    if not config.documents and not config.tasks:
        raise ConfigError("nothing to evaluate on: give documents (held-out files) or tasks")
    for name, folder in config.models.items():
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"models.{name}: {folder} has no config.json; give the folder of a Hugging Face model"
            )
    files = {}
    for source, patterns in config.documents.items():
        files[source] = sorted({Path(path) for pattern in patterns for path in glob.glob(pattern)})
        if not files[source]:
            raise ConfigError(f"documents.{source}: no file matches {', '.join(patterns)}")
    return files


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with write_atomically(path) as partial, DocumentWriter(partial) as writer:
        for line in lines:
            writer.write(line)


def _print(results: dict[str, Any]) -> None:
    names = [model["name"] for model in results["models"]]
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for score in results["perplexity"]:
        for metric in ("bits_per_byte", "byte_perplexity", "word_perplexity"):
            rows.setdefault((score["source"], metric), {})[score["model"]] = score[metric]
    for score in results["tasks"]:
        rows.setdefault((score["task"], score["metric"]), {})[score["model"]] = score["value"]
    table = Table("evaluated on", "measure", *names)
    for (place, metric), values in rows.items():
        cells = [f"{values[name]:.4f}" if name in values else "–" for name in names]
        table.add_row(place, metric, *cells)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(run_command("evaluate", EvaluateConfig, main, sys.argv[1:]))
