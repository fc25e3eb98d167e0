"""Command line: exports a trained model or a part of it, describes or uploads it.

    python -m pixel_bert_jax.convert export runs/pretrain_tiny --output=FOLDER
    python -m pixel_bert_jax.convert export MODEL --part=text --output=FOLDER
    python -m pixel_bert_jax.convert export MODEL --half --vocabulary=FILE --output=...
    python -m pixel_bert_jax.convert figures FOLDER METRICS.json
    python -m pixel_bert_jax.convert push MODEL org/name

MODEL is the workdir of a run (its best checkpoint, or else the newest, is used), an
exported folder, or `org/name@revision` on the Hugging Face hub.
Exit codes: 0 done, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys

from pixel_bert_jax import types
from pixel_bert_jax.convert import parts, vocabulary
from pixel_bert_jax.convert.pretrained import Pretrained, add_figures
from pixel_bert_jax.trained import load_model

PARTS = ("model", "text", "cnn")


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "push":
            address = load_model(options.model).push_to_hub(
                options.repository, private=options.private, revision=options.revision
            )
            print(f"{options.model} is at {address}")
        elif options.command == "figures":
            count = add_figures(options.folder, options.metrics)
            print(f"{count} metrics are in the model card of {options.folder}")
        else:
            export(load_model(options.model), options)
            print(f"{options.part} of {options.model} written to {options.output}")
    except types.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return types.EXIT_BAD_INPUT
    return types.EXIT_DONE


def export(pretrained: Pretrained, options: argparse.Namespace) -> None:
    """Writes the part of the model that `options.part` names."""
    if options.part == "model":
        if options.vocabulary:
            tokens = vocabulary.read_tokens(options.vocabulary)
            pretrained = vocabulary.keep_tokens(pretrained, tokens)
        pretrained.save_pretrained(options.output, half=options.half or None)
    elif options.vocabulary or options.half:
        raise types.InputError("--vocabulary and --half are of --part=model")
    elif options.part == "text":
        parts.export_text(pretrained, options.output)
    else:
        parts.export_cnn(pretrained, options.output, options.layout)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    description, _, usage = __doc__.partition("\n")
    whole = argparse.ArgumentParser(
        prog="python -m pixel_bert_jax.convert",
        description=description,
        epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True)
    one = commands.add_parser("export", help="write a model, or a part of it")
    one.add_argument("model", help="workdir, exported folder or hub id")
    one.add_argument("--output", required=True, help="a new or empty folder")
    one.add_argument("--part", choices=PARTS, default="model", help="default: model")
    one.add_argument(
        "--layout",
        choices=parts.LAYOUTS,
        default=parts.LAYOUTS[0],
        help=f"of the part cnn; default: {parts.LAYOUTS[0]}",
    )
    one.add_argument(
        "--half", action="store_true", help="round kernels and tables to float16"
    )
    one.add_argument(
        "--vocabulary",
        help="text file with a token to keep on each line, besides the special ones; "
        "the word table is most of a small model",
    )
    one = commands.add_parser(
        "figures", help="add measured metrics to an exported model's card"
    )
    one.add_argument("folder", help="exported folder, whose README.md is written anew")
    one.add_argument("metrics", help="what --mode=evaluate --output=FILE wrote")
    one = commands.add_parser("push", help="upload a model to the Hugging Face hub")
    one.add_argument("model", help="workdir, exported folder or hub id")
    one.add_argument("repository", help="org/name")
    one.add_argument("--private", action="store_true", default=None)
    one.add_argument("--revision", help="branch, default: the main one")
    return whole


if __name__ == "__main__":
    sys.exit(main())
