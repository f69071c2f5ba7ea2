"""The calls of EncoderService: what a request must look like, and what the caller is sent."""
