"""torch.compile of what decoder layers are made of: the code of one layer serves them all.

Under ZeRO-3 DeepSpeed gathers each module's weights in hooks, which no graph can hold. So there are
several small graphs a layer, of what lies between its linear layers (norms, rotations, activations),
whatever the number of layers. Compiled are a layer's parts (norms, attention, MLP), not the layer or
the model: transformers 5.23 checkpoints activations inside a layer's forward, and torch compiles nothing
through that. A module's own `compile` leaves parameters their names, so that checkpoints and exports know
nothing of it.
"""

import os
import shutil

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from data_prep.errors import ConfigError

# torch gives up a function, with a warning, when it has compiled it so often.
VARIANTS = 16  # with and without gradients, shapes of micro-batches and the like, of one layer


def check_compiler() -> None:
    """Raise ConfigError without a C++ compiler, which torch and triton call."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"training.compile: torch compiles by means of a C++ compiler, and found no {compiler}; install it, "
            "name another one in the environment variable CXX, or leave compile out"
        )


def compile_layers(model: nn.Module) -> int:
    """Compile the parts of every decoder layer of a transformers model, after deepspeed.initialize; how many.

    A shape that changes, such as that of the documents' borders, is compiled a second time for any size.
    So that those of micro-batches stay as they are, call the model under
    torch.compiler.set_stance("force_eager") for others.
    """
    # Or else its hooks are compiled too, until torch gives up for their number (torch 2.13, deepspeed 0.19.8).
    torch._dynamo.trace_rules.add("deepspeed")
    layers = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    # GPT-2 that scales attention by its layer's index is another function in each layer.
    torch._dynamo.config.recompile_limit = len(layers) + VARIANTS
    parts = [part for layer in layers for part in layer.children()]
    for part in parts:
        part.compile()
    return len(parts)
