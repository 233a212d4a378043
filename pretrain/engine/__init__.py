"""One step: forward, loss, backward, optimizer, under DeepSpeed."""
