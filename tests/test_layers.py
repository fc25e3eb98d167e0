"""The structure that a reader relies on: who may import whom, lengths, docstrings."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pixel_bert_jax"

# Module -> layer. A module imports from its own layer and those below it, never from
# one above. The longest entry that begins a module's name decides, so that a new file
# in a folder needs no entry.
LAYERS = {
    "": 0,  # pixel_bert_jax/__init__.py
    "types": 0,
    "trees": 0,
    "durations": 0,
    "manifest": 0,
    "watchdog": 0,
    "alarm": 0,
    "lock": 0,
    "checks": 0,
    "data": 0,
    "data.geometry": 0,
    "data.negatives": 0,
    "data.partners": 0,
    "data.permutations": 0,
    "data.plan": 0,
    "data.plan_base": 0,
    "data.plan_layout": 0,
    "data.plan_types": 0,
    "ops": 1,
    "metrics": 1,
    "data.batches": 1,
    "data.index": 1,
    "data.index_build": 1,
    "data.text": 1,
    "data.images": 1,
    "data.sources": 1,
    "data.targets": 1,
    "data.vqa_answers": 1,
    "models": 2,
    "data.pipeline": 2,
    "data.builders": 2,
    "hosts": 2,
    "optim": 2,
    "sharding": 2,
    "convert.weights": 1,
    "convert.rules": 2,
    "models.pixel_bert": 3,
    "models.presets": 3,
    "objectives": 3,
    "train_state": 3,
    "checkpoint_store": 3,
    "checkpointing": 3,
    "convert": 3,
    "tasks.base": 3,
    "tasks": 4,
    "evaluators": 4,
    "viz": 4,
    "train_step": 4,
    "experiment": 5,
    "dry_run": 5,
    "resuming": 5,
    "train": 5,
    "evaluate": 5,
    "inference": 5,
    "convert.__main__": 6,
    "main": 6,
    "predict": 6,
    "doctor": 6,
    "study": 6,
}
# Folders whose files each need an entry: their files lie in different layers.
MIXED = ("", "data")

# (who, whom, why): forbidden although the layers would allow some of it.
FORBIDDEN = [
    ("data", r"(models|tasks|objectives|evaluators)\b", "data knows no model"),
    ("models", r"(data|optim)\b", "a model knows neither its data nor its training"),
    ("ops", r"(data|optim|sharding)\b", "ops are pure functions of arrays"),
]
TENSORFLOW = ("tensorflow", "tensorflow_datasets", "tensorflow_text")
TENSORFLOW_ALLOWED = (
    f"{PACKAGE}/data/pipeline.py",
    f"{PACKAGE}/data/builders/",
    f"{PACKAGE}/metrics.py",  # catches the errors of its files
)

# Import name -> distribution, where the two differ.
DISTRIBUTIONS = {
    "absl": "absl-py",
    "ml_collections": "ml-collections",
    "orbax": "orbax-checkpoint",
    "PIL": "pillow",
    "tensorflow_datasets": "tensorflow-datasets",
}

PYTHON_FILES = sorted(
    path
    for folder in (PACKAGE, "configs", "tests", "benchmarks", "demo")
    for path in (ROOT / folder).rglob("*.py")
)
PACKAGE_FILES = [path for path in PYTHON_FILES if PACKAGE in path.parts[-6:-1]]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """Name below the package: "" for its __init__, "data.plan", "models"."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in PACKAGE_FILES}
TREES = {path: ast.parse(path.read_text(), str(path)) for path in PYTHON_FILES}


def layer(module: str) -> int:
    parts = module.split(".")
    while ".".join(parts) not in LAYERS:
        parts.pop()
        if not parts:
            return LAYERS["main"]  # not in the table, which a test of its own reports
    return LAYERS[".".join(parts)]


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[tuple[int, str]]:
    """Yields (line, dotted name) of everything that a file imports."""
    tree = TREES[path]
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, (
                f"{relative(path)}:{node.lineno}: write imports in full, from {PACKAGE}"
            )
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def package_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line, module below the package) for imports of the package itself."""
    for line, name in imports(path):
        if name == PACKAGE or name.startswith(PACKAGE + "."):
            target = name[len(PACKAGE) + 1 :]
            # `from pixel_bert_jax.types import InputError` names an attribute.
            while target not in MODULES:
                assert target, (
                    f"{relative(path)}:{line}: no module of this name: {name}"
                )
                target = target.rpartition(".")[0]
            yield line, target


def test_every_module_has_a_layer():
    missing = [
        name
        for name in MODULES
        if name.rpartition(".")[0] in MIXED and name not in LAYERS
    ]
    assert not missing, (
        f"give these modules a layer in {Path(__file__).name}: {missing}"
    )


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=relative)
def test_imports_go_down(path):
    importer = module_name(path)
    for line, target in package_imports(path):
        where = f"{relative(path)}:{line}"
        assert layer(target) <= layer(importer), (
            f"{where}: layer {layer(importer)} imports {target!r} of layer "
            f"{layer(target)}"
        )
        for who, whom, why in FORBIDDEN:
            if importer.split(".")[0] == who:
                assert not re.match(whom, target), f"{where}: {target!r}: {why}"


def test_imports_make_no_circle():
    graph = {
        name: {target for _, target in package_imports(path) if target != name}
        for name, path in MODULES.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"modules import one another: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=relative)
def test_tensorflow_only_feeds(path):
    for line, name in imports(path):
        where = f"{relative(path)}:{line}"
        if name.split(".")[0] in TENSORFLOW:
            assert relative(path).startswith(TENSORFLOW_ALLOWED), f"{where}: {name}"
    for line, name in imports(path, top_level_only=True):
        # clu imports TensorFlow; transformers takes seconds. Both come when needed.
        assert name.split(".")[0] not in ("clu", "transformers"), (
            f"{relative(path)}:{line}: import {name} inside the function that uses it"
        )


def test_configs_import_nothing_of_the_package():
    for path in (ROOT / "configs").rglob("*.py"):
        for line, name in imports(path):
            assert name.split(".")[0] not in (PACKAGE, "jax", "flax", "optax"), (
                f"{relative(path)}:{line}: {name}"
            )


def run_python(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_light():
    run_python(
        f"import sys, {PACKAGE}\n"
        f"assert {PACKAGE}.__version__ and {PACKAGE}.InputError\n"
        "heavy = {'jax', 'numpy', 'tensorflow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def test_public_names_lie_where_the_package_says():
    import pixel_bert_jax

    for name, module in pixel_bert_jax._EXPORTS.items():
        tree = TREES[MODULES[module.removeprefix(f"{PACKAGE}.")]]
        defined = [getattr(node, "name", None) for node in tree.body]
        assert name in defined, f"{module} defines no {name}"


def test_lowest_layer_needs_only_numpy():
    names = [f"{PACKAGE}.{name}" for name in MODULES if layer(name) == 0 and name]
    run_python(
        f"import sys, {', '.join(names)}\n"
        "heavy = {'jax', 'tensorflow', 'PIL', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def test_input_modules_do_not_bring_tensorflow():
    """The image and text path of inference stays free of TensorFlow, indirectly too."""
    names = [f"{PACKAGE}.{name}" for name in MODULES if layer(name) <= 1 and name]
    run_python(
        f"import sys, {', '.join(names)}\n"
        "heavy = {'tensorflow', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_requirements_are_exact():
    loose = [r for r in requirements() if not re.match(r"[\w-]+==[\w.]+(\s*[;#]|$)", r)]
    assert not loose, f"expected name==version, received {loose}"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_third_party_imports_are_pinned(path):
    declared = {line.split("==")[0] for line in requirements()}
    extras = set(re.findall(r'"([\w-]+)==', (ROOT / "pyproject.toml").read_text()))
    own = {PACKAGE, "configs", "tests", *sys.stdlib_module_names}

    def check(line: int, name: str, allowed: set[str]) -> None:
        root = name.split(".")[0]
        distribution = DISTRIBUTIONS.get(root, root)
        assert root in own or distribution in allowed, (
            f"{relative(path)}:{line}: {distribution} is not pinned"
        )

    for line, name in imports(path):
        check(line, name, declared | extras)
    if path in PACKAGE_FILES:
        # What an extra brings is imported inside the function that needs it.
        for line, name in imports(path, top_level_only=True):
            check(line, name, declared)


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_files_are_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 400, f"{relative(path)} has {lines} lines, at most 400 are allowed"


def public_definitions(node: ast.AST) -> Iterator[ast.AST]:
    """Yields public classes, functions and methods; functions in functions are not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield child
            yield from public_definitions(child)
        elif isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield child


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=relative)
def test_public_names_are_documented_and_annotated(path):
    tree = TREES[path]
    assert ast.get_docstring(tree), f"{relative(path)} has no module docstring"
    for node in public_definitions(tree):
        where = f"{relative(path)}:{node.lineno}: {node.name}"
        # Flax calls `setup`; its class says what the module is.
        if node.name != "setup":
            assert ast.get_docstring(node), f"{where} has no docstring"
        if isinstance(node, ast.FunctionDef):
            given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            bare = [
                argument.arg
                for argument in given
                if argument.annotation is None and argument.arg not in ("self", "cls")
            ]
            assert not bare, f"{where} does not annotate {bare}"
            if node.name != "setup":
                assert node.returns is not None, f"{where} does not annotate its result"


def test_every_folder_of_the_package_is_a_package():
    for folder in {path.parent for path in PACKAGE_FILES}:
        assert (folder / "__init__.py").exists(), f"{relative(folder)}: no __init__.py"


def test_no_path_of_one_machine():
    """Nothing that is tracked names a folder that only one machine has."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert names
    pattern = re.compile(r"(?<![\w.~}])/(?:work|root|home|Users|opt)/\w")
    for name in names:
        path = ROOT / name
        if not path.is_file() or path.suffix in (".png", ".npz", ".jpg", ".msgpack"):
            continue
        for number, text in enumerate(path.read_text(errors="ignore").splitlines(), 1):
            assert not pattern.search(text), f"{name}:{number}: {text.strip()}"
