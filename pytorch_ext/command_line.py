"""What all command lines share: exit statuses, and errors of one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from convbound.untrusted import printable

EXIT_OK, EXIT_FAILED_ROWS, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that names the argument."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave."""
        hint = "; --help lists the options" if message.startswith("unrecognized") else ""
        self.exit(EXIT_USAGE, f"{self.prog}: {printable(message.removeprefix('argument '))}{hint}\n")
