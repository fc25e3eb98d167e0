"""A small annotated folder of photos, and a tokenizer of a dozen words."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixel_bert_jax.data import text
from pixel_bert_jax.data.sources import SOURCES

WORDS = ("a", "red", "blue", "cat", "dog", "on", "the", "mat", "is", "##s", "!", "zwei")


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random image: JPEG keeps it, and no two are alike."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, format: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


@dataclasses.dataclass
class PhotoFolder:
    """COCO-style captions of `count` photos below `root`; change and `write()`."""

    root: Path
    count: int = 12
    captions: int = 3

    def __post_init__(self):
        (self.root / "photos").mkdir(parents=True)
        self.content: dict[str, Any] = {"images": [], "annotations": []}
        for n in range(self.count):
            height, width = (48, 64) if n % 3 else (72, 40)
            name = f"COCO_val2014_{n + 7:012d}.jpg"
            self.file(name).write_bytes(encoded(photo(height, width, n)))
            self.content["images"].append(
                {"id": n + 7, "file_name": name, "height": height, "width": width}
            )
            for k in range(self.captions):
                self.content["annotations"].append(
                    {
                        "id": 100 * n + k,
                        "image_id": n + 7,
                        "caption": f"A red cat{'s' * (k % 2)} is on the mat" + " !" * k,
                    }
                )
        self.write()

    @property
    def annotations(self) -> Path:
        return self.root / "captions.json"

    def file(self, name: str) -> Path:
        return self.root / "photos" / name

    def name(self, n: int) -> str:
        return self.content["images"][n]["file_name"]

    def write(self) -> None:
        self.annotations.write_text(json.dumps(self.content))

    def source(self, name: str = "photos") -> Any:
        config = {"source": "coco", "name": name, "weight": 1.0}
        config |= {"annotations": "captions.json", "images": "photos"}
        return SOURCES["coco"](config, "train", self.root)


@pytest.fixture
def photos(tmp_path: Path) -> PhotoFolder:
    return PhotoFolder(tmp_path / "data")


@pytest.fixture(scope="session")
def tokenizer() -> text.WordPiece:
    return text.WordPiece((*text.SPECIAL_TOKENS, *WORDS))
