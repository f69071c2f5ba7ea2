"""Calculates a group of encoders and language models from the rates of both halves."""

import math
from dataclasses import dataclass

_SECONDS_PER_HOUR = 3600.0
_MILLION = 1_000_000
_GOOD_USE = 0.9  # a smaller group is taken as soon as it wastes less than the rest of it
_LARGEST_GROUP = 256


@dataclass(frozen=True)
class Prices:
    """The prices of a device for an hour, in any currency. With equal prices, a cost is a number of devices."""

    encoder: float = 1.0
    llm: float = 1.0


@dataclass(frozen=True)
class Rate:
    """The work of one half while it was measured."""

    images: int
    seconds: float  # from the first call's start to the last one's end
    services: int  # equal ones that shared the work
    in_flight: int  # calls at once, all services together
    client_busy: float  # share of the time in which the measuring process itself computed; 1 is a whole core

    @property
    def per_second(self) -> float:
        """Images a second of one service."""
        return self.images / self.seconds / self.services


@dataclass(frozen=True)
class Group:
    """Encoders and language models that keep each other busy."""

    encoders: int
    llms: int
    images_per_second: float  # of all of them: the slower half's

    @property
    def encoder_hours(self) -> float:
        """Hours of encoders for a million images."""
        return self._hours(self.encoders)

    @property
    def llm_hours(self) -> float:
        """Hours of language models for a million images."""
        return self._hours(self.llms)

    def cost(self, prices: Prices) -> float:
        """The cost of a million images."""
        return self.encoder_hours * prices.encoder + self.llm_hours * prices.llm

    def _hours(self, devices: int) -> float:
        return devices * _MILLION / self.images_per_second / _SECONDS_PER_HOUR


@dataclass(frozen=True)
class RatioPlan:
    """The measurements at one retention ratio, and what follows from them."""

    ratio: float
    method: str
    encoder: Rate
    llm: Rate
    vision_tokens: float  # that enter the language model for an image, newlines included; a mean, as those below
    prompt_tokens: float  # the same with the prompt's text
    generated_tokens: float
    group: Group

    @property
    def encoders_per_llm(self) -> float:
        """The number of encoders that keep one language model busy."""
        return self.llm.per_second / self.encoder.per_second

    @property
    def shared_rate(self) -> float:
        """Images a second of one device on which both halves take turns."""
        return 1 / (1 / self.encoder.per_second + 1 / self.llm.per_second)


def group_for(encoder_rate: float, llm_rate: float, prices: Prices) -> Group:
    """The smallest group that wastes less than a tenth, by what its devices cost; else the best there is.

    One encoder, or one language model, and as many of the other as fit leave some of the group waiting for the rest.
    Larger groups balance better, so they are tried until nine tenths of the money are used.

    Args:
        encoder_rate: images a second of one encoder.
        llm_rate: of one language model.
        prices: whose waiting is the dearer one.
    """
    ideal = prices.encoder / encoder_rate + prices.llm / llm_rate  # cost of an image if no device ever waited
    best, best_use = None, -math.inf
    for devices in range(2, _LARGEST_GROUP + 1):
        for encoders in range(1, devices):
            llms = devices - encoders
            group = Group(encoders, llms, min(encoders * encoder_rate, llms * llm_rate))
            paid = (encoders * prices.encoder + llms * prices.llm) / group.images_per_second
            use = ideal / paid
            if use > best_use:
                best, best_use = group, use
        if best_use >= _GOOD_USE:
            break
    assert best is not None, "the smallest group has been tried"
    return best
