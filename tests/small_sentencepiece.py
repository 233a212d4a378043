"""A small LLaMA-like tokenizer of English, and its extension by medical English and Chinese."""

import random
from pathlib import Path

from data_prep.config import ExtendTokenizer, TrainTokenizer
from data_prep.documents import DocumentWriter, empty_metadata
from data_prep.tokenizer.extend import extend_tokenizer
from data_prep.tokenizer.sample import Sample
from data_prep.tokenizer.train import train_tokenizer

PLAIN = [
    "the",
    "patient",
    "and",
    "the",
    "doctor",
    "met",
    "in",
    "the",
    "morning;",
    "after",
    "12",
    "days",
    "they",
    "had",
    "a",
    "result",
    "of",
    "3.5",
    "mg",
]
MEDICAL = [
    "nephropathy",
    "cardiomyopathy",
    "thyroglobulin",
    "haemoglobin",
    "hypertension",
    "metformin",
]
CHINESE = ["高血压", "患者", "糖尿病", "治疗", "心肌梗死", "的", "与", "药物"]


def plain_text(seed: int) -> str:
    return " ".join(random.Random(seed).choices(PLAIN, k=60)) + "\n  end."


def medical_text(seed: int) -> str:
    draw = random.Random(seed)
    english = " ".join(draw.choices(MEDICAL + PLAIN, k=30))
    return f"{english}\n{''.join(draw.choices(CHINESE, k=20))}。"


def write_corpus(path: Path, texts: list[str], **metadata: object) -> Path:
    """A curated file of these texts."""
    with DocumentWriter(path) as writer:
        for number, text in enumerate(texts):
            record = {"id": f"text:{number}", "text": text, "source": "words"}
            writer.write(record | {"metadata": empty_metadata() | metadata})
    return path


def base_tokenizer(folder: Path, size: int = 400) -> Path:
    """Trained on plain English: most of Chinese is bytes to it."""
    folder.mkdir(parents=True)
    texts = [plain_text(seed) for seed in range(60)]
    corpus = write_corpus(folder.parent / "plain.jsonl.zst", texts)
    settings = TrainTokenizer(kind="sentencepiece", vocab_size=size)
    train_tokenizer([corpus], sum(map(len, texts)), settings, folder)
    return folder


def extended_tokenizer(
    base: Path, folder: Path, texts: list[str] | None = None, **settings
) -> dict:  # type: ignore[no-untyped-def]
    """The base extended on medical text, or on these texts; returns the counts."""
    folder.mkdir(parents=True)
    texts = [medical_text(seed) for seed in range(60)] if texts is None else texts
    corpus = write_corpus(folder.parent / f"{folder.name}.jsonl.zst", texts)
    wanted = ExtendTokenizer(path=base, **({"new_pieces": 80} | settings))
    return extend_tokenizer(wanted, Sample([corpus], sum(map(len, texts)), 1 << 30), folder)
