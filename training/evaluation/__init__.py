"""Measures how well a model answers questions about the held-out scenes, and how much of it each compression keeps.

`conditions` (what is done to the vision tokens) -> `in_process` or `system` (who answers) -> `results` (what was
answered) -> `summary`, `statistics` (scores and their intervals) -> `tables` (Markdown). In process an image's path is
`tiled_images` -> `vision` -> `decoding`. `python -m training.evaluation` runs it.
"""
