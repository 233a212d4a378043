"""A model goes on with an extended vocabulary: new embeddings are the means of their old pieces' ones.

Under ZeRO-3 as well, on any number of ranks: the embeddings alone are whole on a rank for that moment.
"""

import deepspeed
import torch
from transformers import PreTrainedModel

from data_prep.tokenizer.extension import Extension


def extend_vocabulary(model: PreTrainedModel, extension: Extension, size: int) -> None:
    """Give the model `size` entries, in input and output, and the new ones of the extension their means.

    Rows of padding that the model already had become new entries too.
    """
    if size > model.config.vocab_size:
        # Its own ways to fill new rows are random; these are all written below.
        model.resize_token_embeddings(size, mean_resizing=False)
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    found = [getattr(module, name, None) for module in modules for name in ("weight", "bias")]
    # Tied input and output are one parameter.
    parameters = list({id(one): one for one in found if one is not None}.values())
    for parameter in parameters:
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            fill(parameter.data, extension)


def fill(rows: torch.Tensor, extension: Extension) -> None:
    """Write the mean of old rows, taken in fp32, into each new row of (size, ...) embeddings."""
    for index, ids in enumerate(extension.pieces, start=extension.base_size):
        rows[index] = rows[ids].float().mean(0)
