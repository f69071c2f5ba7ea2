"""Decoding layer by layer, for what continuous batching cannot do.

`model.LayerwiseModel` runs a prompt and its answer by itself; `engine.LayerwiseEngine` serves requests with it.
Nothing is imported here: the model needs less of the transformers library than the engine does.
"""
