"""A question about vision tokens."""

from collections.abc import Mapping
from typing import Any

from visionsplit_client import (
    Client,
    ClientSecurity,
    EncodedImage,
    InvalidTokensError,
    PositionIds,
    Pruning,
    Retries,
    Sampling,
)

from visionsplit_batch.runners.base import Work
from visionsplit_batch.steps.base import ANSWER_COLUMNS, PLAIN, RETRIES, Step, answer_columns


class Ask(Step):
    """Asks about vision tokens that `Encode` made: adds the columns of `Caption`, whose arguments it takes.

    Args:
        llm: the LLM service's address.
        tokens_column: holds the bytes.
    """

    columns = ANSWER_COLUMNS

    def __init__(
        self,
        llm: str,
        *,
        prompt: str = "Describe the image.",
        prompt_column: str | None = None,
        tokens_column: str = "tokens",
        pruning: Pruning | None = None,
        position_ids: PositionIds | None = None,
        sampling: Sampling | None = None,
        in_flight: int = 32,
        timeout: float | None = 600.0,
        security: ClientSecurity = PLAIN,
        retries: Retries = RETRIES,
        raise_errors: bool = False,
    ) -> None:
        work = Work("ask", (prompt,), None, None, pruning, position_ids, sampling, timeout)
        options: dict[str, Any] = {"in_flight": in_flight, "security": security, "retries": retries}
        super().__init__(work, {"llm": llm}, (tokens_column, prompt_column), raise_errors=raise_errors, **options)
        self._tokens_column = tokens_column
        self._prompt_column = prompt_column

    def _call(self, client: Client, row: Mapping[str, Any]) -> dict[str, Any]:
        if not (tokens := row[self._tokens_column]):
            raise InvalidTokensError("the row has no vision tokens")
        generation = client.generate_from_tokens(
            EncodedImage.from_bytes(tokens),
            self._prompt(row, self._prompt_column),
            pruning=self._work.pruning,
            position_ids=self._work.position_ids,
            sampling=self._work.sampling,
        )
        return answer_columns(generation)
