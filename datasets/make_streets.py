#!/usr/bin/env python3
"""Makes the built-in data set of street scenes; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from densekit.streets.cli import main

if __name__ == "__main__":
    sys.exit(main())
