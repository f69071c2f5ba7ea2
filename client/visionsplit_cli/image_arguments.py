"""The images that a command line names."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from visionsplit.images import SUFFIXES
from visionsplit.network.locations import describe, is_url
from visionsplit_client import ImageSource

from visionsplit_cli import options

STDIN = "-"
IMAGE_HELP = "An image: a path, a URL, a data: URL, or - for standard input."


def check_images(args: argparse.Namespace, names: Sequence[str]) -> None:
    """End with a wrong usage where standard input is named, and cannot be read."""
    if STDIN not in names:
        return
    if names.count(STDIN) > 1:
        options.usage_error(args, "standard input (-) holds one image and can be given once")
    if sys.stdin is None or sys.stdin.isatty():
        options.usage_error(args, "no image comes from standard input (-)")


def source_of(name: str) -> ImageSource:
    """What the client reads for a word of the command line."""
    return sys.stdin.buffer if name == STDIN else name


def shown(name: str) -> str:
    """What messages and tables call an image: short, and without a password."""
    return "standard input" if name == STDIN else describe(name)


def exists(word: str) -> bool:
    """Whether a word is the path of something that is there."""
    try:
        return Path(word).exists()
    except (OSError, ValueError):  # too long, or a null byte
        return False


def looks_like_image(word: str) -> bool:
    """Whether a word is more likely an image than a question: something that is there, a URL, or a name like a.png."""
    if word == STDIN or exists(word) or (is_url(word) and not any(map(str.isspace, word.strip()))):
        return True
    if any(map(str.isspace, word)):
        return False
    # Also formats that are not read: a name such as b.ico is meant as an image all the same.
    return Path(word).suffix.lower() in {*SUFFIXES, *Image.registered_extensions()}
