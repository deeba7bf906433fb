"""Published numbers beside computed ones: tables of lectures and papers as data, and what the networks say.

`convworks audit` prints it. Every cell has the printed text, where it stands, and a function that computes it
from the network itself; the verdict on the pair is computed too (`ledger.cell`), and errata are explained
(`ledger.errata`).
"""

from convworks.ledger.cell import Cell as Cell
from convworks.ledger.cell import judge as judge
from convworks.ledger.errata import ERRATA as ERRATA
from convworks.ledger.findings import GROUPS as GROUPS
from convworks.ledger.findings import Audit as Audit
from convworks.ledger.findings import Finding as Finding
from convworks.ledger.findings import audit as audit
from convworks.ledger.sheet import Sheet as Sheet
