"""The encoder service: images in, the vision tokens worth keeping out, or the text that the LLM service makes of them.

The data's path: `service` (checked request) -> `admission` (room) -> `image`, `pixels` (upright RGB) -> `tiles`
(thumbnail and crops) -> `jobs`, `batching` (the device's queue) -> `encoding`: `vision_tower` (features and scores),
`compression` (positions to keep), `tokens_out` (the wire's format) -> `pipeline` (events) -> `relay`, `llm_client`
(chunks to the LLM service, text back) or straight to the caller.
"""
