"""The LLM service: vision tokens and a prompt in, text out.

The data's path: `upload` (checked request) -> `prompt` (token ids) -> `backends` (a replica) -> `projector` (vision
tokens) -> `layout` (order and newlines) -> `engines` (token ids) -> `text` (characters) -> `gateway` (the stream).
"""
