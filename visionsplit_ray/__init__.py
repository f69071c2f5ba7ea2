"""Encoder services as a pool of Ray actors, beside the LLM service's replicas on Ray Serve.

scaling.py        when the pool grows or shrinks
gpus.py           how encoders and replicas share GPUs
encoder_actor.py  one encoder service as a Ray actor
encoder_pool.py   starts the actors, watches them, and knows their addresses
server.py         the LLM service with such a pool
__main__.py       the same as a command, which `visionsplit up` starts
"""
