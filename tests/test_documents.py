"""What the documents print is true of the code: commands, files, config fields."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import ml_collections
import pytest

from configs import nlvr2, pretrain, retrieval, vqa
from pixel_bert_jax.predict import __main__ as predict

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pixel_bert_jax"
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
# Configs and the modules' own docstrings print commands too.
SOURCES = sorted(
    [*DOCUMENTS, *(ROOT / "configs").rglob("*.py"), *PACKAGE.glob("*.py")],
)
FOLDERS = ("pixel_bert_jax", "configs", "launch", "tests", "docs", "checkpoints")
# Files that the document of extensions shows whole; test_extending.py makes and runs
# them.
SHOWN = set(
    re.findall(
        r"`([\w./]+\.py)`:\n\n```python", (ROOT / "docs/extending.md").read_text()
    )
)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands(path: Path, start: str, words: int = 0) -> list[str]:
    """Finds commands of more than `words` words that begin with `start`."""
    text = path.read_text().replace("\\\n", " ")
    candidates = text.splitlines() + re.findall(r"`([^`\n]+)`", text)
    # A command may follow a prompt or variables: `$ NAME=value python ...`.
    prefix = re.compile(r"\s*(\$ )?([A-Z_]+=\S* )*")
    candidates = [prefix.sub("", code, count=1) for code in candidates]
    found = [code for code in candidates if code.startswith(start)]
    # `<name>` stands for what the reader fills in; a bare program name is prose.
    found = [code for code in dict.fromkeys(found) if "<" not in code]
    return [code for code in found if len(shlex.split(code, comments=True)) > words]


def all_commands(start: str, words: int = 0) -> list:
    return [
        pytest.param(command, id=f"{relative(path)}: {command}")
        for path in SOURCES
        for command in commands(path, start, words)
        if not any(f"--config={name}" in command for name in SHOWN)
    ]


def defined_flags() -> set[str]:
    """Reads the names of the flags of `main` from its source, without running it."""
    names = {"config"}  # pixel_bert_jax/config/command_line.py
    for node in ast.walk(ast.parse((PACKAGE / "main.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                if node.func.attr.startswith("DEFINE_"):
                    names.add(first.value)
                elif node.func.attr == "add_argument":
                    names.add(first.value.removeprefix("--"))
    assert "mode" in names, "main.py defines no flag --mode"
    return names


def load_config(value: str) -> ml_collections.ConfigDict:
    """Loads `configs/file.py:argument` as `main` does."""
    name, _, argument = value.partition(":")
    path = ROOT / name
    assert path.is_file(), f"no config file {name}"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument) if argument else module.get_config()


def all_presets() -> list[ml_collections.ConfigDict]:
    """Loads every preset that can be built."""
    return [
        load_config(f"configs/{Path(config.__file__).name}:{name}")
        for config in (pretrain, vqa, nlvr2, retrieval)
        for name in config.PRESETS
        if name
    ]


def field(config: ml_collections.ConfigDict, path: str) -> object:
    """Looks up `data.root`, failing with the part that does not exist."""
    node = config
    for name in path.split("."):
        assert isinstance(node, ml_collections.ConfigDict) and name in node, (
            f"the config has no field {path!r} (missing: {name!r})"
        )
        node = node[name]
    return node


def check_main_command(command: str) -> None:
    words = shlex.split(command, comments=True)[3:]
    arguments = [word.removeprefix("--").partition("=") for word in words]
    for word in words:
        assert word.startswith("--"), f"{word!r} is not written as --flag=value"
    configs = [value for name, _, value in arguments if name == "config"]
    assert len(configs) == 1, f"expected one --config, received {configs}"
    config = load_config(configs[0])
    flags = defined_flags()
    for name, _, _ in arguments:
        if name.startswith("config."):
            field(config, name.removeprefix("config."))
        else:
            assert name in flags, f"main has no flag --{name}; it has {sorted(flags)}"


@pytest.mark.parametrize("command", all_commands("python -m pixel_bert_jax.main", 3))
def test_main_commands_parse(command):
    check_main_command(command)


def test_a_wrong_command_is_noticed():
    start = "python -m pixel_bert_jax.main --config=configs/pretrain.py"
    check_main_command(f"{start}:tiny --workdir=runs/x --config.seed=1")
    for wrong in (":tiny --wrokdir=x", ":tiny --config.sed=1", ":tiny x", ":tinny"):
        with pytest.raises((AssertionError, ValueError, KeyError)):
            check_main_command(start + wrong)


def named_presets() -> list[str]:
    texts = [path.read_text() for path in SOURCES]
    return sorted({n for t in texts for n in re.findall(r"`(configs/\w+\.py:\w+)", t)})


@pytest.mark.parametrize("name", named_presets())
def test_named_presets_exist(name):
    assert isinstance(load_config(name), ml_collections.ConfigDict)


@pytest.mark.parametrize("command", all_commands("python -m pixel_bert_jax."))
def test_entry_points_exist(command):
    name = shlex.split(command)[2].removeprefix("pixel_bert_jax.").replace(".", "/")
    files = [PACKAGE / f"{name}.py", PACKAGE / name / "__main__.py"]
    assert any(file.is_file() for file in files), f"no module for {command!r}"


@pytest.mark.parametrize("command", all_commands("pixel-bert ", 2))
def test_questions_from_the_shell_parse(command):
    predict.parser().parse_args(shlex.split(command, comments=True)[1:])


@pytest.mark.parametrize("command", all_commands("bash ", 1))
def test_scripts_exist(command):
    script = shlex.split(command)[1]
    assert (ROOT / script).is_file(), f"no script {script}"


def test_readme_names_the_two_commands():
    found = commands(ROOT / "README.md", "bash ")
    assert "bash launch/quickstart.sh" in found
    assert "bash launch/test.sh" in found


def test_readme_python_runs(monkeypatch):
    """What a comment says of a value is what comes out."""
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        names = {}
        exec(block, names)
        claims = re.findall(r"^(\S+)  # (\([\d, ]+\))", block, re.M)
        assert claims
        for expression, value in claims:
            assert str(eval(expression, names)) == value


@pytest.mark.runs
def test_python_of_using_a_model_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    text, names = (ROOT / "docs/use.md").read_text(), {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, names)
    assert names["match"](names["predictor"].variables, names["batch"])


def test_the_site_has_every_document():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r": ([\w]+\.md)$", text, re.M)
    assert sorted(listed) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_and_files_exist(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (path.parent / target).exists(), f"{relative(path)}: link {target}"
    for name in re.findall(r"`([\w./-]+)`", text):
        if name.split("/")[0] in FOLDERS and "/" in name and name not in SHOWN:
            assert (ROOT / name).exists(), f"{relative(path)}: no file {name}"


def config_fields() -> list[str]:
    """Names in the last column of the tables of docs/differences.md."""
    fields = []
    for line in (ROOT / "docs/differences.md").read_text().splitlines():
        if line.startswith("|"):
            last = line.strip().strip("|").split("|")[-1]
            fields += re.findall(r"`([a-z][\w.]*)`", last)
    return list(dict.fromkeys(fields))


@pytest.mark.parametrize("name", config_fields())
def test_documented_config_fields_exist(name):
    known = [name in flat_fields(config) for config in all_presets()]
    assert any(known), f"no preset has the field {name!r}"


def flat_fields(config: ml_collections.ConfigDict) -> set[str]:
    """Returns the paths of all fields, those of tables included."""
    fields = set()
    for name, value in config.items():
        fields.add(name)
        if isinstance(value, ml_collections.ConfigDict):
            fields |= {f"{name}.{inner}" for inner in flat_fields(value)}
    return fields


def test_every_difference_has_a_field():
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in (ROOT / "docs/differences.md").read_text().splitlines()
        if line.startswith("|") and not set(line) <= set("|- ")
    ]
    choices = [row for row in rows if row[-1] != "config field"]
    assert len(choices) > 30
    for row in choices:
        assert re.search(r"`[a-z]|^no field", row[-1]), row
