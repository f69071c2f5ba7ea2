"""Prompts to token ids, within limits and with callers taking turns, and generated token ids to text."""
