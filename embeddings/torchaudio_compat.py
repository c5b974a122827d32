"""Make `import torchaudio` work beside a torch it was not linked for.

PyPI's torchaudio wheels for Linux are linked against CUDA. Beside a CPU build of torch their compiled extension cannot
be loaded and the import raises OSError, which takes SpeechBrain down with it although SpeechBrain 1.1 uses only the
pure-Python parts (met with torch 2.13.0+cpu and torchaudio 2.11.0). Where the plain import fails, and only there, this
module puts a stand-in for the extension in place that says "no extension here", as torchaudio's builds without one do.
"""

from __future__ import annotations

import sys
import types
from typing import Any


def import_torchaudio() -> types.ModuleType:
    """Import torchaudio, without its compiled extension where that cannot be loaded."""
    try:
        import torchaudio
    except OSError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        sys.modules["torchaudio._extension"] = _no_extension()
        import torchaudio
    return torchaudio  # type: ignore[no-any-return]


def _no_extension() -> types.ModuleType:
    module: Any = types.ModuleType("torchaudio._extension")
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module.fail_if_no_align = lambda function: function
    return module  # type: ignore[no-any-return]
