"""Every error code and what it means: the table behind docs/errors.md and `convworks list errors`.

A test reads the sources and fails where a code is used that is not here, or is here and not used.
"""

from __future__ import annotations

# fmt: off
CODES: dict[str, str] = {
    # U: usage, exit status 2
    "U001": "there is no such verb",
    "U002": "there is no such flag",
    "U003": "a flag has a value that does not fit",
    "U004": "something that the verb needs was not given",
    "U005": "a word too many, or a flag without its value",
    "U006": "a file to be written is of another kind than its name or content says",
    "U101": "there is no model, recipe, setting, class or data set of that name",
    "U110": "a file of settings cannot be read",
    "U111": "--set is not of the form KEY=VALUE",
    "U112": "a setting has a value of the wrong type or outside its range",
    "U113": "images are kept smaller than the network's input",
    "U120": "a model has no such option",
    "U121": "a model does not take this number of classes or channels",
    "U122": "a model does not take images of this size",
    "U123": "an option of a model has a value that does not fit",
    "U130": "a run cannot have this name",
    "U131": "a run was begun with other settings",
    "U150": "the split's fractions leave nothing",
    "U160": "arrays given to the metrics do not fit each other",
    "U170": "an augmentation has a value out of range",
    "U171": "an augmentation shifts images out of sight",
    "U172": "a loader has an empty batch or a negative number of threads",
    "U175": "an image geometry makes no sense",
    # D: data, exit status 3
    "D101": "there is no folder, file or data set there",
    "D102": "a file is not of a kind that can be opened as data",
    "D103": "there are no images",
    "D104": "there are images and no class folders",
    "D105": "there is only one class",
    "D106": "two folders or files stand for the same split",
    "D107": "two class names are the same letters in two Unicode forms",
    "D108": "an archive is damaged",
    "D109": "an archive is refused: too large unpacked, or made to do harm",
    "D110": "a file inside an archive or folder cannot be read",
    "D111": "an array file is damaged",
    "D112": "an .npz file holds no images and labels that can be understood",
    "D113": "a pickled array file, which could run code",
    "D115": "no permission to read",
    "D120": "an image file is empty",
    "D121": "a file is no image",
    "D122": "an image is cut off",
    "D123": "an image is damaged",
    "D124": "an image is larger than the limit",
    "D125": "an image is of a kind that is not supported",
    "D126": "no regular file: gone, forbidden, or a device",
    "D139": "an image cannot be read, for a reason without a code of its own",
    "D140": "an unreadable image, with --strict",
    "D141": "more than one image in a hundred is unreadable",
    "D142": "a class keeps fewer than two readable images",
    "D143": "a class has too few different images to be split",
    "D144": "no image is readable",
    "D145": "the data has changed since the run began",
    "D146": "there is nothing to train on",
    "D147": "a class has no training images",
    "D148": "an image has no label",
    "D149": "unreadable images in an evaluation",
    "D158": "there is no training image to measure a mean of",
    "D160": "a download failed from every mirror",
    "D161": "a data set is not here, and downloads are off",
    "D162": "downloaded bytes are not the published ones",
    "D163": "a web page came in place of a file",
    "D164": "another process is downloading the same file",
    "D165": "a local copy of a data set is not the published data",
    "D166": "a data set's archive lacks a file",
    "D180": "a table of labels is empty",
    "D181": "a table of labels is no table",
    "D182": "a row of a table has too few or too many columns",
    "D183": "a table lacks a column",
    "D184": "a row of a table has no label, or one that is not text",
    "D185": "a row of a table names a file outside the folder",
    "D186": "a table names one file twice",
    "D187": "a row of a table names a file that does not exist",
    "D188": "a row of a table has no split, or one that is none",
    "D189": "labels were given twice, or where none are needed",
    "D201": "the data has a class that the model never saw",
    "D202": "the data has no such split",
    "D203": "there is nothing to evaluate",
    "D204": "an image to be evaluated has no label",
    "D205": "there is no image to measure",
    "D210": "a value cannot be used as an image",
    "D211": "there is no image or folder of that name",
    "D212": "a folder has no images",
    "D213": "some images could not be read; the rows of the others are there",
    # A: artifacts of ours, exit status 4
    "A401": "a record of a run cannot be read",
    "A402": "a file of tensors cannot be read",
    "A403": "a checkpoint is damaged",
    "A404": "none of a run's checkpoints is whole",
    "A405": "weights do not fit the network",
    "A410": "not a run folder",
    "A411": "there is no model there",
    "A412": "a PyTorch pickle file, which could run code",
    "A413": "a model was made by a newer version",
    "A414": "a model is damaged",
    "A415": "a model holds numbers that are not finite",
    "A416": "a run's plan is damaged",
    "A430": "a model's preprocessing is damaged",
    "A431": "a model's preprocessing arrays cannot be read",
    "A432": "a model's preprocessing arrays do not fit",
    "A440": "a manifest cannot be read",
    "A441": "a manifest has content of another kind",
    "A442": "a manifest was made by a newer version",
    "A460": "a record of an evaluation is damaged",
    "A462": "a line of a log is damaged",
    "A463": "an evaluation does not fit its manifest",
    # R: resources, exit status 5
    "R503": "a folder cannot be written to",
    "R504": "too little free space",
    "R505": "the model cannot be saved",
    "R510": "a run is in use by another process",
    "R520": "there is no such device",
    "R521": "the disk cannot hold the images",
    "R522": "the memory cannot hold the images",
    "R530": "a run was stopped",
    "R540": "this machine has a problem that would make work fail",
    "R590": "the answer could not be written",
    "R591": "the system refused a file",
    "R592": "there is not enough memory",
    # N: numbers, exit status 6
    "N601": "the loss or the gradient is not finite",
    "N602": "a weight is not finite",
    "N620": "probabilities are not finite",
}
# fmt: on


def markdown() -> str:
    """The page docs/errors.md."""
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in CODES.items())
    return f"""# Errors

Every message says what happened, where, why it matters, and a command to try. The letter of the code
decides the exit status: U 2, D 3, A 4, R 5, N 6. A fault of convworks itself is 1, a stopped run that can be
resumed 75, a hard interrupt 130.

| code | meaning |
|---|---|
{rows}
"""
