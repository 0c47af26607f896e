"""What a run works under: versions, devices, threads; some of it can change bits of a result."""

import os
import platform
from collections.abc import Mapping
from typing import Any

_VARIABLES = ("XLA_FLAGS", "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS")
_VARIABLES += ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
_HARMLESS = ("platform",)


def environment() -> dict[str, Any]:
    """Versions and settings, for config.json."""
    import keras
    import numpy as np
    import tensorflow as tf

    import rst_tf

    strategy = tf.distribute.get_strategy()
    return {
        "rst_tf": rst_tf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.system(),
        "processor": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "devices": [
            f"/device:{d.device_type}:{d.name.rpartition(':')[2]}"
            for d in tf.config.list_logical_devices()
        ],
        "strategy": type(strategy).__name__,
        "replicas": strategy.num_replicas_in_sync,
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        **{name: os.environ.get(name) for name in _VARIABLES},
    }


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two environments and may change bits, one phrase each."""
    names = [name for name in here if name in there and name not in _HARMLESS]
    return [f"{n}: {there[n]} there, {here[n]} here" for n in names if there[n] != here[n]]
