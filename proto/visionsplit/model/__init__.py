"""Checkpoints in Hugging Face's format. The only folder of this package that imports PyTorch."""
