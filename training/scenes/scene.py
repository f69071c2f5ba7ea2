"""Describes a scene: its size and its items, before a pixel is drawn."""

from dataclasses import dataclass

from training.scenes.vocabulary import PLACES, SIGN


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def centre(self) -> tuple[float, float]:
        """x and y."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def union(self, other: "Box") -> "Box":
        """The smallest box that contains both."""
        return Box(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    def overlaps(self, other: "Box", gap: float) -> bool:
        """Whether there are less than `gap` pixels between the two."""
        return (
            self.left < other.right + gap
            and other.left < self.right + gap
            and self.top < other.bottom + gap
            and other.top < self.bottom + gap
        )


@dataclass(frozen=True)
class Print:
    """Printed text on its board."""

    text: str
    box: Box  # of the board
    font: int  # index into the fonts
    size: float  # of the font, pixels
    board: str  # a colour


@dataclass(frozen=True)
class Item:
    """An object, a coloured shape, or a sign."""

    kind: str
    colour: str | None  # of shapes and signs
    box: Box
    reads: Print | None = None  # a sign's text
    label: Print | None = None  # a label under an object
    price: Print | None = None  # a price tag under an object

    @property
    def prints(self) -> tuple[Print, ...]:
        return tuple(each for each in (self.reads, self.label, self.price) if each is not None)

    @property
    def footprint(self) -> Box:
        """The item's box including its label and price tag."""
        box = self.box
        for each in self.prints:
            box = box.union(each.box)
        return box

    @property
    def name(self) -> str:
        """The colour, if it has one, and the kind: "cat", "red heart", "blue sign"."""
        return self.kind if self.colour is None else f"{self.colour} {self.kind}"

    @property
    def is_sign(self) -> bool:
        return self.kind == SIGN


@dataclass(frozen=True)
class Scene:
    """An image to be drawn: its items and their positions."""

    width: int  # pixels
    height: int  # pixels
    items: tuple[Item, ...]
    scale: float  # pixels per layout pixel; backdrop and clutter follow it
    seed: str  # of the backdrop and the clutter

    def cell(self, item: Item) -> tuple[int, int]:
        """Row and column, 0 to 2, of the third of the image that contains the item's centre."""
        x, y = item.box.centre
        return min(int(3 * y / self.height), 2), min(int(3 * x / self.width), 2)

    def place(self, item: Item) -> str:
        """Where the item is in the image: "at the top left"."""
        row, column = self.cell(item)
        return PLACES[row][column]

    def in_reading_order(self) -> list[Item]:
        """The items by row of thirds, then by column, then from left to right."""
        return sorted(self.items, key=lambda item: (*self.cell(item), *item.box.centre))
