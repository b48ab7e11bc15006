"""FAST? What a bundle takes of time and memory, against what would be run otherwise and against the hardware's limit.

contestants.py says who runs; variants.py makes the bundles they run, schedule.py lets them take turns, each in a process of its own
(worker.py), summary.py makes a report of their seconds, and report.py is its form.
"""
