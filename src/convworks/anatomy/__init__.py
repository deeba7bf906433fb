"""The anatomy of any network: layers, shapes, parameters and multiply-adds."""

from convworks.anatomy.table import format_markdown as format_markdown
from convworks.anatomy.table import format_table as format_table
from convworks.anatomy.table import summary as summary
from convworks.anatomy.table import to_records as to_records
from convworks.anatomy.trace import Row as Row
from convworks.anatomy.trace import Totals as Totals
from convworks.anatomy.trace import stages as stages
from convworks.anatomy.trace import totals as totals
from convworks.anatomy.trace import trace as trace
