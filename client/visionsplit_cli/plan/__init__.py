"""`visionsplit plan`: how many encoders a language model needs, from a short measurement of each.

options.py     its options
images.py      the images that are measured with
services.py    the services that are measured: running ones, or some that it starts, one half after the other
measuring.py   the images per second of one half
sweep.py       both halves at every ratio
groups.py      from the two rates to a group of encoders and language models, its speed and its cost
report.py      the plan as text or as JSON
command.py     the command
"""
