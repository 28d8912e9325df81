"""`livetalk <command>`: finds the command, runs it, and says in one line what went wrong."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from livetalk import __version__
from livetalk.cli.guard import EXIT_ERROR, run_guarded
from livetalk.engine.group import end_worker
from livetalk.env import worker_place
from livetalk.errors import LivetalkError


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command in a module of its own, imported only when it is asked for.

    The module offers `add_parser(subparsers)` and `run(args) -> int`.

    Attributes:
        module: its full name.
        summary: one line for the overview.
    """

    module: str
    summary: str


COMMANDS = {
    "generate": Command("livetalk.cli.generate", "make a talking video from a portrait and a voice"),
    "avatar": Command("livetalk.cli.avatar", "make a new portrait"),
    "data": Command("livetalk.cli.data", "make training data"),
    "train": Command("livetalk.cli.train", "train a model"),
    "evaluate": Command("livetalk.cli.evaluate", "measure a generated video"),
    "bench": Command("livetalk.cli.bench", "measure how fast a model runs here"),
    "doctor": Command("livetalk.cli.doctor", "look at this machine and say whether a model will run"),
    "compare-numerics": Command("livetalk.cli.compare_numerics", "compare two ways of running a model"),
    "download": Command("livetalk.cli.download", "fetch a published model"),
    "export": Command("livetalk.cli.export", "write a published model in livetalk's own format"),
    "flashtalk-compat": Command("livetalk.cli.flashtalk_compat", "make a video with the published flags"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes the process's own.

    Returns:
        The exit code: 0 for success, 2 for anything the user can mend, 130 after Ctrl-C or a request to stop.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_guarded(lambda: _run(arguments))


def run_program() -> NoReturn:
    """Run the process's command line and end the process."""
    code = main()
    if code and worker_place() is not None:
        end_worker(code)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
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
            f"livetalk {name} needs the package {error.name}, which is not installed; "
            f"see the extras in the installation notes"
        ) from error
