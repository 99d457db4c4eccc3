"""The samples, before they reach a model.

Here are the manifest and its tables, the splits without leaks, the audit of a data set, the
collator with its augmentation, and made-up samples to try things on.
"""
