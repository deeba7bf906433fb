"""From the words of a command to its exit status: find the verb, import only it, print what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import TYPE_CHECKING

from convworks.errors import EXIT_BUG, EXIT_HARD_INTERRUPT, EXIT_OK, ConvworksError, closest
from convworks.threads import spin_briefly

if TYPE_CHECKING:
    from convworks.cli.console import Console
    from convworks.cli.flags import Verb

# (verb, subject, what it does); each has a module in this package, `module_of`.
VERBS = (
    ("check", "DATA", "look at labelled images and say what is wrong with them"),
    ("augment", "DATA", "a sheet of training images as the network sees them"),
    ("train", "DATA", "train a network, or continue what was stopped"),
    ("resume", "RUN", "continue a stopped run, to the bit where possible"),
    ("lr-find", "DATA", "find a learning rate: the loss while the rate rises"),
    ("lr-plot", "RECIPE|RUN", "the learning rate over a whole run, as curve and picture"),
    ("eval", "MODEL DATA", "measure a model on labelled images, with 95 % intervals"),
    ("predict", "MODEL PATH...", "name what is on images"),
    ("probe", "MODEL DATA", "how well each stage's features tell the classes apart"),
    ("features", "MODEL DATA", "what the last layer sees of each image, as .npz or .csv"),
    ("advise", "DATA", "which model, size and training suit these images, and why"),
    ("recalibrate", "RUN", "exact batch norm statistics from all training images"),
    ("ensemble", "RUN...", "several models as one: averaged, weighted or stacked"),
    ("compare", "RUN RUN...", "what differs between runs, and whether it matters"),
    ("learning-curve", "DATA", "what more training images would bring"),
    ("report", "RUN...", "write the report of a run again, or compare several"),
    ("show", "NAME|RUN", "layers of a model; facts of a run or recipe"),
    ("compare-models", "A B [C]", "two or three networks side by side, as table or picture"),
    ("receptive-field", "NAME|RUN", "what a unit of each layer sees, by rule and by gradient"),
    ("design", "rf", "how deep a network must be to see so many pixels"),
    ("cost", "NAME", "memory and time of a training on this machine, beforehand"),
    ("plan", "MODEL DATA", "how fast each way of training is here, and where time goes"),
    ("gradcheck", "MODEL", "check every gradient of a network against finite differences"),
    ("trace", "", "every number of a small network, forward and backward"),
    ("import", "FILE", "make a model folder of published weights"),
    ("export", "MODEL", "write weights as safetensors, under the names of others too"),
    ("list", "WHAT", "models, recipes, protocols, datasets, runs or errors"),
    ("exercise", "ACTION [NAME]", "the lectures' exercises: with your numbers, checked, graded"),
    ("explain", "WHAT [LAYER]", "a layer, a stack, a padding or the activations, in numbers"),
    ("demo", "NAME", "a small experiment of the lectures, measured here and now"),
    ("audit", "[GROUP...]", "published numbers beside those of the networks, with errata"),
    ("doctor", "", "check this machine: versions, disk, threads, permissions"),
)

# Those that the first page explains; the others it names.
EVERYDAY = ("check", "train", "resume", "eval", "predict", "report", "show", "list", "doctor")


# What to try where an error does not say it; by the letter of its code.
NEXT = {
    "U": "convworks {verb} --help-all",
    "D": "convworks {verb} --help",
    "A": "convworks list runs",
    "R": "convworks doctor",
    "N": "a smaller --lr",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (0, 1, 2, 3, 4, 5, 6, 75 or 130)."""
    from convworks.cli.console import Console

    spin_briefly()
    words = list(sys.argv[1:] if argv is None else argv)
    flags = words[: words.index("--")] if "--" in words else words
    console = Console(json_output="--json" in flags, quiet="--quiet" in flags, verbose="--verbose" in flags)
    status = _guarded(words, console)
    if console.failure is not None and status == EXIT_OK:
        problem = ConvworksError("R590", f"the answer could not be written: {console.failure.strerror}")
        console.error(problem)
        status = problem.exit_status
    return status


def _guarded(words: Sequence[str], console: Console) -> int:
    """Every way in which a command can end, as an exit status."""
    try:
        return _dispatch(words, console)
    except KeyboardInterrupt:
        console.say("Stopped.")
        return EXIT_HARD_INTERRUPT
    except Exception as problem:
        known = _for_the_user(problem)
        if known is None:
            return _crashed(problem, words, console)
        if not known.try_:
            verb = words[0] if any(words[0] == name for name, _, _ in VERBS) else ""
            known.try_ = " ".join(NEXT[known.code[0]].format(verb=verb).split())
        console.error(known)
        return known.exit_status


def _for_the_user(problem: Exception) -> ConvworksError | None:
    """The error to print where the user can act on it; None for a fault of ours."""
    if isinstance(problem, ConvworksError):
        return problem
    if isinstance(problem, MemoryError):
        return ConvworksError("R592", "there is not enough memory", try_="a smaller --batch or --size")
    if isinstance(problem, OSError) and problem.filename is not None and problem.strerror:
        return ConvworksError("R591", f"{problem.strerror}: {problem.filename}")
    return None


def _dispatch(words: Sequence[str], console: Console) -> int:
    if not words or words[0] in ("-h", "--help", "--help-all"):
        from convworks.cli.help import top_page

        everyday = () if words[:1] == ["--help-all"] else EVERYDAY
        return _print(top_page(VERBS, everyday=everyday), console)
    if words[0] == "--version":
        from convworks.cli.crash import version

        return _print([f"convworks {version()}"], console)
    verb = find_verb(words)
    asked = words[1 : words.index("--")] if "--" in words else words[1:]
    if any(word in ("-h", "--help", "--help-all") for word in asked):
        from convworks.cli.help import full_page, short_page

        page = full_page if "--help-all" in asked else short_page
        return _print(page(verb, summary(verb.name)), console)
    from convworks.cli.parse import parse

    args = parse(verb, words[1:])
    console.json_output, console.quiet, console.verbose = args.json, args.quiet, args.verbose
    return verb.run(args, console)


def find_verb(words: Sequence[str]) -> Verb:
    """The verb of a command, its module freshly imported. Raises U001."""
    names = [name for name, _, _ in VERBS]
    if words[0] in names:
        verb: Verb = import_module(f"convworks.cli.{module_of(words[0])}").VERB
        return verb
    raise _unknown_verb(words, names)


def module_of(verb: str) -> str:
    """The file of a verb: compare-models is in compare_models.py, and import in import_.py."""
    name = verb.replace("-", "_")
    return f"{name}_" if iskeyword(name) else name


def _unknown_verb(words: Sequence[str], names: Sequence[str]) -> ConvworksError:
    from pathlib import Path

    from convworks.cli.parse import command

    first = words[0]
    at = next((i for i, word in enumerate(words) if word in names), None)
    if first.startswith("-") and at is not None:
        right = command(words[at], *words[:at], *words[at + 1 :])
        return ConvworksError("U001", f"the verb comes first, before {first}", try_=right)
    near = closest(first, names)
    if near:
        right = command(near, *words[1:])
        return ConvworksError("U001", f"unknown verb '{first}'      did you mean  {near}", try_=right)
    if Path(first).exists():
        right = command("train", *words)
        return ConvworksError("U001", f"'{first}' is no verb; a command begins with one", try_=right)
    return ConvworksError(
        "U001", f"unknown verb '{first}'", where=f"verbs: {', '.join(names)}", try_="convworks --help"
    )


def summary(name: str) -> str:
    return next(text for verb, _, text in VERBS if verb == name)


def _print(lines: Sequence[str], console: Console) -> int:
    console.json_output = False
    console.answer("\n".join(lines))
    return EXIT_OK


def _crashed(problem: Exception, words: Sequence[str], console: Console) -> int:
    """Exit 1: the fault is ours. The traceback goes to a file, to the screen only with --verbose."""
    import traceback

    from convworks.cli.crash import write_crash_file

    path = write_crash_file(problem, words)
    first = (str(problem).splitlines() or [""])[0][:200]
    console.clear()
    console.warn(f"this is a fault of convworks, not of yours: {type(problem).__name__}: {first}")
    if path is not None:
        console.warn(f"the details are in {path}; please report them")
    if console.verbose:
        console.warn("".join(traceback.format_exception(problem)))
    return EXIT_BUG
