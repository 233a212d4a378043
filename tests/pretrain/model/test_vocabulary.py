"""A model goes on with an extended tokenizer: on two ranks, resumed on another number, exported."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from data_prep.shards.assemble import build_shard_set, shard_format
from data_prep.shards.encoded import EncodedDocument
from data_prep.shards.reader import ShardSet
from data_prep.tokenizer.encode import load_encoder
from pretrain.export.config import ExportConfig
from pretrain.export.export import export
from pretrain.plan import check_tokenizer
from tests import small_sentencepiece, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ and extended/, two tokenizers, and shards/ of medical text in the extended one."""
    folder = tmp_path_factory.mktemp("vocabulary")
    small_sentencepiece.base_tokenizer(folder / "base")
    small_sentencepiece.extended_tokenizer(folder / "base", folder / "extended")
    shards(folder / "shards", folder / "extended")
    return folder


def shards(folder: Path, tokenizer: Path) -> None:
    encoder = load_encoder(tokenizer)
    form = shard_format(
        encoder, sequence_length=32, policy="best_fit", row_group=64, begin_token=False
    )
    texts = [small_sentencepiece.medical_text(seed) for seed in range(100)]
    documents = [
        EncodedDocument(
            f"text:{number}",
            np.array([*encoder.encode([text])[0], encoder.end_id], np.uint16),
            "medical",
            len(text),
            {},
        )
        for number, text in enumerate(texts)
    ]
    folder.mkdir()
    build_shard_set(
        folder,
        documents,
        form,
        window=64,
        source="medical",
        split="train",
        tokenizer=tokenizer,
        settings={},
        inputs={},
    )


def model(folder: Path, tokenizer: Path, **settings) -> Path:
    """A small LLaMA whose vocabulary is the tokenizer's, with that tokenizer."""
    torch.manual_seed(3)
    chosen = dict(tiny.LLAMA) | {"vocab_size": load_encoder(tokenizer).vocabulary_size} | settings
    config = AutoConfig.for_model(chosen.pop("model_type"), **chosen)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    for path in tokenizer.iterdir():
        shutil.copy(path, folder)
    return folder


def values(run: Path, base: Path, shards: Path, **changes):
    defaults = {
        "model": {"path": str(base)},
        "training__steps": 4,
        "checkpoint": {"every_steps": 2, "keep": 10},
    }
    return tiny.run_config(run, {"medical": shards}, **(defaults | changes))


def means(weight: torch.Tensor, base: Path, extended: Path) -> torch.Tensor:
    """Old rows, then for every new piece the mean of the rows of what sentencepiece's base makes of it."""
    old = sentencepiece.SentencePieceProcessor(model_file=str(base / "tokenizer.model"))
    new = sentencepiece.SentencePieceProcessor(model_file=str(extended / "tokenizer.model"))
    rows = []
    for index in range(old.get_piece_size(), new.get_piece_size()):
        # Behind a line end, which is a byte of its own, no space is put before the piece.
        prefix, *ids = old.encode("\n" + new.id_to_piece(index).replace("▁", " "))[1:]
        assert prefix == old.piece_to_id("<0x0A>")
        rows.append(weight[ids].float().mean(0))
    return torch.cat([weight, torch.stack(rows)])


@pytest.mark.parametrize(
    "tied",
    [pytest.param(False, marks=pytest.mark.long, id="untied"), pytest.param(True, id="tied")],
)
def test_two_ranks_begin_with_the_means_of_the_old_pieces(tied, folder, tmp_path, communication_op):
    base = model(tmp_path / "model", folder / "base", tie_word_embeddings=tied)
    # A rate so small that fp32 weights do not move.
    config = values(
        tmp_path / "run",
        base,
        folder / "shards",
        training__steps=3,
        optimizer__learning_rate=1e-30,
    )
    ended = tiny.launch(tiny.write_config(tmp_path / "run.yaml", config))
    assert ended.returncode == 0, ended.stderr[-3000:]
    export(ExportConfig(run=tmp_path / "run", output=tmp_path / "before", step=0))
    export(ExportConfig(run=tmp_path / "run", output=tmp_path / "after", step=3))
    old = AutoModelForCausalLM.from_pretrained(base)
    for name in ("before", "after"):
        new = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        for part in ("get_input_embeddings", "get_output_embeddings"):
            found, began = getattr(new, part)().weight, getattr(old, part)().weight
            assert torch.equal(found, means(began.detach(), folder / "base", folder / "extended"))
        shared = new.get_input_embeddings().weight is new.get_output_embeddings().weight
        assert shared == tied
        assert new.config.vocab_size == load_encoder(folder / "extended").vocabulary_size


@pytest.mark.long
def test_an_extended_run_resumes_and_its_export_has_vocabulary_and_tokenizer(
    folder, tmp_path, communication_op
):
    base = model(tmp_path / "model", folder / "base")
    config = tiny.write_config(
        tmp_path / "run.yaml", values(tmp_path / "run", base, folder / "shards")
    )
    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    expected = tiny.losses(tmp_path / "run")
    assert len(expected) == 4

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    (tmp_path / "run" / "status.json").unlink()
    alone = tiny.run_alone(config)
    assert alone.returncode == 0, alone.stderr[-3000:]
    assert tiny.losses(tmp_path / "run") == pytest.approx(expected, rel=1e-4)

    export(ExportConfig(run=tmp_path / "run", output=tmp_path / "export"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    text = "nephropathy 高血压患者"
    processor = sentencepiece.SentencePieceProcessor(
        model_file=str(folder / "extended" / "tokenizer.model")
    )
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == processor.encode(text)
    assert exported.get_input_embeddings().num_embeddings == processor.get_piece_size()
    # The export's tokenizer is the shards': a run that begins from it extends nothing.
    assert check_tokenizer(ShardSet(folder / "shards"), tmp_path / "export") is None


def refused(config: Path) -> str:
    ended = tiny.run_alone(config)
    assert ended.returncode == 2, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_the_extension_of_another_tokenizer_is_refused(folder, tmp_path, communication_op):
    other = small_sentencepiece.base_tokenizer(tmp_path / "other", 380)
    base = model(tmp_path / "model", other)
    config = values(tmp_path / "run", base, folder / "shards")
    message = refused(tiny.write_config(tmp_path / "run.yaml", config))
    assert "the shards were built with" in message
    assert "(it extends" in message


def test_adapters_on_an_extended_vocabulary_are_refused(folder, tmp_path, communication_op):
    base = model(tmp_path / "model", folder / "base")
    config = values(tmp_path / "run", base, folder / "shards", model__lora={"rank": 2})
    message = refused(tiny.write_config(tmp_path / "run.yaml", config))
    assert "model.lora: the shards' tokenizer extends the model's" in message
