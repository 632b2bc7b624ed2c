"""Settings, the training configuration, logs and metrics.

Only this package reads the environment, and only once; everything else receives values.
`get_current_model` and `get_training_config` are the names of the original Python API.
"""

from config.training import get_current_model, get_training_config

__all__ = ["get_current_model", "get_training_config"]
