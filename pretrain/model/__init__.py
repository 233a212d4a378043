"""The model to train, and its attention."""
