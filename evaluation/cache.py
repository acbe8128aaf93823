"""Where what is made once is kept."""

import os
from pathlib import Path


def models() -> Path:
    """Directory of model files unless another is named: below XDG_CACHE_HOME, or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "sponge" / "models"
