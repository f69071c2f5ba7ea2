"""Prompts that cost a tokenizer, a template or a log more than their sender."""

import asyncio
import time
from collections.abc import Sequence

from google.protobuf.message import Message
from visionsplit.v1 import generation_pb2, llm_service_pb2

from tests.fuzzing.attacks.base import Attack, counted
from tests.fuzzing.attacks.target import LLM, MIB, Target

_CHARACTERS = 1_000_000
_GENERATE = f"{LLM}/Generate"
_SCRIPTS = {
    "latin": "a",
    "spaces": " ",
    "newlines": "\n",
    "chinese": "语言模型",
    "emoji": "🙂🦜",
    "arabic": "لغة",
    "combining": "e\u0301\u0327",
    "digits": "0123456789",
    "mixed": "aé语🙂 \n\t",
    "invisible": "\u200b\u200d",
}
_SPECIAL = ("<image>", "</s>", "<s>", "[INST]", "<|im_start|>", "{{ messages }}", "{% for x in y %}")


def _header(prompt: generation_pb2.Prompt, **fields: Message) -> bytes:
    header = llm_service_pb2.GenerateHeader(prompt=prompt, **fields)
    return llm_service_pb2.LlmServiceGenerateRequest(header=header).SerializeToString()


def _text(piece: str) -> bytes:
    text = piece * (_CHARACTERS // len(piece))
    while len(text.encode()) > 4 * MIB - 1024:
        text = text[: len(text) * 9 // 10]
    return _header(generation_pb2.Prompt(text=text))


def _chat(*messages: generation_pb2.ChatMessage) -> bytes:
    return _header(generation_pb2.Prompt(chat=generation_pb2.Chat(messages=messages)))


def _said(text: str, role: str = "user") -> generation_pb2.ChatMessage:
    return generation_pb2.ChatMessage(role=role, parts=[generation_pb2.ContentPart(text=text)])


async def _at_once(target: Target, messages: Sequence[bytes], seconds: float, *, callers: int = 6) -> str:
    """The messages in turn from a number of callers for a number of seconds, each at least once."""
    outcomes: list[str] = []
    waiting = list(messages)
    end, slowest = time.monotonic() + seconds, 0.0

    async def caller(number: int) -> None:
        nonlocal slowest
        turn = number
        while waiting or time.monotonic() < end:
            message = waiting.pop() if waiting else messages[turn % len(messages)]
            started = time.monotonic()
            outcomes.append(await target.call(_GENERATE, message, seconds=seconds + 60))
            slowest = max(slowest, time.monotonic() - started)
            turn += 1

    await asyncio.gather(*(caller(number) for number in range(callers)))
    return f"{counted(outcomes)}; slowest {slowest:.2f} s"


async def _scripts(target: Target, seconds: float) -> str:
    return await _at_once(target, [_text(piece) for piece in _SCRIPTS.values()], seconds)


async def _emoji(target: Target, seconds: float) -> str:
    return await _at_once(target, [_text(_SCRIPTS["emoji"])], 0, callers=1)


async def _special(target: Target, seconds: float) -> str:
    return await _at_once(target, [_chat(_said(piece * (3 * MIB // len(piece)))) for piece in _SPECIAL], seconds)


async def _turns(target: Target, seconds: float) -> str:
    many = [_said("a", "user" if number % 2 == 0 else "assistant") for number in range(100_000)]
    parts = [generation_pb2.ContentPart(text="a") for _ in range(100_000)]
    return await _at_once(target, [_chat(*many), _chat(generation_pb2.ChatMessage(role="user", parts=parts))], seconds)


async def _roles(target: Target, seconds: float) -> str:
    long = "r" * (3 * MIB)
    sampling = generation_pb2.Sampling(stop=["s" * (3 * MIB)])
    messages = [
        _chat(generation_pb2.ChatMessage(role=long, parts=[generation_pb2.ContentPart()])),
        _chat(_said("Hi", role=long)),
        _header(generation_pb2.Prompt(text="Hi"), sampling=sampling),
    ]
    return await _at_once(target, messages, min(seconds, 3.0), callers=2)


def _short_lines(target: Target) -> list[str]:
    longest = {
        service.module: max((len(line) for line in service.log.read_bytes().splitlines()), default=0)
        for service in (target.encoder, target.llm)
    }
    return [f"{module} wrote a line of {size} bytes to its log" for module, size in longest.items() if size > 8192]


PROMPT_ATTACKS = (
    Attack("prompts/emoji", _emoji, quick=True),
    Attack("prompts/scripts", _scripts),
    Attack("prompts/special-tokens", _special),
    Attack("prompts/turns", _turns),
    Attack("prompts/roles-and-stop", _roles, check=_short_lines),
)
