"""Continuations of a few prompts by each model, greedy and sampled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from data_prep.errors import ConfigError
from data_prep.files import digest


def generate(
    folder: Path, prompts: Sequence[str], seed: int, new_tokens: int
) -> list[dict[str, Any]]:
    """For each prompt {"prompt", "greedy", "sampled"}: the text that follows it.

    Sampling is from the whole distribution at temperature 1, seeded by `seed` and the prompt itself, so that
    a prompt more or less changes no other, and two prompts do not draw the same numbers. A tokenizer with a chat template gets the prompt as a user's message. Of a
    prompt too long for the model's context its end is used. Raises ConfigError where `new_tokens` leaves
    no room for a prompt.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    context = model.config.max_position_embeddings
    if new_tokens >= context:
        raise ConfigError(
            f"new_tokens: {new_tokens} leaves no room for a prompt in the context of {folder}, which has "
            f"{context} tokens; give fewer"
        )
    # The model's own file may set sampling options; what is shown is said on the page.
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        max_new_tokens=new_tokens,
    )
    generated = []
    for prompt in prompts:
        ids = _encode(tokenizer, prompt)[:, new_tokens - context :].to(model.device)
        answers = {}
        for how, options in (("greedy", {"do_sample": False}), ("sampled", _FREELY)):
            torch.manual_seed(int(digest([seed, prompt])[:15], 16))
            with torch.inference_mode():
                written = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0]
            answers[how] = tokenizer.decode(written[ids.shape[1] :], skip_special_tokens=True)
        generated.append({"prompt": prompt, **answers})
    return generated


_FREELY = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


def _encode(tokenizer: Any, prompt: str) -> torch.Tensor:
    if tokenizer.chat_template is None:
        return tokenizer(prompt, return_tensors="pt")["input_ids"]
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )["input_ids"]
