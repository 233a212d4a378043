"""A tokenizer with a chat template: from conversations to ids and loss mask, and back to a folder.

The whole conversation is tokenised once, as a model meets it: pieces tokenised apart and joined give
other ids at the seams.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data_prep.errors import ConfigError, DataError
from data_prep.files import read_json, write_json
from data_prep.instruct.formats import Message
from data_prep.instruct.render import (
    ChatTemplate,
    SpecialTokens,
    TemplateRefusalError,
    loss_mask,
    render,
    with_begin_token,
)
from data_prep.tokenizer.definition import TokenizerDefinition, read_definition

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_FILE = "chat_template.jinja"  # where transformers looks for it
CONFIG_FILE = "tokenizer_config.json"
OTHER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
)
# Names with an entry in tokenizer_config.json that templates refer to.
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
_PROBE = "é 中 🙂 x"  # characters of one to four bytes


@dataclass(frozen=True)
class EncodedConversation:
    """ids uint32 (n,), trained bool (n,), and the UTF-8 bytes of the rendered text."""

    ids: np.ndarray
    trained: np.ndarray
    bytes: int


class ChatTokenizer:
    """The tokenizer in `folder` with a template: a name in templates/, a file, or None for its own.

    Raises ConfigError where there is no such template, or where it depends on the day it is used.
    """

    def __init__(self, folder: Path, template: str | None):
        self.folder = folder
        self.definition: TokenizerDefinition = read_definition(folder)
        self.config = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
        self.special = self._special_tokens()
        self.template = with_begin_token(self._template(template), self.special)

    def encode(
        self, conversations: Sequence[Sequence[Message]]
    ) -> list[EncodedConversation | TemplateRefusalError]:
        """The ids of each conversation and which of them are trained on, in order; or why there are none.

        Raises ConfigError where the template does not suit training: see `render`.
        """
        results: list[Any] = []
        for messages in conversations:
            try:
                results.append(render(messages, self.template, self.special))
            except TemplateRefusalError as error:
                results.append(error)
        rendered = [result for result in results if not isinstance(result, TemplateRefusalError)]
        encodings = iter(
            self._tokenizer.encode_batch(
                [result.text for result in rendered], add_special_tokens=False
            )
        )
        for index, result in enumerate(results):
            if not isinstance(result, TemplateRefusalError):
                encoding = next(encodings)
                offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
                results[index] = EncodedConversation(
                    np.array(encoding.ids, np.uint32),
                    loss_mask(offsets, result.spans),
                    len(result.text.encode()),
                )
        return results

    def starts_with_begin_token(self) -> bool:
        """Whether every conversation begins with the tokenizer's begin token."""
        begin = self.definition.begin
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        return begin is not None and render(probe, self.template, self.special).text.startswith(
            begin
        )

    def write(self, folder: Path) -> None:
        """Write the tokenizer with its template, such that AutoTokenizer gives the ids that `encode` gives.

        Its other files are copied, so that other libraries can use them; a model beside it is not.
        """
        for name in OTHER_FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)
        write_json(folder / "tokenizer.json", self.definition.content)
        # Other classes build the tokenizer anew from its vocabulary, each with rules of its own.
        config = self.config | self.special.named | {"tokenizer_class": "PreTrainedTokenizerFast"}
        config.pop("chat_template", None)
        write_json(folder / CONFIG_FILE, config)
        (folder / TEMPLATE_FILE).write_text(self.template.source, encoding="utf-8")

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(json.dumps(self.definition.content))
        ends = [end for _, end in tokenizer.encode(_PROBE, add_special_tokens=False).offsets]
        if ends[-1] != len(_PROBE):
            raise DataError(
                f"tokenizer {self.folder}: it places the end of {len(_PROBE)} characters at {ends[-1]}, so "
                "answers cannot be found in its tokens; use another tokenizer"
            )
        return tokenizer

    def _special_tokens(self) -> SpecialTokens:
        named = {
            key: value["content"] if isinstance(value, dict) else value
            for key in _NAMED
            if (value := self.config.get(key)) is not None
        }
        definition = self.definition
        for key, token in (
            ("bos_token", definition.begin),
            ("eos_token", definition.end),
            ("pad_token", definition.pad),
        ):
            if token is not None:
                named[key] = token
        texts = tuple(sorted({*definition.special_tokens(), *named.values()}))
        return SpecialTokens(named, texts, definition.begin if self._begins() else None)

    def _begins(self) -> bool:
        """Whether the tokenizer begins what it encodes with its begin token."""
        begin = self.definition.begin
        if begin is None:
            return False
        if "add_bos_token" in self.config:
            return bool(self.config["add_bos_token"])
        if self.definition.content.get("post_processor") is not None:
            tokenizer = Tokenizer.from_str(json.dumps(self.definition.content))
            return tokenizer.encode("a").tokens[0] == begin
        # A SentencePiece model alone does not say; LLaMA's, which is the one published so, does begin.
        return (
            not (self.folder / "tokenizer.json").is_file()
            and (self.folder / "tokenizer.model").is_file()
        )

    def _template(self, chosen: str | None) -> ChatTemplate:
        if chosen is None:
            template = ChatTemplate(f"of {self.folder}", self._own_template())
        elif (TEMPLATES / f"{chosen}.jinja").is_file():
            template = ChatTemplate(chosen, (TEMPLATES / f"{chosen}.jinja").read_text("utf-8"))
        elif Path(chosen).is_file():
            template = ChatTemplate(chosen, Path(chosen).read_text("utf-8"))
        else:
            raise ConfigError(
                f"instruct.template: {chosen!r} is neither a file nor one of {_known_templates()}"
            )
        if "strftime_now" in template.source:
            raise ConfigError(
                f"template {template.name}: it writes today's date (strftime_now), so the same samples "
                "would give other shards tomorrow; copy it with a fixed date and name the copy in "
                "instruct.template"
            )
        return template

    def _own_template(self) -> str:
        path = self.folder / TEMPLATE_FILE
        own = path.read_text("utf-8") if path.is_file() else self.config.get("chat_template")
        if isinstance(own, list):  # several, by name
            own = {entry["name"]: entry["template"] for entry in own}.get("default")
        if own is None:
            raise ConfigError(
                f"instruct.template: the tokenizer in {self.folder} has no chat template; name a file or "
                f"one of {_known_templates()}"
            )
        return own


def _known_templates() -> str:
    return ", ".join(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
