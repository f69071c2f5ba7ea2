"""Limits on a prompt's message. `messages.parse` checks its size in bytes before parsing."""

from visionsplit.errors import InvalidPromptError
from visionsplit.network.transport import MIB
from visionsplit.options.parameters import quoted
from visionsplit.v1 import generation_pb2

# Each turn and each part becomes a Python object and a step of the chat template; this many take about 60 ms.
MAX_TURNS = 1024
MAX_PARTS = 1024  # of all turns together
MAX_ROLE_CHARACTERS = 64
# What the encoder passes on has to fit a message of `MAX_TOKEN_MESSAGE_BYTES` together with the rest of the header.
MAX_PROMPT_BYTES = 3 * MIB


def check_prompt_message(prompt: generation_pb2.Prompt) -> None:
    """Refuse a prompt with too many turns or parts, by counting them before any text is read.

    Raises:
        InvalidPromptError: states their number and the limit.
    """
    turns = prompt.chat.messages
    if len(turns) > MAX_TURNS:
        raise InvalidPromptError(f"the conversation has {len(turns)} turns; at most {MAX_TURNS} are accepted")
    num_parts = sum(len(turn.parts) for turn in turns)
    if num_parts > MAX_PARTS:
        raise InvalidPromptError(f"the conversation has {num_parts} parts; at most {MAX_PARTS} are accepted")
    for turn in turns:
        if len(role := turn.role) > MAX_ROLE_CHARACTERS:
            raise InvalidPromptError(
                f"role {quoted(role)} has {len(role)} characters; at most {MAX_ROLE_CHARACTERS} are accepted"
            )
