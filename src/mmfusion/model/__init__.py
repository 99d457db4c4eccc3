"""The classifier and all its parts: encoders, mapper, fusion strategies, processor.

FLAT: transformers copies the code of a pushed model from one folder, so there are no subfolders,
and nothing here imports from outside this folder (other packages excepted).
"""
