"""Megatron-LM: its preprocess_data's work (tokenizers in a pool, one indexed dataset), its GPTDataset."""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import torch
from contract import SEQUENCE, Reading, main
from megatron.core import package_info
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from tokenizers import Tokenizer

VOCABULARY, END = 50_257, 50_256  # GPT-2's
TOGETHER = 25  # documents a task: preprocess_data's --log-interval-like chunk of its pool.imap

_tokenizer: Tokenizer


def _start(path: str) -> None:
    global _tokenizer
    _tokenizer = Tokenizer.from_file(path)


def _encode(line: bytes) -> list[int]:
    return [*_tokenizer.encode(orjson.loads(line)["text"], add_special_tokens=False).ids, END]


def write(inputs: list[Path], output: Path, tokenizer: Path, workers: int) -> None:
    output.mkdir(parents=True)
    builder = IndexedDatasetBuilder(
        str(output / "texts.bin"), dtype=DType.optimal_dtype(VOCABULARY)
    )
    path = str(tokenizer / "tokenizer.json")
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(path,)) as pool:
        for file in inputs:
            with file.open("rb") as lines:
                for ids in pool.map(_encode, lines, chunksize=TOGETHER):
                    builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(str(output / "texts.idx"))


def store(rows: np.ndarray, output: Path) -> None:
    output.mkdir(parents=True)
    builder = IndexedDatasetBuilder(str(output / "texts.bin"), dtype=np.uint16)
    for row in rows:
        builder.add_document(torch.from_numpy(row.astype(np.int32)), [len(row)])
    builder.finalize(str(output / "texts.idx"))


class _Names:
    """What GPTDataset asks of a tokenizer."""

    vocab_size, eod, unique_identifiers = VOCABULARY, END, {"tokenizer": "gpt2"}
    pad = END


def read(output: Path) -> Reading:
    torch.distributed.init_process_group(
        "gloo", init_method="tcp://127.0.0.1:29577", rank=0, world_size=1
    )
    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=SEQUENCE,
        blend=([str(output / "texts")], None),
        split="1",
        path_to_cache=str(output / "cache"),
        tokenizer=_Names(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    tokens = (output / "texts.bin").stat().st_size // 2
    sizes = [tokens // SEQUENCE - 1, 0, 0]
    stored = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()[0]
    rows = (stored[number]["tokens"] for number in range(len(stored)))
    return Reading(package_info.__version__, rows)


if __name__ == "__main__":
    main(sys.argv[1:], write, store, read)
