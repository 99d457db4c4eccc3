"""The benchmarks: the library and its peers, timed in one run on one machine.

`python -m benchmarks --help` lists the options.
"""
