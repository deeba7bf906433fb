"""The report of a run: one HTML file that needs nothing but itself, and the same verdict in sentences.

from convworks.report.page import write_report
from convworks.report.text import verdict
"""
