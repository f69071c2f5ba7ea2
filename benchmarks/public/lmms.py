"""lmms-eval's own command line, with visionsplit among its models and this folder's tasks among its tasks.

    python -m benchmarks.public.lmms --model visionsplit --model_args method=globalcom2,retention_ratio=0.1 \
        --tasks visionsplit_samples --output_path out/public

lmms-eval finds models of others by an entry point (group `lmms_eval.models`) of an installed package. This adapter is
not part of the installed package, which must not need lmms-eval; so it is registered here, for this process.
"""

import sys
from pathlib import Path

from lmms_eval.models import MODEL_REGISTRY_V2
from lmms_eval.models.registry_v2 import ModelManifest

TASKS = Path(__file__).parent / "tasks"


def main() -> None:
    MODEL_REGISTRY_V2.register_manifest(
        ModelManifest("visionsplit", chat_class_path="benchmarks.public.adapter.VisionSplit"), overwrite=True
    )
    from lmms_eval.__main__ import cli_evaluate  # which reads the command line

    if "--include_path" not in sys.argv:
        sys.argv += ["--include_path", str(TASKS)]
    cli_evaluate()


if __name__ == "__main__":
    main()
