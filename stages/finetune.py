"""Stage `finetune`: backbone and head train end to end, by gradients, on random crops at native resolution.

Reads the training and validation faces in ``data/shards/`` that ``data/training.json`` lists,
``data/weights/M.weights.h5`` and ``data/features/M/``; writes ``data/models/M-finetune.keras``, beside it the training
record, how to tell what is unlike the training faces (:mod:`stages.detectors.distance`), and, after every epoch, the
history so far (``.csv``). Validation sees whole faces. The detector is the best of its own epochs, whether or not it is
better than its baseline: the leaderboard says that.

Where ``TF_CONFIG`` names several hosts, they train together (:mod:`stages.detectors.hosts`); the first of them writes.

There are two ways to start (``start``). From a linear probe, for backbones that know pictures and have few faces to
learn from: BatchNorm stays as it is, and the features that the probe weighs change slowly. And afresh, as networks are
trained from scratch: a head that knows nothing, and BatchNorm that trains, with each batch's statistics.
"""

import argparse
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from stages.backend import keras
from stages.detectors import assembly, discriminant, distance, hosts, levels, over_hosts, record, rows, training
from stages.detectors.device import distribution, prepare
from stages.errors import run
from stages.faces import augmentation, shards
from stages.files import hold, read_json
from stages.params import Finetune, Model, load

WARMUP, WEIGHT_DECAY, CLIP = 0.1, 0.01, 1.0  # share of all steps; AdamW's own; norm of all gradients


def main() -> None:
    """Fine-tune one backbone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    model: Model = parser.parse_args().model
    params = load()
    fit, seed, size = params.detectors[model].finetune, params.training.seed, params.image.size
    device = prepare(params.training.precision, seed, params.training.deterministic)

    weights, features = Path(f"data/weights/{model}.weights.h5"), Path(f"data/features/{model}")
    folders = {split: shards.training(split) for split in ("train", "valid")}
    images = {split: shards.counts(there)["images"] for split, there in folders.items()}
    sections = (fit, params.features, params.training, params.image, params.augment)
    summaries = [shards.summary(folder) for there in folders.values() for folder in there]
    made_of = training.made_of(
        parameters=[model, *(section.model_dump() for section in sections)],
        data=[*summaries, weights, *(sorted(features.iterdir()) if fit.start == "probe" else [])],
        precision=device.precision,
    )
    scratch = training.scratch_folder(f"{model}-finetune", made_of)
    worker = hosts.worker()
    scratch = over_hosts.agreed(worker, made_of, scratch, training.completed_epochs(scratch))
    strategy = distribution(len(worker.addresses))
    devices = strategy.num_replicas_in_sync
    batch_size = min(fit.batch_size, max(1, images["train"] // devices) * devices)  # one that they share equally
    steps = -(-images["train"] // batch_size)
    with hold(scratch):
        # The data: crops of training faces, endlessly; whole validation faces, in their order.
        crops = partial(
            shards.augmented,
            folders["train"],
            size=size,
            crop=params.image.crop,
            seed=seed,
            start=training.completed_epochs(scratch) * steps * batch_size,
            augment=augmentation.augmenter(**params.augment.model_dump()),
        )
        train = over_hosts.shared(strategy, crops, batch_size) if worker.several else crops(batch_size=batch_size)
        valid = shards.labelled(folders["valid"], size=size, batch_size=fit.batch_size)

        # The network, and one fit.
        with strategy.scope():
            module = levels.Levels(assembly.backbone_module(model), **params.features.seen)
            backbone = module.backbone(str(weights))
            if fit.start == "probe":
                head = probe(rows.read(features, "train"))
            else:
                head = assembly.trainable_head(backbone.output_shape[-1])
            assembly.set_batch_norm([*backbone.layers, *head.layers], trains=fit.start == "fresh", devices=devices)
            network = assembly.detector(module, backbone, head)
            network.compile(
                optimizer=optimizer(fit, steps * fit.epochs),
                loss=keras.losses.BinaryCrossentropy(from_logits=True),
                metrics=[keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")],  # of logits: P = 0.5
            )
        fitted = training.fit(
            network,
            train,
            valid,
            shards.labels(folders["valid"]),
            epochs=fit.epochs,
            steps_per_epoch=steps,
            scratch=scratch,
            curves=Path(f"data/models/{model}-finetune.csv"),
            chief=worker.chief,
        )
        if not fitted:
            shutil.rmtree(scratch)
            return
        journal, best = fitted

        # The detector and its record.
        saved = assembly.save(module, backbone, assembly.settled(head), Path(f"data/models/{model}-finetune.keras"))
        # Distances are those of the saved network, as it is used: in float32, of one host.
        pooled = over_hosts.answers(keras.Model(saved.input, saved.get_layer("pool").output))
        known = []
        for there in folders["train"]:  # of each set its share, the first
            count = math.ceil(shards.counts([there])["images"] * min(1.0, distance.FACES / images["train"]))
            faces = shards.labelled([there], size=size, batch_size=fit.batch_size).take(-(-count // fit.batch_size))
            known.append(pooled(faces)[:count])
        distance.fit(np.concatenate(known), Path(f"data/models/{model}-finetune.npz"))
        record.write(
            model,
            "finetune",
            device=device._replace(name=device.name + f", first of {len(worker.addresses)} hosts" * worker.several),
            weights=read_json(f"data/weights/{model}.json"),
            images=images,
            image_size=size,
            trained=network,
            val_auc=best["val_auc"],
            seconds=sum(row["seconds"] for row in journal),
            epochs=len(journal),
            best_epoch=int(best["epoch"]),
            crops=len(journal) * steps * batch_size,
        )
        shutil.rmtree(scratch)


def probe(train: rows.Rows) -> "keras.Model":
    """A linear probe of every other training face, calibrated on the faces in between.

    A probe of all of them would know them by heart: there would be no loss left to learn from (Kumar et al. 2022,
    arXiv:2202.10054, start at a probe; Ren et al. 2023, arXiv:2302.05779, say why it must not have converged).
    """
    features, labels = train
    return discriminant.head((features[::2], labels[::2]), (features[1::2], labels[1::2]))


def optimizer(fit: Finetune, steps: int) -> "keras.Optimizer":
    """AdamW over ``steps``; biases and the scales and offsets of BatchNorm do not decay, gradients are clipped."""
    rate = training.warmed_cosine(fit.learning_rate, steps, WARMUP)
    adamw = training.AdamW(rate, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP)
    adamw.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return training.LossScale(adamw) if keras.config.dtype_policy().name == "mixed_float16" else adamw


if __name__ == "__main__":
    run(main)
