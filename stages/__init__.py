"""Real faces from generated ones: four detectors, from an archive of faces to a leaderboard.

This package is the pipeline. Every stage of ``dvc.yaml`` is the module of the same name here, and reads top to bottom:
what it reads, what it does, what it writes. Below the stages lie eight rooms, each with one duty; they know nothing of
the stages above them and meet only through arrays, paths and dataclasses.

=================  ====================================================================================================
stages/            one module a stage, in the order of the data: ``params``, ``look``, ``download``, ``weights``,
                   ``index``, ``audit``, ``split``, ``preprocess``, ``baseline``, ``finetune``, ``score``,
                   ``evaluate``, ``explain``, ``compare``, ``report``; ``preset``, ``pretrained``, ``predict``,
                   ``demo``, ``judge_archive`` and ``train_on_ray`` are commands for people
stages/sources/    where faces come from: our own sample, a folder, Kaggle
stages/faces/      the archive, its images, the index, the manifest, the shards and the batches made of them
stages/detectors/  one module a backbone, the head, the training loop, the device, the export
stages/scoring/    figures, curves, thresholds, calibration and intervals, from scores alone
stages/evidence/   which answers to explain, the check of their evidence, the sheet of faces
stages/reporting/  the report's figures, sentences and templates; the leaderboard drawn
stages/photos/     anybody's photos: their faces found and aligned, judged by exported detectors, without TensorFlow
stages/tracking/   MLflow, as a mirror of the files, its registry and server; also a command for people
``errors``         the one way in which a stage refuses: a sentence and an exit code
``quiet``          harmless lines of C++ libraries, kept off the terminal
``files``          the one way in which a stage publishes a file: whole or not at all
``progress``       how far a loop is: a bar, or lines where there is no terminal
``lifetime``       a stage ends with DVC, and a worker with its stage
``cluster``        how the two commands for Ray join a cluster, and how long they wait
=================  ====================================================================================================

Conventions: label 1 is *fake* (the positive class), 0 is *real*; a score is P(fake) in [0, 1]; an image is RGB, uint8,
height × width × 3, and a network takes it as float32 in 0–255.
"""

import os
import sys
import time

# Ctrl-C while libraries are imported: no traceback, as later (``errors.run``).
sys.excepthook = lambda kind, *rest: None if kind is KeyboardInterrupt else sys.__excepthook__(kind, *rest)
STARTED = time.monotonic()  # before any library: TensorFlow alone takes seconds to import
if os.environ.get("DVC_STAGE"):
    from stages.lifetime import end_with_dvc  # before any library, too: DVC may be killed meanwhile

    end_with_dvc()
