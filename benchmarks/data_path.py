"""Documents to shards and shuffled reading, beside the tools that others use; Markdown for docs/benchmarks.md.

python -m benchmarks.data_path --documents DOCUMENTS.jsonl.zst --tokenizer FOLDER --peers FOLDER
    [--megabytes 45.5] [--rows 205000] [--work FOLDER]

--peers holds one environment a peer (benchmarks/peers/environments.sh makes them); a peer whose
environment is missing is named and left out. Whole processes, started in turn, medians of --runs.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import psutil
import yaml

from data_prep.documents import read_documents
from data_prep.shards.reader import ShardSet

ROOT = Path(__file__).resolve().parents[1]
FILES = 4  # of equal size, for two workers
# What a peer's script is called, its environment, and what it does.
WRITERS = {
    "megatron_fast": "Megatron-LM's preprocess_data_fast (gigatoken)",
    "megatron": "Megatron-LM's preprocess_data",
    "datatrove": "datatrove's DocumentTokenizer",
    "datasets": "datasets: map and group",
    "litdata": "LitData's optimize",
    "mds": "MosaicML's MDSWriter, zstd",
    "dolma": "dolma tokens",
}
READERS = {
    "litdata": "LitData, shuffled",
    "mds": "MosaicML Streaming, shuffled",
    "datasets": "datasets, by random index",
    "megatron": "Megatron-LM's GPTDataset",
    "memory_map": "NumPy memory map, by random index",
}
ENVIRONMENTS = {
    "megatron_fast": "megatron",
    "datatrove": None,
    "datasets": None,
    "memory_map": None,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=45.5)
    parser.add_argument("--rows", type=int, default=205_000)
    parser.add_argument("--only", choices=("write", "read"))
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        texts = _texts(options.documents, home / "texts", options.megabytes)
        config = _corpus(home / "ours", texts, options.tokenizer)
        if options.only != "read":
            _writing(home, texts, config, options)
        if options.only != "write":
            _reading(home, config, options)


def _texts(documents: Path, folder: Path, megabytes: float) -> list[Path]:
    """The documents again and again under new ids, in FILES files of equal size."""
    folder.mkdir()
    texts = [document["text"] for document in read_documents(documents)]
    paths = [folder / f"part-{number}.jsonl" for number in range(FILES)]
    number = 0
    for path in paths:
        written = 0
        with path.open("wb") as lines:
            while written < megabytes * 1e6 / FILES:
                text = texts[number % len(texts)]
                lines.write(orjson.dumps({"id": str(number), "text": text}) + b"\n")
                written += len(text.encode())
                number += 1
    return paths


def _corpus(folder: Path, texts: list[Path], tokenizer: Path) -> Path:
    """A corpus of the texts, curated: what is left is packing."""
    config = folder / "corpus.yaml"
    folder.mkdir()
    values = {
        "output": str(folder / "corpus"),
        "workers": 2,
        "sources": {"texts": {"format": "text", "path": str(texts[0].parent)}},
        "curate": {"languages": [], "validation_fraction": 0.0},
        "tokenizer": {"path": str(tokenizer)},
    }
    config.write_text(yaml.safe_dump(values))
    for stage in ("download", "extract", "curate", "tokenizer"):
        subprocess.run([sys.executable, "-m", "data_prep", stage, config], cwd=ROOT, check=True)
    return config


def _pack(config: Path, policy: str) -> list[str]:
    corpus = config.parent / "corpus"
    for stage in ("pack", "shards"):
        shutil.rmtree(corpus / stage, ignore_errors=True)
    command = [sys.executable, "-m", "data_prep", "pack", str(config), "--pack.policy", policy]
    return command


def _writing(home: Path, texts: list[Path], config: Path, options: argparse.Namespace) -> None:
    output = home / "written"
    ways: dict[str, tuple[Callable[[], list[str]], Path]] = {
        "ours, best-fit": (lambda: _pack(config, "best_fit"), config.parent / "corpus/shards"),
        "ours, concat": (lambda: _pack(config, "concat"), config.parent / "corpus/shards"),
    }
    tokenizer = config.parent / "corpus/tokenizer/model"
    for peer, name in WRITERS.items():
        command = _peer(options.peers, peer)
        if command:
            arguments = ["write", str(output / peer), str(tokenizer), "2", *map(str, texts)]
            ways[name] = (
                (lambda command=command, arguments=arguments: [*command, *arguments]),
                output / peer,
            )
        else:
            print(f"{name}: no environment for it, not measured", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in ways}
    sizes, memory = {}, {}
    for turn in range(options.runs + 1):
        for name, (command_of, written) in ways.items():
            seconds, peak = _run(command_of(), watched=not turn)
            sizes[name] = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
            memory[name] = max(peak, memory.get(name, 0))
            if turn:  # the first round warms the caches, and is slowed by looking at memory
                times[name].append(seconds)
    for peer in ("megatron_fast", "megatron"):
        if (output / peer).exists():
            same = _stream(config.parent / "corpus/shards/texts-train") == _digest(
                (output / peer / "texts.bin").read_bytes()
            )
            print(f"concat's tokens are those of {peer}: {same}")
    megabytes = sum(path.stat().st_size for path in texts) / 1e6
    print(f"\n## Documents to shards ({megabytes:.1f} MB of JSON lines, 2 processes)\n")
    print(
        "| what | seconds, whole process | MB/s | times ours | MB on disk | MB resident, all processes |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    ours = next(iter(times.values()))
    for name, own in times.items():
        ratio = statistics.median(theirs / mine for theirs, mine in zip(own, ours, strict=True))
        median = statistics.median(own)
        print(
            f"| {name} | {median:.2f} ({min(own):.2f} to {max(own):.2f}) | {megabytes / median:.0f} | "
            f"{ratio:.2f} | {sizes[name] / 1e6:.1f} | {memory[name]:.0f} |"
        )


def _stream(folder: Path) -> str:
    """Digest of all tokens of a set in the order of its rows, without padding."""
    shards = ShardSet(folder)
    state = hashlib.sha256()
    for number in range(len(shards.row_groups)):
        group = shards.read(number)
        filled = np.add.reduceat(group.lengths.astype(np.int64), group.starts[:-1])
        places = np.arange(group.tokens.shape[1]) < filled[:, None]
        state.update(group.tokens[places].tobytes())
    return state.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _reading(home: Path, config: Path, options: argparse.Namespace) -> None:
    subprocess.run(_pack(config, "best_fit"), cwd=ROOT, check=True, capture_output=True)
    shards = config.parent / "corpus/shards/texts-train"
    rows = home / "rows.npy"
    _repeat(ShardSet(shards), options.rows, rows)
    found: dict[str, list[dict]] = {}
    ours = home / "large"
    reading = [sys.executable, "-m", "benchmarks.reading"]
    ways = {
        "ours: rows": [*reading, "read", str(ours)],
        "ours: tokens, labels and position ids as tensors": [*reading, "batches", str(ours)],
    }
    subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.reading",
            "store",
            str(shards),
            str(options.rows),
            str(ours),
        ],
        cwd=ROOT,
        check=True,
    )
    sizes = dict.fromkeys(ways, ours)
    for peer, name in READERS.items():
        command = _peer(options.peers, peer)
        if command:
            subprocess.run(
                [*command, "store", str(rows), str(home / peer)], check=True, capture_output=True
            )
            ways[name], sizes[name] = [*command, "read", str(home / peer)], home / peer
    for _ in range(options.runs):
        for name, command in ways.items():
            ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            found.setdefault(name, []).append(json.loads(ended.stdout.splitlines()[-1]))
    print(f"\n## Shuffled reading ({options.rows:,} sequences of 1,024, one process)\n")
    print("| what | version | sequences/s | seconds to the first | MB resident | MB on disk |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, runs in found.items():
        middle = {
            key: statistics.median(run[key] for run in runs) for key in runs[0] if key != "version"
        }
        size = sum(path.stat().st_size for path in sizes[name].rglob("*") if path.is_file())
        print(
            f"| {name} | {runs[0]['version']} | {middle['rows_a_second']:,.0f} | "
            f"{middle['seconds_to_first']:.3f} | {middle['megabytes']:.0f} | {size / 1e6:.0f} |"
        )


def _repeat(shards: ShardSet, count: int, path: Path) -> None:
    """The set's rows again and again, `count` in all, as one array."""
    length = shards.manifest.sequence_length
    rows = np.lib.format.open_memmap(path, "w+", np.uint16, (count, length))
    filled = 0
    while filled < count:
        for group in range(len(shards.row_groups)):
            tokens = shards.read(group).tokens[: count - filled]
            rows[filled : filled + len(tokens)] = tokens
            filled += len(tokens)
    rows.flush()


def _peer(peers: Path, peer: str) -> list[str] | None:
    """The command that runs a peer's script; None where its environment is missing."""
    environment = ENVIRONMENTS.get(peer, peer)
    python = Path(sys.executable) if environment is None else peers / environment / "bin/python"
    script = ROOT / f"benchmarks/peers/{peer}_peer.py"
    return [str(python), str(script)] if python.exists() and script.exists() else None


def _run(command: list[str], watched: bool) -> tuple[float, float]:
    """Wall seconds of a command; if watched, the most memory it and its children held together, in MB."""
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        peak = 0.0
        while watched and process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.05)
        process.wait()
        seconds = time.perf_counter() - began
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)}: {errors.read().decode()[-2000:]}")
    return seconds, peak


def _resident(pid: int) -> float:
    """Proportional memory of a process and its children: what they share counts once."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:
        pass
    return total / 1e6


if __name__ == "__main__":
    main()
