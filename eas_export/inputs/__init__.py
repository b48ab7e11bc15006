"""What users hand in, as Prompts: token ids and pixels in npz files, questions in JSON-lines files or on the command line."""
