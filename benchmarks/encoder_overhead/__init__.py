"""Compares the encoder as a process with its bare vision tower, in tiles per second on one machine's CPU.

bare.py     the tower alone, the limits that follow from it, and the CPU time of each stage; in a separate process
served.py   the encoder as its users start it, and callers that keep it busy
report.py   the tables
"""
