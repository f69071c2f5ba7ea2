"""Sampling against Hugging Face's warpers."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from visionsplit.options.sampling import ResolvedSampling

from llm_service.engines.continuous.sampler import SAMPLING_KEY, Sampler, SamplingRow
from llm_service.engines.sampling_math import filter_scores, gumbel_noise

VOCABULARY = 40


class Request:
    """What the engine passes: one request with a new token."""

    has_new_token = True

    def __init__(self, position: int, slot: int = 0, **options):
        self.state = self
        self.position_offset = position
        self.logit_processor_kwargs = {SAMPLING_KEY: SamplingRow(ResolvedSampling(max_new_tokens=1, **options), slot)}


def process(sampler: Sampler, requests: list[Request], scores: torch.Tensor, last_ids: list[int] | None = None):
    storage = torch.full((8, 16), 123456, dtype=torch.int32)
    sampler.prepare_tensor_args(requests, storage)
    return sampler(torch.tensor(last_ids or [0] * len(requests), dtype=torch.int32), scores.clone(), storage)


@pytest.fixture
def sampler() -> Sampler:
    return Sampler(vocabulary_size=VOCABULARY, slots=2, device=torch.device("cpu"))


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0.7, 0, 1.0), (1.3, 5, 1.0), (1, 0, 0.8), (2.0, 9, 0.6)])
def test_filters_are_hugging_faces(scores, temperature: float, top_k: int, top_p: float):
    expected = TemperatureLogitsWarper(float(temperature))(None, scores)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    rows = len(scores)
    found = filter_scores(
        scores,
        torch.full((rows,), float(temperature)),
        torch.full((rows,), top_k, dtype=torch.int32),
        torch.full((rows,), top_p),
    )
    torch.testing.assert_close(found.softmax(1), expected.softmax(1))
    assert torch.equal(found == -torch.inf, expected == -torch.inf)


def test_draws_follow_the_distribution(sampler, scores):
    draws = 20_000
    seeds = [Request(position, temperature=1.0, top_k=6, seed=position * 7919) for position in range(draws // 10)]
    row = scores[:1]
    expected = TopKLogitsWarper(6)(None, row).softmax(1)[0]
    counts = torch.zeros(VOCABULARY)
    for shift in range(10):
        storage = torch.zeros(8, len(seeds), dtype=torch.int32)
        for request in seeds:
            request.position_offset += 100_000 * shift
        sampler.prepare_tensor_args(seeds, storage)
        picks = sampler(torch.zeros(len(seeds), dtype=torch.int32), row.repeat(len(seeds), 1), storage).argmax(1)
        counts += torch.bincount(picks, minlength=VOCABULARY)
    # Five standard deviations of a binomial share.
    tolerance = 5 * (expected * (1 - expected) / draws).sqrt() + 1e-9
    assert ((counts / draws - expected).abs() <= tolerance).all()


def test_noise_depends_on_every_argument():
    def noise(low=1, high=2, position=3):
        low, high, position = (torch.tensor([value]) for value in (low, high, position))
        return gumbel_noise(low, high, position, 1000)

    base = noise()
    assert torch.equal(base, noise())
    for other in (noise(low=2), noise(high=3), noise(position=4), noise(low=2, high=1)):
        assert not torch.isclose(base, other).any(dim=1).all()
        assert abs(torch.corrcoef(torch.cat([base, other]))[0, 1]) < 0.15
    assert torch.isfinite(base).all()
    assert abs(base.mean() - 0.5772) < 0.2


def test_greedy_rows_keep_their_scores_beside_sampled_ones(sampler, scores):
    requests = [Request(4), Request(5, temperature=1.0, seed=3), Request(6)]
    found = process(sampler, requests, scores[:3])
    assert torch.equal(found[[0, 2]], scores[[0, 2]])
    assert not torch.equal(found[1], scores[1])


def test_a_row_does_not_depend_on_its_neighbours(sampler, scores):
    request = Request(5, temperature=0.9, top_p=0.9, seed=2**64 - 2)
    alone = process(sampler, [request], scores[:1])
    crowd = process(sampler, [Request(1, temperature=2.0, seed=8), request, Request(2)], scores[[3, 0, 2]])
    assert torch.equal(crowd[1], alone[0])


def test_repetition_penalty_marks_prompt_and_generated(sampler, scores):
    slot = sampler.acquire_slot()
    sampler.note_prompt(slot, [3, 4])
    request = Request(9, slot=slot, repetition_penalty=2.0)
    found = process(sampler, [Request(1), request], scores[:2], last_ids=[11, 7])
    expected = scores[1].clone()
    seen = [3, 4, 7]
    expected[seen] = torch.where(expected[seen] < 0, expected[seen] * 2, expected[seen] / 2)
    assert torch.equal(found[0], scores[0])
    assert torch.equal(found[1], expected)
    # A virtual id, and another request's token, mark nothing.
    process(sampler, [Request(1), request], scores[:2], last_ids=[12, 10**6])
    assert sampler._seen[slot].nonzero().flatten().tolist() == seen
    sampler.release_slot(slot)
    sampler.note_prompt(sampler.acquire_slot(), [1])


def test_slots_run_out(sampler):
    assert {sampler.acquire_slot(), sampler.acquire_slot()} == {1, 2}
    assert sampler.acquire_slot() is None
    sampler.release_slot(0)
    assert sampler.acquire_slot() is None


def test_stale_arguments_do_not_stay(sampler):
    storage = torch.full((8, 5), 99, dtype=torch.int32)
    sampler.prepare_tensor_args([Request(1, temperature=1.0)], storage)
    assert (storage[-1] == 0).all()
    assert (storage[0, 1:] == 0).all()
