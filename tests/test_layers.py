"""The structure that a reader relies on: who may import whom, and what is light.

Docstrings, annotations and style are ruff's affair (pyproject.toml).
"""

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
ROOT_MODULES = 12  # at most, beside the folders

# Folder or module -> layer. A module imports from its own layer and those below it,
# never from one above; the longest entry that begins its name decides.
LAYERS = {
    "": 0,  # pixel_bert_jax/__init__.py
    "types": 0,
    "training.durations": 0,
    "checkpoints.manifest": 0,
    "processes.watchdog": 0,
    "processes.alarm": 0,
    "processes.lock": 0,
    "config": 0,
    "data": 0,
    "data.durable": 0,
    "data.fields": 0,
    "data.geometry": 0,
    "data.plan": 0,
    "trees": 1,
    "metrics": 1,
    "ops": 1,
    "data.batches": 1,
    "data.corpora": 2,
    "data.index": 1,
    "data.text": 1,
    "data.images": 1,
    "data.augment": 1,
    "data.exclude": 1,
    "data.features": 1,
    "data.packages": 1,
    "data.overlap": 1,
    "data.__main__": 2,
    "data.sources": 1,
    "data.targets": 1,
    "data.vqa_answers": 1,
    "convert.pickles": 1,
    "convert.tensors": 1,
    "convert.weights": 1,
    "convert.rules": 2,
    "data.pipeline": 2,
    "models": 2,
    "processes": 2,
    "training": 2,
    "objectives": 3,
    "tasks": 4,
    "training.train_state": 4,
    "training.train_step": 4,
    "checkpoints": 4,
    "convert": 4,
    "evaluators": 4,
    "viz": 4,
    "experiment": 5,
    "dry_run": 6,
    "evaluate": 6,
    "trained": 6,
    "resuming": 7,
    "run": 8,
    "train": 9,
    "commands": 9,
    "predict": 5,
    "study": 9,
    "convert.__main__": 9,
    "main": 10,
}
# Folders whose modules lie in several layers, so that each needs an entry.
MIXED = ("", "data")
# (who, whom, why): forbidden although the layers would allow some of it.
FORBIDDEN = [
    ("data", r"(models|tasks|objectives|evaluators)\b", "data knows no model"),
    ("models", r"(data|training)\b", "a model knows neither its data nor its training"),
    ("ops", r"(data|training)\b", "ops are pure functions of arrays"),
    ("evaluators", r"(checkpoints|processes)\b", "evaluators know arrays alone"),
]
TENSORFLOW = ("tensorflow", "tensorflow_datasets", "tensorflow_text")
TENSORFLOW_ALLOWED = (
    f"{PACKAGE}/data/pipeline.py",
    f"{PACKAGE}/metrics.py",  # catches the errors of its files
)
# Import name -> distribution, where the two differ.
DISTRIBUTIONS = {
    "absl": "absl-py",
    "ml_collections": "ml-collections",
    "orbax": "orbax-checkpoint",
    "PIL": "pillow",
}

PYTHON_FILES = sorted(
    path
    for folder in (PACKAGE, "configs", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
PACKAGE_FILES = [p for p in PYTHON_FILES if p.is_relative_to(ROOT / PACKAGE)]
TREES = {path: ast.parse(path.read_text(), str(path)) for path in PYTHON_FILES}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """Name below the package: "" for its __init__, "data.plan", "models"."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in PACKAGE_FILES}


def layer(module: str) -> int:
    parts = module.split(".")
    while parts and ".".join(parts) not in LAYERS:
        parts.pop()
    return LAYERS[".".join(parts)] if parts else max(LAYERS.values())


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[tuple[str, str]]:
    """Yields (place, dotted name) of everything that a file imports."""
    tree = TREES[path]
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield f"{relative(path)}:{node.lineno}", alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                where = f"{relative(path)}:{node.lineno}"
                yield where, f"{node.module}.{alias.name}"


def package_imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (place, module below the package) for imports of the package itself."""
    for where, name in imports(path):
        if name == PACKAGE or name.startswith(PACKAGE + "."):
            target = name[len(PACKAGE) + 1 :]
            # `from pixel_bert_jax.types import InputError` names an attribute.
            while target not in MODULES:
                assert target, f"{where}: no module of this name: {name}"
                target = target.rpartition(".")[0]
            yield where, target


def test_every_module_has_a_layer():
    missing = [
        name
        for name in MODULES
        if name.rpartition(".")[0] in MIXED and name not in LAYERS
    ]
    assert not [name for name in missing if f"{name}." not in str(LAYERS)], missing


def test_no_layer_is_of_a_module_that_is_gone():
    gone = [name for name in LAYERS if name not in MODULES]
    assert not gone, gone


def test_the_root_is_seen_at_a_glance():
    found = sorted(p.name for p in (ROOT / PACKAGE).glob("*.py"))
    assert len(found) <= ROOT_MODULES, found


def test_imports_go_down():
    wrong = []
    for path in PACKAGE_FILES:
        importer = module_name(path)
        for where, target in package_imports(path):
            if layer(target) > layer(importer):
                wrong.append(f"{where}: {target} is in a layer above {importer}")
            wrong += [
                f"{where}: {target}: {why}"
                for who, whom, why in FORBIDDEN
                if importer.split(".")[0] == who and re.match(whom, target)
            ]
    assert not wrong, "\n".join(wrong)


def test_imports_make_no_circle():
    graph = {}
    for name, path in MODULES.items():
        targets = {target for _, target in package_imports(path)}
        # A package's own __init__ is imported before its modules, by them too.
        graph[name] = {
            t for t in targets if t != name and not f"{name}.".startswith(f"{t}.")
        }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"modules import one another: {' -> '.join(error.args[1])}")


def test_tensorflow_only_feeds():
    wrong = [
        where
        for path in PACKAGE_FILES
        for where, name in imports(path)
        if name.split(".")[0] in TENSORFLOW
        and not relative(path).startswith(TENSORFLOW_ALLOWED)
    ]
    # clu imports TensorFlow; transformers takes seconds. Both come when needed.
    wrong += [
        where
        for path in PACKAGE_FILES
        for where, name in imports(path, top_level_only=True)
        if name.split(".")[0] in ("clu", "transformers")
    ]
    assert not wrong, wrong


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


@pytest.mark.parametrize(
    ("highest", "heavy"),
    [
        # The lowest layer needs numpy at most.
        (0, {"jax", "tensorflow", "PIL", "transformers"}),
        # The image and text path of inference is free of TensorFlow, indirectly too.
        (1, {"tensorflow", "transformers"}),
    ],
)
def test_low_layers_are_light(highest, heavy):
    names = [f"{PACKAGE}.{n}" for n in MODULES if layer(n) <= highest and n]
    run_python(
        f"import sys, {', '.join(names)}\n"
        f"heavy = {heavy} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_requirements_are_exact():
    loose = [r for r in requirements() if not re.match(r"[\w-]+==[\w.]+(\s*[;#]|$)", r)]
    assert not loose, f"expected name==version, received {loose}"


def test_third_party_imports_are_pinned():
    declared = {line.split("==")[0] for line in requirements()}
    extras = set(re.findall(r'"([\w-]+)==', (ROOT / "pyproject.toml").read_text()))
    own = {PACKAGE, "configs", "tests", "benchmarks", *sys.stdlib_module_names}

    def foreign(path: Path, allowed: set[str], **options: bool) -> list[str]:
        found = []
        for where, name in imports(path, **options):
            root = name.split(".")[0]
            if root not in own and DISTRIBUTIONS.get(root, root) not in allowed:
                found.append(f"{where}: {name} is not pinned")
        return found

    wrong = [w for path in PYTHON_FILES for w in foreign(path, declared | extras)]
    # What an extra brings is imported inside the function that needs it.
    for path in PACKAGE_FILES:
        wrong += foreign(path, declared, top_level_only=True)
    assert not wrong, "\n".join(wrong)


def test_every_folder_of_the_package_is_a_package():
    folders = {path.parent for path in PACKAGE_FILES}
    assert not [f for f in folders if not (f / "__init__.py").exists()]


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
