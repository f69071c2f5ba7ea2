"""Compares visionsplit with what people run today: vLLM serving the whole model, and a `generate` loop.

plan.py           what is measured: contestants, shares of the tokens, loads, and in which order
inputs.py         the checkpoints, images and questions, the same for all
contestants.py    the contestants: how they start, and how one question is asked
vllm_server.py    vLLM's OpenAI-compatible server with the whole model; `vllm_startup` is for its environment
generate_loop.py  the transformers library's `generate`, in a separate process
watching.py       memory, processor time and loopback bytes of a contestant
measuring.py      runs the plan and saves every part
results.py        the saved parts, and the figures computed from them
report.py, page.md, plots.py   the page: tables, sentences and plots
"""
