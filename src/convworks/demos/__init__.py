"""Small real experiments of the lectures, each a table of measured numbers beside what the lecture says."""

from convworks.demos.registry import DEMOS as DEMOS
from convworks.demos.registry import Demo as Demo
from convworks.demos.registry import demo as demo
