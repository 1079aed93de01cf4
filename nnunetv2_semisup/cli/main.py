"""The command `nnUNetv2_semisup`: finds its sub-commands beside this file, and turns every way out into one line."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import select
import sys
from collections.abc import Sequence
from types import ModuleType

import nnunetv2_semisup
from nnunetv2_semisup import cli
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.termination import sigterm_unwinds

PROGRAM = "nnUNetv2_semisup"


def commands() -> dict[str, ModuleType]:
    """Sub-command -> its module: every module of this package but this one, in alphabetical order.

    A command offers HELP (one line), EXAMPLE, add_arguments(parser) and run(args) -> exit status or None, and imports
    nothing heavy before it runs.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(cli.__path__) if module.name != "main")
    return {name: importlib.import_module(f"{cli.__name__}.{name}") for name in names}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the chosen command's `run` lies in `args.run`."""
    parser = argparse.ArgumentParser(PROGRAM, description=nnunetv2_semisup.__doc__)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {nnunetv2_semisup.__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in commands().items():
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        subparser.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit status: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C.

    SIGTERM becomes SystemExit(143), so that `finally` blocks run and nothing is left half-written.
    """
    args = build_parser().parse_args(arguments)
    try:
        with sigterm_unwinds():
            return args.run(args) or 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            # The interpreter flushes once more when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if args.debug:
            raise
        if isinstance(error, SemiSupervisedError):
            return _fail(f"error: {error}", 1)
        return _fail(f"unexpected error: {type(error).__name__}: {error}; run again with --debug to see where", 1)


def _nobody_reads() -> bool:
    """Whether stdout is the broken pipe, as of `| head`, and not one to a process of ours that has died."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return bool(poll.poll(0))


def _fail(message: str, status: int) -> int:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
