"""Speed as a ratio against a peer in the same run; results are kept in docs/benchmarks.md."""
