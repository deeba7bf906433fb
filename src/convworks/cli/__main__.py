"""`python -m convworks.cli`."""

import sys

from convworks.cli import main

sys.exit(main())
