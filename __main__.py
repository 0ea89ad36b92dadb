"""``python -m keygraph`` is the command ``keygraph``."""

import sys

from .cli import main

sys.exit(main())
