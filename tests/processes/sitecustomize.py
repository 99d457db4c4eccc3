"""Read by every process that a test starts: tests/conftest.py names this folder in PYTHONPATH.

Searching the objects of torch and transformers for garbage takes 2 of the 6 seconds in which a
process imports the classifier and exits.
"""

import atexit
import gc

gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)
