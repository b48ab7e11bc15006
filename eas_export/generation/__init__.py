"""ANSWER: text and arrays through any runtime's graphs."""
