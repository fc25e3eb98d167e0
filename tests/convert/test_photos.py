"""Photos as users pass them: one meaning for each form, or a refusal in words."""

import io

import numpy as np
import pytest
from PIL import Image

from pixel_bert_jax.convert.photos import to_pixels
from pixel_bert_jax.data.images import ImageError

DRAW = np.random.default_rng(0)
RGB = DRAW.integers(0, 256, (4, 6, 3)).astype(np.uint8)
GREY = RGB[:, :, 0]
ALPHA = DRAW.integers(0, 256, (4, 6, 1)).astype(np.uint8)
RGBA = np.concatenate([RGB, ALPHA], axis=2)
DEEP = DRAW.integers(0, 65536, (4, 6)).astype(np.uint16)


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def repeated(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


@pytest.mark.parametrize(
    ("photo", "wanted"),
    [
        (RGB, RGB),
        (GREY, repeated(GREY)),
        (GREY[:, :, None], repeated(GREY)),
        (RGBA, RGB),
        (RGB.astype(np.float32) / 255, RGB),
        (GREY.astype(np.float64) / 255, repeated(GREY)),
        (np.zeros((4, 6, 3), np.float32), np.zeros_like(RGB)),
        (encoded(Image.fromarray(RGB)), RGB),
        (bytearray(encoded(Image.fromarray(RGB))), RGB),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY), repeated(GREY)),
        (Image.fromarray(RGBA), RGB),
        (Image.open(io.BytesIO(encoded(Image.fromarray(RGB)))), RGB),
        (Image.fromarray(DEEP), repeated((DEEP >> 8).astype(np.uint8))),
    ],
)
def test_every_form_of_one_photo(photo, wanted):
    (got,) = to_pixels(photo)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, wanted)


def test_paths_and_several_photos(tmp_path):
    path = tmp_path / "photo.jpg"  # the name does not decide the format
    path.write_bytes(encoded(Image.fromarray(RGB)))
    for photos in (path, str(path), [path], (str(path),)):
        (got,) = to_pixels(photos)
        np.testing.assert_array_equal(got, RGB)
    assert [x.shape for x in to_pixels([path, GREY])] == [(4, 6, 3)] * 2
    assert [x.shape for x in to_pixels(np.stack([RGB, RGB]))] == [(4, 6, 3)] * 2


def test_a_pil_image_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    photo = Image.open(io.BytesIO(encoded(Image.fromarray(RGB), exif=exif)))
    (got,) = to_pixels(photo)
    np.testing.assert_array_equal(got, np.rot90(RGB, -1))


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (RGB.astype(np.float32), "floats from 0 to 1, received 0 to 255"),
        (np.full((4, 6), np.nan, np.float32), "received nan to nan"),
        (GREY.astype(np.int64), "array of uint8.* received int64"),
        (GREY > 9, "received bool"),
        (RGB.transpose(2, 0, 1), r"received \[3, 4, 6\]; channels come last"),
        (RGB[:0], r"received \[0, 6, 3\]"),
        (RGB[0, 0], r"received \[3\]"),
        (Image.fromarray(GREY.astype(np.float32)), "PIL image of floats"),
        ("no/such/photo.jpg", r"No such file.*no/such/photo\.jpg"),
        ("a\0b", "cannot be read"),
        (b"", "the file is empty"),
        (None, "received NoneType"),
        ([RGB, [1, 2]], r"photos\[1\]: .*received list"),
    ],
)
def test_what_is_no_photo_is_refused_in_words(photo, message):
    with pytest.raises(ImageError, match=message):
        to_pixels(photo)


def test_a_pil_image_of_a_cut_file_is_refused():
    data = encoded(Image.fromarray(RGB.repeat(50, axis=0)))
    with pytest.raises(ImageError, match="PIL image cannot be read"):
        to_pixels(Image.open(io.BytesIO(data[: len(data) // 2])))
