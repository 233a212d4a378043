"""Megatron-LM's preprocess_data_fast: gigatoken reads and encodes whole files, one indexed dataset.

The builder's parallel writing of that script is not in a released megatron-core; here the flat tokens
and their lengths are written at once, which is no slower.
"""

import sys
from pathlib import Path

import awkward
import gigatoken
import numpy as np
from contract import main
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

VOCABULARY, END = 50_257, 50_256  # GPT-2's


def write(inputs: list[Path], output: Path, tokenizer: Path, workers: int) -> None:
    output.mkdir(parents=True)
    model = gigatoken.Tokenizer.from_json((tokenizer / "tokenizer.json").read_bytes())
    builder = IndexedDatasetBuilder(
        str(output / "texts.bin"), dtype=DType.optimal_dtype(VOCABULARY)
    )
    documents = model.encode_files(gigatoken.JsonlFileSource([str(path) for path in inputs]))
    ends = awkward.Array(np.full((len(documents), 1), END))
    documents = awkward.concatenate([documents, ends], axis=1)
    builder.data_file.write(
        awkward.to_numpy(awkward.flatten(documents)).astype(np.uint16).tobytes()
    )
    lengths = awkward.to_numpy(awkward.num(documents)).tolist()
    builder.sequence_lengths.extend(lengths)
    builder.document_indices.extend(range(1, len(lengths) + 1))
    builder.finalize(str(output / "texts.idx"))


if __name__ == "__main__":
    main(sys.argv[1:], write, None, None)
