"""The language of documents that do not state it: the source's, or found out from the text."""

from functools import cache
from typing import Any

from data_prep.documents import Document
from data_prep.source_config import Source
from data_prep.sources.jats.metadata import language_code

DETECT = "detect"
# As MEDITRON did (epfLLM/meditron, gap-replay: langdetect on the first 2,000 characters).
READ_CHARACTERS = 2000
SURE = 0.5  # more likely than all other languages together


def fill_language(document: Document, source: Source) -> None:
    """Set the language of a document that states none, where the source's config says how."""
    if source.language and document["metadata"]["language"] is None:
        code = (
            detected_language(document["text"])
            if source.language == DETECT
            else _three_letters(source.language) or source.language
        )
        document["metadata"]["language"] = code


def detected_language(text: str) -> str | None:
    """ISO 639-2/B of the language that a text begins in; None where nothing or no one language shows."""
    code, _ = _identifier().classify(text[:READ_CHARACTERS])
    return _three_letters(code)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # its model takes time to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=SURE)


@cache
def _three_letters(tag: str) -> str | None:
    """`language_code`; None of "und" (not known) and "zxx" (no language), too."""
    code = language_code(tag)
    return None if code in ("und", "zxx") else code
