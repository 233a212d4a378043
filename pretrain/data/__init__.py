"""Packed rows of shard sets to the tensors of a rank, step after step."""
