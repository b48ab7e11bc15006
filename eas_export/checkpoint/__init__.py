"""LOAD: readers by file format, renaming with proof of completeness. Everything is lazy: nothing here holds a model in memory."""
