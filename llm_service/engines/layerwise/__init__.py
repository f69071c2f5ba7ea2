"""Decoding layer by layer, for requests that continuous batching cannot serve.

`model.LayerwiseModel` runs a prompt and its answer; `engine.LayerwiseEngine` serves requests with it. This file imports
nothing, because the model needs less of the transformers library than the engine does.
"""
