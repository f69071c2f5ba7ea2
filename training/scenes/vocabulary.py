"""What a scene can contain: kinds of objects, shapes, colours, places, and the texts of signs and labels."""

EMOJI = {
    "apple": "🍎",
    "ball": "⚽",
    "banana": "🍌",
    "bell": "🔔",
    "bicycle": "🚲",
    "bird": "🐦",
    "boat": "⛵",
    "book": "📕",
    "bus": "🚌",
    "butterfly": "🦋",
    "cactus": "🌵",
    "cake": "🎂",
    "camera": "📷",
    "car": "🚗",
    "carrot": "🥕",
    "cat": "🐱",
    "chair": "🪑",
    "clock": "⏰",
    "cow": "🐮",
    "cup": "☕",
    "dog": "🐶",
    "drum": "🥁",
    "elephant": "🐘",
    "fish": "🐟",
    "flower": "🌻",
    "frog": "🐸",
    "gift": "🎁",
    "grapes": "🍇",
    "guitar": "🎸",
    "hat": "🎩",
    "house": "🏠",
    "key": "🔑",
    "lamp": "💡",
    "lemon": "🍋",
    "lion": "🦁",
    "pig": "🐷",
    "pizza": "🍕",
    "rabbit": "🐰",
    "rocket": "🚀",
    "shoe": "👟",
    "snail": "🐌",
    "strawberry": "🍓",
    "train": "🚂",
    "tree": "🌳",
    "umbrella": "☂",
    "watermelon": "🍉",
}
SHAPES = ("arrow", "circle", "cross", "diamond", "heart", "moon", "ring", "square", "star", "triangle")
SIGN = "sign"
KINDS = (*EMOJI, *SHAPES, SIGN)

COLOURS = {
    "red": (214, 34, 40),
    "orange": (245, 138, 24),
    "yellow": (250, 216, 32),
    "green": (38, 150, 62),
    "blue": (36, 92, 214),
    "purple": (136, 48, 176),
    "black": (24, 24, 26),
    "white": (250, 250, 250),
}
DARK_COLOURS = ("red", "green", "blue", "purple", "black")  # boards that carry white text

# Rows and columns of thirds, top to bottom and left to right, as they follow the name of an item.
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the centre", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)

# Without I, O, Q, S, Z, 0, 1, 2, 5 and 8, no two characters of a code can be confused.
CODE_CHARACTERS = "ABCDEFGHJKLMNPRTUVWXY34679"
WORDS = (
    "BAKERY", "BANK", "BAR", "BIKES", "BOOKS", "BUS", "CAFE", "CHEAP", "CINEMA", "CLOSED", "DANGER", "ENTER", "EXIT",
    "FERRY", "FIRE", "FISH", "FREE", "FRUIT", "GARAGE", "GYM", "HALL", "HELP", "HOTEL", "ICE", "KIOSK", "LIFT",
    "LUNCH", "MARKET", "MENU", "METRO", "MILK", "MUSEUM", "MUSIC", "NEW", "NORTH", "OFFICE", "OPEN", "PARK", "PIZZA",
    "POLICE", "POOL", "POST", "PUSH", "RENT", "SALE", "SHOP", "SLOW", "SOUTH", "STATION", "STOP", "TAXI", "TEA",
    "TICKETS", "TOILETS", "TOURS", "TOYS", "WATER", "WEST", "ZOO",
)  # fmt: skip
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789$."  # every character that can be printed in a scene

_IRREGULAR_PLURALS = {"butterfly": "butterflies", "cactus": "cacti", "fish": "fish", "grapes": "grapes"}


def plural(kind: str) -> str:
    """The kind's plural: "foxes", "butterflies"."""
    if kind in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[kind]
    ending = "ies" if kind.endswith("rry") else "es" if kind.endswith(("s", "x", "ch", "sh")) else "s"
    return (kind[:-1] if ending == "ies" else kind) + ending


def with_article(noun: str) -> str:
    """The noun with "a", "an", or "some" for the one that is a plural."""
    if noun == "grapes":
        return "some grapes"
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
