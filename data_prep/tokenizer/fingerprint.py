"""A hash that says whether two tokenizers are the same, whatever their files and library versions."""

import hashlib
import re
import struct
from collections.abc import Sequence

from data_prep.files import canonical_json
from data_prep.tokenizer.definition import TokenizerDefinition

# Text on which tokenizers of equal vocabulary still differ: case, digits, units, Greek, runs of spaces
# and line ends, other scripts, a composed and a decomposed letter, emoji of several code points, NUL.
PROBE = (
    "Metformin 850 mg b.i.d. lowered HbA1c by 1.12% (95% CI −1.34 to −0.90; P<0.001) in 3,234 adults.\n\n"
    "  TNF-α/NF-κB;   37 °C, 10⁻³ M, m², Δψ, ≥\t½\r\n    def f(x):\n        return x\n"
    "Ménière's, Sjögren, cafe\u0301. 高血压患者。 заболевание сердца. مرض السكري. ヒト細胞 👩‍⚕️🧬 \x00 end "
)

_NUMBERS = struct.Struct("<II")

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
SPACE_PIECE = "▁"


def fingerprint(definition: TokenizerDefinition, probe_ids: Sequence[int]) -> str:
    """Hex SHA-256 of {id: token bytes}, the begin, end and other special ids, and the ids of PROBE.

    Which token pads is left out: what fills a row is a choice of the training, not of the tokenizer.
    """
    state = hashlib.sha256()
    for index, content in sorted(token_bytes(definition).items()):
        state.update(_NUMBERS.pack(index, len(content)) + content)
    special = definition.special_tokens()
    roles = {
        "begin": special.get(definition.begin or ""),
        "end": special[definition.end],
        "special": sorted(special.values()),
        "probe": [int(index) for index in probe_ids],
    }
    state.update(canonical_json(roles))
    return state.hexdigest()


def token_bytes(definition: TokenizerDefinition) -> dict[int, bytes]:
    """What every id stands for: bytes of text, or of a special token's name."""
    content = definition.content
    added = {token["content"] for token in definition.added_tokens()}
    byte_level = _mentions(content.get("pre_tokenizer"), "ByteLevel") or _mentions(
        content.get("decoder"), "ByteLevel"
    )
    byte_fallback = bool(content["model"].get("byte_fallback"))
    table = _byte_table() if byte_level else {}
    found = {}
    for token, index in definition.vocabulary().items():
        byte_piece = BYTE_PIECE.fullmatch(token) if byte_fallback else None
        if token in added:
            found[index] = token.encode()
        elif byte_piece:
            found[index] = bytes([int(byte_piece[1], 16)])
        elif table and (content_bytes := _spelt_bytes(token, table)) is not None:
            found[index] = content_bytes
        else:
            found[index] = token.replace(SPACE_PIECE, " ").encode()
    return found


def _byte_table() -> dict[int, int]:
    """The byte for the code point of every byte's letter; code points that are no letter's go beyond all bytes."""
    table = {ord(letter): byte for byte, letter in byte_letters().items()}
    return {code: 0xFFFF for code in range(0x100)} | table


def _spelt_bytes(token: str, table: dict[int, int]) -> bytes | None:
    try:
        return token.translate(table).encode("latin-1")
    except UnicodeEncodeError:
        return None


def byte_letters() -> dict[int, str]:
    """The letter that byte-level BPE (GPT-2) writes for every byte.

    Printable Latin-1 stands for itself; the others are numbered from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(0x100 + place) for place, byte in enumerate(others)}


def _mentions(part: object, kind: str) -> bool:
    """Whether a component of a tokenizer.json, or one nested in it, is of this type."""
    if isinstance(part, dict):
        return part.get("type") == kind or any(_mentions(below, kind) for below in part.values())
    return isinstance(part, list) and any(_mentions(below, kind) for below in part)
