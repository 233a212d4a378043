"""How well a model does: perplexity, lm-eval's tasks, a probe."""
