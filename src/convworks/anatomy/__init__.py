"""The anatomy of any network: layers, shapes, parameters, cost, memory, receptive fields, pictures."""

from convworks.anatomy.design import Design as Design
from convworks.anatomy.design import design_receptive_field as design_receptive_field
from convworks.anatomy.design import field_of as field_of
from convworks.anatomy.diagram import Drawing as Drawing
from convworks.anatomy.diagram import diagram as diagram
from convworks.anatomy.measured_field import measured_field as measured_field
from convworks.anatomy.measured_field import measured_fields as measured_fields
from convworks.anatomy.measured_field import predicted as predicted
from convworks.anatomy.memory import Memory as Memory
from convworks.anatomy.memory import dense_share as dense_share
from convworks.anatomy.memory import memory as memory
from convworks.anatomy.table import Columns as Columns
from convworks.anatomy.table import format_csv as format_csv
from convworks.anatomy.table import format_markdown as format_markdown
from convworks.anatomy.table import format_table as format_table
from convworks.anatomy.table import summary as summary
from convworks.anatomy.table import to_records as to_records
from convworks.anatomy.trace import Graph as Graph
from convworks.anatomy.trace import Row as Row
from convworks.anatomy.trace import Totals as Totals
from convworks.anatomy.trace import stages as stages
from convworks.anatomy.trace import totals as totals
from convworks.anatomy.trace import trace as trace
from convworks.anatomy.trace import trace_graph as trace_graph
