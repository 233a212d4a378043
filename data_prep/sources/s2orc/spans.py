"""The annotations of a paper in S2ORC: spans of characters, by kind."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson


class BrokenAnnotationsError(Exception):
    """The annotations are not what S2ORC's are; the message says which."""


@dataclass(slots=True)
class Span:
    """Characters `start` to `end` (not included) of the text, and what the annotation says about them."""

    start: int
    end: int
    attributes: Mapping[str, Any]

    def of(self, text: str) -> str:
        return text[self.start : self.end]


class Annotations:
    """The spans of each kind, sorted; kinds are named without underscores ("sectionheader", "bibref").

    The dataset "s2orc" and its successor "s2orc_v2" write kinds as "sectionheader" and "section_header", lists of
    spans as JSON in a string, or null. Spans that do not lie in the text are left out and counted as
    "spans outside the text". Raises BrokenAnnotationsError where a list is not one.
    """

    def __init__(self, annotations: Any, characters: int, tally: Counter[str]):
        if not isinstance(annotations, Mapping):
            raise BrokenAnnotationsError("expected an object of lists")
        self._spans = {
            str(kind).replace("_", "").lower(): sorted(
                _spans(kind, value, characters, tally), key=lambda span: (span.start, -span.end)
            )
            for kind, value in annotations.items()
        }

    def spans(self, kind: str) -> list[Span]:
        return self._spans.get(kind, [])

    def within(self, kind: str, outer: Span) -> list[Span]:
        """The spans of a kind that lie in another one."""
        spans = self.spans(kind)
        first = bisect_left(spans, outer.start, key=lambda span: span.start)
        found = []
        for span in spans[first:]:
            if span.start >= outer.end:
                break
            if span.end <= outer.end:
                found.append(span)
        return found


def _spans(kind: str, value: Any, characters: int, tally: Counter[str]) -> Iterable[Span]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value or "null")
        except orjson.JSONDecodeError as error:
            raise BrokenAnnotationsError(f'"{kind}" is not JSON ({error})') from error
    if value is None:
        return
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BrokenAnnotationsError(f'"{kind}" is not a list of spans')
    for item in value:
        start, end = _place(item.get("start")), _place(item.get("end"))
        if start is None or end is None or not start < end <= characters:
            tally["spans outside the text"] += 1
        else:
            attributes = item.get("attributes")
            yield Span(start, end, attributes if isinstance(attributes, dict) else {})


def _place(value: Any) -> int | None:
    """A place in the text, which some releases write as a string."""
    if type(value) is str and value.isdecimal():
        return int(value)
    return value if type(value) is int and value >= 0 else None
