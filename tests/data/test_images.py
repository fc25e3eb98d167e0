import hashlib
import io
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from pixel_bert_jax.data import images
from pixel_bert_jax.data.images import ImageError, decode
from pixel_bert_jax.ops.image import resize_matrix


def _gradient(height=40, width=56):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 4, columns * 4, (rows + columns) * 2], 2).astype(np.uint8)


def _save(image, format, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_equals_pillow_to_the_byte(options):
    data = _save(_gradient(), "JPEG", **options)
    expected = np.array(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode(data, (40, 56)), expected)
    np.testing.assert_array_equal(decode(data + b"trailing bytes"), expected)


def test_grey_and_cmyk_jpeg_become_rgb():
    grey = decode(_save(Image.fromarray(_gradient()).convert("L"), "JPEG"))
    assert grey.shape == (40, 56, 3) and (grey == grey[..., :1]).all()
    data = _save(Image.fromarray(_gradient()).convert("CMYK"), "JPEG", quality=95)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode(data) - expected).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_are_exact(format):
    data = _save(
        _gradient(), format, **({"lossless": True} if format == "WEBP" else {})
    )
    np.testing.assert_array_equal(decode(data, (40, 56)), _gradient())


def test_grey_alpha_palette_and_16_bit_png():
    rgb = Image.fromarray(_gradient())
    alpha = Image.fromarray(_gradient()[..., 0])
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    np.testing.assert_array_equal(decode(_save(rgba, "PNG")), _gradient())
    grey = np.repeat(np.array(rgb.convert("L"))[..., None], 3, 2)
    np.testing.assert_array_equal(decode(_save(rgb.convert("L"), "PNG")), grey)
    np.testing.assert_array_equal(decode(_save(rgb.convert("LA"), "PNG")), grey)
    palette = rgb.quantize(16)
    expected = np.array(palette.convert("RGB"))
    np.testing.assert_array_equal(decode(_save(palette, "PNG")), expected)
    np.testing.assert_array_equal(
        decode(_save(palette, "PNG", transparency=3)), expected
    )
    deep = (np.arange(40 * 56).reshape(40, 56) * 29).astype(np.uint16)
    shallow = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(decode(_save(deep, "PNG")), shallow)
    bits = Image.fromarray(_gradient()[..., 0] > 80)
    assert set(np.unique(decode(_save(bits, "PNG")))) == {0, 255}


def test_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((6, 8, 3), v, np.uint8)) for v in (30, 200)]
    data = _save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data) == 30).all()


def test_pixels_do_not_depend_on_the_machine():
    # A decoder that changes its arithmetic would change every figure of a run.
    digest = hashlib.sha256(decode(_save(_gradient(), "PNG"))).hexdigest()
    assert digest == hashlib.sha256(_gradient().tobytes()).hexdigest()
    shrunk = images.shrink(_gradient(), (17, 23))
    assert hashlib.sha256(shrunk.tobytes()).hexdigest()[:16] == "517f82220c124d2d"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed_unless_sizes_are_raw(format, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = _save(_gradient(), format, exif=exif, **options)
    opened = Image.open(io.BytesIO(data))
    seen = np.array(ImageOps.exif_transpose(opened))
    size = (56, 40) if orientation > 4 else (40, 56)
    np.testing.assert_array_equal(decode(data, size), seen)
    stored = np.array(opened)
    np.testing.assert_array_equal(decode(data, (40, 56), upright=False), stored)
    path = tmp_path / "photo"
    path.write_bytes(data)
    assert images.measure(path, upright=True) == size
    assert images.measure(path, upright=False) == (40, 56)


def test_a_broken_exif_block_is_no_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 9
    (tmp_path / "9.jpg").write_bytes(_save(_gradient(), "JPEG", exif=exif))
    exif[0x0112] = 6
    data = _save(_gradient(), "JPEG", exif=exif)
    broken = data.replace(b"Exif\0\0MM", b"Exif\0\0xx").replace(
        b"Exif\0\0II", b"Exif\0\0xx"
    )
    assert broken != data
    (tmp_path / "xx.jpg").write_bytes(broken)
    for path in tmp_path.iterdir():
        assert images.measure(path, upright=True) == (40, 56)
        assert decode(path.read_bytes()).shape == (40, 56, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("keep", [0, 2, 20, 0.3, 0.9, -12, -2])
def test_cut_files_are_refused(format, keep):
    data = _save(_gradient(), format)
    cut = int(keep * len(data)) if 0 < keep < 1 else keep
    with pytest.raises(ImageError):
        decode(data[:cut])


def _photo():
    """Noise, so that a JPEG has thousands of bytes to damage."""
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def _damaged(kind):
    data = _save(_photo(), "JPEG", progressive=kind == "bad code")
    middle = len(data) // 2
    if kind == "padding":
        return data[:-2] + b"\x55" * 1041 + data[-2:]
    return data[:middle] + b"\x12" * 8 + data[middle + 8 :]


@pytest.mark.parametrize(
    ("kind", "warning"),
    [
        ("padding", "extraneous bytes before marker 0xd9"),
        ("bad code", "Corrupt JPEG data"),
    ],
)
def test_a_jpeg_with_a_warning_is_what_every_viewer_shows(kind, warning, tmp_path):
    data, said = _damaged(kind), []
    image = decode(data, (64, 64), report=said.append)
    np.testing.assert_array_equal(image, np.array(Image.open(io.BytesIO(data))))
    assert len(said) == 1 and warning in said[0]
    with pytest.warns(UserWarning, match=warning):  # where nobody else listens
        decode(data)
    (tmp_path / "p.jpg").write_bytes(data)
    assert images.measure(tmp_path / "p.jpg", upright=True) == (64, 64)
    if kind == "padding":
        np.testing.assert_array_equal(image, decode(_save(_photo(), "JPEG")))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9", bytes(900)])
def test_a_jpeg_that_lacks_data_is_refused_with_or_without_an_end(progressive, end):
    whole = _save(_photo(), "JPEG", progressive=progressive)
    for share in (0.4, 0.7, 0.95):
        with pytest.raises(ImageError, match="not a whole JPEG"):
            decode(whole[: int(share * len(whole))] + end)


def test_a_thumbnail_does_not_end_a_cut_photo():
    whole = _save(_photo(), "JPEG", progressive=True)
    # A comment with a whole JPEG inside, and a scan that starts with bytes too many.
    small = _save(_gradient(8, 8), "JPEG")
    comment = b"\xff\xfe" + struct.pack(">H", len(small) + 2) + small
    scan = whole.rindex(b"\xff\xda")
    data = whole[:2] + comment + whole[2:scan] + b"\x55" * 9 + whole[scan:]
    said = []
    decode(data, report=said.append)
    assert "extraneous bytes before marker 0xda" in said[0]
    with pytest.raises(ImageError, match=r"not a whole JPEG: .*extraneous"):
        decode(data[:-20], report=said.append)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_measuring_agrees_with_decoding(format, tmp_path):
    path = tmp_path / "misnamed.txt"
    whole = _save(_photo(), format)
    tails = (b"", b"trailing bytes")
    cuts = (len(whole) // 2,) if format in ("JPEG", "PNG") else ()
    for data in (*(whole + tail for tail in tails), *(whole[:cut] for cut in cuts)):
        path.write_bytes(data)
        try:
            expected = decode(data).shape[:2]
        except ImageError as error:
            with pytest.raises(ImageError) as raised:
                images.measure(path, upright=True)
            assert str(raised.value) == str(error)
        else:
            assert images.measure(path, upright=True) == expected == (64, 64)
    assert cuts == () or isinstance(raised.value, ImageError)


@pytest.mark.parametrize("data", [b"", b"<html>403</html>", b"\xff\xd8\xff", b"GIF89a"])
def test_what_is_no_image_has_no_size(data, tmp_path):
    (tmp_path / "p.jpg").write_bytes(data)
    with pytest.raises(ImageError):
        images.measure(tmp_path / "p.jpg", upright=False)


def test_noise_in_the_body_is_refused():
    data = bytearray(_save(_gradient(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageError):
        decode(bytes(data))


def test_a_web_page_named_jpg_is_refused_with_its_beginning():
    with pytest.raises(ImageError, match="<!DOCTYPE html>"):
        decode(b"<!DOCTYPE html>\n<title>404</title>")
    with pytest.raises(ImageError, match="empty"):
        decode(b"")


def test_decompression_bombs_are_refused_before_decoding():
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body))
            + kind
            + body
            + struct.pack(">I", zlib.crc32(kind + body))
        )

    magic = b"\x89PNG\r\n\x1a\n"
    data = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match=r"pixels|bomb"):
        decode(magic + chunk(b"IHDR", header) + data)
    text = b"comment\x00\x00" + zlib.compress(bytes(80_000_000))
    small = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    with pytest.raises(ImageError):
        decode(magic + chunk(b"IHDR", small) + chunk(b"zTXt", text) + data)
    jpeg = bytearray(_save(_gradient(), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 50_000, 50_000)
    with pytest.raises(ImageError, match="50000x50000"):
        decode(bytes(jpeg))


def test_size_must_be_that_of_the_annotations():
    with pytest.raises(ImageError, match=r"40x56 pixels.*received 56x40"):
        decode(_save(_gradient(), "JPEG"), (56, 40))


def test_pixels_are_passed_through_after_a_check():
    pixels = _gradient()
    assert decode(pixels, (40, 56)) is pixels
    for wrong in (pixels[..., :1], pixels.astype(np.float32), pixels[0]):
        with pytest.raises(ImageError, match=r"uint8 \[h, w, 3\]"):
            decode(wrong)


def _laid(image, source):
    canvas = np.zeros((source, source, 3), np.uint8)
    return canvas, images.lay(image, canvas)


def test_small_images_are_copied_and_large_ones_shrunk():
    canvas, size = _laid(_gradient(), 64)
    assert canvas.shape == (64, 64, 3) and size == (40, 56)
    np.testing.assert_array_equal(canvas[:40, :56], _gradient())
    assert not canvas[40:].any() and not canvas[:, 56:].any()
    canvas, size = _laid(_gradient(), 28)
    assert size == (20, 28)
    expected = np.array(
        Image.fromarray(_gradient()).resize((28, 20), Image.Resampling.BILINEAR)
    ).astype(int)
    assert np.abs(canvas[:20] - expected).max() <= 1  # Pillow rounds between the axes
    assert not canvas[20:].any()
    thin, size = _laid(np.full((2, 900, 3), 77, np.uint8), 30)
    assert size == (1, 30) and (thin[:1] == 77).all()


@pytest.mark.parametrize(("n", "size"), [(56, 28), (57, 20), (40, 40), (301, 7)])
def test_shrinking_uses_the_filter_of_the_device(n, size):
    index, weight = images.triangle_taps(n, size)
    matrix = np.zeros((size, n))
    np.add.at(matrix, (np.arange(size)[:, None], index), weight)
    on_device = resize_matrix(jnp.int32(n), jnp.int32(size), size, n)
    np.testing.assert_allclose(matrix, on_device, atol=2e-6)
