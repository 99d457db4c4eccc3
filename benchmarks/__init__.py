"""How fast the library is, beside its peers, in one run on one machine; `python -m benchmarks --help`."""
