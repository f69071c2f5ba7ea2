"""What a method without a ratio, and a ratio without a method, mean: the same in requests and on every command line."""

KEEP_ALL = "none"  # the method that keeps every token
# GlobalCom2's scores and budgets with a selection that avoids similar tokens: docs/accuracy.md has the comparison.
DEFAULT_METHOD = "globalcom2-diverse"
DEFAULT_RATIO = 0.25  # of a method that needs a ratio and gets none


def chosen_method(method: str | None, ratio: float | None) -> str | None:
    """The method that a command line asks for; None where it names neither a method nor a ratio.

    Raises:
        ValueError: the two contradict each other. The text names the options.
    """
    if method == KEEP_ALL and ratio is not None and ratio != 1:
        raise ValueError(f"--method {KEEP_ALL} keeps every vision token; the ratio {ratio:g} contradicts it")
    if method is None and ratio is not None:
        return DEFAULT_METHOD
    return method
