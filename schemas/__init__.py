"""What Reelmill's data looks like: ids, records, Arrow tables, tag specs and the manifest file. Standard library and pyarrow only."""
