"""The cost of an image with and without compression: operations, tokens, caches, time, memory, images per second.

flops.py       operations of a prefill: the published closed form beside a count of the real modules' products
operations.py  the tables of these, which no machine changes
shapes.py      the models that are measured, with random weights where none ship
conditions.py  the rows: methods and ratios
encoding.py, language.py, pipeline.py, clock.py    one image through the services' own parts, timed
measure.py, tables.py                              rows from several images, and their Markdown
"""
