"""How many bytes of vision tokens all calls together may hold."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from visionsplit.errors import OverloadedError
from visionsplit.fairness import Shares
from visionsplit.overload import Drain


class UploadRoom:
    """Room for tokens, from before they come until their call ends. Used from one event loop."""

    def __init__(self, max_bytes: int, share: float) -> None:
        self._shares = Shares(max_bytes, share)
        self._drain = Drain()

    @contextmanager
    def call(self, caller: str) -> Iterator[Callable[[int], None]]:
        """Gives a function that reserves so many bytes for the length of the call.

        It raises:
            OverloadedError: they are not there; without a time after which to ask again if they never will be.
        """
        held = 0

        def reserve(num_bytes: int) -> None:
            nonlocal held
            shares = self._shares
            if held + num_bytes > shares.limit:
                raise OverloadedError(
                    f"the vision tokens take {held + num_bytes} bytes; at most {shares.limit} are held"
                )
            if not shares.fits(caller, num_bytes):
                raise OverloadedError(
                    f"{shares.taken} bytes of vision tokens are held; {num_bytes} more are too many",
                    self._drain.retry_after(num_bytes),
                )
            shares.take(caller, num_bytes)
            held += num_bytes

        try:
            yield reserve
        finally:
            if held:
                self._drain.note(held, busy=self._shares.taken > held)
                self._shares.give_back(caller, held)
