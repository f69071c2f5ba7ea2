"""Decoding options in vLLM's form."""

from collections.abc import Sequence

from visionsplit.errors import InvalidSamplingError
from visionsplit.options.sampling import ResolvedSampling
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

# vLLM raises a temperature between 0 and 0.01 to 0.01. Below this value a sample is the most probable token.
_GREEDY_BELOW = 1e-3
_MOST_TEMPERATURE = 2.0
_MOST_TOP_K = 2**31 - 1


def sampling_params(sampling: ResolvedSampling, *, end_ids: Sequence[int]) -> SamplingParams:
    """Parameters of one request. Stop strings are the gateway's; `end_ids` are the checkpoint's, and are sent.

    Raises:
        InvalidSamplingError: vLLM does not take the temperature.
    """
    greedy = sampling.temperature < _GREEDY_BELOW or sampling.top_k == 1
    if not greedy and sampling.temperature > _MOST_TEMPERATURE:
        raise InvalidSamplingError(
            f"temperature {sampling.temperature:g} is more than {_MOST_TEMPERATURE:g}, the highest with --engine vllm"
        )
    return SamplingParams(
        max_tokens=sampling.max_new_tokens,
        temperature=0.0 if greedy else sampling.temperature,
        top_p=sampling.top_p,
        top_k=min(sampling.top_k, _MOST_TOP_K),
        # Each seeded request draws separately, which takes time. A greedy one draws nothing.
        seed=None if greedy else sampling.seed,
        repetition_penalty=sampling.repetition_penalty,
        stop_token_ids=list(end_ids),
        ignore_eos=True,  # what vLLM itself would read from the checkpoint
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
