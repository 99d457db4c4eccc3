"""The metrics and their uncertainty.

Here are the metrics as pure functions and as classes for streams of batches, the bootstrap
intervals, the paired tests of two models, and the report of all metrics.
"""
