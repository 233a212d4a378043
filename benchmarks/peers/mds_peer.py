"""MosaicML Streaming: MDS shards, shuffled by its default algorithm."""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import streaming
from contract import SEQUENCE, Reading, main
from streaming import MDSWriter, StreamingDataset
from tokenizers import Tokenizer

COLUMNS = {"tokens": f"ndarray:uint16:{SEQUENCE}"}


def _write_part(path: Path, output: Path, tokenizer: Path) -> None:
    model = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    end = model.token_to_id("<|endoftext|>")
    left = np.zeros(0, np.uint16)
    with (
        MDSWriter(out=str(output), columns=COLUMNS, compression="zstd:3") as out,
        path.open("rb") as lines,
    ):
        while texts := [orjson.loads(line)["text"] for line in lines.readlines(1 << 20)]:
            ids = [[*e.ids, end] for e in model.encode_batch_fast(texts, add_special_tokens=False)]
            tokens = np.concatenate([left, *(np.array(part, np.uint16) for part in ids)])
            whole = len(tokens) // SEQUENCE
            for row in tokens[: whole * SEQUENCE].reshape(whole, SEQUENCE):
                out.write({"tokens": row})
            left = tokens[whole * SEQUENCE :]


def write(inputs: list[Path], output: Path, tokenizer: Path, workers: int) -> None:
    with ProcessPoolExecutor(workers) as pool:
        parts = [pool.submit(_write_part, path, output / path.stem, tokenizer) for path in inputs]
        for part in parts:
            part.result()


def store(rows: np.ndarray, output: Path) -> None:
    with MDSWriter(out=str(output), columns=COLUMNS) as out:
        for row in rows:
            out.write({"tokens": row})


def read(output: Path) -> Reading:
    stored = StreamingDataset(local=str(output), shuffle=True, shuffle_seed=1, batch_size=64)
    return Reading(streaming.__version__, (sample["tokens"] for sample in stored))


if __name__ == "__main__":
    main(sys.argv[1:], write, store, read)
