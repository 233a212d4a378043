"""LitData: optimize to token chunks, stream them shuffled."""

import itertools
import sys
from functools import partial
from pathlib import Path

import litdata
import numpy as np
import orjson
import torch
from contract import SEQUENCE, Reading, main
from litdata import StreamingDataset, TokensLoader
from tokenizers import Tokenizer

CHUNK = "64MB"  # LitData's default for tokens


def encoded(path: str, tokenizer: str):
    model = Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
    end = model.token_to_id("<|endoftext|>")
    with Path(path).open("rb") as lines:
        while texts := [orjson.loads(line)["text"] for line in itertools.islice(lines, 1000)]:
            for encoding in model.encode_batch_fast(texts, add_special_tokens=False):
                yield torch.tensor([*encoding.ids, end], dtype=torch.uint16)


def write(inputs: list[Path], output: Path, tokenizer: Path, workers: int) -> None:
    litdata.optimize(
        partial(encoded, tokenizer=str(tokenizer)),
        inputs=[str(path) for path in inputs],
        output_dir=str(output),
        chunk_bytes=CHUNK,
        num_workers=workers,
        item_loader=TokensLoader(block_size=SEQUENCE),
        start_method="fork",
        verbose=False,
    )


def _row(number: int, rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows[number].copy())


def store(rows: np.ndarray, output: Path) -> None:
    litdata.optimize(
        partial(_row, rows=rows),
        inputs=list(range(len(rows))),
        output_dir=str(output),
        chunk_bytes=CHUNK,
        num_workers=1,
        item_loader=TokensLoader(block_size=SEQUENCE),
        start_method="fork",
        verbose=False,
    )


def read(output: Path) -> Reading:
    stored = StreamingDataset(
        str(output), item_loader=TokensLoader(block_size=SEQUENCE), shuffle=True, seed=1
    )
    return Reading(litdata.__version__, iter(stored))


if __name__ == "__main__":
    main(sys.argv[1:], write, store, read)
