"""The questions that are asked about a row."""

import os
import pickle

import pytest
from visionsplit_batch.rows.rows import Content, Question
from visionsplit_batch.runners import Work
from visionsplit_batch.runners.base import TemplateError
from visionsplit_batch.runners.pools import Pools
from visionsplit_batch.runners.services import ServicesRunner
from visionsplit_client import Compression, Sampling

ROW = Content(fields={"title": "a cat", "top 5": 3, "empty": None, "Straße": "x", "sizes": [1, "ü"], "on": True})


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Describe it.", "Describe it."),
        ("Is this {title}?", "Is this a cat?"),
        ("{title}, {title} and {top 5}", "a cat, a cat and 3"),
        ("{Straße}", "x"),
        ("{sizes} of {on}", '[1, "ü"] of True'),
        ('Answer as {"title": "..."} or {} or {3}', 'Answer as {"title": "..."} or {} or {3}'),
    ],
)
def test_prompts_are_filled_in_from_the_columns(prompt: str, text: str):
    assert Work("caption", (prompt,)).questions(ROW) == (Question(text),)


@pytest.mark.parametrize("prompt", ["{author}", "{empty}", "{title.__class__}"])
def test_a_column_that_is_missing_fails_the_row(prompt: str):
    with pytest.raises(TemplateError, match="does not have"):
        Work("caption", (prompt,)).questions(ROW)


def test_a_rows_own_questions_come_first():
    own = (Question("Mine?"),)
    assert Work("caption", ("Ours?",)).questions(Content(questions=own)) == own
    with pytest.raises(TemplateError, match="no question"):
        Work("caption").questions(Content())


def test_work_travels():
    work = Work("caption", ("What?",), compression=Compression("globalcom2", 0.1), sampling=Sampling(seed=3))
    assert pickle.loads(pickle.dumps(work)) == work


def test_work_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="kind"):
        Work("paint")
    with pytest.raises(ValueError, match="prompts"):
        Work("encode", ("What?",))


def test_a_runner_without_the_services_it_needs_is_refused():
    with pytest.raises(ValueError, match="encoder"):
        ServicesRunner(None, Work("caption", ("What?",)), llm="127.0.0.1:1")
    with pytest.raises(ValueError, match="LLM"):
        ServicesRunner(None, Work("ask", ("What?",)), "127.0.0.1:1")


@pytest.mark.parametrize("wrong", [{"encoders": 0}, {"llms": (2, 1)}, {"encoder_cpus": -1.0}, {"llm_gpus": -1.0}])
def test_pools_out_of_range_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Pools(**wrong)


@pytest.mark.parametrize(
    ("pools", "gpus", "encoder", "llm"),
    [
        ({}, 0, 0, 0),
        ({}, 1, 0.5, 0.5),
        ({}, 2, 1, 1),
        ({}, 8, 1, 1),
        ({"encoders": 2}, 2, 0.5, 0.5),
        ({"encoders": (1, 3), "llms": 1}, 3, 0.5, 0.5),
        ({"llms": 4}, 4, 0.5, 0.5),
        ({"llm_gpus": 1.0}, 1, 0, 1),
        ({"llm_gpus": 1.0}, 2, 1, 1),
        ({"encoder_gpus": 0.25}, 1, 0.25, 0.75),
        ({"encoder_gpus": 0.0, "llm_gpus": 0.0}, 4, 0, 0),
        ({"encoder_gpus": 0.0}, 1, 0, 1),
    ],
)
def test_gpus_are_used_where_there_are_any(pools: dict, gpus: int, encoder: float, llm: float):
    placed = Pools(**pools).on("caption", gpus=gpus, alone=True)
    assert (placed.encoder_gpus, placed.llm_gpus) == (encoder, llm)
    assert placed.llm_cpus == (1.0 if llm else max((os.cpu_count() or 1) / (pools.get("llms") or 1), 1.0))
    assert Pools(**pools).on("caption", gpus=gpus, alone=False).llm_cpus == 1.0


def test_only_the_workers_of_the_job_share_gpus():
    assert Pools().on("encode", gpus=1, alone=True).encoder_gpus == 1
    assert Pools().on("ask", gpus=1, alone=True).llm_gpus == 1
    assert Pools(llms=(1, 2)).on("caption", gpus=1, alone=True).describe("caption") == (
        "1 encoder (0.33 GPU each) and 1 to 2 language models (0.33 GPU each)"
    )
    assert Pools().on("ask", gpus=0, alone=True).describe("ask") == "1 language model (on the CPU)"


def test_a_cluster_of_the_jobs_own_has_room_for_its_pools():
    assert Pools(encoders=(1, 100), encoder_cpus=2.0).cpus("encode") == 202
    assert Pools(encoders=100).cpus("ask") < 100


def test_rows_in_flight_follow_the_pools():
    pools = Pools(encoders=(1, 4), llms=8)
    assert pools.in_flight("caption") == 4 * 16 + 8 * 64
    assert (pools.in_flight("encode"), pools.in_flight("ask")) == (64, 512)
    assert [pools.readers(kind) for kind in ("caption", "encode", "ask")] == [3, 1, 2]
