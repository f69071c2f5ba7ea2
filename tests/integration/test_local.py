"""The model in this process: the answers of the services, from synchronous code, threads and a running event loop."""

import dataclasses
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from visionsplit_client import (
    CancelledError,
    Compression,
    DeadlineError,
    Finished,
    Generation,
    ImageEncoded,
    InvalidCompressionError,
    InvalidImageError,
    InvalidPromptError,
    InvalidPruningError,
    InvalidRequestError,
    Message,
    Prompt,
    PromptTooLongError,
    Pruning,
    Sampling,
    TextDelta,
    VisionSplitError,
)
from visionsplit_client import ImagePart as Image
from visionsplit_local import Request, VisionSplit

from tests.conftest import ROOT
from tests.integration.system import System, running_system
from tests.noise import noise_image

IMAGES = [noise_image(*size, seed=index) for index, size in enumerate([(112, 112), (300, 90), (60, 200)])]
ONE, TWO = "USER: <image>\nwhat? ASSISTANT:", "USER: <image> and <image>\ndiffer how? ASSISTANT:"
GREEDY = Sampling(max_new_tokens=12)
CHAT = [
    Message("user", [Image(), "what is this?"]),
    Message("assistant", "a house"),
    Message("user", ["and", Image(), "this?"]),
]
# Each is a request as `generate` takes it, by images' numbers.
REQUESTS: dict[str, tuple[list[int], dict[str, Any]]] = {
    "uncompressed": ([0], {"prompt": Prompt.raw(ONE)}),
    "a question": ([1], {"prompt": "what?", "compression": Compression("globalcom2", 0.25)}),
    "several images": ([2, 0], {"prompt": Prompt.raw(TWO), "compression": Compression("globalcom2", 0.5)}),
    "equal images": ([1, 1], {"prompt": Prompt.raw(TWO), "compression": Compression("hired", 0.3)}),
    "no image": ([], {"prompt": "what?"}),
    "a conversation": ([0, 2], {"messages": CHAT, "compression": Compression("fastervlm", 0.3)}),
    "a method that waits for the image": ([1], {"prompt": "what?", "compression": Compression("prumerge+", 0.3)}),
    "int8": ([2], {"prompt": "what?", "compression": Compression("globalcom2", 0.25), "data_type": "int8"}),
    "reference layout": ([1], {"prompt": "what?", "compression": Compression("globalcom2", 0.5, "reference")}),
    "sampling": ([0], {"prompt": "what?", "sampling": Sampling(max_new_tokens=12, temperature=2.0, top_k=50, seed=7)}),
    "pruning": ([0], {"prompt": "what?", "pruning": Pruning("fastv", 0.5, {"layer": 1})}),
    "quotas": (
        [1],
        {
            "prompt": "what?",
            "pruning": Pruning("fastv", 0.3, {"layer": 1}),
            "compression": Compression("globalcom2", 0.3, quotas_only=True),
            "position_ids": "original",
        },
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(random_checkpoints: dict[str, Path]) -> AsyncIterator[System]:
    async with running_system(random_checkpoints["llama"]) as started:
        yield started


@pytest.fixture(scope="module")
def local(random_checkpoints: dict[str, Path]) -> Iterator[VisionSplit]:
    with VisionSplit(str(random_checkpoints["llama"]), device="cpu") as model:
        yield model


def arguments(name: str) -> tuple[list[Any], dict[str, Any]]:
    numbers, options = REQUESTS[name]
    return [IMAGES[number] for number in numbers], {"sampling": GREEDY, **options}


def facts(generation: Generation) -> tuple[object, ...]:
    """All of an answer but its id, its times, and where tokens came from."""
    images = [(image.index, image.grid, image.budgets, image.wire_bytes) for image in generation.images]
    return (
        generation.text,
        generation.token_ids,
        generation.finish_reason,
        generation.usage,
        generation.layer_tokens,
        images,
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_answers_are_those_of_the_services(system: System, local: VisionSplit) -> None:
    """Token for token. `local` is used on the thread of a running event loop, as in a notebook."""
    expected = {}
    for name in REQUESTS:
        images, options = arguments(name)
        expected[name] = await system.client.generate(images, **options)
    stop = expected["uncompressed"].text[4:7]
    stopping = {"prompt": Prompt.raw(ONE), "sampling": Sampling(max_new_tokens=12, stop=[stop])}
    stopped = await system.client.generate(IMAGES[0], **stopping)
    encoded = await system.client.encode(IMAGES[1], Compression("globalcom2", 0.25))
    assert len({generation.token_ids for generation in expected.values()}) > len(REQUESTS) / 2
    for name in REQUESTS:
        images, options = arguments(name)
        assert facts(local.generate(images, **options)) == facts(expected[name]), name
    assert stopped.finish_reason == "stop"
    assert facts(local.generate(IMAGES[0], **stopping)) == facts(stopped)
    own = local.encode(IMAGES[1], Compression("globalcom2", 0.25))
    assert own.tokens.features == encoded.tokens.features
    assert own.tokens.positions.tolist() == encoded.tokens.positions.tolist()
    assert (own.format, own.layout, own.summary.budgets) == (encoded.format, encoded.layout, encoded.summary.budgets)
    answers = [local.generate_from_tokens(image, "what?", sampling=GREEDY).token_ids for image in (own, encoded)]
    assert answers == 2 * [expected["a question"].token_ids]


def test_many_requests_at_once_have_the_answers_of_each(local: VisionSplit) -> None:
    names = [name for name in REQUESTS for _ in range(3)]
    requests = [Request(images, **options) for images, options in map(arguments, names)]
    encoded = local.encode(IMAGES[1], Compression("globalcom2", 0.25))
    *answers, last = local.generate_many([*requests, Request(encoded, "what?", sampling=GREEDY)])
    alone = {name: local.generate(images, **options) for name in REQUESTS for images, options in [arguments(name)]}
    assert [facts(answer) for answer in answers] == [facts(alone[name]) for name in names]
    assert last.token_ids == alone["a question"].token_ids


def test_a_request_that_fails_ends_the_others_or_stands_in_its_place(local: VisionSplit) -> None:
    requests = [Request(IMAGES[0], "what?", sampling=GREEDY)] * 3
    requests[1] = dataclasses.replace(requests[1], images=b"no image")
    with pytest.raises(InvalidImageError, match="image 0: ") as caught:
        local.generate_many(requests)
    assert caught.value.__notes__ == ["of request 1 of 3"]
    requests[2] = dataclasses.replace(requests[2], images="/nowhere.png")
    good, bad, missing = local.generate_many(requests, return_errors=True)
    assert isinstance(good, Generation)
    assert isinstance(bad, InvalidImageError)
    assert isinstance(missing, FileNotFoundError)
    assert local.generate_many([]) == []


def test_events_come_as_from_the_services(local: VisionSplit) -> None:
    with local.stream(IMAGES[:2], Prompt.raw(TWO), sampling=GREEDY) as stream:
        events = list(stream)
    assert {type(event) for event in events[:-1]} == {ImageEncoded, TextDelta}
    assert isinstance(events[-1], Finished)
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert events[-1].generation.text == text


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"compression": Compression("nothing")}, InvalidCompressionError),
        ({"compression": Compression("globalcom2", 0.001)}, InvalidCompressionError),
        ({"compression": Compression("cdpruner", 0.5)}, InvalidCompressionError),
        ({"compression": Compression("globalcom2", 0.3, quotas_only=True)}, InvalidCompressionError),
        ({"pruning": Pruning("nothing", 0.5)}, InvalidPruningError),
        ({"sampling": Sampling(max_new_tokens=10**6)}, PromptTooLongError),
        ({"images": 17 * IMAGES[:1]}, InvalidRequestError),
        ({"prompt": "x" * 2**20}, InvalidPromptError),
        ({"prompt": "x" * 2**22}, InvalidPromptError),
        ({"prompt": Prompt.raw("no placeholder")}, InvalidPromptError),
        ({"messages": 1025 * [Message("user", "x")], "prompt": None}, InvalidPromptError),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_errors_are_those_of_the_services(
    system: System, local: VisionSplit, options: dict[str, Any], error: type[VisionSplitError]
) -> None:
    arguments = {"images": IMAGES[0], "prompt": "what?", **options}
    with pytest.raises(error) as expected:
        await system.client.generate(**arguments)
    with pytest.raises(error) as caught:
        local.generate(**arguments)
    assert (type(caught.value), str(caught.value)) == (type(expected.value), str(expected.value))


def test_a_call_may_be_given_up_or_run_out_of_time(local: VisionSplit) -> None:
    endless = Sampling(max_new_tokens=400, temperature=1.0, seed=1)
    with local.stream(IMAGES[0], "what?", sampling=endless) as stream:
        next(stream)
    with pytest.raises(CancelledError):
        stream.result()
    with pytest.raises(DeadlineError, match=r"within 0\.05 seconds"):
        local.generate(IMAGES[0], "what?", sampling=endless, timeout=0.05)
    assert local.generate(IMAGES[0], "what?", sampling=GREEDY).token_ids


def test_threads_may_share_a_model_and_closing_ends_what_runs(random_checkpoints: dict[str, Path]) -> None:
    model = VisionSplit(str(random_checkpoints["llama"]), device="cpu")
    endless = Sampling(max_new_tokens=400, temperature=1.0, seed=1)
    outcomes: list[object] = []
    begun = threading.Barrier(4)

    def ask() -> None:
        try:
            with model.stream(IMAGES[0], "what?", sampling=endless) as stream:
                next(stream)
                begun.wait(30)
                outcomes.append(stream.result())
        except VisionSplitError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(30)
    model.close()
    for thread in threads:
        thread.join(30)
    assert [type(outcome) for outcome in outcomes] == 3 * [CancelledError]
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        model.generate(IMAGES[0], "what?")


def test_a_model_that_cannot_be_loaded_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(VisionSplitError, match=r"config\.json"):
        VisionSplit(str(tmp_path), device="cpu")
    assert threading.active_count() == before


def test_the_documented_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "in-process.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile(code, "docs/in-process.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert "tokens" in lines[0]
    assert [line.split()[0] for line in lines[2:6]] == ["office", "prices", "shapes", "signs"]
