"""Features on disk: whole or not there, and never those of another photo or CNN."""

import ml_dtypes
import numpy as np
import pytest

from pixel_bert_jax.data.features import FeatureStore, PhotoFeatures
from pixel_bert_jax.data.images import ImageError
from pixel_bert_jax.types import InputError

ABOUT = {"variables": "abc", "source_canvases": [56]}
SIZE = np.array([96, 65])
X = np.random.default_rng(0).normal(0, 1, (3, 3, 5)).astype(np.float32)


def store_in(folder, about=ABOUT, dtype="float32"):
    return FeatureStore(folder, about, stride=32, channels=5, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_is_read(tmp_path, dtype):
    store = store_in(tmp_path, dtype=dtype)
    name = store.name(b"photo", SIZE, upright=True)
    assert not store.has(name)
    store.write(name, X)
    again = store_in(tmp_path, dtype=dtype)
    assert again.has(name)
    kind = np.float32 if dtype == "float32" else ml_dtypes.bfloat16
    assert again.read(name).dtype == kind
    np.testing.assert_array_equal(again.read(name), X.astype(kind))
    assert not list(tmp_path.rglob("*.tmp"))


def test_names_depend_on_all_that_features_depend_on():
    store = FeatureStore.__new__(FeatureStore)
    store.stride = 32
    pixels = np.zeros((4, 6, 3), np.uint8)
    cases = [
        (b"photo", SIZE, True),
        (b"other", SIZE, True),
        (b"photo", np.array([96, 66]), True),  # as many cells
        (b"photo", SIZE, False),
        (pixels, SIZE, True),
        (pixels.reshape(6, 4, 3), SIZE, True),
        (pixels.tobytes(), SIZE, True),
    ]
    assert len({store.name(*case) for case in cases}) == len(cases)


def test_another_cnn_has_another_folder(tmp_path):
    one, two = store_in(tmp_path), store_in(tmp_path, {**ABOUT, "variables": "abd"})
    half = store_in(tmp_path, dtype="bfloat16")
    assert len({one.folder, two.folder, half.folder}) == 3
    name = one.name(b"photo", SIZE, upright=True)
    one.write(name, X)
    assert one.has(name) and not two.has(name)
    (two.folder / "about.json").write_text((one.folder / "about.json").read_text())
    with pytest.raises(InputError, match="of another CNN"):
        store_in(tmp_path, {**ABOUT, "variables": "abd"})


def test_damage_is_noticed_and_named(tmp_path):
    store = store_in(tmp_path)
    name = store.name(b"photo", SIZE, upright=True)
    store.write(name, X)
    (path,) = tmp_path.rglob("*.bin")
    content = path.read_bytes()
    for wrong in (content[:-1], content[:10], b""):
        path.write_bytes(wrong)
        with pytest.raises(InputError, match=rf"{path}.*{len(wrong)} bytes, expected"):
            store.has(name)
        with pytest.raises(InputError, match="damaged"):
            store.read(name)
    path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    assert store.has(name)  # only its size is looked at before it is read
    with pytest.raises(InputError, match=r"SHA-256.*remove it"):
        store.read(name)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        store.read(name)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be kept.*data\.feature_dir"):
        store_in(tmp_path / "file")


def test_a_photo_that_failed_says_why(tmp_path):
    found = PhotoFeatures(store_in(tmp_path), {}, {3: "not a whole JPEG"})
    with pytest.raises(ImageError, match="not a whole JPEG"):
        found.read(3)
