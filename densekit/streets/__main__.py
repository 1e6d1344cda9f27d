"""``python -m densekit.streets``: the generator where only the package is installed."""

import sys

from densekit.streets.cli import main

sys.exit(main())
