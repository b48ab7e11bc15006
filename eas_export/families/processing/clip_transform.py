"""The image transform that METER was trained with: the published code calls it "clip".

An image is opened as RGBA, its shorter side resized, its centre cut out, and its alpha dropped in the end: what is transparent gets
darker, as in training.
"""

from ...checkpoint.hf_clip import Preprocessing
from ...core.configs.cross_encoder import CrossEncoderConfig
from ...core.configs.vit import ImageConfig
from ...core.errors import UserError

_CLIP = Preprocessing()
# CrossEncoderConfig.image_transform -> how an image becomes pixel values
TRANSFORMS = {
    "clip": ImageConfig(square="crop-to-even", mean=_CLIP.image_mean, std=_CLIP.image_std, mode="RGBA"),
}


def transform_of(config: CrossEncoderConfig) -> ImageConfig:
    """Raises UserError for a transform that is not one of ours."""
    if config.image_transform not in TRANSFORMS:
        what = f"the model was trained with the image transform {config.image_transform!r}: only {', '.join(TRANSFORMS)} is supported"
        raise UserError(what, where="images", fix="give pixels that were made in its way: --inputs X.npz")
    return TRANSFORMS[config.image_transform]
