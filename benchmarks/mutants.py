"""Plants small faults, one at a time, and runs the tests that should notice them.

    python -m benchmarks.mutants                 all of them, in a copy of the tree
    python -m benchmarks.mutants --only=itm      those whose file or name has this text

Prints a line for each fault and the share that was noticed; exit code 1 if that is less
than 90 %. A fault is a text of a file and what stands there instead; the text has to be
there exactly once, so that the table is mended when the code changes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NEEDED = 0.9
COPIED = ("pixel_bert_jax", "configs", "tests", "checkpoints", "docs", "pyproject.toml")
FOLDERS = {  # default tests of the files in a folder, in the order in which they run
    "ops/losses": ("tests/ops/test_losses.py", "tests/objectives"),
    "ops/masking": ("tests/ops/test_masking.py",),
    "ops/sampling": ("tests/ops/test_sampling.py",),
    "ops/swap": ("tests/ops/test_swap.py",),
    "ops/keys": ("tests/ops/test_keys.py", "tests/objectives/test_views.py"),
    "ops/image": ("tests/ops/test_image.py",),
    "objectives/views": ("tests/objectives/test_views.py",),
    "objectives/mlm": ("tests/objectives/test_mlm.py", "tests/objectives"),
    "objectives/itm": ("tests/objectives/test_itm.py", "tests/objectives"),
    "objectives/image_words": ("tests/objectives/test_image_words.py",),
    "objectives": ("tests/objectives",),
    "tasks/passes": ("tests/tasks",),
    "tasks/task": (
        "tests/tasks",
        "tests/training/test_train_step.py",
        "tests/training/test_carried.py",
    ),
    "tasks/pretrain": ("tests/tasks", "tests/convert/test_published.py"),
    "tasks": ("tests/tasks", "tests/evaluators"),
    "models/bert": ("tests/models/test_bert.py",),
    "models/norm": ("tests/models/test_norm.py",),
    "models/resnet": ("tests/models/test_resnet.py",),
    "models/front_ends": ("tests/models/test_front_ends.py",),
    "models": ("tests/tasks", "tests/models", "tests/convert/test_published.py"),
    "training/train_step": (
        "tests/training/test_train_step.py",
        "tests/training/test_carried.py",
    ),
    "training/optim": ("tests/training/test_optim.py",),
    "training": ("tests/training/test_sharding.py", "tests/training/test_durations.py"),
    "evaluators/probe": ("tests/evaluators/test_probe.py",),
    "evaluators/errors": ("tests/evaluators/test_errors.py",),
    "study": ("tests/study",),
    "evaluators": ("tests/evaluators",),
    "data/plan": ("tests/data/plan",),
    "data/vqa_answers": ("tests/data/test_vqa_answers.py", "tests/evaluators"),
    "data/targets": ("tests/objectives", "tests/data"),
    "data": ("tests/data",),
}


class Fault(NamedTuple):
    """A file of the package, a text in it, and what stands there instead."""

    file: str
    text: str
    instead: str


FAULTS = tuple(
    Fault(*fields)
    for fields in (
        # Losses and metrics.
        ("ops/losses", "jnp.sum(values * weights), jnp.sum(weights)", "jnp.sum(values), jnp.sum(weights)"),
        ("ops/losses", "jnp.sum(values * weights), jnp.sum(weights)", "jnp.mean(values * weights), jnp.sum(weights)"),
        ("ops/losses", "jnp.where(where, jax.nn.softplus(logits), 0.0)", "jax.nn.softplus(logits)"),
        ("ops/losses", "jnp.log(-jnp.expm1(-none))", "jnp.log(-jnp.expm1(none))"),
        # Masking.
        ("ops/masking", "kind < 0.8", "kind < 0.7"),
        ("ops/masking", "kind >= 0.9", "kind < 0.9"),
        ("ops/masking", "maskable = mask & ~jnp.isin(ids, special)", "maskable = mask"),
        ("ops/masking", "maskable = mask & ~jnp.isin(ids, special)", "maskable = ~jnp.isin(ids, special)"),
        ("ops/masking", "chosen & (rank < slots)", "chosen & (rank <= slots)"),
        ("ops/masking", "labels = jnp.where(weights, ids[positions], 0)", "labels = jnp.where(weights, corrupted[positions], 0)"),
        ("ops/masking", "math.ceil(probability * text_length) + 4", "math.ceil(probability * text_length) + 3"),
        # Random pixel sampling.
        ("ops/sampling", "jnp.lexsort((scores, ~valid))", "jnp.lexsort((scores, valid))"),
        ("ops/sampling", "kept = min(cells, count)", "kept = min(cells, count + 1)"),
        ("ops/sampling", "mask = chosen < cells", "mask = chosen <= cells"),
        # Swaps.
        ("ops/swap", "(place - first + largest) % number", "(place - first + 1) % number"),
        ("ops/swap", "found = real & (image[target] != image)", "found = real"),
        ("ops/swap", "image_id, bits, corpus, ~real)", "image_id, bits, ~real)"),
        # Keys that belong to examples.
        ("ops/keys", "jax.random.fold_in(jax.random.fold_in(key, halves[0]), halves[1])", "jax.random.fold_in(key, halves[1])"),
        ("ops/keys", "return jax.random.fold_in(key, tag)", "return key"),
        # Resizing.
        ("ops/image", "(pixels - mean) / std", "(pixels - mean) * std"),
        ("ops/image", "return rows[..., :, None] & columns[..., None, :]", "return rows[..., :, None] | columns[..., None, :]"),
        ("ops/image", "jnp.where(inside, (pixels - mean)", "jnp.where(~inside, (pixels - mean)"),
        # Views.
        ("objectives/views", "match=~swapped.reshape(groups, texts)", "match=swapped.reshape(groups, texts)"),
        ("objectives/views", "weights=masked.weights & view.mask[..., None]", "weights=masked.weights"),
        ("objectives/views", "text_mask=flat(view.text_mask)[source].reshape", "text_mask=flat(view.text_mask).reshape"),
        ("objectives/views", "jnp.where(step < settings.warmup_steps, early, late)", "jnp.where(step < settings.warmup_steps, late, early)"),
        ("objectives/views", "SWAP_PROBABILITY = 0.5", "SWAP_PROBABILITY = 0.25"),
        # Objectives.
        ("objectives/itm", "labels = view.match.reshape", "labels = (~view.match).reshape"),
        ("objectives/itm", "mask = view.mask.reshape(-1)", "mask = view.mask.reshape(-1) | True"),
        ("objectives/itm", "return Loss(loss, count, metrics)", "return Loss(loss, 2 * count, metrics)"),
        ("objectives/mlm", "weighted_sum(cross_entropy(logits, labels), weights)", "weighted_sum(3.0 * cross_entropy(logits, labels), weights)"),
        ("objectives/mlm", "weights if self.on_swapped else weights & view.match", "weights if not self.on_swapped else weights & view.match"),
        ("objectives/mlm", "matched = weights & view.match.reshape(-1, 1)", "matched = weights"),
        ("objectives/mlm", "positions[..., None], axis=1", "positions[..., None] * 0, axis=1"),
        ("objectives/answers", "jnp.sum(optax.sigmoid_binary_cross_entropy(logits, scores), axis=-1)", "jnp.mean(optax.sigmoid_binary_cross_entropy(logits, scores), axis=-1)"),
        ("objectives/answers", "best = jnp.argmax(logits", "best = jnp.argmin(logits"),
        ("objectives/truth", "jnp.moveaxis(x, 1, 2)", "x"),
        ("objectives/retrieval", "jax.lax.top_k(others,", "jax.lax.top_k(-others,"),
        ("objectives/retrieval", "own, others = scores[:, :1], scores[:, 1:]", "own, others = scores[:, -1:], scores[:, :-1]"),
        ("objectives/retrieval", "jnp.all(own > others, axis=1)", "jnp.all(own >= others, axis=1)"),
        ("objectives/image_words", "(view.mask & view.match)[..., None]", "view.mask[..., None]"),
        ("objectives/image_words", "visual.mask[..., None], axis=(1, 2)", "visual.mask[..., None] | True, axis=(1, 2)"),
        # Passes and the task.
        ("tasks/passes", "if place not in self._results:", "if True:"),
        ("tasks/passes", "visual = forward.result(\"sampled\", view)", "visual = forward.result(\"pixels\", view)"),
        ("tasks/passes", "self._draws += 1", "self._draws += 0"),
        ("tasks/task", "self.weights = {o.name: float(o.weight)", "self.weights = {o.name: 1.0 + float(o.weight)"),
        ("tasks/task", "if objective.whole_batch and config.optim.accumulate > 1:", "if objective.whole_batch and config.optim.accumulate > 2:"),
        ("tasks/pretrain", "features=own.features[:, :, :0],", "features=own.features[:, :, :1],"),
        ("tasks/pretrain", "logits[:, 1] - logits[:, 0]", "logits[:, 0] - logits[:, 1]"),
        ("tasks/nlvr2", "logits[..., 1] - logits[..., 0]", "logits[..., 0] - logits[..., 1]"),
        # The model.
        ("models/pixel_bert", "pairs(text_mask, 1), pairs(visual.mask, 2)", "pairs(text_mask, 1), pairs(visual.mask | True, 2)"),
        ("models/pixel_bert", "pooled=out[:, 0]", "pooled=out[:, 1]"),
        ("models/bert", "approximate=False", "approximate=True"),
        ("models/bert", "EPSILON = 1e-12", "EPSILON = 1e-2"),
        ("models/bert", "mask[:, None, None] if mask.ndim == 2", "mask[:, None, None] | True if mask.ndim == 2"),
        ("models/norm", "total / jnp.maximum(count, 1.0)", "total / jnp.maximum(count + 1.0, 1.0)"),
        ("models/norm", "var * real / jnp.maximum(real - 1.0, 1.0)", "var"),
        ("models/resnet", "x = only(x, mask)", "x = x"),
        ("models/resnet", "padding = (self.kernel - 1) // 2", "padding = self.kernel // 2 + 1"),
        ("models/front_ends", "x = x + segment.astype(x.dtype)", "x = x"),
        ("models/front_ends", "mask = valid_cells(size, grid)", "mask = valid_cells(size + 1, grid)"),
        # The step and the optimizer.
        ("training/train_step", "task.weights[name] * loss / counts[name]", "task.weights[name] * loss"),
        ("training/train_step", "finite = jnp.isfinite(norm)", "finite = jnp.isfinite(norm) | True"),
        ("training/train_step", "jnp.where(finite, 0, state.skipped + 1)", "jnp.where(finite, state.skipped, state.skipped + 1)"),
        ("training/train_step", "batch_stats=keep(batch_stats, state.batch_stats)", "batch_stats=batch_stats"),
        ("training/train_step", "carried=keep(carried, state.carried)", "carried=carried"),
        ("training/train_step", "updates = jax.tree.map(lambda u: u * factor, updates)", "updates = jax.tree.map(lambda u: u, updates)"),
        ("training/optim", "optax.scale(-rate)", "optax.scale(rate)"),
        ("training/optim", "parts = (adam, decay)", "parts = (decay, adam)"),
        ("training/optim", "optax.trace(decay=fields.momentum)", "optax.trace(decay=0.0)"),
        ("training/sharding", "return mesh.shape[\"data\"] * mesh.shape[\"fsdp\"]", "return mesh.shape[\"data\"]"),
        ("training/durations", "int(exact + Fraction(1, 2))", "int(exact)"),
        # Evaluators.
        ("evaluators/errors", "number / (number - 1) * np.sum(sums**2)", "np.sum(sums**2)"),
        ("evaluators/errors", "np.bincount(inverse, weights=values - mean)", "values - mean"),
        ("study/table", "abs(difference) <= 2 * error", "abs(difference) <= error"),
        ("study/table", "np.std(values, ddof=1)", "np.std(values)"),
        ("data/overlap", "if coco_id >= 0:", "if coco_id < 0:"),
        ("data/overlap", "return os.stat(path).st_size", "return None"),
        ("data/augment", "self.greatest + 1, images", "self.greatest, images"),
        ("training/optim", "share = (step - warmup)", "share = (step)"),
        ("evaluators/probe", "logits[:, 1] <= 0", "logits[:, 1] < -1e9"),
        ("evaluators/probe", "difference = (own - rival)", "difference = (rival - own)"),
        ("evaluators/recall", "(scores >= right).sum(axis=0) - 1", "(scores > right).sum(axis=0)"),
        ("evaluators/recall", "100.0 * np.count_nonzero(rank < cut)", "100.0 * np.count_nonzero(rank <= cut)"),
        ("evaluators/recall", "images_tied=(scores == right).sum(axis=0) > 1", "images_tied=(scores == right).sum(axis=0) > 0"),
        ("evaluators/vqa_accuracy", "ENOUGH = 3", "ENOUGH = 2"),
        ("evaluators/nlvr2_scores", "consistent.get(sentence, True) and hit", "consistent.get(sentence, True) or hit"),
        ("evaluators/nlvr2", "out[\"log_odds\"][g, k] > 0", "out[\"log_odds\"][g, k] < 0"),
        ("evaluators/shortlist", "np.argsort(-values, kind=\"stable\")", "np.argsort(values, kind=\"stable\")"),
        # Targets and the plan.
        ("data/vqa_answers", "min(people * 3, 10) / 10", "min(people * 3, 9) / 10"),
        ("data/targets", "x[\"label\"] == \"True\"", "x[\"label\"] == \"False\""),
        ("data/plan/base", "chosen = slice(first + j * size // n, first + (j + 1) * size // n)", "chosen = slice(first + j * size // n, first + (j + 1) * size // n - 1)"),
        ("data/plan/base", "turn = epoch if p.share == 1 else 0", "turn = 0"),
        ("data/plan/negatives", "wrong = image_ids[rows] == image_ids[own][:, None]", "wrong = rows == own[:, None]"),
        ("data/plan/partners", "partner = (rank + counts.max()) % count", "partner = (rank + 1) % count"),
    )
)  # fmt: skip


def tests_of(file: str) -> tuple[str, ...]:
    """Returns the tests that belong to a file of the package."""
    parts = file.split("/")
    while "/".join(parts) not in FOLDERS:
        parts.pop()
    return FOLDERS["/".join(parts)]


def noticed(fault: Fault, tree: Path) -> str:
    """Plants a fault, runs its tests and takes it out; returns which test failed.

    Raises:
      ValueError: the text is not there exactly once.
    """
    path = tree / "pixel_bert_jax" / f"{fault.file}.py"
    content = path.read_text()
    if content.count(fault.text) != 1:
        raise ValueError(f"{fault.file}: {content.count(fault.text)} x {fault.text!r}")
    path.write_text(content.replace(fault.text, fault.instead))
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow"]
        command += ["-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, *tests_of(fault.file)],
            cwd=tree,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
    finally:
        path.write_text(content)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)
    failed = [x for x in done.stdout.splitlines() if x.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else ""


def main() -> int:
    """Plants all faults that are asked for and prints what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a file's name or of a text")
    only = parser.parse_args().only
    chosen = [fault for fault in FAULTS if any(only in field for field in fault)]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, tree / name)
        for fault in chosen:
            began = time.monotonic()
            by = noticed(fault, tree)
            if not by:
                survivors.append(fault)
            print(
                f"{'noticed ' if by else 'SURVIVED'} {time.monotonic() - began:6.1f} s  "
                f"{fault.file}: {fault.text!r} -> {fault.instead!r}  {by}",
                flush=True,
            )
    share = 1 - len(survivors) / max(len(chosen), 1)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed, {share:.1%}")
    return 0 if share >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
