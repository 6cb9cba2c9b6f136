"""A vision transformer for 32-pixel images."""

from torch import nn


def small_vit() -> nn.Module:
    """timm's VisionTransformer at DeiT-Ti's width (arXiv 2012.12877: 192, 3 heads) and half its depth.

    Patches of 4 pixels, so 64 of an image of 32. Maps (batch, 3, 32, 32) to (batch, 192), the mean over
    the patches.
    """
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32,
        patch_size=4,
        embed_dim=192,
        depth=6,
        num_heads=3,
        num_classes=0,
        global_pool="avg",
    )
