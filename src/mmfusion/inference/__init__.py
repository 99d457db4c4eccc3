"""A trained classifier at work: streams of samples, compiled graphs, exported graphs, explanations."""
