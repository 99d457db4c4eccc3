"""The use of a trained classifier: streams, compiled graphs, exported graphs and explanations."""
