"""From a step to its documents and back."""
