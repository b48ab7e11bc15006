"""ANSWER: run text and arrays through any runtime's graphs."""
