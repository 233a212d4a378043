"""Hugging Face datasets: map to tokens and groups as its examples do; read shuffled by index."""

import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from contract import SEQUENCE, Reading, main
from tokenizers import Tokenizer

FEATURES = datasets.Features({"tokens": datasets.List(datasets.Value("uint16"))})
TOGETHER = 64  # rows asked for at once, as a loader with batches does


def _groups(batch: dict, tokenizer: str) -> dict:
    model = Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
    end = model.token_to_id("<|endoftext|>")
    encodings = model.encode_batch_fast(batch["text"], add_special_tokens=False)
    tokens = np.concatenate([np.array([*e.ids, end], np.uint16) for e in encodings])
    whole = len(tokens) // SEQUENCE
    return {"tokens": list(tokens[: whole * SEQUENCE].reshape(whole, SEQUENCE))}


def write(inputs: list[Path], output: Path, tokenizer: Path, workers: int) -> None:
    raw = datasets.load_dataset(
        "json", data_files=[str(path) for path in inputs], split="train", cache_dir=output / "cache"
    )
    packed = raw.map(
        _groups,
        fn_kwargs={"tokenizer": str(tokenizer)},
        batched=True,
        batch_size=2000,
        num_proc=workers,
        remove_columns=raw.column_names,
        features=FEATURES,
    )
    packed.save_to_disk(str(output / "packed"))


def store(rows: np.ndarray, output: Path) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    table = pa.table({"tokens": lists.cast(pa.list_(pa.uint16()))})
    datasets.Dataset(table).save_to_disk(str(output / "packed"))


def read(output: Path) -> Reading:
    stored = datasets.load_from_disk(str(output / "packed")).with_format("numpy")
    order = np.random.default_rng(1).permutation(len(stored))
    batches = range(0, len(order), TOGETHER)
    rows = (row for first in batches for row in stored[order[first : first + TOGETHER]]["tokens"])
    return Reading(datasets.__version__, rows)


if __name__ == "__main__":
    main(sys.argv[1:], write, store, read)
