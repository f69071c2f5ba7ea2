"""Kept tokens that are kept once more: an image that comes again is neither decoded nor encoded.

key.py      under which name an image's tokens are kept, and who may share them
entry.py    the tokens of one image, and what of them a request gets
memory.py   those used last, in memory
disk.py     those used last, in a folder
tokens.py   both of them, as the pipeline sees them
"""
