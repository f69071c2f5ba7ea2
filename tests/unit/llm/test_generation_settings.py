"""A checkpoint's generation settings are followed or refused, never ignored."""

import json
from pathlib import Path
from typing import Any

import pytest
from visionsplit.families.checkpoint import Checkpoint, CheckpointError

from llm_service.generation_settings import GenerationSettings
from tests.checkpoints import tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("settings"), language={"eos_token_id": [7, 8]})


@pytest.fixture
def settings_of(folder: Path):
    """The settings of a checkpoint whose generation_config.json has these; without any, it has no such file."""
    file = folder / "generation_config.json"

    def read(settings: dict[str, Any] | None) -> GenerationSettings:
        file.unlink(missing_ok=True)
        if settings is not None:
            file.write_text(json.dumps(settings))
        return GenerationSettings.of(Checkpoint(str(folder)))

    return read


@pytest.mark.parametrize(
    ("settings", "end_ids"),
    [
        ({"eos_token_id": 3}, (3,)),
        ({"eos_token_id": [3, 5]}, (3, 5)),
        # As Hugging Face does: a file that names none means none.
        ({}, ()),
        ({"eos_token_id": None}, ()),
        (None, (7, 8)),
    ],
)
def test_end_ids(settings_of, settings: dict[str, Any] | None, end_ids: tuple[int, ...]):
    assert settings_of(settings).end_ids == end_ids


def test_what_greedy_decoding_does_not_read_is_harmless(settings_of):
    settings = {
        "do_sample": True,
        "temperature": 0.2,
        "top_p": 0.9,
        "top_k": 5,
        "max_length": 10,
        "max_new_tokens": 96,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "suppress_tokens": None,
        "bad_words_ids": [],
        "pad_token_id": 0,
        "transformers_version": "5",
    }
    assert settings_of(settings).repetition_penalty == 1.0


def test_the_repetition_penalty_is_the_default(settings_of):
    assert settings_of({"repetition_penalty": 1.7}).repetition_penalty == 1.7
    with pytest.raises(CheckpointError, match="repetition_penalty 0"):
        settings_of({"repetition_penalty": 0})


@pytest.mark.parametrize(
    "settings",
    [
        {"suppress_tokens": [5]},
        {"begin_suppress_tokens": [5]},
        {"bad_words_ids": [[5]]},
        {"no_repeat_ngram_size": 3},
        {"forced_bos_token_id": 0},
        {"forced_eos_token_id": 3},
        {"min_new_tokens": 4},
        {"min_length": 4},
        {"num_beams": 2},
        {"sequence_bias": [[[5], -1.0]]},
        {"guidance_scale": 1.5},
        {"exponential_decay_length_penalty": [4, 1.5]},
        {"stop_strings": ["x"]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_would_change_the_answers_is_refused(settings_of, settings: dict[str, Any]):
    with pytest.raises(CheckpointError, match=next(iter(settings))):
        settings_of(settings)
    assert settings_of(dict.fromkeys(settings)).end_ids == ()


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_file_is_said(settings_of, folder: Path, text: str):
    settings_of(None)
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        GenerationSettings.of(Checkpoint(str(folder)))
