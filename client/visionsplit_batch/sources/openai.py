"""Batch files in OpenAI's format: one chat completion per line."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from visionsplit_client import ImagePart, Message, Sampling

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Question
from visionsplit_batch.sources.jsonl import JsonLinesSource
from visionsplit_batch.sources.table import Columns, row_id

_URL = "/v1/chat/completions"
_FIELDS = ("model", "metadata")  # of the body, copied to the output
_ROW_KEYS = frozenset({"custom_id", "method", "url", "body"})
# Fields that do not affect the answer here.
_IGNORED = frozenset({"model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
# Fields that are accepted only with the value that has no effect.
_NEUTRAL: Mapping[str, Any] = {
    "n": 1,
    "stream": False,
    "logprobs": False,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "logit_bias": {},
    "tools": [],
}
# The sampling option that each field of a body sets; all but one have the same name.
_SAMPLING = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    **{field.name: field.name for field in fields(Sampling) if field.name != "max_new_tokens"},
}
_OFF = frozenset({"top_k", "seed"})  # for these, other servers accept -1 as "not set"
_WHOLE = frozenset({"max_tokens", "max_completion_tokens", "top_k", "seed"})
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class OpenAiSource(JsonLinesSource):
    """Each line's conversation is its question, with its images in order; `custom_id` is the id.

    A row with a request that is not supported (tools, several choices, sound) fails instead of being answered partly.
    """

    format = "openai"
    known_columns = frozenset(_FIELDS)

    def _set_columns(self, columns: Columns) -> None:
        """Raises InputError if columns are named, since the format defines them."""
        if columns != Columns():
            raise InputError("the columns of an OpenAI batch file are fixed; name none")
        self.id_column = "custom_id"

    def options(self) -> Mapping[str, Any]:
        return {}

    def content(self, row: Mapping[str, Any], folder: str) -> Content:
        """Raises ValueError for a field that is not supported, with its name."""
        body = _checked_body(row)
        locations: list[str] = []
        messages = tuple(_message(message, locations) for message in _list(body, "messages"))
        question = Question(messages=messages, sampling=_sampling(body))
        images = tuple(self.image_reader.from_text(location, folder) for location in locations)
        fields = {name: body[name] for name in _FIELDS if body.get(name) is not None}
        return Content(images=images, questions=(question,), fields=fields)


def _checked_body(row: Mapping[str, Any]) -> Mapping[str, Any]:
    row_id(row.get("custom_id"), "custom_id")
    if unknown := row.keys() - _ROW_KEYS:
        raise ValueError(f"the line has unknown fields: {', '.join(sorted(unknown))}")
    if row.get("url") != _URL or row.get("method", "POST") != "POST":
        raise ValueError(f"the line asks for {row.get('method')} {row.get('url')}; only POST {_URL} is supported")
    body = row.get("body")
    if not isinstance(body, dict):
        raise ValueError("the line's body is not a JSON object")
    for name, value in body.items():
        known = name == "messages" or name in _IGNORED or name in _SAMPLING or value is None
        if not known and (name not in _NEUTRAL or value != _NEUTRAL[name]):
            raise ValueError(f"the body's field {name!r} with this value is not supported")
    return body


def _sampling(body: Mapping[str, Any]) -> Sampling | None:
    """The line's sampling options; None if it has none."""
    given = {name: body[name] for name in _SAMPLING if body.get(name) is not None}
    given = {name: value for name, value in given.items() if not (name in _OFF and value == -1)}
    options: dict[str, Any] = {}
    for name, value in given.items():
        kinds = (int,) if name in _WHOLE else (int, float)
        if name == "stop":
            value = [value] if isinstance(value, str) else value
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise ValueError("'stop' is neither text nor a list of texts")
        elif isinstance(value, bool) or not isinstance(value, kinds):
            raise ValueError(f"{name!r} is {value!r}; a {'whole ' if name in _WHOLE else ''}number is needed")
        options[_SAMPLING[name]] = value
    return Sampling(**options) if options else None


def _message(message: Any, locations: list[str]) -> Message:  # noqa: ANN401 - checked here
    """Convert a message; the locations of its images are appended to `locations`."""
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        raise ValueError("a message has fields other than 'role' and 'content', or lacks one")
    role = message["role"]
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"messages of the role {role!r} are not supported")
    if isinstance(message["content"], str):
        return Message(_ROLES[role], message["content"])
    return Message(_ROLES[role], tuple(_piece(part, locations) for part in _list(message, "content")))


def _piece(part: Any, locations: list[str]) -> str | ImagePart:  # noqa: ANN401
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    image = part.get("image_url") if kind == "image_url" else None
    location = image.get("url") if isinstance(image, dict) else image
    if not isinstance(location, str) or not location:
        raise ValueError(f"message parts of the type {kind!r} with this content are not supported")
    locations.append(location)
    return ImagePart()


def _list(owner: Mapping[str, Any], name: str) -> list[Any]:
    value = owner.get(name)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name!r} is not a non-empty list")
    return value
