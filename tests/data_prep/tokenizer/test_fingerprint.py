"""A fingerprint says whether two tokenizers are one, whatever files they come in."""

import json
import shutil
from pathlib import Path

from tokenizers.implementations import ByteLevelBPETokenizer
from tokenizers.pre_tokenizers import ByteLevel

from data_prep.files import write_json
from data_prep.tokenizer.definition import read_definition
from data_prep.tokenizer.encode import load_encoder
from data_prep.tokenizer.existing import copy_tokenizer
from data_prep.tokenizer.fingerprint import PROBE, byte_letters, token_bytes


def changed(origin: Path, folder: Path, change) -> str:  # type: ignore[no-untyped-def]
    """The fingerprint of the tokenizer after `change` was made to its tokenizer.json."""
    shutil.copytree(origin, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    write_json(folder / "tokenizer.json", content)
    return load_encoder(folder).fingerprint


def test_a_sentencepiece_model_and_its_tokenizer_json_agree(
    real_data: Path, tmp_path: Path
) -> None:
    model = real_data / "tokenizers" / "llama"
    copy_tokenizer(model, tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    assert (tmp_path / "tokenizer.json").exists()
    assert load_encoder(tmp_path).fingerprint == load_encoder(model).fingerprint


def test_vocabulary_with_merges_and_tokenizer_json_agree(tokenizer: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer / name, tmp_path)
    assert load_encoder(tmp_path).fingerprint == load_encoder(tokenizer).fingerprint


def test_another_layout_of_the_same_json_agrees(tokenizer: Path, tmp_path: Path) -> None:
    same = changed(tokenizer, tmp_path / "same", lambda content: content.update(padding=None))
    assert same == load_encoder(tokenizer).fingerprint


def test_another_order_of_merges_differs(tmp_path: Path) -> None:
    def reverse(content: dict) -> None:
        content["model"]["merges"].reverse()

    # The vocabulary is the same: only the ids of the probe text tell.
    whole = ByteLevelBPETokenizer()
    whole.train_from_iterator(iter([PROBE] * 2), vocab_size=350, show_progress=False)
    whole.add_special_tokens(["<|endoftext|>"])
    (tmp_path / "forward").mkdir()
    whole.save(str(tmp_path / "forward" / "tokenizer.json"))
    different = changed(tmp_path / "forward", tmp_path / "reversed", reverse)
    assert different != load_encoder(tmp_path / "forward").fingerprint


def test_another_end_token_differs(tokenizer: Path, tmp_path: Path) -> None:
    def add(content: dict) -> None:
        added = content["added_tokens"]
        added.append(added[0] | {"id": added[0]["id"] + 1, "content": "<|end|>"})

    first = changed(tokenizer, tmp_path / "first", add)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    config = json.loads((tmp_path / "second" / "tokenizer_config.json").read_text())
    write_json(tmp_path / "second" / "tokenizer_config.json", config | {"eos_token": "<|end|>"})
    second = load_encoder(tmp_path / "second").fingerprint
    assert len({first, second, load_encoder(tokenizer).fingerprint}) == 3


def test_a_pad_token_is_no_part_of_it(tokenizer: Path, tmp_path: Path) -> None:
    shutil.copytree(tokenizer, tmp_path / "padded")
    path = tmp_path / "padded" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    write_json(path, config | {"pad_token": "!"})
    padded = load_encoder(tmp_path / "padded")
    assert padded.fingerprint == load_encoder(tokenizer).fingerprint
    assert padded.pad_id != padded.end_id


def test_bytes_are_written_with_the_letters_of_gpt2() -> None:
    assert set(byte_letters().values()) == set(ByteLevel.alphabet())
    # Space and line end are the ones everybody knows.
    assert (byte_letters()[0x20], byte_letters()[0x0A]) == ("Ġ", "Ċ")


def test_token_bytes_are_the_bytes_that_tokens_stand_for(tokenizer: Path, real_data: Path) -> None:
    for folder in (tokenizer, real_data / "tokenizers" / "llama"):
        definition = read_definition(folder)
        encoder = load_encoder(folder)
        contents = token_bytes(definition)
        for text in ("nephrology\n of\tthe é 高 \x00", "α 🧬"):
            joined = b"".join(contents[int(index)] for index in encoder.encode([text])[0])
            assert joined.removeprefix(b" " if folder != tokenizer else b"") == text.encode()
