"""A cache of kept tokens: a repeated image is neither decoded nor encoded.

key.py      the name under which an image's tokens are cached, and the requests that may share them
entry.py    the cached tokens of one image, and the part of them that a request receives
memory.py   the most recently used entries, in memory
disk.py     the most recently used entries, in a folder
tokens.py   both tiers together, as the pipeline uses them
"""
