"""What the parsers of all commands are made of."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says what to write instead where an option is a key of the settings."""

    def error(self, message: str) -> NoReturn:
        """End with a message."""
        from fedpurel_app.config import known_keys

        for word in message.split():
            key = word.removeprefix("--").partition("=")[0]
            if word.startswith("--") and key in known_keys():
                message += f'\n"{key}" is a setting, not an option. Did you mean --set {key}=VALUE?'
        super().error(message)


def add_command(commands: Any, name: str, does: str, example: str) -> Parser:
    """Add a sub-command, whose help is a sentence and an example."""
    parser: Parser = commands.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=f"example:\n  fedpurel {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=name)
    return parser


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: choose a whole number of at least 1")
    return int(text)


def port(text: str) -> int:
    """Read a number of a port."""
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: choose 1 to 65535")
    return int(text)
