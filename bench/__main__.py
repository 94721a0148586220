"""Entry point of ``python -m convbound.bench``."""

import signal
import sys

from convbound.bench.cli import main

if __name__ == "__main__":
    # A polite kill ends a run as Ctrl-C does: with its rows kept and its report written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
