"""With a checkpoint's generation settings, answers equal those of Hugging Face with the same settings."""

import json
from pathlib import Path
from typing import Any

import pytest
from visionsplit.families.checkpoint import CheckpointError

from tests.checkpoints import tiny_checkpoint
from tests.integration.llm.support import HEADS, Whole, picture, running

ASK = "USER: <image>\nWhat is this? ASSISTANT:"


def checkpoint(folder: Path, settings: dict[str, Any] | None, **language: Any) -> Whole:
    """A checkpoint with these settings beside its own; without any, it has no generation_config.json."""
    file = tiny_checkpoint(folder, language={**HEADS, **language}) / "generation_config.json"
    if settings is None:
        file.unlink()
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return Whole(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.7},
        {"eos_token_id": [3, *range(260, 300)]},
        {"eos_token_id": None},
        {"temperature": 0.2, "top_p": 0.5},
        None,
    ],
    ids=lambda settings: "no file" if settings is None else next(iter(settings)),
)
async def test_answers_are_the_whole_models(tmp_path: Path, settings: dict[str, Any] | None):
    whole = checkpoint(tmp_path, settings, eos_token_id=list(range(260, 340)))
    async with running(whole) as (_, caller):
        lengths = []
        for seed in range(3):
            image = picture(100, 90, seed)
            expected = whole.generate(ASK, [image], max_new_tokens=24)
            assert (await caller.generate(ASK, [whole.tokens(image)], max_new_tokens=24)).token_ids == expected
            lengths.append(len(expected))
        if settings is None:
            assert min(lengths) < 24


async def test_a_request_may_name_another_penalty(tmp_path: Path):
    whole = checkpoint(tmp_path, {"repetition_penalty": 1.7})
    async with running(whole) as (_, caller):
        answer = await caller.generate("Hi there", max_new_tokens=60, repetition_penalty=1.0)
        assert answer.token_ids == whole.generate("Hi there", [], max_new_tokens=60, repetition_penalty=1.0)
        assert answer.token_ids != whole.generate("Hi there", [], max_new_tokens=60)


async def test_settings_that_cannot_be_followed_keep_the_service_from_starting(tmp_path: Path):
    whole = checkpoint(tmp_path, {"no_repeat_ngram_size": 2})
    with pytest.raises(CheckpointError, match="no_repeat_ngram_size"):
        async with running(whole):
            pass
