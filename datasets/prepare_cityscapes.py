#!/usr/bin/env python3
"""Makes labelTrainIds and panoptic files of a Cityscapes download; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from densekit.data.prepare_cityscapes import main

if __name__ == "__main__":
    sys.exit(main())
