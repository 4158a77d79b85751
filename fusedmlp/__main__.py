"""`python -m fusedmlp` is the command `fusedmlp`."""

import sys

from fusedmlp.model.cli import main

if __name__ == "__main__":
    sys.exit(main())
