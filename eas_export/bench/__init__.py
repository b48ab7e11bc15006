"""FAST? The time and memory that a bundle takes, against its baselines and against the hardware's limit.

run.py does it in this order:

    settings.py          the workload: how long prompts and answers are, how many rows, how many rounds
    baselines.py         what the bundle is compared with; decoder.py and cross_encoder.py hold what differs by kind of network
    baseline_bundles.py  makes the bundles that baselines run; systems.py those of the systems that EAS is compared with
    child_process.py     starts a process for each baseline, so that none shares threads, memory or crashes with another; inside,
                         worker.py answers, runners.py opens the bundle, and stages.py lists the parts that can be timed
                         (published.py and genai.py open it as the published code and onnxruntime-genai would)
    schedule.py          times each part in rounds: in each round every baseline runs one trial (timing.py), in a random order
    summary.py           compares within rounds, and with the machine's limit (roofline.py, and peak.py, which is timed beside)
    report.py            the form of the result
"""
