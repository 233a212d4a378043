"""What `python -m data_prep` does with shard sets: verify, inspect, stats, merge, split, fetch."""
