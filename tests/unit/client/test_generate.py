"""The blocking client with scripted services."""

import asyncio
import threading
import time

import pytest
from google.protobuf import text_format
from visionsplit import errors
from visionsplit.v1 import generation_pb2
from visionsplit_client import (
    Client,
    Compression,
    Finished,
    HealthStatus,
    ImageEncoded,
    ImagePart,
    Message,
    Prompt,
    Pruning,
    Retries,
    Sampling,
    TextDelta,
)

from tests.unit.client.fakes import GRID, LAYERS, WORDS, FakeEncoder, start_encoder

QUICK = Retries(attempts=4, initial_delay=0.01, max_delay=0.02)


def wait_until(condition) -> None:
    while not condition():
        time.sleep(0.01)


def test_generate_gives_text_and_what_it_cost(client, services, image_path):
    answer = client.generate(image_path, "What is this?", compression=Compression(retention_ratio=0.25))
    assert answer.text == "".join(WORDS)
    assert answer.token_ids == (10, 11, 12)
    assert answer.finish_reason == "stop"
    assert answer.usage.vision_tokens == 20
    assert answer.timings.first_token_seconds == 0.25
    assert 0 < answer.time_to_first_token_seconds <= answer.total_seconds
    (image,) = answer.images
    assert image.grid == GRID
    assert image.tokens_before == sum(GRID.valid_counts())
    assert image.tokens_after == sum(image.budgets)
    assert image.wire_bytes_before == pytest.approx(36 * image.tokens_before)
    assert services.encoder.script.request_ids == [answer.request_id]


def test_request_carries_what_was_asked(client, services, image_path):
    client.generate(
        [image_path, image_path.read_bytes()],
        "Which one?",
        compression=Compression("globalcom2", 0.1, layout="reference", score="local", parameters={"tau": 5}),
        data_type="int8",
        sampling=Sampling(max_new_tokens=7, temperature=0.5, top_k=3, seed=0, stop=["\n"]),
    )
    (request,) = services.encoder.script.requests
    assert [image.data for image in request.images] == [image_path.read_bytes()] * 2
    (turn,) = request.prompt.chat.messages
    assert turn.role == "user"
    assert [part.WhichOneof("content") for part in turn.parts] == ["image", "image", "text"]
    assert turn.parts[2].text == "Which one?"
    assert request.compression.score == "local"
    assert not request.compression.HasField("budget")
    assert dict(request.compression.parameters) == {"tau": 5}
    assert request.sampling.max_new_tokens == 7
    assert request.sampling.seed == 0
    assert request.sampling.HasField("seed")
    assert not request.sampling.HasField("top_p")
    assert request.data_type == 4


def test_absent_options_stay_absent(client, services, image_path):
    client.generate(image_path, Prompt.raw("USER: <image>\nHi ASSISTANT:"))
    (request,) = services.encoder.script.requests
    assert request.prompt.text == "USER: <image>\nHi ASSISTANT:"
    assert not request.HasField("compression")
    assert not request.HasField("sampling")
    assert not request.HasField("prefill")
    assert request.data_type == 0


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (
            {"pruning": Pruning("fastv", 0.25, {"layer": 3}), "position_ids": "original"},
            'pruning {method: "fastv" retention_ratio: 0.25 parameters {key: "layer" value: 3}} position_ids: 2',
        ),
        ({"pruning": Pruning("sparsevlm")}, 'pruning {method: "sparsevlm"} position_ids: 1'),
        ({"position_ids": "original"}, "position_ids: 2"),
        ({"position_ids": "renumbered"}, "position_ids: 1"),
    ],
    ids=["both", "pruning", "original", "renumbered"],
)
def test_the_request_says_how_to_read_the_tokens(client, services, image_path, asked, sent):
    expected = text_format.Parse(sent, generation_pb2.Prefill())
    answer = client.generate(image_path, "What?", **asked)
    again = client.generate_from_tokens(client.encode(image_path), "What?", **asked)
    assert services.encoder.script.requests[0].prefill == expected
    assert services.llm.script.requests[0].prefill == expected
    assert answer.layer_tokens == again.layer_tokens == (LAYERS if "pruning" in asked else ())


def test_unknown_position_ids_are_refused_here(client, services, image_path):
    with pytest.raises(ValueError, match="renumbered, original exist"):
        client.generate(image_path, "What?", position_ids="random")
    assert services.encoder.script.requests == []


@pytest.mark.parametrize(
    "messages",
    [
        [Message("user", [ImagePart(), "What?"]), Message("assistant", "A cat."), Message("user", "Sure?")],
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
        ],
    ],
    ids=["typed", "dicts"],
)
def test_conversation(client, services, image_path, messages):
    client.generate(image_path, messages=messages)
    turns = services.encoder.script.requests[0].prompt.chat.messages
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    assert [[part.WhichOneof("content") for part in turn.parts] for turn in turns] == [
        ["image", "text"],
        ["text"],
        ["text"],
    ]


def test_stream_gives_every_event_in_order(client, image_path):
    with client.stream(image_path, "What?") as stream:
        events = list(stream)
    assert [type(event) for event in events] == [ImageEncoded, TextDelta, TextDelta, TextDelta, Finished]
    assert events[-1].generation.text == "".join(WORDS)
    assert stream.result() is events[-1]


def test_text_only(client, services):
    assert client.generate(None, "Hello").images == ()
    assert len(services.encoder.script.requests[0].images) == 0


def test_closing_a_stream_early_cancels_the_call(client, services, image_path):
    services.encoder.script.endless = True
    services.encoder.script.slow_seconds = 0.01
    with client.stream(image_path, "What?") as stream:
        next(event for event in stream if isinstance(event, TextDelta))
    wait_until(lambda: services.encoder.script.cancelled == 1)
    assert list(stream) == []
    with pytest.raises(errors.CancelledError):
        stream.result()


def test_another_thread_may_close_a_stream(client, services, image_path):
    services.encoder.script.endless = True
    services.encoder.script.slow_seconds = 0.01
    stream = client.stream(image_path, "What?")
    threading.Timer(0.1, stream.close).start()
    for _ in stream:
        pass
    wait_until(lambda: services.encoder.script.cancelled == 1)


def test_service_error_keeps_its_class_and_is_not_repeated(client, services, image_path):
    services.encoder.script.failures = [errors.PromptTooLongError("5000 tokens, 2048 fit")]
    with pytest.raises(errors.PromptTooLongError, match="5000 tokens"):
        client.generate(image_path, "What?")
    assert len(services.encoder.script.requests) == 1


def test_unavailable_before_text_is_repeated_with_one_request_id(services, image_path):
    services.encoder.script.failures = [errors.UnavailableError("draining")] * 2
    services.encoder.script.fail_after_image = [errors.UnavailableError("replica lost")]
    with Client(services.encoder_address, retries=QUICK) as client, client.stream(image_path, "What?") as stream:
        events = list(stream)
    assert [type(event) for event in events].count(ImageEncoded) == 1
    assert events[-1].generation.text == "".join(WORDS)
    assert len(events[-1].generation.images) == 1
    assert len(services.encoder.script.requests) == 4
    assert len(set(services.encoder.script.request_ids)) == 1


def test_unavailable_after_text_is_not_repeated(services, image_path):
    services.encoder.script.fail_after_text = errors.UnavailableError("replica lost")
    seen = []
    with Client(services.encoder_address, retries=QUICK) as client, pytest.raises(errors.UnavailableError):
        seen.extend(client.stream(image_path, "What?"))
    assert len(services.encoder.script.requests) == 1


def test_attempts_are_bounded(services, image_path):
    services.encoder.script.failures = [errors.UnavailableError("draining")] * 10
    with (
        Client(services.encoder_address, retries=QUICK) as client,
        pytest.raises(errors.UnavailableError, match=r"draining \(after 4 attempts\)"),
    ):
        client.generate(image_path, "What?")
    assert len(services.encoder.script.requests) == 4


def test_no_connection_names_the_address():
    with (
        Client("127.0.0.1:1", retries=Retries(attempts=1)) as client,
        pytest.raises(errors.UnavailableError, match=r"127\.0\.0\.1:1 cannot be reached"),
    ):
        client.generate(None, "Hello")


def test_deadline(client, services, image_path):
    services.encoder.script.endless = True
    services.encoder.script.slow_seconds = 0.05
    with pytest.raises(errors.DeadlineError, match=r"within 0\.3 seconds"):
        client.generate(image_path, "What?", timeout=0.3)
    wait_until(lambda: services.encoder.script.cancelled == 1)


def test_answer_without_summary_is_an_error(client, services, image_path):
    services.encoder.script.omit_summary = True
    with pytest.raises(errors.InternalError, match="incomplete"):
        client.generate(image_path, "What?")


def test_addresses_are_used_in_turn_and_a_dead_one_is_skipped(services, image_path):
    second = FakeEncoder("second")
    server, address = start_encoder(second)
    dead = "127.0.0.1:1"
    with Client([services.encoder_address, dead, address], retries=QUICK) as client:
        for _ in range(6):
            client.generate(image_path, "What?")
    server.stop(0).wait()
    assert len(services.encoder.script.requests) + len(second.script.requests) == 6
    assert min(len(services.encoder.script.requests), len(second.script.requests)) >= 2


def test_client_recovers_when_its_service_is_restarted(image_path):
    encoder = FakeEncoder()
    server, address = start_encoder(encoder)
    with Client(address, retries=Retries(attempts=8, initial_delay=0.1)) as client:
        assert client.generate(image_path, "What?").text
        server.stop(0).wait()
        with pytest.raises(errors.UnavailableError):
            client.generate(image_path, "What?", timeout=0.3)
        assert client.health() == {address: HealthStatus.UNREACHABLE}
        server, _ = start_encoder(encoder, address)
        assert client.generate(image_path, "What?").text == "".join(WORDS)
    server.stop(0).wait()


def test_one_client_serves_many_threads(client, image_path):
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(client.generate(image_path, "What?").text)) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["".join(WORDS)] * 16


def test_info_and_health(client, services):
    info = client.encoder_info()
    assert (info.model, info.default_data_type, info.grids) == ("fake", "bfloat16", ((2, 2),))
    assert info.default_compression == Compression.none()
    assert info.methods[0].parameters == {"tau": 10.0}
    llm = client.llm_info()
    assert llm.context_length == 2048
    assert [(method.name, method.parameters) for method in llm.pruning_methods] == [("fastv", {"layer": 2.0})]
    assert client.health() == {
        services.encoder_address: HealthStatus.SERVING,
        services.llm_address: HealthStatus.SERVING,
    }


def test_a_closed_client_says_so(services):
    client = Client(services.encoder_address)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.generate(None, "Hello")


def test_the_blocking_client_needs_no_event_loop(services):
    async def inside() -> str:
        def ask() -> str:
            with Client(services.encoder_address) as client:
                return client.generate(None, "Hello").text

        return await asyncio.to_thread(ask)

    assert asyncio.run(inside()) == "".join(WORDS)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": None},
        {"prompt": "a", "messages": []},
        {"prompt": 5},
        {"prompt": b"a"},
        {"prompt": "half \ud83d"},
        {"prompt": Prompt.raw("half \ud83d")},
        {"messages": [{"role": "user", "text": "a"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": {"type": "text", "text": "a"}}]},
        {"messages": [{"role": "user", "content": ["a", {"type": "image"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
        {"messages": [{"role": 5, "content": "a"}]},
    ],
    ids=str,
)
def test_a_wrong_prompt_is_refused_here(client, arguments):
    with pytest.raises(errors.InvalidPromptError):
        client.generate(None, **arguments)


@pytest.mark.parametrize(
    "make", [lambda p: Compression("globalcom2", 0.5, parameters=p), lambda p: Pruning("fastv", 0.5, p)]
)
def test_a_parameter_that_is_no_number_is_named(make):
    with pytest.raises(TypeError, match="parameter 'tau' is 'ten'; a number is needed"):
        make({"tau": "ten"})


@pytest.mark.parametrize(("name", "value"), [("compression", 0.25), ("compression", "globalcom2"), ("sampling", {})])
def test_options_of_another_type_are_refused_here(client, image_path, name, value):
    with pytest.raises(TypeError, match=rf"^{name} is .*; visionsplit_client.{name.title()}\(...\) is needed$"):
        client.generate(image_path, "Hi", **{name: value})
