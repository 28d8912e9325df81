"""`livetalk <command>`: import the command, run it, and report an error in one line."""

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from livetalk import __version__
from livetalk.cli.guard import EXIT_ERROR, EXTRAS_HINT, run_guarded
from livetalk.cli.streams import open_missing_descriptors
from livetalk.engine.group import end_worker
from livetalk.env import was_launched
from livetalk.errors import LivetalkError


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command in its own module, which is imported on demand.

    The module defines `add_parser(subparsers)` and `run(args) -> int`.
    """

    module: str
    summary: str


COMMANDS = {
    "generate": Command("livetalk.cli.generate", "generate a talking video from a portrait and audio"),
    "avatar": Command("livetalk.cli.avatar", "render a new portrait"),
    "data": Command("livetalk.cli.data", "create training data"),
    "train": Command("livetalk.cli.train", "train a model"),
    "evaluate": Command("livetalk.cli.evaluate", "measure a generated video"),
    "bench": Command("livetalk.cli.bench", "measure how fast a model runs here"),
    "doctor": Command("livetalk.cli.doctor", "check whether and how a model will run on this machine"),
    "compare-numerics": Command("livetalk.cli.compare_numerics", "compare two ways of running a model"),
    "download": Command("livetalk.cli.download", "download a published model"),
    "export": Command("livetalk.cli.export", "write a published model in livetalk's own format"),
    "flashtalk-compat": Command("livetalk.cli.flashtalk_compat", "generate a video with the published flags"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; `argv` is the arguments without the program's name, None those of the process.

    Returns:
        The exit code: 0 for success, 2 for errors that the user can fix, 70 for defects, 130 after Ctrl-C,
        the end of the terminal or another request to stop.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_guarded(lambda: _run(arguments))


def run_program() -> NoReturn:
    """Run the command line of the process and exit."""
    open_missing_descriptors()
    code = main()
    # The work is done: an interruption while Python ends would only show a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A pending collective in a background thread would abort an ordinary exit.
    if code and was_launched():
        end_worker(code)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    # Only the command's module is imported: PyTorch alone takes seconds, which --help should not.
    module = _import_command(name) if name in COMMANDS else None
    parser = _build_parser(name, module)
    args = parser.parse_args(arguments)
    if module is None:
        parser.print_help()
        return EXIT_ERROR
    code: int = module.run(args)
    return code


def _build_parser(name: str | None, module: ModuleType | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="livetalk", description="One portrait and a voice in, a talking avatar out."
    )
    parser.add_argument("--version", action="version", version=f"livetalk {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command")
    for command_name, command in COMMANDS.items():
        if module is not None and command_name == name:
            module.add_parser(subparsers)
        else:
            subparsers.add_parser(command_name, help=command.summary)
    return parser


def _import_command(name: str) -> ModuleType:
    try:
        return importlib.import_module(COMMANDS[name].module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("livetalk"):
            raise LivetalkError(f"livetalk {name} is not part of this installation") from error
        raise LivetalkError(
            f"livetalk {name} needs the package {error.name}, which is not installed; {EXTRAS_HINT}"
        ) from error
