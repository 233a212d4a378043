"""Instruction files to shard sets with a loss mask, checked against transformers itself."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.config import CorpusConfig
from data_prep.config_file import validate
from data_prep.curate.filters import split_of
from data_prep.documents import read_json_lines
from data_prep.errors import ConfigError, DataError
from data_prep.instruct.sets import USUAL_SHARE, make_instruct_sets, trained_share
from data_prep.pipeline import run
from data_prep.run.executor import StageReport
from data_prep.shards.reader import ShardSet
from data_prep.units import finished
from tests.data_prep.instruct.small_tokenizer import write_tokenizer

FRACTION = 0.3
TALKS = [
    [
        {"role": "user", "content": f"What is {n}{'?' * (n % 5)}"},
        {"role": "assistant", "content": f"It is {n * n}, 高血压 🙂." * (1 + n % 3)},
        {"role": "user", "content": "And\n\nthen?"},
        {"role": "assistant", "content": " Nothing.\n"},
    ]
    for n in range(60)
]


def write_records(folder: Path) -> Path:
    path = folder / "talks.jsonl"
    records = [{"messages": talk} for talk in TALKS]
    records.append({"messages": TALKS[0][:1]})
    records.append({"messages": [TALKS[0][0], {"role": "assistant", "content": "x " * 400}]})
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def config(folder: Path, tokenizer: Path, template: str | None, **changes: object) -> CorpusConfig:
    instruct = {
        "inputs": [{"path": str(write_records(folder)), "format": "messages"}],
        "output": str(folder / "out"),
        "tokenizer": str(tokenizer),
        "template": template,
        "sequence_length": 256,
        "validation_fraction": FRACTION,
        **changes,
    }
    values = {"output": str(folder / "corpus"), "instruct": instruct}
    return validate(CorpusConfig, values, "test")


def run_both(config: CorpusConfig) -> list[StageReport]:
    return list(make_instruct_sets(config))


def conversations(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tokens and mask of every conversation of a set, put together from its rows."""
    shards = ShardSet(folder)
    found = {}
    for group in range(len(shards.row_groups)):
        rows = shards.read(group)
        assert rows.loss_mask is not None
        for row, names in enumerate(shards.document_ids(group)):
            column = 0
            for name, piece in zip(names, range(*rows.starts[row : row + 2]), strict=True):
                length = int(rows.lengths[piece])
                assert rows.offsets[piece] == 0  # a conversation is never cut
                place = slice(column, column + length)
                found[name] = (rows.tokens[row, place], rows.loss_mask[row, place])
                column += length
            assert not rows.loss_mask[row, column:].any()
    return found


@pytest.mark.parametrize("template", ["alpaca", "chatml", "plain"])
@pytest.mark.parametrize("begins", [True, False])
def test_shards_hold_what_transformers_renders_with_the_exported_template(
    tmp_path: Path, template: str, begins: bool
) -> None:
    from transformers import AutoTokenizer

    tokenizer = write_tokenizer(tmp_path / "tokenizer", begins)
    encoding, sets = run_both(config(tmp_path, tokenizer, template))
    assert not encoding.failed
    assert not sets.failed
    seen = {}
    for split in ("train", "validation"):
        folder = tmp_path / "out" / f"instruct-{split}"
        exported = AutoTokenizer.from_pretrained(folder / "tokenizer")
        shards = ShardSet(folder)
        stop = exported.convert_tokens_to_ids("<|im_end|>" if template == "chatml" else "</s>")
        for name, (tokens, trained) in conversations(folder).items():
            assert split_of(name, FRACTION) == split
            talk = TALKS[int(name.rpartition("#")[2]) - 1]
            expected = exported.apply_chat_template(talk, return_dict=False)
            assert tokens.tolist() == expected
            assert (tokens == exported.bos_token_id).sum() == begins
            # What is trained on reads as the answers, each with its end token.
            answers = exported.decode(tokens[trained], clean_up_tokenization_spaces=False)
            end = exported.convert_ids_to_tokens(stop)
            assert answers == "".join(turn["content"] + end for turn in talk[1::2])
            assert (tokens[trained] == stop).sum() == 2
            seen[name] = tokens
        assert shards.manifest.begin_token == begins
        assert shards.manifest.has_loss_mask
    assert len(seen) == len(TALKS)


def test_a_prompt_for_serving_is_the_beginning_of_what_was_trained_on(
    tmp_path: Path, tokenizer: Path
) -> None:
    from transformers import AutoTokenizer

    run_both(config(tmp_path, tokenizer, "alpaca"))
    folder = tmp_path / "out" / "instruct-train"
    exported = AutoTokenizer.from_pretrained(folder / "tokenizer")
    for name, (tokens, trained) in conversations(folder).items():
        talk = TALKS[int(name.rpartition("#")[2]) - 1]
        prompt = exported.apply_chat_template(
            talk[:1], add_generation_prompt=True, return_dict=False
        )
        first = int(np.argmax(trained))
        # The answer's first token may take the last characters of the prompt with it.
        assert prompt[: first - 1] == tokens[: first - 1].tolist()


def test_counts_say_what_was_rejected_and_what_is_trained_on(
    tmp_path: Path, tokenizer: Path
) -> None:
    run_both(config(tmp_path, tokenizer, "plain"))
    (unit,) = finished(tmp_path / "corpus" / "instruct")
    found = {
        name: pair
        for split in ("train", "validation")
        for name, pair in conversations(tmp_path / "out" / f"instruct-{split}").items()
    }
    assert unit.counts["conversations"] == len(TALKS)
    assert unit.counts["turns"] == sum(len(talk) for talk in TALKS)
    assert unit.counts["tokens"] == sum(len(tokens) for tokens, _ in found.values())
    assert unit.counts["trained_tokens"] == sum(mask.sum() for _, mask in found.values())
    assert unit.counts["rejects"] == {"no assistant turn": 1, "too long": 1}
    share = trained_share(unit.counts)
    assert share is not None
    assert USUAL_SHARE[0] < share < USUAL_SHARE[1]
    rejects = list(read_json_lines(unit.folder / "rejects.jsonl.zst"))
    assert rejects[0] == {"place": "talks.jsonl#61", "reason": "no assistant turn"}
    assert rejects[1]["reason"].startswith("too long: ")
    assert rejects[1]["reason"].endswith(" tokens, sequence_length is 256")


def test_an_unusual_share_of_trained_tokens_is_warned_about(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"instruction": "word " * 150, "output": f"{n}"} for n in range(20)]
    path = tmp_path / "long-prompts.json"
    path.write_text(json.dumps(records))
    inputs = [{"path": str(path), "format": "alpaca"}]
    run_both(config(tmp_path, tokenizer, "plain", inputs=inputs, sequence_length=1024))
    told = " ".join(capsys.readouterr().err.split())
    assert "of the tokens are trained on, usual are 5% to 95%" in told


def test_the_tokenizer_s_own_template_is_used_where_none_is_named(tmp_path: Path) -> None:
    own = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer = write_tokenizer(tmp_path / "tokenizer", begins=False, chat_template=own)
    (tokenizer / "model.safetensors").write_bytes(b"weights beside the tokenizer")
    run_both(config(tmp_path, tokenizer, None))
    exported = tmp_path / "out" / "instruct-train" / "tokenizer"
    assert (exported / "chat_template.jinja").read_text() == own
    assert not (exported / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template; name a file or one of alpaca, chatml, plain"),
        ("alpacca", "'alpacca' is neither a file nor one of alpaca, chatml, plain"),
        ("{{ strftime_now('%Y') }}", "writes today's date"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(
    tmp_path: Path, tokenizer: Path, template: str | None, message: str
) -> None:
    if template is not None and "{" in template:
        path = tmp_path / "dated.jinja"
        path.write_text(template)
        template = str(path)
    with pytest.raises(ConfigError, match="template") as raised:
        run_both(config(tmp_path, tokenizer, template))
    assert message in str(raised.value)


def test_what_is_done_stays_and_what_changed_is_done_again(tmp_path: Path, tokenizer: Path) -> None:
    first = config(tmp_path, tokenizer, "plain")
    run_both(first)
    made = ShardSet(tmp_path / "out" / "instruct-train").manifest.hash
    encoding, sets = run_both(first)
    assert encoding.done == ["talks.jsonl"]
    assert sets.done == ["instruct-train", "instruct-validation"]
    encoding, sets = run_both(config(tmp_path, tokenizer, "alpaca"))
    assert encoding.ran == ["talks.jsonl"]
    assert sets.ran == ["instruct-train", "instruct-validation"]
    assert ShardSet(tmp_path / "out" / "instruct-train").manifest.hash != made
    run_both(config(tmp_path, tokenizer, "plain", validation_fraction=0.0))
    assert not (tmp_path / "out" / "instruct-validation").exists()


def test_a_broken_file_stops_the_sets_or_is_named_in_them_as_missing(
    tmp_path: Path, tokenizer: Path
) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("[")
    good = {"path": str(write_records(tmp_path)), "format": "messages"}
    inputs = [good, {"path": str(broken), "format": "alpaca"}]
    settings = config(tmp_path, tokenizer, "plain", inputs=inputs)
    with pytest.raises(DataError, match="1 failed"):
        run("instruct", settings, allow_failed=False)
    assert not (tmp_path / "out").exists()
    run("instruct", settings, allow_failed=True)
    shards = ShardSet(tmp_path / "out" / "instruct-train")
    assert shards.manifest.missing == ["instruct/broken.json"]
    named = shards.folder / "inputs.parquet"
    assert pq.read_table(named)["name"].to_pylist() == ["talks.jsonl"]
    # Without the file it is another set, with the same conversations.
    run("instruct", config(tmp_path, tokenizer, "plain"), allow_failed=False)
    assert ShardSet(shards.folder).manifest.missing == []


def test_nothing_left_to_train_on_is_an_error(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(DataError, match="no conversation is left to train on"):
        run_both(config(tmp_path, tokenizer, "plain", sequence_length=8))


def test_an_output_folder_with_other_results_is_refused_and_left_alone(
    tmp_path: Path, tokenizer: Path
) -> None:
    elsewhere = str(tmp_path / "corpus")
    with pytest.raises(ConfigError, match=r"instruct\.output: .* holds instruct/talks\.jsonl"):
        run_both(config(tmp_path, tokenizer, "plain", output=elsewhere))
    assert finished(tmp_path / "corpus" / "instruct")


def test_real_sets_are_read_and_masked_with_llama_s_tokenizer(
    tmp_path: Path, real_data: Path
) -> None:
    inputs = [
        {"path": str(real_data / "instruct" / name), "format": layout}
        for name, layout in (
            ("medicalgpt_zh_dialogue_seed_task.json", "alpaca"),
            ("sharegpt_medical_sft_1K.jsonl", "sharegpt"),
        )
    ]
    llama = real_data / "tokenizers" / "llama"
    run_both(config(tmp_path, llama, "alpaca", inputs=inputs, sequence_length=1024))
    shards = ShardSet(tmp_path / "out" / "instruct-train")
    assert shards.manifest.begin_token
    rows = shards.read(0)
    assert rows.loss_mask is not None
    first = rows.starts[:-1]
    assert (rows.tokens[:, 0] == 1).all()  # <s>
    ends = rows.tokens[np.arange(len(rows.tokens)), rows.lengths[first] - 1]
    assert (ends == 2).all()  # </s>, trained on
    assert rows.loss_mask[np.arange(len(rows.tokens)), rows.lengths[first] - 1].all()
