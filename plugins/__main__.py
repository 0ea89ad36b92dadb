"""Print where the files for C++ programs are.

python -m keygraph.plugins include     # the headers
python -m keygraph.plugins lib         # the libraries
python -m keygraph.plugins cmake       # for cmake -Dkeygraph_DIR=
python -m keygraph.plugins pkgconfig   # for PKG_CONFIG_PATH
"""

from __future__ import annotations

import sys

from ..errors import InputError
from . import DEVELOPMENT_FOLDERS, development_folder


def main(arguments: list[str]) -> str:
    """Return the folder that the command line names.

    Raises
    ------
    SystemExit
        It names none, or keygraph was installed without the files; the message says so.
    """
    if len(arguments) != 1 or arguments[0] not in DEVELOPMENT_FOLDERS:
        raise SystemExit(f"usage: python -m keygraph.plugins {{{'|'.join(DEVELOPMENT_FOLDERS)}}}")
    try:
        return str(development_folder(arguments[0]))
    except InputError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    print(main(sys.argv[1:]))
