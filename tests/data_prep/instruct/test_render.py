"""Templates and masks: an answer and its end token are learned, nothing else is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import ConfigError
from data_prep.instruct.chat_tokenizer import TEMPLATES
from data_prep.instruct.render import (
    ChatTemplate,
    SpecialTokens,
    TemplateRefusalError,
    loss_mask,
    render,
    with_begin_token,
)

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
SPECIAL = SpecialTokens(NAMED, ("</s>", "<s>", "<|im_end|>", "<|im_start|>"), None)
BEGINS = SpecialTokens(NAMED, SPECIAL.texts, "<s>")
TALK = [
    {"role": "user", "content": "What is\n\naspirin?"},
    {"role": "assistant", "content": "A drug.\n"},
    {"role": "user", "content": "And 高血压?"},
    {"role": "assistant", "content": "Hypertension 🙂"},
]
SYSTEM = {"role": "system", "content": "Be brief."}
SHIPPED = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
STOP = {"alpaca": "</s>", "chatml": "<|im_end|>", "plain": "</s>"}


def shipped(name: str) -> ChatTemplate:
    return ChatTemplate(name, (TEMPLATES / f"{name}.jinja").read_text())


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("messages", [TALK, TALK[:2], [SYSTEM, *TALK]])
def test_each_span_is_the_answer_and_its_end_token(name: str, messages: list) -> None:
    rendered = render(messages, shipped(name), SPECIAL)
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    assert [rendered.text[start:end] for start, end in rendered.spans] == [
        answer + STOP[name] for answer in answers
    ]
    for message in messages:
        assert message["content"] in rendered.text


@pytest.mark.parametrize("name", SHIPPED)
def test_one_begin_token_is_written_where_the_tokenizer_uses_one(name: str) -> None:
    template = with_begin_token(shipped(name), BEGINS)
    rendered = render(TALK, template, BEGINS)
    assert rendered.text.startswith("<s>")
    assert rendered.text.count("<s>") == 1
    assert with_begin_token(template, BEGINS) == template
    assert with_begin_token(shipped(name), SPECIAL) == shipped(name)


def test_alpaca_has_the_wording_that_models_of_the_field_were_tuned_on() -> None:
    question = {"role": "user", "content": "Sort.\n\nb a", "instruction": "Sort.", "input": "b a"}
    answer = {"role": "assistant", "content": "a b"}
    assert render([question, answer], shipped("alpaca"), SPECIAL).text == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort.\n\n### Input:\nb a\n\n### Response:a b</s>"
    )
    question = {"role": "user", "content": "Sort b a."}
    assert render([question, answer], shipped("alpaca"), SPECIAL).text == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nSort b a.\n\n### Response:a b</s>"
    )


def test_a_template_that_rewrites_earlier_turns_is_refused_by_name_and_turn() -> None:
    # As reasoning models do: what an answer began with is left out once another turn follows.
    forgetful = (
        "{% for m in messages %}{{ m.role }}: "
        "{{ m.content if loop.last else m.content[:3] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(ConfigError, match=r"template forgetful: turn 2: .* changes"):
        render(TALK, ChatTemplate("forgetful", forgetful), SPECIAL)


def test_a_template_without_an_end_of_turn_token_is_refused() -> None:
    endless = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(ConfigError, match=r"template endless: turn 2: .* never learn to stop"):
        render(TALK, ChatTemplate("endless", endless), SPECIAL)


def test_two_begin_tokens_are_refused() -> None:
    doubled = "{{ bos_token }}{{ bos_token }}" + shipped("plain").source
    with pytest.raises(ConfigError, match=r"expected one begin token <s> .* found two"):
        render(TALK, ChatTemplate("doubled", doubled), BEGINS)


def test_a_template_may_refuse_a_conversation_and_may_not_be_broken() -> None:
    strict = ChatTemplate(
        "strict",
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        + shipped("plain").source,
    )
    assert render(TALK, strict, SPECIAL).spans
    with pytest.raises(TemplateRefusalError, match="no system turn"):
        render([SYSTEM, *TALK], strict, SPECIAL)
    with pytest.raises(ConfigError, match="template broken: line 1:"):
        render(TALK, ChatTemplate("broken", "{% if %}"), SPECIAL)


def test_a_token_is_trained_on_where_it_overlaps_an_answer() -> None:
    #        prompt  crosses  inside  crosses out  after   empty
    offsets = [(0, 3), (3, 6), (6, 8), (8, 11), (11, 12), (5, 5)]
    mask = loss_mask(np.array(offsets), [(5, 10)])
    expected = [bool(set(range(start, end)) & set(range(5, 10))) for start, end in offsets]
    assert mask.tolist() == expected == [False, True, True, True, False, False]
    assert loss_mask(np.array([(0, 5), (10, 12)]), [(5, 10)]).tolist() == [False, False]


def test_rendering_needs_no_torch() -> None:
    program = (
        "import sys, data_prep.instruct.sets; "
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)
