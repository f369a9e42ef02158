"""Stage `split`: which image trains, validates or tests.

Reads, of each set, ``data/index/NAME.parquet`` and ``data/groups/NAME.parquet``, and ``data/across.parquet``. Writes
``data/manifests/NAME.csv``, one row an image that takes part (quarantined ones do not), and ``data/training.json``, how
many images of each set and class train and validate.

A set with ``use: test`` tests with all its images. Of others, ``split.method`` = ``official`` takes the archive's own
folders; where it has no validation images, some of its training ones are drawn for that. ``stratified`` draws the
splits anew, in the same shares of each class, and depends on names and ``split.seed`` alone, not on the order of the
archive. A set's own ``split`` goes before ``split.method``.

``split.near_duplicates`` says what becomes of images of a set that are equal or nearly so (one ``group`` of the audit,
which may span classes): ``group`` keeps them in one split, ``drop`` keeps the first of each group, in the order train,
valid, test, then by name, so that the test split loses what the training split knows; ``keep`` lets them fall anywhere.
What a set above has too, exactly or nearly, goes where it is there; where it cannot, it is left out: nothing that
trains is tested on. So a set that is added below others moves none of their images.

``group_by``, of a set, keeps relatives together, such as the frames of a video or the photos of a person: images in
whose names this regular expression finds the same text (its first group's, if it has one). Relatives and
near-duplicates that share an image are one group, and the manifest says which; only ``keep`` goes by relatives alone.

``split.train_per_class`` then thins the training images of each set out and leaves validation and test as they are, for
learning curves; ``split.limit_per_class`` takes from all three, for quick runs; ``split.leave_out`` keeps sets, or one
of their classes, out of training and validation, and leaves their test images as they are.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages import params
from stages.errors import UserError, run
from stages.faces import manifest
from stages.faces.layout import LABELS, SPLITS
from stages.files import publish, reading, write_json

INDEXES, GROUPS, MANIFESTS = (Path(path) for path in ("data/index", "data/groups", "data/manifests"))
ACROSS, TRAINING = Path("data/across.parquet"), Path("data/training.json")
MIN_IMAGES = 2  # of each class in each split: below that neither training nor a figure means anything

Integers = NDArray[np.int64]
Counts = dict[str, dict[str, int]]  # images by split and class


def main() -> None:
    """Write the manifests and say what is in them."""
    settings = params.load()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what is freed
    pa.set_cpu_count(1)  # and so does the system's, in every thread
    with reading(ACROSS):
        across = pd.read_parquet(ACROSS)
    placed = pd.DataFrame({"above": [], "rank": []}, dtype=np.int64)  # the splits of each group of the sets so far
    counts = {}
    with publish(MANIFESTS) as part:
        part.mkdir()
        for name in settings.sets:
            images, quarantined = _read_sound(name)
            total = len(images)
            there = across.merge(placed, on="above").groupby("group")["rank"].agg(["min", "max"])
            first, last = (images["number"].map(there[key]) for key in ("min", "max"))
            images = _split(name, images.assign(first=first, last=last), settings)
            here = pd.DataFrame({"above": images["number"], "rank": _rank(images["split"])})
            placed = pd.concat([placed, here.drop_duplicates()])
            images = images[~_left_out(name, images, settings)]
            if settings.split.train_per_class is not None:
                images = _thin(images, settings.split.train_per_class, settings.split.seed)
            if images.empty:
                raise UserError(
                    f"{name}: not one of its {total:,} images is left, for sets above have them in another split, or "
                    "split.leave_out names the set; remove it from sets"
                )
            counts[name] = _counts(images)
            images = images.assign(group=pd.factorize(images["group"])[0])
            manifest.write(images, part / f"{name}.csv")
            _summarise(name, images, counts[name], quarantined, total)
        _require_images(counts, settings)
    _warn_of_sizes(settings)
    learned = {
        split: {name: counts[name][split] for name in settings.training_sets if any(counts[name][split].values())}
        for split in ("train", "valid")
    }
    sources = {name: settings.sets[name].source for name in learned["train"]}
    write_json(TRAINING, {"sources": sources, **learned})


def _split(name: str, images: pd.DataFrame, settings: params.Params) -> pd.DataFrame:
    """The images of a set that take part, each with its split.

    ``first`` and ``last`` are the numbers of the splits in which sets above have what its group has; NaN for none.
    """
    split, chosen = settings.split, settings.sets[name]
    official = settings.method(name) == "official"
    if chosen.use == "test":
        images = images.assign(split="test")
    elif official:
        _require_folders(name, images)
    has_valid = "valid" in set(images["split"])
    if chosen.group_by:
        images = _relate(name, images, chosen.group_by)
        _summarise_relatives(name, images)
    if split.near_duplicates == "drop" and chosen.use == "train":
        images = images[~images["alike"].duplicated()]
    if split.limit_per_class is not None:
        images = _draw(images, split, by_split=official)
    if chosen.use == "train":
        if official and chosen.group_by:
            _require_whole(name, images)
        if not official:
            images = images.assign(split=_stratify(images, SPLITS, split))
        elif not has_valid:
            train = images["split"] == "train"
            images.loc[train, "split"] = _stratify(images[train], ("train", "valid"), split)
            validating = (images["split"] == "valid").sum()
            print(
                f"no usable image of {name} lies below a folder valid; {validating:,} of the training images validate"
            )
    rank = _rank(images["split"])
    elsewhere = images["first"].notna() & ((images["first"] != rank) | (images["last"] != rank))
    if elsewhere.any():
        print(f"{name}: {elsewhere.sum():,} images are left out: a set above has them, in another split")
    return images[~elsewhere]


def _warn_of_sizes(settings: params.Params) -> None:
    """Say so where the images of sets to learn from reach ``image.size`` in different ways."""
    sides = {}
    for name in settings.learned_sets:
        with pq.ParquetFile(INDEXES / f"{name}.parquet") as file:
            sides[name] = tuple(file.read(["width", "height"]).to_pandas().median())
    size, smallest = settings.image.size, min(map(min, sides.values()))
    if len(set(sides.values())) > 1 and (settings.image.jpeg is None or size > smallest):
        told = ", ".join(f"{name}: {width:.0f} × {height:.0f} px" for name, (width, height) in sides.items())
        print(
            f"WARNING: the sets to learn from are of different sizes ({told}), so they reach image.size = {size} in "
            f"different ways, which a detector may learn; set image.size to at most {smallest:.0f}, and image.jpeg, so "
            "that all faces are processed alike"
        )


def _left_out(name: str, images: pd.DataFrame, settings: params.Params) -> pd.Series:
    """Which images ``split.leave_out`` keeps out of training and validation."""
    kinds = [LABELS[kind] for kind in settings.left_out(name)]
    left_out: pd.Series = images["label"].isin(kinds) & (images["split"] != "test")
    return left_out


def _read_sound(name: str) -> tuple[pd.DataFrame, int]:
    """The images of a set that can be used, by split then name; and how many cannot.

    ``number`` is that of its group of near-duplicates in the audit, ``alike`` the same in the order here, ``relatives``
    that of ``group_by`` (each image its own, until :func:`_relate`), and ``group`` is both merged. Pandas would sort by
    two columns of text in much memory.
    """
    index, groups = INDEXES / f"{name}.parquet", GROUPS / f"{name}.parquet"
    with reading(index), pq.ParquetFile(index) as file:
        table = file.read(["member", "label", "split", "verdict"])
    images: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    del table
    sound = (images.pop("verdict") == "ok").to_numpy()
    with reading(groups):
        number = np.full(len(sound), -1)
        number[sound] = pd.read_parquet(groups)["group"]
    order = images["member"].argsort().to_numpy()
    order = order[sound[order]]
    order = order[_rank(images["split"])[order].argsort(kind="stable")]
    images = images.iloc[order].reset_index(drop=True).assign(number=number[order])
    alike = pd.factorize(images["number"])[0]
    images = images.assign(alike=alike, group=alike, relatives=range(len(images)))
    return images, len(sound) - len(images)


def _rank(splits: pd.Series) -> Integers:
    """The number of each split in the order train, valid, test; -1 where there is none."""
    return np.select([splits == name for name in SPLITS], range(len(SPLITS)), -1)


def _require_folders(name: str, images: pd.DataFrame) -> None:
    """Raise :class:`UserError` if an image has no official split."""
    homeless = images.loc[images["split"].isna(), "member"]
    if len(homeless):
        raise UserError(
            f"{name}: its split is official, but {len(homeless):,} of {len(images):,} images lie below no folder "
            f"train, valid or test (such as {homeless.iloc[0]!r}); move them there, or set split.method to stratified"
        )


def _relate(name: str, images: pd.DataFrame, group_by: str) -> pd.DataFrame:
    """The images with the ``name`` that ``group_by`` finds for each (None: none, a group of its own), and its groups.

    Raises :class:`UserError` if it finds none at all.
    """
    pattern = re.compile(group_by)
    wanted = 1 if pattern.groups else 0
    matches = (pattern.search(member) for member in images["member"])
    names = pd.Series([(match and match[wanted]) or None for match in matches], images.index, dtype=object)
    named = names.notna()
    if not named.any():
        raise UserError(
            f"sets.{name}.group_by = '{group_by}' matches none of {len(images):,} names (such as "
            f"{images['member'].iloc[0]!r}); change it, or leave it empty"
        )
    if named.all() and names.nunique() == 1:
        raise UserError(
            f"sets.{name}.group_by = '{group_by}' finds {names.iloc[0]!r} in all {len(images):,} names, so they "
            "cannot be split; change it, or leave it empty"
        )
    relatives = images["relatives"].where(~named, len(images) + pd.factorize(names)[0])
    return images.assign(name=names, relatives=relatives, group=_merge(images["alike"], relatives))


def _merge(first: pd.Series, second: pd.Series) -> Integers:
    """One grouping of images out of two (numbers from 0): groups that share an image become one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    second = second + first.max() + 1  # each group is a node, and each image an edge between its two
    nodes = second.max() + 1
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(nodes, nodes))
    component: Integers = connected_components(graph, directed=False)[1]
    return pd.factorize(component[first])[0].astype(np.int64)


def _require_whole(name: str, images: pd.DataFrame) -> None:
    """Raise :class:`UserError` if official splits separate relatives."""
    parts = images.groupby("name", sort=False)["split"].unique()  # by split, then name
    broken = parts[parts.str.len() > 1]
    if len(broken):
        raise UserError(
            f"{name}: its split is official, but the group {broken.index[0]!r} of its group_by has images in "
            f"{broken.iloc[0][0]} and {broken.iloc[0][1]} ({len(broken):,} of {len(parts):,} groups straddle); set "
            "split.method to stratified, or leave group_by empty"
        )


def _draw(images: pd.DataFrame, split: params.Split, *, by_split: bool) -> pd.DataFrame:
    """``limit_per_class`` images of each class, or all where there are no more; of each official split its share."""
    random = np.random.default_rng(split.seed)
    places = images["split"] if by_split else pd.Series("", images.index)
    kept = []
    for label in LABELS.values():
        counts = places[images["label"] == label].value_counts().sort_index()
        limit = min(split.limit_per_class or 0, int(counts.sum()))
        for place, share in zip(counts.index, _shares(np.asarray(counts, np.float64), limit), strict=True):
            candidates = images.index[(images["label"] == label) & (places == place)]
            kept.append(random.choice(candidates, share, replace=False))
    return images.loc[np.sort(np.concatenate(kept))]


def _thin(images: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """The images with at most ``limit`` training ones of each class: a lower limit keeps some of a higher one's."""
    order = images.sample(frac=1, random_state=seed)
    rank = order.groupby(["split", "label"]).cumcount().reindex(images.index)
    return images[(images["split"] != "train") | (rank < limit)]


def _stratify(images: pd.DataFrame, names: tuple[str, ...], split: params.Split) -> NDArray[np.str_]:
    """One of these splits for each image, such that no group straddles and each class comes near to the fractions.

    Groups go one by one to the split that lacks their images most: those that span classes first, then the largest,
    else in random order; a group that a set above has, too, goes where it is there. With one class a group, no split is
    further from its share than the largest group has images, and groups of one image meet the shares exactly.
    """
    groups = images["relatives" if split.near_duplicates == "keep" else "group"]
    above = images["last"].groupby(groups).max()  # of each group, NaN for none: what touches a test face trains nothing
    fractions = np.array([getattr(split.fractions, name) for name in names])
    contents = pd.crosstab(groups, images["label"]).reindex(columns=list(LABELS.values()), fill_value=0)
    counts = contents.to_numpy(np.int64)  # groups × classes
    lacking = np.column_stack([_shares(fractions, total) for total in counts.sum(axis=0)])  # splits × classes

    random = np.random.default_rng(split.seed).permutation(len(counts))
    size, spans = counts.sum(axis=1), (counts > 0).all(axis=1)
    place = np.empty(len(counts), np.int64)
    fixed = above.reindex(contents.index).to_numpy()
    for group in np.lexsort((random, -size, ~spans, np.isnan(fixed))):
        known = not np.isnan(fixed[group]) and SPLITS[int(fixed[group])] in names
        place[group] = names.index(SPLITS[int(fixed[group])]) if known else (lacking @ counts[group]).argmax()
        lacking[place[group]] -= counts[group]
    return np.array(names)[place[contents.index.get_indexer(pd.Index(groups))]]


def _shares(weights: NDArray[np.float64], total: int) -> Integers:
    """``total`` shared out in proportion to ``weights``, in whole numbers: the largest remainders are rounded up."""
    exact = total * weights / weights.sum()
    shares: Integers = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: total - shares.sum()]] += 1
    return shares


def _require_images(counts: dict[str, Counts], settings: params.Params) -> None:
    """Raise :class:`UserError` unless each split has enough of each class, of all sets that train."""
    split, training = settings.split, settings.training_sets
    of = {
        (part, kind): sum(counts[name][part][kind] for name in training if kind not in settings.left_out(name))
        for part in SPLITS
        for kind in LABELS
    }
    for (part, kind), count in of.items():
        if count < MIN_IMAGES:
            there = ", ".join(f"{part} {of[part, 'real']:,}/{of[part, 'fake']:,}" for part in SPLITS)
            limit = "raise split.limit_per_class, " if split.limit_per_class is not None else ""
            limit += "leave fewer sets out (split.leave_out), " if split.leave_out else ""
            official = all(settings.method(name) == "official" for name in training)
            remedy = "set split.method to stratified" if official else "change split.fractions"
            grouped = ["group_by"] if any(settings.sets[name].group_by for name in training) else []
            if split.near_duplicates == "group":
                grouped.append("split.near_duplicates")
            if not official and grouped:
                remedy += f" or {' or '.join(grouped)}, whose groups may be too large"
            raise UserError(
                f"{', '.join(training)}: there are {count} {kind} images for {part}, and each split needs "
                f"{MIN_IMAGES} of each class (real/fake: {there}); add images, {limit}or {remedy}"
            )


def _counts(images: pd.DataFrame) -> Counts:
    """The images of each split and class, zeros included."""
    found = images.groupby(["split", "label"]).size()
    return {split: {kind: int(found.get((split, label), 0)) for kind, label in LABELS.items()} for split in SPLITS}


def _summarise(name: str, images: pd.DataFrame, counts: Counts, quarantined: int, sound: int) -> None:
    """A table of what takes part of a set, what was left out, and how many images give an earlier split away."""
    print(f"{MANIFESTS / name}.csv: {len(images):,} images")
    for split, count in counts.items():
        print(f"  {split:<5}  {count['real']:>8,} real  {count['fake']:>8,} fake")
    print(f"left out: {quarantined:,} quarantined, {sound - len(images):,} others")
    rank = pd.Series(_rank(images["split"]), images.index)
    if leaks := int((rank > rank.groupby(images["alike"]).transform("min")).sum()):
        print(
            f"WARNING: {leaks:,} images are duplicates, or nearly, of one in an earlier split, and may flatter the "
            "figures; set split.near_duplicates to drop, or to group with the stratified method."
        )


def _summarise_relatives(name: str, images: pd.DataFrame) -> None:
    """How many groups ``group_by`` names, and how many the archive's own splits would separate."""
    parts = images.groupby("name")["split"].nunique()
    straddling = f"; {(parts > 1).sum():,} straddle the archive's own splits" if parts.any() else ""
    print(
        f"{name}, group_by: {len(parts):,} groups in {images['name'].count():,} of {len(images):,} images{straddling}"
    )


if __name__ == "__main__":
    run(main)
