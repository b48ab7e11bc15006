"""Limits of a bundle's inputs."""

from pydantic import Field, PositiveInt, model_validator

from .record import Record


class Limits(Record):
    """The largest inputs a bundle takes.

    max_batch   rows of a batch
    max_images  images per prompt
    max_prompt  tokens of a prompt
    max_tokens  tokens of a prompt and its answer together: slots of the KV cache, and length of the RoPE tables
    """

    max_batch: PositiveInt = 1
    max_images: PositiveInt = 1
    max_prompt: PositiveInt = 1024
    max_tokens: PositiveInt = Field(default=2048, le=1 << 17)

    @model_validator(mode="after")
    def _prompt_fits(self):
        if self.max_prompt >= self.max_tokens:
            raise ValueError(
                f"max_prompt {self.max_prompt} leaves no room for an answer in max_tokens {self.max_tokens}: raise max_tokens, or lower max_prompt"
            )
        return self
