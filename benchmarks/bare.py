"""Import this first, and training and decoding load on a machine that has torch, numpy, safetensors and tokenizers but nothing else.

What checks configs, draws progress bars and reads command lines is not needed there: a mock stands in for each such package that is
missing. Messages still reach the terminal. It also puts this checkout on the path, and asks for GPU memory that can grow in place.
"""

import importlib.util
import os
import sys
from pathlib import Path
from unittest.mock import MagicMock

PACKAGES = {
    "annotated_types": (),
    "pydantic": (),
    "rich": ("rich.console", "rich.progress"),
    "huggingface_hub": ("huggingface_hub.errors",),
}


sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # read when the first tensor goes to the GPU
absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
for name in absent:
    sys.modules.update({part: MagicMock(name=part) for part in (name, *PACKAGES[name])})
if "rich" in absent:
    sys.modules["rich.console"].Console.return_value.print = lambda message, **_: print(message, file=sys.stderr, flush=True)  # type: ignore[attr-defined]
