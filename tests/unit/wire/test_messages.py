"""A newer client's fields are refused rather than dropped."""

import pytest
from visionsplit.errors import InvalidRequestError
from visionsplit.v1 import encoder_service_pb2 as pb
from visionsplit.v1 import generation_pb2, vision_tokens_pb2
from visionsplit.wire.messages import refuse_unknown_fields

UNKNOWN_FIELD_99 = b"\x98\x06\x01"


def test_known_fields_pass() -> None:
    refuse_unknown_fields(
        pb.EncodeRequest(
            image=pb.Image(data=b"x"), compression=vision_tokens_pb2.Compression(method="m", parameters={"tau": 1.0})
        )
    )


def test_an_unknown_field_is_named() -> None:
    request = pb.EncodeRequest.FromString(pb.EncodeRequest().SerializeToString() + UNKNOWN_FIELD_99)
    with pytest.raises(InvalidRequestError, match=r"field 99 of visionsplit\.v1\.EncodeRequest"):
        refuse_unknown_fields(request)


def test_an_unknown_field_is_found_at_depth() -> None:
    part = generation_pb2.ContentPart.FromString(UNKNOWN_FIELD_99)
    chat = generation_pb2.Chat(messages=[generation_pb2.ChatMessage(role="user", parts=[part])])
    with pytest.raises(InvalidRequestError, match=r"field 99 of visionsplit\.v1\.ContentPart"):
        refuse_unknown_fields(pb.EncoderServiceGenerateRequest(prompt=generation_pb2.Prompt(chat=chat)))
