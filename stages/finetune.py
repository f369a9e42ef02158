"""Stage `finetune`: from the baseline's head on, the backbone trains too, from a named block or all of it.

Reads ``data/shards/``, ``data/weights/M.weights.h5`` and the baseline; writes ``data/models/M-finetune.keras``, the
training record beside it, and ``plots/M-finetune/history.csv``. Training sees random crops and mirror images at native
resolution, validation whole faces. The baseline counts as epoch 0: fine-tuning never ends below it in validation.
"""

import argparse
from pathlib import Path

from stages.backend import keras
from stages.detectors import assembly, record, training
from stages.detectors.device import prepare
from stages.errors import run
from stages.faces import shards
from stages.files import read_json, sha256
from stages.params import load

SHARDS = Path("data/shards")
MOMENTUM = 0.9  # of BatchNorm in training mode: fine-tuning is short, Keras' 0.99 would lag behind it
ESTIMATE_IMAGES = 4096  # training images that BatchNorm's statistics are averaged over at the end


def main() -> None:
    """Fine-tune one backbone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    model = parser.parse_args().model
    params = load()
    fit = params.detectors[model].finetune
    seed = params.training.seed
    device = prepare(params.training.precision, seed, params.training.deterministic)

    baseline = Path(f"data/models/{model}-baseline.keras")
    train_summary, valid_summary = (shards.summary(SHARDS, split) for split in ("train", "valid"))
    scratch = training.scratch_folder(
        f"{model}-finetune",
        fit.model_dump(),
        params.training.model_dump(),
        params.image.model_dump(),
        [train_summary, valid_summary, sha256(baseline)],
    )
    images = int(train_summary["images"])
    batch_size = min(fit.batch_size, images)
    steps = -(-images // batch_size)
    train = shards.augmented(
        SHARDS,
        "train",
        size=params.image.size,
        crop=params.image.crop,
        batch_size=batch_size,
        seed=seed + training.completed_epochs(scratch),  # a resumed run draws new crops, not the first epoch's again
    )
    valid = shards.labelled(SHARDS, "valid", size=params.image.size, batch_size=params.score.batch_size)

    module = assembly.backbone_module(model)
    backbone = module.backbone(f"data/weights/{model}.weights.h5")
    head = assembly.head_of(assembly.load(baseline), fit.dropout)
    assembly.unfreeze(backbone, fit.unfreeze_from)
    norms = training.batch_norm_layers(backbone) if fit.batch_norm == "training" else []
    for layer in norms:
        layer.momentum = MOMENTUM
    detector = assembly.detector(module, backbone, head, fit.batch_norm)
    rate = training.warmed_cosine(fit.learning_rate, steps * fit.epochs, fit.warmup)
    training.compile_model(detector, keras.optimizers.AdamW(rate, weight_decay=fit.weight_decay))
    rows = training.fit(
        detector,
        train,
        valid,
        epochs=fit.epochs,
        patience=fit.patience,
        scratch=scratch,
        steps_per_epoch=steps,
        score_start=True,
    )
    if norms and training.best_of(rows)["epoch"] != 0:  # the baseline's own statistics are as good as they get
        training.estimate_batch_norm(detector, norms, train.take(-(-min(images, ESTIMATE_IMAGES) // batch_size)))
        print(f"validation with BatchNorm's statistics re-estimated: {training.evaluate(detector, valid)}")

    assembly.save(module, backbone, head, Path(f"data/models/{model}-finetune.keras"))
    training.write_history(Path(f"plots/{model}-finetune/history.csv"), rows)
    record.write(
        model,
        "finetune",
        rows,
        device=device,
        weights=read_json(f"data/models/{model}-baseline.json")["weights"],
        images={"train": images, "valid": int(valid_summary["images"])},
        samples_per_epoch=steps * batch_size,
        image_size=params.image.size,
        trainable_parameters=sum(weight.shape.num_elements() for weight in detector.trainable_weights),
    )
    training.forget(scratch)


if __name__ == "__main__":
    run(main)
