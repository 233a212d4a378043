"""A conversation as one text, and the character ranges of it that the model is to learn.

The ranges come from rendering the conversation's beginnings, which works for every chat template and not
only for those with a {% generation %} block; a template that writes a turn differently once others follow
would put the ranges in the wrong place and is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import TemplateError

from data_prep.errors import ConfigError
from data_prep.instruct.formats import Message


@dataclass(frozen=True)
class ChatTemplate:
    """A jinja chat template and the name that errors give it."""

    name: str
    source: str


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens of a tokenizer that no text contains."""

    named: dict[str, str]  # bos_token, eos_token, …: what a template refers to
    texts: tuple[str, ...]  # all of them, named or not
    begin: str | None  # the begin token, where the tokenizer begins sequences with one


@dataclass(frozen=True)
class RenderedConversation:
    """The text, and for each answer the half-open character range from its first character to the end of its
    end-of-turn token."""

    text: str
    spans: list[tuple[int, int]]


class TemplateRefusalError(Exception):
    """The template itself does not accept this conversation; the text is the template's message."""


def render(
    messages: Sequence[Message], template: ChatTemplate, special_tokens: SpecialTokens
) -> RenderedConversation:
    """Render the whole conversation once and locate its answers.

    Raises ConfigError naming template and turn where a turn changes what was written before it, where an
    answer does not end with a special token (the model would never learn to stop), and where the text does not
    begin with exactly one begin token though the tokenizer uses one. TemplateRefusalError where the template
    calls raise_exception.
    """
    text = _apply(template, special_tokens, messages, generation_prompt=False)
    _check_begin(text, template, special_tokens)
    spans = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = _apply(template, special_tokens, messages[:turn], generation_prompt=True)
        answered = _apply(template, special_tokens, messages[: turn + 1], generation_prompt=False)
        if not (text.startswith(answered) and answered.startswith(prompt)):
            raise ConfigError(
                f"template {template.name}: turn {turn + 1}: what it writes up to here changes when the "
                "conversation goes on, so the answers cannot be located; give instruct.template one "
                "that writes every turn alike wherever it stands"
            )
        answer = answered[len(prompt) :].rstrip()
        if not answer.endswith(special_tokens.texts):
            raise ConfigError(
                f"template {template.name}: turn {turn + 1}: the answer ends with {answer[-20:]!r}, not "
                "with a special token of the tokenizer, so a model would never learn to stop; expected "
                f"one of {', '.join(special_tokens.texts)} at its end"
            )
        spans.append((len(prompt), len(prompt) + len(answer)))
    return RenderedConversation(text, spans)


def loss_mask(offsets: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Which tokens are trained on: bool (n,) from the tokens' half-open character ranges (n, 2).

    A token is trained on where its range overlaps a span, so one that crosses into the answer is.
    """
    trained = np.zeros(len(offsets), dtype=bool)
    for start, end in spans:
        trained |= (offsets[:, 0] < end) & (offsets[:, 1] > start)
    return trained


def with_begin_token(template: ChatTemplate, special_tokens: SpecialTokens) -> ChatTemplate:
    """The template, made to write the begin token where the tokenizer uses one and the template writes none.

    Changing the template rather than the tokens keeps training and serving the same, because it is
    exported with the model.
    """
    if special_tokens.begin is None:
        return template
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = _apply(template, special_tokens, probe, generation_prompt=False)
    if text.startswith(special_tokens.begin):
        return template
    return ChatTemplate(template.name, "{{ bos_token }}" + template.source)


def _check_begin(text: str, template: ChatTemplate, special_tokens: SpecialTokens) -> None:
    begin = special_tokens.begin
    if begin is not None and (not text.startswith(begin) or text.startswith(begin + begin)):
        found = "two" if text.startswith(begin) else "none"
        raise ConfigError(
            f"template {template.name}: expected one begin token {begin} at the start of a conversation, "
            f"found {found}; correct the template"
        )


def _apply(
    template: ChatTemplate,
    special_tokens: SpecialTokens,
    messages: Sequence[Message],
    generation_prompt: bool,
) -> str:
    # A quarter of a second, which only those who render need wait for.
    from transformers.utils.chat_template_utils import render_jinja_template

    variables: dict[str, Any] = dict(special_tokens.named)
    try:
        rendered: Any = render_jinja_template(
            [list(messages)],
            chat_template=template.source,
            add_generation_prompt=generation_prompt,
            **variables,
        )
    except TemplateError as error:
        # raise_exception raises the base class; syntax errors and unknown names are its subclasses.
        if type(error) is TemplateError:
            raise TemplateRefusalError(str(error)) from error
        line = f" line {error.lineno}:" if hasattr(error, "lineno") else ""
        raise ConfigError(
            f"template {template.name}:{line} {error}; correct the template"
        ) from error
    return rendered[0][0]  # (texts, what a {% generation %} block marked)
