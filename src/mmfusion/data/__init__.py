"""Samples before they reach a model: manifests, leak-safe splits, the audit, the collator, toy data."""
