"""What the server of forked.py imports, in the surroundings in which a command would."""

import contextlib
import gc
import importlib
import io

from undial_cli.cli import run_command

with contextlib.redirect_stdout(io.StringIO()):
    run_command(["--version"])  # which sets what a command sets before it imports

for name in (
    "undial_cli.pipeline",
    "transformers.models.llama.modeling_llama",
    "rouge_score.rouge_scorer",
    "deepspeed",  # accelerate imports it where it is installed
):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)

gc.freeze()  # what was imported is no garbage
