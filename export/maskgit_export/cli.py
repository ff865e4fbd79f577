"""``maskgit-export COMMAND``: everything that happens before a model runs on a device."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

# PyTorch's threads (OpenMP's, of GCC and of Intel) wait for each other after every operation. That they spin meanwhile
# takes the processor from one that computes wherever another program runs too. Read when torch is imported: below.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KMP_BLOCKTIME", "0")

#: Command name -> module with ``add_arguments(parser)`` and ``run(args) -> int``; its docstring is the help.
COMMANDS = {
    "data": "avatars",
    "train-tokenizer": "train_tokenizer",
    "tokens": "token_file",
    "train-mvtm": "train_mvtm",
    "export": "export",
    "bundle": "trace",
    "convert": "convert",
    "quantize": "quantize",
    "half": "half",
    "verify": "verify",
    "synth": "synth",
    "train-classifier": "train_classifier",
    "evaluate": "evaluate",
    "evaluate-edit": "evaluate_edit",
    "ablate": "ablate",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status (0 done, 1 failed, 2 wrong usage)."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="maskgit-export", description="Trains, converts and checks models for the maskgit runtime."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module_name in COMMANDS.items():
        if argv[:1] != [name] and argv[:1] not in ([], ["-h"], ["--help"]):
            # Only the chosen command's module is imported: `data` must not need torch.
            commands.add_parser(name)
            continue
        module = importlib.import_module(f".{module_name}", __package__)
        summary = (module.__doc__ or "").strip().split("\n")[0]
        sub = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
