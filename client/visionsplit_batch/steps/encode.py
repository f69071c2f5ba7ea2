"""The vision tokens of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from visionsplit_client import (
    Client,
    ClientSecurity,
    Compression,
    DataTypeName,
    Retries,
)

from visionsplit_batch.runners.base import Work
from visionsplit_batch.steps.base import COUNTS, PLAIN, RETRIES, Step, image_of


class Encode(Step):
    """Encodes images: adds `tokens` (bytes that `EncodedImage.from_bytes` and `Ask` read), `tokens_before`,
    `tokens_after` and `error`. The arguments are those of `Caption`.
    """

    columns: Mapping[str, pa.DataType] = {"tokens": pa.large_binary(), **COUNTS}

    def __init__(
        self,
        encoders: str | Sequence[str],
        *,
        image_column: str = "image",
        compression: Compression | None = None,
        data_type: DataTypeName | None = None,
        in_flight: int = 32,
        timeout: float | None = 600.0,
        security: ClientSecurity = PLAIN,
        retries: Retries = RETRIES,
        raise_errors: bool = False,
    ) -> None:
        work = Work("encode", compression=compression, data_type=data_type, timeout=timeout)
        options: dict[str, Any] = {"in_flight": in_flight, "security": security, "retries": retries}
        super().__init__(work, {"encoders": encoders}, (image_column,), raise_errors=raise_errors, **options)
        self._image_column = image_column

    def _call(self, client: Client, row: Mapping[str, Any]) -> dict[str, Any]:
        image = image_of(row[self._image_column])
        encoded = client.encode(image, self._work.compression, data_type=self._work.data_type)
        summary = encoded.summary
        counts = {"tokens_before": summary.tokens_before, "tokens_after": summary.tokens_after}
        return {"tokens": encoded.to_bytes(), **counts}
