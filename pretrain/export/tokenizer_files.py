"""A shard set's tokenizer as the files beside a Hugging Face model."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig

from data_prep.errors import DataError
from data_prep.files import read_json, write_json
from data_prep.shards.manifest import TOKENIZER_FOLDER
from data_prep.shards.reader import ShardSet
from pretrain.model.model_config import POSITION_KEYS


def write_tokenizer(folder: Path, shards: ShardSet, config: PretrainedConfig) -> None:
    """Write the files, and tell the tokenizer what the model knows.

    That is: how long a text may be, and what pads a batch.
    """
    for name in shards.manifest.tokenizer:
        (folder / name).write_bytes(shards.content(f"{TOKENIZER_FOLDER}/{name}"))
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    longest = next((getattr(config, key) for key in POSITION_KEYS if hasattr(config, key)), None)
    settings |= {"model_max_length": longest} if longest else {}
    if settings.get("eos_token"):
        settings.setdefault("pad_token", settings["eos_token"])
    write_json(path, settings)


def load_tokenizer(shards: ShardSet, config: PretrainedConfig) -> Any:
    """The tokenizer that an export would have; DataError where transformers cannot load it."""
    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), shards, config)
        try:
            return AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{shards.storage.address(TOKENIZER_FOLDER)}: transformers cannot load it: {reason}"
            ) from error
