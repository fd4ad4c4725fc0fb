"""How a user or an item becomes a vector: tf_keras models only, no data access, no training loop.

TensorFlow Recommenders works with Keras 2, which TensorFlow uses only when told so before its first import.
"""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
