"""What a checkpoint itself says about decoding, as Hugging Face's greedy `generate` follows it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from visionsplit.families.checkpoint import Checkpoint, CheckpointError
from visionsplit.options.sampling import PENALTY_RANGE

# Settings that change a greedy answer and that the engine cannot follow, with the values at which they change nothing;
# null never does. Not here: what only sampling reads (temperature, top_p, top_k and the like; the default of a request
# is greedy whatever do_sample says), what a request always says itself (max_length, max_new_tokens), and what only
# encoder-decoder models or the form of the output depend on.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "custom_generate": (),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_decoder_ids": ([],),
    "forced_eos_token_id": ([],),
    "guidance_scale": (1,),
    "max_time": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (False,),
    "sequence_bias": ({}, []),
    "stop_strings": ([],),
    "suppress_tokens": ([],),
    "token_healing": (False,),
    "watermarking_config": (),
}


@dataclass(frozen=True)
class GenerationSettings:
    """The checkpoint's part in decoding."""

    end_ids: tuple[int, ...]  # that end an answer; maybe none
    repetition_penalty: float  # of requests that name none

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "GenerationSettings":
        """Read generation_config.json; only where there is none, the settings among those of config.json.

        Raises:
            CheckpointError: a setting would change the answers and cannot be followed, or makes no sense.
        """
        settings = _read(checkpoint)
        for name, neutral in _NEUTRAL.items():
            value = settings.get(name)
            if value is not None and value not in neutral:
                raise CheckpointError(
                    f"checkpoint {checkpoint.name!r} is to be decoded with {name} = {value!r}, which is not supported; "
                    "its answers would differ"
                )
        return cls(_end_ids(settings, checkpoint), _repetition_penalty(settings, checkpoint))


def _read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    try:
        return _json_object(checkpoint, "generation_config.json")
    except OSError:
        # The text model's settings, where the whole model's say nothing.
        config = _json_object(checkpoint, "config.json")
        whole = {name: value for name, value in config.items() if value is not None}
        return {**(config.get("text_config") or {}), **whole}


def _json_object(checkpoint: Checkpoint, file: str) -> dict[str, Any]:
    try:
        settings = json.loads(checkpoint.file(file).read_text())
    except ValueError as error:
        raise CheckpointError(f"{file} of checkpoint {checkpoint.name!r} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file} of checkpoint {checkpoint.name!r} is not an object")
    return settings


def _end_ids(settings: Mapping[str, Any], checkpoint: Checkpoint) -> tuple[int, ...]:
    value = settings.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) for token in ids):
        raise CheckpointError(f"checkpoint {checkpoint.name!r} has eos_token_id {value!r}; token ids are needed")
    return tuple(ids)


def _repetition_penalty(settings: Mapping[str, Any], checkpoint: Checkpoint) -> float:
    value = settings.get("repetition_penalty")
    if value is None:
        return 1.0
    low, high = PENALTY_RANGE
    if not (isinstance(value, int | float) and math.isfinite(value) and low <= value <= high):
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r} has repetition_penalty {value!r}; {low} to {high} is possible"
        )
    return float(value)
