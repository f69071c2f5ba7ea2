"""`visionsplit plan`: how many encoders a language model needs, from a short measurement of each.

pictures.py    what is measured with
services.py    services that run, or services of its own, one half after the other
measuring.py   images per second of one half
sweep.py       both halves at every ratio
shapes.py      from two rates to a group of encoders and language models, its speed and its cost
report.py      as tables with plain words, or as JSON
options.py     the command line
command.py     the command
"""
