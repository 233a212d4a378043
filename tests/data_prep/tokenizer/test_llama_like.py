"""A SentencePiece BPE is trained as LLaMA's was, and all libraries read the same tokenizer."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from data_prep.config import TrainTokenizer
from data_prep.errors import ConfigError, DataError
from data_prep.tokenizer.encode import load_encoder
from data_prep.tokenizer.llama_like import OPTIONS
from data_prep.tokenizer.train import train_tokenizer
from tests import small_sentencepiece
from tests.data_prep.tokenizer.stages import as_transformers_reads
from tests.data_prep.tokenizer.test_encode import HORRIBLE

TEXTS = [small_sentencepiece.medical_text(seed) for seed in range(60)]


def read(path: Path):  # type: ignore[no-untyped-def]
    model = proto.ModelProto()
    model.ParseFromString(path.read_bytes())
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder, TEXTS, vocab_size=450)
    return folder


def train(folder: Path, texts: list[str], **settings: object) -> dict[str, int]:
    corpus = small_sentencepiece.write_corpus(folder / "corpus.jsonl.zst", texts)
    wanted = TrainTokenizer.model_validate({"kind": "sentencepiece"} | settings)
    counts = train_tokenizer([corpus], sum(map(len, texts)), wanted, folder)
    corpus.unlink()
    return counts


def test_options_are_those_in_llamas_own_model_file(trained: Path, real_data: Path) -> None:
    ours, llama = (
        read(trained / "tokenizer.model"),
        read(real_data / "tokenizers/llama/tokenizer.model"),
    )
    # What differs: names of files, sizes, and how the corpus is read, which is said in llama_like.py.
    for spec in (ours.trainer_spec, llama.trainer_spec):
        for name in ("input", "model_prefix", "vocab_size", "num_threads", "input_format"):
            spec.ClearField(name)
        for name in ("shuffle_input_sentence", "hard_vocab_limit"):
            spec.ClearField(name)
    for spec in ("trainer_spec", "normalizer_spec"):
        for field, expected in getattr(llama, spec).ListFields():
            assert getattr(getattr(ours, spec), field.name) == expected, field.name
    assert TrainTokenizer(kind="sentencepiece").vocab_size == 32_000


def test_sentencepiece_transformers_and_the_encoder_give_the_same_ids(trained: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(trained / "tokenizer.model"))
    texts = [text for text in [*HORRIBLE, *TEXTS] if len(text) < 10_000]
    expected = processor.encode(texts)
    encoder = load_encoder(trained)
    assert encoder._fast is not None
    assert [ids.tolist() for ids in encoder.encode(texts)] == expected
    # transformers parses special tokens from text; a process of its own takes no NUL as an argument.
    plain = {text: ids for text, ids in zip(texts, expected, strict=True) if "<" not in text}
    loaded = as_transformers_reads(trained, list(plain))
    assert loaded["ids"] == list(plain.values())
    assert (loaded["begin"], loaded["end"]) == (processor.bos_id(), processor.eos_id())
    assert loaded["length"] == processor.get_piece_size() == 450


def test_training_twice_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    corpus = small_sentencepiece.write_corpus(tmp_path / "corpus.jsonl.zst", TEXTS)
    code = (
        "import sys; from pathlib import Path; from data_prep.config import TrainTokenizer;"
        "from data_prep.tokenizer.train import train_tokenizer;"
        "wanted = TrainTokenizer(kind='sentencepiece', vocab_size=450);"
        "train_tokenizer([Path(sys.argv[1])], 10, wanted, Path(sys.argv[2]))"
    )
    again = tmp_path / "again"
    again.mkdir()
    subprocess.run([sys.executable, "-c", code, str(corpus), str(again)], check=True)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in trained.iterdir()
    }


def test_the_number_of_threads_changes_nothing_but_its_record() -> None:
    pieces = []
    for threads in (1, 3, 8):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(line for text in TEXTS for line in text.split("\n")),
            model_writer=model,
            vocab_size=450,
            **(OPTIONS | {"num_threads": threads}),
        )
        parsed = proto.ModelProto()
        parsed.ParseFromString(model.getvalue())
        pieces.append(list(parsed.pieces))
    assert pieces[0] == pieces[1] == pieces[2]


def test_a_line_longer_than_sentencepiece_takes_is_not_lost(tmp_path: Path) -> None:
    long = " ".join(["alpha"] * 2_000 + ["nephrology"] * 50 + ["alpha"] * 2_000)
    chinese = "高血压" * 3_000  # no space to cut at
    train(tmp_path, [long, chinese], vocab_size=300)
    pieces = {piece.piece for piece in read(tmp_path / "tokenizer.model").pieces}
    assert "▁nephrology" in pieces
    assert any("高血压" in piece for piece in pieces)


def test_too_little_text_gives_a_smaller_vocabulary_and_says_so(tmp_path: Path) -> None:
    counts = train(tmp_path, ["only these few words"], vocab_size=5_000)
    assert counts["vocabulary_asked_for"] == 5_000
    assert load_encoder(tmp_path).vocabulary_size < 350


def test_a_vocabulary_without_room_for_the_characters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.train: sentencepiece refuses it"):
        train(tmp_path, ["".join(map(chr, range(0x4E00, 0x4F00)))], vocab_size=300)


def test_a_corpus_without_text_is_an_error_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text to train on"):
        train(tmp_path, [])
