"""LOAD: a reader per file format, called by the families' `load` (hugging_face.py chooses one by suffix), and renaming with proof of
completeness. Everything is lazy: nothing here holds a model in memory."""
