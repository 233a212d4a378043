"""The stage that turns instruction files into encoded conversations, ready to be packed."""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.config import CorpusConfig, Instruct
from data_prep.curate.filters import split_of
from data_prep.curate.stage import SPLITS
from data_prep.documents import DocumentWriter, Reject
from data_prep.errors import ConfigError
from data_prep.files import sha256_file
from data_prep.instruct.chat_tokenizer import ChatTokenizer, EncodedConversation
from data_prep.instruct.encoded_file import SOURCE, write_encoded
from data_prep.instruct.formats import Conversation, read_conversations
from data_prep.shards.writer import EncodedDocument
from data_prep.tokenizer.encode import load_encoder
from data_prep.units import Stage, Unit, finished

REJECTS = "rejects.jsonl.zst"
BATCH = 256  # conversations encoded at once: enough to keep all threads of the tokenizer busy


class InstructStage(Stage):
    """A unit per input file: {train,validation}.parquet of encoded conversations, and rejects.jsonl.zst.

    Counts: conversations, turns, tokens, trained_tokens, the conversations of each split, and the
    rejects by reason.
    """

    name = "instruct"
    version = 1

    def __init__(self, config: CorpusConfig):
        instruct = instruct_section(config)
        self.directory = config.output / "instruct"
        self.inputs = instruct.inputs
        self.tokenizer = tokenizer_folder(config)
        self.template = instruct.template
        chat = chat_tokenizer(self.tokenizer, self.template)
        self.settings = {
            "template": chat.template.source,
            "special_tokens": chat.special.named,
            "tokenizer": load_encoder(self.tokenizer).fingerprint,
            "sequence_length": instruct.sequence_length,
            "validation_fraction": instruct.validation_fraction,
        }

    def units(self) -> list[Unit]:
        units = []
        for entry in self.inputs:
            if not entry.path.is_file():
                raise ConfigError(f"instruct.inputs: {entry.path} is not a file")
            units.append(
                Unit(
                    entry.path.name,
                    inputs={"records": sha256_file(entry.path), "format": entry.format},
                    bytes=entry.path.stat().st_size,
                    payload={"path": str(entry.path), "format": entry.format},
                )
            )
        return sorted(units, key=lambda unit: unit.name)

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        chat = chat_tokenizer(self.tokenizer, self.template)
        counts: Counter[str] = Counter()
        rejected: Counter[str] = Counter()
        splits: dict[str, list[EncodedDocument]] = {split: [] for split in SPLITS}
        with DocumentWriter(folder / REJECTS) as rejects:
            for record in self._encode(unit, chat, counts):
                if isinstance(record, Reject):
                    rejects.write({"place": record.place, "reason": record.reason})
                    rejected[record.reason.partition(":")[0]] += 1
                else:
                    split = split_of(record.id, self.settings["validation_fraction"])
                    splits[split].append(record)
        for name, conversations in splits.items():
            write_encoded(folder / f"{name}.parquet", conversations)
        kept = [record for conversations in splits.values() for record in conversations]
        return {
            "conversations": len(kept),
            "turns": counts["turns"],
            "tokens": sum(len(record.tokens) for record in kept),
            "trained_tokens": counts["trained_tokens"],
            **{name: len(conversations) for name, conversations in splits.items()},
            "rejects": dict(sorted(rejected.items())),
        }

    def _encode(
        self, unit: Unit, chat: ChatTokenizer, counts: Counter[str]
    ) -> Iterator[EncodedDocument | Reject]:
        """Every record of the file, encoded or rejected."""
        records = read_conversations(
            Path(unit.payload["path"]), unit.payload["format"], chat.special.texts
        )
        while part := list(islice(records, BATCH)):
            conversations = [record for record in part if isinstance(record, Conversation)]
            yield from (record for record in part if isinstance(record, Reject))
            encoded = chat.encode([conversation.messages for conversation in conversations])
            for conversation, result in zip(conversations, encoded, strict=True):
                place = conversation.id.removeprefix("text:")
                if not isinstance(result, EncodedConversation):
                    yield Reject(place, f"refused by the template: {result}")
                elif len(result.ids) > self.settings["sequence_length"]:
                    limit = self.settings["sequence_length"]
                    found = len(result.ids)
                    yield Reject(place, f"too long: {found} tokens, sequence_length is {limit}")
                else:
                    counts["turns"] += len(conversation.messages)
                    counts["trained_tokens"] += int(result.trained.sum())
                    yield EncodedDocument(
                        id=conversation.id,
                        tokens=result.ids,
                        source=SOURCE,
                        bytes=result.bytes,
                        loss_mask=result.trained,
                    )


def instruct_section(config: CorpusConfig) -> Instruct:
    """The config's instruct section; ConfigError where it has none."""
    if config.instruct is None:
        raise ConfigError("instruct: missing; a value is required to make instruction shards")
    return config.instruct


def tokenizer_folder(config: CorpusConfig) -> Path:
    """The tokenizer that the config names, else the corpus' own."""
    named = instruct_section(config).tokenizer
    if named is not None:
        return named
    trained = finished(config.output / "tokenizer")
    if not trained:
        raise ConfigError(
            f"instruct.tokenizer: not given, and the corpus in {config.output} has no tokenizer yet; "
            "name the folder of one"
        )
    return trained[0].folder


@lru_cache(maxsize=1)
def chat_tokenizer(folder: Path, template: str | None) -> ChatTokenizer:
    """The tokenizer with its template, loaded once in a process."""
    return ChatTokenizer(folder, template)
