"""One HTML page of a corpus, runs, an evaluation and samples of what the models write.

python launch/report.py --config FILE [--section.key value ...]
"""

import sys
from pathlib import Path

# Python puts this folder first on the path, where pretrain.py would shadow the package pretrain.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import os
from typing import Any

from pydantic import Field

from data_prep.config_file import Section
from data_prep.errors import ConfigError
from data_prep.files import read_json, write_atomically
from launch.command_line import run_command

PROMPTS = [
    "Aspirin reduces the risk of myocardial infarction because",
    "BACKGROUND: The aim of this study was to",
    "The most common side effects of metformin are",
]

RESULTS = {"lm_eval", "limit", "dtype", "models", "perplexity", "tasks"}  # of an evaluation


class ReportConfig(Section):
    """What the page shows; a part that is left out is said to be missing."""

    title: str = "Corpus and training report"
    corpus: Path | None = None  # output folder of a corpus
    runs: dict[str, Path] = {}  # name: folder of a run
    evaluation: Path | None = None  # results.json of launch/evaluate.py
    models: dict[str, Path] = {}  # name: Hugging Face folder, to write samples
    prompts: list[str] = Field(PROMPTS, min_length=1)
    new_tokens: int = Field(48, ge=1)  # of each sample
    seed: int = Field(0, ge=0)
    output: Path = Path("report.html")


def main(config: ReportConfig) -> None:
    for name, folder in config.models.items():
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"models.{name}: {folder} has no config.json; give the folder of a Hugging Face model"
            )
    evaluation = _read_evaluation(config.evaluation) if config.evaluation is not None else None

    from data_prep.card.figures import read_corpus
    from launch.report_page.page import Samples, render_page
    from launch.report_page.runs import read_run

    corpus = read_corpus(config.corpus) if config.corpus is not None else None
    runs = [read_run(name, folder) for name, folder in config.runs.items()]
    samples = []
    if config.models:
        os.environ |= {"HF_HUB_OFFLINE": "1"}
        from launch.report_page.generations import generate

        for name, folder in config.models.items():
            answers = generate(folder, config.prompts, config.seed, config.new_tokens)
            samples.append(Samples(name, answers))
    page = render_page(
        config.title,
        corpus,
        runs,
        evaluation,
        samples,
        origins={
            "corpus": f"{config.corpus}",
            "evaluation": f"{config.evaluation}",
            "samples": f"Up to {config.new_tokens} tokens after each prompt; drawn at random means from "
            f"the whole distribution at temperature 1 with seed {config.seed}.",
        },
    )
    with write_atomically(config.output) as partial:
        partial.write_text(page, encoding="utf-8")
    print(config.output)


def _read_evaluation(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"evaluation: {path} is not there; launch/evaluate.py writes results.json"
        )
    try:
        found = read_json(path)
    except ValueError:  # neither UTF-8 nor JSON
        found = None
    if not isinstance(found, dict) or not found.keys() >= RESULTS:
        raise ConfigError(
            f"evaluation: {path} is not what launch/evaluate.py writes; give its results.json"
        )
    return found


if __name__ == "__main__":
    sys.exit(run_command("report", ReportConfig, main, sys.argv[1:]))
