"""Checkpoints in Hugging Face's format. No other folder of this package imports PyTorch; `names` does not either."""
