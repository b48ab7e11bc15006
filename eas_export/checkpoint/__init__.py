"""LOAD: one reader per file format, called by the families' `load` (hugging_face.py chooses one by suffix), and renaming that proves that
nothing is missing. Everything is lazy: nothing here holds a model in memory."""
