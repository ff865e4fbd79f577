"""``python -m maskgit_export COMMAND``."""

import sys

from .cli import main

sys.exit(main())
