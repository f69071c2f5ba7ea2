"""The comparison with other servers, in small: a real system and the `generate` loop do the same work."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.peers import inputs, results
from benchmarks.peers.contestants import Contestant, Settings, ask_visionsplit, generate_contestant
from benchmarks.peers.measuring import Measurement
from benchmarks.peers.plan import GENERATE, PROPORTIONED, SHIPPED, Condition, Load, Plan
from benchmarks.peers.results import Saved
from tests.integration.system import running_system
from training.dialogue.questions import Topic
from training.dialogue.scoring import score

NEW_TOKENS = 6
OURS = "visionsplit-transformers"


@asynccontextmanager
async def start(name: str, settings: Settings) -> AsyncIterator[Contestant]:
    """As the benchmark does, but with both services in this process, which is quicker."""
    if name == GENERATE:
        async with generate_contestant(settings) as contestant:
            yield contestant
        return
    async with running_system(settings.model) as system:

        async def ask(request, condition):
            return await ask_visionsplit(system.client, request, condition, settings.new_tokens)

        yield Contestant([os.getpid()], 1.0, ask)


async def test_contestants_do_the_same_work(tmp_path: Path):
    settings = Settings(
        inputs.proportioned(tmp_path, tiny=True),
        NEW_TOKENS,
        ends=False,
        timeout=60,
        batch=2,
        cores=[0],
        vllm_python=Path(),
        environment={"OMP_NUM_THREADS": "1"},
    )
    plan = Plan([GENERATE, OURS], [1.0, 0.1], ["globalcom2"], 1, [Load(2, 3), Load(16, 3)], [], [], [], 0)
    plan = replace(plan, heavy=[Load(rate_factor=1.0, seconds=0.2)], heavy_ratios=[0.1])
    out = tmp_path / "out"
    results.begin(out, {})
    requests = {PROPORTIONED: inputs.Requests(PROPORTIONED, 0)}
    await Measurement(plan, {PROPORTIONED: settings}, requests, out, start).run()

    found = {(one.part.contestant, one.part.condition, one.part.load.name): one for one in Saved.read(out).results}
    assert len(found) == 7
    loop, ours = found[GENERATE, Condition(), "callers16"], found[OURS, Condition(), "callers16"]
    tenth = found[OURS, Condition("globalcom2", 0.1), "callers16"]
    for one in (loop, ours, tenth):
        assert [len(sample.tokens) for sample in one.answered] == [NEW_TOKENS] * 3
        assert all(0 < sample.first <= sample.tokens[-1] <= sample.seconds for sample in one.answered)
        assert sum(one.memory_mib.values()) > 50
    work = [[(sample.ids, sample.text, sample.prompt_tokens) for sample in one.samples] for one in (loop, ours)]
    assert work[0] == work[1]
    assert sum(one.prompt_tokens for one in tenth.samples) < sum(one.prompt_tokens for one in ours.samples)
    assert loop.samples[2].first > loop.samples[1].seconds, "what waits for a batch's end waits for its first token"
    assert len({sample.ids for sample in ours.samples}) == 3, "each request has a different image"
    open_loop = found[OURS, Condition("globalcom2", 0.1), "rate1"]
    assert open_loop.rate == found[GENERATE, Condition(), "callers16"].images_per_second


def test_the_shipped_model_is_asked_what_has_one_right_answer():
    asked = inputs.Requests(SHIPPED, 168).between(0, 12)
    assert len({one.image for one in asked}) == 12
    assert all(score(one.example.scene, one.question, one.question.answer) == 1 for one in asked)
    topics = {one.question.topic for one in asked}
    assert len(topics) > 3
    assert Topic.CAPTION not in topics
