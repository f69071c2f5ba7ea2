"""GIF: the first frame on its screen."""

from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from visionsplit.images.pixels import to_rgb


def first_frame(image: Image.Image) -> Image.Image:
    """A loaded first frame as RGB. What it leaves free of the screen is white, where Pillow takes the first colour."""
    rgb = to_rgb(image)
    assert isinstance(image, GifImageFile), "Pillow's class for the format"
    covered = image.dispose_extent
    if covered in (None, (0, 0, *image.size)):
        return rgb
    screen = Image.new("RGB", image.size, "white")
    screen.paste(rgb.crop(covered), covered)
    return screen
