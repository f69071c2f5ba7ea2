"""Checks a request's decoding options."""

import math
import secrets
from dataclasses import dataclass

from visionsplit.errors import InvalidSamplingError
from visionsplit.v1 import generation_pb2

from llm_service.job import PENALTY_RANGE, SamplingOptions

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256


@dataclass(frozen=True)
class Decoding:
    """How to decode one request: the replica's part and the gateway's."""

    options: SamplingOptions
    stop: tuple[str, ...]


def decoding_from_proto(
    message: generation_pb2.Sampling, *, default_max_new_tokens: int, default_repetition_penalty: float
) -> Decoding:
    """Check the ranges and fill in what is absent. Without a seed one is drawn.

    Raises:
        InvalidSamplingError: names the option, its value and its range.
    """
    temperature, top_p, penalty = message.temperature, 1.0, default_repetition_penalty
    if message.HasField("top_p"):
        top_p = message.top_p
    if message.HasField("repetition_penalty"):
        penalty = message.repetition_penalty
    _require(math.isfinite(temperature) and temperature >= 0, f"temperature {temperature} is not 0 or more")
    _require(0 < top_p <= 1, f"top_p {top_p} is not in (0, 1]")
    lowest, highest = PENALTY_RANGE
    _require(lowest <= penalty <= highest, f"repetition_penalty {penalty} is not in [{lowest:g}, {highest:g}]")
    _require(len(message.stop) <= MAX_STOP_STRINGS, f"{len(message.stop)} stop strings; at most {MAX_STOP_STRINGS}")
    for stop in message.stop:
        _require(
            0 < len(stop) <= MAX_STOP_CHARACTERS,
            f"stop string of {len(stop)} characters; 1 to {MAX_STOP_CHARACTERS} are possible",
        )
    options = SamplingOptions(
        max_new_tokens=message.max_new_tokens or default_max_new_tokens,
        temperature=temperature,
        top_k=message.top_k,
        top_p=top_p,
        repetition_penalty=penalty,
        seed=message.seed if message.HasField("seed") else secrets.randbits(64),
    )
    return Decoding(options, tuple(message.stop))


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise InvalidSamplingError(otherwise)
