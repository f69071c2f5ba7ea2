"""Images a second of `visionsplit batch caption` beside those of a hand-written loop, on the CPU of one machine.

inputs.py   the pictures, and a random checkpoint of LLaVA-NeXT's proportions
loop.py     the loop, a process of its own
jobs.py     the services and the batch command, as their users start them
report.py   the table, and what must hold

memory.py   another question, by itself: whether a long job's memory grows
"""
