"""A question about images."""

from collections.abc import Mapping, Sequence
from typing import Any

from visionsplit_client import (
    Client,
    ClientSecurity,
    Compression,
    DataTypeName,
    PositionIds,
    Pruning,
    Retries,
    Sampling,
)

from visionsplit_batch.runners.base import Work
from visionsplit_batch.steps.base import ANSWER_COLUMNS, PLAIN, RETRIES, Step, answer_columns, image_of


class Caption(Step):
    """Asks about images: `ds.map_batches(Caption, fn_constructor_kwargs={"encoders": ADDRESS}, ...)`.

    Adds the columns `text`, `finish_reason`, `prompt_tokens`, `generated_tokens`, `tokens_before`, `tokens_after`
    (vision tokens without compression, and kept) and `error`.

    Args:
        encoders: addresses of equal encoder services.
        prompt: the question; `{name}` stands for the value of that column, `{{name}}` for the text `{name}`.
        prompt_column: holds a question for each row; rows without one are asked `prompt`.
        image_column: holds paths, URLs, the bytes of image files, {"bytes", "path"}, Pillow images, or arrays
            [H, W], [H, W, 3] or [H, W, 4] of uint8, which `ray.data.read_images` makes.
        in_flight: rows of a batch whose calls run at one time.
        timeout: seconds for one call, with its time in queues; None waits for ever.
        raise_errors: whether a row that fails raises its error, which ends the pipeline.

    Raises:
        ValueError: an option is out of its range.
    """

    columns = ANSWER_COLUMNS

    def __init__(
        self,
        encoders: str | Sequence[str],
        *,
        prompt: str = "Describe the image.",
        prompt_column: str | None = None,
        image_column: str = "image",
        compression: Compression | None = None,
        data_type: DataTypeName | None = None,
        pruning: Pruning | None = None,
        position_ids: PositionIds | None = None,
        sampling: Sampling | None = None,
        in_flight: int = 32,
        timeout: float | None = 600.0,
        security: ClientSecurity = PLAIN,
        retries: Retries = RETRIES,
        raise_errors: bool = False,
    ) -> None:
        work = Work("caption", (prompt,), compression, data_type, pruning, position_ids, sampling, timeout)
        options: dict[str, Any] = {"in_flight": in_flight, "security": security, "retries": retries}
        read = (image_column, prompt_column)
        super().__init__(work, {"encoders": encoders}, read, raise_errors=raise_errors, **options)
        self._image_column = image_column
        self._prompt_column = prompt_column

    def _call(self, client: Client, row: Mapping[str, Any]) -> dict[str, Any]:
        work = self._work
        generation = client.generate(
            image_of(row[self._image_column]),
            self._prompt(row, self._prompt_column),
            compression=work.compression,
            data_type=work.data_type,
            pruning=work.pruning,
            position_ids=work.position_ids,
            sampling=work.sampling,
        )
        return answer_columns(generation)
