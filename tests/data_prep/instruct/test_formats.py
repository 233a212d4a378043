"""Readers of instruction files: what is a conversation, and why a record is none."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.documents import Reject
from data_prep.errors import DataError
from data_prep.instruct.formats import Conversation, read_conversations

SPECIAL = ("<s>", "</s>")
QUESTION = {"role": "user", "content": "Was ist Fieber?"}
ANSWER = {"role": "assistant", "content": "Erhöhte Temperatur."}


def read(path: Path, layout: str) -> list[Conversation | Reject]:
    return list(read_conversations(path, layout, SPECIAL))


def read_one(folder: Path, layout: str, record: Any) -> Conversation | Reject:
    path = folder / "set.jsonl"
    path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    (only,) = read(path, layout)
    return only


def test_alpaca_joins_instruction_and_input_and_keeps_both_for_the_template(tmp_path: Path) -> None:
    record = {"instruction": "Classify.", "input": "Fever, cough.", "output": "Infection"}
    read = read_one(tmp_path, "alpaca", record)
    assert isinstance(read, Conversation)
    assert read.messages == [
        {
            "role": "user",
            "content": "Classify.\n\nFever, cough.",
            "instruction": "Classify.",
            "input": "Fever, cough.",
        },
        {"role": "assistant", "content": "Infection"},
    ]


@pytest.mark.parametrize("empty", ["", None])
def test_alpaca_without_an_input_is_the_instruction_alone(tmp_path: Path, empty: Any) -> None:
    record = {"instruction": "What is fever?", "input": empty, "output": "High temperature."}
    read = read_one(tmp_path, "alpaca", record)
    assert isinstance(read, Conversation)
    assert read.messages[0] == {"role": "user", "content": "What is fever?"}


def test_messages_and_sharegpt_of_the_same_talk_are_equal(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    messages = {"messages": [system, QUESTION, ANSWER, QUESTION, ANSWER]}
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    sharegpt = {
        "conversations": [
            {"from": names[message["role"]], "value": message["content"]}
            for message in messages["messages"]
        ]
    }
    assert read_one(tmp_path, "messages", messages) == read_one(tmp_path, "sharegpt", sharegpt)


def test_an_array_and_lines_with_a_byte_order_mark_give_the_same_conversations(
    tmp_path: Path,
) -> None:
    records = [{"messages": [QUESTION, {**ANSWER, "content": f"{n}\u2028."}]} for n in range(3)]
    array, lines = tmp_path / "a.json", tmp_path / "b.json"
    array.write_text(json.dumps(records, ensure_ascii=False, indent=2), encoding="utf-8")
    text = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    lines.write_bytes(codecs.BOM_UTF8 + text.encode())
    first, second = read(array, "messages"), read(lines, "messages")
    assert [c.messages for c in first] == [c.messages for c in second]  # type: ignore[union-attr]
    assert [c.id for c in first] == [f"text:a.json#{n}" for n in (1, 2, 3)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("layout", "record", "reason"),
    [
        ("alpaca", {"instruction": "x"}, "missing field: 'output', a text"),
        ("alpaca", {"instruction": "x", "output": 3}, "missing field: 'output', a text"),
        ("alpaca", {"instruction": "x", "output": " \n"}, "empty answer"),
        ("alpaca", {"instruction": " ", "output": "y"}, "empty instruction"),
        ("alpaca", "x", "missing field: 'instruction', a text"),
        ("messages", {"conversations": []}, "missing field: 'messages', a list"),
        ("messages", {"messages": []}, "no assistant turn"),
        ("messages", {"messages": [QUESTION]}, "no assistant turn"),
        ("messages", {"messages": [QUESTION, QUESTION, ANSWER]}, "two user turns running"),
        ("messages", {"messages": [QUESTION, ANSWER, ANSWER]}, "two assistant turns running"),
        ("messages", {"messages": [ANSWER, QUESTION]}, "starts with an assistant turn"),
        ("messages", {"messages": [QUESTION, ANSWER, QUESTION]}, "ends without an answer"),
        (
            "messages",
            {"messages": [QUESTION, {"role": "system", "content": "x"}, ANSWER]},
            "a system message after the first turn",
        ),
        (
            "messages",
            {"messages": [QUESTION, {"role": "tool", "content": "x"}]},
            "unknown role: 'tool', expected one of system, user, assistant",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "a</s>b"}, ANSWER]},
            "special token in the text: </s>",
        ),
        ("sharegpt", {"conversations": [{"from": "human"}]}, "missing field: 'value', a text"),
    ],
)
def test_a_broken_record_is_rejected_with_its_reason(
    tmp_path: Path, layout: str, record: Any, reason: str
) -> None:
    assert read_one(tmp_path, layout, record) == Reject("set.jsonl#1", reason)


def test_a_broken_line_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    good = json.dumps({"messages": [QUESTION, ANSWER]})
    path.write_text(f'{good}\n\n{{"messages": [\n{good}\n')
    first, broken, last = read(path, "messages")
    assert isinstance(first, Conversation)
    assert broken == Reject("set.jsonl#3", "not JSON")
    assert isinstance(last, Conversation)
    assert last.id == "text:set.jsonl#4"


def test_a_file_that_is_not_utf8_or_a_cut_array_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_bytes("感冒".encode("gb18030"))
    with pytest.raises(DataError, match=r"set\.json: byte 0 is not UTF-8"):
        read(path, "alpaca")
    path.write_text('[{"instruction": "x",\n "output"')
    with pytest.raises(DataError, match=r"set\.json: line 2: not a JSON array"):
        read(path, "alpaca")
