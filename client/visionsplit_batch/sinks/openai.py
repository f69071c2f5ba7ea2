"""Lines in the format of OpenAI's batch results, https://platform.openai.com/docs/guides/batch."""

import hashlib
from collections.abc import Iterable
from http import HTTPStatus
from typing import IO, Any

from visionsplit import errors

from visionsplit_batch.rows.fields import plain_text
from visionsplit_batch.rows.part_state import FailedRow
from visionsplit_batch.rows.records import Record
from visionsplit_batch.rows.rows import Failure
from visionsplit_batch.sinks.base import AnswersSink, json_line

# Looked up along an error's class hierarchy.
_STATUS_OF: dict[type[Exception], int] = {
    errors.InvalidRequestError: HTTPStatus.BAD_REQUEST,
    errors.UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    errors.OverloadedError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DeadlineError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.VisionSplitError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class OpenAiSink(AnswersSink):
    """Writes a line per row. `custom_id` is the row's id; the answers to several questions are its choices.

    `created` is 0, and ids are derived from the run and the row, so that a resumed run writes the same lines.
    """

    suffix = ".jsonl"

    def _write(self, file: IO[bytes], rows: Iterable[Record]) -> None:
        for record in rows:
            body = {
                "id": f"chatcmpl-{_digest(record.id, record.run)}",
                "object": "chat.completion",
                "created": 0,
                "model": record.model,
                "choices": _choices(record),
                "usage": _usage(record),
            }
            file.write(_line(record.id, record.run, HTTPStatus.OK, body))

    def failure_line(self, row: FailedRow) -> bytes:
        status = status_of(row.failure)
        kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        error = {"message": plain_text(row.failure.message), "type": kind, "param": None, "code": row.failure.error}
        return _line(plain_text(row.id), self._labels.run, status, {"error": error})


def status_of(failure: Failure) -> int:
    """The HTTP status for a failure's class; a row that cannot be read is an error of the request."""
    if failure.stage == "read":
        return HTTPStatus.BAD_REQUEST
    name = failure.error if failure.error in errors.__all__ else "InternalError"
    cls: type[errors.VisionSplitError] = getattr(errors, name)
    return next(_STATUS_OF[base] for base in cls.__mro__ if base in _STATUS_OF)


def _line(row_id: str, run: str, status: int, body: dict[str, Any]) -> bytes:
    digest = _digest(row_id, run)
    return json_line(
        {
            "id": f"batch_req_{digest}",
            "custom_id": row_id,
            "response": {"status_code": int(status), "request_id": digest, "body": body},
            "error": None,
        }
    )


def _digest(row_id: str, run: str) -> str:
    return hashlib.sha256(f"{run}\0{row_id}".encode()).hexdigest()[:32]


def _choices(record: Record) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": None,
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(record.answers)
    ]


def _usage(record: Record) -> dict[str, int]:
    prompt = sum(answer.prompt_tokens for answer in record.answers)
    generated = sum(answer.generated_tokens for answer in record.answers)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
