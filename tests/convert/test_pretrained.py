"""Exported folders: bit-equal round trips, and refusals that say what is wrong."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file

from configs import pretrain
from pixel_bert_jax import dry_run, trees
from pixel_bert_jax.config import resolve
from pixel_bert_jax.convert import __main__ as convert
from pixel_bert_jax.convert import vocabulary
from pixel_bert_jax.convert.pretrained import Pretrained, check_fits, from_pretrained
from pixel_bert_jax.convert.starting import from_trained
from pixel_bert_jax.data.images import ImageError
from pixel_bert_jax.data.text import SPECIAL_TOKENS, load_tokenizer
from pixel_bert_jax.types import InputError
from tests.convert.hub_server import HubServer

PHOTOS = [(97, 130), (131, 90)]  # (height, width): wide and tall


def random_model(seed=0):
    """A small model with random variables."""
    config = pretrain.get_config("tiny")
    config.model.features, config.model.heads, config.model.hidden = 16, 2, 24
    tokenizer = load_tokenizer("scenes")
    config.dry_run.vocab_size = tokenizer.vocab_size
    config = json.loads(config.to_json_best_effort())
    shapes = dry_run.Planned(config).variable_shapes
    draw = np.random.default_rng(seed).uniform
    variables = jax.tree.map(
        lambda leaf: draw(0.1, 1, leaf.shape).astype(np.float32), shapes
    )
    record = {"step": 7, "figures": {"scenes/match": 0.5, "scenes/words": None}}
    return Pretrained.of(variables, config, tokenizer, record)


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture
def folder(tmp_path, model):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def assert_same(found, model):
    want, have = trees.flatten(model.variables), trees.flatten(found.variables)
    assert have.keys() == want.keys()
    for path, array in want.items():
        assert have[path].dtype == array.dtype
        np.testing.assert_array_equal(have[path], array)
    assert found.config == model.config
    assert found.provenance["step"] == 7
    assert found.provenance["figures"] == model.provenance["figures"]
    assert found.tokenizer.fingerprint == model.tokenizer.fingerprint


def photos():
    draw = np.random.default_rng(0).integers
    return [draw(0, 256, (*size, 3)).astype(np.uint8) for size in PHOTOS]


def test_round_trip_is_bit_equal(folder, model, tmp_path):
    found = from_pretrained(folder)
    assert_same(found, model)
    again = tmp_path / "again"
    found.save_pretrained(again)
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.runs
def test_the_model_runs_and_batch_mates_change_nothing(model):
    texts = ["a large red ring", "two blue discs"]
    both = model.inputs(photos(), texts)
    assert both["image"].shape == (2, 1, 112, 112, 3)
    assert both["image_size"].tolist() == [[[84, 112]], [[112, 77]]]
    out = model.model.apply(model.variables, **both)
    assert out.pooled.shape == (2, 16)
    for n, (photo, text) in enumerate(zip(photos(), texts, strict=True)):
        alone = model.inputs([photo], [text])
        assert alone["image"].shape[2:4] != both["image"].shape[2:4]
        one = model.model.apply(model.variables, **alone)
        np.testing.assert_allclose(one.pooled[0], out.pooled[n], atol=1e-5)


def test_a_jitted_function_may_close_over_the_variables(model):
    inputs = model.inputs(photos()[0], "a ring")
    want = model.model.apply(model.variables, **inputs)
    got = jax.jit(lambda x: model.model.apply(model.variables, **x))(inputs)
    for name in ("text", "visual", "pooled"):
        np.testing.assert_allclose(
            getattr(got, name), getattr(want, name), atol=1e-5, err_msg=name
        )


def test_inputs_that_do_not_fit(model):
    with pytest.raises(InputError, match="expected texts, received NoneType"):
        model.inputs(photos()[0], [None])
    with pytest.raises(ImageError, match=r"photos\[1\]: .*received int"):
        model.inputs([photos()[0], 7], ["a ring", "a disc"])
    with pytest.raises(InputError, match="2 photos and 1 texts"):
        model.inputs(photos(), ["a ring"])
    with pytest.raises(InputError, match="1 texts have more than 22 tokens"):
        model.inputs(photos(), ["a ring", "red " * 30])


def test_the_card_tells_facts_and_figures(folder, model):
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict()["library_name"] == "pixel_bert_jax"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("match", 0.5)
    count = sum(x.size for x in trees.flatten(model.variables).values())
    for text in (f"{count:,}", "2 layers of width 16", "| scenes/words | undefined |"):
        assert text in card.text


def read_record(folder):
    return json.loads((folder / "provenance.json").read_text())


def test_changed_variables_are_derived_from_their_origin(folder, tmp_path):
    """They have neither the step nor the metrics that were measured of the origin."""
    origin = from_pretrained(folder)
    other = jax.tree.map(lambda x: x + 1, origin.variables)
    changed = dataclasses.replace(origin, variables=other)
    changed.save_pretrained(tmp_path / "changed")
    record = read_record(tmp_path / "changed")
    assert record["step"] is None
    assert record["sha256"] == record["variables_sha256"] == trees.digest(other)
    assert record["figures"] == {"scenes/match": None, "scenes/words": None}
    assert record["derived_from"] == origin.provenance
    card = ModelCard.load(tmp_path / "changed" / "README.md")
    assert not card.data.eval_results and "0.5" not in card.content
    assert "| derived from: step | 7 |" in card.text and "Not measured" in card.text
    # Saved again as it is, it stays the same model.
    from_pretrained(tmp_path / "changed").save_pretrained(tmp_path / "again")
    assert read_record(tmp_path / "again") == record


def test_a_record_of_ones_own_replaces_the_origin(folder, tmp_path):
    origin = from_pretrained(folder)
    other = jax.tree.map(lambda x: x + 1, origin.variables)
    dataclasses.replace(
        origin, variables=other, provenance={"step": 9, "figures": {"my/metric": 0.25}}
    ).save_pretrained(tmp_path / "own")
    record = read_record(tmp_path / "own")
    assert record.pop("variables_sha256") == trees.digest(other)
    assert record == {"step": 9, "figures": {"my/metric": 0.25}}


def test_half_of_the_space(model, tmp_path):
    folder, whole = tmp_path / "half", tmp_path / "whole"
    model.save_pretrained(folder, half=True)
    model.save_pretrained(whole)
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, whole)]
    assert sizes[0] < 0.6 * sizes[1]
    found = from_pretrained(folder)
    for path, x in trees.flatten(model.variables).items():
        wanted = x.astype(np.float16).astype(np.float32) if x.ndim > 1 else x
        np.testing.assert_array_equal(trees.flatten(found.variables)[path], wanted)
        assert trees.flatten(found.variables)[path].dtype == np.float32
    again = tmp_path / "again"
    found.save_pretrained(again)  # as it was
    assert (again / "model.safetensors").stat().st_size == sizes[0]
    changed = jax.tree.map(lambda x: x + np.float32(1e-4), found.variables)
    dataclasses.replace(found, variables=changed).save_pretrained(tmp_path / "changed")
    assert (tmp_path / "changed/model.safetensors").stat().st_size == sizes[1]
    record = read_record(folder)
    assert record["derived_from"] == read_record(whole) and record["step"] is None
    assert record["variables_sha256"] == trees.digest(found.variables)
    flat = dict(trees.flatten(model.variables))
    flat["params/text/word"] = flat["params/text/word"] * 1e6
    large = dataclasses.replace(model, variables=trees.unflatten(flat))
    with pytest.raises(InputError, match=r"text/word has the value 1e\+06, too large"):
        large.save_pretrained(tmp_path / "large", half=True)


def test_fewer_tokens_compute_the_same(model, tmp_path):
    words = [*["a", "red", "ring", "and", "blue"], "[MASK]"]
    small = vocabulary.keep_tokens(model, words)
    small.save_pretrained(tmp_path / "small")
    found = from_pretrained(tmp_path / "small")
    assert set(found.tokenizer.vocabulary) == {*words, *SPECIAL_TOKENS}
    texts = ["a red ring and a [MASK] ring"] * 2
    want, got = (
        one.model.apply(one.variables, **one.inputs(photos(), texts))
        for one in (model, found)
    )
    np.testing.assert_array_equal(got.pooled, want.pooled)
    for path in vocabulary.ROWS:
        whole, part = (trees.flatten(m.variables).get(path) for m in (model, found))
        for row, token in enumerate(found.tokenizer.vocabulary):
            old = model.tokenizer.vocabulary.index(token)
            np.testing.assert_array_equal(part[row], whole[old])
    listed = tmp_path / "tokens.txt"
    listed.write_text("a\r\nred\n")
    assert vocabulary.read_tokens(listed) == ["a", "red"]
    with pytest.raises(InputError, match="cannot be read"):
        vocabulary.read_tokens(tmp_path / "none")
    with pytest.raises(InputError, match="1 of the tokens, such as 'zebra'"):
        vocabulary.keep_tokens(model, ["zebra", "a"])


def test_measured_metrics_come_into_the_card(folder, tmp_path, capsys):
    half, file = tmp_path / "half", tmp_path / "metrics.json"
    command = ["export", str(folder), "--half", f"--output={half}"]
    assert convert.main(command) == 0
    assert "Not measured" in (half / "README.md").read_text()
    file.write_text(json.dumps({"scenes/match": 0.75}))
    assert convert.main(["figures", str(half), str(file)]) == 0
    card = ModelCard.load(half / "README.md")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("match", 0.75)
    assert read_record(half)["figures"] == {"scenes/match": 0.75, "scenes/words": None}
    assert from_pretrained(half).provenance["derived_from"]["step"] == 7
    file.write_text(json.dumps({"scenes/match": 0.5, "scenes/x": None}))
    assert convert.main(["figures", str(half), str(file)]) == 0
    for wrong in ("{}", '{"a": true}', '{"a": "b"}'):
        file.write_text(wrong)
        assert convert.main(["figures", str(half), str(file)]) == 2
    assert convert.main(["figures", str(half), str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_name_that_is_also_a_folder_of_names_is_damage(folder):
    file = folder / "model.safetensors"
    arrays = load_file(file) | {"params/text/word/more": np.ones(2, np.float32)}
    save_file(arrays, file)
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        from_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "vocab.txt", "provenance.json"]
)
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        from_pretrained(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_cut_file_is_named(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=name):
        from_pretrained(folder)


def test_a_flipped_bit_is_noticed(folder):
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"model\.safetensors is damaged.*SHA-256"):
        from_pretrained(folder)


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_config_of_another_model_is_refused(folder):
    edit(folder / "config.json", lambda c: c["model"].update(layers=3))
    with pytest.raises(InputError, match=r"16 tensors differ: params/encoder/layer2"):
        from_pretrained(folder)


def test_images_of_another_normalisation_are_refused(folder):
    edit(folder / "config.json", lambda c: c["image"].update(channels="BGR"))
    with pytest.raises(InputError, match=r"normalises images by .*expects .*'BGR'"):
        from_pretrained(folder)


def test_nothing_is_overwritten(folder, model):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(InputError, match="not empty"):
        random_model(seed=1).save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_other_architecture_is_refused_with_both_shapes():
    variables = {
        "params": {"encoder": {"kernel": np.zeros((3, 4))}},
        "batch_stats": {"norm": {"mean": np.zeros(5)}},
    }
    target = {
        "params": {"encoder": {"kernel": np.zeros((3, 5)), "bias": np.zeros(5)}},
        "batch_stats": variables["batch_stats"],
    }
    with pytest.raises(InputError) as caught:
        check_fits(variables, target, "the folder")
    text = str(caught.value)
    assert "params/encoder/kernel" in text and "(3, 4)" in text and "(3, 5)" in text
    assert "params/encoder/bias" in text and "2 tensors" in text
    check_fits(variables, variables, "itself")


def test_a_new_head_inherits_what_its_objective_says(model):
    """A head that both models have is copied; of another one a part is inherited."""
    shapes = jax.tree.map(lambda x: x, model.variables)
    heads = shapes["params"]["heads"]
    heads["score"] = {"kernel": np.zeros((16, 1)), "bias": np.zeros(1)}
    itm = "params/heads/itm/classifier"
    inherits = {
        "params/heads/score/kernel": (f"{itm}/kernel", lambda x: x[:, 1:]),
        f"{itm}/bias": ("params/heads/mlm/bias", lambda x: x[:2]),
        "params/heads/absent/bias": (f"{itm}/bias", lambda x: x),
    }
    fields = resolve(model.config).model
    arrays, report = from_trained(model, fields, shapes, "it", inherits=inherits)
    have = trees.flatten(model.variables)
    kernel = arrays["params/heads/score/kernel"]
    np.testing.assert_array_equal(kernel, have[f"{itm}/kernel"][:, 1:])
    np.testing.assert_array_equal(arrays[f"{itm}/bias"], have[f"{itm}/bias"])
    assert report.missing == ["params/heads/score/bias"]
    assert report.loaded["params/heads/score/kernel"] == f"{itm}/kernel"
    inherits["params/heads/score/kernel"] = (f"{itm}/kernel", lambda x: x)
    with pytest.raises(InputError, match=r"score/kernel: received \(16, 2\), expected"):
        from_trained(model, fields, shapes, "it", inherits=inherits)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, and a cache of its own."""
    with HubServer() as server:
        # The client reads the environment when it is imported.
        for name, value in {
            "ENDPOINT": server.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.address
            + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        yield server


def test_pushed_and_loaded_again(hub, model):
    address = model.push_to_hub("us/tiny", token="hf_secret")
    assert address.endswith(hub.commits[-1])
    assert hub.tokens == {"Bearer hf_secret"}
    assert_same(from_pretrained("us/tiny"), model)
    first = hub.commits[-1]
    # A second version: the card stays as somebody may have changed it since.
    hub.files["README.md"] = b"edited"
    other = random_model(seed=1)
    other.push_to_hub("us/tiny", token="hf_secret")
    assert hub.files["README.md"] == b"edited"
    assert_same(from_pretrained("us/tiny"), other)
    assert_same(from_pretrained("us/tiny", revision=first), model)
    assert_same(from_pretrained(f"us/tiny@{first}"), model)


def test_a_hub_that_fails_is_an_error_in_words(hub, model):
    with pytest.raises(InputError, match="'us/none' is no local file or folder"):
        from_pretrained("us/none")
    hub.broken = True
    with pytest.raises(InputError, match="us/tiny"):
        model.push_to_hub("us/tiny", token="hf_secret")
    hub.close()
    with pytest.raises(InputError, match="the hub does not provide it"):
        from_pretrained("us/tiny")
