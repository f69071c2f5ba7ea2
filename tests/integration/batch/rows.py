"""An input for the runners: files in a folder. It is a separate module, so that Ray's workers can import it."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionsplit_batch.rows.rows import Content, Entry, Failure, Outcome, Question, Slice
from visionsplit_client import AsyncClient, Compression, EncodedImage, Sampling

from tests.noise import noise_image

KEEP_HALF = Compression("globalcom2", 0.5)
SHORT = Sampling(max_new_tokens=6)
SIZES = ((112, 112), (56, 112), (112, 56), (100, 70))


class Deadly(dict[str, Any]):
    """A row's columns that bring down the process which looks at them, as a fault in a library of C would."""

    def get(self, key: str, default: Any = None) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Files:
    """Each file is an image, or vision tokens; its name without the ending is the column "title"."""

    folder: Path
    questions: tuple[Question, ...] = ()
    repeat: int = 1
    titles: Mapping[str, str | None] = field(default_factory=dict)  # in place of the names
    deadly: str | None = None  # an entry's id
    only_first: str | None = None  # a file that is not repeated

    def settings(self) -> Mapping[str, Any]:
        return {"folder": str(self.folder)}

    def entries(self) -> Iterator[Entry]:
        for number in range(self.repeat):
            for path in sorted(self.folder.iterdir()):
                if not number or path.name != self.only_first:
                    yield Entry(f"{number}/{path.name}", str(path))

    def read(self, entries: Sequence[Entry]) -> Iterator[Content | Failure]:
        for entry in entries:
            path = Path(entry.path)
            columns = {"title": self.titles.get(path.stem, path.stem)}
            if entry.id == self.deadly:
                columns = Deadly(columns)
            try:
                if path.suffix == ".safetensors":
                    yield Content(tokens=(EncodedImage.load(path),), questions=self.questions, fields=columns)
                else:
                    yield Content((path.read_bytes(),), questions=self.questions, fields=columns)
            except OSError as error:
                yield Failure.of(error, "read")


def write_images(folder: Path, count: int) -> Path:
    """`count` different PNG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise_image(*SIZES[number % len(SIZES)], seed=number).save(folder / f"image{number:03}.png")
    return folder


def slices(source: Files, rows: int = 4) -> Iterator[Slice]:
    """All rows, `rows` together, two slices to a part."""
    entries = list(source.entries())
    for number, start in enumerate(range(0, len(entries), rows)):
        some = entries[start : start + rows]
        yield Slice(number // 2, tuple(range(start, start + len(some))), tuple(some))


def by_id(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    """They must be one for each row."""
    found = {outcome.id: outcome for outcome in outcomes}
    assert len(found) == len(outcomes)
    return found


async def plain_loop(client: AsyncClient, source: Files, prompt: str) -> dict[str, str]:
    """What a caller without any batch job would get."""
    return {
        entry.id: (
            await client.generate(
                Path(entry.path),
                prompt.replace("{title}", Path(entry.path).stem),
                compression=KEEP_HALF,
                sampling=SHORT,
            )
        ).text
        for entry in source.entries()
    }
