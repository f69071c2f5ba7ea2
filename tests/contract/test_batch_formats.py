"""The formats that the command line offers are those that batch jobs know."""

from visionsplit_batch.formats import INPUT_FORMATS, OUTPUT_FORMATS
from visionsplit_batch.sinks import FORMATS as SINKS
from visionsplit_batch.sources.factory import FORMATS as SOURCES


def test_each_format_can_be_named_on_the_command_line():
    assert tuple(kind.format for kind in SOURCES) == INPUT_FORMATS
    assert tuple(SINKS) == OUTPUT_FORMATS
