"""Instruction records as conversations: the Alpaca, chat-message and ShareGPT formats of published sets.

A file is UTF-8 (a byte order mark is allowed) and holds a JSON array or JSON lines; which of the two is
read from its first character.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from data_prep.documents import Reject
from data_prep.errors import DataError

# A message always has role and content; one read from an Alpaca record with an input also has
# instruction and input, so that a template may place them under headings of their own.
Message = dict[str, str]

_ROLES = ("system", "user", "assistant")
# What ShareGPT exports call the speakers.
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


@dataclass(frozen=True)
class Conversation:
    """A conversation that ends with an answer: maybe a system message, then user and assistant in turn."""

    id: str
    messages: list[Message]


class _BrokenError(Exception):
    """A record that cannot be used; the text is the reject's reason, its kind before any colon."""


def read_conversations(
    path: Path, layout: str, special_tokens: Collection[str]
) -> Iterator[Conversation | Reject]:
    """The records of `path` in file order, each a conversation or the reason why it is none.

    Ids are "text:<file name>#<n>", n counting lines of JSON lines or elements of an array from 1.
    `layout` is "alpaca", "messages" or "sharegpt". No content holds one of `special_tokens`: they are
    the template's to write and are never parsed from text. Raises DataError where the file is not
    UTF-8, or not JSON as a whole.
    """
    to_messages = _LAYOUTS[layout]
    for number, record in _records(path):
        place = f"{path.name}#{number}"
        if isinstance(record, Reject):
            yield record
            continue
        try:
            messages = to_messages(record)
            _check(messages, special_tokens)
        except _BrokenError as error:
            yield Reject(place, str(error))
        else:
            yield Conversation(f"text:{place}", messages)


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8: convert the file (iconv -t UTF-8)"
        ) from error
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(orjson.loads(text), start=1)
        except orjson.JSONDecodeError as error:
            raise DataError(
                f"{path}: line {error.lineno}: not a JSON array: {error.msg}"
            ) from error
        return
    # Not splitlines: U+2028 and its like may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError:
            yield number, Reject(f"{path.name}#{number}", "not JSON")


def _alpaca(record: Any) -> list[Message]:
    instruction = _text(record, "instruction")
    output = _text(record, "output")
    context = _text(record, "input") if record.get("input") is not None else ""
    if not instruction.strip():
        raise _BrokenError("empty instruction")
    question: Message = {"role": "user", "content": instruction}
    if context.strip():
        question["content"] = f"{instruction}\n\n{context}"
        question |= {"instruction": instruction, "input": context}
    return [question, {"role": "assistant", "content": output}]


def _chat(record: Any) -> list[Message]:
    return _turns(record, "messages", "role", "content", {role: role for role in _ROLES})


def _sharegpt(record: Any) -> list[Message]:
    return _turns(record, "conversations", "from", "value", _SHAREGPT_ROLES)


_LAYOUTS: dict[str, Callable[[Any], list[Message]]] = {
    "alpaca": _alpaca,
    "messages": _chat,
    "sharegpt": _sharegpt,
}


def _turns(
    record: Any, list_field: str, role_field: str, text_field: str, roles: dict[str, str]
) -> list[Message]:
    turns = record.get(list_field) if isinstance(record, dict) else None
    if not isinstance(turns, list):
        raise _BrokenError(f"missing field: {list_field!r}, a list")
    messages = []
    for turn in turns:
        role = _text(turn, role_field)
        if role not in roles:
            raise _BrokenError(f"unknown role: {role!r}, expected one of {', '.join(roles)}")
        messages.append({"role": roles[role], "content": _text(turn, text_field)})
    return messages


def _text(record: Any, field: str) -> str:
    value = record.get(field) if isinstance(record, dict) else None
    if not isinstance(value, str):
        raise _BrokenError(f"missing field: {field!r}, a text")
    return value


def _check(messages: list[Message], special_tokens: Collection[str]) -> None:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise _BrokenError("no assistant turn")
    spoken = roles[1:] if roles[0] == "system" else roles
    if "system" in spoken:
        raise _BrokenError("a system message after the first turn")
    if spoken[0] != "user":
        raise _BrokenError("starts with an assistant turn")
    for role, following in pairwise(spoken):
        if role == following:
            raise _BrokenError(f"two {role} turns running")
    if spoken[-1] != "assistant":
        raise _BrokenError("ends without an answer")
    for message in messages:
        if not message["content"].strip():
            raise _BrokenError("empty answer" if message["role"] == "assistant" else "empty turn")
        for token in special_tokens:
            if token in message["content"]:
                raise _BrokenError(f"special token in the text: {token}")
