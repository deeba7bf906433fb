"""The lectures' exercises with their own numbers or with others by seed, answer "
"keys found by running, grading."""

from convworks.exercises.grade import PROBLEM_SETS as PROBLEM_SETS
from convworks.exercises.grade import grade as grade
from convworks.exercises.registry import Exercise as Exercise
from convworks.exercises.registry import exercise as exercise
from convworks.exercises.registry import names as names
from convworks.exercises.registry import sheet as sheet
from convworks.exercises.registry import sheet_markdown as sheet_markdown
