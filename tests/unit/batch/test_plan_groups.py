"""From measured rates to a recommended group of services, and its description."""

import json
from dataclasses import replace

import pytest
from visionsplit_cli.plan import report
from visionsplit_cli.plan.groups import Group, Prices, Rate, RatioPlan, group_for

SETTING = report.Setting("model", "cuda:0", "cuda", "a machine", "2 images", "What?", None, 5.0)


def rate(per_second: float, *, services: int = 1, in_flight: int = 8, busy: float = 0.1) -> Rate:
    seconds = 100 / per_second
    return Rate(100 * services, seconds, services, in_flight, busy)


def plan(ratio: float, encoder: float, llm: float, prices: Prices | None = None) -> RatioPlan:
    method = "none" if ratio == 1 else "globalcom2-diverse"
    group = group_for(encoder, llm, prices or Prices())
    return RatioPlan(ratio, method, rate(encoder), rate(llm), 2928 * ratio, 2928 * ratio + 20, 31.2, group)


@pytest.mark.parametrize(
    ("encoder", "llm", "expected"),
    [
        (10.0, 10.0, (1, 1)),
        (10.0, 30.0, (3, 1)),
        (10.0, 29.0, (3, 1)),  # one of the three is a little less than full
        (30.0, 10.0, (1, 3)),
        (10.0, 15.0, (3, 2)),
        (10.0, 1000.0, (9, 1)),  # the one waits nearly always, and is the tenth that is wasted
    ],
)
def test_a_group_is_the_smallest_that_wastes_less_than_a_tenth(encoder, llm, expected):
    group = group_for(encoder, llm, Prices())
    assert (group.encoders, group.llms) == expected
    ideal_hours = (1 / encoder + 1 / llm) * 1_000_000 / 3600
    assert group.encoder_hours + group.llm_hours <= ideal_hours / 0.9 + 1e-9


def test_hours_and_cost_are_those_of_a_million_images():
    group = Group(3, 1, 30.0)
    assert group.llm_hours == pytest.approx(1_000_000 / 30 / 3600)
    assert group.encoder_hours == pytest.approx(3 * group.llm_hours)
    assert group.cost(Prices(0.5, 2.0)) == pytest.approx(3.5 * group.llm_hours)


def test_the_dearer_half_is_the_one_that_does_not_wait():
    """Cheap encoders are added until the dear language model is busy."""
    cheap_encoders = group_for(10.0, 25.0, Prices(encoder=0.01, llm=100.0))
    assert cheap_encoders.images_per_second == 25.0
    assert (cheap_encoders.encoders, cheap_encoders.llms) == (3, 1)


def test_a_rate_is_that_of_one_service():
    assert rate(10.0, services=4).per_second == pytest.approx(10.0)


def test_one_device_for_both_takes_the_sum_of_their_times():
    assert plan(0.1, 10.0, 10.0).shared_rate == pytest.approx(5.0)


def test_the_text_says_what_to_start_and_what_was_not_measured():
    text = report.text(SETTING, [plan(1, 40.0, 2.0), plan(0.1, 30.0, 10.0)], None)
    assert "each half alone on this machine (a machine)" in text
    assert "Cheapest: keep 10%, with 1 encoder for 3 language models; with 100% a million images cost" in text
    assert "--method globalcom2-diverse --ratio 0.1 --prompt 'What?'" in text
    assert "--encoders 1 --encoder-gpus 1 --llms 3 --llm-gpus 1" in text
    assert "--in-flight 32" in text  # 8 for each of the four
    assert "Not measured" in text
    assert "device h" in text
    assert text.index("Measured\n") < text.index("Calculated from these rates\n")


def test_prices_give_a_cost_and_may_change_the_advice():
    prices = Prices(encoder=100.0, llm=0.001)
    text = report.text(SETTING, [plan(1, 40.0, 2.0, prices), plan(0.1, 30.0, 10.0, prices)], prices)
    assert "Cheapest: keep 100%" in text  # its encoders do more images an hour
    assert "--method none" in text
    assert " cost " in text
    assert "device h" not in text


def test_on_a_cpu_a_device_is_the_whole_machine():
    """Ray gives each actor one core, for which the measured rates do not hold."""
    setting = replace(SETTING, encoder_device="cpu", llm_device="cpu")
    text = report.text(setting, [plan(0.1, 30.0, 10.0)], None)
    assert "A device is a whole machine here" in text
    assert "--llms" not in text
    assert "A device is a whole machine here" not in report.text(SETTING, [plan(0.1, 30.0, 10.0)], None)


def test_the_text_warns_of_rates_that_say_little():
    sound = plan(0.125, 30.0, 10.0)
    text = report.text(SETTING, [sound], None)
    assert "12.5%" in text
    assert "larger --seconds" not in text
    assert "busy all the time" not in text
    assert "other work" not in report.text(replace(SETTING, load=0.0), [sound], None)
    assert "This machine had other work before (load 999.0" in report.text(replace(SETTING, load=999.0), [sound], None)
    few = replace(sound, llm=Rate(3, 1.0, 1, 2, 0.95))
    text = report.text(SETTING, [sound, few], None)
    assert "The least sure rate comes from 3 images" in text
    assert "busy all the time" in text


def test_services_of_others_are_not_said_to_be_on_this_machine():
    text = report.text(replace(SETTING, machine=None), [plan(0.1, 30.0, 10.0)], None)
    assert "running services" in text
    assert "Other callers" in text
    assert "this machine" not in text


def test_the_document_is_json_with_everything_that_the_text_says():
    document = json.loads(json.dumps(report.document(SETTING, [plan(0.1, 30.0, 10.0)], Prices(2.0, 2.0))))
    (row,) = document["ratios"]
    measured, calculated = row["measured"], row["calculated"]
    assert measured["encoder"]["images_per_second"] == pytest.approx(30.0)
    assert measured["llm"]["images"] == 100
    assert calculated["encoders_per_llm"] == pytest.approx(1 / 3)
    group = calculated["group"]
    assert (group["encoders"], group["llms"]) == (1, 3)
    hours = group["encoder_hours_per_million"] + group["llm_hours_per_million"]
    assert group["cost_per_million"] == pytest.approx(2 * hours)
    (row,) = report.document(SETTING, [plan(0.1, 3.0, 1.0)], None)["ratios"]
    assert row["calculated"]["group"]["cost_per_million"] is None


def test_rates_that_fall_with_fewer_tokens_are_doubted_before_the_advice():
    even = [plan(1, 40.0, 2.0), plan(0.25, 30.0, 8.0), plan(0.1, 29.5, 10.0)]  # choosing tokens slows an encoder
    assert report.unsure(even) is None
    disturbed = [plan(0.1, 20.0, 5.0), plan(1, 40.0, 2.0), plan(0.25, 30.0, 8.0)]
    text = " ".join(report.text(SETTING, disturbed, None).split())
    assert "Warning: the encoder was slower with 10% of the tokens than with 25%" in text
    assert "the LLM was slower with 10% of the tokens than with 25%" in text
    assert text.index("Warning") < text.index("Cheapest")
    assert report.document(SETTING, disturbed, None)["warning"] is not None
