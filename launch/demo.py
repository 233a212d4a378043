"""The whole path on two CPU ranks: XML to shards, pretraining killed and resumed, tuning, evaluation, a page.

python launch/demo.py                on the corpus bundled with the project
python launch/demo.py --input DIR    on a folder of real files: PubMed XML, JATS, or both
"""

import sys
from pathlib import Path

# This folder's scripts must not shadow packages; the checkout must be importable without installing.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
from rich.console import Console

from data_prep.demo_corpus import unpack
from data_prep.errors import ConfigError, DataError, ProjectError
from data_prep.files import read_json
from data_prep.sources.recognise import sort_by_format

ROOT = Path(__file__).resolve().parents[1]
console = Console(highlight=False, soft_wrap=True)
HOME = Path("runs/demo")
CORPUS = "configs/corpus/demo.yaml"
SOURCES = ("pubmed", "pmc")  # that the demo's configs name
KILL_AFTER_STEPS = 7  # beyond the checkpoint, to be computed again after the resume
ENVIRONMENT = os.environ | {
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # What libraries say at every model they load would bury what the demo shows.
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "LMEVAL_LOG_LEVEL": "ERROR",
}


def main(source: Path | None) -> None:
    began = time.perf_counter()
    given = find_input(source) if source else {}
    shutil.rmtree(HOME, ignore_errors=True)
    (HOME / "logs").mkdir(parents=True)
    with heading("Raw text"):
        lay_out_raw_text(source, given)
    with heading("XML to shards: download, extract, curate, tokenizer, pack"):
        data_prep("all", CORPUS, *corpus_overrides())
    with heading("The shard sets: checked, measured, to Megatron's format and back"):
        look_at_shards()
    data = data_overrides()
    with heading("Pretraining under ZeRO-3 on two ranks, to be killed half-way"):
        kill_half_way("pretrain", data)
    with heading("The same command again: it goes on from the last checkpoint"):
        train("pretrain", data)
        compare_losses()
    with heading("From a step to its documents, and from a document to its steps"):
        trace()
    with heading("Export: before and after"):
        python("export", "--run", HOME / "pretrain", "--step", 0, "--output", HOME / "untrained")
        python("export", "--run", HOME / "pretrain", "--output", HOME / "model")
    with heading("Instruction tuning of that model"):
        data_prep("instruct", CORPUS, *corpus_overrides(), "--instruct.tokenizer", HOME / "model")
        train("instruct", [])
        python("export", "--run", HOME / "instruct", "--output", HOME / "instruct-model")
    with heading("Evaluation on held-out documents"):
        evaluate()
    with heading("Report"):
        report()
    close(time.perf_counter() - began)


@contextmanager
def heading(title: str) -> Iterator[None]:
    console.rule(f"[bold]{title}", align="left")
    start = time.perf_counter()
    yield
    console.print(f"[dim]{time.perf_counter() - start:.0f} s[/dim]")


def find_input(source: Path) -> dict[str, list[Path]]:
    """The user's files sorted by what they are, looked for before anything of an earlier demo is removed."""
    if not source.is_dir():
        raise ConfigError(f"--input {source}: found no such folder; give one of PubMed XML or JATS")
    if source.resolve().is_relative_to(HOME.resolve()):
        raise ConfigError(
            f"--input {source}: lies in {HOME}, which every demo empties; move it elsewhere"
        )
    found = sort_by_format(source)
    if not found:
        raise DataError(
            f"--input {source}: found no PubMed XML and no JATS; give a folder of either"
        )
    return found


def lay_out_raw_text(source: Path | None, given: dict[str, list[Path]]) -> None:
    """The bundled corpus, or links to the user's files in its place."""
    unpack(HOME / "raw")
    if source is None:
        return
    for name in SOURCES:
        shutil.rmtree(HOME / "raw" / name)
    for name, files in given.items():
        for path in files:
            link = HOME / "raw" / name / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        texts = [path for path in files if path.suffix != ".md5"]
        console.print(f"{name}: {len(texts)} files")


def corpus_overrides() -> list[str]:
    """The sources that there are, where the config names one that there is not."""
    formats = {"pubmed": "pubmed", "pmc": "jats"}
    sources = {
        name: {"format": form, "path": str(HOME / "raw" / name)}
        for name, form in formats.items()
        if (HOME / "raw" / name).is_dir()
    }
    return ["--sources", json.dumps(sources)] if len(sources) < len(SOURCES) else []


def shard_sets(split: str) -> dict[str, str]:
    folders = {name: HOME / "corpus/shards" / f"{name}-{split}" for name in SOURCES}
    return {name: str(folder) for name, folder in folders.items() if folder.is_dir()}


def data_overrides() -> list[str]:
    overrides = []
    train, validation = shard_sets("train"), shard_sets("validation")
    if len(train) < len(SOURCES):
        overrides += ["--data.train", json.dumps({name: {"path": train[name]} for name in train})]
        overrides += ["--phases", "[]"]  # which name both
    if len(validation) < len(SOURCES):
        overrides += ["--data.validation", json.dumps(validation)]
    return overrides


def look_at_shards() -> None:
    """What the tools say of the sets; a conversion there and back must lose nothing."""
    sets = list(shard_sets("train").values())
    data_prep("verify", *sets)
    data_prep("stats", *sets)
    data_prep("inspect", sets[0], 1)
    data_prep("fertility", HOME / "corpus")
    there, back = HOME / "megatron", HOME / "from-megatron"
    name = Path(sets[0]).name
    data_prep("convert", sets[0], there, "--to", "megatron")
    tokenizer = HOME / "corpus/tokenizer/model"
    data_prep("convert", there / name, back, "--from", "megatron", "--tokenizer", tokenizer)
    before, after = (
        read_json(Path(folder) / "manifest.json")["counts"] for folder in (sets[0], back)
    )
    if any(before[count] != after[count] for count in ("documents", "tokens")):
        raise DataError(f"{back}: {after}, but {sets[0]} has {before}")


def trace() -> None:
    """The documents of the last step, and the steps of one of them."""
    run = HOME / "pretrain"
    python("trace", "--run", run, "--step", last_step("pretrain"))
    words = [sys.executable, "launch/trace.py", "--run", run, "--step", 1, "--json", "true"]
    ended = subprocess.run(list(map(str, words)), env=ENVIRONMENT, capture_output=True, check=True)
    first = json.loads(ended.stdout.splitlines()[0])["documents"][0]["id"]
    python("trace", "--run", run, "--document", first)


def evaluate() -> None:
    """The models on what was held out, if anything was."""
    held_out = shard_sets("validation")
    if not held_out:
        console.print("none: of so few documents none was held out")
        return
    files = {name: [f"{HOME}/corpus/curate/{name}/*/validation.jsonl.zst"] for name in held_out}
    some = ["--documents", json.dumps(files)] if len(held_out) < len(SOURCES) else []
    python("evaluate", "--config", "configs/evaluate/demo.yaml", *some)


def report() -> None:
    without = [] if (HOME / "evaluation").is_dir() else ["--evaluation", "null"]
    python("report", "--config", "configs/report/demo.yaml", *without)


def show(words: Sequence[str]) -> None:
    """The command as a person can type it, from the checkout."""
    command = shlex.join([Path(words[0]).name, *words[1:]])
    console.print(f"$ {command}", style="dim", markup=False)


def data_prep(*arguments: object) -> None:
    words = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    show(words)
    code = subprocess.run(words, env=ENVIRONMENT, check=False).returncode
    if code:
        raise DataError(f"the command above ended with code {code}")


def python(script: str, *arguments: object) -> None:
    """Run a script of this folder; what its libraries say goes to a log, its results are shown."""
    words = [sys.executable, f"launch/{script}.py", *map(str, arguments)]
    show(words)
    path = HOME / "logs" / f"{script}.log"
    with path.open("ab") as log:
        # DeepSpeed's lines about a checkpoint that it reads go to standard output, where an export has no results.
        results = log if script == "export" else None
        code = subprocess.run(
            words, env=ENVIRONMENT, check=False, stdout=results, stderr=log
        ).returncode
    if code:
        last = path.read_text(errors="replace").strip().splitlines()[-1:]
        raise DataError(f"the command above ended with code {code}; {path} ends: {''.join(last)}")


def training_command(name: str, overrides: list[str]) -> list[str]:
    deepspeed = str(Path(sys.executable).with_name("deepspeed"))
    config = f"configs/recipe/demo-{name}.yaml"
    return [deepspeed, "--num_gpus", "2", f"launch/{name}.py", "--config", config, *overrides]


def start_training(name: str, overrides: list[str]) -> subprocess.Popen[bytes]:
    words = training_command(name, overrides)
    show(words)
    with (HOME / "logs" / f"{name}.log").open("ab") as log:
        # DeepSpeed's own lines go to standard output; the trainer's to standard error.
        return subprocess.Popen(words, env=ENVIRONMENT, stdout=log)


def train(name: str, overrides: list[str]) -> None:
    start_training(name, overrides).wait()
    state = read_json(HOME / name / "status.json")
    if state["state"] != "done":
        raise DataError(f"{HOME / name}: the run is {state['state']}: {state['reason']}")


def kill_half_way(name: str, overrides: list[str]) -> None:
    """Start the run and kill -9 all of its ranks a few steps after the checkpoint in its middle."""
    process = start_training(name, overrides)
    half = 100  # of configs/recipe/demo-pretrain.yaml's 200 steps; it saves every 50
    while process.poll() is None and last_step(name) < half + KILL_AFTER_STEPS:
        time.sleep(0.02)
    if process.poll() is not None:
        raise DataError(f"{HOME / name}: the run ended before it was killed")
    launcher = psutil.Process(read_json(HOME / name / "status.json")["pid"]).parent()
    ranks = [child for child in launcher.children() if "--local_rank" in " ".join(child.cmdline())]
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
    process.wait()
    console.print(f"killed {len(ranks)} ranks with SIGKILL after step {last_step(name)}")


def last_step(name: str) -> int:
    path = HOME / name / "metrics.jsonl"
    if not path.exists():
        return 0
    lines = path.read_text().rpartition("\n")[0].splitlines()
    return json.loads(lines[-1])["step"] if lines else 0


def compare_losses() -> None:
    """What the killed run computed after its checkpoint must be what the resumed run computed again."""
    before = losses(HOME / "pretrain/metrics.rolled-back.jsonl")
    after = losses(HOME / "pretrain/metrics.jsonl")
    different = [step for step, loss in before.items() if after[step] != loss]
    if different or not before:
        raise DataError(f"the resumed run differs from the killed one at steps {different}")
    console.print(
        f"steps {min(before)} to {max(before)} were computed twice, before the kill and after the resume: "
        f"all {len(before)} losses are equal to the last bit"
    )


def losses(path: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def close(seconds: float) -> None:
    curve = losses(HOME / "pretrain/metrics.jsonl")
    console.rule(f"[bold]Done in {seconds / 60:.1f} minutes", align="left")
    console.print(
        f"training loss {curve[1]:.3f} at step 1, {curve[max(curve)]:.3f} at step {max(curve)}\n"
        f"shards      {HOME}/corpus/shards/     python -m data_prep inspect {next(iter(shard_sets('train').values()))}\n"
        f"models      {HOME}/model, {HOME}/instruct-model     (Hugging Face folders)\n"
        f"report      {HOME}/report.html     open it in a browser\n"
        "next        README.md: PubMed to LLaMA on a cluster; make demo INPUT=DIR for your own files"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--input", type=Path, help="folder of PubMed XML or JATS files")
    arguments = parser.parse_args()
    given = arguments.input.absolute() if arguments.input else None
    os.chdir(ROOT)
    try:
        main(given)
    except ProjectError as error:
        console.print(f"[red]{error}")
        sys.exit(error.exit_code)
