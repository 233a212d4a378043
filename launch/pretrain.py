"""Continue the pretraining of a model on shard sets, under DeepSpeed ZeRO-3.

deepspeed launch/pretrain.py --config configs/recipe/demo-pretrain.yaml
deepspeed --num_gpus 2 launch/pretrain.py --config FILE --training.steps 100     two ranks, on CPU, too
torchrun --nproc_per_node 8 -- launch/pretrain.py --config FILE      -- : or torchrun takes --run for its own
"""

import sys
from pathlib import Path

# This folder's scripts must not shadow packages; the checkout must be importable without installing.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain.command import end, main

if __name__ == "__main__":
    end(main("pretrain", sys.argv[1:]))
