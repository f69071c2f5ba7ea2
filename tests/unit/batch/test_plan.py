"""The images with which `visionsplit plan` measures, how it measures, and what it refuses."""

import io
import json
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image
from visionsplit.images import ImageLimits, decode_image
from visionsplit.options.data_types import DATA_TYPES
from visionsplit_batch.errors import InputError
from visionsplit_cli import main
from visionsplit_cli.plan.images import MOST_ROWS, open_images, varied
from visionsplit_cli.plan.measuring import Effort, EncoderMeter, LlmMeter
from visionsplit_client import Compression, InvalidCompressionError, Sampling

from encoder_service.config import CacheLimits
from tests.integration.system import running_system
from tests.noise import noise_image

BRIEF = Effort(seconds=0.3, in_flight=3)


@pytest.fixture
def image_path(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "image.png"
    path.parent.mkdir()
    noise_image(112, 112).save(path)
    return path


def test_images_come_in_turn_and_never_in_the_same_file_twice(image_path):
    noise_image(56, 112).save(image_path.parent / "tall.png")
    image_paths = open_images([str(image_path.parent)])
    contents = [*islice(image_paths.stream(), 6), *islice(image_paths.stream(), 6)]
    assert [index for index, _ in contents] == [0, 1, 0, 1, 0, 1] * 2
    assert len({content for _, content in contents}) == 12
    assert all(content.startswith(image_paths.files[index]) for index, content in contents)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_image_in_another_file_is_still_the_image(tmp_path, form):
    image = noise_image(40, 30)
    buffer = io.BytesIO()
    image.save(buffer, format=form)
    path = tmp_path / f"image.{form.lower()}"
    path.write_bytes(buffer.getvalue())
    (_, other), *_ = islice(open_images([str(path)]).stream(), 1)
    limits = ImageLimits()
    assert decode_image(other, limits).tobytes() == decode_image(buffer.getvalue(), limits).tobytes()


def test_the_first_images_of_an_input_that_can_be_read_are_taken(image_path):
    for number in range(2 * MOST_ROWS):
        Image.new("RGB", (8, 8)).save(image_path.parent / f"{number:03}.png")
    (image_path.parent / "000.png").write_bytes(b"")
    assert len(open_images([str(image_path.parent)]).files) == MOST_ROWS - 1
    rows = [json.dumps({"image": "000.png"}), json.dumps({"image": "nowhere.png"})]
    (image_path.parent / "rows.jsonl").write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"none of the first rows of .* has an image that can be read"):
        open_images([str(image_path.parent / "rows.jsonl")])


def test_without_images_there_are_some():
    assert open_images([]).files


async def test_no_cache_answers(random_checkpoints, image_path):
    """Neither the encoder's, which serves smaller ratios from larger ones, nor the language model's of prompts."""
    async with running_system(random_checkpoints["llama"], encoder={"cache": CacheLimits(2**20)}) as system:
        image_paths = open_images([str(image_path)])
        encoders = EncoderMeter(system.client, image_paths, BRIEF)
        llms = LlmMeter(system.client, "What?", Sampling(max_new_tokens=4), BRIEF)
        for compression in (Compression.none(), Compression("globalcom2", 0.5), Compression("globalcom2", 0.25)):
            encoding = await encoders.measure(compression)
            assert encoding.rate.images >= 1
            assert 1 <= encoding.rate.in_flight <= BRIEF.in_flight
            (image,) = encoding.images
            assert image.summary.cache == "miss"
            answering = await llms.measure(encoding.images)
            newlines = answering.vision_tokens - image.summary.tokens_after
            assert 0 < newlines < 10
            assert answering.prompt_tokens > answering.vision_tokens
            assert answering.generated_tokens <= 4


async def test_each_image_counts_as_often_as_any_other(random_checkpoints, image_path):
    noise_image(56, 112).save(image_path.parent / "tall.png")
    noise_image(56, 56).save(image_path.parent / "small.png")
    async with running_system(random_checkpoints["llama"]) as system:
        encoders = EncoderMeter(system.client, open_images([str(image_path.parent)]), BRIEF)
        encoding = await encoders.measure(Compression.none())
        llms = LlmMeter(system.client, "What?", Sampling(max_new_tokens=2), BRIEF)
        answering = await llms.measure(encoding.images)
        single = [await system.client.generate_from_tokens(image, "What?") for image in encoding.images]
    assert encoding.rate.images % 3 == answering.rate.images % 3 == 0
    assert len(encoding.images) == 3
    expected = sum(one.usage.vision_tokens + one.usage.newline_tokens for one in single) / 3
    assert answering.vision_tokens == pytest.approx(expected)


async def test_what_an_encoder_refuses_is_raised_as_it_is(random_checkpoints, image_path):
    async with running_system(random_checkpoints["llama"]) as system:
        encoders = EncoderMeter(system.client, open_images([str(image_path)]), BRIEF)
        with pytest.raises(InvalidCompressionError):
            await encoders.check(Compression("nothing-like-it", 0.5))
        with pytest.raises(InvalidCompressionError):
            await encoders.measure(Compression("nothing-like-it", 0.5))


async def test_varied_tokens_are_still_the_image(random_checkpoints, image_path):
    async with running_system(random_checkpoints["llama"]) as system:
        for data_type in DATA_TYPES:
            image = await system.client.encode(image_path, Compression.none(), data_type=data_type)
            others = [varied(image, number) for number in range(1, 100)]
            assert len({other.tokens.features.data for other in (image, *others)}) == 100
            assert varied(others[6], 7).tokens.features.data == image.tokens.features.data
            asked = [await system.client.generate_from_tokens(one, "What is it?") for one in (image, others[6])]
            assert asked[0].usage == asked[1].usage


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoder", "127.0.0.1:1"], "--encoder and --llm go together"),
        (["--encoder", "a:1", "--llm", "a:2", "--model", "m"], "are for services that this command starts"),
        (["--encoder", "a", "--llm", "a:2"], "a"),
        (["--model", "./nowhere"], "there is no folder ./nowhere"),
        (["--ratios", "1,2"], "--ratios: 2 is not above 0 and at most 1; for 2 percent write 0.02"),
        (["--ratios", "1,nan"], "--ratios: nan is not above 0 and at most 1"),
        (["--ratios", "much"], "--ratios: 'much' is not a number"),
        (["--price-llm", "0"], "--price-llm: 0 is not a finite number above 0"),
        (["--price-llm", "much"], "--price-llm: 'much' is not a number"),
        (["--in-flight", "0"], "--in-flight: '0' is not a whole number of at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", *options])
    assert stop.value.code == 2
    problems = capsys.readouterr().err
    assert message in problems
    assert problems.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["no-such.png"], "visionsplit: the input no-such.png does not exist\n"),
        (["--method", "no-such"], "visionsplit: unknown method 'no-such'; there are: "),
        (["--method", "none", "--ratios", "1,0.5"], "visionsplit: method 'none' keeps every token; "),
        (["--guidance", "a sign"], "visionsplit: score 'global_local' looks at no text"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_any_service_starts(options, message, capsys):
    assert main(["plan", *options]) == 1
    output, problems = capsys.readouterr()
    assert output == ""
    assert problems.startswith(message)
    assert problems.count("\n") == 1
    assert main(["plan", *options, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["message"] in problems
