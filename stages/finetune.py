"""Stage `finetune`: the backbone trains, from a named block on or all of it, below heads in closed form.

Reads ``data/shards/``, ``data/features/M/``, ``data/weights/M.weights.h5`` and the baseline; writes
``data/models/M-finetune.keras``, the training record beside it, and ``plots/M-finetune/history.csv``. Training sees
random crops and mirror images at native resolution, validation whole faces. No training face is judged by a head that
has seen it, and after each epoch the heads are made anew (:mod:`stages.detectors.crossfit`). The baseline counts as
epoch 0: fine-tuning never ends below it in validation, and where no epoch is better, the fine-tuned detector is a copy
of the baseline's file.

Where training sees a few fixed views only (``views``), the layers below the first that trains run once a view, if that
is faster and fits on the disk (:mod:`stages.detectors.prefix`). Several GPUs share each batch.
"""

import argparse
import shutil
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np

from stages.backend import keras, tf
from stages.detectors import assembly, crossfit, levels, prefix, record, rows, training
from stages.detectors.device import distribution, prepare
from stages.errors import run
from stages.faces import augmentation, shards
from stages.files import project_root, publish, read_json, sha256
from stages.params import Model, Params, load

SHARDS = Path("data/shards")
MOMENTUM = 0.9  # of BatchNorm in training mode: fine-tuning is short, Keras' 0.99 would lag behind it
OPTIMIZERS = {"adamw": keras.optimizers.AdamW, "sgd": partial(keras.optimizers.SGD, momentum=0.9, nesterov=True)}
ESTIMATE_IMAGES = 4096  # training images that BatchNorm's statistics are averaged over at the end


class Drawn(TypedDict):
    """In which order training draws which crops."""

    seed: int
    views: int | None
    start: int  # images drawn before: a resumed run goes on where it was
    spoil: shards.Spoil | None


def main() -> None:
    """Fine-tune one backbone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    model: Model = parser.parse_args().model
    params = load()
    fit, shrinkage = params.detectors[model].finetune, params.detectors[model].baseline.shrinkage
    seed = params.training.seed
    device = prepare(params.training.precision, seed, params.training.deterministic)

    baseline = Path(f"data/models/{model}-baseline.keras")
    images = {split: int(shards.summary(SHARDS, split)["images"]) for split in ("train", "valid")}
    batch_size = min(fit.batch_size, images["train"])
    steps = -(-images["train"] // batch_size)

    strategy = distribution()
    with strategy.scope():
        module = levels.Levels(assembly.backbone_module(model), **params.features.seen)
        backbone = module.backbone(f"data/weights/{model}.weights.h5")
        head = assembly.load(baseline).get_layer("head")
        heads = crossfit.heads(head)
        first = assembly.unfreeze(backbone, fit.unfreeze_from)
        norms = training.batch_norm_layers(backbone) if fit.batch_norm == "training" else []
        for layer in norms:
            layer.momentum = MOMENTUM
        frozen = frozen_layers(model, backbone, first, images, params)
        scratch = training.scratch_folder(
            f"{model}-finetune",
            fit.model_dump(),
            shrinkage,
            params.features.model_dump(),
            params.training.model_dump(),
            params.image.model_dump(),
            params.augment.model_dump(),
            [shards.summary(SHARDS, split) for split in images],
            sha256(baseline),
            frozen.keep,
        )
        views = fit.views and min(fit.views, fit.epochs)
        drawn: Drawn = {
            "seed": seed,
            "views": views,
            "start": training.completed_epochs(scratch) * steps * batch_size,
            "spoil": augmentation.spoiling(**params.augment.model_dump()),
        }
        if frozen.keep:
            below, rest = prefix.cut(backbone, first)
            train, valid = outputs_of(module, below, model, images, batch_size, drawn, params)
            judges = assembly.rest_of_detector(rest, heads, fit.batch_norm)
        else:
            size, crop = params.image.size, params.image.crop
            train = shards.augmented(SHARDS, "train", size=size, crop=crop, batch_size=batch_size, **drawn)
            valid = shards.labelled(SHARDS, "valid", size=size, batch_size=params.score.batch_size)
            judges = assembly.detector(module, backbone, heads, fit.batch_norm)
        train, valid = crossfit.judged(train), crossfit.judged_by_all(valid)
        learner = crossfit.learner(judges)
        rate = training.warmed_cosine(fit.learning_rate, steps * fit.epochs, fit.warmup)
        optimizer = OPTIMIZERS[fit.optimizer](
            rate,
            weight_decay=fit.weight_decay,
            use_ema=fit.ema > 0,
            ema_momentum=fit.ema,
            ema_overwrite_frequency=steps,  # once an epoch, before validation
        )
        training.compile_model(learner, optimizer, fit.label_smoothing)
        crossfit.fit(heads, rows.read(Path(f"data/features/{model}"), "train"), params.features.views, shrinkage)
        crossfit.give(heads, head)  # epoch 0 is the baseline
        refit = crossfit.Refit(
            heads, assembly.pooled_features(module, backbone), scratch / "features", shrinkage, params
        )
        journal = training.fit(
            learner,
            train,
            valid,
            epochs=fit.epochs,
            patience=fit.patience,
            scratch=scratch,
            steps_per_epoch=steps,
            callbacks=[refit],
        )
    better = training.best_of(journal)["epoch"] != 0
    if norms and better:  # the baseline's own statistics are as good as they get
        training.estimate_batch_norm(
            learner, norms, train.take(-(-min(images["train"], ESTIMATE_IMAGES) // batch_size))
        )
        refit.on_test_begin()
        print(f"validation with BatchNorm's statistics re-estimated: {training.evaluate(learner, valid)}")

    finetuned = baseline.with_stem(f"{model}-finetune")
    if better:
        crossfit.take(heads, head)
        assembly.save(module, backbone, head, finetuned)
    else:
        print(f"note: no epoch was better on the validation images than the baseline, so {finetuned.stem} is its copy")
        with publish(finetuned) as part:
            shutil.copyfile(baseline, part)
    training.write_history(Path(f"plots/{model}-finetune/history.csv"), journal)
    record.write(
        model,
        "finetune",
        journal,
        device=device,
        weights=read_json(f"data/models/{model}-baseline.json")["weights"],
        images=images,
        samples_per_epoch=steps * batch_size,
        image_size=params.image.size,
        trainable_parameters=sum(
            weight.shape.num_elements() for weight in [*learner.trainable_weights, *head.trainable_weights]
        ),
        frozen_layers=params.training.cache_precision if frozen.keep else None,
    )
    training.forget(scratch)


def frozen_layers(
    model: Model, backbone: "keras.Model", first: int, images: dict[str, int], params: Params
) -> prefix.Plan:
    """Whether to run the layers below number ``first`` once and keep their outputs; the log says why."""
    fit, scratch = params.detectors[model].finetune, project_root() / ".scratch"
    scratch.mkdir(exist_ok=True)
    plan = prefix.plan(
        backbone,
        first,
        images=images,
        sides={
            split: params.features.magnify * side
            for split, side in (("train", params.image.crop), ("valid", params.image.size))
        },
        views=fit.views,
        epochs=fit.epochs,
        itemsize=np.dtype(params.training.cache_precision).itemsize,
        limit=params.training.cache_gigabytes,
        room=prefix.room_for(scratch, f"{model}-outputs-*"),
    )
    print(f"frozen layers: {'run once' if plan.keep else 'run in every epoch'}: {plan.reason}")
    return plan


def outputs_of(
    module: levels.Levels,
    below: "keras.Model",
    model: Model,
    images: dict[str, int],
    batch_size: int,
    drawn: Drawn,
    params: Params,
) -> "tuple[tf.data.Dataset, tf.data.Dataset]":
    """Training and validation batches of the frozen layers' outputs, made now or by an earlier run."""
    fit, size, crop = params.detectors[model].finetune, params.image.size, params.image.crop
    folder = training.scratch_folder(
        f"{model}-outputs",
        fit.unfreeze_from,
        params.features.magnify,
        [params.training.seed, params.training.precision, params.training.cache_precision],
        params.image.model_dump(),
        params.augment.model_dump(),
        [shards.summary(SHARDS, split) for split in images],
        sha256(f"data/weights/{model}.weights.h5"),
    )
    prefix.forget_others(folder, f"{model}-outputs-*")
    faces = keras.Input((None, None, 3))
    network = keras.Model(faces, below(module.preprocess(faces)))
    batch, precision = params.score.batch_size, params.training.cache_precision
    views = [
        prefix.run_once(
            network,
            shards.view(
                SHARDS,
                "train",
                number,
                size=size,
                crop=crop,
                batch_size=batch,
                seed=drawn["seed"],
                spoil=drawn["spoil"],
            ),
            images["train"],
            folder / f"train-{number}.npy",
            precision,
        )
        for number in range(drawn["views"] or 0)
    ]
    whole = shards.labelled(SHARDS, "valid", size=size, batch_size=batch)
    kept = prefix.run_once(network, whole, images["valid"], folder / "valid.npy", precision)
    train_labels, valid_labels = (shards.labels(SHARDS, split) for split in images)
    order = shards.draws(images["train"], seed=drawn["seed"], views=len(views), start=drawn["start"])
    train = prefix.batches(views, train_labels, order, batch_size)
    return train, prefix.batches([kept], valid_labels, shards.in_order(images["valid"]), batch)


if __name__ == "__main__":
    run(main)
