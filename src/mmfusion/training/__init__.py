"""Training on the Hugging Face Trainer: fit, evaluate, resume, and cache frozen towers."""
