"""Ten photos with a text each, in every format of annotation files."""

import json

from pixel_bert_jax.data.sources import SOURCES
from tests.data.conftest import encoded, photo

COUNT = 10


def _coco(root):
    name = "COCO_val2014_{:012d}.jpg".format
    images = [
        {"id": n, "file_name": name(n), "height": 40, "width": 50} for n in range(COUNT)
    ]
    texts = [{"id": n, "image_id": n, "caption": "a cat"} for n in range(COUNT)]
    content = {"images": images, "annotations": texts}
    (root / "c.json").write_text(json.dumps(content))
    return {"annotations": "c.json", "images": "."}, [name(n) for n in range(COUNT)]


def _flickr(root):
    lines = "".join(f"{n}.jpg#0\ta cat\n" for n in range(COUNT))
    (root / "f.token").write_text(lines)
    (root / "train.txt").write_text("".join(f"{n}.jpg\n" for n in range(COUNT)))
    fields = {"annotations": "f.token", "split_list": "train.txt", "images": "."}
    return fields, [f"{n}.jpg" for n in range(COUNT)]


def _jsonl(root):
    lines = [
        json.dumps({"image": f"{n}.jpg", "texts": ["a cat"]}) for n in range(COUNT)
    ]
    (root / "a.jsonl").write_text("\n".join(lines))
    return {"annotations": "a.jsonl"}, [f"{n}.jpg" for n in range(COUNT)]


def _own(root):
    lines = [
        json.dumps({"image": f"{n}.jpg", "caption": "a cat", "split": "train"})
        for n in range(COUNT)
    ]
    (root / "captions.jsonl").write_text("\n".join(lines))
    return {"texts": "captions"}, [f"{n}.jpg" for n in range(COUNT)]


def _karpathy(root):
    images = [
        {
            "filename": f"{n}.jpg",
            "imgid": n,
            "split": "train",
            "sentences": [{"raw": "a cat", "sentid": n}],
        }
        for n in range(COUNT)
    ]
    (root / "k.json").write_text(json.dumps({"images": images}))
    return {"annotations": "k.json"}, [f"{n}.jpg" for n in range(COUNT)]


def _nlvr2(root):
    lines = [
        {"identifier": f"dev-1-{n}-0", "sentence": "a cat", "label": "True"}
        for n in range(COUNT // 2)
    ]
    (root / "n.json").write_text("\n".join(map(json.dumps, lines)))
    keys = [f"dev-1-{n // 2}-img{n % 2}.png" for n in range(COUNT)]
    return {"annotations": "n.json", "images": "."}, keys


def _visual_genome(root, entries="regions"):
    images = [
        {
            "image_id": n,
            "url": f"https://example.org/VG_100K_2/{n}.jpg",
            "width": 50,
            "height": 40,
            "coco_id": None,
        }
        for n in range(COUNT)
    ]
    box = {"x": 0, "y": 0, "width": 9, "height": 9}
    text = {"phrase": "a cat", "region_id": 0} | box
    if entries == "qas":
        text = {"question": "a cat", "answer": "a dog", "qa_id": 0}
    texts = [{"id": n, entries: [text | {"image_id": n}]} for n in range(COUNT)]
    (root / "images.json").write_text(json.dumps(images))
    (root / "texts.json").write_text(json.dumps(texts))
    (root / "VG_100K_2").mkdir()
    fields = {"annotations": "texts.json", "sizes": "images.json", "images": "."}
    return fields, [f"VG_100K_2/{n}.jpg" for n in range(COUNT)]


def _visual_genome_questions(root):
    return _visual_genome(root, "qas")


def _vqa(root):
    questions = [
        {"image_id": n, "question": "a cat", "question_id": n} for n in range(COUNT)
    ]
    answers = [
        {
            "question_id": n,
            "question_type": "is",
            "answer_type": "yes/no",
            "multiple_choice_answer": "yes",
            "answers": [{"answer": "yes"}],
        }
        for n in range(COUNT)
    ]
    head = {"data_subtype": "val2014"}
    (root / "q.json").write_text(json.dumps(head | {"questions": questions}))
    (root / "a.json").write_text(json.dumps(head | {"annotations": answers}))
    (root / "val2014").mkdir()
    fields = {"questions": {"train": "q.json"}, "answers": {"train": "a.json"}}
    keys = [f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(COUNT)]
    return fields | {"images": "."}, keys


FORMATS = {
    "coco": _coco,
    "flickr": _flickr,
    "jsonl": _jsonl,
    "karpathy": _karpathy,
    "nlvr2": _nlvr2,
    "own": _own,
    "visual_genome": _visual_genome,
    "visual_genome_questions": _visual_genome_questions,
    "vqa": _vqa,
}


class Folder:
    """Ten photos with a text each in one format; the first four are then damaged."""

    def __init__(self, kind, root):
        root.mkdir()
        self.kind, self.root = kind, root
        self.fields, self.keys = FORMATS[kind](root)
        for n, key in enumerate(self.keys):
            format = "PNG" if key.endswith("png") else "JPEG"
            (root / key).write_bytes(encoded(photo(40, 50, n), format))

    def damage(self):
        missing, empty, page, cut = (self.root / key for key in self.keys[:4])
        missing.unlink()
        empty.write_bytes(b"")
        page.write_bytes(b"<html>403 Forbidden</html>")
        cut.write_bytes(cut.read_bytes()[:-40])

    def source(self):
        config = {"source": self.kind, "name": "mine", **self.fields}
        return SOURCES[self.kind](config, "train", self.root)
