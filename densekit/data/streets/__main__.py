"""``python -m densekit.data.streets``: the generator where only the package is installed."""

import sys

from densekit.data.streets.cli import main

sys.exit(main())
