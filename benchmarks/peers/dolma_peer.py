"""dolma tokens: AI2's memory-mapped token files."""

import json
import sys
from pathlib import Path

from contract import main
from dolma.tokenizer import tokenize_in_parallel

END = 50_256  # GPT-2's


def write(inputs: list[Path], output: Path, tokenizer: Path, workers: int) -> None:
    # Its tokenizers, 0.19, reads merges as text only.
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    content["model"]["merges"] = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]
    ]
    output.mkdir(parents=True)
    older = output / "tokenizer.json"
    older.write_text(json.dumps(content))
    tokenize_in_parallel(
        sources=[str(path) for path in inputs],
        destination=str(output / "tokens"),
        num_writers=workers,
        num_readers=1,
        local_shuffle=1,
        tokenizer_name_or_path=str(older),
        eos_token_id=END,
        pad_token_id=END,
        dtype="uint16",
        max_size=1 << 30,
    )


if __name__ == "__main__":
    main(sys.argv[1:], write, None, None)
