"""Settings, the training configuration, logs and metrics.

The service reads its environment here, once; everything else receives values. `get_current_model`
and `get_training_config` are the names of the original Python API.
"""

from config.training import get_current_model, get_training_config

__all__ = ["get_current_model", "get_training_config"]
