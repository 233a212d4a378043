"""Makes documents of records with named fields, as JSON lines, Parquet and CSV hold them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import xxhash

from data_prep.documents import Document, Reject, empty_metadata
from data_prep.source_config import Fields
from data_prep.sources.identifiers import first_year
from data_prep.sources.jats.metadata import language_code
from data_prep.sources.licence import named_licence

_SHOWN = 12  # names of fields in a message


class RecordReader:
    """The documents of one file's records; ids are "text:NAME#KEY", KEY being the record's id or else its number.

    A key that an earlier record of the file has gets the record's number behind it ("KEY#NUMBER"), which
    `tally` counts as "ids used twice". Takes some 80 bytes of memory a record where records have ids.
    """

    def __init__(self, name: str, fields: Fields, tally: Counter[str]):
        self._name = name
        self._fields = fields
        self._tally = tally
        self._keys: set[int] = set()

    def read(self, record: Any, number: int, place: str) -> Document | Reject:
        """The record's document; a Reject that names `place` where it has no text."""
        if not isinstance(record, Mapping):
            return Reject(place, f'no text: expected an object with a string "{self._fields.text}"')
        text = field_of(record, self._fields.text)
        if not isinstance(text, str):
            return Reject(
                place,
                f'no text: expected an object with a string "{self._fields.text}"; '
                f"its fields are {names_of(record)}",
            )
        if not text.strip():
            return Reject(place, f'no text: "{self._fields.text}" is empty')
        if title := _string(self._field(record, self._fields.title)):
            text = f"{title}\n\n{text}"
        return Document(
            id=f"text:{self._name}#{self._key(record, number)}",
            text=text,
            source="text",
            metadata=self._metadata(record),
        )

    def _field(self, record: Mapping[str, Any], path: str | None) -> Any:
        return None if path is None else field_of(record, path)

    def _key(self, record: Mapping[str, Any], number: int) -> str:
        if self._fields.id is None:
            return str(number)
        given = _string(field_of(record, self._fields.id))
        key = given or str(number)
        if self._is_new(key):
            return key
        self._tally["ids used twice"] += 1
        key = f"{key}#{number}"
        while not self._is_new(key):  # another record's id reads like that
            key += "#"
        return key

    def _is_new(self, key: str) -> bool:
        digest = xxhash.xxh3_64_intdigest(key.encode())
        is_new = digest not in self._keys
        self._keys.add(digest)
        return is_new

    def _metadata(self, record: Mapping[str, Any]) -> dict[str, Any]:
        metadata = empty_metadata()
        language = _string(self._field(record, self._fields.language))
        metadata["language"] = language_code(language) if language else None
        licence = _string(self._field(record, self._fields.licence))
        metadata["licence"] = named_licence(licence) if licence else None
        metadata["year"] = first_year(_string(self._field(record, self._fields.year)))
        return metadata


def field_of(record: Mapping[str, Any], path: str) -> Any:
    """The field of that name, or where dots lead into nested ones; None where there is none."""
    if path in record:
        return record[path]
    value: Any = record
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def too_large(place: str, limit: int) -> Reject:
    """What a record of more bytes than a source's max_article_bytes gives."""
    return Reject(
        place, f"too large: more than {limit} bytes, which is the source's max_article_bytes"
    )


def names_of(names: Mapping[str, Any] | list[str]) -> str:
    """The first names of fields or columns, quoted, for a message."""
    shown = [f'"{name}"' for name in list(names)[:_SHOWN]]
    return ", ".join([*shown, "…"] if len(names) > _SHOWN else shown) or "none"


def _string(value: Any) -> str:
    return "" if value is None else str(value).strip()
