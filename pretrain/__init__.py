"""Shards in, checkpoints out: continued pretraining and instruction tuning under DeepSpeed ZeRO-3."""
