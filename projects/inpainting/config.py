"""Configuration of inpainting: ``MODEL.INPAINTING``, and the holes of training and test pictures in ``INPUT.HOLES``."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.INPAINTING`` and ``INPUT.HOLES`` to ``cfg``."""
    cfg.MODEL.INPAINTING = CfgNode()
    cfg.MODEL.INPAINTING.HOLE_VALUE = []  # of the generator's input in the hole, in pixel values; []: PIXEL_MEAN
    # How the two networks take turns in a step: "alternating" changes the generator first, and the discriminator judges
    # what it paints then; in "joint" steps both see the weights before.
    cfg.MODEL.INPAINTING.TRAINING = "alternating"  # or "joint"
    # Of both networks where they have one: "BN", in several processes "SyncBN" (on CPUs "naiveSyncBN"), with which they
    # learn what one process would; "" for none.
    cfg.MODEL.INPAINTING.NORM = "BN"  # a name of the host's norms
    cfg.MODEL.INPAINTING.ADVERSARY_AFTER = 0  # iterations that the generator first learns without a discriminator

    # Judged beside L1, PSNR and SSIM: "FID", "LPIPS". They need densekit[inpainting] and download weights.
    cfg.MODEL.INPAINTING.DISTANCES = []  # none

    cfg.MODEL.INPAINTING.GENERATOR = CfgNode()
    cfg.MODEL.INPAINTING.GENERATOR.NAME = "build_global_local_generator"  # or "build_partial_unet_generator"
    # A name of densekit.layers.UPSAMPLERS; of Global&Local, "deconv" stands for its own deconvolutions of 4x4.
    cfg.MODEL.INPAINTING.GENERATOR.UPSAMPLER = "deconv"  # or "carafe", "nearest" ...
    # Channels, []: as published. Global&Local: at the full size, a half, a quarter, and before the last layer; the
    # U-Net: of each level of the encoder.
    cfg.MODEL.INPAINTING.GENERATOR.WIDTHS = []  # as published
    # The last step: "tanh" for PIXEL_MEAN and PIXEL_STD 127.5, "sigmoid" for 0 and 255, "none" for any.
    cfg.MODEL.INPAINTING.GENERATOR.OUTPUT = "tanh"  # as the CARAFE paper's values are in -1..1
    cfg.MODEL.INPAINTING.GENERATOR.RESCALE = True  # U-Net: the factor of the window; False for weights without it
    # U-Net: a pixel that CARAFE makes is valid where so much of its kernel's weight is on valid pixels.
    cfg.MODEL.INPAINTING.GENERATOR.MASK_THRESHOLD = 0.5  # above 0 and at most 1
    cfg.MODEL.INPAINTING.GENERATOR.FREEZE_ENCODER_NORM = False  # U-Net: BatchNorm of the encoder keeps its statistics

    cfg.MODEL.INPAINTING.DISCRIMINATOR = CfgNode()
    # or "build_global_local_discriminator"; "": none, and no adversarial loss
    cfg.MODEL.INPAINTING.DISCRIMINATOR.NAME = "build_patch_discriminator"  # of the painted region
    cfg.MODEL.INPAINTING.DISCRIMINATOR.WIDTHS = []  # channels of its convolutions; []: as published
    cfg.MODEL.INPAINTING.DISCRIMINATOR.SPECTRAL_NORM = True  # of patches: weights divided by their spectral norm
    # Of Global&Local's: height and width of the pictures, side of the square around the hole, channels of the
    # convolutions on it ([]: as published), and length of the vectors.
    cfg.MODEL.INPAINTING.DISCRIMINATOR.SIZE = (256, 256)  # as INPUT.CROP.SIZE
    cfg.MODEL.INPAINTING.DISCRIMINATOR.LOCAL_SIZE = 128  # a multiple of 32
    cfg.MODEL.INPAINTING.DISCRIMINATOR.LOCAL_WIDTHS = []  # as published: 64, 128, 256, 512, 512
    cfg.MODEL.INPAINTING.DISCRIMINATOR.FEATURES = 1024  # of either tower
    _add_losses(cfg)
    _add_holes(cfg)


def _add_losses(cfg: CfgNode) -> None:
    # Weights of the losses; 0 leaves a term out. All are means over all elements.
    cfg.MODEL.INPAINTING.LOSS = CfgNode()
    cfg.MODEL.INPAINTING.LOSS.L1 = 1.0  # the whole picture
    cfg.MODEL.INPAINTING.LOSS.HOLE = 0.0  # lambda 6 of partial convolutions
    cfg.MODEL.INPAINTING.LOSS.VALID = 0.0  # 1
    cfg.MODEL.INPAINTING.LOSS.MSE = 0.0  # squared, in the hole; of Global&Local's authors
    cfg.MODEL.INPAINTING.LOSS.PERCEPTUAL = 0.0  # 0.05, needs VGG_WEIGHTS
    cfg.MODEL.INPAINTING.LOSS.STYLE = 0.0  # 120, needs VGG_WEIGHTS
    cfg.MODEL.INPAINTING.LOSS.TV = 0.0  # 0.1, of the composite
    cfg.MODEL.INPAINTING.LOSS.ADVERSARIAL = 0.01  # of the generator; the discriminator's own has a weight of 1
    cfg.MODEL.INPAINTING.LOSS.ADVERSARIAL_KIND = "hinge"  # or "vanilla", the binary cross-entropy
    # Weights of torchvision's vgg16, as MODEL.WEIGHTS names files; "": perceptual and style losses are left out.
    cfg.MODEL.INPAINTING.LOSS.VGG_WEIGHTS = ""


def _add_holes(cfg: CfgNode) -> None:
    cfg.INPUT.HOLES = CfgNode()
    # Drawn at random among these: "strokes" (free-form), "rectangles", "blobs" (irregular).
    cfg.INPUT.HOLES.KINDS = ("strokes",)
    cfg.INPUT.HOLES.AREA = (0.05, 0.5)  # least and largest share of the picture; drawn evenly between them
    # Folder of mask files that are used instead, in training one at random, in tests by their order; "": none.
    cfg.INPUT.HOLES.FOLDER = ""
    cfg.INPUT.HOLES.TEST_FOLDER = ""  # the same for tests; a mask named like a picture is that picture's
    # What of a mask file is the hole: "white" (values above 127, as 255 of 0 and 255 or 1 of 0 and 1) or "black".
    cfg.INPUT.HOLES.POLARITY = "white"


def shrink(cfg: CfgNode) -> None:
    """Makes a merged configuration small enough for a step in a test."""
    node = cfg.MODEL.INPAINTING
    unet = node.GENERATOR.NAME == "build_partial_unet_generator"
    node.GENERATOR.WIDTHS = [4, 6, 8] if unet else [4, 6, 8, 4]
    node.DISCRIMINATOR.WIDTHS, node.DISCRIMINATOR.LOCAL_WIDTHS = [4, 6, 8], [4, 6]
    node.DISCRIMINATOR.SIZE, node.DISCRIMINATOR.LOCAL_SIZE, node.DISCRIMINATOR.FEATURES = (96, 128), 32, 8
    node.LOSS.VGG_WEIGHTS = ""
    cfg.MODEL.CARAFE.COMPRESSED_CHANNELS = min(cfg.MODEL.CARAFE.COMPRESSED_CHANNELS, 4)
