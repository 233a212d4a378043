"""Contenders of benchmarks/train.py: each trains the same model on the same batches in a process of its own."""
