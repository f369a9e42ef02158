"""TensorFlow and Keras, without the lines that TensorFlow prints at every start.

Import them from here: ``from stages.backend import keras, tf``. TensorFlow's remarks (level INFO) are turned off, and
of its warnings at the start only those known to be harmless are dropped; whatever else it writes (a GPU library that
does not load, say) is passed on.
"""

import os

from stages.quiet import without_harmless_lines

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # take GPU memory as needed, not all of it at once
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # without VNNI it would be off, and training take up to 4 × as long

with without_harmless_lines():
    import keras
    import tensorflow as tf

    if "TF_CONFIG" not in os.environ:  # several hosts have to be known before devices are opened
        tf.constant(0)  # the second half of the lines comes when they are

__all__ = ["keras", "tf"]
