"""Each note where it is due, and only there."""

from __future__ import annotations

from convworks.report.notes import result_notes, training_notes
from convworks.report.read import EpochRecord
from tests.report.test_text import from_confusion

GOOD = [[950, 5, 5], [5, 950, 5], [5, 5, 950]]


def notes_of(cells: list[list[int]], **given: object) -> str:
    arguments: dict = {"split": "val", "chosen_here": False, **given}
    return "\n".join(result_notes(from_confusion(cells), **arguments))


def test_a_large_clear_result_needs_no_note() -> None:
    assert notes_of(GOOD, train_accuracy=0.995) == ""


def test_a_small_set() -> None:
    text = notes_of([[40, 5, 5], [5, 40, 5], [5, 5, 40]])
    assert (
        "Small validation set: with 150 images the accuracy is known only to within about 6 points." in text
    )
    assert "Small test set" in notes_of([[40, 5, 5], [5, 40, 5], [5, 5, 40]], split="test")


def test_chosen_on_the_same_images() -> None:
    assert "The best epoch was chosen on these same images" in notes_of(GOOD, chosen_here=True)


def test_no_better_than_a_guess() -> None:
    assert "always answering rose scores 0.900" in notes_of([[1, 49, 0], [2, 896, 2], [0, 50, 0]])


def test_a_wide_gap() -> None:
    assert "Accuracy on the training images is 1.000, 11 points higher" in notes_of(
        [[890, 55, 55], [55, 890, 55], [55, 55, 890]], train_accuracy=1.0
    )


def test_small_classes_that_do_worse() -> None:
    text = notes_of([[980, 10, 10], [10, 980, 10], [15, 15, 30]])
    assert "the mean over classes is 0.820, 15 points below the accuracy" in text


def test_few_images_no_images_and_no_answers() -> None:
    text = notes_of([[500, 3, 0], [9, 1, 0], [0, 0, 0]])
    assert "1 class has fewer than 20 validation images, so the recall there is rough: rose (10)." in text
    assert "There is no validation image of tulip" in text
    assert "Never answered: tulip" not in text
    assert "Never answered: tulip." in notes_of([[500, 3, 0], [9, 500, 0], [30, 0, 0]])


def epochs(losses: list[float | None]) -> list[EpochRecord]:
    return [
        EpochRecord(
            epoch=i,
            step=i + 1,
            train_loss=None,
            train_accuracy=None,
            val_loss=loss,
            val_accuracy=None,
            val_balanced_accuracy=None,
            lr=None,
            best=False,
        )
        for i, loss in enumerate(losses)
    ]


def test_an_unfinished_run_says_how_to_go_on() -> None:
    (note,) = training_notes(epochs([1.0, 0.9]), planned=5, run="runs/a")
    assert note.startswith("2 of 5 epochs are done.")
    assert note.endswith("convworks resume runs/a")
    assert training_notes(epochs([1.0, 0.9]), planned=2, run="runs/a") == []
    assert training_notes(epochs([1.0, 0.9]), planned=None, run="runs/a") == []


def test_a_loss_that_still_falls() -> None:
    falling = [1 / (i + 1) for i in range(10)]
    assert "still falling" in "".join(training_notes(epochs(falling), planned=10, run="r"))
    flat = [*falling[:8], 0.1, 0.0999]
    assert training_notes(epochs(flat), planned=10, run="r") == []


def test_a_loss_that_rose_again() -> None:
    (note,) = training_notes(epochs([1.0, 0.5, 0.4, 0.5, 0.6, 0.7]), planned=6, run="r")
    assert note.startswith("The validation loss was lowest (0.400) after epoch 3 and rose to 0.700")


def test_runs_without_validation_have_no_trend() -> None:
    assert training_notes(epochs([None] * 8), planned=8, run="r") == []
