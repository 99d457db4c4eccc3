"""Training on the Hugging Face Trainer: fit, evaluate, the feature cache of frozen towers, resumption."""
