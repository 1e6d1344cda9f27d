"""``python -m densekit``: the same as the command ``densekit``."""

import sys

from densekit.cli import main

if __name__ == "__main__":
    sys.exit(main())
