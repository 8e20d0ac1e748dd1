"""The table of settings, by the name that it is printed by: `python -m vigiloconn.schema [FILE]`."""

import sys

from vigiloconn.settings.schema import SECTIONS, main, settings_table, spellings

__all__ = ["SECTIONS", "main", "settings_table", "spellings"]

if __name__ == "__main__":
    main(sys.argv[1:])
