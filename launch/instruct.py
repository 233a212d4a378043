"""Tune a model on instruction shards: the same trainer, with the loss mask that the shards carry.

deepspeed launch/instruct.py --config configs/recipe/demo-instruct.yaml
deepspeed --num_gpus 2 launch/instruct.py --config FILE --training.steps 100     two ranks, on CPU, too
torchrun --nproc_per_node 8 launch/instruct.py --config FILE
"""

import sys
from pathlib import Path

# This folder's scripts must not shadow packages; the checkout must be importable without installing.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain.command import end, main

if __name__ == "__main__":
    end(main("instruct", sys.argv[1:]))
