"""What the page of a check says about each kind of problem, in the order of its sections."""

from __future__ import annotations

EXPLANATIONS: dict[str, str] = {
    "leak": (
        "One picture stands in two splits. What was learnt by heart is then measured as if it were new, "
        "and every figure comes out too good."
    ),
    "near-leak": (
        "Copies of one picture, resized, cropped, compressed again or mirrored, stand in two splits. A "
        "network that remembers the one knows the other."
    ),
    "conflict": "The same pixels have two labels. One of them is wrong, or the classes are not exclusive.",
    "near-conflict": (
        "Copies of one picture have two labels. One is wrong, unless the classes differ in just what "
        "differs here."
    ),
    "label-suspect": (
        "A network that never saw these images gives another class more probability than that class "
        "usually gets, and is surest of the first ones. Many are labelled rightly: only a look tells."
    ),
    "unreadable": (
        "These files hold no picture that can be decoded to the end. Training leaves them out and says so."
    ),
    "too-large": "These files are over the limit that protects the memory, and were not decoded.",
    "blank": "Every pixel of these pictures has the same colour. There is nothing to learn from them.",
    "near-blank": "Hardly anything differs from pixel to pixel.",
    "tiny": "These are enlarged for the network and show little.",
    "empty": "No image of these classes can be read, so nothing can be learnt about them.",
    "few": "A class with so few images is learnt badly, and its measured score is hardly more than chance.",
    "imbalance": (
        "Plain accuracy follows the large classes. Balanced accuracy, the mean over the classes, is "
        "reported beside it; class_weights=balanced weights the loss."
    ),
    "exact": (
        "The same pixels occur more than once, in whatever file format. Training keeps copies in one "
        "split; in training they only count double."
    ),
    "near": (
        "Pictures that lie on each other almost without a difference. The third picture shows what is "
        "left of it, strengthened: white is none. A split that is drawn file by file would part them."
    ),
    "dark": "Far darker than the others: a shot with the cap on, or a class of night pictures.",
    "bright": "Far brighter than the others: blank paper, or over-exposed.",
    "huge": "Far larger than the others. They are shrunk like all the rest, and cost time.",
    "long": (
        "Training sees a square of the middle, so the ends of these are never seen; fit=squash or "
        "fit=pad keep them."
    ),
    "grey": (
        "Without colour among pictures in colour. A network may learn that instead of the class, where "
        "one class has most of them."
    ),
    "wrong-extension": (
        "The content is an image of another format than the name says. It is read by its content."
    ),
    "exif-rotated": "The camera was held sideways and noted it. They are turned to what a person sees.",
    "16-bit": "Scaled to 8 bits by range, not cut off.",
    "cmyk": "Printing inks, converted to RGB through the profile in the file where there is one.",
    "alpha": "Transparent parts are laid on white.",
    "palette": "Colours from a table, converted to RGB.",
    "1-bit": "Black and white only, read as 0 and 255.",
    "animated": "Several frames or pages. The first one is used.",
}
NEXT: dict[str, tuple[str, str]] = {  # a flag and what it does
    "leak": ("--splits FILE", "writes a split without leaks."),
    "near-leak": ("--splits FILE", "writes a split without leaks."),
    "near": ("--splits FILE", "writes a split that keeps copies together."),
    "label-suspect": ("--quarantine FILE", "writes the list."),
    "unreadable": ("--quarantine FILE", "writes the list."),
}
