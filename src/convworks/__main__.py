"""`python -m convworks`."""

import sys

from convworks.cli import main

sys.exit(main())
