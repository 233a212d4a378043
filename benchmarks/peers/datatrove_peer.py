"""datatrove's DocumentTokenizer: tokens of all documents, one after another."""

import sys
from pathlib import Path

from contract import main
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer


def write(inputs: list[Path], output: Path, tokenizer: Path, workers: int) -> None:
    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(inputs[0].parent), glob_pattern="*.jsonl"),
            DocumentTokenizer(
                output_folder=str(output),
                tokenizer_name_or_path=str(tokenizer / "tokenizer.json"),
                eos_token="<|endoftext|>",
                shuffle_documents=False,
            ),
        ],
        tasks=len(inputs),
        workers=workers,
        logging_dir=str(output) + "-logs",
        skip_completed=False,
    ).run()


if __name__ == "__main__":
    main(sys.argv[1:], write, None, None)
