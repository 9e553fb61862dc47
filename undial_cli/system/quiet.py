"""Keep the libraries' own progress bars and notices off the screen; real warnings stay."""

from __future__ import annotations

import logging
import os
import warnings


def silence_libraries() -> None:
    """Set before the libraries do real work."""
    silence_models()
    import datasets

    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # what it logs as an error it raises too
    datasets.disable_progress_bars()


def silence_models() -> None:
    """As `silence_libraries`, for what reads no data: `datasets` takes half a second to import."""
    # Tokenizers warn of every fork after they were used in parallel.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    if not torch.cuda.is_available():  # or DeepSpeed warns that it found none, where it is there
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    loud = ("torch.distributed", "torch", "accelerate", "absl", "huggingface_hub", "bitsandbytes")
    for name in loud:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
