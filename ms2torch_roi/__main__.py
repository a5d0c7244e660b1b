"""``python -m ms2torch_roi`` is the ``ms2torch-roi`` command."""

import sys

from .cli import main

sys.exit(main())
