"""The LLM service: vision tokens and a prompt in, text out.

The folders in the order of the data's path:

gateway/   the calls: uploads received and checked, text sent
prompts/   prompts to token ids, and token ids to text
backends/  where replicas run: in this process, or on Ray Serve
replica/   one copy of the language model: vision tokens projected and laid out in the prompt
engines/   decoding: continuous batching, or layer by layer
pruning/   which vision tokens to drop between layers
"""
