"""A signpost: `python zoo/rloo.py` finds this file where `python -m zoo.rloo` finds runtime/."""

import sys
from pathlib import Path

name = Path(sys.argv[0]).stem
raise SystemExit(f"run it from the repository's folder: python -m zoo.{name}")
