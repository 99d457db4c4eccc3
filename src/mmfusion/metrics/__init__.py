"""Figures and how certain they are: pure functions, streams, bootstrap intervals, paired tests, the report."""
