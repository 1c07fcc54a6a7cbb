"""Training: `fit`, and models that are only used in training."""
