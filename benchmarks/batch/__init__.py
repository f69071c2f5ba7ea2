"""Compares `visionsplit batch caption` with a hand-written loop, in images per second on one machine's CPU.

inputs.py   the images, and a random checkpoint of LLaVA-NeXT's proportions
loop.py     the loop, which runs in a separate process
jobs.py     the services and the batch command, as their users start them
report.py   the table, and what must hold

memory.py   another question, by itself: whether a long job's memory grows
"""
