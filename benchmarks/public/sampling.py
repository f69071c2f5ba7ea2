"""Converts a task's `generation_kwargs` to the services' sampling options."""

from collections.abc import Mapping, Sequence
from typing import Any

from visionsplit_client import Sampling

from benchmarks.public.settings import Stops

# The defaults of lmms-eval's adapter `llava`.
_MAX_NEW_TOKENS = 1024
# Arguments without effect here: sampling follows from the temperature, and the checkpoint decides how images are cut.
_WITHOUT_EFFECT = frozenset({"do_sample", "use_cache", "image_sizes", "image_aspect_ratio"})
_KNOWN = frozenset({"until", "max_new_tokens", "temperature", "top_p", "top_k", "num_beams"})


def sampling_from(arguments: Mapping[str, Any], *, stop: Stops, seed: int) -> Sampling:
    """How a question's answer is decoded: greedily unless the temperature is above 0, whatever `do_sample` says.

    So reads lmms-eval's adapter `llava`. MM-Vet, whose task has a temperature of 0.2 beside do_sample false, is
    therefore sampled; `--gen_kwargs temperature=0` makes it greedy. Here a seed makes it repeatable.

    Raises:
        ValueError: beam search, or an argument that is not known.
    """
    if unknown := sorted(set(arguments) - _KNOWN - _WITHOUT_EFFECT):
        raise ValueError(f"generation arguments {', '.join(unknown)} are not known; {', '.join(sorted(_KNOWN))} are")
    if (arguments.get("num_beams") or 1) != 1:
        raise ValueError(f"num_beams is {arguments['num_beams']}; the services do not search by beams")
    tokens = int(arguments.get("max_new_tokens") or _MAX_NEW_TOKENS)
    strings = _strings(arguments.get("until")) if stop == "until" else ()
    temperature = float(arguments.get("temperature") or 0.0)
    if temperature <= 0:
        return Sampling(max_new_tokens=tokens, temperature=0.0, stop=strings)
    top_p, top_k = arguments.get("top_p"), arguments.get("top_k")
    return Sampling(
        max_new_tokens=tokens,
        temperature=temperature,
        top_p=None if not top_p else float(top_p),
        top_k=None if not top_k else int(top_k),
        seed=seed,
        stop=strings,
    )


def _strings(until: str | Sequence[str] | None) -> tuple[str, ...]:
    several = [until] if isinstance(until, str) else until or ()
    return tuple(str(one) for one in several if one)
