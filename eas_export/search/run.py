"""Run a search: training, events of the bandit, and their report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..core.errors import UserError
from ..core.precision import PRECISIONS
from ..core.progress import Progress
from ..families.contract import Trainable
from ..system.signals import signals_wait
from .examples import Examples, batch_at
from .folder import save_report
from .report import Loss, SearchOptions, SearchReport
from .subnetwork import Batch, Supernet, make_batch
from .tune import Trainer, finite

STATE = "state.safetensors"
SAVED_EVERY = 180  # seconds
NOTED_EVERY = 50
MOST_MEASURED = 256  # held-out questions whose losses are reported


def split(questions: int, options: SearchOptions) -> tuple[list[int], list[int]]:
    """Split the question numbers into held-out and training ones. Raises UserError if none are left to train on."""
    order = batch_at(0, questions, questions, options.seed)
    held_out = max(1, round(options.held_out * questions))
    if held_out >= questions:
        what = f"{held_out} of {questions} questions held out leave none to train on"
        fix = "give more questions" + (", or a smaller --held-out" if held_out > 1 else "")
        raise UserError(what, where="--data", fix=fix)
    return order[:held_out], order[held_out:]


class Run:
    """A search in progress; `report` is its report so far. It resumes from the state saved in `out`, and repeats what the report has
    beyond that."""

    def __init__(
        self,
        report: SearchReport,
        trainable: Trainable,
        examples: Examples,
        device: torch.device,
        out: Path,
        progress: Progress,
    ):
        opts = report.options
        self.options, self.examples, self.out, self.progress = opts, examples, out, progress
        self.supernet = Supernet(trainable.checkpoint, PRECISIONS[opts.precision], examples.limits, device)
        self.trainer = Trainer(trainable.adapters, opts.learning_rate, opts.all_steps)
        if (out / STATE).exists():
            self.trainer.load(out / STATE)
        self.report = report.until(self.trainer.done)
        self.whole = self.saved = self.trainer.done  # steps in both the tensors and the report, and on disk
        self.before, self.clock = report.seconds, time.monotonic()
        self.saved_at = self.clock
        self.held_out, self.train = split(len(examples), opts)

    @contextmanager
    def saved_when_interrupted(self) -> Iterator[None]:
        """Where the block is interrupted, save what is trained, and note for the user what is in which file."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            if self.whole == self.trainer.done:
                self._save()
            done, steps = self.saved, self.options.all_steps
            state = f"{done} of {steps} steps are saved in {self.out / STATE}" if done else "no step was finished"
            error.add_note(f"run the same command again: {state}")
            raise

    def explore(self) -> None:
        """Train with random skips and let the bandit evaluate; then choose the skips."""
        if self.report.held_out.untrained is None:
            self._measure("untrained", ())
        opts = self.options
        if opts.skip is not None:
            return
        left = max(0, opts.search_steps - self.trainer.done)  # earlier steps would distort the estimated time
        with self.progress.stage("searching", left, "steps") as done:
            for step in range(self.trainer.done, opts.search_steps):
                is_event = step >= opts.warm_up and (step - opts.warm_up) % opts.every == 0
                self._step(step, self.report.bandit.draw(step, 1)[0], "searching", is_event)
                done(1)
        if self.report.skipped is None:
            self._know(skipped=self.report.bandit.chosen)

    def tune(self) -> None:
        """Train with the chosen skips."""
        opts, skipped = self.options, self.report.skipped
        if self.report.held_out.chosen is None:
            self._measure("chosen", skipped)
        with self.progress.stage("tuning", opts.all_steps - self.trainer.done, "steps") as done:
            for step in range(self.trainer.done, opts.all_steps):
                self._step(step, skipped, "tuning")
                done(1)
        self._measure("tuned", skipped)

    def end(self) -> SearchReport:
        """Finish, after the checkpoint is written: remove the saved state."""
        self._know(ended=True)
        save_report(self.out, self.report)
        (self.out / STATE).unlink(missing_ok=True)
        return self.report

    def _step(self, step: int, skipped: tuple[int, ...], title: str, is_event: bool = False) -> None:
        """A training step. From its first changed parameter on, an interruption waits: what is saved is a whole step with its event."""
        loss = self.trainer.backward(self.supernet.loss(skipped, self._batch(self.train, step)))
        with signals_wait():
            self.trainer.update()
            if is_event:
                self._event(step)
            self._keep(step, loss, title)

    def _event(self, step: int) -> None:
        opts, bandit = self.options, self.report.bandit
        batch = self._batch(self.held_out, len(bandit.events))
        candidates = bandit.draw(step, opts.candidates)
        losses = [self._loss(skipped, batch) for skipped in candidates]
        self._know(bandit=bandit.learn(step, candidates, losses))

    def _keep(self, step: int, loss: float, title: str) -> None:
        """Report the loss every NOTED_EVERY steps, and save report and state every SAVED_EVERY seconds."""
        if (step + 1) % NOTED_EVERY == 0:
            self._know(losses=(*self.report.losses, Loss(step=step, loss=loss)))
            bandit = self.report.bandit
            known = {"entropy": bandit.entropy, "most redundant": list(bandit.ranking[: bandit.count])}
            self.progress.note(title, {"step": step + 1, "loss": loss} | (known if bandit.events else {}))
        self.whole = step + 1
        is_last = self.whole in (self.options.search_steps, self.options.all_steps)
        if is_last or time.monotonic() - self.saved_at >= SAVED_EVERY:
            self._save()

    def _save(self) -> None:
        self._know()
        save_report(self.out, self.report)
        self.trainer.save(self.out / STATE)
        self.saved, self.saved_at = self.trainer.done, time.monotonic()

    def _measure(self, name: str, skipped: tuple[int, ...]) -> None:
        """Report the loss over held-out questions."""
        rows, size = self.held_out[:MOST_MEASURED], self.options.batch
        total, tokens = 0.0, 0
        for begin in range(0, len(rows), size):
            batch = make_batch([self.examples[i] for i in rows[begin : begin + size]], self.supernet.prefix)
            total += self._loss(skipped, batch) * len(batch.targets)
            tokens += len(batch.targets)
        self._know(held_out=self.report.held_out.model_copy(update={name: total / tokens}))

    @torch.no_grad()
    def _loss(self, skipped: tuple[int, ...], batch: Batch) -> float:
        return finite(self.supernet.loss(skipped, batch), self.trainer.done)

    def _batch(self, rows: list[int], step: int) -> Batch:
        chosen = batch_at(step, len(rows), self.options.batch, self.options.seed)
        return make_batch([self.examples[rows[i]] for i in chosen], self.supernet.prefix)

    def _know(self, **more: object) -> None:
        seconds = self.before + time.monotonic() - self.clock
        self.report = self.report.model_copy(update=more | {"seconds": round(seconds, 1)})
