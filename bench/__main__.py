"""Entry point of ``python -m convbound.bench``."""

import signal
import sys

from convbound.bench.cli import main
from convbound.command_line import EXIT_INTERRUPTED

if __name__ == "__main__":
    # A polite kill ends a run as Ctrl-C does: with its rows kept and its report written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # where there was nothing to keep, or a second one while a report was written
        print("interrupted")
        sys.exit(EXIT_INTERRUPTED)
