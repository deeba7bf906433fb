"""`convworks exercise ACTION`: the lectures' exercises, shown, checked and graded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from convworks.cli.console import Console
from convworks.cli.flags import SEED_LIMIT, OutputFlags, Shown, Verb
from convworks.cli.parse import command
from convworks.cli.text import count, folder, table
from convworks.errors import EXIT_OK, ConvworksError, closest

Action = Literal["list", "show", "check", "new", "grade", "template"]
USES = {
    "list": "convworks exercise list",
    "show": "convworks exercise show NAME [--seed N] [--answer]",
    "check": 'convworks exercise check NAME [--seed N] --answer "32x32x10 760"',
    "new": "convworks exercise new --seed N [--count N] [--answer] [--out sheet.md]",
    "grade": "convworks exercise grade convolution|max-pool student.py",
    "template": "convworks exercise template convolution|max-pool --out student.py",
}


@dataclass(frozen=True, kw_only=True)
class ExerciseFlags(OutputFlags):
    """What to do, and with which exercise."""

    action: Annotated[Action, Shown("ACTION", "list", positional=True)]
    """list, show, check, new, grade or template"""
    words: Annotated[tuple[str, ...], Shown("NAME", "conv-volume", positional=True)] = ()
    """exercise or problem set; then your answer or file"""
    seed: Annotated[int | None, Shown("N", "1"), Ge(0), Lt(SEED_LIMIT)] = None
    """a variant with other numbers [the lecture's own]"""
    answer: bool = False
    """show and new: with answers; check: yours follow"""
    count: Annotated[int, Shown("N", "6"), Ge(1), Le(100)] = 6
    """exercises of a new sheet"""
    out: Annotated[Path | None, Shown("FILE", "sheet.md")] = None
    """file for a sheet or a template; must not exist"""
    limit: Annotated[float, Shown("S", "10"), Gt(0), Le(3600)] = 10.0
    """seconds for each function that is graded"""


def run(args: ExerciseFlags, console: Console) -> int:
    """Do one action; raises U145 (exit status 2) where an answer or a graded file is not all right."""
    return ACTIONS[args.action](args, console)


def _subjects(args: ExerciseFlags, *wanted: str) -> tuple[str, ...]:
    """The words after the action, as many as wanted. Raises U004 and U005."""
    if len(args.words) < len(wanted):
        missing = wanted[len(args.words)]
        what = f"exercise {args.action} needs {missing}"
        raise ConvworksError("U004", what, where=USES[args.action], try_="convworks exercise list")
    if len(args.words) > len(wanted):
        what = f"unexpected argument '{args.words[len(wanted)]}'"
        known = ("exercise", args.action, *args.words[: len(wanted)])
        raise ConvworksError("U005", what, where=USES[args.action], try_=command(*known))
    return args.words


def _list(args: ExerciseFlags, console: Console) -> int:
    from convworks import exercises

    _subjects(args)
    rows = [
        {"name": e.name, "title": e.title, "source": e.source}
        for e in map(exercises.exercise, exercises.names())
    ]
    sets = [
        {"name": name, "title": row.title, "source": row.source, "functions": row.functions}
        for name, row in exercises.PROBLEM_SETS.items()
    ]
    console.document({"exercises": rows, "problem_sets": sets})
    lines = [("exercise", "what is asked"), *((row["name"], row["title"]) for row in rows)]
    for line in table(lines, width=console.answer_width):
        console.answer(line)
    console.answer()
    for line in table(
        [("problem set", "what is graded"), *((str(s["name"]), str(s["title"])) for s in sets)]
    ):
        console.answer(line)
    console.answer()
    console.answer("next       convworks exercise show conv-volume --seed 1")
    return EXIT_OK


def _show(args: ExerciseFlags, console: Console) -> int:
    from convworks import exercises

    (name,) = _subjects(args, "the NAME of an exercise")
    if name in exercises.PROBLEM_SETS:
        return _show_problem_set(name, console)
    found = exercises.exercise(name, seed=args.seed)
    document: dict[str, Any] = _document(found)
    console.answer(
        f"{found.name}, {'the lecture' if args.seed is None else f'seed {args.seed}'}: {found.title}"
    )
    console.answer(found.source)
    console.answer()
    _paragraph(found.statement, console)
    console.answer()
    if args.answer:
        parts = found.answers()
        document |= {"answers": {part.name: part.value for part in parts}, "solution": found.solution}
        rows = [(str(i), part.name, part.shown()) for i, part in enumerate(parts, start=1)]
        for line in table(rows):
            console.answer(line)
        console.answer()
        _paragraph(found.solution, console)
    else:
        for number, asked in enumerate(found.asked, start=1):
            console.answer(f"{number}. {asked}: ?")
        console.answer()
        console.answer(f'next       {found.command.replace("show", "check")} --answer "..."')
    console.document(document)
    return EXIT_OK


def _document(found: Any) -> dict[str, Any]:
    return {
        "name": found.name,
        "seed": found.seed,
        "title": found.title,
        "source": found.source,
        "statement": found.statement,
        "asked": found.asked,
    }


def _show_problem_set(name: str, console: Console) -> int:
    from convworks import exercises
    from convworks.exercises.grade import template

    row = exercises.PROBLEM_SETS[name]
    console.document({"name": name, "title": row.title, "source": row.source, "template": template(name)})
    console.answer(f"{name}: {row.title}")
    console.answer(row.source)
    console.answer()
    for line in template(name).split('"""')[1].rstrip().split("\n"):
        console.answer(line)
    console.answer()
    console.answer(f"next       convworks exercise template {name} --out student.py")
    return EXIT_OK


def _paragraph(text: str, console: Console) -> None:
    import textwrap

    for line in text.split("\n"):
        for part in [line] if line.startswith("  ") else textwrap.wrap(line, max(60, console.width)) or [""]:
            console.answer(part)


def _check(args: ExerciseFlags, console: Console) -> int:
    from convworks import exercises

    if not args.words:
        _subjects(args, "the NAME of an exercise and your answers")
    name, *answers = args.words
    found = exercises.exercise(name, seed=args.seed)
    if not answers:
        what = f"exercise check needs your answers: {', '.join(found.asked)}"
        raise ConvworksError("U004", what, where=USES["check"], try_=found.command)
    marked = found.check(" ".join(answers))
    right = sum(each.right for each in marked)
    rows = [("right" if m.right else "wrong", m.name, m.given, m.remark) for m in marked]
    for line in table(rows):
        console.answer(line)
    console.document({"name": name, "seed": args.seed, "right": right, "of": len(marked), "parts": marked})
    if right < len(marked):
        what = f"{right} of {count(len(marked), 'answer')} right"
        raise ConvworksError("U145", what, try_=f"{found.command} --answer")
    console.answer("all right")
    return EXIT_OK


def _new(args: ExerciseFlags, console: Console) -> int:
    from convworks import exercises

    _subjects(args)
    if args.seed is None:
        raise ConvworksError(
            "U004", "exercise new needs --seed", where=USES["new"], try_="convworks exercise new --seed 1"
        )
    chosen = exercises.sheet(args.seed, count=args.count)
    title = f"Exercises, sheet {args.seed}"
    text = exercises.sheet_markdown(chosen, title=title, answers=args.answer)
    if args.out is not None:
        _write(args.out, text, "exercise", "new", "--seed", str(args.seed))
    documents = [
        _document(each)
        | (
            {"answers": {p.name: p.value for p in each.answers()}, "solution": each.solution}
            if args.answer
            else {}
        )
        for each in chosen
    ]
    console.document({"seed": args.seed, "out": args.out, "exercises": documents})
    if args.out is not None:
        console.answer(f"wrote {folder(args.out)}: {count(len(chosen), 'exercise')}")
    else:
        for line in text.rstrip().split("\n"):
            console.answer(line)
    return EXIT_OK


def _write(path: Path, text: str, *words: str) -> None:
    """A new file of the command `words`. Raises U143 where one is there, R591 without a folder for it."""
    from convworks.durable import write_atomic

    if path.exists():
        other = command(*words, "--out", str(path.with_name(f"{path.stem}-2{path.suffix}")))
        raise ConvworksError("U143", f"{path} is there already", why="nothing is overwritten", try_=other)
    if not path.parent.is_dir():
        raise ConvworksError(
            "R591", f"there is no folder {path.parent}", try_=command(*words, "--out", path.name)
        )
    write_atomic(path, text.encode())


def _template(args: ExerciseFlags, console: Console) -> int:
    from convworks.exercises.grade import template

    (name,) = _subjects(args, "a problem set, convolution or max-pool")
    text = template(name)
    console.document({"name": name, "out": args.out, "text": text})
    if args.out is None:
        for line in text.rstrip().split("\n"):
            console.answer(line)
        return EXIT_OK
    _write(args.out, text, "exercise", "template", name)
    console.answer(f"wrote {folder(args.out)}: fill in its functions")
    console.answer(f"next       {command('exercise', 'grade', name, str(args.out))}")
    return EXIT_OK


def _grade(args: ExerciseFlags, console: Console) -> int:
    from convworks.exercises.grade import PROBLEM_SETS, grade

    if len(args.words) == 1 and args.words[0] not in PROBLEM_SETS and args.words[0].endswith(".py"):
        near = closest(args.words[0], PROBLEM_SETS) or "convolution"
        what = "exercise grade needs the problem set before the file"
        raise ConvworksError(
            "U004", what, where=USES["grade"], try_=command("exercise", "grade", near, args.words[0])
        )
    name, file = _subjects(args, "a problem set, convolution or max-pool", "the file to grade")
    result = grade(name, Path(file), limit=args.limit)
    for function in PROBLEM_SETS[name].functions:
        cases = [case for case in result.cases if case.function == function]
        if len(cases) > 1 and len({(case.status, case.detail) for case in cases}) == 1 and cases[0].detail:
            console.answer(f"{cases[0].status:<8}{function}: all {len(cases)} cases: {cases[0].detail}")
            continue
        for case in cases:
            if case.status != "not run":
                detail = f": {case.detail}" if case.detail else ""
                console.answer(f"{case.status:<8}{function}: {case.label}{detail}")
        if left := sum(case.status == "not run" for case in cases):
            console.answer(f"not run {function}: {count(left, 'case')} after that")
    for note in result.notes:
        console.say(f"note: {note}")
    console.document(
        {
            "problem_set": name,
            "file": file,
            "right": result.right,
            "cases": result.cases,
            "notes": result.notes,
        }
    )
    total = len(result.cases)
    if result.right < total:
        bad = next(case for case in result.cases if case.status != "ok")
        raise ConvworksError(
            "U145",
            f"{result.right} of {count(total, 'case')} right",
            where=f"first: {bad.function}: {bad.label}",
            try_=f"convworks exercise show {name}",
        )
    console.answer(f"all {total} cases right")
    return EXIT_OK


ACTIONS: dict[str, Callable[[ExerciseFlags, Console], int]] = {
    "list": _list,
    "show": _show,
    "check": _check,
    "new": _new,
    "grade": _grade,
    "template": _template,
}

VERB = Verb(
    name="exercise",
    flags=ExerciseFlags,
    main=("seed", "answer", "out", "json"),
    examples=(
        "convworks exercise show conv-volume --seed 1",
        "convworks exercise grade convolution student.py",
    ),
    run=run,
    more=lambda: ["Actions", *(f"  {use}" for use in USES.values())],
)
