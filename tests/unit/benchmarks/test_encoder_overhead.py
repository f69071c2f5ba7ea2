"""`make bench-encoder`'s stages without the service, on a tiny model."""

from pathlib import Path

from benchmarks.batch.inputs import write_images
from benchmarks.encoder_overhead.bare import Stages
from benchmarks.encoder_overhead.served import CONDITIONS


def test_every_stage_is_measured(random_checkpoints: dict[str, Path], tmp_path: Path):
    found = Stages(random_checkpoints["llama"], write_images(tmp_path / "images", range(2)), callers=2).measure()
    assert 0 < found.prepared_tower < found.tower
    assert set(found.encoding) == {condition.name for condition in CONDITIONS}
    assert all(seconds > 0 for stages in found.encoding.values() for seconds in stages.values())
