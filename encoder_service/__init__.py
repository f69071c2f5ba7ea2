"""The encoder service: images in, the vision tokens worth keeping out, or the text that the LLM service makes of them.

The folders in the order of the data's path:

api/          the calls: requests checked, answers sent
pipeline/     a request's images, from bytes to a stream of events; images that several calls share are encoded once
images/       an RGB image cut into a thumbnail and crops
caching/      kept tokens of images that may come again
device/       the queue of tiles, and the batches of the vision tower on the device
compression/  which tokens to keep
llm/          the kept tokens sent to an LLM service, and its text relayed
"""
