"""Callers that break the rules, each beside one that keeps them."""

from tests.fuzzing.attacks.connections import CONNECTION_ATTACKS
from tests.fuzzing.attacks.images import IMAGE_ATTACKS
from tests.fuzzing.attacks.messages import COMPRESSED, MESSAGE_ATTACKS
from tests.fuzzing.attacks.prompts import PROMPT_ATTACKS
from tests.fuzzing.attacks.unfinished import UNFINISHED_ATTACKS
from tests.fuzzing.attacks.watchers import OTHER_ATTACKS

ATTACKS = (
    *MESSAGE_ATTACKS,
    COMPRESSED,
    *PROMPT_ATTACKS,
    *UNFINISHED_ATTACKS,
    *IMAGE_ATTACKS,
    *OTHER_ATTACKS,
    *CONNECTION_ATTACKS,
)
