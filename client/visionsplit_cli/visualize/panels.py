"""What `visionsplit visualize` shows: an image under several compressions, at equal token counts where asked."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from visionsplit.errors import IncompatibleServicesError, InvalidCompressionError
from visionsplit.families import family_named
from visionsplit_client import Compression, EncodedImage

from visionsplit_cli import report
from visionsplit_cli.conditions import condition_name
from visionsplit_cli.visualize.drawing import Panel

Encode = Callable[[Compression], EncodedImage]
_MAX_CALLS = 12  # to match one compression's count


@dataclass(frozen=True)
class Shown:
    """A compression and what it kept of the image."""

    compression: Compression  # with the ratio at which the image was encoded
    image: EncodedImage
    asked: float | None  # the ratio before it was adjusted to a count
    answer: str | None = None  # of the model about these tokens

    @property
    def name(self) -> str:
        return condition_name(self.compression)

    @property
    def ratio(self) -> float | None:
        return self.compression.retention_ratio

    @property
    def newlines(self) -> int:
        """What the LLM service puts in, where the model's family has newlines between rows of tokens."""
        family = family_named(self.image.format.family)
        if family is None:
            raise IncompatibleServicesError(
                f"the encoder serves the family {self.image.format.family!r}, which this version does not know"
            )
        return family.num_newlines(self.image.tokens.grid, self.image.layout)

    @property
    def llm_tokens(self) -> int:
        """What of the image enters the language model."""
        return self.image.summary.tokens_after + self.newlines

    @property
    def title(self) -> str:
        return self.name if self.ratio is None else f"{self.name} at {self.ratio:.3g}"

    def panel(self, *, first_answer: str | None) -> Panel:
        """As it is drawn. An answer is marked as changed where it is another one than the first panel's."""
        summary = self.image.summary
        return Panel(
            self.title,
            self.image.tokens,
            f"{summary.tokens_after} of {summary.tokens_before} tokens + {self.newlines} newlines = "
            f"{self.llm_tokens} into the LLM, {report.size(summary.wire_bytes)}",
            self.answer,
            self.answer != first_answer,
        )


def encode_all(compressions: Iterable[Compression], encode: Encode, *, equal: bool) -> Iterator[Shown]:
    """Encode under each; if `equal`, those after the first at the ratio that comes closest to its token count.

    What is equalled is what enters the language model, newlines included: layouts have different numbers of them.
    Without a ratio a compression decides on its number itself and is left alone.
    """
    target: int | None = None
    for compression in compressions:
        shown = _encoded(compression, encode)
        if target is None:
            target = shown.llm_tokens
        elif equal and shown.ratio is not None:
            shown = _matched(shown, shown.ratio, target, encode)
        yield shown


def summary_table(shown: Iterable[Shown]) -> str:
    """What each compression kept."""
    rows = [
        [
            one.name,
            _ratio(one),
            str(one.image.summary.tokens_after),
            str(one.llm_tokens),
            str(one.image.tokens.budgets[0]),
            " ".join(map(str, one.image.tokens.budgets[1:])),
        ]
        for one in shown
    ]
    return report.table(["compression", "ratio", "tokens", "into the LLM", "thumbnail", "crops"], rows)


def _encoded(compression: Compression, encode: Encode) -> Shown:
    return Shown(compression, encode(compression), compression.retention_ratio)


def _matched(first: Shown, ratio: float, target: int, encode: Encode) -> Shown:
    """The ratio whose count is nearest to the target, of those that a search between 0 and 1 tries.

    Counts grow with the ratio, in steps of up to a token per tile. The search narrows a bracket, in turn by
    interpolating and by halving.
    """
    best, count = first, first.llm_tokens
    low, few = 0.0, first.newlines
    high, many = 1.0, first.newlines + first.image.summary.tokens_before
    for call in range(_MAX_CALLS):
        if count == target:
            break
        if count < target:
            low, few = ratio, count
        else:
            high, many = ratio, count
        if not few < target < many:
            break  # the count does not follow the ratio
        ratio = low + (high - low) * (0.5 if call % 2 else (target - few) / (many - few))
        shown = _tried(replace(first.compression, retention_ratio=ratio), encode)
        count = first.newlines if shown is None else shown.llm_tokens
        if shown is not None and abs(count - target) < abs(best.llm_tokens - target):
            best = shown
    return replace(best, asked=first.asked)


def _tried(compression: Compression, encode: Encode) -> Shown | None:
    """None where the ratio is so small that no token is left; at a larger one the encoder has taken the rest of it."""
    try:
        return _encoded(compression, encode)
    except InvalidCompressionError:
        return None


def _ratio(shown: Shown) -> str:
    if shown.ratio is None:
        return "-"
    return f"{shown.ratio:.4g}" + ("" if shown.ratio == shown.asked else f" (asked: {shown.asked:g})")
