"""Prompts to token ids, within bounds and by turns, and generated token ids to text."""
