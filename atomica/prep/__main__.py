"""`python -m atomica.prep` is `atomica-prep`."""

import sys

from atomica.prep.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
