"""What is done to an image's vision tokens, as one word of a command line.

`training.evaluation` reads the same words, so that what an image shows can be scored under the same name.
"""

from visionsplit.options.conditions import compression_words, split_condition
from visionsplit_client import Compression, Layout


def parse_condition(text: str, layout: Layout = "spatial") -> Compression:
    """Read "none", "globalcom2@0.25" or "globalcom2:score=local,tau=5@0.1".

    The names score, budget, selection, merging, guidance and layout mean the choices of a request; any other is a
    numeric parameter. Whether they exist is for the encoder to say. A guidance here can hold no comma and no @.

    Args:
        text: the word.
        layout: where the text names none.

    Raises:
        ValueError: the text has another form, or goes on with pruning in the language model, behind a plus: what that
            keeps depends on the question.
    """
    word, pruning = split_condition(text)
    if pruning is not None:
        raise ValueError(f"{text!r} prunes in the language model; only what the encoder keeps can be shown")
    return word.compression(layout)


def condition_name(compression: Compression) -> str:
    """The word for it, without the ratio."""
    settings = [f"{name}={value}" for name, value in compression_words(compression).items()]
    settings += [f"{name}={value:g}" for name, value in compression.parameters.items()]
    return compression.method + (f":{','.join(settings)}" if settings else "")
