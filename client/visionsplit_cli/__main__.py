"""Runs the tool as `python -m visionsplit_cli`."""

import sys

from visionsplit_cli import main

sys.exit(main())
