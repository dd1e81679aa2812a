"""Scripts of a recipe import one another by name, as they do when they are run."""

import sys
from pathlib import Path

RECIPES = Path(__file__).parent.parent.parent / "recipes"
sys.path.append(str(RECIPES / "elmer"))
